"""The hand-written recursion against JAX's own differentiation of a plain scan.

Of every model there is one program per adjoint, its pullback, and one of the plain scan; each law
calls them with the cotangents that it needs.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax
from support.comparison import assert_close, floats, is_float, relative_error
from support.oracles import Gradient, clipper, grad, gradient, gradient_of, naive, weighted
from support.table import (
    BY_NAME,
    CASES,
    FEW,
    KINDS,
    a_few_now,
    every_model,
    normal,
    parametrized,
    problem,
)

import seqjax as sj

T = 7
NEVER = 10**6
BUILT_IN = [BY_NAME[name] for name in ("rnn", "lstm", "gru", "gru-reset-before")]
every_built_in = parametrized(BUILT_IN, later=lambda case: False)
LSTM = BY_NAME["lstm"]
ADJOINTS = [
    sj.BPTT(),
    sj.BPTT(chunk=3, store="states"),
    sj.BPTT(chunk=4, store="preactivations"),
    sj.BPTT(chunk=3, store="chunk_starts"),
]


def pulled_back(run):
    """Jitted: (arguments, cotangent or None) to the outputs and the gradient of `run`."""

    def pull(at, cotangent):
        outputs, pullback = jax.vjp(run, *at)
        if cotangent is None:
            cotangent = grad(weighted)(outputs)
        return outputs, Gradient(*pullback(cotangent)[:3])

    return jax.jit(pull)


@functools.cache
def pullback(case, adjoint):
    return pulled_back(functools.partial(sj.unroll, case.model, adjoint=adjoint))


@functools.cache
def plain_pullback(case):
    """Of (params, xs, state, truncate)."""

    def run(params, xs, state, truncate):
        return naive(case.model, params, xs, state, truncate)

    return pulled_back(run)


@functools.cache
def at_learned_state(case):
    """The gradient by the parameters of a run from the model's own initial state."""
    loss = lambda params, xs: weighted(sj.unroll(case.model, params, xs))
    return jax.jit(jax.grad(loss))


def plain_gradient(case, truncate=NEVER):
    return plain_pullback(case)((*problem(case.model, T), truncate), None)


# Every model under the default adjoint; a few of them under the others too.
RULES = [
    pytest.param(
        case,
        adjoint,
        id=f"{adjoint}-{case.name}",
        marks=()
        if case.name in FEW or (adjoint == ADJOINTS[0] and not case.variant)
        else pytest.mark.slow,
    )
    for adjoint in ADJOINTS
    for case in (KINDS if adjoint.chunk else CASES)
]


@pytest.mark.parametrize(("case", "adjoint"), RULES)
def test_rule_equals_autodiff_of_a_plain_scan(case, adjoint):
    outputs, ours = pullback(case, adjoint)(problem(case.model, T), None)
    expected, theirs = plain_gradient(case)
    assert_close(outputs, expected, 1e-12)
    assert_close(ours, theirs, 1e-10)


@every_model
def test_no_gradient_is_zero(case):
    params, xs, state = problem(case.model, T)
    _, (_, d_xs, d_state) = pullback(case, sj.BPTT())((params, xs, state), None)
    by_inputs = [*floats(d_xs), *floats(d_state)]
    if case.partial:  # h(-1) lies before the first step
        assert all(float(jnp.abs(g).max()) == 0 for g in by_inputs[1:])
        by_inputs = by_inputs[:1]
    if case.name == "stack-of-bidirectional":  # the elman in it
        by_inputs = [g for g in by_inputs if float(jnp.abs(g).max()) > 0]
        assert len(by_inputs) == len(floats(state))
    by_params = at_learned_state(case)(params, xs)
    assert all(float(jnp.abs(g).max()) > 0 for g in [*by_inputs, *floats(by_params)])


@a_few_now
def test_autodiff_adjoint_equals_a_plain_scan(case):
    outputs, ours = pullback(case, sj.Autodiff())(problem(case.model, T), None)
    expected, theirs = plain_gradient(case)
    assert_close(outputs, expected, 1e-12)
    assert_close(ours, theirs, 1e-10)


def cotangent_of(outputs, leaf_number=None):
    """Random numbers for the floating leaves (or one of them, the others zero)."""

    def draw(number, leaf):
        if not is_float(leaf):
            return np.zeros(leaf.shape, jax.dtypes.float0)
        drawn = normal(leaf, number)
        return drawn if leaf_number in (None, number) else jnp.zeros_like(drawn)

    leaves, structure = jax.tree.flatten(outputs)
    return structure.unflatten([draw(number, leaf) for number, leaf in enumerate(leaves)])


@a_few_now
def test_every_output_and_state_leaf_has_its_own_cotangent(case):
    """A cotangent on all leaves of (state, ys), and on one at a time: swapped h and c show."""
    at = problem(case.model, T)
    ours, theirs = (pullback(case, adjoint) for adjoint in (sj.BPTT(), sj.Autodiff()))
    leaves, structure = jax.tree.flatten(ours(at, None)[0])
    for number in [None, *(n for n, leaf in enumerate(leaves) if is_float(leaf))]:
        cotangent = cotangent_of(structure.unflatten(leaves), number)
        assert_close(ours(at, cotangent)[1], theirs(at, cotangent)[1], 1e-10)


def ctc(ys):
    """Connectionist temporal classification: a sum over alignments, not over time."""
    logits = jnp.stack([ys.sum(1), ys[:, 0], -ys[:, 0]], axis=1)
    labels, none = jnp.array([[1, 2]]), jnp.zeros((1, 2))
    return optax.ctc_loss(logits[None], jnp.zeros((1, len(ys))), labels, none)[0]


LOSSES = [
    ctc,
    lambda ys: jnp.sum(jnp.max(ys, axis=0)),  # a maximum over time
    lambda ys: jnp.prod(jnp.mean(ys, axis=1) + 1.5),  # a product over time
    lambda ys: jnp.sum(ys[-1] ** 2),  # the last step only
    lambda ys: jnp.sum((ys[3:] * ys[:-3]) ** 2),  # pairs of steps
]
by_outputs = [jax.jit(jax.grad(loss)) for loss in LOSSES]


@every_built_in
def test_loss_that_is_no_sum_over_time(case):
    at = problem(case.model, T)
    ours, theirs = (pullback(case, adjoint) for adjoint in (sj.BPTT(), sj.Autodiff()))
    state, ys = ours(at, None)[0]
    for by_output in by_outputs:
        with jax.numpy_dtype_promotion("standard"):  # optax.ctc_loss mixes float32 in
            d_ys = by_output(ys)
        assert float(jnp.abs(d_ys).max()) > 0
        cotangent = jax.tree.map(jnp.zeros_like, state), d_ys
        assert_close(ours(at, cotangent)[1], theirs(at, cotangent)[1], 1e-10)


def test_ctc_end_to_end():
    """The same, with the loss inside the function that is differentiated."""
    model, at = LSTM.model, problem(LSTM.model, 8)
    loss = lambda outputs: ctc(outputs[1])
    with jax.numpy_dtype_promotion("standard"):
        ours = gradient(model, loss)(*at)
        theirs = gradient(model, loss, adjoint=sj.Autodiff())(*at)
    assert_close(ours, theirs, 1e-10)


@every_built_in
def test_forward_mode_works_with_autodiff_and_says_so_with_bptt(case):
    model, (params, xs, state) = case.model, problem(case.model, 4)

    def run(adjoint):
        return lambda xs: sj.unroll(model, params, xs, state, adjoint=adjoint)[1]

    forward = jax.jit(jax.jacfwd(run(sj.Autodiff())))(xs)
    reverse = jax.jit(jax.jacrev(run(sj.BPTT())))(xs)
    assert_close(reverse, forward, 1e-10)
    with pytest.raises(TypeError, match=r"adjoint: BPTT has no forward-mode .*sj\.Autodiff"):
        jax.jvp(run(sj.BPTT()), (xs,), (xs,))


@a_few_now
@pytest.mark.parametrize(
    ("truncate", "chunk"),
    [
        pytest.param(1, None, marks=pytest.mark.slow),
        (3, 2),
        pytest.param(20, 3, marks=pytest.mark.slow),
    ],
)
def test_truncated_bptt_is_a_scan_with_its_carry_cut(case, truncate, chunk):
    adjoint = sj.BPTT(truncate=truncate, chunk=chunk)
    ours = pullback(case, adjoint)(problem(case.model, T), None)
    assert_close(ours[1], plain_gradient(case, truncate)[1], 1e-10)


@every_built_in
@pytest.mark.parametrize("bound", [0.02])
def test_clip_bounds_the_adjoint_of_every_step(case, bound):
    model, at = case.model, problem(case.model, T)
    clipped = clipper(bound)

    def plain(params, xs, state):
        def step(h, x):
            h = clipped(model.activate(model.preactivate(params, h, model.project(params, x)), h))
            return h, model.readout(params, h)

        return lax.scan(step, state, xs)

    ours = pullback(case, sj.BPTT(clip=bound, chunk=4))(at, None)[1]
    assert_close(ours, gradient_of(plain)(*at), 1e-10)
    whole = pullback(case, sj.BPTT())(at, None)[1]
    assert relative_error(ours, whole) > 0.01  # the bound was felt


@every_model
def test_learned_and_given_initial_state_have_the_same_gradient(case):
    """By the chain rule: that of the parameters, and through the initial state that they make."""
    model, (params, xs, _) = case.model, problem(case.model, T)
    state, to_params = jax.vjp(model.initial_state, params)
    if not floats(state):
        pytest.skip("no state")
    _, (d_params, _, d_state) = pullback(case, sj.BPTT())((params, xs, state), None)
    theirs = jax.tree.map(jnp.add, d_params, *to_params(d_state))
    assert_close(at_learned_state(case)(params, xs), theirs, 1e-12)


def test_full_jacobian_by_finite_differences():
    """Every entry of d (state, ys) / d (params, xs, state) at T = 3, H = 2."""
    for cell in (sj.rnn(2, 2), sj.lstm(2, 2), sj.gru(2, 2), sj.gru(2, 2, reset_after=False)):
        params = cell.init(jax.random.key(0))
        at = (
            params,
            jnp.asarray(np.random.default_rng(0).standard_normal((3, 2))),
            jax.tree.map(lambda s: s + 0.3, cell.initial_state(params)),
        )
        flat, restore = jax.flatten_util.ravel_pytree(at)
        run = jax.jit(
            lambda v, cell=cell, restore=restore: jax.flatten_util.ravel_pytree(
                sj.unroll(cell, *restore(v))
            )[0]
        )
        ours = jax.jit(jax.jacrev(run))(flat)
        basis = jnp.eye(flat.size) * 1e-6
        theirs = jnp.stack([(run(flat + e) - run(flat - e)) / 2e-6 for e in basis], axis=1)
        np.testing.assert_allclose(ours, theirs, atol=1e-5, rtol=1e-3)
