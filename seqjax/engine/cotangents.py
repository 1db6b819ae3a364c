"""Cotangents of pytrees as the recursion carries them: lists of the leaves that have a derivative.

A state may hold leaves that have none: a counter, a random key.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero

from seqjax._tree import is_inexact
from seqjax._types import PyTree

__all__ = ["add", "complete", "inexact", "instantiate", "returned", "zeros"]


def inexact(tree: PyTree) -> list:
    """The differentiable leaves of a (co)tangent or primal tree; None for a symbolic zero."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if is_inexact(leaf)]
    return [None if isinstance(leaf, SymbolicZero) else leaf for leaf in leaves]


def complete(template: PyTree, leaves: list) -> PyTree:
    """A cotangent of the whole of `template`: float0 where it has no derivative."""
    given = iter(leaves)
    return jax.tree.map(
        lambda leaf: (
            next(given) if is_inexact(leaf) else np.zeros(np.shape(leaf), jax.dtypes.float0)
        ),
        template,
    )


def returned(template: PyTree, leaves: list) -> PyTree:
    """The same as a rule returns it: None, of any symbolic shape, where it has no derivative."""
    given = iter(leaves)
    return jax.tree.map(lambda leaf: next(given) if is_inexact(leaf) else None, template)


def instantiate(leaves: list, like: list) -> list:
    """Cotangents with arrays of zeros in the place of None."""
    return [
        jnp.zeros_like(a) if leaf is None else leaf for leaf, a in zip(leaves, like, strict=True)
    ]


def zeros(leaves: list) -> list:
    return [jnp.zeros_like(leaf) for leaf in leaves]


def add(a: list, b: list) -> list:
    return [x + y for x, y in zip(a, b, strict=True)]
