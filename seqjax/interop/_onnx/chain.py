"""A whole graph of ONNX as layers, one after another.

The graph is run on a probe: its input is a series of numbers that say which element is which.
Where two layers meet, it shows whether all that stands between them (transpositions, reshapes,
whatever an exporter writes) hands every step and feature on as it is.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from seqjax import _checks
from seqjax.compose.bidirectional import Bidirectional
from seqjax.interop._names import listed
from seqjax.interop._onnx.functions import ALONG
from seqjax.interop._onnx.layouts import INPUTS, POINTWISE
from seqjax.interop._onnx.nodes import Layer, NodeReader, check_axis, function_layer, refusal
from seqjax.interop._onnx.series import OtherSize, Series
from seqjax.interop._onnx.source import (
    Graph,
    attributes,
    evaluate,
    is_computable,
    is_standard,
    onnx,
)
from seqjax.models.dense import Dense

__all__ = ["chain"]

# What may stand between layers.
PLUMBING = {
    *("Cast", "Dropout", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Squeeze"),
    *("Split", "Transpose", "Unsqueeze"),
}
SIZES = (5, 3, 7, 11, 13, 17, 19, 23)  # of axes of any size, in the probe
BY_NAME = "single nodes are read by their names, by node= or layers="


class Unknown(NamedTuple):
    """Something that is no series: the final state of a layer, or what `node` made."""

    node: Any
    is_state: bool


Value = np.ndarray | Series | Unknown


@dataclass
class Run:
    """The graph on a probe: what all of its values are."""

    graph: Graph
    reader: NodeReader
    values: dict[str, Value] = field(default_factory=dict)

    def inputs(self, sizes: dict[Any, int]) -> None:
        """Numbers all elements of the inputs, whose axes of any size get one of their own."""
        unused = iter(SIZES)
        for value in self.graph.proto.input:
            if value.name in self.graph.initializers:  # its default
                continue
            tensor = value.type.tensor_type
            shape = []
            for number, dim in enumerate(tensor.shape.dim):
                symbol = symbol_of(value, number)
                if not dim.HasField("dim_value") and symbol not in sizes:
                    sizes[symbol] = next(unused, SIZES[-1])
                shape.append(dim.dim_value if dim.HasField("dim_value") else sizes[symbol])
            dtype = onnx("helper").tensor_dtype_to_np_dtype(tensor.elem_type)
            ids = np.arange(np.prod(shape, dtype=int)).reshape(shape)
            tokens = not shape or np.issubdtype(dtype, np.integer)
            features = None if tokens else shape[-1]
            self.values[value.name] = Series(ids, features, value.name)

    def value(self, name: str) -> Value | None:
        array = None if name in self.values else self.graph.initializer(name)
        if array is not None:
            self.values[name] = array
        return self.values.get(name)

    def node(self, node: Any) -> None:
        """Adds the outputs of a node."""
        given = [self.value(name) for name in node.input]
        made = self.outputs(node, given)
        for number, name in enumerate(node.output):
            if name:
                self.values[name] = made[min(number, len(made) - 1)]

    def outputs(self, node: Any, given: list[Value | None]) -> list[Value]:
        series = [value for value in given if isinstance(value, Series)]
        unknown = [value for value in given if isinstance(value, Unknown)]
        known = is_standard(node)
        if known and node.op_type in INPUTS:
            x = given[INPUTS[node.op_type].index("X")]
            if isinstance(x, Series):
                return self.layer(node, x, given)
        if unknown:
            states = all(value.is_state for value in unknown)
            kept = states and not series and node.op_type in (*PLUMBING, "Concat")
            return [unknown[0] if kept or not states else Unknown(node, False)]
        if not series:
            if not is_computable(node):
                return [Unknown(node, False)]
            return self.evaluate(node, given)
        if known and len(series) == 1:
            return self.of_series(node, series[0], given)
        both = None
        if known and node.op_type == "Concat" and len(series) == len(given) == 2:
            layered = all(each.layers for each in series)
            both = series[0].beside(series[1], attributes(node)["axis"]) if layered else None
        return [Unknown(node, False) if both is None else both]

    def evaluate(self, node: Any, given: list[Value | None]) -> list[Any]:
        """By ONNX, on the numbers of the elements where it is a series."""
        arrays: list[Any] = [getattr(value, "ids", value) for value in given]
        return evaluate(node, arrays, self.graph.opsets)

    def of_series(self, node: Any, series: Series, given: list[Value | None]) -> list[Value]:
        """Of an operator that reads one series, and constants beside it."""
        if node.op_type in ("Shape", "Size"):
            return self.evaluate(node, given)
        if node.op_type in PLUMBING and given[0] is series:
            if node.op_type in ("Cast", "Dropout"):
                return [series if is_identity(node, series, given) else Unknown(node, False)]
            moved = self.evaluate(node, given)
            if node.op_type == "Slice" and moved[0].shape == series.ids.shape and self.cuts(node):
                return [Unknown(node, False)]
            return [series._replace(ids=ids) for ids in moved]
        if node.op_type == "Add":
            return [self.add(node, series, next(v for v in given if v is not series))]
        layer = function_layer(node)
        if layer is None:
            return [Unknown(node, False)]
        if node.op_type in ALONG:
            check_axis(node, self.graph, series.ids.ndim)
            series = series.by_features(node)
        return [series._replace(layers=(*series.layers, layer))]

    def cuts(self, node: Any) -> bool:
        """Whether a Slice that keeps all of the probe would cut a longer series."""
        told, most = attributes(node), np.iinfo(np.int32).max
        given = dict(zip(("starts", "ends", "axes", "steps"), node.input[1:], strict=False))
        starts, ends, steps = (
            np.asarray(self.value(given[name]) if given.get(name) else told.get(name, 1))
            for name in ("starts", "ends", "steps")
        )
        forward = (starts == 0) & (ends >= most)
        backward = ((starts == -1) | (starts >= most)) & (ends <= -most)
        return not np.all(np.where(steps > 0, forward, backward))

    def add(self, node: Any, series: Series, constant: Any) -> Value:
        """The bias of the dense layer before it."""
        *others, last = series.layers or (None,)
        if last is None or not isinstance(last.model, Dense) or "bias" in last.params:
            return Unknown(node, False)
        series.by_features(node)
        return series._replace(layers=(*others, self.reader.with_bias(node, last, constant)))

    def layer(self, node: Any, x: Series, given: list[Value | None]) -> list[Value]:
        """Of a node that is a layer with parameters."""
        names = INPUTS[node.op_type]
        named = dict(zip(names, given, strict=False))
        constants = {name: v for name, v in named.items() if isinstance(v, np.ndarray)}
        if node.op_type not in POINTWISE:
            self.check_states(node, x, named)
            return self.recurrent(node, x, constants)
        if node.op_type == "Gather":
            if "W" not in constants:
                return [Unknown(node, False)]
            places = x if x.features is None and not x.layers else None
            if places is None or not x.complete:
                raise refusal(node, "a series of tokens", "another one")
            x = x._replace(ids=x.ids[..., None], features=1)
        if node.op_type == "LayerNormalization":
            check_axis(node, self.graph, x.ids.ndim)
        x = x.by_features(node)
        layer = self.reader.layer(node, constants)
        return [x.after(node, layer, x.ids.min(axis=-1) // (x.features or 1), x.steps)]

    def check_states(self, node: Any, x: Series, named: Mapping[str, Value | None]) -> None:
        """What else a recurrent layer reads: constants, or inputs of the graph."""
        for name, value in named.items():
            is_input = isinstance(value, Series) and value.source != x.source and not value.layers
            allowed = value is None or isinstance(value, np.ndarray) or is_input
            if name != "X" and not allowed:
                raise refusal(node, f"{name} to be constant or an input", "a computed one")

    def recurrent(self, node: Any, x: Series, constants: Mapping[str, np.ndarray]) -> list[Value]:
        if x.features is None or x.ids.ndim != 3:
            raise refusal(node, "a series [T, B, I]", "another one")
        x = x.by_features(node)
        batch_first = bool(attributes(node).get("layout"))
        ids = x.ids.swapaxes(0, 1) if batch_first else x.ids  # [T, B, I]
        places = ids.min(axis=-1) // x.features
        time, batch = places.shape
        every = np.arange(places.size)
        orders = (every.reshape(time, batch), every.reshape(batch, time).T)
        allowed = orders if x.steps is None else (x.steps,)
        forward = [order for order in allowed if np.array_equal(places, order)]
        backward = [order for order in allowed if np.array_equal(places, order[::-1])]
        if not forward and not backward:
            raise refusal(node, "the steps in their order, along the same axis", "others")
        lengths = constants.get("sequence_lens", np.array(time))
        if np.any(lengths != time):
            raise refusal(
                node, "no constant sequence_lens: length= of sj.unroll is it", f"{lengths}"
            )
        layer = self.reader.layer(node, constants)
        if not forward:  # the series was turned round before
            if isinstance(layer.model, Bidirectional):
                raise refusal(node, "the steps in their order", "those of a reversed series")
            layer = layer._replace(reverse=node if layer.reverse is None else None)
        of_direction = 2 if attributes(node).get("direction") == "bidirectional" else 1
        made = x.after(node, layer, places, (forward or backward)[0])
        ids = made.ids.reshape(time, batch, of_direction, -1)
        ids = ids.swapaxes(0, 1) if batch_first else ids.swapaxes(1, 2)
        return [made._replace(ids=ids), Unknown(node, True)]


def is_identity(node: Any, series: Series, given: list[Value | None]) -> bool:
    """Of a Cast, to numbers of the same sort; or a Dropout, which in inference does nothing."""
    if node.op_type == "Dropout":
        return not any(isinstance(value, np.ndarray) and value.any() for value in given[2:])
    dtype = onnx("helper").tensor_dtype_to_np_dtype(attributes(node)["to"])
    sort = np.integer if series.features is None else np.floating
    return np.issubdtype(dtype, sort)


def symbol_of(value: Any, number: int) -> Any:
    """What an axis of an input that may have any size is called."""
    return value.type.tensor_type.shape.dim[number].dim_param or (value.name, number)


def run_on_probe(graph: Graph, reader: NodeReader) -> Run:
    """All that the outputs need; the first layer says how many features there are if none does."""
    needed = {output.name for output in graph.proto.output}
    for node in reversed(graph.proto.node):
        if needed & {*node.output}:
            needed.update(name for name in node.input if name)
    sizes: dict[Any, int] = {}
    for _ in range(2):
        run = Run(graph, reader)
        run.inputs(dict(sizes))
        try:
            for node in graph.proto.node:
                if needed & {*node.output}:
                    run.node(node)
        except OtherSize as found:
            (value,) = (v for v in graph.proto.input if v.name == found.source)
            last = len(value.type.tensor_type.shape.dim) - 1
            if sizes or value.type.tensor_type.shape.dim[last].HasField("dim_value"):
                raise
            sizes[symbol_of(value, last)] = found.size
        else:
            break
    return run


def chain(graph: Graph, reader: NodeReader) -> list[Layer]:
    """The layers of a graph that is nothing else."""
    run = run_on_probe(graph, reader)
    outputs = [output.name for output in graph.proto.output]
    made = {name: run.value(name) for name in outputs}
    for value in made.values():
        if isinstance(value, Unknown) and not value.is_state:
            expected = f"nodes that are layers of seqjax; {BY_NAME}"
            raise refusal(value.node, expected, "another one")
    found = {n: v for n, v in made.items() if isinstance(v, Series) and v.layers and v.in_order}
    others = [n for n, v in made.items() if n not in found and not isinstance(v, Unknown)]
    if len(found) != 1 or others:
        expected = "one output that is a whole series, and final states"
        given = f"{listed(outputs)}, of which such are {listed(found) or 'none'}; {BY_NAME}"
        raise ValueError(_checks.mismatch("source", expected, given))
    (series,) = found.values()
    for layer in series.layers:
        if layer.reverse is not None:
            expected = "layers that run forward or in both directions"
            given = f"one that runs backward: {BY_NAME}, and run by sj.unroll(reverse=True)"
            raise refusal(layer.reverse, expected, given)
    return [*series.layers]
