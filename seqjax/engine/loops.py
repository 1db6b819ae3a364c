"""The two loops over steps of `BPTT`: `forward_scan`, and the recursion, `reverse_scan`.

A fused kernel for an accelerator, or an associative scan, takes the place of these two, and of
nothing else.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax import lax

from seqjax._tree import length_of, where
from seqjax._types import PyTree
from seqjax.engine.cotangents import zeros
from seqjax.engine.history import History
from seqjax.engine.recurrence import Steps
from seqjax.engine.schedule import unroll
from seqjax.ops.hoist import Hoisted

__all__ = ["forward_scan", "reverse_scan"]


def forward_scan(
    forward: Hoisted,
    history: History,
    keep_z: bool,
    weights: PyTree,
    state: PyTree,
    reset_state: PyTree,
    u: PyTree,
    steps: Steps,
) -> tuple[PyTree, PyTree, PyTree]:
    """Runs a recurrence; returns the last state, h [T, …] and the pre-activations (if kept)."""
    once = forward.once(*weights)

    def step(state: PyTree, inputs: Any) -> tuple[PyTree, Any]:
        u_t, valid_t, reset_t = inputs
        entering = where(reset_t, reset_state, state)
        z_t, h_t = forward.rest(once, [], history.read(entering), u_t)
        state = history.push(entering, h_t)
        if valid_t is not None:
            state = where(valid_t, state, entering)
        return state, (history.newest(state), z_t if keep_z else None)

    inputs = u, steps.valid, steps.reset
    at_once = unroll(length_of(inputs), jax.default_backend())
    last, (states, z) = lax.scan(step, state, inputs, unroll=at_once)
    return last, states, z


def reverse_scan(
    backward_step: Callable[[list, list], tuple[list, list]],
    history: History,
    lam: list,
    d_reset_state: list | None,
    d_states: list,
    local: list,
    steps: Steps,
    time: int,
) -> tuple[list, list | None, list]:
    """The recursion: ∂L/∂h(t) for all t to δ(t) for all t.

    Args:
      backward_step: `backward_step(local vjps of step t, λ(t)) -> (δ(t), step t's part of λ(t-1))`.
      history: how the state is built from earlier h(t).
      lam: the cotangent of the final state, to which `d_states[T-1]` is added.
      d_reset_state: zeros for the cotangent of the reset state; None without resets.
      d_states: ∂L/∂h(t), [T, …]; None for a leaf where it is zero.
      local: what `backward_step` reads, [T, …].
      steps: validity, resets and cuts.
      time: T.

    Returns:
      (∂L/∂h(-1), d_reset_state, δ [T, …]).
    """

    def step(carry: Any, inputs: Any) -> tuple[Any, list]:
        lam, d_reset_state = carry
        d_h_t, local_t, at = inputs
        lam = history.add(lam, d_h_t)
        dz_t, d_h_prev = backward_step(local_t, lam)
        nothing = zeros(lam)
        if at.valid is not None:  # an invalid step hands λ on and has no δ
            dz_t = where(at.valid, dz_t, zeros(dz_t))
            d_h_prev = where(at.valid, d_h_prev, lam)
        if at.reset is not None:  # the step began at the reset state, not at h(t-1)
            d_reset = where(at.reset, d_h_prev, nothing)
            pairs = zip(d_reset_state, d_reset, strict=True)
            d_reset_state = [a + b.astype(a.dtype) for a, b in pairs]
            d_h_prev = where(at.reset, nothing, d_h_prev)
        d_h_prev = where(at.cut, nothing, d_h_prev)
        return (d_h_prev, d_reset_state), dz_t

    inputs = d_states, local, steps
    # If only the last state of a linear recurrence is used, there may be nothing to scan over.
    length = None if jax.tree.leaves(inputs) else time
    at_once = unroll(time, jax.default_backend())
    (d_state, d_reset_state), dz = lax.scan(
        step, (lam, d_reset_state), inputs, length=length, reverse=True, unroll=at_once
    )
    return d_state, d_reset_state, dz
