"""What a function of the user's own says is what is computed, in every way it can be written."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import io_callback
from support.comparison import assert_close, relative_error
from support.table import normal

import seqjax as sj

T, H = 7, 3
XS = normal(jax.ShapeDtypeStruct((T, H), jnp.float64), 1)
ADJOINTS = [sj.BPTT(), sj.BPTT(chunk=3), sj.BPTT(chunk=2, store="chunk_starts")]
every_adjoint = pytest.mark.parametrize("adjoint", ADJOINTS, ids=str)


def with_backward(backward):
    """The identity with a backward pass of one's own."""
    function = jax.custom_vjp(lambda x: x)
    function.defvjp(lambda x: (x, None), lambda _, g: (backward(g),))
    return function


def called_back(g):
    return jax.pure_callback(
        lambda g: np.clip(g, -0.1, 0.1), jax.ShapeDtypeStruct(g.shape, g.dtype), g
    )


clip = with_backward(lambda g: jnp.clip(g, -0.1, 0.1))
BACKWARDS = {
    "clip": clip,
    "sign": with_backward(jnp.sign),
    "callback": with_backward(called_back),
    "nested": with_backward(lambda g: clip(g) + jax.vjp(clip, g)[1](3 * g)[0]),
}


def opaque(inner):
    def init(key):
        return {"w": jax.random.normal(key, (H, H)), "r": jax.random.normal(key, (H, H)) / 2}

    def step(p, h, x):
        h = inner(jnp.tanh(x @ p["w"] + h @ p["r"]))
        return h, h

    return sj.from_step(init, step, lambda p: jnp.zeros(H))


def structured(inner):
    """With everything in `activate`, and no rules."""
    return sj.Cell(
        init=lambda key: jax.random.normal(key, (H, H)),
        initial_state=lambda p: jnp.zeros(H),
        preactivate=lambda p, h, u: u + sj.matmul(h, p),
        activate=lambda z, h: inner(jnp.tanh(z)),
    )


PLACES = {
    "rnn": lambda f: sj.rnn(H, H, activation=lambda z: f(jnp.tanh(z))),
    "jordan": lambda f: sj.jordan(H, H, H, decay=0.5, output_activation=f),
    "narx": lambda f: sj.narx(H, H, H, output_activation=lambda z: f(jnp.tanh(z))),
    "activate": structured,
    "step": opaque,
}


def gradient_in(model, adjoint):
    def loss(params):
        return jnp.sum(3 * jnp.cos(sj.unroll(model, params, XS, adjoint=adjoint)[1]))

    return jax.jit(jax.grad(loss))(model.init(jax.random.key(0)))


@functools.cache
def plain_gradient_in(place):
    return gradient_in(PLACES[place](lambda x: x), sj.Autodiff())


@pytest.mark.parametrize(
    "backward",
    [
        pytest.param(n, marks=() if n in ("callback", "nested") else pytest.mark.slow)
        for n in BACKWARDS
    ],
)
@pytest.mark.parametrize("place", PLACES)
def test_a_backward_pass_of_the_users_own_is_the_one_that_runs(place, backward):
    model = PLACES[place](BACKWARDS[backward])
    theirs = gradient_in(model, sj.Autodiff())
    assert_close(gradient_in(model, sj.BPTT(chunk=3)), theirs, 1e-10)
    assert relative_error(theirs, plain_gradient_in(place)) > 0.01


def context_cell(context):
    """It closes over `context` in every function, rules too."""
    return sj.Cell(
        init=lambda key: jnp.ones(H),
        initial_state=lambda p: jnp.zeros(H) + context,
        project=lambda p, x: x * context,
        preactivate=lambda p, h, u: p * u + h * context,
        preactivate_vjp=lambda p, h, u, z, dz: dz * context,
        activate=lambda z, h: jnp.tanh(z),
        activate_vjp=lambda z, h, new, d: (d * (1 - new * new), None),
        readout=lambda p, h: h * context,
    )


def context_in_activate(context):
    return sj.Cell(
        init=lambda key: jnp.ones(H),
        initial_state=lambda p: jnp.zeros(H),
        preactivate=lambda p, h, u: p * u + h,
        activate=lambda z, h: jnp.tanh(z) * context,
    )


def context_step(context):
    def step(p, h, x):
        h = jnp.tanh(p * x + h * context)
        return h, h

    return sj.from_step(lambda key: jnp.ones(H), step, lambda p: jnp.zeros(H) + context)


AROUND = {
    "grad": jax.grad,
    "grad of jit": lambda f: jax.grad(jax.jit(f)),
    "jit of grad": lambda f: jax.jit(jax.grad(f)),
    "grad of vmap": lambda f: jax.grad(lambda c: jax.vmap(f)(jnp.stack([c, 2 * c])).sum()),
    "grad of checkpoint": lambda f: jax.grad(jax.checkpoint(f)),
    "grad of scan": lambda f: jax.grad(
        lambda c: jax.lax.scan(lambda s, _: (s, f(c)), 0, None, length=2)[1].sum()
    ),
}


@pytest.mark.parametrize(
    "around",
    [pytest.param(name, marks=() if "of" in name else pytest.mark.slow) for name in AROUND],
)
@pytest.mark.parametrize("make", [context_cell, context_in_activate, context_step])
def test_a_step_may_close_over_what_is_differentiated(make, around):
    def of(adjoint):
        def loss(context):
            return jnp.sum(sj.unroll(make(context), jnp.ones(H), XS, adjoint=adjoint)[1] ** 2)

        return AROUND[around](loss)(jnp.array([0.1, 0.2, 0.3]))

    for adjoint in (sj.BPTT(), sj.BPTT(chunk=3)):
        assert_close([of(adjoint)], [of(sj.Autodiff())], 1e-12)


@pytest.mark.parametrize("adjoint", [sj.BPTT(), sj.BPTT(chunk=3), sj.Autodiff()], ids=str)
def test_a_step_may_name_a_mapped_axis(adjoint):
    def step(p, h, x):
        h = jax.lax.pmean(jnp.tanh(p * x + h), "batch")
        return h, h

    cell = sj.from_step(lambda key: jnp.ones(H), step, lambda p: jnp.zeros(H))
    batch = jnp.stack([XS, 2 * XS])

    def loss(p):
        run = lambda xs: sj.unroll(cell, p, xs, adjoint=adjoint)[1]
        return jnp.sum(jax.vmap(run, axis_name="batch")(batch) ** 2)

    def by_hand(p):
        h, total = jnp.zeros(H), 0.0
        for t in range(T):
            h = jnp.mean(jnp.tanh(p[None] * batch[:, t] + h[None]), axis=0)
            total += 2 * jnp.sum(h**2)
        return total

    ours, theirs = (jax.grad(f)(jnp.ones(H)) for f in (loss, by_hand))
    assert_close([ours], [theirs], 1e-12)


def test_effects_run_once_a_step_and_again_in_the_backward_pass_of_a_chunk():
    seen = []

    def step(p, h, x):
        jax.debug.callback(lambda x: seen.append(float(x[0])), x)
        h = jnp.tanh(p * x + h)
        return h, h

    cell = sj.from_step(lambda key: jnp.ones(H), step, lambda p: jnp.zeros(H))
    once = sorted(XS[:, 0].tolist())
    bounded = sj.BPTT(chunk=1), sj.BPTT(store="chunk_starts")
    for adjoint in (sj.BPTT(), sj.BPTT(truncate=2), sj.Autodiff(), *bounded):
        run = lambda p, adjoint=adjoint: sj.unroll(cell, p, XS, adjoint=adjoint)[1].sum()
        twice = sorted(2 * once) if adjoint in bounded else once
        for function, expected in ((run, once), (jax.grad(run), twice)):
            seen.clear()
            jax.block_until_ready(jax.jit(function)(jnp.ones(H)))
            jax.effects_barrier()
            assert sorted(seen) == expected


def test_ordered_effects():
    seen = []

    def step(p, h, x):
        io_callback(lambda x: seen.append(float(x[0])), None, x, ordered=True)
        return h + x, h

    cell = sj.from_step(lambda key: (), step, lambda p: jnp.zeros(H))
    jax.block_until_ready(jax.jit(lambda xs: sj.unroll(cell, (), xs))(XS))
    jax.effects_barrier()
    assert seen == XS[:, 0].tolist()


@every_adjoint
@pytest.mark.parametrize(
    "f", [lambda x: jnp.log(jnp.abs(x)), lambda x: x / jnp.linalg.norm(x)], ids=["log", "norm"]
)
@pytest.mark.parametrize("own", [False, True], ids=["structured", "own"])
def test_nothing_comes_of_invalid_steps_whatever_a_function_does_at_zero(own, f, adjoint):
    def step(p, h, x):
        h = jnp.tanh(p * f(x) + h / 2)
        return h, h

    model = sj.Cell(
        init=lambda key: jnp.ones(H),
        initial_state=lambda p: jnp.zeros(H),
        project=lambda p, x: p * f(x),
        preactivate=lambda p, h, u: u + h / 2,
        activate=lambda z, h: jnp.tanh(z),
        readout=lambda p, h: f(h),
    )
    if own:
        model = sj.from_step(lambda key: jnp.ones(H), step, lambda p: jnp.zeros(H))

    def loss(p, xs, length):
        return jnp.sum(sj.unroll(model, p, xs, length=length, adjoint=adjoint)[1])

    whole = jax.grad(lambda p, xs: jnp.sum(sj.unroll(model, p, xs)[1]), (0, 1))
    padded = jax.jit(jax.grad(loss, (0, 1)))
    for length in (0, 3, T):
        by_p, by_xs = padded(jnp.ones(H), XS.at[length:].set(jnp.nan), length)
        assert bool(jnp.all(by_xs[length:] == 0))
        if length:
            theirs = jax.jit(whole)(jnp.ones(H), XS[:length])
            assert_close((by_p, by_xs[:length]), theirs, 1e-12)
        else:
            assert bool(jnp.all(by_p == 0))


def test_forward_mode_is_refused_in_words_wherever_it_comes_from():
    cell = sj.gru(H, 2)
    params = cell.init(jax.random.key(0))
    f = lambda p: sj.unroll(cell, p, XS)[1].sum()
    ways = [
        lambda: jax.jvp(f, (params,), (params,)),
        lambda: jax.jit(lambda p: jax.jvp(f, (p,), (p,)))(params),
        lambda: jax.jvp(jax.checkpoint(f), (params,), (params,)),
        lambda: jax.grad(lambda p: jax.jvp(f, (p,), (p,))[1])(params),
        lambda: jax.linearize(f, params)[1](params),
        lambda: jax.jacfwd(lambda xs: sj.unroll(cell, params, xs)[1])(XS),
    ]
    for way in ways:
        with pytest.raises(TypeError, match=r"adjoint: BPTT has no forward-mode .*sj\.Autodiff"):
            way()


@pytest.mark.parametrize("store", ["states", "preactivations", "chunk_starts"])
def test_complex_states(store):
    cell = sj.Cell(
        init=lambda key: jax.random.normal(key, (H, H), jnp.complex128) / 2,
        initial_state=lambda p: jnp.zeros(H, jnp.complex128),
        project=lambda p, x: x.astype(p.dtype) @ p,
        preactivate=lambda p, h, u: u + h @ p,
        activate=lambda z, h: z / (1 + jnp.abs(z)).astype(z.dtype) + 0.5j * h,
        readout=lambda p, h: h.real + h.imag**2,
    )
    params = cell.init(jax.random.key(0))
    mask = jnp.arange(T) != 2

    def of(adjoint):
        def loss(p, xs):
            return jnp.sum(jnp.cos(sj.unroll(cell, p, xs, mask=mask, adjoint=adjoint)[1]))

        return jax.jit(jax.grad(loss, (0, 1)))(params, XS)

    for chunk in (None, 3):
        assert_close(of(sj.BPTT(store=store, chunk=chunk)), of(sj.Autodiff()), 1e-12)


def test_a_literal_as_a_state():
    cell = sj.from_step(
        lambda key: jnp.array(0.5), lambda d, m, x: (d * m + x, m), lambda d: jnp.array(0.0)
    )
    f = lambda d: sj.unroll(cell, d, jnp.ones(4))[1].sum()
    d = jnp.array(0.5)
    with jax.numpy_dtype_promotion("standard"):
        np.testing.assert_allclose(jax.grad(jax.checkpoint(f))(d), jax.grad(f)(d))
