"""Padding, lengths, resets, reversal, streaming: each against the run it must equal."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.comparison import assert_close, floats, is_float
from support.oracles import Gradient, grad, gradient, weighted
from support.table import CASES, a_few_causal_now, a_few_now, problem, series

import seqjax as sj

T = 7


@functools.cache
def compiled(model, **options):
    return jax.jit(lambda *at: sj.unroll(model, *at, **options))


def run(model, **options):
    """Compiled once for a model, where the options are no arrays."""
    if any(isinstance(option, jax.Array) for option in options.values()):
        return jax.jit(lambda *at: sj.unroll(model, *at, **options))
    return compiled(model, **options)


@a_few_now
@pytest.mark.parametrize(
    "adjoint",
    [sj.BPTT(chunk=4), pytest.param(sj.Autodiff(), marks=pytest.mark.slow)],
    ids=["bptt", "autodiff"],
)
def test_padding_changes_no_bit(case, adjoint):
    """NaN and infinities in padding leave every output and gradient as zeros there would."""
    model, (params, xs, state) = case.model, problem(case.model, T)
    mask = jnp.array([1, 1, 0, 1, 0, 0, 0], bool)
    worst = (jnp.nan, jnp.inf, -jnp.inf) if is_float(xs) else (-1, 1000, -1000)  # no tokens
    spoilt = xs.at[jnp.array([2, 4, 5])].set(
        jnp.array(worst, xs.dtype).reshape(3, *[1] * (xs.ndim - 1))
    )
    clean = jax.vmap(jnp.where, (0, 0, None))(mask, xs, jnp.zeros_like(xs[0]))

    @jax.jit
    def everything(*at):
        def loss(*at):
            outputs = sj.unroll(model, *at, mask=mask, adjoint=adjoint)
            return weighted(outputs), outputs

        grads, outputs = grad(loss, (0, 1, 2), has_aux=True)(*at)
        return outputs, Gradient(*grads)

    ours, theirs = (everything(params, xs, state) for xs in (spoilt, clean))
    assert_close(ours, theirs, 0)
    for d_xs in floats(ours[1].xs):
        np.testing.assert_array_equal(d_xs[~mask], 0)
        assert all(np.abs(d_x).max() > 0 for d_x in d_xs[mask])


@a_few_now
def test_lengths_equal_a_loop_over_examples(case):
    """A ragged batch against every example run alone, as long as it is; length 0 too."""
    model, (params, _, state) = case.model, problem(case.model, T)
    lengths = [0, 3, 4, T]
    xs = series(model, 7, len(lengths), T)
    batched = jax.jit(
        jax.vmap(lambda xs, n: sj.unroll(model, params, xs, state, length=n), (0, 0))
    )(xs, jnp.array(lengths))
    for number, length in enumerate(lengths):
        state_alone, ys_alone = run(model)(params, xs[number, :length], state)
        state_n, ys_n = jax.tree.map(lambda a, n=number: a[n], batched)
        assert_close(floats(state_n), floats(state_alone), 1e-13)
        for padded, alone in zip(floats(ys_n), floats(ys_alone), strict=True):
            assert_close(padded[:length], alone, 1e-13)
            np.testing.assert_array_equal(padded[length:], 0)


@a_few_now
@pytest.mark.parametrize("length", [None, 4])
def test_reverse_is_flip_run_flip(case, length):
    model, (params, xs, state) = case.model, problem(case.model, T)
    valid = T if length is None else length
    last, ys = run(model, reverse=True, length=length)(params, xs, state)
    last_flipped, flipped = run(model)(params, xs[:valid][::-1], state)
    ours = floats(jax.tree.map(lambda y: y[:valid], ys)) + floats(last)
    theirs = floats(jax.tree.map(lambda y: y[::-1], flipped)) + floats(last_flipped)
    assert_close(ours, theirs, 1e-13)


@a_few_causal_now
def test_streaming_and_carried_chunks_equal_one_go(case):
    model, (params, xs, state) = case.model, problem(case.model, T)
    whole = run(model)(params, xs, state)

    carried, parts = state, []
    for piece in (xs[:1], xs[1:4], xs[4:4], xs[4:]):
        carried, ys = run(model)(params, piece, carried)
        parts.append(ys)
    joined = jax.tree.map(lambda *a: jnp.concatenate(a), *parts)
    assert_close((carried, joined), whole, 1e-13)

    step = jax.jit(model.step)
    carried, outputs = state, []
    for x in xs:
        carried, y = step(params, carried, x)
        outputs.append(y)
    joined = jax.tree.map(lambda *a: jnp.stack(a), *outputs)
    assert_close((carried, joined), whole, 1e-13)


@a_few_causal_now
def test_reset_starts_anew(case):
    """Two episodes in one series equal two runs; the first one's gradient stops at the reset."""
    model, (params, xs, state) = case.model, problem(case.model, T)
    reset = jnp.arange(T) == 3

    @jax.jit
    @functools.partial(grad, argnums=(1, 2), has_aux=True)
    def after(params, xs, state):
        last, ys = sj.unroll(model, params, xs, state, reset=reset)
        return sum(jnp.sum(a.real) for a in floats(last)), (last, ys)

    (d_xs, d_state), (last, ys) = after(params, xs, state)
    _, first = run(model)(params, xs[:3], state)
    last_alone, second = run(model)(params, xs[3:], model.initial_state(params))
    joined = jax.tree.map(lambda *a: jnp.concatenate(a), first, second)
    assert_close(floats((last, ys)), floats((last_alone, joined)), 1e-13)
    assert all(float(jnp.abs(d[:3]).max()) == 0 for d in floats(d_xs))
    assert all(float(jnp.abs(d).max()) == 0 for d in floats(d_state))


def test_reset_at_an_invalid_step_is_none():
    model, (params, xs, state) = CASES[0].model, problem(CASES[0].model, T)
    mask = jnp.array([1, 1, 0, 1, 1, 1, 1], bool)
    reset = jnp.arange(T) == 2
    ours = run(model, mask=mask, reset=reset)(params, xs, state)
    theirs = run(model, mask=mask)(params, xs, state)
    assert_close(floats(ours), floats(theirs), 0)


def test_length_and_mask_together_are_both_obeyed():
    model, (params, xs, state) = CASES[0].model, problem(CASES[0].model, T)
    mask = jnp.array([1, 0, 1, 1, 1, 1, 1], bool)
    ours = run(model, mask=mask, length=4)(params, xs, state)
    theirs = run(model, mask=mask & (jnp.arange(T) < 4))(params, xs, state)
    assert_close(floats(ours), floats(theirs), 0)


@a_few_now
@pytest.mark.parametrize("reverse", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_truncated_gradient_does_not_depend_on_padding(case, reverse):
    model, (params, xs, state) = case.model, problem(case.model, 5)
    places = jnp.array([0, 2, 3, 6, 7])
    spread = jnp.zeros((8, *xs.shape[1:]), xs.dtype).at[places].set(xs)
    mask = jnp.zeros(8, bool).at[places].set(True)
    total = lambda outputs: sum(jnp.sum(jnp.sin(a).real) for a in floats(outputs))
    options = {"loss": total, "adjoint": sj.BPTT(truncate=2), "reverse": reverse}
    alone = gradient(model, **options)(params, xs, state)
    padded = gradient(model, **options, mask=mask)(params, spread, state)
    assert_close(padded.params, alone.params, 1e-12)
