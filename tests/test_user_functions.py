"""What a function of the user's own says is what is computed, in every way it can be written."""

import copy
import gc
import pickle
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import (
    CASES,
    every_causal_model,
    every_model,
    floats,
    gradient,
    normal,
    problem,
    relative_error,
    weighted,
)
from jax.experimental import io_callback

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


@pytest.mark.parametrize("backward", BACKWARDS)
@pytest.mark.parametrize("place", PLACES)
def test_a_backward_pass_of_the_users_own_is_the_one_that_runs(place, backward):
    model, plain = PLACES[place](BACKWARDS[backward]), PLACES[place](lambda x: x)
    params = model.init(jax.random.key(0))

    def of(model, adjoint):
        def loss(params):
            return jnp.sum(3 * jnp.cos(sj.unroll(model, params, XS, adjoint=adjoint)[1]))

        return floats(jax.jit(jax.grad(loss))(params))

    theirs = of(model, sj.Autodiff())
    assert relative_error(of(model, sj.BPTT(chunk=3)), theirs) <= 1e-10
    assert relative_error(theirs, of(plain, sj.Autodiff())) > 0.01


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


@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("make", [context_cell, context_in_activate, context_step])
def test_a_step_may_close_over_what_is_differentiated(make, around):
    def of(adjoint):
        def loss(context):
            return jnp.sum(sj.unroll(make(context), jnp.ones(H), XS, adjoint=adjoint)[1] ** 2)

        return AROUND[around](loss)(jnp.array([0.1, 0.2, 0.3]))

    for adjoint in (sj.BPTT(), sj.BPTT(chunk=3)):
        assert relative_error([of(adjoint)], [of(sj.Autodiff())]) <= 1e-12


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
    assert relative_error([ours], [theirs]) <= 1e-12


def test_effects_run_once_a_step_and_in_order():
    seen = []

    def step(p, h, x):
        jax.debug.callback(lambda x: seen.append(float(x[0])), x)
        h = jnp.tanh(p * x + h)
        return h, h

    cell = sj.from_step(lambda key: jnp.ones(H), step, lambda p: jnp.zeros(H))
    for adjoint in (sj.BPTT(), sj.Autodiff()):
        run = lambda p, adjoint=adjoint: sj.unroll(cell, p, XS, adjoint=adjoint)[1].sum()
        for function in (jax.jit(run), jax.jit(jax.grad(run))):
            seen.clear()
            jax.block_until_ready(function(jnp.ones(H)))
            jax.effects_barrier()
            assert sorted(seen) == sorted(XS[:, 0].tolist())


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
@pytest.mark.parametrize("length", [0, 3, T])
@pytest.mark.parametrize(
    "f", [lambda x: jnp.log(jnp.abs(x)), lambda x: x / jnp.linalg.norm(x)], ids=["log", "norm"]
)
def test_nothing_comes_of_invalid_steps_whatever_a_function_does_at_zero(f, length, adjoint):
    def step(p, h, x):
        h = jnp.tanh(p * f(x) + h / 2)
        return h, h

    cell = sj.Cell(
        init=lambda key: jnp.ones(H),
        initial_state=lambda p: jnp.zeros(H),
        project=lambda p, x: p * f(x),
        preactivate=lambda p, h, u: u + h / 2,
        activate=lambda z, h: jnp.tanh(z),
        readout=lambda p, h: f(h),
    )
    own = sj.from_step(lambda key: jnp.ones(H), step, lambda p: jnp.zeros(H))
    spoilt = XS.at[length:].set(jnp.nan)
    for model in (cell, own):

        def loss(p, xs, model=model):
            return jnp.sum(sj.unroll(model, p, xs, length=length, adjoint=adjoint)[1])

        grads = jax.grad(loss, (0, 1))(jnp.ones(H), spoilt)
        whole = jax.grad(lambda p, xs: jnp.sum(sj.unroll(model, p, xs)[1]), (0, 1))  # noqa: B023
        assert bool(jnp.all(grads[1][length:] == 0))
        if length:
            theirs = whole(jnp.ones(H), XS[:length])
            assert relative_error([grads[0], grads[1][:length]], theirs) <= 1e-12
        else:
            assert bool(jnp.all(grads[0] == 0))


@every_model
def test_second_order_is_the_derivative_of_the_gradient(case):
    """By differences of the gradient itself, along a random direction of the parameters."""
    model, (params, xs, state) = case.model, problem(case.model, 5)

    @jax.jit
    def of_gradient(params):
        grads = jax.grad(lambda p: weighted(sj.unroll(model, p, xs, state)))(params)
        return sum(jnp.sum(jnp.sin(g)) for g in floats(grads))

    direction = normal(params, 9)
    there, back = (
        of_gradient(jax.tree.map(lambda p, d, eps=eps: p + eps * d, params, direction))
        for eps in (1e-5, -1e-5)
    )
    by_differences = float(there - back) / 2e-5
    pairs = zip(floats(jax.jit(jax.grad(of_gradient))(params)), floats(direction), strict=True)
    assert float(sum(jnp.sum(g * d) for g, d in pairs)) == pytest.approx(
        by_differences, rel=1e-5, abs=1e-7
    )
    forward = jax.jit(lambda p: jax.jvp(of_gradient, (p,), (direction,))[1])(params)
    assert float(forward) == pytest.approx(by_differences, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("store", ["states", "preactivations", "chunk_starts"])
@every_causal_model
def test_a_model_inside_an_own_step_keeps_its_gradient(case, store):
    """Where it cuts, the step is cut; and its second order is that of the model itself."""
    model, (params, xs, state) = case.model, problem(case.model, 5)
    own = sj.from_step(model.init, jax.jit(model.step), model.initial_state)
    options = {"mask": jnp.arange(5) != 2, "adjoint": sj.BPTT(chunk=2, store=store)}
    theirs = gradient(model, **options)(params, xs, state)
    assert relative_error(gradient(own, **options)(params, xs, state), theirs) <= 1e-12

    def second(model):
        def of_gradient(params):
            run = lambda p: weighted(sj.unroll(model, p, xs, state, **options))
            return sum(jnp.sum(jnp.sin(g)) for g in floats(jax.grad(run)(params)))

        return floats(jax.jit(jax.grad(of_gradient))(params))

    assert relative_error(second(own), second(model)) <= 1e-10


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
        assert relative_error(of(sj.BPTT(store=store, chunk=chunk)), of(sj.Autodiff())) <= 1e-12


def test_a_literal_as_a_state():
    cell = sj.from_step(
        lambda key: jnp.array(0.5), lambda d, m, x: (d * m + x, m), lambda d: jnp.array(0.0)
    )
    f = lambda d: sj.unroll(cell, d, jnp.ones(4))[1].sum()
    d = jnp.array(0.5)
    with jax.numpy_dtype_promotion("standard"):
        np.testing.assert_allclose(jax.grad(jax.checkpoint(f))(d), jax.grad(f)(d))


@every_model
def test_a_truncated_gradient_does_not_depend_on_padding(case):
    model, (params, xs, state) = case.model, problem(case.model, 5)
    spread = jnp.zeros((8, *xs.shape[1:])).at[jnp.array([0, 2, 3, 6, 7])].set(xs)
    mask = jnp.zeros(8, bool).at[jnp.array([0, 2, 3, 6, 7])].set(True)
    for reverse in (False, True):
        adjoint = sj.BPTT(truncate=2)
        total = lambda outputs: sum(jnp.sum(jnp.sin(a)) for a in floats(outputs))
        options = {"div": total, "adjoint": adjoint, "reverse": reverse}
        alone = gradient(model, **options)(params, xs, state)
        padded = gradient(model, **options, mask=mask)(params, spread, state)
        number = len(floats(params))
        assert relative_error(padded[:number], alone[:number]) <= 1e-12


def of_functions_with_names(case):
    return case.name not in ("structured-without-rules", "own-step", "memory", "stack-with-own")


@pytest.mark.parametrize(
    "case", [c for c in CASES if of_functions_with_names(c)], ids=lambda c: c.name
)
def test_a_model_is_pickled_and_copied(case):
    model = case.model
    assert pickle.loads(pickle.dumps(model)) == model
    assert copy.deepcopy(model) == model
    assert copy.deepcopy({"model": model})["model"] is model


@pytest.mark.parametrize("number", [10, pytest.param(100, marks=pytest.mark.slow)])
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
