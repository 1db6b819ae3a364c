"""What an ONNX file holds: graphs in graphs, their nodes by name, and what of them is constant."""

import importlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from seqjax import _checks
from seqjax.interop._names import listed

__all__ = [
    "Graph",
    "attributes",
    "evaluate",
    "find",
    "is_computable",
    "is_standard",
    "load",
    "onnx",
    "shown",
]

RANDOM = ("Random", "Bernoulli", "Multinomial")  # what names of operators that draw begin with


def onnx(module: str = "") -> Any:
    """The package, or a module of it."""
    try:
        package = importlib.import_module("onnx")
        return importlib.import_module(f"onnx.{module}") if module else package
    except ImportError as error:
        message = "sj.interop.onnx needs the package onnx: pip install 'seqjax[onnx]'"
        raise ImportError(message) from error


@dataclass(eq=False)
class Graph:
    """A graph, or one inside a node of another, whose values it sees.

    Attributes:
      proto: the GraphProto.
      opsets: those that the model imports.
      around: the graph in which it is, if any.
    """

    proto: Any
    opsets: Sequence[Any]
    around: "Graph | None" = None
    constants: dict[str, np.ndarray | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.initializers = {tensor.name: tensor for tensor in self.proto.initializer}
        self.producers = {name: node for node in self.proto.node for name in node.output if name}

    def inside(self) -> Iterator["Graph"]:
        """The graph, and all those inside its nodes."""
        yield self
        for node in self.proto.node:
            for attribute in node.attribute:
                for proto in (attribute.g, *attribute.graphs):
                    if proto.node:
                        yield from Graph(proto, self.opsets, self).inside()

    @property
    def version(self) -> int:
        """Of the operators of ONNX itself."""
        return next((o.version for o in self.opsets if o.domain in ("", "ai.onnx")), 1)

    def initializer(self, name: str) -> np.ndarray | None:
        tensor = self.initializers.get(name)
        if tensor is None:
            return None
        if tensor.data_location == onnx().TensorProto.EXTERNAL:
            expected = f"a model with its data: {name!r} is in another file, which onnx.load reads"
            raise ValueError(_checks.mismatch("source", expected, "one without"))
        return onnx("numpy_helper").to_array(tensor)

    def constant(self, name: str) -> np.ndarray | None:
        """A value that depends on no input; None if it does."""
        if name not in self.constants:
            self.constants[name] = self._constant(name)
        return self.constants[name]

    def _constant(self, name: str) -> np.ndarray | None:
        if name in self.initializers:
            return self.initializer(name)
        node = self.producers.get(name)
        if node is None:
            given = {value.name for value in self.proto.input}
            return None if self.around is None or name in given else self.around.constant(name)
        if not is_computable(node):
            return None
        arrays = [self.constant(of) if of else None for of in node.input]
        if any(of and array is None for of, array in zip(node.input, arrays, strict=True)):
            return None
        return dict(zip(node.output, evaluate(node, arrays, self.opsets), strict=True))[name]

    def readers(self, name: str) -> list[Any]:
        """The nodes that read a value; and the graph, if it is one of its outputs."""
        nodes = [node for node in self.proto.node if name in node.input]
        return nodes + [output for output in self.proto.output if output.name == name]


def load(source: Any) -> Graph:
    """The main graph of a file, of its bytes, or of a model that is loaded."""
    package = onnx()
    model = source
    if isinstance(source, (str, os.PathLike)):
        model = package.load(source)
    elif isinstance(source, bytes):
        model = package.load_from_string(source)
    _checks.instance("source", model, package.ModelProto, "a path, bytes or an onnx.ModelProto")
    if model.functions:
        model = onnx("inliner").inline_local_functions(model)
    return Graph(model.graph, model.opset_import)


def find(graph: Graph, argument: str, name: str) -> tuple[Graph, Any]:
    """The node of a name, or whose first output has it, and the graph in which it is."""
    every = [(inner, node) for inner in graph.inside() for node in inner.proto.node]
    found = [pair for pair in every if pair[1].name == name]
    if len(found) != 1:
        by_output = [pair for pair in every if first_output(pair[1]) == name]
        if len(found) > 1 and not by_output:
            outputs = listed(repr(first_output(node)) for _, node in found)
            expected = f"the name of one node; by their first outputs they are {outputs}"
            raise ValueError(_checks.mismatch(argument, expected, repr(name)))
        found = by_output
    if len(found) != 1:
        layers = ("RNN", "LSTM", "GRU", "Gemm", "MatMul", "Gather")
        some = [node for op in layers for _, node in every if node.op_type == op]
        expected = f"the name of a node, such as {', '.join(map(shown, some[:8]))}"
        raise ValueError(_checks.mismatch(argument, expected, repr(name)))
    return found[0]


def shown(node: Any) -> str:
    return f"{node.op_type} {node.name or first_output(node)!r}"


def first_output(node: Any) -> str:
    """The name of the first output that has one."""
    return next(filter(None, node.output), "")


def attributes(node: Any) -> dict[str, Any]:
    """The attributes of a node that are no graphs; texts as such."""
    get, named = onnx("helper").get_attribute_value, {}
    for attribute in node.attribute:
        value = get(attribute)
        if isinstance(value, list):
            value = [v.decode() if isinstance(v, bytes) else v for v in value]
        named[attribute.name] = value.decode() if isinstance(value, bytes) else value
    return named


def is_standard(node: Any) -> bool:
    """Whether it is an operator of ONNX itself."""
    return node.domain in ("", "ai.onnx")


def is_computable(node: Any) -> bool:
    """Whether the outputs of a node are a function of its inputs, which ONNX defines."""
    kinds = {attribute.type for attribute in node.attribute}
    of_graphs = {onnx().AttributeProto.GRAPH, onnx().AttributeProto.GRAPHS}
    return is_standard(node) and not node.op_type.startswith(RANDOM) and not kinds & of_graphs


def evaluate(
    node: Any, arrays: Sequence[np.ndarray | None], opsets: Sequence[Any]
) -> list[np.ndarray | None]:
    """The outputs of one node, by ONNX' own reference; None of those that have no name."""
    helper, empty = onnx("helper"), onnx().TypeProto()
    feed = {n: a for n, a in zip(node.input, arrays, strict=True) if n and a is not None}
    outputs = [name for name in node.output if name]
    values = [[helper.make_value_info(n, empty) for n in names] for names in (feed, outputs)]
    model = helper.make_model(
        helper.make_graph([node], "node", *values), opset_imports=list(opsets)
    )
    try:
        computed = onnx("reference").ReferenceEvaluator(model).run(None, feed)
    except Exception as error:  # whatever the operator says
        expected = f"a node that onnx.reference computes, of {shown(node)}"
        raise ValueError(_checks.mismatch("source", expected, f"{error}"[:300])) from error
    made = dict(zip(outputs, map(np.asarray, computed), strict=True))
    return [made.get(name) for name in node.output]
