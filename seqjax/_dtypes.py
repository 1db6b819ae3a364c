"""Other dtypes for pytrees of arrays, or of their shapes."""

from typing import Any

import jax
import jax.numpy as jnp

Tree = Any


def cast(tree: Tree, dtype) -> Tree:
    """The tree with its floating leaves in `dtype`, and complex ones of that precision.

    Leaves are arrays or `jax.ShapeDtypeStruct`s; integers, bools and random keys stay.
    """
    return jax.tree.map(lambda leaf: _with_dtype(leaf, _alike(leaf.dtype, dtype)), tree)


def _alike(old, dtype):
    if jnp.issubdtype(old, jnp.floating):
        return dtype
    if jnp.issubdtype(old, jnp.complexfloating):
        return jnp.complex128 if jnp.dtype(dtype).itemsize == 8 else jnp.complex64
    return old


def _with_dtype(leaf, dtype):
    if leaf.dtype == dtype:
        return leaf
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(leaf.shape, dtype)
    return leaf.astype(dtype)
