"""Back-propagation through time: the recursion of the notes, section 4, and nothing else.

A recurrence is z(t) = preactivate(params, h(t-1), u(t)), h(t) = activate(z(t), h(t-1)).
Given ∂DIV/∂h(t) from outside for every t, `bptt` runs backward

    λ(t) = ∂DIV/∂h(t) + [∂z(t+1)/∂h(t)]ᵀ δ(t+1) + [∂h(t+1)/∂h(t) at fixed z]ᵀ λ(t+1)
    δ(t) = [∂h(t)/∂z(t)]ᵀ λ(t)                                     (∇_Z of the notes)

and hands δ to the stacked pre-activations as their cotangent. These are formed from the
known states by one parallel matmul, so JAX's transpose of it pools the weight gradients
over time (and over a vmapped batch) in one contraction: no parameter gradient is carried
by the loop, and none is held per example.

Two loops run over time: `scan_states`, from the projected inputs to states and pre-activations,
and the scan in `_adjoint_bwd`, from ∂DIV/∂h to δ. All else is parallel over the steps of a chunk.
A fused kernel for an accelerator would take the place of these two, and of nothing else.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.custom_derivatives import SymbolicZero

from seqjax import _checks
from seqjax.ops.hoist import hoist
from seqjax.ops.rows import shifted

__all__ = ["Recurrence", "Steps", "at_step", "bptt", "cut", "pair", "scan_states", "select"]

Tree = Any
STATES, PREACTIVATIONS = "seqjax.states", "seqjax.preactivations"


class Recurrence(Protocol):
    """The functions the recursion needs; `seqjax.Cell` says what each one means."""

    @property
    def preactivate(self) -> Callable: ...
    @property
    def activate(self) -> Callable: ...
    @property
    def activate_vjp(self) -> Callable | None: ...
    @property
    def preactivate_vjp(self) -> Callable | None: ...


class Steps(NamedTuple):
    """What is special about single time steps: bool [T] each, or None where nothing is."""

    valid: jax.Array | None = None
    reset: jax.Array | None = None


def select(which, a: Tree, b: Tree) -> Tree:
    """`a` where `which` (a bool scalar) holds, else `b`; `b` as it is if `which` is None."""
    if which is None:
        return b
    return jax.tree.map(lambda x, y: jnp.where(which, x, y), a, b)


@jax.custom_vjp
def cut(value: Tree) -> Tree:
    """The identity, with a cotangent of zero.

    Not `lax.stop_gradient`: that would cut the derivative of a *gradient* too, and second
    order would silently be wrong.
    """
    return value


cut.defvjp(lambda value: (value, None), lambda _, cotangent: (None,))


def scan_states(rec: Recurrence, params, state, start, u, steps: Steps, keep_z: bool = False):
    """Runs the recurrence; returns the states [T, …] and the pre-activations (if kept)."""
    preactivate = hoist(rec.preactivate, params, state, at_step(u, 0))

    def step(h_tm1, inputs):
        u_t, valid_t, reset_t = inputs
        entering = select(reset_t, start, h_tm1)
        z_t = preactivate(entering, u_t)
        h_t = _checks.tree("the state that activate returns", rec.activate(z_t, entering), entering)
        if valid_t is not None:
            h_t = select(valid_t, h_t, entering)
        return h_t, (h_t, z_t if keep_z else None)

    return lax.scan(step, state, (u, steps.valid, steps.reset))[1]


def bptt(rec: Recurrence, params, state, start, u, steps: Steps, *, clip=None, keep_z=False):
    """The states of a recurrence, differentiated by the recursion above.

    Args:
      rec: the recurrence.
      params: its parameters.
      state: h(-1).
      start: the state that a reset returns to (read where `steps.reset` is given).
      u: the projected inputs, [T, …], T ≥ 1.
      steps: validity and resets; a reset may only stand at a valid step.
      clip: bound on every element of λ(t), or None.
      keep_z: whether the pre-activations of the forward pass are named for keeping.

    Returns:
      (h(T-1), the states [T, …]).
    """
    states, z = _run(rec, keep_z, params, state, start, u, steps)
    states = checkpoint_name(states, STATES)
    formed = jax.vmap(rec.preactivate, (None, 0, 0))(
        params, cut(_entering(state, start, states, steps)), u
    )
    # What JAX differentiates is `formed`. Where the forward pass kept its own z, that is the
    # value, and computing `formed` is dead code.
    z = _conduct(checkpoint_name(z, PREACTIVATIONS), formed) if keep_z else formed
    return _adjoint(rec, clip, params, state, start, u, z, states, steps)


def _entering(state, start, states, steps):
    """The state each step starts from: h(t-1), or `start` at a reset."""
    h_tm1 = jax.tree.map(shifted, state, states)
    if steps.reset is None:
        return h_tm1
    return jax.vmap(select, (0, None, 0))(steps.reset, start, h_tm1)


# The forward scan and the conduit: true functions, whose first derivative is left to `_adjoint`.
@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _run(rec, keep_z, params, state, start, u, steps):
    return scan_states(rec, params, state, start, u, steps, keep_z)


def _run_fwd(rec, keep_z, params, state, start, u, steps):
    return scan_states(rec, params, state, start, u, steps, keep_z), None


_run.defvjp(_run_fwd, lambda rec, keep_z, _, cotangent: (None,) * 5)


@jax.custom_vjp
def _conduct(value, formed):
    return value


_conduct.defvjp(lambda value, formed: (value, None), lambda _, cotangent: (None, cotangent))


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _adjoint(rec, clip, params, state, start, u, z, states, steps):
    return at_step(states, -1), states


def at_step(series: Tree, t: int) -> Tree:
    """One time step of a series."""
    return jax.tree.map(lambda a: a[t], series)


def _adjoint_fwd(rec, clip, *operands):
    operands = jax.tree.map(lambda leaf: leaf.value, operands)
    states = operands[5]
    return (at_step(states, -1), states), operands


def _adjoint_bwd(rec, clip, operands, cotangents):
    params, state, start, u, z, states, steps = operands
    d_last, d_states = (_inexact(tree) for tree in cotangents)
    entering = _entering(state, start, states, steps)
    activate_vjp = rec.activate_vjp or partial(_derived_activate_vjp, rec.activate)
    preactivate_vjp = rec.preactivate_vjp or partial(_derived_preactivate_vjp, rec.preactivate)

    def link(params, h_tm1, u_t, z_t, dz_t):
        d_h_tm1 = preactivate_vjp(params, h_tm1, u_t, z_t, _complete(z_t, dz_t))
        return None if d_h_tm1 is None else _inexact(d_h_tm1)

    through_preactivation = hoist(link, params, *at_step((entering, u, z, _inexact(z)), 0))

    def local_rule(z_t, h_tm1, h_t):
        def rule(lam):
            dz_t, d_h_tm1 = pair(activate_vjp(z_t, h_tm1, h_t, _complete(h_t, lam)))
            return _inexact(dz_t), None if d_h_tm1 is None else _inexact(d_h_tm1)

        return jax.linearize(rule, _zeros(_inexact(h_t)))[1]

    # The rule is linear in λ. All of it that does not depend on λ (the gates, f'(Z)) is
    # computed here, in parallel over time; products with λ are what remains for the loop.
    local_rules = jax.vmap(local_rule)(z, entering, states)

    def pull(lam, rule_t, h_tm1, u_t, z_t):
        """δ(t), and what h(t-1) gets from step t: None if no gradient goes there."""
        bounded = lam if clip is None else [jnp.clip(a, -clip, clip) for a in lam]
        dz_t, through_state = rule_t(bounded)
        through_z = through_preactivation(h_tm1, u_t, z_t, dz_t)
        if through_state is None or through_z is None:
            return dz_t, through_z if through_state is None else through_state
        return dz_t, _add(through_state, through_z)

    def step(carry, inputs):
        lam, d_start = carry
        d_h_t, local_t, valid_t, reset_t = inputs
        lam = _add(lam, d_h_t)
        dz_t, d_h_tm1 = pull(lam, *local_t)
        nothing = _zeros(lam)
        d_h_tm1 = nothing if d_h_tm1 is None else d_h_tm1
        if valid_t is not None:  # an invalid step hands λ on and has no δ
            dz_t = select(valid_t, dz_t, _zeros(dz_t))
            d_h_tm1 = select(valid_t, d_h_tm1, lam)
        if reset_t is not None:  # the step began at `start`, not at h(t-1)
            d_start = _add(d_start, select(reset_t, d_h_tm1, nothing))
            d_h_tm1 = select(reset_t, nothing, d_h_tm1)
        return (d_h_tm1, d_start), dz_t

    local = (local_rules, entering, u, z)
    lam = [
        jnp.zeros_like(h) if d is None else d for d, h in zip(d_last, _inexact(state), strict=True)
    ]
    if steps.valid is None and _unlinked(pull, lam, local):
        # No gradient crosses a step (Elman's copy): λ(t) is what comes from outside, and
        # nothing is left to loop over.
        dz, _ = jax.vmap(pull)(_outside(lam, d_states, _inexact(states)), *local)
        return None, None, None, None, _complete(z, dz), None, None
    d_start = None if steps.reset is None else _zeros(_inexact(start))
    inputs = (d_states, local, steps.valid, steps.reset)
    (d_state, d_start), dz = lax.scan(step, (lam, d_start), inputs, reverse=True)
    d_start = None if d_start is None else _complete(start, d_start)
    return None, _complete(state, d_state), d_start, None, _complete(z, dz), None, None


def _unlinked(pull, lam, local) -> bool:
    """Whether the rules say that no gradient goes from a step to the one before."""
    return jax.eval_shape(lambda lam, local: pull(lam, *at_step(local, 0)), lam, local)[1] is None


def _outside(d_last: list, d_states: list, states: list) -> list:
    """∂DIV/∂h(t) from outside, for all t: that on the last state is one on h(T-1)."""
    d_states = [
        jnp.zeros_like(h) if d is None else d for d, h in zip(d_states, states, strict=True)
    ]
    return [d.at[-1].add(last) for d, last in zip(d_states, d_last, strict=True)]


_adjoint.defvjp(_adjoint_fwd, _adjoint_bwd, symbolic_zeros=True)


def pair(value) -> tuple:
    """What a rule `activate_vjp` gave back, if it is a pair."""
    if not isinstance(value, tuple) or len(value) != 2:
        expected = "a function that returns (dz, dh_prev)"
        raise TypeError(_checks.mismatch("activate_vjp", expected, _checks.describe(value)))
    return value


def _derived_activate_vjp(activate, z_t, h_tm1, h_t, d_h_t):
    return jax.vjp(activate, z_t, h_tm1)[1](d_h_t)


def _derived_preactivate_vjp(preactivate, params, h_tm1, u_t, z_t, dz_t):
    return jax.vjp(lambda h: preactivate(params, h, u_t), h_tm1)[1](dz_t)[0]


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


def _zeros(leaves: list) -> list:
    return [jnp.zeros_like(leaf) for leaf in leaves]


def _add(a: list, b: list) -> list:
    return [x if y is None else x + y for x, y in zip(a, b, strict=True)]
