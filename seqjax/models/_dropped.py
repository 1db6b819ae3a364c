"""What all kinds of dropout share: zero at random, and the rest scaled to keep the mean."""

import jax
import jax.numpy as jnp

__all__ = ["drop", "scaled"]


def drop(rate: float, key: jax.Array, number: int, a: jax.Array) -> jax.Array:
    """An array with elements zero at this rate; one of several that draw from a key, by number."""
    kept = jax.random.bernoulli(jax.random.fold_in(key, number), 1 - rate, a.shape)
    return scaled(rate, kept, a)


def scaled(rate: float, kept: jax.Array, a: jax.Array) -> jax.Array:
    """The elements that are kept, divided by 1 - rate, and zero elsewhere."""
    return jnp.where(kept, a / (1 - rate), jnp.zeros_like(a))
