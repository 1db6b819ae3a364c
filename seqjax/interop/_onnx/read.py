"""Reading layers of ONNX: of a whole graph, or single nodes by their names."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from seqjax import _checks
from seqjax._types import PyTree
from seqjax.compose.bidirectional import Bidirectional
from seqjax.engine.model import Model
from seqjax.interop._convention import check_convention, check_met
from seqjax.interop._format import Layers, check_layers
from seqjax.interop._onnx.chain import chain
from seqjax.interop._onnx.functions import ALONG
from seqjax.interop._onnx.layouts import INPUTS
from seqjax.interop._onnx.nodes import Layer, NodeReader, check_axis, function_layer
from seqjax.interop._onnx.source import Graph, find, load
from seqjax.interop._read import stacked, without_params
from seqjax.models.cell import Cell

__all__ = ["layers_of", "read"]


def read(
    source: Any, node: str, layers: Layers, convention: Mapping[str, Any] | None, dtype: Any
) -> tuple[Model, PyTree]:
    """A stack, or the one layer that there is."""
    dtype = None if dtype is None else _checks.float_dtype("dtype", dtype)
    reader = NodeReader(check_convention(convention), dtype)
    found = layers_of(source, node, layers, reader)
    pairs = [(layer.model, layer.params) for layer in found]
    pair = pairs[0] if len(pairs) == 1 and layers is None else stacked(pairs, layers)
    check_met(reader.convention, reader.met, pair[0])
    return pair


def layers_of(
    source: Any, node: str, layers: Layers, reader: NodeReader | None = None
) -> list[Layer]:
    reader = NodeReader({}, None) if reader is None else reader
    _checks.instance("node", node, str, "the name of a node")
    if node and layers is not None:
        raise ValueError(_checks.mismatch("layers", "None beside node=", repr(layers)))
    graph = load(source)
    if node:
        return [_by_name(graph, reader, "node", node)]
    if layers is None:
        return chain(graph, reader)
    named = [
        _by_name(graph, reader, "layers", layer)
        if isinstance(layer, str)
        else Layer(*without_params(layer))
        for layer in check_layers(layers)
    ]
    recurrent = [layer for layer in named if isinstance(layer.model, (Cell, Bidirectional))]
    if any(layer.reverse is not None for layer in recurrent) and len(recurrent) > 1:
        expected = "no backward operator beside another recurrent one: read it by node="
        raise ValueError(_checks.mismatch("layers", expected, repr(layers)))
    return named


def _by_name(graph: Graph, reader: NodeReader, argument: str, name: str) -> Layer:
    """One node, and the Add of a bias after a MatMul."""
    inner, node = find(graph, argument, name)
    slots = dict(zip(INPUTS.get(node.op_type, ()), node.input, strict=False))
    constants = {slot: inner.constant(of) for slot, of in slots.items() if of and slot != "X"}
    known = {slot: array for slot, array in constants.items() if array is not None}
    if node.op_type in (*ALONG, "LayerNormalization"):
        check_axis(node, graph, None)
    layer = function_layer(node) or reader.layer(node, known)
    bias = _bias_after(inner, node) if node.op_type == "MatMul" else None
    return layer if bias is None else reader.with_bias(node, layer, bias)


def _bias_after(graph: Graph, node: Any) -> np.ndarray | None:
    readers = graph.readers(node.output[0])
    if len(readers) != 1 or getattr(readers[0], "op_type", "") != "Add":
        return None
    (other,) = {*readers[0].input} - {node.output[0]} or {""}
    return graph.constant(other) if other else None
