"""Functions with options bound to them, which compare by value, and the text of a call."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from seqjax import _checks
from seqjax._tree import cast

__all__ = ["call_text", "in_dtype", "static_partial", "with_dtypes"]


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
    return static_partial(_cast_result, function, dtype)


def _cast_result(function: Callable, dtype: Any, *args: Any) -> Any:
    return cast(function(*args), dtype)


def call_text(factory: Callable, *sizes: Any, **options: Any) -> str:
    """The call of a factory that makes a model: options at their default are left out."""
    defaults = {
        name: parameter.default for name, parameter in inspect.signature(factory).parameters.items()
    }
    named = [f"{k}={_text(v)}" for k, v in options.items() if v != defaults[k]]
    return f"{factory.__name__}({', '.join([*map(_text, sizes), *named])})"


def with_dtypes(call: str, dtype: Any, param_dtype: Any) -> str:
    """The text of a call, with dtypes that are not the default ones."""
    named = []
    if dtype is not None and dtype != jnp.dtype(jnp.result_type(float)):
        named.append(f"dtype={np.dtype(dtype).name}")
    if param_dtype is not None and param_dtype != dtype:
        named.append(f"param_dtype={np.dtype(param_dtype).name}")
    return f"{call[:-1]}{', ' if named else ''}{', '.join(named)})"


def _text(value: Any) -> str:
    if isinstance(value, static_partial):
        keywords = [f"{name}={_text(v)}" for name, v in value.keywords.items()]
        return f"static_partial({', '.join([*map(_text, (value.func, *value.args)), *keywords])})"
    if type(value) is tuple:
        return f"({', '.join(map(_text, value))}{',' if len(value) == 1 else ''})"
    name = getattr(value, "__name__", None)
    return name if callable(value) and isinstance(name, str) else repr(value)
