"""Delay lines: the last N values of a series, and what several delays of it add up to.

A line is [N, I], the oldest value first; a kernel has one matrix [I, O] for every delay. Over a
series that is a causal convolution, in which nothing is recurrent.
"""

import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from seqjax import _checks
from seqjax._tree import is_half
from seqjax._types import PyTree
from seqjax.engine.recurrence import Steps, zero_invalid
from seqjax.ops.lookup import rows_at
from seqjax.ops.matmul import matmul
from seqjax.ops.shift import spread
from seqjax.ops.zero_cotangent import zero_cotangent

__all__ = ["check_delays", "extend", "read_line", "read_series"]


def check_delays(name: str, delays: Any, *, at_least: int) -> tuple[int, ...]:
    """Delays as a tuple: at least one, integers, each larger than the one before."""
    if not isinstance(delays, (tuple, list, range)):
        raise TypeError(_checks.mismatch(name, "a tuple of delays", _checks.describe(delays)))
    checked = tuple(
        _checks.size(f"{name}[{number}]", delay, at_least=at_least)
        for number, delay in enumerate(delays)
    )
    if not checked or any(a >= b for a, b in itertools.pairwise(checked)):
        expected = "at least one delay, each larger than the one before"
        raise ValueError(_checks.mismatch(name, expected, checked))
    return checked


def extend(line: jax.Array, xs: jax.Array) -> jax.Array:
    """The line [N, I], then xs [T, I]. A batch may share a line: its gradient is a sum over it."""
    return jnp.concatenate([spread(line, xs[0]) if is_half(line.dtype) else line, xs])


def read_line(delays: tuple[int, ...], kernel: jax.Array, line: jax.Array) -> jax.Array:
    """Σ_k line(t - delays[k]) kernel[k] at one time: line [N + 1, I] ends with t itself."""
    newest = line.shape[0] - 1
    taps = jnp.concatenate([line[newest - delay] for delay in delays])
    return matmul(taps, kernel.reshape(-1, kernel.shape[-1]))


def read_series(
    delays: tuple[int, ...], kernel: jax.Array, line: jax.Array, xs: jax.Array, steps: Steps
) -> tuple[jax.Array, jax.Array]:
    """The same for all times of a series.

    Args:
      delays: K of them, N the largest.
      kernel: [K, I, O].
      line: [N, I], the values before the series.
      xs: [T, I], T ≥ 1.
      steps: an invalid step is left out of the line; at a reset the line is zero again; no
        gradient goes from a cut or a step after it to one before.

    Returns:
      ([N, I], the line after the series; [T, O]).
    """
    time, reset, cuts, rank = xs.shape[0], steps.reset, steps.cut, None
    if steps.valid is not None:  # the valid steps come first, the others out of reach
        rank = jnp.cumsum(steps.valid) - 1
        xs, reset, cuts = _valid_first(steps.valid, rank, (xs, reset, cuts))
    before = line.shape[0]
    line = extend(line, xs)
    # The first row of the line that each step may read, and the first one that gets a gradient.
    begin, reached = (
        None if flags is None else lax.cummax(jnp.where(flags, before + jnp.arange(time), 0))
        for flags in (reset, cuts)
    )
    us = _respond(delays, kernel, line, begin, reached, time)
    if reached is not None:
        line = _cut_before(reached[-1], line, jnp.arange(line.shape[0]))
    if rank is None:
        line = line[time:]
    else:
        line = lax.dynamic_slice_in_dim(line, rank[-1] + 1, before)
        us = rows_at(us, jnp.maximum(rank, 0))
    if begin is not None:
        count = time if rank is None else rank[-1] + 1
        kept = (count + jnp.arange(before) >= begin[-1])[:, None]
        line = jnp.where(kept, line, jnp.zeros_like(line))
    return line, us


def _valid_first(valid: jax.Array, rank: jax.Array, series: PyTree) -> PyTree:
    """Some series without their invalid steps, zeros at the end.

    Numbers are scattered, and series gathered: a differentiated scatter over a batch with explicit
    axes would have to be told its sharding.
    """
    place = jnp.where(valid, rank, rank.shape[0])
    numbers = jnp.arange(rank.shape[0], dtype=rank.dtype)
    order = jnp.zeros_like(rank).at[place].set(numbers, mode="drop")
    return zero_invalid(numbers <= rank[-1], jax.tree.map(lambda a: rows_at(a, order), series))


def _cut_before(reached: jax.Array, rows: jax.Array, numbers: jax.Array) -> jax.Array:
    """No gradient goes to the rows of a line whose numbers are lower."""
    return jnp.where((numbers < reached)[:, None], zero_cotangent(rows), rows)


def _respond(
    delays: tuple[int, ...],
    kernel: jax.Array,
    line: jax.Array,
    begin: jax.Array | None,
    reached: jax.Array | None,
    time: int,
) -> jax.Array:
    """The sums of all times: by a convolution, or by one matmul with the delayed copies of a line.

    A convolution reads the line where it lies, but multiplies by every zero that stands between
    delays, and by more of them in its gradient. Copies cost memory traffic, K times the line.
    Measured on a CPU, forward and gradient, for 3 to 16 delays, 1 to 32 inputs and outputs and
    batches of 1 to 32: the copies are faster, or as fast, from half a kernel of zeros on
    (at (0, 1, 1000) 30 to 1000 times), and up to three times slower without any.
    """
    if begin is None and reached is None and 2 * len(delays) > _grid(delays)[1]:
        return _convolve(delays, kernel, line, time)
    return _gather(delays, kernel, line, begin, reached, time)


def _grid(delays: tuple[int, ...]) -> tuple[int, int]:
    """The step of the coarsest grid that all delays lie on, and how many points it has."""
    gap = math.gcd(*(delay - delays[0] for delay in delays)) or 1
    return gap, (delays[-1] - delays[0]) // gap + 1


def _convolve(delays: tuple[int, ...], kernel: jax.Array, line: jax.Array, time: int) -> jax.Array:
    """One convolution: what lies between the delays has zeros in its kernel."""
    first, last = delays[0], delays[-1]
    gap, count = _grid(delays)
    if count == len(delays):
        window = kernel[::-1]
    else:
        places = jnp.array([(last - delay) // gap for delay in delays])
        window = jnp.zeros((count, *kernel.shape[1:]), kernel.dtype).at[places].set(kernel)
    return lax.conv_general_dilated(
        line[None, : time + last - first],
        window,
        window_strides=(1,),
        padding="VALID",
        rhs_dilation=(gap,),
        dimension_numbers=("NWC", "WIO", "NWC"),
    )[0]


def _gather(
    delays: tuple[int, ...],
    kernel: jax.Array,
    line: jax.Array,
    begin: jax.Array | None,
    reached: jax.Array | None,
    time: int,
) -> jax.Array:
    """One matmul; what lies before `begin` counts as zero, by a mask of its own for every delay."""
    before = line.shape[0] - time

    def tap(delay: int) -> jax.Array:
        numbers = before - delay + jnp.arange(time)
        values = line[before - delay : before - delay + time]
        if reached is not None:
            values = _cut_before(reached, values, numbers)
        if begin is None:
            return values
        inside = (numbers >= begin)[:, None]
        return jnp.where(inside, values, jnp.zeros_like(values))

    taps = jnp.concatenate([tap(delay) for delay in delays], axis=1)
    return matmul(taps, kernel.reshape(-1, kernel.shape[-1]))
