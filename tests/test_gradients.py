"""The hand-written recursion against JAX's own differentiation of a plain scan."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import (
    CASES,
    clipper,
    every_model,
    every_variant,
    floats,
    gradient,
    is_float,
    naive,
    normal,
    problem,
    relative_error,
    weighted,
)
from jax import lax

import seqjax as sj

BUILT_IN = [case for case in CASES if case.name in ("rnn", "lstm", "gru", "gru-reset-before")]
LSTM = next(case for case in CASES if case.name == "lstm")


@functools.cache
def plain_gradient(case):
    def plain(params, xs, state):
        return weighted(naive(case.model, params, xs, state))

    return floats(jax.jit(jax.grad(plain, (0, 1, 2), allow_int=True))(*problem(case.model, 7)))


ADJOINTS = [
    sj.BPTT(),
    sj.BPTT(chunk=3, store="states"),
    sj.BPTT(chunk=4, store="preactivations"),
    sj.BPTT(chunk=3, store="chunk_starts"),
]


@every_variant
@pytest.mark.parametrize("adjoint", ADJOINTS, ids=str)
def test_rule_equals_autodiff_of_a_plain_scan(case, adjoint):
    ours = gradient(case.model, adjoint=adjoint)(*problem(case.model, 7))
    assert relative_error(ours, plain_gradient(case)) <= 1e-10


@every_model
def test_no_gradient_is_zero(case):
    model, (params, xs, state) = case.model, problem(case.model, 7)
    by_inputs = gradient(model)(params, xs, state)[-1 - len(floats(state)) :]
    if case.partial:  # h(-1) lies before the first step
        assert all(float(jnp.abs(g).max()) == 0 for g in by_inputs[1:])
        by_inputs = by_inputs[:1]
    if case.name == "stack-of-bidirectional":  # the elman in it
        by_inputs = [g for g in by_inputs if float(jnp.abs(g).max()) > 0]
        assert len(by_inputs) == len(floats(state))
    by_params = jax.jit(jax.grad(lambda params: weighted(sj.unroll(model, params, xs))))(params)
    assert all(float(jnp.abs(g).max()) > 0 for g in [*by_inputs, *floats(by_params)])


@every_model
def test_autodiff_adjoint_equals_a_plain_scan(case):
    model, at = case.model, problem(case.model, 5)
    ours = jax.jit(lambda *at: sj.unroll(model, *at, adjoint=sj.Autodiff()))(*at)
    theirs = jax.jit(lambda *at: naive(model, *at))(*at)
    assert relative_error(floats(ours), floats(theirs)) <= 1e-12


def pullback(model, adjoint):
    """(at, d outputs) -> d at, compiled once for every cotangent."""

    def pull(at, cotangent):
        return floats(
            jax.vjp(lambda *at: sj.unroll(model, *at, adjoint=adjoint), *at)[1](cotangent)
        )

    return jax.jit(pull)


def cotangent_of(outputs, leaf_number=None):
    """Random numbers for the floating leaves (or one of them, the others zero)."""

    def draw(number, leaf):
        if not is_float(leaf):
            return np.zeros(leaf.shape, jax.dtypes.float0)
        drawn = normal(leaf, number)
        return drawn if leaf_number in (None, number) else jnp.zeros_like(drawn)

    leaves, structure = jax.tree.flatten(outputs)
    return structure.unflatten([draw(number, leaf) for number, leaf in enumerate(leaves)])


@every_model
def test_every_output_and_state_leaf_has_its_own_cotangent(case):
    """A cotangent on all leaves of (state, ys), and on one at a time: swapped h and c show."""
    model, at = case.model, problem(case.model, 5)
    outputs = jax.jit(lambda *at: sj.unroll(model, *at))(*at)
    ours, theirs = pullback(model, sj.BPTT()), pullback(model, sj.Autodiff())
    leaves = jax.tree.leaves(outputs)
    for number in [None, *(n for n, leaf in enumerate(leaves) if is_float(leaf))]:
        cotangent = cotangent_of(outputs, number)
        assert relative_error(ours(at, cotangent), theirs(at, cotangent)) <= 1e-10


def ctc(ys):
    """Connectionist temporal classification: a sum over alignments, not over time."""
    logits = jnp.stack([ys.sum(1), ys[:, 0], -ys[:, 0]], axis=1)
    labels, none = jnp.array([[1, 2]]), jnp.zeros((1, 2))
    return optax.ctc_loss(logits[None], jnp.zeros((1, len(ys))), labels, none)[0]


DIVERGENCES = [
    ctc,
    lambda ys: jnp.sum(jnp.max(ys, axis=0)),  # a maximum over time
    lambda ys: jnp.prod(jnp.mean(ys, axis=1) + 1.5),  # a product over time
    lambda ys: jnp.sum(ys[-1] ** 2),  # the last step only
    lambda ys: jnp.sum((ys[3:] * ys[:-3]) ** 2),  # pairs of steps
]


@pytest.mark.parametrize("case", BUILT_IN, ids=[case.name for case in BUILT_IN])
def test_divergence_that_is_no_sum_over_time(case):
    model, at = case.model, problem(case.model, 8)
    state, ys = jax.jit(lambda *at: sj.unroll(model, *at))(*at)
    ours, theirs = pullback(model, sj.BPTT()), pullback(model, sj.Autodiff())
    for div in DIVERGENCES:
        with jax.numpy_dtype_promotion("standard"):  # optax.ctc_loss mixes float32 in
            d_ys = jax.grad(div)(ys)
        assert float(jnp.abs(d_ys).max()) > 0
        cotangent = jax.tree.map(jnp.zeros_like, state), d_ys
        assert relative_error(ours(at, cotangent), theirs(at, cotangent)) <= 1e-10


def test_ctc_end_to_end():
    """The same, with the divergence inside the function that is differentiated."""
    model, at = LSTM.model, problem(LSTM.model, 8)
    div = lambda outputs: ctc(outputs[1])
    with jax.numpy_dtype_promotion("standard"):
        ours = gradient(model, div)(*at)
        theirs = gradient(model, div, adjoint=sj.Autodiff())(*at)
    assert relative_error(ours, theirs) <= 1e-10


@every_model
def test_second_order(case):
    """Reverse over reverse."""
    model, at = case.model, problem(case.model, 4)

    def second(adjoint):
        def first(*at):
            grads = jax.grad(
                lambda *at: weighted(sj.unroll(model, *at, adjoint=adjoint)),
                (0, 1),
                allow_int=True,
            )(*at)
            return sum(jnp.sum(jnp.cos(g)) for g in floats(grads))

        return floats(jax.jit(jax.grad(first, (0, 1, 2), allow_int=True))(*at))

    ours, theirs = second(sj.BPTT(chunk=3)), second(sj.Autodiff())
    assert relative_error(ours, theirs) <= 1e-10
    assert max(float(jnp.abs(g).max()) for g in theirs) > 0


def test_hessian_is_the_same_forward_over_reverse():
    model, (params, xs, state) = LSTM.model, problem(LSTM.model, 3)
    hessian = [
        jax.jit(
            jax.hessian(lambda xs, a=a: weighted(sj.unroll(model, params, xs, state, adjoint=a)))
        )
        for a in (sj.BPTT(), sj.Autodiff())
    ]
    assert relative_error([hessian[0](xs)], [hessian[1](xs)]) <= 1e-10


@pytest.mark.parametrize("case", BUILT_IN, ids=[case.name for case in BUILT_IN])
def test_forward_mode_works_with_autodiff_and_says_so_with_bptt(case):
    model, (params, xs, state) = case.model, problem(case.model, 4)

    def run(adjoint):
        return lambda xs: sj.unroll(model, params, xs, state, adjoint=adjoint)[1]

    forward = jax.jit(jax.jacfwd(run(sj.Autodiff())))(xs)
    reverse = jax.jit(jax.jacrev(run(sj.BPTT())))(xs)
    assert relative_error([reverse], [forward]) <= 1e-10
    with pytest.raises(TypeError, match=r"adjoint: BPTT has no forward-mode .*sj\.Autodiff"):
        jax.jvp(run(sj.BPTT()), (xs,), (xs,))


@every_model
@pytest.mark.parametrize(("truncate", "chunk"), [(1, None), (3, 2), (20, 3)])
def test_truncated_bptt_is_a_scan_with_its_carry_cut(case, truncate, chunk):
    model, at = case.model, problem(case.model, 8)

    def plain(*at):
        return weighted(naive(model, *at, truncate=truncate))

    theirs = floats(jax.jit(jax.grad(plain, (0, 1, 2), allow_int=True))(*at))
    ours = gradient(model, adjoint=sj.BPTT(truncate=truncate, chunk=chunk))(*at)
    assert relative_error(ours, theirs) <= 1e-10


@pytest.mark.parametrize("case", BUILT_IN, ids=[case.name for case in BUILT_IN])
@pytest.mark.parametrize("bound", [0.3])
def test_clip_bounds_the_adjoint_of_every_step(case, bound):
    model, at = case.model, problem(case.model, 6)
    clipped = clipper(bound)

    def plain(params, xs, state):
        def step(h, x):
            h = clipped(model.activate(model.preactivate(params, h, model.project(params, x)), h))
            return h, model.readout(params, h)

        return weighted(lax.scan(step, state, xs))

    theirs = floats(jax.jit(jax.grad(plain, (0, 1, 2)))(*at))
    ours = gradient(model, adjoint=sj.BPTT(clip=bound, chunk=4))(*at)
    whole = gradient(model)(*at)
    assert relative_error(ours, theirs) <= 1e-10
    assert relative_error(ours, whole) > 0.01  # the bound was felt


@every_model
def test_learned_and_given_initial_state_have_the_same_gradient(case):
    model, (params, xs, _) = case.model, problem(case.model, 5)
    if all(not is_float(leaf) for leaf in jax.tree.leaves(model.initial_state(params))):
        pytest.skip("no state")

    def implicit(params):
        return weighted(sj.unroll(model, params, xs))

    def explicit(params):
        return weighted(sj.unroll(model, params, xs, model.initial_state(params)))

    ours, theirs = (floats(jax.jit(jax.grad(f))(params)) for f in (implicit, explicit))
    assert relative_error(ours, theirs) <= 1e-12


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
