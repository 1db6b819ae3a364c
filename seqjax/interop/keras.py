"""Weights of Keras 3 (and of Keras 2 files): `LSTM`, `GRU`, `SimpleRNN`, `Bidirectional`, …

Keras is not imported.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from seqjax._types import PyTree
from seqjax.engine.model import Model
from seqjax.interop import _read, _write
from seqjax.interop._format import Format, Layers, Place
from seqjax.interop._layout import Block, Layout

__all__ = ["into", "read", "write"]


def _cell(gates: str, *biases: str) -> tuple[Block, ...]:
    return (
        Block("kernel", ("kernel",), gates),
        Block("recurrent_kernel", ("recurrent_kernel",), gates),
        Block("bias", biases or ("bias",), gates),
    )


ACTIVATIONS = ("gate_activation", "activation")
RESET: dict[str, Any] = {"free": ACTIVATIONS, "decides": ("reset_after",)}
KERNEL, BIAS = Block("kernel", ("kernel",), "y"), Block("bias", ("bias",), "y")
BY_NAME = (
    Layout("lstm", _cell("ifgo"), free=ACTIVATIONS),
    Layout("gru", _cell("zrn", "bias", "recurrent_bias"), **RESET),
    Layout("gru", _cell("zrn"), options={"reset_after": False}, **RESET),
    Layout("rnn", _cell("h"), asks=("activation",)),
    Layout("dense", (KERNEL, BIAS), free=("activation",)),
    Layout("embed", (Block("embeddings", ("kernel",), "y"),)),
    Layout(
        "layer_norm",
        (Block("gamma", ("scale",), "y"), Block("beta", ("bias",), "y")),
        asks=("eps",),
    ),
    Layout("rms_norm", (Block("scale", ("scale",), "y"),), asks=("eps",)),
)


def _numbered(layout: Layout) -> Layout:
    """As in a `.weights.h5` file, which has the arrays of a layer by their numbers."""
    blocks = enumerate(layout.blocks)
    numbered = tuple(dataclasses.replace(block, name=f"vars/{n}") for n, block in blocks)
    return dataclasses.replace(layout, blocks=numbered)


def _split(name: str) -> Place:
    direction = re.search(r"(?:^|/)(forward|backward)(?:_[^/]*)?/", name)
    backward = direction is not None and direction[1] == "backward"
    return Place(0, backward, name.removesuffix(":0"))


def _join(kind: str, place: Place, both: bool) -> str:
    return f"{'backward' if place.backward else 'forward'}/{place.name}" if both else place.name


KERAS = Format(
    "Keras",
    "/",
    (*BY_NAME, *map(_numbered, BY_NAME)),
    _split,
    _join,
    merges=("concat", "sum", "mean", "product"),
    ignored=r"(^|/)seed_generator",
)


def read(
    weights: Any,
    prefix: str = "",
    *,
    layers: Layers = None,
    kinds: str | Mapping[str, str] | None = None,
    reset_after: bool | None = None,
    activation: Callable | None = None,
    gate_activation: Callable | None = None,
    merge: str | Callable = "concat",
    eps: float | None = None,
    convention: Mapping[str, Any] | None = None,
    dtype: Any = None,
) -> tuple[Model, PyTree]:
    """Reads a Keras layer, or several of them, from arrays by their paths.

    `LSTM`, `GRU`, `SimpleRNN`, `Bidirectional` around one of them, `Dense`, `Embedding`,
    `LayerNormalization`, `RMSNormalization`. What Keras keeps in its configuration is not in the
    weights: `Dense(activation=…)` is read without, as functions in `layers` are.

    Args:
      weights: `{w.path: w for w in model.weights}`, or an open h5py file of `save_weights`.
      prefix: where the layers are: "sequential", or "layers" in a file of `save_weights`.
      layers: of several layers below the prefix, their names in the order in which they are
        applied; functions may stand between them.
      kinds: what the arrays leave open: "dense" or "embed" of a lone one in a file of
        `save_weights`; of one layer, or by the names in `layers`.
      reset_after: of a `GRU` without bias, which does not tell (Keras' default: True).
      activation: of `SimpleRNN`, which does not tell; of `LSTM` and `GRU` if it is not tanh.
      gate_activation: of `LSTM` and `GRU` if it is not the sigmoid: `jax.nn.hard_sigmoid` in old
        files.
      merge: of `Bidirectional`: "concat", "sum", "mean" ("ave"), "product" ("mul").
      eps: of a normalization, which does not save it (Keras' default: 1e-3).
      convention, dtype: as those of `sj.interop.torch.read`.

    Returns:
      (model, params), of memory of their own.

    Raises:
      ValueError, TypeError: see `sj.interop.torch.read`.

    >>> import numpy as np, seqjax as sj
    >>> shapes = {"kernel": (3, 12), "recurrent_kernel": (4, 12), "bias": (2, 12)}
    >>> weights = {f"gru/gru_cell/{k}": np.zeros(v, np.float32) for k, v in shapes.items()}
    >>> sj.interop.keras.read(weights)[0] == sj.gru(3, 4, dtype=np.float32)
    True
    """
    return _read.read(
        KERAS,
        weights,
        prefix,
        layers=layers,
        kinds=kinds,
        given={
            "reset_after": reset_after,
            "activation": activation,
            "gate_activation": gate_activation,
            "eps": eps,
        },
        convention=convention,
        dtype=dtype,
        merge=merge,
    )


def into(model: Model, weights: Any, prefix: str = "", *, layers: Layers = None) -> PyTree:
    """The params of a model that you made, from the weights of Keras layers.

    See `sj.interop.torch.into`; `weights`, `prefix` and `layers` are those of `read`.
    """
    return _write.into(KERAS, model, weights, prefix, layers=layers)


def write(
    model: Model, params: PyTree, prefix: str = "", *, layers: Layers = None
) -> dict[str, np.ndarray]:
    """Writes a model as the weights of Keras layers, the inverse of `read`.

    The arrays are in the order of Keras: `layer.set_weights([*arrays.values()])`, of one layer or
    of a whole model. Activations, `reset_after`, `merge_mode` and `epsilon` are not in them.

    Args:
      model: the model.
      params: its parameters.
      prefix: what the names begin with.
      layers: names of the Keras layers, one for each layer of a `stack`; in the place of a layer
        without parameters this layer itself.

    Returns:
      A dict of NumPy arrays, in the dtype of the parameters, bit for bit.

    Raises:
      ValueError: Keras has no such layer; it says why.

    >>> import jax, seqjax as sj
    >>> model = sj.bidirectional(sj.rnn(3, 4))
    >>> [*sj.interop.keras.write(model, model.init(jax.random.key(0)))][:4]
    ['forward/kernel', 'forward/recurrent_kernel', 'forward/bias', 'backward/kernel']
    """
    return _write.write(KERAS, model, params, prefix, layers=layers)
