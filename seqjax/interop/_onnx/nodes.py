"""One node of ONNX as a layer: a model and its params, of the constants that the node reads."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from seqjax import _checks
from seqjax._types import PyTree
from seqjax.compose.bidirectional import bidirectional
from seqjax.engine.model import Model
from seqjax.interop._convention import with_convention
from seqjax.interop._kinds import make
from seqjax.interop._onnx.functions import (
    ACTIVATIONS,
    ALONG,
    DEFAULTS,
    function_of,
    is_symmetric,
    short,
)
from seqjax.interop._onnx.layouts import FUNCTIONS, INPUTS, ONNX, POINTWISE
from seqjax.interop._onnx.source import Graph, attributes, is_standard, shown
from seqjax.interop._read import as_params, dtype_of
from seqjax.models.function import as_model
from seqjax.models.lstm import LSTMState

__all__ = ["Layer", "NodeReader", "check_axis", "function_layer", "refusal"]

# The attributes that are understood.
KNOWN = {
    "LSTM": {"input_forget"},
    "GRU": {"linear_before_reset"},
    "RNN": set(),
}
FOR_ALL = {"activations", "activation_alpha", "activation_beta", "direction", "hidden_size"}
FOR_ALL |= {"layout", "output_sequence"}
DIRECTIONS = {"forward": 1, "reverse": 1, "bidirectional": 2}


class Layer(NamedTuple):
    """A layer that was read; `reverse` is its node if that is a recurrence run backward alone."""

    model: Model
    params: PyTree
    reverse: Any = None


def refusal(node: Any, expected: str, given: str) -> ValueError:
    return ValueError(_checks.mismatch(f"source, {shown(node)}", expected, given))


@dataclass(frozen=True)
class NodeReader:
    """Reads nodes; `met` are the kinds of those that it read."""

    convention: Mapping[str, Any]
    dtype: Any
    met: set[str] = field(default_factory=set)

    def layer(self, node: Any, arrays: Mapping[str, np.ndarray]) -> Layer:
        """The layer that a node is; `arrays` are its constant inputs."""
        if is_standard(node) and node.op_type in FUNCTIONS:
            return self.recurrent(node, arrays)
        if is_standard(node) and node.op_type in POINTWISE:
            return self.pointwise(node, arrays)
        raise refusal(node, "a node that is a layer of seqjax", "another one")

    def recurrent(self, node: Any, arrays: Mapping[str, np.ndarray]) -> Layer:
        told = attributes(node)
        present = {name for name, of in zip(INPUTS[node.op_type], node.input, strict=False) if of}
        for name in sorted(present & {"W", "R", "B", "P"} - {*arrays}):
            raise refusal(node, f"{name} to be constant", "one that depends on an input")
        if "clip" in told:
            raise refusal(node, "no clip: pre-activations are not bounded", f"{told['clip']:g}")
        unknown = {*told} - FOR_ALL - KNOWN[node.op_type]
        if unknown:
            raise refusal(node, "no other attributes", ", ".join(sorted(unknown)))
        direction = told.get("direction", "forward")
        number = DIRECTIONS.get(direction)
        if number is None or any(len(arrays[name]) != number for name in present & {*"WRBP"}):
            shapes = ", ".join(f"{n} {_checks.describe(a)}" for n, a in arrays.items())
            raise refusal(node, f"arrays of direction {direction!r}", shapes)
        functions = _functions_of_cells(node, told, number)
        states = _initial_states(node, arrays, present, number)
        pairs = []
        for side, (options, state) in enumerate(zip(functions, states, strict=True)):
            of_side = {name: array[side] for name, array in arrays.items() if name in {*"WRBP"}}
            pairs.append(self.cell(node, of_side, told, options, state))
        if number == 1:
            model, params = pairs[0]
            return Layer(model, params, node if direction == "reverse" else None)
        (forward, params), (backward, params_back) = pairs
        both = {"forward": params, "backward": params_back}
        return Layer(bidirectional(forward, backward), both)

    def cell(
        self,
        node: Any,
        arrays: dict[str, np.ndarray],
        told: Mapping[str, Any],
        options: Mapping[str, Any],
        state: list[np.ndarray] | None,
    ) -> tuple[Model, PyTree]:
        """One direction."""
        kind = node.op_type.lower()
        structure: dict[str, Any] = {}
        if told.get("input_forget"):
            structure["coupled"] = True
            if not is_symmetric(options["gate_activation"]):
                expected = "gates of f(-x) = 1 - f(x) with input_forget"
                raise refusal(node, expected, str(told.get("activations")))
            arrays = {name: _without_f(name, array) for name, array in arrays.items()}
        if kind == "gru" and not told.get("linear_before_reset"):
            structure["reset_after"] = False
        if "P" in arrays:
            structure["peepholes"] = True
        if "B" in arrays:
            arrays["B"] = arrays["B"].reshape(2, -1)
        options = {**options, "learn_initial_state": state is not None}
        model, params = self.read(node, kind, arrays, structure, options)
        if state is not None:
            parts = [jnp.array(part.astype(dtype_of(params))) for part in state]
            params["initial_state"] = LSTMState(*parts) if kind == "lstm" else parts[0]
        return model, params

    def read(
        self,
        node: Any,
        kind: str,
        arrays: dict[str, np.ndarray],
        structure: Mapping[str, Any],
        options: Mapping[str, Any],
    ) -> tuple[Model, PyTree]:
        """By the layout of a kind of layer."""
        layout = next(x for x in ONNX.layouts if x.kind == kind and x.options == structure)
        layout = with_convention(layout, self.convention)
        self.met.add(kind)
        sizes = layout.sizes({name: array.shape for name, array in arrays.items()})
        if sizes is None:
            shapes = ", ".join(f"{n} {_checks.describe(a)}" for n, a in arrays.items())
            raise refusal(node, f"shapes of {kind}", shapes)
        params = as_params(layout, "", arrays, self.dtype)
        named = {**options, **layout.options}  # of a convention, what it says
        return make(kind, sizes, named, "bias" in params, dtype_of(params)), params

    def pointwise(self, node: Any, arrays: Mapping[str, np.ndarray]) -> Layer:
        """A dense layer, an embedding, or layer normalization."""
        told, held = attributes(node), {n: a for n, a in arrays.items() if n in ("W", "B")}
        expected = "constants beside the series that it reads"
        names = [n for n, of in zip(INPUTS[node.op_type], node.input, strict=False) if of]
        if {*names} - {*held} != {"X"}:
            raise refusal(node, expected, f"{', '.join(sorted({*names} - {*held}))} as inputs")
        if node.op_type == "LayerNormalization":
            options = {"eps": short(told.get("epsilon", 1e-5))}
            return Layer(*self.read(node, "layer_norm", held, {}, options))
        if node.op_type == "Gather":
            if told.get("axis", 0) or held["W"].ndim != 2:
                raise refusal(node, "rows of a table", f"{_checks.describe(held['W'])}")
            return Layer(*self.read(node, "embed", held, {}, {}))
        others = {"alpha": 1.0, "beta": 1.0, "transA": 0}
        for name in [n for n in others if told.get(n, others[n]) != others[n]]:
            raise refusal(node, f"{name}={others[name]:g}", f"{told[name]:g}")
        if told.get("transB"):
            held["W"] = held["W"].T
        if "B" in held:
            held["B"] = _vector(held["B"], held["W"].shape[-1])
        return Layer(*self.read(node, "dense", held, {}, {}))

    def with_bias(self, node: Any, layer: Layer, array: np.ndarray) -> Layer:
        """A dense layer without bias, and the Add of a constant."""
        kernel = layer.params["kernel"]
        bias = _vector(array if self.dtype is None else array.astype(self.dtype), kernel.shape[1])
        if bias.shape != kernel.shape[1:] or bias.dtype != kernel.dtype:
            expected = f"a bias {kernel.dtype.name}[{kernel.shape[1]}]"
            raise refusal(node, expected, _checks.describe(array))
        sizes = dict(zip("IH", kernel.shape, strict=True))
        model = make("dense", sizes, {}, True, kernel.dtype)
        return Layer(model, layer.params | {"bias": jnp.array(bias)})


def _vector(array: np.ndarray, size: int) -> np.ndarray:
    """The row that ONNX broadcasts over all others; the array if it is more than one."""
    if array.size == 1:
        return np.full(size, array.reshape(()))
    return array.reshape(-1) if array.size == array.shape[-1] else array


def _without_f(name: str, array: np.ndarray) -> np.ndarray:
    """Of gates i, o, f, g without the f that an LSTM of coupled gates does not use."""
    sides = np.split(array, 2) if name == "B" else [array]
    number = 3 if name == "P" else 4
    gates = [np.split(side, number) for side in sides]
    return np.concatenate([g for side in gates for n, g in enumerate(side) if n != 2])


def check_axis(node: Any, graph: Graph, rank: int | None) -> None:
    """Refuses what does not go along the last axis alone; that of unknown rank is -1."""
    before_13 = graph.version < 13 and node.op_type in ALONG
    axis = attributes(node).get("axis", 1 if before_13 else -1)
    if axis not in (-1, -1 if rank is None else rank - 1):
        raise refusal(node, "one along the features of each step, axis=-1", f"axis={axis}")


def function_layer(node: Any) -> Layer | None:
    """Of an operator that is a function of its one input."""
    told = attributes(node)
    told.pop("axis", None)
    defaults = DEFAULTS.get(node.op_type, ())
    names = ("alpha", "beta")[: len(defaults)]
    given = [name for name in node.input if name]
    if not is_standard(node) or len(given) != 1 or {*told} - {*names}:
        return None
    numbers = tuple(short(told.get(n, d)) for n, d in zip(names, defaults, strict=True))
    function = function_of(node.op_type, numbers)
    return None if function is None else Layer(as_model("function", function), ())


def _functions_of_cells(node: Any, told: Mapping[str, Any], number: int) -> list[dict[str, Any]]:
    """Options of a cell, for each direction."""
    usual = FUNCTIONS[node.op_type]
    names = told.get("activations") or [*usual] * number
    if len(names) != len(usual) * number:
        raise refusal(node, f"{len(usual) * number} activations", f"{len(names)}")
    canonical = {name.lower(): name for name in ACTIVATIONS}
    alphas, betas = ([*told.get(f"activation_{n}", ())] for n in ("alpha", "beta"))
    functions = []
    for name in names:
        known = canonical.get(name.lower())
        if known is None:
            raise refusal(node, f"activations among {', '.join(ACTIVATIONS)}", repr(name))
        # Each takes its numbers off the front of the lists, if it has any, and any are left.
        defaults = DEFAULTS.get(known, ())
        lists = zip(defaults, (alphas, betas), strict=False)
        given = [left.pop(0) if left else default for default, left in lists]
        functions.append(function_of(known, tuple(map(short, given))))
    options = []
    for start in range(0, len(functions), len(usual)):
        *gate, activation = functions[start : start + len(usual)]
        if gate[1:] and gate[1] != activation:
            raise refusal(
                node, "one activation of g and of c(t)", f"{names[start + 1 : start + 3]}"
            )
        options.append({"activation": activation} | ({"gate_activation": gate[0]} if gate else {}))
    return options


def _initial_states(
    node: Any, arrays: Mapping[str, np.ndarray], present: set[str], number: int
) -> list[list[np.ndarray] | None]:
    """What each direction begins with, [H] each, if that is constant and not zero."""
    names = [name for name in INPUTS[node.op_type] if name.startswith("initial")]
    some = [name for name in names if name in arrays and np.any(arrays[name])]
    if not some:
        return [None] * number
    if present & {*names} - {*arrays}:
        raise refusal(node, "initial_h and initial_c both constant, or neither", f"{some[0]} alone")
    like = arrays[some[0]]
    zeros = np.zeros_like(like)
    states = [arrays.get(name, zeros) for name in names]
    if attributes(node).get("layout"):
        states = [state.swapaxes(0, 1) for state in states]
    if any(len(state) != number or (state != state[:, :1]).any() for state in states):
        raise refusal(node, "a constant initial state that is the same for all series", "others")
    return [[state[side, 0] for state in states] for side in range(number)]
