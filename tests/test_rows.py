"""`matmul(x, kernel, bias)` is `x @ kernel + bias` under every transformation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import relative_error

import seqjax as sj

DRAW = np.random.default_rng(0)
X, KERNEL, BIAS = (jnp.asarray(DRAW.standard_normal(s)) for s in ((4, 6, 5), (5, 7), (7,)))


def plain(x, kernel, bias):
    return x @ kernel + jnp.broadcast_to(bias, (*x.shape[:-1], bias.size))


def batched(function):
    return jax.vmap(function, (0, None, None))


def total(function):
    return lambda *at: jnp.sum(jnp.sin(batched(function)(*at)))


def gradient(function):
    return jax.grad(total(function), (0, 1, 2))


def second(function):
    def of_gradient(*at):
        return sum(jnp.sum(jnp.cos(g)) for g in gradient(function)(*at))

    return jax.grad(of_gradient, (0, 1, 2))


def each(function):
    return batched(jax.grad(lambda *at: jnp.sum(jnp.sin(function(*at))), (0, 1, 2)))


def ensemble(function):
    """A kernel and a bias for every example."""
    return lambda x, k, b: jax.vmap(function)(
        x, jnp.stack([k, -k, 2 * k, k]), jnp.stack([b, b, -b, 3 * b])
    )


TRANSFORMED = {
    "value": batched,
    "rows": lambda f: lambda x, kernel, bias: f(x[0], kernel, bias),
    "one row": lambda f: lambda x, kernel, bias: f(x[0, 0], kernel, bias),
    "over time and batch": lambda f: batched(batched(f)),
    "nested": lambda f: lambda x, k, b: batched(batched(f))(jnp.stack([x, 2 * x]), k, b),
    "gradient": gradient,
    "to x alone": lambda f: jax.grad(total(f), 0),
    "to the bias alone": lambda f: jax.grad(total(f), 2),
    "second order": second,
    "hessian": lambda f: jax.hessian(total(f), 2),
    "gradient of each example": each,
    "ensemble": ensemble,
    "biases": lambda f: lambda x, k, b: jax.vmap(f, (None, None, 0))(x[0], k, jnp.stack([b, -b])),
    "forward mode": lambda f: lambda *at: jax.jvp(batched(f), at, at),
    "forward mode to x": lambda f: lambda x, k, b: jax.jvp(lambda x: f(x, k, b), (x[0],), (x[1],)),
}


@pytest.mark.parametrize("jit", [False, True], ids=["", "jit"])
@pytest.mark.parametrize("transform", TRANSFORMED.values(), ids=TRANSFORMED)
def test_matmul_is_a_plain_one(transform, jit):
    ours, theirs = transform(sj.matmul), transform(plain)
    ours, theirs = (jax.jit(ours), jax.jit(theirs)) if jit else (ours, theirs)
    at = (X, KERNEL, BIAS)
    assert relative_error(jax.tree.leaves(ours(*at)), jax.tree.leaves(theirs(*at))) <= 1e-13


def test_the_inputs_of_a_batch_are_transposed_once_and_nothing_else_is():
    """From [B, T, I] to what a scan runs over; the larger pre-activations are made in place."""

    def project(xs):
        rows = jax.vmap(lambda x: sj.matmul(x, KERNEL, BIAS))(xs)
        return jax.lax.scan(lambda h, u: (h + u, None), jnp.zeros(7), rows)[0]

    jaxpr = jax.make_jaxpr(jax.vmap(project))(X)
    transposed = [e.invars[0].aval.shape for e in jaxpr.eqns if e.primitive.name == "transpose"]
    assert transposed == [X.shape]


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_a_bias_gradient_in_half_precision_does_not_stop_growing(dtype):
    xs, kernel = jnp.zeros((64, 64, 3), dtype), jnp.zeros((3, 2), dtype)

    def loss(bias):
        return jnp.sum(batched(batched(sj.matmul))(xs, kernel, bias))

    assert jax.grad(loss)(jnp.zeros(2, dtype)).tolist() == [4096, 4096]
