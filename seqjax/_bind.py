"""Functions with options bound to them, which compare by value."""

import functools
from collections.abc import Callable
from typing import Any

from seqjax._dtypes import cast

__all__ = ["bind", "in_dtype"]


class bind(functools.partial):
    """`functools.partial` that is equal, and hashes alike, where function and arguments are.

    A factory binds its options to module-level functions with it; so the same arguments make
    an equal cell, and `jit` does not trace again.
    """

    def _key(self):
        return self.func, self.args, tuple(sorted(self.keywords.items()))

    def __eq__(self, other):
        return isinstance(other, bind) and self._key() == other._key()

    def __hash__(self):
        return hash(self._key())


def in_dtype(function: Callable, dtype) -> Callable:
    """`function` making arrays of this dtype: by its bound option, or by casting its result."""
    if isinstance(function, bind) and "dtype" in function.keywords:
        return bind(function.func, *function.args, **function.keywords | {"dtype": dtype})
    return bind(_cast_result, function, dtype)


def _cast_result(function: Callable, dtype, *args) -> Any:
    return cast(function(*args), dtype)
