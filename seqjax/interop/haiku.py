"""Weights of Haiku: `hk.LSTM`, `hk.GRU`, `hk.VanillaRNN`, `hk.Linear`, `hk.Embed`, …

Haiku is not imported.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from seqjax import _checks
from seqjax._types import PyTree
from seqjax.engine.model import Model
from seqjax.interop import _read, _write
from seqjax.interop._format import Format, Layers
from seqjax.interop._layout import Block, Layout

__all__ = ["into", "read", "write"]

WEIGHT, BIAS = Block("w", ("kernel",), "y"), Block("b", ("bias",), "y")
SCALE = Block("scale", ("scale",), "y")
VANILLA = (
    Block("linear/w", ("kernel",), "h"),
    Block("linear/b", ("bias",), "h"),
    Block("linear_1/w", ("recurrent_kernel",), "h"),
    Block("linear_1/b", ("recurrent_bias",), "h"),
)
RELU: dict[str, Any] = {"options": {"activation": jax.nn.relu}, "with_bias": True}
LAYOUTS = (
    Layout(
        "lstm",  # a Linear of [x; h] inside, whose name makes it one
        (
            Block("linear/w", ("kernel", "recurrent_kernel"), "igfo"),
            Block("linear/b", ("bias",), "igfo"),
        ),
        with_bias=True,
        forget_offset=1.0,
        usual=r"(^|/)lstm(_\d+)?$",
        possible=r"(^|/)[^/~]+$",
    ),
    Layout(
        "gru",  # h' = (1 - z) h + z a
        (
            Block("w_i", ("kernel",), "zrn"),
            Block("w_h", ("recurrent_kernel",), "zrn"),
            Block("b", ("bias",), "zrn"),
        ),
        options={"reset_after": False},
        with_bias=True,
        opposite="z",
    ),
    Layout("rnn", VANILLA, **RELU),
    Layout("rnn", VANILLA[:3], **RELU),
    Layout("dense", (WEIGHT, BIAS)),
    Layout("embed", (Block("embeddings", ("kernel",), "y"),)),
    Layout("layer_norm", (SCALE, Block("offset", ("bias",), "y")), asks=("eps",)),
    Layout("rms_norm", (SCALE,), asks=("eps",)),
)
HAIKU = Format("Haiku", "/", LAYOUTS)


def read(
    params: Any,
    prefix: str = "",
    *,
    layers: Layers = None,
    kinds: str | Mapping[str, str] | None = None,
    eps: float | None = None,
    convention: Mapping[str, Any] | None = None,
    dtype: Any = None,
) -> tuple[Model, PyTree]:
    """Reads a Haiku module, or several of them, from the parameters of a transformed function.

    `hk.LSTM`, whose bias of f is 1 less than the one here, since Haiku adds 1 at run time;
    `hk.GRU`, whose z is 1 - z here, and whose reset gate acts before the matmul; `hk.VanillaRNN`,
    whose activation is relu; `hk.Linear`, `hk.Embed`, `hk.LayerNorm`, `hk.RMSNorm`.

    Args:
      params: what `init` returns.
      prefix: where the module is, such as "encoder/~/lstm".
      layers: of several modules below the prefix, their names in the order in which they are
        applied, which the tree does not tell; functions may stand between them.
      kinds: what the names and shapes leave open: "lstm" or "dense" of a "linear" in a module that
        is not called lstm, "layer_norm" or "rms_norm" of a lone scale; of one module, or by the
        names in `layers`.
      eps: of a normalization, which does not save it (Haiku's default: 1e-5).
      convention, dtype: as those of `sj.interop.torch.read`.

    Returns:
      (model, params), of memory of their own.

    Raises:
      ValueError, TypeError: see `sj.interop.torch.read`.

    >>> import numpy as np, seqjax as sj
    >>> linear = {"w": np.zeros((3 + 4, 16), np.float32), "b": np.zeros(16, np.float32)}
    >>> model, params = sj.interop.haiku.read({"lstm/linear": linear})
    >>> model == sj.lstm(3, 4, dtype=np.float32)
    True
    >>> params["bias"][4:8].tolist()  # of f
    [1.0, 1.0, 1.0, 1.0]
    """
    return _read.read(
        HAIKU,
        params,
        prefix,
        layers=layers,
        kinds=kinds,
        given={"eps": eps},
        convention=convention,
        dtype=dtype,
    )


def into(model: Model, params: Any, prefix: str = "", *, layers: Layers = None) -> PyTree:
    """The params of a model that you made, from parameters of Haiku.

    See `sj.interop.torch.into`; `params`, `prefix` and `layers` are those of `read`.
    """
    return _write.into(HAIKU, model, params, prefix, layers=layers)


def write(
    model: Model, params: PyTree, prefix: str = "", *, layers: Layers = None
) -> dict[str, dict[str, np.ndarray]]:
    """Writes a model as parameters of Haiku modules, the inverse of `read`.

    They are bit for bit those of the model, but for the bias of f, from which 1 is subtracted:
    what `read` adds to it again is at most one rounding off. Biases are zero where the model has
    none and the module always has them.

    Args:
      model: the model.
      params: its parameters.
      prefix: the name of the module, "lstm", or where the modules of `layers` are.
      layers: names of the modules, one for each layer of a `stack`; in the place of a layer without
        parameters this layer itself.

    Returns:
      Dicts of NumPy arrays by the names of modules, in the dtype of the parameters.

    Raises:
      ValueError: Haiku has no such layer; it says why.

    >>> import jax, seqjax as sj
    >>> cell = sj.lstm(3, 4)
    >>> params = sj.interop.haiku.write(cell, cell.init(jax.random.key(0)), "lstm")
    >>> params["lstm/linear"]["w"].shape
    (7, 16)
    """
    by_module: dict[str, dict[str, np.ndarray]] = {}
    for name, array in _write.write(HAIKU, model, params, prefix, layers=layers).items():
        module, _, last = name.rpartition("/")
        if not module:
            raise ValueError(_checks.mismatch("prefix", "the name of the module", repr(prefix)))
        by_module.setdefault(module, {})[last] = array
    return by_module
