"""The types in seqjax's signatures: pytrees, random keys, and one protocol per cell function."""

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias

import jax
import numpy as np

__all__ = [
    "Activate",
    "ActivateVJP",
    "Array",
    "Coefficients",
    "Draw",
    "Init",
    "InitialState",
    "Initializer",
    "Key",
    "Preactivate",
    "PreactivateVJP",
    "Project",
    "PyTree",
    "Readout",
    "Step",
]

# JAX has no type of its own for these: any nesting of containers with arrays as leaves.
PyTree: TypeAlias = Any
# What an argument may be; results are JAX's.
Array: TypeAlias = jax.Array | np.ndarray
# A scalar of a key dtype (`jax.random.key`), or the words of an old one (`jax.random.PRNGKey`).
Key: TypeAlias = jax.Array


class Init(Protocol):
    """Makes the parameters."""

    def __call__(self, key: Key, /) -> PyTree: ...


class Initializer(Protocol):
    """Draws one block of parameters, as the functions that `jax.nn.initializers` makes."""

    def __call__(self, key: Key, shape: tuple[int, ...], dtype: Any, /) -> Array: ...


class InitialState(Protocol):
    """Makes h(-1)."""

    def __call__(self, params: PyTree, /) -> PyTree: ...


class Step(Protocol):
    """One time step, in the order of `lax.scan`: (h(t), y(t))."""

    def __call__(self, params: PyTree, state: PyTree, x: PyTree, /) -> tuple[PyTree, PyTree]: ...


# u(t), of (params, x(t)), and of what the step draws, if it does.
Project: TypeAlias = Callable[..., PyTree]


class Draw(Protocol):
    """What a step draws; of None what stands for it in evaluation."""

    def __call__(self, key: Key | None, /) -> PyTree: ...


class Preactivate(Protocol):
    """z(t), from h(t-1) and u(t)."""

    def __call__(self, params: PyTree, h_prev: PyTree, u: PyTree, /) -> PyTree: ...


class Activate(Protocol):
    """h(t), from z(t) and h(t-1)."""

    def __call__(self, z: PyTree, h_prev: PyTree, /) -> PyTree: ...


class Coefficients(Protocol):
    """(a(t), b(t)) of h(t) = a(t) ∘ h(t-1) + b(t), from z(t)."""

    def __call__(self, z: PyTree, /) -> tuple[PyTree, PyTree]: ...


class Readout(Protocol):
    """y(t), from h(t)."""

    def __call__(self, params: PyTree, h: PyTree, /) -> PyTree: ...


class ActivateVJP(Protocol):
    """(dz, dh_prev), from dh."""

    def __call__(
        self, z: PyTree, h_prev: PyTree, h: PyTree, dh: PyTree, /
    ) -> tuple[PyTree, PyTree]: ...


class PreactivateVJP(Protocol):
    """dh_prev, from dz."""

    def __call__(
        self, params: PyTree, h_prev: PyTree, u: PyTree, z: PyTree, dz: PyTree, /
    ) -> PyTree: ...
