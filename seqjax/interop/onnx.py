"""ONNX files: the recurrent operators and the layers around them, read, and whole models written.

The package onnx is imported where a function here is called: pip install 'seqjax[onnx]'.
"""

from collections.abc import Mapping
from typing import Any

from seqjax._types import PyTree
from seqjax.engine.model import Model
from seqjax.interop._format import Layers
from seqjax.interop._onnx import read as reading
from seqjax.interop._onnx.layers import fill
from seqjax.interop._onnx.write import written

__all__ = ["into", "read", "write"]


def read(
    source: Any,
    node: str = "",
    *,
    layers: Layers = None,
    convention: Mapping[str, Any] | None = None,
    dtype: Any = None,
) -> tuple[Model, PyTree]:
    """Reads a model of seqjax, and its params, from an ONNX file.

    The operators `RNN`, `LSTM` and `GRU` with all that seqjax has: both directions together,
    `linear_before_reset`, peepholes, `input_forget` (coupled gates), any `activations` of ONNX;
    `Gemm`, `MatMul` and the `Add` after it, `Gather` from a table, `LayerNormalization`, functions
    such as `Relu`. An initial state that is a constant other than zero is a learned one; one that
    is an input is the `state` of `sj.unroll`, as `sequence_lens` is its `length`.

    A whole file is read if it is nothing but such layers, one after another; what exporters write
    between them may only rearrange axes, which is tried out. Of any other file single nodes are
    read by their names, wherever they are, also in branches of `If` and bodies of `Loop`.

    Args:
      source: a path, the bytes of a file, or a loaded `onnx.ModelProto`.
      node: the name of one node, or of its first output, that is to be read alone. An operator of
        direction "reverse" is only read so: run it by `sj.unroll(…, reverse=True)`.
      layers: names of nodes, in the order in which they are applied; functions may stand between
        them.
      convention, dtype: as those of `sj.interop.torch.read`.

    Returns:
      (model, params), of memory of their own. Axes of time and batch are as everywhere in seqjax:
      the model reads one series, [T, I].

    Raises:
      ImportError: the package onnx is not installed.
      ValueError, TypeError: a node that is no layer of seqjax, by its name and operator, or an
        attribute of it that seqjax does not have, such as `clip`.

    >>> import jax, seqjax as sj
    >>> cell = sj.lstm(3, 4, peepholes=True)
    >>> proto = sj.interop.onnx.write(cell, cell.init(jax.random.key(0)))
    >>> sj.interop.onnx.read(proto)[0] == sj.interop.onnx.read(proto, "lstm_0")[0] == cell
    True
    """
    return reading.read(source, node, layers, convention, dtype)


def into(model: Model, source: Any, node: str = "", *, layers: Layers = None) -> PyTree:
    """The params of a model that you made, from an ONNX file.

    The model must compute what the file does; it may have dropout between or inside its layers, a
    learned initial state, stacks in stacks, activations inside dense layers.

    Args:
      model: a model.
      source, node, layers: those of `read`.

    Returns:
      params of the model; dtypes must be its own.

    Raises:
      ImportError, ValueError, TypeError: see `read`; or the layers are not those of the model.

    >>> import jax, seqjax as sj
    >>> model = sj.stack(sj.gru(3, 4), sj.dropout(0.1), sj.dense(4, 2, activation=jax.nn.relu))
    >>> proto = sj.interop.onnx.write(model, model.init(jax.random.key(0)))
    >>> sj.interop.onnx.read(proto)[0]
    stack(gru(3, 4), dense(4, 2), relu)
    >>> sj.interop.onnx.into(model, proto)[2]["kernel"].shape
    (4, 2)
    """
    return fill(model, reading.layers_of(source, node, layers))


def write(model: Model, params: PyTree) -> Any:
    """Writes a model as an ONNX graph, the inverse of `read`.

    Inputs and outputs, for layer number k of a `stack` (0 of a model that is none), T and B free:

        xs               [T, B, I], or int64 [T, B] of tokens
        state.k.h        [D, B, H], of one direction or two; [D, 1, H] begins all series alike
        state.k.c        the same, of an LSTM
        ys               [T, B, O]
        final_state.k.h  [D, B, H], and final_state.k.c

    The states may be left out: each is then zero, or the learned initial state. The final ones of
    one piece of a series are the states of the next.

    Args:
      model: `rnn`, `gru`, `lstm` (with peepholes, coupled gates), with any activations that ONNX
        has, in `bidirectional` too, which concatenates; `dense`, `embed`, `layer_norm`, functions
        of JAX that are operators of ONNX (`jax.nn.relu`, `jnp.tanh`, …); stacks of these.
        Dropout is left out.
      params: its parameters.

    Returns:
      An `onnx.ModelProto` of opset 17, for `onnx.save`, in the dtype of the parameters, bit for
      bit. `read` returns an equal model with equal params, but that dropout is not there, stacks in
      stacks are one, activations of dense layers are layers, and a learned initial state that is
      zero is none: `into` has all of these.

    Raises:
      ImportError: the package onnx is not installed.
      ValueError, TypeError: ONNX has no such layer, and it says why; or no such dtype.

    >>> import jax, seqjax as sj
    >>> model = sj.stack(sj.gru(3, 4), sj.dense(4, 2))
    >>> proto = sj.interop.onnx.write(model, model.init(jax.random.key(0)))
    >>> [value.name for value in proto.graph.input]
    ['xs', 'state.0.h']
    >>> [value.name for value in proto.graph.output]
    ['ys', 'final_state.0.h']
    """
    return written(model, params)
