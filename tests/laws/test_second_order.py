"""Derivatives of the gradient itself: reverse over reverse, and forward over reverse."""

import jax
import jax.numpy as jnp
import pytest
from support.comparison import assert_close, floats
from support.oracles import Gradient, grad, gradient, weighted
from support.table import BY_NAME, CASES, FEW, KINDS, normal, parametrized, problem

import seqjax as sj

T = 4


def of_gradient(model, **options):
    """A function of the gradient, of (params, xs, state)."""
    loss = lambda *at: weighted(sj.unroll(model, *at, **options))

    def function(*at):
        grads = grad(loss, (0, 1))(*at)
        return sum(jnp.sum(jnp.cos(g).real) for g in floats(grads))

    return function


def second(model, **options):
    """Jitted: the value of that function, and its gradient."""
    function = of_gradient(model, **options)
    twice = lambda *at: (function(*at),) * 2
    return jax.jit(lambda *at: grad(twice, (0, 1, 2), has_aux=True)(*at)[::-1])


@parametrized(CASES, later=lambda case: case.name not in ("lstm-learned", "narx", "bidirectional"))
def test_second_order(case):
    """Against that of a plain scan, and by differences of the gradient along a direction."""
    model, (params, xs, state) = case.model, problem(case.model, T)
    ours, theirs = (second(model, adjoint=a) for a in (sj.BPTT(chunk=3), sj.Autodiff()))
    value, grads = ours(params, xs, state)
    expected, by_autodiff = theirs(params, xs, state)
    assert_close((value, Gradient(*grads)), (expected, Gradient(*by_autodiff)), 1e-10)
    assert max(float(jnp.abs(g).max()) for g in floats(by_autodiff)) > 0

    direction = normal(params, 9)
    moved = lambda size: jax.tree.map(lambda p, d: p + size * d, params, direction)
    there, back = (ours(moved(size), xs, state)[0] for size in (1e-5, -1e-5))
    by_differences = pytest.approx(float(there - back) / 2e-5, rel=1e-5, abs=1e-7)
    products = jax.tree.map(lambda g, d: jnp.sum(g * d), grads[0], direction)
    assert float(sum(jax.tree.leaves(products))) == by_differences
    function = of_gradient(model, adjoint=sj.BPTT(chunk=3))
    forward = jax.jit(lambda p: jax.jvp(lambda p: function(p, xs, state), (p,), (direction,))[1])
    assert float(forward(params)) == by_differences


def test_hessian_is_the_same_forward_over_reverse():
    model, (params, xs, state) = BY_NAME["lstm"].model, problem(BY_NAME["lstm"].model, 3)
    hessian = [
        jax.jit(
            jax.hessian(lambda xs, a=a: weighted(sj.unroll(model, params, xs, state, adjoint=a)))
        )
        for a in (sj.BPTT(), sj.Autodiff())
    ]
    assert_close(hessian[0](xs), hessian[1](xs), 1e-10)


STORES = ["states", "preactivations", "chunk_starts"]
CAUSAL = [case for case in KINDS if case.model.causal]


def inside(now, every_store):
    """Models with each store; with one of them now, so that each has several models."""
    return pytest.mark.parametrize(
        ("case", "store"),
        [
            pytest.param(
                case,
                store,
                id=f"{case.name}-{store}",
                marks=() if case.name in now and number % 3 == place else pytest.mark.slow,
            )
            for number, case in enumerate(CAUSAL)
            for place, store in enumerate(STORES)
            if (every_store and case.name in FEW) or number % 3 == place
        ],
    )


def own_step_of(model):
    return sj.from_step(model.init, jax.jit(model.step), model.initial_state)


def options_of(store):
    return {"mask": jnp.arange(T) != 2, "adjoint": sj.BPTT(chunk=2, store=store)}


@inside(now=FEW, every_store=True)
def test_a_model_inside_an_own_step_keeps_its_gradient(case, store):
    """Where it cuts, the step is cut."""
    model, at = case.model, problem(case.model, T)
    grads = [gradient(m, **options_of(store))(*at) for m in (own_step_of(model), model)]
    assert_close(*grads, 1e-12)


@inside(now={"narx"}, every_store=False)
def test_a_model_inside_an_own_step_keeps_its_second_order(case, store):
    model, at = case.model, problem(case.model, T)
    by_params = [
        jax.jit(jax.grad(of_gradient(m, **options_of(store))))(*at)
        for m in (own_step_of(model), model)
    ]
    assert_close(*by_params, 1e-10)


def test_second_order_of_steps_that_are_cut():
    """Run one by one, and by the recursion: where time is cut, values still depend on the past."""
    model = sj.rnn(3, 4, dtype=jnp.float64)
    at, adjoint = problem(model, T), sj.BPTT(truncate=2)
    by_params = [
        jax.jit(jax.grad(of_gradient(m, adjoint=adjoint)))(*at) for m in (own_step_of(model), model)
    ]
    assert_close(*by_params, 1e-10)
