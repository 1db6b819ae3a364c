"""A model as a graph of ONNX."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from seqjax import _checks
from seqjax._types import PyTree
from seqjax.engine.model import Model, check_params
from seqjax.interop._kinds import kind_of
from seqjax.interop._layout import RECURRENT, Layout, encode
from seqjax.interop._names import as_numpy
from seqjax.interop._onnx.functions import is_symmetric, operator_of
from seqjax.interop._onnx.layers import Leaf, leaves
from seqjax.interop._onnx.layouts import FUNCTIONS, INPUTS, ONNX
from seqjax.interop._onnx.source import onnx
from seqjax.interop._write import layouts_of, visit_layer
from seqjax.models.dense import Dense
from seqjax.models.function import Function

__all__ = ["written"]

OPSET, IR_VERSION = 17, 8  # LayerNormalization is since 17, which runtimes of 2022 have
DTYPES = ("float16", "float32", "float64")


class Writer:
    """A graph that is being written; `last` is the name of the series so far."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self.inputs: list[Any] = []
        self.outputs: list[Any] = []
        self.last = "xs"

    def constant(self, name: str, array: Any) -> str:
        self.initializers.append(onnx("numpy_helper").from_array(np.asarray(array), name))
        return name

    def node(
        self, op: str, inputs: Sequence[str], outputs: Sequence[str], name: str = "", **options: Any
    ) -> str:
        """Adds a node, named as its first output if it has no other name."""
        make = onnx("helper").make_node
        self.nodes.append(make(op, inputs, outputs, name=name or outputs[0], **options))
        return outputs[0]

    def then(self, op: str, name: str, *more: str, **options: Any) -> None:
        """Adds a node that reads the series, whose output is the series from then on."""
        self.last = self.node(op, [self.last, *more], [name], **options)

    def value(self, name: str, dtype: np.dtype, shape: Sequence[int | str]) -> Any:
        elem_type = onnx("helper").np_dtype_to_tensor_dtype(dtype)
        return onnx("helper").make_tensor_value_info(name, elem_type, shape)

    def leaf(self, leaf: Leaf) -> None:
        model, number = leaf.model, leaf.number
        if isinstance(model, Function):
            self.function(model.function, f"function_{number}")
            return
        sides: list[tuple[dict, Layout, dict[str, np.ndarray]]] = []
        states: list[Any] = []

        def visit(layer: Any) -> None:
            _, (layout, *_) = layouts_of(ONNX, layer.model)
            _, options = kind_of(layer.model) or ("", {})
            arrays = dict(layer.params)
            states.append(arrays.pop("initial_state", None))
            arrays = {part: as_numpy(f"params[{part!r}]", a) for part, a in arrays.items()}
            sides.append((options, layout, encode(ONNX.title, layout, arrays)))

        activation = None
        if isinstance(model, Dense):  # the function is a node of its own
            activation, model = model.activation, dataclasses.replace(model, activation=None)
        visit_layer(ONNX, model, leaf.params, number, visit)
        kind = sides[0][1].kind
        if kind in RECURRENT:
            self.recurrent(model, kind, number, sides, states)
        elif len(sides) > 1:
            expected = f"{', '.join(RECURRENT)} in two directions"
            raise ValueError(_checks.mismatch("model", expected, repr(model)))
        else:
            options, _, arrays = sides[0]
            self.pointwise(kind, number, options, arrays)
        if activation is not None:
            self.function(activation, f"function_{number}")

    def function(self, function: Any, name: str) -> None:
        found = operator_of(function, in_cell=False)
        if found is None:
            expected = "functions that are operators of ONNX"
            raise ValueError(_checks.mismatch("model", expected, repr(Function(function))))
        self.then(found[0], name, **found[1])

    def pointwise(self, kind: str, number: int, options: dict, arrays: Mapping) -> None:
        name = f"{kind}_{number}"
        held = {part: self.constant(f"{name}.{part}", array) for part, array in arrays.items()}
        if kind == "embed":
            self.last = self.node("Gather", [held["W"], self.last], [name])
        elif kind == "layer_norm":
            if arrays["W"].dtype == np.float64:
                expected = "layer_norm of float32: ONNX computes mean and variance in float32"
                raise TypeError(_checks.mismatch("model", expected, "float64"))
            self.then("LayerNormalization", name, held["W"], held["B"], epsilon=options["eps"])
        else:
            self.last = self.node("MatMul", [self.last, held["W"]], [f"{name}.product"], name)
            if "B" in held:
                self.then("Add", f"{name}.sum", held["B"])

    def recurrent(
        self, model: Model, kind: str, number: int, sides: list[tuple], states: list[Any]
    ) -> None:
        (_, layout, arrays), *others = sides
        shapes = {name: array.shape for name, array in arrays.items()}
        for _, other, of_other in others:
            if other != layout or {n: a.shape for n, a in of_other.items()} != shapes:
                expected = "two directions of the same sizes and options, but for activations"
                raise ValueError(_checks.mismatch("model", expected, repr(model)))
        name, hidden_size = f"{kind}_{number}", shapes["R"][1]
        stacked = {part: np.stack([side[2][part] for side in sides]) for part in arrays}
        if "B" in stacked:
            stacked["B"] = stacked["B"].reshape(len(sides), -1)
        attributes = _activations(model, kind, [side[0] for side in sides])
        if layout.options.get("coupled"):
            stacked = {part: _with_f(part, array) for part, array in stacked.items()}
            attributes["input_forget"] = 1
        if kind == "gru":
            attributes["linear_before_reset"] = int(layout.options.get("reset_after", True))
        if others:
            attributes["direction"] = "bidirectional"
        given = {part: self.constant(f"{name}.{part}", a) for part, a in stacked.items()}
        of_state = {"h": "initial_h", "c": "initial_c"} if kind == "lstm" else {"h": "initial_h"}
        dtype = stacked["W"].dtype
        finals = []
        for part, slot in of_state.items():
            rows = [_of_state(state, part, hidden_size, dtype) for state in states]
            given[slot] = self.state(f"state.{number}.{part}", np.stack(rows)[:, None])
            finals.append(f"final_state.{number}.{part}")
            self.outputs.append(self.value(finals[-1], dtype, (len(sides), "B", hidden_size)))
        slots = INPUTS[kind.upper()]
        inputs = [self.last, *(given.get(slot, "") for slot in slots[1:])]
        while not inputs[-1]:
            inputs.pop()
        outputs = [f"{name}.Y", *finals]
        attributes["hidden_size"] = hidden_size
        y = self.node(kind.upper(), inputs, outputs, name, **attributes)
        if others:
            y = self.node("Transpose", [y], [f"{name}.transposed"], perm=(0, 2, 1, 3))
            shape = self.constant(f"{name}.shape", np.array([0, 0, 2 * hidden_size]))
            self.last = self.node("Reshape", [y, shape], [f"{name}.ys"])
        else:
            axes = self.constant(f"{name}.axes", np.array([1]))
            self.last = self.node("Squeeze", [y, axes], [f"{name}.ys"])

    def state(self, name: str, default: np.ndarray) -> str:
        """An input for what a layer begins with, which may be left out; for the whole batch."""
        directions, _, size = default.shape
        self.inputs.append(self.value(name, default.dtype, (directions, "1 or B", size)))
        self.constant(name, default)
        if "batch" not in {node.name for node in self.nodes}:
            self.node("Shape", ["xs"], ["batch"], start=1, end=2)
        first = self.constant(f"{name}.first", np.array([directions]))
        last = self.constant(f"{name}.last", np.array([size]))
        shape = self.node("Concat", [first, "batch", last], [f"{name}.shape"], axis=0)
        return self.node("Expand", [name, shape], [f"{name}.each"])

    def model(self, read: Any, output: Any) -> Any:
        """The whole, of a model that reads `read` and outputs `output`."""
        helper = onnx("helper")
        self.nodes[-1].output[0] = "ys"
        dtypes = [np.dtype(np.int64) if not spec.shape else spec.dtype for spec in (read, output)]
        xs, ys = (
            self.value(name, dtype, ("T", "B", *spec.shape))
            for name, dtype, spec in zip(("xs", "ys"), dtypes, (read, output), strict=True)
        )
        graph = helper.make_graph(
            self.nodes, "seqjax", [xs, *self.inputs], [ys, *self.outputs], self.initializers
        )
        opsets = [helper.make_opsetid("", OPSET)]
        return helper.make_model(
            graph, producer_name="seqjax", opset_imports=opsets, ir_version=IR_VERSION
        )


def _activations(model: Model, kind: str, options: list[dict[str, Any]]) -> dict[str, Any]:
    """The attributes that name the activations, where they are not the usual ones."""
    names: list[str] = []
    numbers: dict[str, list[float]] = {"alpha": [], "beta": []}
    usual = {"gate_activation": jax.nn.sigmoid, "activation": jax.numpy.tanh}
    for of_side in options:
        gate, activation = (of_side.get(name, usual[name]) for name in usual)
        if of_side.get("coupled") and not is_symmetric(gate):
            expected = "gates of f(-x) = 1 - f(x) if they are coupled: ONNX has f = 1 - i"
            raise ValueError(_checks.mismatch("model", expected, repr(model)))
        functions = {"lstm": (gate, activation, activation), "gru": (gate, activation)}
        for function in functions.get(kind, (activation,)):
            found = operator_of(function, in_cell=True)
            if found is None:
                expected = "activations that ONNX has in its recurrent operators"
                raise ValueError(_checks.mismatch("model", expected, repr(model)))
            names.append(found[0])
            for number, value in found[1].items():
                numbers[number].append(value)
    if names == [*FUNCTIONS[kind.upper()]] * len(options):
        return {}
    given = {f"activation_{name}": values for name, values in numbers.items() if values}
    return {"activations": names, **given}


def _of_state(state: Any, part: str, size: int, dtype: np.dtype) -> np.ndarray:
    if state is None:
        return np.zeros(size, dtype)
    return as_numpy("params['initial_state']", getattr(state, part, state))


def _with_f(name: str, array: np.ndarray) -> np.ndarray:
    """Of gates i, o, g with zeros for an f, which an LSTM of coupled gates does not use."""
    sides = np.split(array, 2, axis=1) if name == "B" else [array]
    number = 2 if name == "P" else 3
    gates = [np.split(side, number, axis=1) for side in sides]
    rows = []
    for i, o, *g in gates:
        rows += [i, o, np.zeros_like(i), *g]
    return np.concatenate(rows, axis=1)


def written(model: Any, params: PyTree) -> Any:
    """The ModelProto of a model."""
    _checks.instance("model", model, Model, "a seqjax model")
    params = check_params(model, params)
    every = leaves(model, params)
    spec = next((s for leaf in every if (s := leaf.model.input_spec) is not None), None)
    if spec is None:
        expected = "a model that says what it reads"
        raise ValueError(_checks.mismatch("model", expected, repr(model)))
    for leaf in every:
        _check_dtypes(leaf)
    writer = Writer()
    for leaf in every:
        writer.leaf(leaf)
    return writer.model(spec, model.output_of(spec))


def _check_dtypes(leaf: Leaf) -> None:
    """ONNX computes in the dtype of the parameters, and has no other of float."""
    for part in leaf.model.parts.values() or [leaf.model]:
        dtype = getattr(part, "dtype", None)
        for array in jax.tree.leaves(leaf.params):
            if array.dtype.name not in DTYPES or array.dtype != dtype:
                expected = f"one dtype of {', '.join(DTYPES)}, of parameters and computation"
                given = f"{array.dtype.name} and {jax.numpy.dtype(dtype).name} in {leaf.model!r}"
                raise TypeError(_checks.mismatch("model", expected, given))
