"""NARX in closed loop, in open loop, and in between."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export, lax
from support.comparison import assert_close, floats, relative_error
from support.oracles import clipper, outputs_and_gradient, weighted
from support.table import normal, problem

import seqjax as sj
from seqjax.models.narx_open_loop import MixedLoop, OpenLoop

T = 9
MODEL = sj.narx(3, 5, 2, input_delays=(0, 2), output_delays=(1, 3), dtype=jnp.float64)
PARAMS, XS, STATE = problem(MODEL, T)
MEASURED = normal(jax.ShapeDtypeStruct((T, 2), jnp.float64), 9)
ONE_TAP = sj.narx(1, 4, 1, input_delays=(0,), output_delays=(1,), dtype=jnp.float64)


def loop(params, xs, state, feed, network=lambda h: h):
    """The equations, in numpy; `feed(t, y)` is what is fed back of y(t)."""
    inputs, fed, ys = [*state.xs, *xs], list(state.ys), []
    for t in range(len(xs)):
        z = np.array(params["bias"])
        for number, delay in enumerate((0, 2)):
            z = z + inputs[len(state.xs) + t - delay] @ params["kernel"][number]
        for number, delay in enumerate((1, 3)):
            z = z + fed[len(state.ys) + t - delay] @ params["recurrent_kernel"][number]
        ys.append(network(np.tanh(z)) @ params["output_kernel"] + params["output_bias"])
        fed.append(feed(t, ys[-1]))
    return np.array(inputs[len(xs) :]), np.array(fed[len(xs) :]), np.array(ys)


def agree(ours, theirs):
    (state, ys), (x_line, y_line, oracle) = ours, theirs
    assert_close((state.xs, state.ys, ys), (x_line, y_line, oracle), 1e-13)


def test_closed_loop_is_the_equation():
    agree(sj.unroll(MODEL, PARAMS, XS, STATE), loop(PARAMS, XS, STATE, lambda t, y: y))


def test_open_loop_is_the_equation_on_measured_outputs():
    ours = sj.teacher_force(MODEL, PARAMS, XS, MEASURED, STATE)
    agree(ours, loop(PARAMS, XS, STATE, lambda t, y: MEASURED[t]))


def further_layers(params, h):
    for layer in params:
        h = np.tanh(h @ layer["kernel"] + layer["bias"])
    return h


def residual_block(params, h):
    norm, (layer, _) = params
    deviation = (h - h.mean()) / np.sqrt(h.var() + 1e-5) * norm["scale"] + norm["bias"]
    return deviation + np.sin(deviation @ layer["kernel"] + layer["bias"])


BLOCK = sj.residual(sj.stack(sj.dense(5, 5, dtype=jnp.float64), jnp.sin))


@pytest.mark.parametrize(
    ("hidden", "network"),
    [
        ((5, 4, 3), further_layers),
        (sj.stack(sj.layer_norm(5, dtype=jnp.float64), BLOCK), residual_block),
    ],
    ids=["three layers", "a model"],
)
def test_a_hidden_network_is_computed_between_the_layers(hidden, network):
    model = dataclasses.replace(MODEL, hidden=hidden)
    assert [*model.parts] == ["hidden"]
    assert " object at " not in repr(model.parts)
    params, xs, state = problem(model, T)
    between = lambda h: network(params["hidden"], h)
    agree(sj.unroll(model, params, xs, state), loop(params, xs, state, lambda t, y: y, between))
    ours = sj.teacher_force(model, params, xs, MEASURED, state)
    agree(ours, loop(params, xs, state, lambda t, y: MEASURED[t], between))


def test_parameters_of_a_hidden_model_are_cast_by_that_alone():
    """Its float32 kernel of 1 + 2⁻¹⁰ would be 1 in the dtype of the model around it."""
    half, single = (sj.dense(1, 1, use_bias=False, dtype=t) for t in (jnp.bfloat16, jnp.float32))
    widen = lambda h: h.astype(jnp.float32)
    magnify = lambda h: (1024 * (h - 1)).astype(jnp.bfloat16)
    model = sj.narx(1, sj.stack(half, widen, single, magnify), 1, dtype=jnp.bfloat16)
    params = jax.tree.map(jnp.zeros_like, model.init(jax.random.key(0)))
    hidden = jax.tree.map(jnp.ones_like, params["hidden"])
    hidden[2]["kernel"] += 2**-10
    params |= {"hidden": hidden, "output_kernel": jnp.ones((1, 1), jnp.bfloat16)}
    params["bias"] += 20  # tanh is 1
    xs = jnp.zeros((3, 1), jnp.bfloat16)
    closed, open_loop = sj.unroll(model, params, xs), sj.teacher_force(model, params, xs, xs)
    assert closed[1].tolist() == open_loop[1].tolist() == [[1.0]] * 3
    assert model.step(params, model.initial_state(params), xs[0])[1].tolist() == [1.0]


@pytest.mark.parametrize("seed", range(3))
def test_scheduled_sampling_is_either_at_each_step(seed):
    forced = jnp.asarray(np.random.default_rng(seed).random(T) < 0.5)
    ours = sj.teacher_force(MODEL, PARAMS, XS, MEASURED, STATE, forced=forced)
    agree(ours, loop(PARAMS, XS, STATE, lambda t, y: MEASURED[t] if forced[t] else y))


def gradients(run, *at):
    return floats(jax.jit(jax.grad(lambda *at: weighted(run(*at)), (0, 1, 2)))(*at))


def test_forced_always_and_never_are_open_and_closed_loop_with_their_gradients():
    def forced(value):
        mask = jnp.full(T, value)
        return lambda p, xs, s: sj.teacher_force(MODEL, p, xs, MEASURED, s, forced=mask)

    def open_loop(p, xs, s):
        return sj.teacher_force(MODEL, p, xs, MEASURED, s)

    def closed_loop(p, xs, s):
        return sj.unroll(MODEL, p, xs, s)

    at = (PARAMS, XS, STATE)
    for ours, theirs in ((forced(True), open_loop), (forced(False), closed_loop)):
        assert_close(gradients(ours, *at), gradients(theirs, *at), 1e-12)
    assert relative_error(gradients(open_loop, *at), gradients(closed_loop, *at)) > 0.01


def test_what_is_not_fed_back_is_not_read():
    forced = jnp.arange(T) % 3 != 0
    gaps = jnp.where(forced[:, None], MEASURED, jnp.nan)

    def run(measured):
        return lambda *at: sj.teacher_force(MODEL, at[0], at[1], measured, at[2], forced=forced)

    at = (PARAMS, XS, STATE)
    for ours, theirs in zip(gradients(run(gaps), *at), gradients(run(MEASURED), *at), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_open_loop_is_parallel_over_time():
    def energy(params, xs, measured):
        return jnp.sum(sj.teacher_force(MODEL, params, xs, measured)[1] ** 2)

    at = (PARAMS, XS, MEASURED)
    for function in (energy, jax.grad(energy, (0, 1, 2))):
        assert "stablehlo.while" not in jax.jit(function).lower(*at).as_text()
    closed = jax.jit(lambda p, xs: sj.unroll(MODEL, p, xs)).lower(PARAMS, XS).as_text()
    assert "stablehlo.while" in closed


def test_open_loop_with_lengths_resets_and_chunks():
    reset = jnp.arange(T) == 4
    _, ys = sj.teacher_force(MODEL, PARAMS, XS, MEASURED, STATE, reset=reset, length=7)
    _, second = sj.teacher_force(MODEL, PARAMS, XS[4:7], MEASURED[4:7])
    np.testing.assert_allclose(ys[4:7], second, atol=1e-13)
    np.testing.assert_array_equal(ys[7:], 0)
    whole = sj.teacher_force(MODEL, PARAMS, XS, MEASURED, STATE)
    chunked = sj.teacher_force(MODEL, PARAMS, XS, MEASURED, STATE, adjoint=sj.BPTT(chunk=4))
    assert_close(floats(chunked), floats(whole), 1e-13)
    batch = lambda a: jnp.stack([a, a + 1])
    both = jax.vmap(lambda xs, ys: sj.teacher_force(MODEL, PARAMS, xs, ys, STATE)[1])(
        batch(XS), batch(MEASURED)
    )
    np.testing.assert_allclose(both[0], whole[1], atol=1e-13)


@pytest.mark.parametrize(
    ("kind", "x"),
    [
        (OpenLoop, (jnp.zeros(3), jnp.zeros(2))),
        (MixedLoop, (jnp.zeros(3), jnp.zeros(2), jnp.array(False))),
    ],
)
def test_what_is_fed_back_otherwise_is_proved_as_any_model_is(kind, x):
    sj.testing.check_cell(kind(MODEL), x=x, draws=1)


def test_warm_start_is_the_state_after_the_history():
    state, _ = sj.teacher_force(MODEL, PARAMS, XS, MEASURED)
    warm = sj.warm_start(MODEL, XS, MEASURED)
    for a, b in zip(warm, state, strict=True):
        np.testing.assert_array_equal(a, b)
    shortest = sj.warm_start(MODEL, XS[-3:], MEASURED[-3:])
    np.testing.assert_array_equal(shortest.ys, state.ys)
    with pytest.raises(ValueError, match="xs: expected a history of at least 3 steps, got 2 steps"):
        sj.warm_start(MODEL, XS[:2], MEASURED[:2])


def test_open_loop_is_exported_for_any_length():
    """A history must be long enough for `warm_start`: a symbolic length has to say that it is."""
    (steps,) = export.symbolic_shape("t", constraints=["t >= 3"])
    spec = lambda size: jax.ShapeDtypeStruct((steps, size), jnp.float64)

    def run(xs, measured):
        forced = xs[:, 0] > 0
        return (
            sj.teacher_force(MODEL, PARAMS, xs, measured)[1],
            sj.teacher_force(MODEL, PARAMS, xs, measured, forced=forced)[1],
            sj.warm_start(MODEL, xs, measured),
        )

    exported = export.export(jax.jit(run))(spec(3), spec(2)).call
    for time in (3, T):
        at = XS[:time], MEASURED[:time]
        assert_close(floats(exported(*at)), floats(run(*at)), 1e-12)


def test_an_impulse_shows_up_for_ever():
    """Infinite response, of one tap of each (notes, section 2); a finite one forgets."""
    params, _, _ = problem(ONE_TAP, 1)
    params["recurrent_kernel"] = jnp.ones((1, 1, 4))
    params["output_kernel"] = jnp.full((4, 1), 0.3)  # 4 · 0.3 > 1: it holds what it is told
    params |= {"bias": jnp.zeros(4), "output_bias": jnp.zeros(1)}
    steps = 10_000
    impulse, none = jnp.zeros((steps, 1)).at[0].set(1.0), jnp.zeros((steps, 1))
    difference = jnp.abs(
        sj.unroll(ONE_TAP, params, impulse)[1] - sj.unroll(ONE_TAP, params, none)[1]
    )
    assert float(difference.min()) > 0.1
    tdnn = sj.tdnn(1, 1, delays=range(5), dtype=jnp.float64)
    weights = tdnn.init(jax.random.key(0))
    difference = jnp.abs(sj.unroll(tdnn, weights, impulse)[1] - sj.unroll(tdnn, weights, none)[1])
    assert np.flatnonzero(difference).tolist() == [0, 1, 2, 3, 4]


def test_one_tap_is_a_jordan_network_without_average_but_for_the_gradient():
    params, xs, _ = problem(ONE_TAP, 6)
    xs = xs[:, :1]
    jordan = sj.jordan(1, 4, 1, decay=0.0, dtype=jnp.float64)
    same = params | {n: params[n][0] for n in ("kernel", "recurrent_kernel")}
    ours, theirs = sj.unroll(ONE_TAP, params, xs)[1], sj.unroll(jordan, same, xs)[1]
    np.testing.assert_allclose(ours, theirs, atol=1e-14)


LONG = 30  # steps, of which some are invalid
FLAGS = {
    "mask": jnp.asarray(np.random.default_rng(1).random(LONG) < 0.8),
    "reset": jnp.asarray(np.random.default_rng(2).random(LONG) < 0.1),
}


def far(output_delays):
    model = sj.narx(3, 4, 2, output_delays=output_delays, dtype=jnp.float64)
    return model, problem(model, LONG)


def step_by_step(model, params, xs, state, *, mask, reset, truncate=None, clip=None):
    """A scan over the model's own step, which carries the line and has JAX store what it will."""
    bounded = (lambda line: line) if clip is None else clipper(clip)
    start = model.initial_state(params)

    def choose(flag, new, old):
        return jax.tree.map(lambda a, b: jnp.where(flag, a, b), new, old)

    def step(carry, inputs):
        number, state = carry
        x, valid, again = inputs
        if truncate is not None:
            cut = (number > 0) & (number % truncate == 0) & valid
            state = choose(cut, lax.stop_gradient(state), state)
        new, _ = model.step(params, choose(again & valid, start, state), x)
        new = new._replace(ys=bounded(new.ys))
        y, new = new.ys[-1], choose(valid, new, state)
        return (number + jnp.where(valid, 1, 0), new), choose(valid, y, jnp.zeros_like(y))

    (_, state), ys = lax.scan(step, (jnp.array(0), state), (xs, mask, reset))
    return state, ys


@functools.cache
def reversed_step_by_step(output_delays, truncate, clip):
    model, at = far(output_delays)

    def run(params, xs, state):
        flags = {name: flag[::-1] for name, flag in FLAGS.items()}
        how = {"truncate": truncate, "clip": clip}
        state, ys = step_by_step(model, params, xs[::-1], state, **flags, **how)
        return state, ys[::-1]

    return jax.jit(functools.partial(outputs_and_gradient, run))(*at, {})


@pytest.mark.parametrize(
    "output_delays", [(1, 2), (1, 4, 5, 12), (3, 40)], ids=["near", "far", "before-the-series"]
)
@pytest.mark.parametrize(
    "adjoint",
    [
        pytest.param(sj.BPTT(store="states"), marks=pytest.mark.slow),
        sj.BPTT(store="preactivations", chunk=7, clip=0.1),
        sj.BPTT(store="chunk_starts", truncate=5),
        pytest.param(sj.Autodiff(), marks=pytest.mark.slow),
    ],
    ids=["states", "preactivations", "chunk-starts", "autodiff"],
)
def test_lags_near_and_far_with_every_option(output_delays, adjoint):
    model, at = far(output_delays)
    truncate, clip = (getattr(adjoint, name, None) for name in ("truncate", "clip"))
    run = functools.partial(sj.unroll, model, adjoint=adjoint, reverse=True, **FLAGS)
    ours = jax.jit(functools.partial(outputs_and_gradient, run))(*at, {})
    theirs = reversed_step_by_step(output_delays, truncate, clip)
    assert_close(ours[0], theirs[0], 1e-12)
    assert_close(ours[1], theirs[1], 1e-10)


@pytest.mark.parametrize("flags", [{}, FLAGS], ids=["plain", "masked-and-reset"])
def test_second_order_with_far_lags_is_the_difference_of_first_order(flags):
    model, at = far((1, 12))
    parallel = lambda tree: jax.tree.map(lambda a: normal(a, 8), tree)

    def first(*at):
        grads = jax.grad(lambda *at: weighted(sj.unroll(model, *at, **flags)), (0, 1, 2))(*at)
        return sum(jnp.sum(jnp.cos(g)) for g in floats(grads))

    step, direction = 1e-5, parallel(at)
    moved = lambda size: jax.tree.map(lambda a, v: a + size * v, at, direction)
    difference = (jax.jit(first)(*moved(step)) - jax.jit(first)(*moved(-step))) / (2 * step)
    second = jax.jit(jax.grad(first, (0, 1, 2)))(*at)
    products = jax.tree.map(lambda g, v: jnp.sum(g * v), second, direction)
    np.testing.assert_allclose(sum(jax.tree.leaves(products)), difference, rtol=1e-6)


def test_a_batch_of_masks_and_resets_is_a_loop_with_far_lags():
    model, (params, xs, state) = far((1, 12))
    one = {"xs": xs, **FLAGS}
    batch = {name: jnp.stack([a, a[::-1]]) for name, a in one.items()}

    def run(params, at):
        return weighted(sj.unroll(model, params, state=state, **at))

    def total(params):
        return jnp.sum(jax.vmap(run, (None, 0))(params, batch))

    ours = floats(jax.jit(jax.grad(total))(params))
    of_one = jax.jit(jax.grad(run))
    each = [floats(of_one(params, jax.tree.map(lambda a, n=n: a[n], batch))) for n in range(2)]
    assert_close(ours, [a + b for a, b in zip(*each, strict=True)], 1e-12)


def temporary(run, *at):
    """Bytes of temporary memory of a function and of its gradient, for a batch of 8."""
    batched = lambda params, *series: jax.vmap(lambda *one: run(params, *one))(*series)
    total = lambda *at: jnp.sum(batched(*at) ** 2)
    for function in (batched, jax.grad(total)):
        yield jax.jit(function).lower(*at).compile().memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("way", ["closed loop", "with a mask", "with resets", "some forced"])
def test_memory_does_not_grow_with_the_lag(way):
    """Were the line stored at every step, the far lag would need 20 times as much."""
    adjoint = sj.BPTT(chunk=10**6)

    def needed(last):
        model = sj.narx(1, 8, 1, output_delays=(1, last), dtype=jnp.float32)
        spec = lambda dtype, *shape: jax.ShapeDtypeStruct((8, 1000, *shape), dtype)
        params = jax.eval_shape(model.init, jax.random.key(0))

        def run(params, xs, measured, flags):
            options = {"with a mask": "mask", "with resets": "reset", "some forced": "forced"}
            options = {options[way]: flags} if way in options else {}
            if way == "some forced":
                options |= {"measured_ys": measured}
                return sj.teacher_force(model, params, xs, adjoint=adjoint, **options)[1]
            return sj.unroll(model, params, xs, adjoint=adjoint, **options)[1]

        series = spec(jnp.float32, 1), spec(jnp.float32, 1), spec(jnp.bool_)
        return list(temporary(run, params, *series))

    for near, distant in zip(needed(2), needed(300), strict=True):
        assert distant <= 1.5 * near
