"""Edges of the shapes: no steps, one step, lengths beyond the series, a stack of a stack."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.comparison import assert_close, floats
from support.oracles import gradient
from support.table import a_few_causal_now, a_few_now, problem

import seqjax as sj


@a_few_now
def test_no_steps(case):
    model, (params, xs, state) = case.model, problem(case.model, 0)
    last, ys = jax.jit(sj.unroll, static_argnums=0)(model, params, xs, state)
    assert all((a == b).all() for a, b in zip(floats(last), floats(state), strict=True))
    one = jax.eval_shape(lambda xs: sj.unroll(model, params, xs, state)[1], problem(model, 1)[1])
    assert [y.shape for y in floats(ys)] == [(0, *y.shape[1:]) for y in floats(one)]
    assert [y.dtype for y in floats(ys)] == [y.dtype for y in floats(one)]
    # The final state is the one passed in: nothing reaches the parameters.
    loss = lambda outputs: sum(jnp.sum(s**2).real for s in floats(outputs))
    grads = gradient(model, loss)(params, xs, state)
    for g in floats((grads.params, grads.xs)):
        assert float(jnp.abs(g).max(initial=0)) == 0
    assert_close(floats(grads.state), [2 * s for s in floats(state)], 0)


@a_few_causal_now
def test_one_step_equals_step(case):
    model, (params, xs, state) = case.model, problem(case.model, 1)
    state_1, ys = jax.jit(lambda: sj.unroll(model, params, xs, state))()
    state_2, y = jax.jit(lambda: model.step(params, state, xs[0]))()
    ours = floats(state_1) + [y[0] for y in floats(ys)]
    assert_close(ours, floats(state_2) + floats(y), 1e-14)


@pytest.mark.parametrize("x64", [True, False])
@pytest.mark.parametrize("dtype", ["int8", "int32", "int64", "uint8", "uint32", "uint64"])
def test_a_length_of_any_dtype_outside_the_series_counts_as_its_end(dtype, x64):
    """Also one that is negative as an int32, and a series longer than the dtype can count."""
    with jax.enable_x64(x64):
        dtype = jax.dtypes.canonicalize_dtype(dtype)
        largest = jnp.iinfo(dtype).max
        model, time = sj.tdnn(1, 1, delays=(0,)), 300
        params, xs = {"kernel": jnp.ones((1, 1, 1)), "bias": jnp.zeros(1)}, jnp.ones((time, 1))
        counted = jax.jit(lambda n: sj.unroll(model, params, xs, length=n)[1].sum())
        for given in (jnp.iinfo(dtype).min, 0, 5, 127, largest):
            number = jnp.asarray(given, dtype)
            assert float(counted(number)) == min(max(given, 0), time)
            if 0 <= given <= time:  # not traced
                assert float(sj.unroll(model, params, xs, length=number)[1].sum()) == given


def test_stack_of_a_stack():
    stack = sj.stack(sj.lstm(3, 4), sj.dense(4, 2))
    nested = sj.stack(stack, sj.rnn(2, 2))
    flat = sj.stack(*stack.models, sj.rnn(2, 2))
    (inner, last), xs = nested.init(jax.random.key(0)), jnp.ones((4, 3))
    ours = sj.unroll(nested, (inner, last), xs)[1]
    np.testing.assert_array_equal(ours, sj.unroll(flat, (*inner, last), xs)[1])
