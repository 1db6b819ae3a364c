"""Rows of a table by their numbers, without a product."""

from typing import Any

import jax
import jax.numpy as jnp

from seqjax._tree import wide_dtype
from seqjax.ops._jax import axes_of, sharding

__all__ = ["lookup", "rows_at"]


def rows_at(table: jax.Array, numbers: jax.Array) -> jax.Array:
    """`table[numbers]`, where a batch on explicit axes may have either of them in common."""
    place = _place(table, numbers)
    if place is None:
        return table[numbers]
    if not numbers.ndim:  # a slice to JAX, which would not be told
        return rows_at(table, numbers[None])[0]
    return table.at[numbers].get(out_sharding=place)


def _place(table: jax.Array, numbers: jax.Array) -> Any:
    return sharding((*axes_of(numbers), *axes_of(table)[1:]), table, numbers)


@jax.custom_jvp
def lookup(table: jax.Array, number: jax.Array) -> jax.Array:
    """The row of a table [V, F] with an integer number; NaN if it has none.

    Under `vmap` the gradient of the table is one [V, F], pooled over time and batch, and summed in
    float32 at least.
    """
    # Unsigned, since a negative one would count from the end; V, since JAX narrows large ones.
    number = number.astype(jnp.uint64 if number.dtype.itemsize == 8 else jnp.uint32)
    number = jnp.minimum(number, len(table))
    place = _place(table, number)
    return table.at[number].get(mode="fill", fill_value=jnp.nan, out_sharding=place)


@lookup.defjvp
def _jvp(primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    # The table itself is not widened. The transpose of this adds up the cotangents of each row.
    (table, number), (d_table, _) = primals, tangents
    d_rows = lookup(d_table.astype(wide_dtype(table.dtype)), number)
    return lookup(table, number), d_rows.astype(table.dtype)
