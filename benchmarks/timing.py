"""How the benchmarks time: all candidates in turn, in one process, and their medians."""

import statistics
import time
from collections.abc import Callable

import jax
import numpy as np


def interleaved(
    calls: dict[str, Callable], seconds: float, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """Median milliseconds of each call; all are called in turn, in an order drawn each time.

    Before a call is timed it is made once untimed: the threads of another library go on spinning
    for a while after its own call, and what it left in the caches is not ours.
    """
    times: dict[str, list] = {name: [] for name in calls}
    order, draw = list(calls), np.random.default_rng(0)
    begun = time.perf_counter()
    while time.perf_counter() - begun < seconds or len(times[order[0]]) < 7:
        draw.shuffle(order)
        for name in order:
            jax.block_until_ready(calls[name]())
            at = clock()
            jax.block_until_ready(calls[name]())
            times[name].append(1e3 * (clock() - at))
    return {name: statistics.median(each[1:]) for name, each in times.items()}


def rounded(figures: dict[str, float]) -> dict[str, float]:
    """To four digits, for the results."""
    return {name: float(f"{value:.4g}") for name, value in figures.items()}
