"""Pytrees of arrays, or of their shapes: dtypes, sizes, and steps of a series."""

from typing import Any

import jax
import jax.numpy as jnp

from seqjax._types import PyTree

__all__ = [
    "at_step",
    "cast",
    "fields_of",
    "flip",
    "is_half",
    "is_inexact",
    "is_traced",
    "length_of",
    "size_in_bytes",
    "step_spec",
    "where",
    "wide_dtype",
]


def cast(tree: PyTree, dtype: Any) -> PyTree:
    """The tree with its floating leaves in `dtype`, and complex ones of that precision.

    Leaves are arrays or `jax.ShapeDtypeStruct`s; integers, bools and random keys stay.
    """
    return jax.tree.map(lambda leaf: _with_dtype(leaf, _alike(leaf.dtype, dtype)), tree)


def _alike(old: Any, dtype: Any) -> Any:
    if jnp.issubdtype(old, jnp.floating):
        return dtype
    if jnp.issubdtype(old, jnp.complexfloating):
        return jnp.complex128 if jnp.dtype(dtype).itemsize == 8 else jnp.complex64
    return old


def _with_dtype(leaf: Any, dtype: Any) -> Any:
    if leaf.dtype == dtype:
        return leaf
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(leaf.shape, dtype)
    return leaf.astype(dtype)


def is_traced(leaf: Any) -> bool:
    """Whether a leaf has no value yet, inside `jit`, `grad`, `vmap`, …"""
    return isinstance(leaf, jax.core.Tracer)  # pyright: ignore[reportAttributeAccessIssue]


def is_inexact(leaf: Any) -> bool:
    """Whether a leaf has derivatives: floating or complex."""
    return jnp.issubdtype(leaf.dtype, jnp.inexact)


def is_half(dtype: Any) -> bool:
    """Whether the dtype is too narrow to accumulate sums in."""
    return jnp.issubdtype(dtype, jnp.floating) and dtype.itemsize < 4


def wide_dtype(dtype: Any) -> Any:
    """The dtype in which many numbers of this one are summed."""
    return jnp.dtype(jnp.float32) if is_half(dtype) else dtype


def where(condition: jax.Array | None, a: PyTree, b: PyTree) -> PyTree:
    """`a` where `condition` (a bool scalar) holds, else `b`; `b` unchanged if it is None."""
    if condition is None:
        return b
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), a, b)


def fields_of(value: Any) -> dict[str, Any] | None:
    """The fields of a named tuple; None of anything else."""
    as_dict: Any = getattr(value, "_asdict", None)
    return None if as_dict is None or not isinstance(value, tuple) else as_dict()


def at_step(series: PyTree, t: int) -> PyTree:
    """One time step of a series."""
    return jax.tree.map(lambda a: a[t], series)


def step_spec(series: PyTree) -> PyTree:
    """Shape and dtype of one time step."""
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), series)


def flip(series: PyTree) -> PyTree:
    """A series in reverse order."""
    return jax.tree.map(lambda a: jnp.flip(a, axis=0), series)


def length_of(series: PyTree) -> int:
    """The number of time steps."""
    return jax.tree.leaves(series)[0].shape[0]


def size_in_bytes(tree: PyTree) -> int:
    """The size of the differentiable leaves."""
    leaves = [a for a in jax.tree.leaves(tree) if is_inexact(a)]
    return sum(a.size * a.dtype.itemsize for a in leaves)
