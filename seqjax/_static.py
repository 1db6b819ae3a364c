"""Functions with options bound to them, which compare by value, and the text of a call."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from seqjax import _checks
from seqjax._tree import cast

__all__ = ["call_of", "call_text", "cast_result", "dtypes", "in_dtype", "static_partial", "text"]


class static_partial(functools.partial):
    """`functools.partial` that is equal, and hashes alike, where function and arguments are.

    A factory of cells binds its options to module-level functions with it; so the same arguments
    make an equal cell, and `jit` does not trace again.

    >>> import seqjax as sj
    >>> def scaled(factor, x):
    ...     return factor * x
    >>> sj.static_partial(scaled, 2.0) == sj.static_partial(scaled, 2.0)
    True
    """

    def __new__(cls, function: Callable, /, *args: Any, **keywords: Any) -> "static_partial":
        return super().__new__(cls, _checks.function("function", function), *args, **keywords)

    def _key(self) -> tuple:
        return self.func, self.args, tuple(sorted(self.keywords.items()))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, static_partial) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())


def in_dtype(function: Callable, dtype: Any) -> Callable:
    """`function` making arrays of this dtype: by its bound option, or by casting its result."""
    if isinstance(function, static_partial) and "dtype" in function.keywords:
        return static_partial(function.func, *function.args, **function.keywords | {"dtype": dtype})
    return static_partial(cast_result, function, dtype)


def cast_result(function: Callable, dtype: Any, *args: Any) -> Any:
    """What `in_dtype` makes of a function without an option for it."""
    return cast(function(*args), dtype)


def call_of(factory: Callable, *sizes: Any, **options: Any) -> static_partial:
    """The call of a factory that makes a model: options at their default are left out."""
    parameters = inspect.signature(factory).parameters
    given = {k: v for k, v in options.items() if not _is(v, parameters[k].default)}
    return static_partial(factory, *sizes, **given)


def _is(value: Any, default: Any) -> bool:
    if default is None:  # which for NumPy equals float64
        return value is None
    return bool(value == default)


def dtypes(dtype: Any, param_dtype: Any) -> dict[str, Any]:
    """The options of a factory that say both, None where the second is the first."""
    return {"dtype": dtype, "param_dtype": None if param_dtype == dtype else param_dtype}


def call_text(call: static_partial) -> str:
    """The call as it is written, without a dtype that is the default."""
    keywords = dict(call.keywords)
    if "dtype" in keywords and keywords["dtype"] == jnp.dtype(jnp.result_type(float)):
        del keywords["dtype"]
    return f"{call.func.__name__}({_arguments(call.args, keywords)})"


def _arguments(args: tuple, keywords: dict[str, Any]) -> str:
    return ", ".join([*map(text, args), *(f"{name}={text(v)}" for name, v in keywords.items())])


def text(value: Any) -> str:
    if isinstance(value, static_partial):
        return f"static_partial({_arguments((value.func, *value.args), value.keywords)})"
    if isinstance(value, np.dtype):
        return value.name
    if type(value) is tuple:
        return f"({', '.join(map(text, value))}{',' if len(value) == 1 else ''})"
    name = getattr(value, "__name__", None)
    return name if callable(value) and isinstance(name, str) else repr(value)
