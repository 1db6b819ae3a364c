"""Weights of PyTorch: `nn.LSTM`, `nn.GRU`, `nn.RNN` and their cells, `nn.Linear`, `nn.Embedding`, …

No function here imports PyTorch but `write`, for the tensors that it makes.
"""

import importlib
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seqjax import _checks
from seqjax._types import PyTree
from seqjax.engine.model import Model
from seqjax.interop import _read, _write
from seqjax.interop._format import Format, Layers, Place
from seqjax.interop._layout import RECURRENT, Block, Layout

__all__ = ["into", "read", "write"]


def kernels(gates: str) -> tuple[Block, Block]:
    return (
        Block("weight_ih", ("kernel",), gates, transposed=True),
        Block("weight_hh", ("recurrent_kernel",), gates, transposed=True),
    )


def _cell(gates: str) -> tuple[Block, ...]:
    return (
        *kernels(gates),
        Block("bias_ih", ("bias",), gates),
        Block("bias_hh", ("recurrent_bias",), gates),
    )


PROJECTION = Block("weight_hr", ("projection",), "", transposed=True)
WEIGHT, BIAS = Block("weight", ("kernel",), "y", transposed=True), Block("bias", ("bias",), "y")
SCALE = Block("weight", ("scale",), "y")
WITHOUT_TIME = (
    Layout("dense", (WEIGHT, BIAS)),
    Layout("embed", (Block("weight", ("kernel",), "y"),)),
    Layout("layer_norm", (SCALE, BIAS), asks=("eps",)),
    Layout("rms_norm", (SCALE,), asks=("eps",)),
)
LAYOUTS = (
    Layout("lstm", _cell("ifgo")),
    Layout("lstm", (*_cell("ifgo"), PROJECTION), options={"projection": True}),
    Layout("gru", _cell("rzn")),
    Layout("rnn", _cell("h"), decides=("activation",)),
    Layout("rnn", _cell("h"), options={"activation": jax.nn.relu}, decides=("activation",)),
    *WITHOUT_TIME,
)


def _split(name: str) -> Place:
    found = re.fullmatch(r"(.*(?:weight|bias)_[ihr]+)_l(\d+)(_reverse)?", name)
    return Place(int(found[2]), bool(found[3]), found[1]) if found else Place(0, False, name)


def _join(kind: str, place: Place, both: bool) -> str:
    if kind not in RECURRENT:
        return place.name
    return f"{place.name}_l{place.layer}{'_reverse' if place.backward else ''}"


TORCH = Format("PyTorch", ".", LAYOUTS, _split, _join, layered=True, merges=("concat",))


def read(
    state_dict: Any,
    prefix: str = "",
    *,
    layers: Layers = None,
    kinds: str | Mapping[str, str] | None = None,
    activation: Callable | None = None,
    eps: float | None = None,
    convention: Mapping[str, Any] | None = None,
    dtype: Any = None,
) -> tuple[Model, PyTree]:
    """Reads a PyTorch module from its state dict: a model of seqjax, and its params.

    `nn.LSTM`, `nn.GRU` and `nn.RNN` with any number of layers, directions, `proj_size`, biases or
    none; their cells; `nn.Linear`, `nn.Embedding`, `nn.LayerNorm`, `nn.RMSNorm`. Sizes and kinds
    are told by the shapes. A module of several layers is a `stack`. Dropout between them is not in
    a state dict: build that model yourself, and fill it by `into`.

    Args:
      state_dict: arrays by name: of PyTorch (which is not imported), NumPy, safetensors, h5py, …
      prefix: where the module is, such as "encoder."; all names that begin so must belong to it.
      layers: of several modules below the prefix, their names in the order in which they are
        applied, which a state dict does not tell; functions may stand between them.
      kinds: what the names and shapes leave open: "dense" or "embed", "layer_norm" or "rms_norm" of
        a weight without bias; of one module, or by the names in `layers`.
      activation: of `nn.RNN`, which does not save it: `jnp.tanh` or `jax.nn.relu`.
      eps: of a normalization, which does not save it (PyTorch's default: 1e-5 of `nn.LayerNorm`).
      convention: what this file does otherwise than PyTorch, as `sj.interop.check` finds out.
      dtype: what everything is cast to; that of the arrays if None, which then is the model's.

    Returns:
      (model, params), of memory of their own.

    Raises:
      ValueError, TypeError: names that are missing, unknown or unused, which it lists; shapes that
        no layer has; what the arrays leave open.

    >>> import numpy as np, seqjax as sj
    >>> shapes = {"weight_ih_l0": (12, 3), "weight_hh_l0": (12, 4), "bias_ih_l0": 12}
    >>> shapes |= {"bias_hh_l0": 12}
    >>> state_dict = {f"encoder.{name}": np.zeros(shape) for name, shape in shapes.items()}
    >>> model, params = sj.interop.torch.read(state_dict, "encoder.", dtype=np.float32)
    >>> model
    gru(3, 4)
    >>> state_dict |= {"head.weight": np.zeros((2, 4)), "head.bias": np.zeros(2)}
    >>> sj.interop.torch.read(state_dict, layers=("encoder", "head"), dtype=np.float32)[0]
    stack(gru(3, 4), dense(4, 2))
    """
    return _read.read(
        TORCH,
        state_dict,
        prefix,
        layers=layers,
        kinds=kinds,
        given={"activation": activation, "eps": eps},
        convention=convention,
        dtype=dtype,
    )


def into(model: Model, state_dict: Any, prefix: str = "", *, layers: Layers = None) -> PyTree:
    """The params of a model that you made, from a PyTorch state dict.

    The model says what a state dict leaves open, so nothing else is asked; it may have dropout, or
    functions, between the layers.

    Args:
      model: any model that `read` could have made.
      state_dict, prefix, layers: those of `read`.

    Returns:
      params of the model; dtypes must be its own.

    Raises:
      ValueError, TypeError: see `read`; or the arrays are not those of such a model.

    >>> import jax.numpy as jnp, numpy as np, seqjax as sj
    >>> arrays = {"0.weight": np.ones((5, 3), np.float32), "2.weight": np.ones((5, 3), np.float32)}
    >>> model = sj.stack(sj.embed(5, 3), sj.dropout(0.1), sj.dense(3, 5, use_bias=False))
    >>> params = sj.interop.torch.into(model, arrays, layers=("0", sj.dropout(0.1), "2"))
    >>> params[2]["kernel"].shape
    (3, 5)
    """
    return _write.into(TORCH, model, state_dict, prefix, layers=layers)


def write(
    model: Model, params: PyTree, prefix: str = "", *, layers: Layers = None, numpy: bool = False
) -> dict[str, Any]:
    """Writes a model as the state dict of a PyTorch module, the inverse of `read`.

    A `stack` without `layers` is one module, `nn.LSTM(…, num_layers=2)`. Of PyTorch's two biases,
    which add up, the second is zero; that of n in a GRU is ours. Options that are not in a state
    dict are yours to set in PyTorch: `nonlinearity`, `eps`, functions between the layers.

    Args:
      model: the model.
      params: its parameters.
      prefix: what the names begin with.
      layers: names of the modules, one for each layer of a `stack`; in the place of a layer without
        parameters this layer itself.
      numpy: whether the values are NumPy arrays (for safetensors, say): PyTorch need not be
        installed then.

    Returns:
      A dict of tensors for `load_state_dict`, in the dtype of the parameters, bit for bit.

    Raises:
      ValueError: PyTorch has no such layer; it says why.

    >>> import jax, seqjax as sj
    >>> cell = sj.rnn(3, 4)
    >>> arrays = sj.interop.torch.write(cell, cell.init(jax.random.key(0)), "rnn", numpy=True)
    >>> {name: array.shape for name, array in arrays.items()}["rnn.weight_ih_l0"]
    (4, 3)
    """
    arrays = _write.write(TORCH, model, params, prefix, layers=layers)
    return arrays if _checks.flag("numpy", numpy) else _tensors(arrays)


def _tensors(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The same numbers, bit for bit."""
    try:
        torch: Any = importlib.import_module("torch")
    except ImportError as error:
        message = "write: tensors need PyTorch; numpy=True returns NumPy arrays"
        raise ImportError(message) from error

    def tensor(array: np.ndarray) -> Any:
        if array.dtype == jnp.bfloat16:  # which PyTorch does not take from NumPy
            return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
        return torch.from_numpy(array)

    return {name: tensor(array) for name, array in arrays.items()}
