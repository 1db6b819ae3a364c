"""`matmul(x, kernel, bias)` is `x @ kernel + bias` under every transformation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.comparison import assert_close

import seqjax as sj
from seqjax.ops.matmul import add_bias
from seqjax.ops.shift import shifted, spread

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
    assert_close(jax.tree.leaves(ours(*at)), jax.tree.leaves(theirs(*at)), 1e-13)


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

    def loss_of_many(biases):  # one for every example, which is what `over_steps` makes of one
        return jnp.sum(jax.vmap(add_bias)(jnp.zeros((2, 4096, 2), dtype), biases))

    assert jax.grad(loss_of_many)(jnp.zeros((2, 2), dtype)).tolist() == [[4096, 4096]] * 2


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_bias_is_added_wherever_the_batch_lies(axis):
    """And nothing is moved, but for a batch in the place of the bias."""
    y = jnp.moveaxis(X @ KERNEL, 0, axis)
    run = jax.vmap(add_bias, (axis, None), axis)
    np.testing.assert_array_equal(run(y, BIAS), jnp.moveaxis(plain(X, KERNEL, BIAS), 0, axis))
    assert ("transpose" in str(jax.make_jaxpr(run)(y, BIAS))) == (axis == 2)


FIRST, SERIES = (jnp.asarray(DRAW.standard_normal(s)) for s in ((4, 3), (4, 6, 3)))
SHIFTED = {
    "one": lambda f: lambda h, hs: f(h[0], hs[0]),
    "batch": jax.vmap,
    "batch behind time": lambda f: lambda h, hs: jax.vmap(f, (0, 1))(h, jnp.swapaxes(hs, 0, 1)),
    "one start": lambda f: lambda h, hs: jax.vmap(f, (None, 0))(h[0], hs),
    "one series": lambda f: lambda h, hs: jax.vmap(f, (0, None))(h, hs[0]),
    "no series": lambda f: lambda h, hs: jax.vmap(f, (None, 0))(h[0], hs[:0]),
    "nested": lambda f: lambda h, hs: jax.vmap(jax.vmap(f))(h[None], hs[None]),
    "gradient": lambda f: jax.grad(lambda *at: jnp.sum(jnp.sin(jax.vmap(f)(*at))), (0, 1)),
    "hessian": lambda f: jax.hessian(lambda *at: jnp.sum(jnp.sin(jax.vmap(f)(*at))), (0, 1)),
    "gradient of each": lambda f: jax.vmap(jax.grad(lambda *at: jnp.sum(jnp.sin(f(*at))), (0, 1))),
    "counters": lambda f: lambda h, hs: f(jnp.arange(3), jnp.arange(12).reshape(4, 3)),
}


@pytest.mark.parametrize("transform", SHIFTED.values(), ids=SHIFTED)
def test_shifted_is_a_concatenation(transform):
    ours, theirs = (
        transform(f)(FIRST, SERIES)
        for f in (shifted, lambda h, hs: jnp.concatenate([h[None], hs[:-1]]))
    )
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-14, atol=0)


STARTS = jnp.asarray(DRAW.standard_normal((4, 3)))
SPREAD = {
    "one": lambda f: lambda x, like: f(x[0], like[0]),
    "batch": jax.vmap,
    "of one start": lambda f: lambda x, like: jax.vmap(f, (None, 0))(x[0], like),
    "for one series": lambda f: lambda x, like: jax.vmap(f, (0, None))(x, like[0]),
    "batch behind time": lambda f: lambda x, like: jax.vmap(f, (0, 1))(x, like.T),
    "nested": lambda f: jax.vmap(jax.vmap(f, (None, 0)), (0, None)),
    "gradient": lambda f: jax.grad(
        lambda x, like: jnp.sum(jnp.sin(jax.vmap(f, (None, 0))(x[0], like)) * like[:, None, :1])
    ),
    "gradient by like": lambda f: jax.grad(
        lambda x, like: jnp.sum(jnp.sin(jax.vmap(f)(x, like)) * like[:, None, :1]), 1
    ),
}


@pytest.mark.parametrize("transform", SPREAD.values(), ids=SPREAD)
def test_spread_is_a_broadcast(transform):
    like = jnp.asarray(DRAW.standard_normal((4, 2)))
    broadcast = lambda x, like: jnp.broadcast_to(x, (5, 3)) + 0 * like[0]
    functions = lambda x, like: spread(x, like, 5), broadcast
    ours, theirs = (transform(f)(STARTS, like) for f in functions)
    np.testing.assert_allclose(ours, theirs, rtol=1e-14, atol=0)


def spread_over_time(x, like):
    return spread(x, like, 5)


# JAX itself refuses what these do with an axis that is split: they map over it beside one that is
# not, or take the gradient of a single place.
REFUSED = {"matmul-ensemble", "spread_over_time-nested", "spread_over_time-gradient"}
ON_EXPLICIT_AXES = {
    f"{operation.__name__}-{name}": (operation, transform, at)
    for operation, transforms, at in [
        (sj.matmul, TRANSFORMED, (X, KERNEL, BIAS)),
        (shifted, SHIFTED, (FIRST, SERIES)),
        (spread_over_time, SPREAD, (STARTS, SERIES[:, 0])),
    ]
    for name, transform in transforms.items()
}


@pytest.mark.parametrize("name", sorted(ON_EXPLICIT_AXES.keys() - REFUSED))
def test_a_batch_on_explicit_axes(name):
    operation, transform, at = ON_EXPLICIT_AXES[name]
    mesh = jax.make_mesh((1,), ("batch",), axis_types=(jax.sharding.AxisType.Explicit,))
    split, everywhere = (jax.sharding.PartitionSpec(*axes) for axes in (["batch"], []))
    run = jax.jit(transform(operation))
    theirs = run(*at)
    with jax.set_mesh(mesh):
        placed = [jax.device_put(a, split if a.shape[0] == 4 else everywhere) for a in at]
        ours = run(*placed)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize(
    "operation",
    [add_bias, shifted, lambda y, bias: spread(bias, y[0], 4)],
    ids=["add", "shift", "spread"],
)
def test_a_result_that_gets_no_cotangent(operation):
    """Not zeros: none at all, as of an operand that a rule of the user's own gives None."""
    ignored = jax.custom_vjp(lambda unused, x: x)
    ignored.defvjp(lambda unused, x: (x, None), lambda _, cotangent: (None, cotangent))
    operands = (FIRST[0], SERIES[0]) if operation is shifted else (SERIES[0], FIRST[0])

    def loss(a, b):
        return jnp.sum(ignored(operation(a, b), 2 * a)) + jnp.sum(3 * b)

    of_a, of_b = jax.jit(jax.grad(loss, (0, 1)))(*operands)
    assert np.all(of_a == 2)
    assert np.all(of_b == 3)


def test_a_shifted_series_of_random_keys():
    keys = jax.random.split(jax.random.key(0), 4)
    for call in (shifted, jax.jit(shifted)):
        moved = call(jax.random.key(7), keys)
        assert jnp.all(moved[1:] == keys[:-1])
        assert moved[0] == jax.random.key(7)
