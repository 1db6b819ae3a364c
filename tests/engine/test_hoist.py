"""What depends on the parameters alone is computed once, not at every step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.programs import scans

import seqjax as sj
from seqjax.ops.hoist import hoist


def rest_of(function, params, *example):
    """`function(params, …)` as a function of the rest: what depends on `params` alone is done."""
    hoisted = hoist(lambda params, _, *args: function(params, *args), params, (), *example)
    once = hoisted.once(hoisted.closed_over, params)
    return lambda *args: hoisted.rest(once, [], *args)


def cell_with(of_kernel):
    return sj.Cell(
        init=lambda key: {"kernel": jax.random.normal(key, (4, 4)) / 2},
        initial_state=lambda params: jnp.zeros(4),
        preactivate=lambda params, h, u: u + sj.matmul(h, of_kernel(params["kernel"])),
        activate=lambda z, h: jnp.tanh(z),
        preactivate_vjp=lambda params, h, u, z, dz: sj.matmul(dz, of_kernel(params["kernel"]).T),
    )


@pytest.mark.parametrize("adjoint", [sj.BPTT(), sj.Autodiff()], ids=lambda a: type(a).__name__)
def test_work_on_parameters_is_not_in_the_loop(adjoint):
    cell = cell_with(lambda kernel: jnp.sinh(kernel))
    params, xs = cell.init(jax.random.key(0)), jnp.ones((50, 4))

    def outputs(params):
        return sj.unroll(cell, params, xs, adjoint=adjoint)[1]

    def loops(function):
        program = jax.make_jaxpr(function)(params)
        assert "sinh" in str(program)
        return [str(scan.params["jaxpr"]) for scan in scans(program.jaxpr)]

    (body,) = loops(outputs)
    assert "rows_matmul" in body
    assert "sinh" not in body
    if adjoint == sj.BPTT():
        _, backward = loops(jax.grad(lambda params: outputs(params).sum()))
        assert "rows_matmul" in backward
        assert "sinh" not in backward
        assert "transpose[" not in backward


def test_the_backward_loop_multiplies_by_a_kernel_transposed_before_it():
    cell = sj.lstm(24, 24)
    params, xs = cell.init(jax.random.key(0)), jnp.ones((64, 8, 24))

    def loss(params):
        return jnp.sum(jax.vmap(lambda xs: sj.unroll(cell, params, xs)[1])(xs))

    text = jax.jit(jax.grad(loss)).lower(params).compile().as_text()
    in_loops = [line for line in text.splitlines() if " dot(" in line and "/while/body" in line]
    assert len(in_loops) == 2
    assert all("rhs_contracting_dims={0}" in line for line in in_loops)


def test_a_constant_is_left_where_it_is():
    def function(params, x):
        return jnp.zeros((100, 100)).sum() + params * x

    remaining = jax.make_jaxpr(rest_of(function, jnp.array(2.0), jnp.array(1.0)))(jnp.array(3.0))
    assert "broadcast_in_dim" in str(remaining)
    assert [const.shape for const in remaining.consts] == [()]


def effect(value):
    jax.debug.callback(lambda value: None, value)
    return value


def callback(value):
    return jax.pure_callback(lambda value: value, jax.ShapeDtypeStruct((), value.dtype), value)


@pytest.mark.parametrize("of_params", [effect, jax.jit(effect), callback])
def test_effects_and_callbacks_stay_in_the_loop(of_params):
    function = lambda params, x: of_params(params) + x
    remaining = jax.make_jaxpr(rest_of(function, jnp.array(2.0), jnp.array(1.0)))(jnp.array(3.0))
    assert "callback" in str(remaining)


def test_what_is_known_of_a_step_is_computed_for_all_steps_in_parallel():
    """And only what the loop reads is kept."""

    def function(params, known, lam):
        factor = jnp.sinh(known) * jnp.cosh(params)
        unused = jnp.tan(known)
        return lam * factor, unused * 0 + known

    params, known, lam = jnp.array(0.3), jnp.array([1.0, 2.0]), jnp.array([3.0, 4.0])
    hoisted = hoist(function, params, known[0], lam[0])
    once = hoisted.once(hoisted.closed_over, params)
    of_steps = jax.vmap(hoisted.per_step, (None, 0))(once, known)
    loop = str(
        jax.make_jaxpr(lambda at, lam: hoisted.rest(once, at, lam))(
            [a[0] for a in of_steps], lam[0]
        )
    )
    assert len(once) == 1
    assert len(of_steps) == 2
    assert "sinh" not in loop
    assert "cosh" not in loop
    ours = jax.vmap(hoisted.rest, (None, 0, 0))(once, of_steps, lam)
    theirs = jax.vmap(function, (None, 0, 0))(params, known, lam)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-14)


def test_a_rule_that_is_not_linear_is_computed_as_it_stands():
    hoisted = hoist(lambda p, z, lam: jnp.clip(lam * z, -1, 1), (), jnp.array(2.0), jnp.array(0.0))
    at = hoisted.per_step(hoisted.once([], ()), jnp.array(2.0))
    assert [float(hoisted.rest([], at, jnp.array(x))) for x in (0.25, 3.0)] == [0.5, 1.0]


def test_an_array_from_outside_is_no_parameter():
    outside, params, x = jnp.arange(3.0), jnp.full(3, 5.0), jnp.full(3, 0.5)
    result = rest_of(lambda params, x: (params - outside) * x, params, x)(x)
    assert result.tolist() == [2.5, 2.0, 1.5]


def test_a_result_may_be_nothing_or_a_parameter_or_a_number():
    params = {"a": jnp.arange(3.0), "b": (jnp.array(2.0),)}
    assert rest_of(lambda params, x: None, params, jnp.ones(3))(jnp.ones(3)) is None

    def function(params, x):
        return params["a"], {"x": x}, params["b"][0] * 3, 1.5

    a, x, six, number = rest_of(function, params, jnp.ones(3))(jnp.full(3, 7.0))
    np.testing.assert_array_equal(a, params["a"])
    np.testing.assert_array_equal(x["x"], 7.0)
    assert (float(six), float(number)) == (6.0, 1.5)


def test_weights_made_of_other_weights_have_their_gradients():
    """Weight normalisation inside `preactivate`, against plain autodiff."""
    cell = cell_with(lambda kernel: kernel / jnp.linalg.norm(kernel, axis=0, keepdims=True))
    params = cell.init(jax.random.key(0))
    xs = jax.random.normal(jax.random.key(1), (3, 20, 4))

    def gradient(adjoint):
        def loss(params):
            ys = jax.vmap(lambda xs: sj.unroll(cell, params, xs, adjoint=adjoint)[1])(xs)
            return jnp.sum(jnp.sin(ys))

        return jax.jit(jax.grad(loss))(params)["kernel"]

    def naive(params):
        kernel = params["kernel"] / jnp.linalg.norm(params["kernel"], axis=0, keepdims=True)
        h, total = jnp.zeros((3, 4)), 0.0
        for t in range(20):
            h = jnp.tanh(xs[:, t] + h @ kernel)
            total += jnp.sum(jnp.sin(h))
        return total

    expected = jax.grad(naive)(params)["kernel"]
    np.testing.assert_allclose(gradient(sj.BPTT()), expected, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(gradient(sj.Autodiff()), expected, rtol=1e-10, atol=1e-12)
