"""A plain function of one step as a model: no parameters, no state."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from seqjax import _checks
from seqjax._static import text
from seqjax._types import Key, PyTree
from seqjax.engine.model import Model, spec_of
from seqjax.models._pointwise import Pointwise

__all__ = ["Function", "as_model"]


def as_model(name: str, value: Any) -> Model:
    """The model itself; or a function of x(t), as a model."""
    if isinstance(value, Model):
        return value
    if not callable(value):
        expected = "a seqjax model or a function"
        raise TypeError(_checks.mismatch(name, expected, _checks.describe(value)))
    called = getattr(value, "__name__", "")
    if getattr(sys.modules["seqjax"], called, None) is value:
        made = f"{called}(…), a model"
        raise TypeError(_checks.mismatch(name, made, f"sj.{called}, which makes one"))
    return Function(_checks.part(name, value))


@dataclass(frozen=True, repr=False)
class Function(Pointwise):
    """y(t) = f(x(t)), of an x(t) that only the models around it may know."""

    function: Callable[[PyTree], PyTree]
    input_spec = None
    dtype = None

    def __repr__(self) -> str:
        return text(self.function)

    def init(self, key: Key) -> tuple[()]:
        _checks.key("key", key)
        return ()

    def apply(self, params: tuple[()], x: PyTree) -> PyTree:
        return _checks.arrays(f"the y that {self!r} returns", self.function(x))

    def output_of(self, x: PyTree) -> PyTree:
        return None if x is None else spec_of(self.apply, (), x)

    def astype(self, dtype: Any) -> "Function":
        _checks.float_dtype("dtype", dtype)
        return self
