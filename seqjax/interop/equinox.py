"""Weights of Equinox: `eqx.nn.LSTMCell`, `eqx.nn.GRUCell`, `eqx.nn.Linear`, `eqx.nn.Embedding`, …

Equinox is not imported: JAX knows its modules as pytrees.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from seqjax import _checks
from seqjax._types import PyTree
from seqjax.engine.model import Model
from seqjax.interop import _read, _write
from seqjax.interop._format import Format, Layers
from seqjax.interop._layout import Block, Layout
from seqjax.interop._names import named
from seqjax.interop.torch import WITHOUT_TIME, kernels

__all__ = ["into", "read", "write"]


# But for the biases of cells, Equinox has PyTorch's names and shapes.
N_BIAS = Block("bias_n", ("recurrent_bias",), "n")
LAYOUTS = (
    Layout("lstm", (*kernels("ifgo"), Block("bias", ("bias",), "ifgo"))),
    Layout("gru", (*kernels("rzn"), Block("bias", ("bias",), "rzn"), N_BIAS)),
    *WITHOUT_TIME,
)
EQUINOX = Format("Equinox", ".", LAYOUTS)


def read(
    module: Any,
    prefix: str = "",
    *,
    layers: Layers = None,
    kinds: str | Mapping[str, str] | None = None,
    eps: float | None = None,
    convention: Mapping[str, Any] | None = None,
    dtype: Any = None,
) -> tuple[Model, PyTree]:
    """Reads an Equinox module, or several that are fields of one.

    `eqx.nn.LSTMCell`, `eqx.nn.GRUCell`, `eqx.nn.Linear`, `eqx.nn.Embedding`, `eqx.nn.LayerNorm`,
    `eqx.nn.RMSNorm`. A cell that a loop of yours runs backward is read on its own, for
    `sj.bidirectional`.

    Args:
      module: the module, or arrays by the paths of its fields, as `write` returns.
      prefix: where the arrays are: "encoder", or "layers.0" of a list.
      layers: of several modules below the prefix, their names in the order in which they are
        applied, which a module does not tell; functions may stand between them.
      kinds: what the names and shapes leave open: "dense" or "embed", "layer_norm" or "rms_norm" of
        a weight without bias; of one module, or by the names in `layers`.
      eps: of a normalization (Equinox' default: 1e-5), which is not an array of it.
      convention, dtype: as those of `sj.interop.torch.read`.

    Returns:
      (model, params), of memory of their own.

    Raises:
      ValueError, TypeError: see `sj.interop.torch.read`.

    >>> import numpy as np, seqjax as sj
    >>> shapes = {"weight_ih": (12, 3), "weight_hh": (12, 4), "bias": 12, "bias_n": 4}
    >>> arrays = {f"cell.{name}": np.zeros(shape, np.float32) for name, shape in shapes.items()}
    >>> sj.interop.equinox.read(arrays)[0] == sj.gru(3, 4, dtype=np.float32)
    True
    """
    return _read.read(
        EQUINOX,
        module,
        prefix,
        layers=layers,
        kinds=kinds,
        given={"eps": eps},
        convention=convention,
        dtype=dtype,
    )


def into(model: Model, module: Any, prefix: str = "", *, layers: Layers = None) -> PyTree:
    """The params of a model that you made, from an Equinox module.

    See `sj.interop.torch.into`; `module`, `prefix` and `layers` are those of `read`.
    """
    return _write.into(EQUINOX, model, module, prefix, layers=layers)


def write(
    model: Model,
    params: PyTree,
    prefix: str = "",
    *,
    layers: Layers = None,
    module: Any = None,
) -> Any:
    """Writes a model into an Equinox module, the inverse of `read`.

    Args:
      model: the model.
      params: its parameters.
      prefix: where the arrays are in the module.
      layers: paths of the modules, one for each layer of a `stack`; in the place of a layer without
        parameters this layer itself.
      module: the module to be filled; if None, the arrays are returned by the paths of its fields.

    Returns:
      A module like this one with the arrays in the place of its own, all else as it is; or a dict
      of NumPy arrays, in the dtype of the parameters, bit for bit.

    Raises:
      ValueError: Equinox has no such layer, and it says why; or the module has no array of such a
        name and shape.

    >>> import jax, seqjax as sj
    >>> cell = sj.lstm(3, 4)
    >>> arrays = sj.interop.equinox.write(cell, cell.init(jax.random.key(0)), "cell")
    >>> {name: array.shape for name, array in arrays.items()}
    {'cell.weight_ih': (16, 3), 'cell.weight_hh': (16, 4), 'cell.bias': (16,)}
    """
    arrays = _write.write(EQUINOX, model, params, prefix, layers=layers)
    return arrays if module is None else _filled(module, arrays)


def _filled(module: Any, arrays: Mapping[str, Any]) -> Any:
    """The module with other leaves, those of these names."""
    paths = [*named(module, ".")]
    leaves, structure = jax.tree.flatten(module)
    missing = [name for name in arrays if name not in paths]
    if missing or len(paths) != len(leaves):
        expected = f"a module with arrays of the names {', '.join(arrays)}"
        raise ValueError(_checks.mismatch("module", expected, f"one of {', '.join(paths)}"))
    new = [arrays.get(path, leaf) for path, leaf in zip(paths, leaves, strict=True)]
    for path, old, array in zip(paths, leaves, new, strict=True):
        if array is not old:
            _checks.array(f"module.{path}", old, array.shape, array.dtype)
    return jax.tree.unflatten(
        structure, [a if a is b else jnp.array(a) for a, b in zip(new, leaves, strict=True)]
    )
