"""A model is a value: it is pickled and copied, and nothing keeps it alive."""

import copy
import gc
import pickle
import weakref

import jax
import jax.numpy as jnp
import pytest
from support.table import CASES

import seqjax as sj


def of_functions_with_names(case):
    own = ("structured-without-rules", "own-step", "memory", "stack-with-own", "stochastic")
    return case.name not in own


@pytest.mark.parametrize(
    "case", [c for c in CASES if of_functions_with_names(c)], ids=lambda c: c.name
)
def test_a_model_is_pickled_and_copied(case):
    model = case.model
    assert pickle.loads(pickle.dumps(model)) == model
    assert copy.deepcopy(model) == model
    assert copy.deepcopy({"model": model})["model"] is model


@pytest.mark.parametrize("number", [5, pytest.param(100, marks=pytest.mark.slow)])
def test_a_loop_of_models_keeps_nothing_alive(number):
    """Neither the models, run and differentiated, nor what they close over."""
    models = weakref.WeakSet()

    def build(number):
        table = jnp.full(1000, float(number))

        def step(p, h, x):
            return h + p * table[0] + x, h

        start = lambda p: jnp.array(0.0)
        own = sj.from_step(lambda key: jnp.array(1.0), step, start)
        structured = sj.Cell(
            init=own.init,
            initial_state=start,
            preactivate=lambda p, h, u: u + h * p * table[0],
            activate=lambda z, h: jnp.tanh(z),
        )
        for model in (own, structured):
            models.add(model)
            params = model.init(jax.random.key(0))
            for adjoint in (sj.BPTT(), sj.BPTT(chunk=2)):
                run = lambda p, m=model, a=adjoint: sj.unroll(m, p, jnp.ones(3), adjoint=a)[1].sum()
                jax.block_until_ready((run(params), jax.grad(run)(params)))
                jax.block_until_ready(jax.jit(jax.grad(run))(params))

    def alive():
        gc.collect()
        return len(models), sum(a.shape == (1000,) for a in jax.live_arrays())

    build(0)
    before = alive()
    for n in range(number):
        build(n)
    assert all(now <= then for now, then in zip(alive(), before, strict=True))
