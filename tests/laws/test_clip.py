"""The bound on λ(t) means the same, whichever way the steps are run.

Steps that call back run one after the other, differentiated by JAX; all others by the recursion.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.comparison import assert_close, floats
from support.oracles import grad
from support.table import a_few_causal_now, problem

import seqjax as sj
from seqjax.engine.bound import clipped
from seqjax.engine.recurrence import Steps
from seqjax.engine.unroll import _in_windows

T, BOUND = 7, 0.05


def gradients(case, stepwise, adjoint):
    model, steps = case.model, Steps(jnp.arange(T) != 3, jnp.arange(T) == 4)

    def loss(params, xs, state):
        runs = _in_windows(model, params, state, xs, steps, adjoint=adjoint, impure=stepwise)
        valid = lambda a: a[np.arange(T) != 3] if a.ndim and a.shape[0] == T else a
        return sum(jnp.sum(jnp.sin(valid(a)).real) for a in floats(runs))

    return floats(jax.jit(grad(loss, (0, 1, 2)))(*problem(model, T)))


@a_few_causal_now
def test_steps_one_by_one_are_clipped_as_the_recursion_clips(case):
    stepwise = gradients(case, True, sj.BPTT(clip=BOUND).stepwise())
    recursion = gradients(case, False, sj.BPTT(clip=BOUND, store="states"))
    assert_close(stepwise, recursion, 1e-10)


def leaky(callback):
    def activate(z, h_prev):
        if callback:
            jax.debug.callback(lambda _: None, z)
        return z

    return sj.Cell(
        init=lambda key: jnp.zeros(1),
        initial_state=lambda params: jnp.zeros(1),
        preactivate=lambda params, h_prev, u: u + 0.9 * h_prev,
        activate=activate,
        readout=lambda params, h: 10 * h,
    )


@pytest.mark.parametrize("callback", [False, True])
def test_every_element_is_bounded_by_hand(callback):
    """∂L/∂x(t) = λ(t) here, and without a bound it is 10 or more."""
    cell = leaky(callback)
    run = functools.partial(sj.unroll, cell, cell.init(jax.random.key(0)))
    for adjoint in (sj.BPTT(clip=0.5), sj.BPTT(clip=0.5, chunk=2)):
        loss = lambda xs, adjoint=adjoint: jnp.sum(run(xs, adjoint=adjoint)[1])
        assert jax.grad(loss)(jnp.ones((6, 1))).ravel().tolist() == [0.5] * 6


@pytest.mark.parametrize("chunk", [None, 2])
def test_of_an_opaque_step_the_state_and_the_output_are_bounded_each(chunk):
    def step(params, h, x):
        h = 0.9 * h + x
        return h, h

    model = sj.from_step(lambda key: jnp.zeros(1), step, lambda params: jnp.zeros(1))
    adjoint = sj.BPTT(clip=0.5, chunk=chunk)
    loss = lambda xs: jnp.sum(sj.unroll(model, jnp.zeros(1), xs, adjoint=adjoint)[1])
    found = jax.grad(loss)(jnp.ones((4, 1))).ravel()
    np.testing.assert_allclose(found, [1, 1, 0.5 + 0.45, 0.5], rtol=1e-12)


def test_a_complex_element_is_bounded_by_its_modulus():
    lam = jnp.array([3 + 4j, 0.3 - 0.4j, -1j, 0])
    np.testing.assert_allclose(clipped(lam, 1.0), [0.6 + 0.8j, 0.3 - 0.4j, -1j, 0], rtol=1e-15)
    np.testing.assert_array_equal(clipped(jnp.array([-3.0, 0.5, 2.0]), 1.0), [-1.0, 0.5, 1.0])
