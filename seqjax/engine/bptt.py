"""Back-propagation through time: the recursion of the notes, section 4, and nothing else.

A recurrence is z(t) = preactivate(params, h(t-1), u(t)), h(t) = activate(z(t), h(t-1)).
Given ∂DIV/∂h(t) from outside for every t, `bptt` runs backward

    λ(t) = ∂DIV/∂h(t) + [∂z(t+1)/∂h(t)]ᵀ δ(t+1) + [∂h(t+1)/∂h(t) at fixed z]ᵀ λ(t+1)
    δ(t) = [∂h(t)/∂z(t)]ᵀ λ(t)                                     (∇_Z of the notes)

and hands δ to the stacked pre-activations as their cotangent. These are formed from the
known states by one parallel matmul, so JAX's transpose of it pools the weight gradients
over time (and over a vmapped batch) in one contraction: no parameter gradient is carried
by the loop, and none is held per example.

Two loops run over time: `forward_scan`, from the projected inputs to states and pre-activations,
and `reverse_scan`, from ∂DIV/∂h to δ. All else is parallel over the steps of a chunk.
A fused kernel for an accelerator would take the place of these two, and of nothing else.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.custom_derivatives import SymbolicZero

from seqjax import _checks
from seqjax.engine.history import LAST_STEP, History
from seqjax.engine.recurrence import (
    Recurrence,
    Steps,
    Traced,
    at_step,
    clipped,
    cut,
    fill,
    over_steps,
    select,
    trace,
    vary_with,
)
from seqjax.ops.rows import wide_dtype
from seqjax.ops.stage import Staged, stage

__all__ = ["bptt", "forward_scan", "reverse_scan"]

Tree = Any
STATES, PREACTIVATIONS = "seqjax.states", "seqjax.preactivations"


def bptt(rec: Recurrence, params, state, start, u, steps: Steps, history: History, clip, keep_z):
    """The states of a recurrence, differentiated by the recursion above.

    Args:
      rec: the recurrence.
      params: its parameters.
      state: h(-1), or as much of the past as `history` says.
      start: the state that a reset returns to (read where `steps.reset` is given).
      u: the projected inputs, [T, …], T ≥ 1.
      steps: validity, resets and cuts; a reset or a cut may only stand at a valid step.
      history: what the state is of the h before.
      clip: bound on every element of λ(t), or None.
      keep_z: whether the pre-activations of the forward pass are named for keeping.

    Returns:
      (the state after step T-1, h [T, …]).
    """
    state, start = vary_with((state, start), (params, u, steps))
    example = history.read(state), history.newest(state), at_step(u, 0)
    traced = trace(rec, params, *example)
    weights = (traced.closed_over, params)
    pull = _trace_pull(traced, weights, *example)
    forward = traced.forward
    last, states, z = _run(
        _Static((forward._replace(closed_over=[]), history, keep_z)),
        (forward.closed_over, params),
        state,
        start,
        u,
        steps,
    )
    states = _named(states, STATES)
    entering = history.entering(state, start, states, steps)
    entering = fill(steps.valid, cut(entering, again=forward.skipped))
    formed = over_steps(traced.preactivate, weights, entering, u)
    # What JAX differentiates is `formed`. Where the forward pass kept its own z, that is the
    # value, and computing `formed` is dead code.
    z = _conduct(_named(z, PREACTIVATIONS), formed) if keep_z else formed
    closed_over, pull = pull.closed_over, pull._replace(closed_over=[])
    static = _Static((pull, history, clip))
    return _adjoint(static, closed_over, weights, state, start, u, z, states, steps, last)


class _Static:
    """Passes by identity through a `custom_vjp`."""

    def __init__(self, value: Any):
        self.value = value


def forward_scan(forward: Staged, history: History, keep_z, weights, state, start, u, steps: Steps):
    """Runs a recurrence; returns the last state, h [T, …] and the pre-activations (if kept)."""
    once = forward.once(*weights)

    def step(state, inputs):
        u_t, valid_t, reset_t = inputs
        entering = select(reset_t, start, state)
        z_t, h_t = forward.rest(once, [], history.read(entering), u_t)
        state = history.push(entering, h_t)
        if valid_t is not None:
            state = select(valid_t, state, entering)
        return state, (history.newest(state), z_t if keep_z else None)

    last, (states, z) = lax.scan(step, state, (u, steps.valid, steps.reset))
    return last, states, z


def reverse_scan(
    pull: Callable, add: Callable, lam: list, d_start: list | None, d_states: list, known, steps
):
    """The recursion: ∂DIV/∂h(t) for all t to δ(t) for all t.

    Args:
      pull: `pull(what is known of step t, λ(t)) -> (δ(t), the part of λ(t-1) from step t)`.
      add: `add(λ(t), ∂DIV/∂h(t)) -> λ(t)`, see `History`.
      lam: ∂DIV/∂h(T-1) from outside, that of the last of `d_states` apart.
      d_start: zeros for the cotangent of the state that resets return to; None without resets.
      d_states: ∂DIV/∂h(t), [T, …]; None for a leaf where it is zero.
      known: what `pull` reads, [T, …].
      steps: validity, resets and cuts.

    Returns:
      (∂DIV/∂h(-1), d_start, δ [T, …]).
    """

    def step(carry, inputs):
        lam, d_start = carry
        d_h_t, known_t, (valid_t, reset_t, cut_t) = inputs
        lam = add(lam, d_h_t)
        dz_t, d_h_prev = pull(known_t, lam)
        nothing = _zeros(lam)
        if valid_t is not None:  # an invalid step hands λ on and has no δ
            dz_t = select(valid_t, dz_t, _zeros(dz_t))
            d_h_prev = select(valid_t, d_h_prev, lam)
        if reset_t is not None:  # the step began at `start`, not at h(t-1)
            to_start = select(reset_t, d_h_prev, nothing)
            d_start = [a + b.astype(a.dtype) for a, b in zip(d_start, to_start, strict=True)]
            d_h_prev = select(reset_t, nothing, d_h_prev)
        d_h_prev = select(cut_t, nothing, d_h_prev)
        return (d_h_prev, d_start), dz_t

    (d_state, d_start), dz = lax.scan(step, (lam, d_start), (d_states, known, steps), reverse=True)
    return d_state, d_start, dz


def _trace_pull(traced: Traced, weights, h_prev, h_t, u_t) -> Staged:
    """One step of the recursion, sorted by what it depends on.

    All that does not depend on λ (the gates, f'(Z)) is computed in parallel over time; products
    with λ are what remains for the loop.
    """
    rec = traced.rec
    activate_vjp = rec.activate_vjp or partial(_derived_activate_vjp, traced.activate)

    def preactivate_vjp(weights, h_prev, u_t, z_t, dz_t):
        if rec.preactivate_vjp is not None:
            return rec.preactivate_vjp(weights[1], h_prev, u_t, z_t, dz_t)
        return jax.vjp(lambda h: traced.preactivate(weights, h, u_t), h_prev)[1](dz_t)[0]

    def pull(weights, known, lam):
        """δ(t), and what h(t-1) gets from step t: None if no gradient goes there."""
        z_t, h_prev, h_t, u_t = known
        dz_t, through_state = _checks.pair(
            "activate_vjp", activate_vjp(z_t, h_prev, h_t, _complete(h_t, lam)), "(dz, dh_prev)"
        )
        dz_t = _inexact(dz_t)
        through_z = preactivate_vjp(weights, h_prev, u_t, z_t, _complete(z_t, dz_t))
        parts = [_inexact(part) for part in (through_state, through_z) if part is not None]
        return dz_t, _add(*parts) if len(parts) == 2 else parts[0] if parts else None

    z_t = traced.preactivate(weights, h_prev, u_t)
    return stage(pull, weights, (z_t, h_prev, h_t, u_t), _inexact(h_t))


def _named(tree: Tree, name: str) -> Tree:
    """Named for `jax.checkpoint`; a complex array in two parts, since it cannot keep one."""

    def named(a):
        if jnp.iscomplexobj(a):
            return lax.complex(checkpoint_name(a.real, name), checkpoint_name(a.imag, name))
        return checkpoint_name(a, name)

    return jax.tree.map(named, tree)


# The forward scan and the conduit: true functions, whose first derivative is left to `_adjoint`.
@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _run(static, *operands):
    return forward_scan(*static.value, *operands)


_run.defvjp(
    lambda static, *operands: (forward_scan(*static.value, *operands), None),
    lambda static, _, cotangent: (None,) * 5,
)


@jax.custom_vjp
def _conduct(value, formed):
    return value


_conduct.defvjp(lambda value, formed: (value, None), lambda _, cotangent: (None, cotangent))


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _adjoint(static, closed_over, weights, state, start, u, z, states, steps, last):
    return last, states


def _adjoint_fwd(static, *operands):
    *operands, states, steps, last = jax.tree.map(lambda leaf: leaf.value, operands)
    return (last, states), (*operands, states, steps)


def _adjoint_bwd(static, operands, cotangents):
    pull, history, clip = static.value
    closed_over, weights, state, start, u, z, states, steps = operands
    d_last, d_states = (_inexact(tree) for tree in cotangents)
    entering = history.entering(state, start, states, steps)
    local = fill(steps.valid, (z, entering, states, u))
    once = pull.once(closed_over, weights)
    known = jax.vmap(pull.at_step, (None, 0))(once, local)

    def step(known_t, lam):
        lam = lam if clip is None else [clipped(a, clip) for a in lam]
        dz_t, d_read = pull.rest(once, known_t, history.newest(lam))
        return dz_t, history.before(lam, d_read)

    lam = [
        jnp.zeros_like(h) if d is None else d for d, h in zip(d_last, _inexact(state), strict=True)
    ]
    if steps.valid is None and pull.result[1] is None and history == LAST_STEP:
        # No gradient crosses a step (Elman's copy): λ(t) is what comes from outside, and
        # nothing is left to loop over.
        dz, _ = jax.vmap(step)(known, _outside(lam, d_states, _inexact(states)))
        return None, None, None, None, None, _returned(z, dz), None, None, None
    d_start = None
    if steps.reset is not None:  # summed over all resets
        d_start = [jnp.zeros(h.shape, wide_dtype(h.dtype)) for h in _inexact(start)]
    lam, d_start = vary_with((lam, d_start), (state, start))
    d_state, d_start, dz = reverse_scan(step, history.add, lam, d_start, d_states, known, steps)
    if d_start is not None:
        pairs = zip(d_start, _inexact(start), strict=True)
        d_start = _returned(start, [d.astype(h.dtype) for d, h in pairs])
    d_state, dz = _returned(state, d_state), _returned(z, dz)
    return None, None, d_state, d_start, None, dz, None, None, None


def _outside(d_last: list, d_states: list, states: list) -> list:
    """∂DIV/∂h(t) from outside, for all t: that on the last state is one on h(T-1)."""
    d_states = [
        jnp.zeros_like(h) if d is None else d for d, h in zip(d_states, states, strict=True)
    ]
    # Not `at[-1].add`: a scatter over a batch with explicit axes has to be told its sharding.
    pairs = zip(d_states, d_last, strict=True)
    return [jnp.concatenate([d[:-1], (d[-1] + last)[None]]) for d, last in pairs]


_adjoint.defvjp(_adjoint_fwd, _adjoint_bwd, symbolic_zeros=True)


def _derived_activate_vjp(activate, z_t, h_prev, h_t, d_h_t):
    return jax.vjp(activate, z_t, h_prev)[1](d_h_t)


# A state may hold leaves that have no derivative (a counter, a random key). The recursion
# carries lists of the others.
def _is_inexact(leaf) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.inexact)


def _inexact(tree: Tree) -> list:
    """The differentiable leaves of a (co)tangent or primal tree; None for a symbolic zero."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if _is_inexact(leaf)]
    return [None if isinstance(leaf, SymbolicZero) else leaf for leaf in leaves]


def _complete(template: Tree, leaves: list) -> Tree:
    """A cotangent of the whole of `template`: float0 where it has no derivative."""
    given = iter(leaves)
    return jax.tree.map(
        lambda leaf: (
            next(given) if _is_inexact(leaf) else np.zeros(np.shape(leaf), jax.dtypes.float0)
        ),
        template,
    )


def _returned(template: Tree, leaves: list) -> Tree:
    """The same as a rule returns it: None, of any symbolic shape, where it has no derivative."""
    given = iter(leaves)
    return jax.tree.map(lambda leaf: next(given) if _is_inexact(leaf) else None, template)


def _zeros(leaves: list) -> list:
    return [jnp.zeros_like(leaf) for leaf in leaves]


def _add(a: list, b: list) -> list:
    return [x if y is None else x + y for x, y in zip(a, b, strict=True)]
