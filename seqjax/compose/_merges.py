"""How the outputs of several models become one."""

import functools
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from seqjax import _checks
from seqjax._types import PyTree
from seqjax.engine.model import spec_of

__all__ = ["check_merge", "merge_function", "merged_spec"]

Merge = str | Callable[..., PyTree]

MERGES: dict[str, Callable[..., jax.Array]] = {
    "concat": lambda *ys: jnp.concatenate(ys, axis=-1),
    "sum": lambda *ys: functools.reduce(operator.add, ys),
    "mean": lambda *ys: functools.reduce(operator.add, ys) / len(ys),
    "product": lambda *ys: functools.reduce(operator.mul, ys),
}


def check_merge(merge: Any) -> Merge:
    """One of those above, or a function of one step's outputs."""
    if callable(merge):
        return _checks.part("merge", merge)
    return _checks.choice("merge", merge, tuple(MERGES))


def merge_function(merge: Merge) -> Callable[..., PyTree]:
    return merge if callable(merge) else MERGES[merge]


def merged_spec(merge: Merge, outputs: tuple[PyTree, ...]) -> PyTree:
    """Shape and dtype of what is merged, from those of the outputs; None if one is unknown.

    Raises:
      ValueError, TypeError: outputs of shapes, or of dtypes, that do not fit a named merge.
    """
    if None in outputs:
        return None
    if not callable(merge):
        _check_fit(merge, outputs)
    return spec_of(merge_function(merge), *outputs)


def _check_fit(merge: str, outputs: tuple[PyTree, ...]) -> None:
    expected = f"outputs that fit {merge!r}"
    given = " and ".join(map(_checks.describe, outputs))
    shapes = [getattr(y, "shape", ()) for y in outputs]
    if merge == "concat":  # of vectors, of any sizes
        fits = () not in shapes and len({shape[:-1] for shape in shapes}) == 1
    else:
        fits = len(set(shapes)) == 1
    if not fits:
        raise ValueError(_checks.mismatch("merge", expected, given))
    if len({getattr(y, "dtype", None) for y in outputs}) != 1:
        raise TypeError(_checks.mismatch("merge", expected, given))
