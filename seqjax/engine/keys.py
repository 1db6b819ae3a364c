"""The random keys of time steps, and of the parts of a model."""

from typing import Any

import jax
import jax.numpy as jnp

from seqjax._types import Key
from seqjax.engine.model import Model
from seqjax.engine.recurrence import Steps

__all__ = ["numbers", "part_key", "part_steps", "step_keys"]


def numbers(first: Any, time: int, dtype: Any = None) -> jax.Array:
    """The numbers of so many steps, from this one on; from 0 on if None."""
    counted = jnp.arange(time, dtype=dtype)
    return counted if first is None else counted + first.astype(counted.dtype)


def step_keys(model: Model, key: Key | None, time: int, first: Any) -> jax.Array | None:
    """What each step draws from, [T]; None in evaluation, and for a model that draws nothing."""
    if key is None or not model.stochastic:
        return None
    return key if key.ndim else jax.vmap(jax.random.fold_in, (None, 0))(key, numbers(first, time))


def part_key(model: Model, key: Key | None, number: int) -> jax.Array | None:
    """What a part of a model draws from: the keys of no two parts are the same."""
    if key is None or not model.stochastic:
        return None
    fold = jax.vmap(jax.random.fold_in, (0, None)) if key.ndim else jax.random.fold_in
    return fold(key, number)


def part_steps(model: Model, steps: Steps, number: int) -> Steps:
    """The steps as this part of a model sees them."""
    return steps._replace(key=part_key(model, steps.key, number))
