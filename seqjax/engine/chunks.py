"""A series in chunks of one length, and where truncation cuts it."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from seqjax._tree import length_of
from seqjax._types import PyTree
from seqjax.engine.recurrence import Steps
from seqjax.engine.schedule import divisor

__all__ = ["scan_chunks", "truncation"]


def scan_chunks(
    chunk: Callable, state: PyTree, xs: PyTree, steps: Steps, size: int | None
) -> tuple[PyTree, PyTree]:
    """`chunk(state, (xs, steps))` over consecutive chunks of at most `size` steps.

    All chunks have one length, so that one program serves for all: a divisor of the number of
    steps where there is one that is not much smaller; else the last chunk is padded.
    """
    time = length_of(xs)
    if size is None or (isinstance(time, int) and size >= time):
        return chunk(state, (xs, steps))
    number = -(-time // size)
    if isinstance(time, int):
        size = divisor(time, size, size) or -(-time // number)
        number = -(-time // size)
    if number * size != time:
        rest = number * size - time
        valid = jnp.ones(time, bool) if steps.valid is None else steps.valid
        xs = jax.tree.map(lambda a: _extended(a, a[-1], rest), xs)
        steps = steps._replace(valid=valid)
        # Keys have no zero; at padding nothing that was drawn is used.
        nothing = jax.tree.map(lambda a: jnp.zeros_like(a[0]), steps.without_key)
        nothing = nothing if steps.key is None else nothing._replace(key=steps.key[-1])
        steps = jax.tree.map(lambda a, value: _extended(a, value, rest), steps, nothing)
    pieces = jax.tree.map(lambda a: a.reshape(number, size, *a.shape[1:]), (xs, steps))
    state, ys = lax.scan(chunk, state, pieces)
    return state, jax.tree.map(lambda y: y.reshape(number * size, *y.shape[2:])[:time], ys)


def _extended(series: jax.Array, value: jax.Array, rest: int) -> jax.Array:
    """`series` [T, …], and `value` for `rest` steps more."""
    return jnp.concatenate([series, jnp.broadcast_to(value, (rest, *series.shape[1:]))])


def truncation(valid: jax.Array | None, time: int, every: int | None) -> jax.Array | None:
    """Where truncation cuts: before the valid steps `every`, 2 `every`, …"""
    if every is None or (isinstance(time, int) and time <= every):
        return None
    number = jnp.arange(time) if valid is None else jnp.cumsum(valid) - 1
    starts = (number > 0) & (number % every == 0)
    return starts if valid is None else starts & valid
