"""Delay lines: the last N values of a series, and what several delays of it add up to.

A line is [N, I], the oldest value first; a kernel has one matrix [I, O] for every delay. Over a
series that is a causal convolution, in which nothing is recurrent.
"""

import itertools
import math

import jax.numpy as jnp
from jax import lax

from seqjax import _checks
from seqjax.engine.recurrence import Steps
from seqjax.ops.rows import matmul

__all__ = ["check_delays", "read_line", "read_series"]


def check_delays(name: str, delays, *, at_least: int) -> tuple[int, ...]:
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


def read_line(delays, kernel, line):
    """Σ_k line(t - delays[k]) kernel[k] at one time: line [N + 1, I] ends with t itself."""
    taps = jnp.concatenate([line[len(line) - 1 - delay] for delay in delays])
    return matmul(taps, kernel.reshape(-1, kernel.shape[-1]))


def read_series(delays, kernel, line, xs, steps: Steps):
    """The same for all times of a series.

    Args:
      delays: K of them, N the largest.
      kernel: [K, I, O].
      line: [N, I], the values before the series.
      xs: [T, I], T ≥ 1.
      steps: an invalid step is left out of the line; at a reset the line is zero again.

    Returns:
      ([N, I], the line after the series; [T, O]).
    """
    time, reset, rank = len(xs), steps.reset, None
    if steps.valid is not None:  # the valid steps come first, the others out of reach
        rank = jnp.cumsum(steps.valid) - 1
        place = jnp.where(steps.valid, rank, time)
        xs = jnp.zeros_like(xs).at[place].set(xs, mode="drop")
        if reset is not None:
            reset = jnp.zeros_like(reset).at[place].set(reset, mode="drop")
    before = len(line)
    line = jnp.concatenate([line, xs])
    if reset is None:
        us, begin = _convolve(delays, kernel, line, time), None
    else:  # the first row of the line that each step may read
        begin = lax.cummax(jnp.where(reset, before + jnp.arange(time), 0))
        us = _since(begin, delays, kernel, line, time)
    if rank is None:
        line = line[time:]
    else:
        line = lax.dynamic_slice_in_dim(line, rank[-1] + 1, before)
        us = us[jnp.maximum(rank, 0)]
    if begin is not None:
        count = time if rank is None else rank[-1] + 1
        kept = (count + jnp.arange(before) >= begin[-1])[:, None]
        line = jnp.where(kept, line, jnp.zeros_like(line))
    return line, us


def _convolve(delays, kernel, line, time):
    """One convolution for any delays: what lies between them has zeros in its kernel."""
    first, last = delays[0], delays[-1]
    gap = math.gcd(*(delay - first for delay in delays)) or 1
    count = (last - first) // gap + 1
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


def _since(begin, delays, kernel, line, time):
    """What lies before `begin` counts as zero: a mask of its own for every delay."""
    before = len(line) - time

    def tap(delay):
        rows = before - delay + jnp.arange(time)
        inside = (rows >= begin)[:, None]
        values = line[before - delay : len(line) - delay]
        return jnp.where(inside, values, jnp.zeros_like(values))

    taps = jnp.concatenate([tap(delay) for delay in delays], axis=1)
    return matmul(taps, kernel.reshape(-1, kernel.shape[-1]))
