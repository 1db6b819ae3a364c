"""Graphs of ONNX written as text, and what runs them."""

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")

__all__ = ["graph", "onnx", "run"]


def graph(body, inputs="float[T,B,3] xs", outputs="float[T,B,N] ys", opset=17, **arrays):
    """A model of the nodes in `body`, in ONNX' own notation, and of constants by name."""
    text = f'<ir_version: 8, opset_import: ["" : {opset}]> g ({inputs}) => ({outputs}) {{ {body} }}'
    proto = onnx.parser.parse_model(text)
    tensors = [onnx.numpy_helper.from_array(np.asarray(a), name) for name, a in arrays.items()]
    proto.graph.initializer.extend(tensors)
    return proto


def run(proto, **feed):
    """The outputs by name, of onnxruntime."""
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    session = runtime.InferenceSession(proto.SerializeToString(), options)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, feed), strict=True))
