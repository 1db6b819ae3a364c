"""A model as JSON: the calls of the factories that make it, and the names of functions.

    {"call": "stack", "args": [{"call": "lstm", "args": [3, 4]}, {"function": "jax.numpy.tanh"}]}

Whatever a file says, nothing runs but the factories below, and functions of `jax.nn` and of the
lists below go into what they make.
"""

import importlib
import math
import sys
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from seqjax import _checks
from seqjax._static import cast_result, in_dtype, static_partial
from seqjax._tree import fields_of
from seqjax.engine.model import Model
from seqjax.interop._onnx.functions import MADE
from seqjax.models.function import Function

__all__ = ["STATES", "model_of", "public", "state_fields", "tree_of"]

FACTORIES = (
    *("bidirectional", "branches", "feedback", "residual", "stack", "zoneout"),
    *("conv_lstm", "elman", "gru", "jordan", "lru", "lstm", "memory", "min_gru", "min_lstm"),
    *("narx", "rg_lru", "rnn", "s5", "slstm", "tdnn"),
    *("dense", "dropout", "embed", "from_step", "layer_norm", "rms_norm"),
)
STATES = ("DropoutState", "JordanState", "LSTMState", "MemoryState", "NARXState", "SLSTMState")
# Functions that may stand in a model, by module: all of `jax.nn` are of arrays alone, but jax.numpy
# also has some that write files.
FUNCTIONS = {
    "jax.numpy": (
        *("abs", "arcsinh", "arctan", "cos", "cosh", "exp", "expm1", "floor", "log", "log1p"),
        *("negative", "reciprocal", "round", "sign", "sin", "sinc", "sinh", "sqrt", "square"),
        *("tan", "tanh", "clip", "maximum", "minimum"),
    ),
    "jax.nn": None,
    "jax.nn.initializers": ("ones", "zeros"),
    "jax.lax": ("cos", "erf", "logistic", "rsqrt", "sin", "stop_gradient", "tanh"),
    "onnx": tuple(function.__name__ for function in MADE.values()),
}
# Where those are that `sj.interop.onnx` makes, of which files name only the operator.
MODULES = {"onnx": MADE["Affine"].__module__}


def tree_of(model: Model, functions: Mapping[str, Callable]) -> Any:
    """A model as JSON; `functions` are the caller's own, by the names that they have there."""
    tree = _encode(repr(model), model, functions)
    if model_of(tree, functions) != model:
        expected = "what a factory makes, and nothing replaced in it"
        raise ValueError(_checks.mismatch("model", expected, f"another one than {model!r}"))
    return tree


def model_of(tree: Any, functions: Mapping[str, Callable]) -> Model:
    """The model of such JSON."""
    model = _decode(tree, functions)
    return _checks.instance("model", model, Model, "the call of a factory of seqjax")


def _encode(where: str, value: Any, functions: Mapping[str, Callable]) -> Any:
    if isinstance(value, Function):
        value = value.function
    if isinstance(value, Model):
        if not isinstance(value.call, static_partial):
            expected = "a model that a factory makes: its `call` says which"
            raise ValueError(_checks.mismatch("model", expected, repr(value)))
        return {"call": _factory(value.call.func, functions)} | _arguments(value.call, functions)
    if isinstance(value, static_partial) and value.func is cast_result:
        function, dtype = value.args
        return {"cast": _encode(where, function, functions), "dtype": dtype.name}
    if isinstance(value, static_partial):
        return {"partial": _encode(where, value.func, functions)} | _arguments(value, functions)
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, np.dtype):
        return value.name
    if isinstance(value, jax.ShapeDtypeStruct):
        return {"shape": list(value.shape), "dtype": _checks.dtype_name(value.dtype)}
    inner = lambda key, part: _encode(f"{where}, {key}", part, functions)
    if (fields := state_fields(value)) is not None:
        parts = {name: inner(name, part) for name, part in fields.items()}
        return {"state": type(value).__name__, "fields": parts}
    if type(value) is tuple:
        return [inner(number, part) for number, part in enumerate(value)]
    if type(value) is dict and all(isinstance(key, str) for key in value):
        return {"dict": {key: inner(key, part) for key, part in value.items()}}
    return _function(where, value, functions)


def _arguments(call: static_partial, functions: Mapping[str, Callable]) -> dict[str, Any]:
    name = getattr(call.func, "__name__", "a partial")
    args = [_encode(f"{name}, argument {n}", v, functions) for n, v in enumerate(call.args)]
    options = {k: _encode(f"{name}, {k}", v, functions) for k, v in call.keywords.items()}
    return ({"args": args} if args else {}) | ({"options": options} if options else {})


def _factory(factory: Callable, functions: Mapping[str, Callable]) -> Any:
    name = getattr(factory, "__name__", None)
    known = name in FACTORIES and public(name) is factory
    return name if known else _given("a factory", factory, functions)


def _function(where: str, value: Any, functions: Mapping[str, Callable]) -> Any:
    name = getattr(value, "__name__", None)
    if callable(value) and isinstance(name, str):
        for module, names in FUNCTIONS.items():
            if _listed(name, names) and _found(module, name) is value:
                return {"function": f"{module}.{name}"}
    return _given(where, value, functions)


def _given(where: str, value: Any, functions: Mapping[str, Callable]) -> dict[str, str]:
    for name, function in functions.items():
        if function is value:
            return {"given": name}
    expected = "a function of jax.nn or jax.numpy, or one of yours in functions={name: function}"
    raise ValueError(_checks.mismatch(where, expected, _checks.describe(value)))


def _decode(tree: Any, functions: Mapping[str, Callable]) -> Any:
    inner = lambda part: _decode(part, functions)
    if isinstance(tree, list):
        return tuple(map(inner, tree))
    if not isinstance(tree, dict):
        return tree
    args = [inner(part) for part in tree.get("args", ())]
    options = {name: inner(part) for name, part in tree.get("options", {}).items()}
    match tree:
        case {"call": str(name)} if name in FACTORIES:
            return public(name)(*args, **options)
        case {"call": {"given": str(name)}} if name in functions:
            return functions[name](*args, **options)
        case {"partial": function}:
            return static_partial(inner(function), *args, **options)
        case {"cast": function, "dtype": dtype}:
            return in_dtype(inner(function), np.dtype(dtype))
        case {"function": str(name)} if (found := _known(name)) is not None:
            return found
        case {"given": str(name)} if name in functions:
            return functions[name]
        case {"given": str(name)} | {"call": {"given": str(name)}}:
            expected = f"the function that was saved as {name!r}, functions={{{name!r}: …}}"
            given = f"only {[*functions]}" if functions else "none"
            raise ValueError(_checks.mismatch("functions", expected, given))
        case {"state": str(name), "fields": fields} if name in STATES:
            return public(name)(**{key: inner(part) for key, part in fields.items()})
        case {"shape": shape, "dtype": dtype}:
            return jax.ShapeDtypeStruct(tuple(shape), np.dtype(dtype))
        case {"dict": items}:
            return {key: inner(part) for key, part in items.items()}
    raise ValueError(_checks.mismatch("model", "what this version of seqjax can make", f"{tree}"))


def public(name: str) -> Any:
    """A name that seqjax has."""
    return getattr(sys.modules["seqjax"], name)


def state_fields(value: Any) -> dict[str, Any] | None:
    """The fields of a state that has a class of seqjax; None of anything else."""
    name = type(value).__name__
    return fields_of(value) if name in STATES and type(value) is public(name) else None


def _listed(name: str, names: tuple[str, ...] | None) -> bool:
    return not name.startswith("_") if names is None else name in names


def _known(path: str) -> Any:
    """The function of this name; None if there is none, or it may not stand in a model."""
    module, _, name = path.rpartition(".")
    if module not in FUNCTIONS or not _listed(name, FUNCTIONS[module]):
        return None
    found = _found(module, name)
    return found if callable(found) else None


def _found(module: str, name: str) -> Any:
    return getattr(importlib.import_module(MODULES.get(module, module)), name, None)
