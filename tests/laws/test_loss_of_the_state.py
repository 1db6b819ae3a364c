"""Losses of the final state alone, of recurrences in which the backward pass has little to read.

The gradient of a linear recurrence needs nothing that its steps computed, and a loss of the final
state brings no cotangent of the outputs: then the backward loop reads no series at all.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.comparison import assert_close, floats
from support.oracles import grad
from support.table import a_few_now, problem

import seqjax as sj

T = 6
LINEAR = {
    "rnn": sj.rnn(3, 4, activation=lambda z: z, dtype=jnp.float64),
    "narx": sj.narx(3, 4, 2, activation=lambda z: z, dtype=jnp.float64),
    "memory": sj.memory(
        r=lambda params, y, h, m: 0.5 * m + h,
        f=lambda params, x, m: params * x + m,
        g=lambda params, h: 2 * h,
        init=lambda key: jnp.array(2.0),
        initial_state=lambda params: (jnp.zeros(3),) * 3,
        input_spec=jax.ShapeDtypeStruct((3,), jnp.float64),
    ),
    "cell": sj.Cell(
        init=lambda key: {"kernel": jax.random.normal(key, (3, 3))},
        initial_state=lambda params: jnp.zeros(3),
        preactivate=lambda params, h_prev, u: u @ params["kernel"] + 0.9 * h_prev,
        preactivate_vjp=lambda params, h_prev, u, z, dz: 0.9 * dz,
        activate=lambda z, h_prev: z,
        activate_vjp=lambda z, h_prev, h, dh: (dh, None),
        input_spec=jax.ShapeDtypeStruct((3,), jnp.float64),
    ),
    # A state of constants, which JAX hands on as literals.
    "from_step": sj.from_step(
        lambda key: jnp.array(0.5),
        lambda params, state, x: (params * state + x.sum(), x),
        lambda params: jnp.array(0.0),
        input_spec=jax.ShapeDtypeStruct((3,), jnp.float64),
    ),
}
ADJOINTS = [sj.BPTT(), sj.BPTT(chunk=2), sj.BPTT(chunk=4, store="chunk_starts", truncate=5)]
OPTIONS = {"plain": {}, "reset": {"reset": np.arange(T) == 2, "length": T - 1}}


def gradient(model, options, adjoint, of_state=True):
    def loss(params, xs, state):
        state, ys = sj.unroll(model, params, xs, state, adjoint=adjoint, **options)
        return sum(jnp.sum(leaf.real) for leaf in floats(state if of_state else ys))

    return grad(loss, (0, 1, 2))


@pytest.mark.parametrize("options", ["plain", pytest.param("reset", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", LINEAR)
def test_a_linear_recurrence(name, options):
    params, xs, _ = problem(LINEAR[name], T)
    at = params, xs, LINEAR[name].initial_state(params)
    for of_state in (True, False):
        of = functools.partial(gradient, LINEAR[name], OPTIONS[options], of_state=of_state)
        whole = jax.jit(of(sj.Autodiff()))(*at)
        for adjoint in ADJOINTS:
            theirs = whole
            if adjoint.truncate is not None and options == "plain":
                theirs = jax.jit(of(sj.BPTT(truncate=adjoint.truncate)))(*at)
            ours = of(adjoint)(*at)  # eager
            assert_close(floats(ours), floats(theirs), 1e-12)


@a_few_now
def test_every_model(case):
    at = problem(case.model, T)
    ours = jax.jit(gradient(case.model, OPTIONS["reset"], sj.BPTT(chunk=4)))(*at)
    theirs = jax.jit(gradient(case.model, OPTIONS["reset"], sj.Autodiff()))(*at)
    assert_close(floats(ours), floats(theirs), 1e-10)
