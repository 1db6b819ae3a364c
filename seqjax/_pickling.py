"""Pickles of models, whose fields may be functions that JAX has wrapped.

`jnp.tanh` and `jax.nn.relu` are objects, not functions, and cannot be pickled by themselves. What
can be imported under its own name is stored by that name, as functions are.
"""

import importlib
import io
import pickle
import types
from typing import Any

__all__ = ["dumps", "loads"]


class _Pickler(pickle.Pickler):
    def reducer_override(self, obj: Any) -> Any:
        module, name = getattr(obj, "__module__", None), getattr(obj, "__qualname__", None)
        if isinstance(obj, (type, types.FunctionType)) or not callable(obj):
            return NotImplemented
        if isinstance(module, str) and isinstance(name, str) and _found(module, name) is obj:
            return _found, (module, name)
        return NotImplemented


def _found(module: str, name: str) -> Any:
    """Looks up an object by name; None if there is none."""
    try:
        found: Any = importlib.import_module(module)
    except ImportError:
        return None
    for part in name.split("."):
        found = getattr(found, part, None)
    return found


def dumps(value: Any) -> bytes:
    stream = io.BytesIO()
    _Pickler(stream).dump(value)
    return stream.getvalue()


def loads(cls: type, fields: bytes) -> Any:
    """An instance of a frozen dataclass from its pickled fields."""
    model: Any = object.__new__(cls)
    for name, value in pickle.loads(fields).items():
        object.__setattr__(model, name, value)
    return model
