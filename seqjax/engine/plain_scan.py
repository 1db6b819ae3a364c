"""A plain `lax.scan` of steps, for JAX to differentiate."""

from collections.abc import Callable
from typing import Any

import jax
from jax import lax

from seqjax._tree import is_half, where, wide_dtype
from seqjax._types import PyTree
from seqjax.engine.recurrence import Steps, harmless, spread_half_vectors, vary_with
from seqjax.ops.zero_cotangent import zero_cotangent

__all__ = ["one_by_one", "plain_scan", "widened"]


def plain_scan(
    step: Callable[[PyTree, PyTree], tuple[PyTree, PyTree]],
    state: PyTree,
    reset_state: PyTree,
    inputs: PyTree,
    steps: Steps,
) -> tuple[PyTree, PyTree]:
    """A `lax.scan` of `step(state, inputs at t) -> (state, y)`, for JAX to differentiate."""
    state, reset_state = vary_with((state, reset_state), (inputs, steps))
    reset_state, narrow = widened(reset_state)

    def body(h_prev: PyTree, at_t: Any) -> tuple[PyTree, PyTree]:
        inputs_t, at = at_t
        if at.cut is not None:
            h_prev = where(at.cut, zero_cotangent(h_prev), h_prev)
        entering = where(at.reset, narrow(reset_state), h_prev)
        if at.valid is None:
            return step(entering, inputs_t)
        # Zero times an infinite derivative would be NaN.
        h_t, y_t = step(where(at.valid, entering, jax.tree.map(harmless, entering)), inputs_t)
        return where(at.valid, h_t, entering), y_t

    return lax.scan(body, state, (inputs, steps))


def one_by_one(
    step: Callable[..., tuple[PyTree, PyTree]], params: PyTree
) -> Callable[[PyTree, tuple], tuple[PyTree, PyTree]]:
    """`step(params, state, *inputs)` as a function of state and inputs, for `plain_scan`.

    Gradients of parameters in half precision are summed over time and batch in float32.
    """
    wide, narrow = widened(params)

    def at(state: PyTree, inputs: tuple) -> tuple[PyTree, PyTree]:
        return step(spread_half_vectors(narrow(wide), inputs), state, *inputs)

    return at


def widened(tree: PyTree) -> tuple[PyTree, Callable[[PyTree], PyTree]]:
    """What a loop reads at every step, in float32 if it has half of that, and the way back.

    Its gradient is a sum over the steps, which JAX forms in the dtype of what the loop reads.
    """

    def wide(a: jax.Array) -> jax.Array:
        return a.astype(wide_dtype(a.dtype)) if is_half(a.dtype) else a

    def narrow(wide: PyTree) -> PyTree:
        return jax.tree.map(lambda w, a: w.astype(a.dtype) if is_half(a.dtype) else w, wide, tree)

    return jax.tree.map(wide, tree), narrow
