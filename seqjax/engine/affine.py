"""Affine recurrences, h(t) = a(t) ∘ h(t-1) + b(t): their rule, and two ways to run them.

The recursion of `seqjax.engine.bptt` (notes, section 4) where h(t-1) enters nowhere else, and each
element alone: with λ(t) the gradient with respect to h(t), of all that depends on it,

    λ(t-1) = ∂L/∂h(t-1) + a(t) ∘ λ(t)
    ∂L/∂a(t) = λ(t) ∘ h(t-1),  ∂L/∂b(t) = λ(t)

JAX's cotangent of a complex number x + iy is ∂L/∂x - i ∂L/∂y: in terms of it nothing is conjugated.
Both directions are sums that a loop forms step by step, or an associative scan in parallel.
a(t) and b(t) are functions of the inputs alone, formed for all t at once and differentiated by JAX.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax import lax

from seqjax import _checks
from seqjax._tree import at_step, is_inexact, length_of, where, wide_dtype
from seqjax._types import Coefficients, Project, PyTree
from seqjax.engine.across import Across, entered, of_first, of_last
from seqjax.engine.bound import clipped
from seqjax.engine.bptt import PREACTIVATIONS, STATES, named, outside
from seqjax.engine.cotangents import inexact, instantiate
from seqjax.engine.recurrence import Recurrence, Steps, over_steps, vary_with
from seqjax.engine.schedule import unroll
from seqjax.ops.hoist import hoist
from seqjax.ops.shift import shifted, spread

__all__ = ["Affine", "affine_scan", "affine_step", "input_as_preactivation"]


class Affine(Recurrence, Protocol):
    """The functions that the rule needs; `seqjax.Cell` says what each one means."""

    @property
    def project_step(self) -> Project: ...
    @property
    def coefficients(self) -> Coefficients: ...


def input_as_preactivation(params: PyTree, h_prev: PyTree, u: PyTree) -> PyTree:
    """z(t) = u(t): the state does not enter."""
    return u


def affine_step(coefficients: Coefficients, z: PyTree, h_prev: PyTree) -> PyTree:
    """h(t) = a(t) ∘ h(t-1) + b(t), (a, b) = coefficients(z)."""
    a, b = checked(coefficients(z), h_prev)
    return jax.tree.map(lambda a, h, b: a * h + b, a, h_prev, b)


def checked(value: Any, h: PyTree) -> tuple[PyTree, PyTree]:
    """What `coefficients` returned: two trees like the state, whose leaves have derivatives."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(h):
        if not is_inexact(leaf):
            expected = "floating or complex arrays, since the cell is affine"
            name = "the initial state" + jax.tree_util.keystr(path)
            raise TypeError(_checks.mismatch(name, expected, _checks.describe(leaf)))
    a, b = _checks.pair("coefficients", value, "(a, b)")
    a = _checks.tree("the a that coefficients returns", a, h)
    return a, _checks.tree("the b that coefficients returns", b, h)


def affine_scan(
    rec: Affine,
    params: PyTree,
    state: PyTree,
    reset_state: PyTree,
    xs: PyTree,
    steps: Steps,
    parallel: bool,
    across: Across | None,
    clip: float | None,
) -> tuple[PyTree, PyTree]:
    """The states of an affine recurrence, differentiated by the rule above.

    Args:
      rec: the recurrence: z(t) = project_step(params, x(t)), (a(t), b(t)) = coefficients(z(t)).
      params: its parameters.
      state: h(-1).
      reset_state: the state that a reset returns to (read where `steps.reset` is given).
      xs: what `project_step` reads, [T, …], T ≥ 1.
      steps: validity, resets and cuts.
      parallel: whether to run as an associative scan, else as a loop.
      across: the devices that hold a part of the steps each; None if all are here.
      clip: bound on every element of λ(t), or None; of the loop alone.

    Returns:
      (the state after step T-1, h [T, …]).
    """

    def of_step(params: PyTree, x: PyTree) -> tuple[PyTree, PyTree]:
        z = named(rec.project_step(params, x), PREACTIVATIONS)
        return checked(rec.coefficients(z), state)

    a, b = _through_steps(*_over_time(of_step, params, xs), reset_state, steps)
    structure = jax.tree.structure(state)
    a, b, state = (jax.tree.leaves(tree) for tree in vary_with((a, b, state), steps))
    begin = state
    if across is not None:
        state = of_first(across, state)
        begin = named(_begin(parallel, across, a, b, state), STATES)
    run: Any = _run(parallel, a, b, begin)
    last, states = run
    states = named(states, STATES)
    adjoint: Any = _adjoint(parallel, across, clip, a, b, state, steps.cut, begin, states, last)
    last, states = adjoint
    last = last if across is None else of_last(across, last)
    return jax.tree.unflatten(structure, last), jax.tree.unflatten(structure, states)


def _over_time(function: Callable, params: PyTree, xs: PyTree) -> tuple[PyTree, PyTree]:
    """(a, b) of all steps, [T, …]; an `a` that depends on parameters alone has no axis of time."""
    first = at_step(xs, 0)
    constant = hoist(lambda p, _, x: function(p, x)[0], params, (), first).of_params
    a, b = over_steps(function, params, xs)
    # Of the first step nothing is computed but what depends on no step.
    a_once = function(params, first)[0]
    return jax.tree.map(lambda c, once, a: once if c else a, constant, a_once, a), b


def _through_steps(
    a: PyTree, b: PyTree, reset_state: PyTree, steps: Steps
) -> tuple[PyTree, PyTree]:
    """At a reset h(t) = a(t) ∘ the reset state + b(t); at an invalid step h(t) = h(t-1)."""
    if steps.reset is None and steps.valid is None:
        return a, b
    # So that what all steps of a batch share gets one gradient, summed over both at once.
    repeat = lambda leaf, b: leaf if leaf.ndim == b.ndim else spread(leaf, b[0], b.shape[0])
    a, starts = jax.tree.map(repeat, a, b), jax.tree.map(repeat, reset_state, b)

    def at_t(start: PyTree, a: PyTree, b: PyTree, reset: Any, valid: Any) -> tuple[PyTree, PyTree]:
        zeros, ones = jax.tree.map(jnp.zeros_like, a), jax.tree.map(jnp.ones_like, a)
        if reset is not None:
            b = where(reset, jax.tree.map(lambda a, start, b: a * start + b, a, start, b), b)
            a = where(reset, zeros, a)
        if valid is not None:
            a, b = where(valid, a, ones), where(valid, b, zeros)
        return a, b

    return jax.vmap(at_t)(starts, a, b, steps.reset, steps.valid)


# From here on: lists of leaves, [T, …], but for an `a` that does not change.
def forward(parallel: bool, a: list, b: list, state: list) -> tuple[list, list]:
    """(the last h, all h) of h(t) = a(t) h(t-1) + b(t)."""
    if parallel:
        a = _with_time(a, b)
        first = [(b[0] + a[0] * h)[None] for a, b, h in zip(a, b, state, strict=True)]
        begun = [jnp.concatenate([f, b[1:]]) for f, b in zip(first, b, strict=True)]
        states = _associative(a, begun)
        return at_step(states, -1), states
    series, rest = _split(a, b)

    def step(h_prev: list, at_t: Any) -> tuple[list, list]:
        series_t, b_t = at_t
        h_t = [a * h + b for a, h, b in zip(rest(series_t), h_prev, b_t, strict=True)]
        return h_t, h_t

    at_once = unroll(length_of(b), jax.default_backend())
    return lax.scan(step, state, (series, b), unroll=at_once)


def backward(
    parallel: bool, clip: float | None, a: list, cut: Any, d_states: list, d_last: list
) -> tuple[list, list]:
    """(∂L/∂h(-1), all λ) of λ(t-1) = ∂L/∂h(t-1) + a(t) λ(t), with a(t) = 0 at a cut."""
    if parallel:
        a = _with_time(a, d_states)
        if cut is not None:
            a = jax.vmap(lambda cut, a: where(cut, jax.tree.map(jnp.zeros_like, a), a))(cut, a)
        after = [jnp.roll(a, -1, 0) for a in a]  # a(t+1); the last one multiplies nothing
        lam = _associative(after, outside(d_last, d_states, d_states), reverse=True)
        return [a[0] * lam[0] for a, lam in zip(a, lam, strict=True)], lam
    series, rest = _split(a, d_states)

    # λ(t) = a(t+1) λ(t+1) + ∂L/∂h(t) is rounded once, as h(t) is. To round a(t) λ(t) first would
    # lose thirty times as much where a(t) is close to 1.
    def step(later: tuple[list, list], at_t: Any) -> tuple[tuple[list, list], list]:
        a_later, lam_later = later
        series_t, d_t, cut_t = at_t
        lam = [a * lam + d for a, lam, d in zip(a_later, lam_later, d_t, strict=True)]
        lam = lam if clip is None else [clipped(each, clip) for each in lam]
        a_t = rest(series_t)
        return (where(cut_t, [jnp.zeros_like(a) for a in a_t], a_t), lam), lam

    ones = [jnp.ones_like(d) for d in d_last]
    inputs, at_once = (series, d_states, cut), unroll(length_of(d_states), jax.default_backend())
    (a_first, lam_first), lam = lax.scan(step, (ones, d_last), inputs, reverse=True, unroll=at_once)
    return [a * lam for a, lam in zip(a_first, lam_first, strict=True)], lam


def _with_time(a: list, series: list) -> list:
    return [jnp.broadcast_to(a, b.shape) for a, b in zip(a, series, strict=True)]


def _split(a: list, series: list) -> tuple[list, Callable[[list], list]]:
    """The `a` that a loop reads step by step, and how one step's are put among the constants."""
    varies = [a.ndim == b.ndim for a, b in zip(a, series, strict=True)]

    def rest(series_t: list) -> list:
        at_t = iter(series_t)
        return [next(at_t) if v else each for v, each in zip(varies, a, strict=True)]

    return [each for v, each in zip(varies, a, strict=True) if v], rest


def _associative(a: list, b: list, reverse: bool = False) -> list:
    """All h of h(t) = a(t) h(t-1) + b(t), or in `reverse` of a(t) h(t+1) + b(t), from zero on."""

    def then(earlier: tuple, later: tuple) -> tuple:
        return later[0] * earlier[0], later[0] * earlier[1] + later[1]

    pairs = zip(a, b, strict=True)
    return [lax.associative_scan(then, pair, reverse=reverse)[1] for pair in pairs]


def _entered(parallel: bool, across: Across, a: list, b: list, state: list) -> list:
    return entered(across, lambda *at: forward(parallel, *at)[0], a, b, state)


# As in `seqjax.engine.bptt`: to first order these two have no gradient of their own, `_adjoint`
# has it.
@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _begin(parallel: bool, across: Across, a: list, b: list, state: list) -> list:
    """The state before the first step of this device."""
    return _entered(parallel, across, a, b, state)


_begin.defvjp(
    lambda parallel, across, *operands: (_entered(parallel, across, *operands), None),
    lambda parallel, across, _, cotangent: (None,) * 3,
)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _run(parallel: bool, a: list, b: list, state: list) -> tuple[list, list]:
    return forward(parallel, a, b, state)


_run.defvjp(
    lambda parallel, *operands: (forward(parallel, *operands), None),
    lambda parallel, _, cotangent: (None,) * 3,
)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _adjoint(
    parallel: bool,
    across: Across | None,
    clip: float | None,
    a: list,
    b: list,
    state: list,
    cut: Any,
    begin: list,
    states: list,
    last: list,
) -> tuple[list, list]:
    return last, states


def _adjoint_fwd(
    parallel: bool, across: Across | None, clip: float | None, *operands: Any
) -> tuple:
    a, _, _, cut, begin, states, last = jax.tree.map(lambda leaf: leaf.value, operands)
    return (last, states), (a, cut, begin, states)


def _adjoint_bwd(
    parallel: bool, across: Across | None, clip: float | None, operands: tuple, cotangents: tuple
) -> tuple:
    a, cut, begin, states = operands
    d_last = instantiate(inexact(cotangents[0]), begin)
    d_states = instantiate(inexact(cotangents[1]), states)
    d_last = vary_with(d_last, (a, d_states))
    if across is not None:
        end = lambda a, *at: backward(parallel, None, a, None, *at)[0]
        d_last = entered(across.backward, end, a, d_states, d_last)
    d_state, lam = backward(parallel, clip, a, cut, d_states, d_last)
    h_prev = [shifted(h, hs) for h, hs in zip(begin, states, strict=True)]
    d_a = [_product(each, h, a) for each, h, a in zip(lam, h_prev, a, strict=True)]
    return d_a, lam, d_state, None, None, None, None


def _product(lam: jax.Array, h_prev: jax.Array, a: jax.Array) -> jax.Array:
    """∂L/∂a: of each step, or the sum over time."""
    product = lam * h_prev
    if a.ndim == product.ndim:
        return product
    return jnp.sum(product, axis=0, dtype=wide_dtype(product.dtype)).astype(a.dtype)


_adjoint.defvjp(_adjoint_fwd, _adjoint_bwd, symbolic_zeros=True)
