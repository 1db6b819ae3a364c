"""Back-propagation through time: the recursion of the notes, section 4.

A recurrence is z(t) = preactivate(params, h(t-1), u(t)), h(t) = activate(z(t), h(t-1)).
Let ∂L/∂h(t) be the gradient of a loss L with respect to h(t), all other states held fixed: what
comes from outside the recurrence. Given it for every t, `bptt` runs backward

    λ(t) = ∂L/∂h(t) + [∂z(t+1)/∂h(t)]ᵀ δ(t+1) + [∂h(t+1)/∂h(t) at fixed z]ᵀ λ(t+1)
    δ(t) = [∂h(t)/∂z(t)]ᵀ λ(t)                                     (∇_Z of the notes)

and hands δ to the stacked pre-activations as their cotangent. These are formed from the
known states by one parallel matmul, whose transpose pools the weight gradients over time (and
over a vmapped batch) in one contraction: no parameter gradient is carried from step to step,
and none is held per example.

The loops over steps are those of `seqjax.engine.loops`. All else is parallel over the steps of
a chunk.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from seqjax import _checks
from seqjax._tree import at_step, is_half, length_of, wide_dtype
from seqjax._types import Activate, PyTree
from seqjax.engine.bound import clipped
from seqjax.engine.cotangents import add, complete, inexact, instantiate, returned
from seqjax.engine.history import LAST_STEP, History
from seqjax.engine.loops import forward_scan, reverse_scan
from seqjax.engine.recurrence import Recurrence, Steps, Traced, fill, over_steps, trace, vary_with
from seqjax.ops.hoist import Hoisted, hoist
from seqjax.ops.shift import spread
from seqjax.ops.zero_cotangent import zero_cotangent

__all__ = ["PREACTIVATIONS", "STATES", "bptt", "local_vjps", "named", "outside"]

STATES, PREACTIVATIONS = "seqjax.states", "seqjax.preactivations"


def bptt(
    rec: Recurrence,
    params: PyTree,
    state: PyTree,
    reset_state: PyTree,
    u: PyTree,
    steps: Steps,
    history: History,
    clip: float | None,
    keep_z: bool,
) -> tuple[PyTree, PyTree]:
    """The states of a recurrence, differentiated by the recursion above.

    Args:
      rec: the recurrence.
      params: its parameters.
      state: h(-1), or as much of the past as `history` says.
      reset_state: the state that a reset returns to (read where `steps.reset` is given).
      u: the projected inputs, [T, …], T ≥ 1.
      steps: validity, resets and cuts; a reset or a cut may only stand at a valid step.
      history: how the state is built from earlier h(t).
      clip: bound on every element of λ(t), or None.
      keep_z: whether to store the pre-activations of the forward pass.

    Returns:
      (the state after step T-1, h [T, …]).
    """
    state, reset_state = vary_with((state, reset_state), (params, u, steps))
    example = history.read(state), history.newest(state), at_step(u, 0)
    traced = trace(rec, params, *example)
    weights = (traced.closed_over, params)
    step_vjp = _hoist_step_vjp(traced, weights, *example)
    forward = traced.forward
    run: Any = _run(
        _Static((forward._replace(closed_over=[]), history, keep_z)),
        (forward.closed_over, params),
        state,
        reset_state,
        u,
        steps,
    )
    last, states, z = run
    states = named(states, STATES)
    # Here the states are constants: h gets its gradient through λ alone, and the weights and u get
    # theirs through `formed`.
    entering = history.entering(state, reset_state, states, steps)
    entering = fill(steps.valid, zero_cotangent(entering, again=forward.skipped))
    formed = over_steps(traced.preactivate, weights, entering, u)
    # What JAX differentiates is `formed`. Where the forward pass kept its own z, that is the
    # value, and computing `formed` is dead code.
    if keep_z:
        # Batched as `formed` is, whose half-precision vectors are: to be handed the cotangent of
        # each example, and not that of all of them.
        z = jax.tree.map(lambda z, f: spread(z, f) if is_half(z.dtype) else z, z, formed)
        z = _reroute_cotangent(named(z, PREACTIVATIONS), formed)
    else:
        z = formed
    closed_over, step_vjp = step_vjp.closed_over, step_vjp._replace(closed_over=[])
    static = _Static((step_vjp, history, clip))
    return _adjoint(static, closed_over, weights, state, reset_state, u, z, states, steps, last)


class _Static:
    """Passes by identity through a `custom_vjp`."""

    def __init__(self, value: Any):
        self.value = value


def local_vjps(
    step_vjp: Hoisted, closed_over: list, weights: PyTree, known: PyTree
) -> tuple[list, list]:
    """What a step of the recursion needs besides λ: shared by all steps, and per step, [T, …].

    All that does not depend on λ (the gates, f'(Z)) is computed here, in parallel over time;
    products with λ are what remains for the loop.
    """
    once = step_vjp.once(closed_over, weights)
    return once, jax.vmap(step_vjp.per_step, (None, 0))(once, known)


def _hoist_step_vjp(
    traced: Traced, weights: PyTree, h_prev: PyTree, h_t: PyTree, u_t: PyTree
) -> Hoisted:
    """One step of the recursion, sorted by what it depends on: see `local_vjps`."""
    rec = traced.rec
    activate_vjp = rec.activate_vjp or partial(_derived_activate_vjp, traced.activate)

    def preactivate_vjp(
        weights: PyTree, h_prev: PyTree, u_t: PyTree, z_t: PyTree, dz_t: PyTree
    ) -> PyTree:
        if rec.preactivate_vjp is not None:
            return rec.preactivate_vjp(weights[1], h_prev, u_t, z_t, dz_t)
        return jax.vjp(lambda h: traced.preactivate(weights, h, u_t), h_prev)[1](dz_t)[0]

    def step_vjp(weights: PyTree, known: PyTree, lam: list) -> tuple[list, list | None]:
        """δ(t), and what h(t-1) gets from step t: None if no gradient goes there."""
        z_t, h_prev, h_t, u_t = known
        dz_t, through_state = _checks.pair(
            "activate_vjp", activate_vjp(z_t, h_prev, h_t, complete(h_t, lam)), "(dz, dh_prev)"
        )
        dz_t = inexact(dz_t)
        through_z = preactivate_vjp(weights, h_prev, u_t, z_t, complete(z_t, dz_t))
        parts = [inexact(part) for part in (through_state, through_z) if part is not None]
        return dz_t, add(*parts) if len(parts) == 2 else parts[0] if parts else None

    z_t = traced.preactivate(weights, h_prev, u_t)
    return hoist(step_vjp, weights, (z_t, h_prev, h_t, u_t), inexact(h_t))


def _derived_activate_vjp(
    activate: Activate, z_t: PyTree, h_prev: PyTree, h_t: PyTree, d_h_t: PyTree
) -> tuple[PyTree, PyTree]:
    return jax.vjp(activate, z_t, h_prev)[1](d_h_t)


def named(tree: PyTree, name: str) -> PyTree:
    """Named for `jax.checkpoint`; a complex array in two parts, since it cannot save one."""

    def named(a: jax.Array) -> jax.Array:
        if jnp.iscomplexobj(a):
            return lax.complex(checkpoint_name(a.real, name), checkpoint_name(a.imag, name))
        return checkpoint_name(a, name)

    return jax.tree.map(named, tree)


# To first order these two have no gradient of their own: `_adjoint` supplies it.
@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _run(static: _Static, *operands: PyTree) -> tuple[PyTree, PyTree, PyTree]:
    return forward_scan(*static.value, *operands)


_run.defvjp(
    lambda static, *operands: (forward_scan(*static.value, *operands), None),
    lambda static, _, cotangent: (None,) * 5,
)


@jax.custom_vjp
def _reroute_cotangent(value: PyTree, formed: PyTree) -> PyTree:
    return value


_reroute_cotangent.defvjp(
    lambda value, formed: (value, None), lambda _, cotangent: (None, cotangent)
)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _adjoint(
    static: _Static,
    closed_over: list,
    weights: PyTree,
    state: PyTree,
    reset_state: PyTree,
    u: PyTree,
    z: PyTree,
    states: PyTree,
    steps: Steps,
    last: PyTree,
) -> tuple[PyTree, PyTree]:
    return last, states


def _adjoint_fwd(static: _Static, *operands: Any) -> tuple:
    *given, states, steps, last = jax.tree.map(lambda leaf: leaf.value, operands)
    return (last, states), (*given, states, steps)


def _adjoint_bwd(static: _Static, operands: tuple, cotangents: tuple) -> tuple:
    step_vjp, history, clip = static.value
    # JAX may hand a constant on as a literal, which is no array. Arrays are left alone: `asarray`
    # of one on explicit axes fails under `vmap` in JAX 0.8.
    operands = jax.tree.map(lambda a: a if isinstance(a, jax.Array) else jnp.asarray(a), operands)
    closed_over, weights, state, reset_state, u, z, states, steps = operands
    d_last, d_states = (inexact(tree) for tree in cotangents)
    entering = history.entering(state, reset_state, states, steps)
    known = fill(steps.valid, (z, entering, states, u))
    once, local = local_vjps(step_vjp, closed_over, weights, known)

    def step(local_t: list, lam: list) -> tuple[list, list]:
        lam = lam if clip is None else [clipped(a, clip) for a in lam]
        dz_t, d_read = step_vjp.rest(once, local_t, history.newest(lam))
        return dz_t, history.before(lam, d_read)

    lam = instantiate(d_last, inexact(state))
    if steps.valid is None and step_vjp.result[1] is None and history == LAST_STEP:
        # No gradient crosses a step (Elman's copy): λ(t) is what comes from outside, and
        # nothing is left to loop over.
        dz, _ = jax.vmap(step)(local, outside(lam, d_states, inexact(states)))
        return None, None, None, None, None, returned(z, dz), None, None, None  # as below
    d_reset_state = None
    if steps.reset is not None:  # summed over all resets
        d_reset_state = [jnp.zeros(h.shape, wide_dtype(h.dtype)) for h in inexact(reset_state)]
    lam, d_reset_state = vary_with((lam, d_reset_state), (state, reset_state))
    d_state, d_reset_state, dz = reverse_scan(
        step, history, lam, d_reset_state, d_states, local, steps, length_of(states)
    )
    if d_reset_state is not None:
        pairs = zip(d_reset_state, inexact(reset_state), strict=True)
        d_reset_state = returned(reset_state, [d.astype(h.dtype) for d, h in pairs])
    d_state, dz = returned(state, d_state), returned(z, dz)
    # In the order of the operands: None for the weights and u, whose gradient comes of `formed`.
    return None, None, d_state, d_reset_state, None, dz, None, None, None


def outside(d_last: list, d_states: list, states: list) -> list:
    """∂L/∂h(t) from outside, for all t: that of the last state is added at T-1."""
    d_states = instantiate(d_states, states)
    # Not `at[-1].add`: a scatter over a batch with explicit axes has to be told its sharding.
    pairs = zip(d_states, d_last, strict=True)
    return [jnp.concatenate([d[:-1], (d[-1] + last)[None]]) for d, last in pairs]


_adjoint.defvjp(_adjoint_fwd, _adjoint_bwd, symbolic_zeros=True)
