"""Weights of Flax, of both its interfaces: linen and nnx.

Flax is not imported.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from seqjax import _checks
from seqjax._types import PyTree
from seqjax.engine.model import Model
from seqjax.interop import _read, _write
from seqjax.interop._format import Format, Layers, Place
from seqjax.interop._layout import Block, Layout
from seqjax.interop._names import nested

__all__ = ["into", "read", "write"]

KERNEL, RECURRENT = ("kernel",), ("recurrent_kernel",)
ACTIVATIONS = ("gate_activation", "activation")


def _apart(gates: str, suffix: str = "") -> tuple[Block, ...]:
    """A kernel for each gate, on the side of x and on that of h."""
    names = {gate: gate + suffix if gate == "f" else gate for gate in gates}
    return (
        *(Block(f"i{name}/kernel", KERNEL, gate) for gate, name in names.items()),
        *(Block(f"h{gate}/kernel", RECURRENT, gate) for gate in gates),
    )


def _together(gates: str, side: str) -> tuple[Block, ...]:
    """One kernel for all gates, and a bias on one side."""
    return (
        Block("dense_i/kernel", KERNEL, gates),
        Block("dense_h/kernel", RECURRENT, gates),
        Block(f"dense_{side}/bias", ("bias",), gates),
    )


LSTM_BIASES = tuple(Block(f"h{gate}/bias", ("bias",), gate) for gate in "ifgo")
GRU_BIASES = (
    *(Block(f"i{gate}/bias", ("bias",), gate) for gate in "rzn"),
    Block("hn/bias", ("recurrent_bias",), "n"),
)
SIMPLE = (
    Block("i/kernel", KERNEL, "h"),
    Block("h/kernel", RECURRENT, "h"),
    Block("i/bias", ("bias",), "h"),
)
GATED: dict[str, Any] = {"free": ACTIVATIONS, "with_bias": True}
UNGATED: dict[str, Any] = {"asks": ("activation",), "with_bias": True}
BIAS, SCALE = Block("bias", ("bias",), "y"), Block("scale", ("scale",), "y")
SHARED = (
    Layout("dense", (Block("kernel", KERNEL, "y"), BIAS)),
    Layout("embed", (Block("embedding", KERNEL, "y"),)),
    Layout("layer_norm", (SCALE, BIAS), asks=("eps",)),
    Layout("rms_norm", (SCALE,), asks=("eps",)),
)
LAYOUTS = {
    "linen": (
        Layout("lstm", (*_apart("ifgo"), *LSTM_BIASES), **GATED),
        Layout("gru", (*_apart("rzn"), *GRU_BIASES), **GATED),
        Layout("rnn", SIMPLE, **UNGATED),
    ),
    "nnx": (
        Layout("lstm", _together("ifgo", "h"), **GATED),
        Layout("lstm", (*_apart("ifgo", "_"), *LSTM_BIASES), **GATED),
        Layout("gru", _together("rzn", "i"), **GATED),
        Layout("rnn", _together("h", "i"), **UNGATED),
    ),
}


def _split(name: str) -> Place:
    return Place(0, re.search(r"(^|/)backward_rnn/", name) is not None, name)


def _join(kind: str, place: Place, both: bool) -> str:
    direction = "backward" if place.backward else "forward"
    return f"{direction}_rnn/cell/{place.name}" if both else place.name


def _format(*apis: str) -> Format:
    layouts = [layout for api in apis for layout in LAYOUTS[api]]
    merges = ("concat", "sum", "mean", "product")
    return Format("Flax", "/", (*layouts, *SHARED), _split, _join, merges=merges)


FLAX = _format(*LAYOUTS)


def read(
    params: Any,
    prefix: str = "",
    *,
    layers: Layers = None,
    kinds: str | Mapping[str, str] | None = None,
    activation: Callable | None = None,
    gate_activation: Callable | None = None,
    merge: str | Callable = "concat",
    eps: float | None = None,
    convention: Mapping[str, Any] | None = None,
    dtype: Any = None,
) -> tuple[Model, PyTree]:
    """Reads a Flax module, or several of them, from a tree of parameters.

    The cells `LSTMCell`, `OptimizedLSTMCell`, `GRUCell` and `SimpleCell`, in an `RNN` or not, two
    of these in a `Bidirectional`; `Dense` and `nnx.Linear`, `Embed`, `LayerNorm`, `RMSNorm`. The
    GRU of nnx has no bias of n inside the reset: the one of `sj.gru` is zero.

    Args:
      params: of linen what `init` returns, or its "params"; of nnx `nnx.state(module, nnx.Param)`.
      prefix: where the module is, such as "params/encoder".
      layers: of several modules below the prefix, their names in the order in which they are
        applied, which the tree does not tell; functions may stand between them.
      kinds: what the names and shapes leave open: "layer_norm" or "rms_norm" of a lone scale; of
        one module, or by the names in `layers`.
      activation: of `SimpleCell`, which does not tell; of the others if it is not tanh.
      gate_activation: of the others if it is not the sigmoid.
      merge: how the outputs of a `Bidirectional` become one: see `sj.bidirectional`.
      eps: of a normalization, which does not save it (Flax' default: 1e-6).
      convention, dtype: as those of `sj.interop.torch.read`.

    Returns:
      (model, params), of memory of their own.

    Raises:
      ValueError, TypeError: see `sj.interop.torch.read`.

    >>> import numpy as np, seqjax as sj
    >>> dense_i = {"kernel": np.zeros((3, 12), np.float32), "bias": np.zeros(12, np.float32)}
    >>> state = {"cell": {"dense_i": dense_i, "dense_h": {"kernel": np.zeros((4, 12), np.float32)}}}
    >>> sj.interop.flax.read(state)[0] == sj.gru(3, 4, dtype=np.float32)
    True
    """
    return _read.read(
        FLAX,
        params,
        prefix,
        layers=layers,
        kinds=kinds,
        given={"activation": activation, "gate_activation": gate_activation, "eps": eps},
        convention=convention,
        dtype=dtype,
        merge=merge,
    )


def into(model: Model, params: Any, prefix: str = "", *, layers: Layers = None) -> PyTree:
    """The params of a model that you made, from a tree of parameters of Flax.

    See `sj.interop.torch.into`; `params`, `prefix` and `layers` are those of `read`.
    """
    return _write.into(FLAX, model, params, prefix, layers=layers)


def write(
    model: Model, params: PyTree, prefix: str = "", *, api: str, layers: Layers = None
) -> dict[str, Any]:
    """Writes a model as a tree of parameters of Flax, the inverse of `read`.

    For linen it is what `apply` takes below "params"; of nnx what `nnx.replace_by_pure_dict` puts
    into a state. Biases are zero where the model has none, since the cells of Flax always have
    them. Activations and `epsilon` are not in the tree.

    Args:
      model: the model.
      params: its parameters.
      prefix: where the module is in the tree: "cell" for a cell in an `RNN`.
      api: "linen" or "nnx". An LSTM is an `OptimizedLSTMCell` in nnx; in linen that has the same
        parameters as `LSTMCell`.
      layers: paths of the modules, one for each layer of a `stack`; in the place of a layer without
        parameters this layer itself.

    Returns:
      Nested dicts of NumPy arrays, in the dtype of the parameters, bit for bit.

    Raises:
      ValueError: Flax has no such layer; it says why.

    >>> import jax, seqjax as sj
    >>> cell = sj.rnn(3, 4)
    >>> tree = sj.interop.flax.write(cell, cell.init(jax.random.key(0)), "cell", api="linen")
    >>> tree["cell"]["i"]["kernel"].shape
    (3, 4)
    """
    form = _format(_checks.choice("api", api, tuple(LAYOUTS)))
    return nested(_write.write(form, model, params, prefix, layers=layers), "/")
