"""Predictions k steps ahead: each is a run of its own, all are computed in k passes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from support.comparison import assert_close, floats
from support.oracles import weighted
from support.table import astype, normal, problem

import seqjax as sj

T = 11
MODEL = sj.narx(3, 5, 2, input_delays=(0, 2), output_delays=(1, 3), dtype=jnp.float64)
PARAMS, XS, STATE = problem(MODEL, T)
MEASURED = normal(jax.ShapeDtypeStruct((T, 2), jnp.float64), 9)
EVERY = {"mask": np.ones(T, bool), "reset": np.zeros(T, bool)}
MASK = np.arange(T) % 4 != 2
FLAGS = {"mask": MASK, "reset": np.isin(np.arange(T), (2, 5))}  # the one at 2 does not count


def literally(params, xs, measured, state, steps_ahead, *, mask, reset):
    """A run for each t: over what was measured up to t-k, and freely from there on."""
    predicted = np.zeros_like(measured)
    valid = np.flatnonzero(mask)
    for last, t in enumerate(valid):
        inputs, fed = [*state.xs], [*state.ys]
        for number, s in enumerate(valid[: last + 1]):
            if reset[s]:
                inputs, fed = [*np.zeros_like(state.xs)], [*np.zeros_like(state.ys)]
            inputs.append(xs[s])
            z = np.array(params["bias"])
            for kernel, delay in zip(params["kernel"], (0, 2), strict=True):
                z = z + inputs[-1 - delay] @ kernel
            for kernel, delay in zip(params["recurrent_kernel"], (1, 3), strict=True):
                z = z + fed[-delay] @ kernel
            y = np.tanh(z) @ params["output_kernel"] + params["output_bias"]
            fed.append(measured[s] if number <= last - steps_ahead else y)
        predicted[t] = y
    return predicted


def numpy(tree):
    return jax.tree.map(np.asarray, tree)


@pytest.mark.parametrize("steps_ahead", [2, 4, 100])
def test_each_prediction_is_a_run_from_what_was_measured(steps_ahead):
    at = PARAMS, XS, MEASURED, STATE
    ys = sj.predict_ahead(MODEL, *at, steps_ahead=steps_ahead)[1]
    np.testing.assert_allclose(ys, literally(*numpy(at), steps_ahead, **EVERY), atol=1e-13)


@pytest.mark.parametrize("steps_ahead", [2, 3, 6])
def test_invalid_steps_are_not_counted_and_resets_are_not_crossed(steps_ahead):
    """Of two series with masks and resets of their own; what is invalid is NaN."""
    flags = {name: np.stack([flag, flag[::-1]]) for name, flag in FLAGS.items()}
    both = lambda a: jnp.where(flags["mask"][..., None], jnp.stack([a, a + 1]), jnp.nan)
    xs, measured = both(XS), both(MEASURED)

    def run(xs, measured, flags):
        at = PARAMS, xs, measured, STATE
        return sj.predict_ahead(MODEL, *at, steps_ahead=steps_ahead, **flags)[1]

    for number, ys in enumerate(jax.vmap(run)(xs, measured, flags)):
        at = numpy((PARAMS, xs[number], measured[number], STATE))
        of_one = {name: flag[number] for name, flag in flags.items()}
        np.testing.assert_allclose(ys, literally(*at, steps_ahead, **of_one), atol=1e-13)


def test_it_is_open_loop_one_step_ahead_and_a_free_run_beyond_the_record():
    at = PARAMS, XS, MEASURED, STATE
    options = {"length": 8, "reverse": True}
    one = sj.predict_ahead(MODEL, *at, steps_ahead=1, **options)
    assert_close(floats(one), floats(sj.teacher_force(MODEL, *at, **options)), 0)
    state, all_ahead = sj.predict_ahead(MODEL, *at, steps_ahead=8, **options)
    free = sj.unroll(MODEL, PARAMS, XS, STATE, **options)[1]
    np.testing.assert_allclose(all_ahead, free, atol=1e-13)
    assert_close(floats(state), floats(one[0]), 0)  # that of what was measured, always


def test_it_is_exported_for_any_length():
    """Also for records shorter than the prediction."""
    (steps,) = export.symbolic_shape("t", constraints=["t >= 3"])
    spec = lambda size: jax.ShapeDtypeStruct((steps, size), jnp.float64)

    def run(xs, measured):
        return sj.predict_ahead(MODEL, PARAMS, xs, measured, steps_ahead=5, mask=xs[:, 0] > -1)

    exported = export.export(jax.jit(run))(spec(3), spec(2)).call
    for time in (3, T):
        at = XS[:time], MEASURED[:time]
        assert_close(floats(exported(*at)), floats(run(*at)), 1e-12)


def test_derivatives_in_both_modes_are_the_difference_of_the_loop():
    at = PARAMS, XS, MEASURED, STATE
    gaps = lambda a: jnp.where(MASK[:, None], a, jnp.nan)

    def loss(params, xs, measured, state):
        at = params, gaps(xs), gaps(measured), state
        return weighted(sj.predict_ahead(MODEL, *at, steps_ahead=4, **FLAGS)[1])

    direction = jax.tree.map(lambda a: normal(a, 8), at)
    moved = lambda size: numpy(jax.tree.map(lambda a, v: a + size * v, at, direction))
    step = 1e-5
    of_loop = [weighted(literally(*moved(size), 4, **FLAGS)) for size in (step, -step)]
    difference = (of_loop[0] - of_loop[1]) / (2 * step)
    forward = jax.jit(lambda at, direction: jax.jvp(loss, at, direction)[1])(at, direction)
    gradient = jax.jit(jax.grad(loss, (0, 1, 2, 3)))(*at)
    backward = sum(jnp.sum(g * v) for g, v in zip(*map(floats, (gradient, direction)), strict=True))
    np.testing.assert_allclose([forward, backward], [difference] * 2, rtol=1e-7)


def test_what_an_invalid_step_would_compute_has_no_infinite_derivative():
    """Read at the second step, x(t) and ŷ(t) of the first one would make √0."""
    single = {"input_delays": (0,), "output_delays": (1,), "activation": jnp.sqrt}
    model = sj.narx(1, 1, 1, **single, dtype=jnp.float64)
    params = jax.tree.map(jnp.ones_like, model.init(jax.random.key(0)))
    params |= {"recurrent_kernel": -jnp.ones((1, 1, 1)), "bias": jnp.zeros(1)}
    params |= {"output_bias": jnp.zeros(1)}
    xs, mask = jnp.array([[1.0], [jnp.nan], [5.0]]), jnp.array([True, False, True])

    def last(params):
        ys = sj.predict_ahead(model, params, xs, 0 * xs, steps_ahead=2, mask=mask)[1]
        return ys[2, 0]

    value, gradient = jax.value_and_grad(last)(params)
    assert value == 2  # √(5 - √1)
    assert all(np.isfinite(leaf).all() for leaf in floats(gradient))


def test_in_half_precision_a_gradient_is_summed_over_the_passes_in_float32():
    """Of running sums of what it reads, each of which has gradients of one size at all passes."""
    single = {"input_delays": (0,), "output_delays": (1,), "activation": lambda z: z}
    model, time = sj.narx(1, 1, 1, **single, dtype=jnp.bfloat16), 1000
    params = jax.tree.map(jnp.zeros_like, model.init(jax.random.key(0)))
    params |= {name: jnp.ones_like(params[name]) for name in ("output_kernel", "recurrent_kernel")}

    def gradient(dtype):
        zeros = jnp.zeros((time, 1), dtype)
        run = functools.partial(sj.predict_ahead, model.astype(dtype), steps_ahead=time)
        total = lambda params: jnp.sum(run(params, zeros, zeros)[1])
        return jax.jit(jax.grad(total))(astype(params, dtype))

    ours, exact = gradient(jnp.bfloat16), gradient(jnp.float64)
    for name in ("bias", "output_bias"):  # one is read before the passes, the other by each
        np.testing.assert_allclose(astype(ours[name], jnp.float64), exact[name], rtol=0.01)


def test_a_far_delay_costs_no_memory_in_the_passes():
    """What lies further back than the prediction was measured: no pass keeps a line of it."""

    def needed(last):
        model = sj.narx(1, 8, 1, output_delays=(1, last), dtype=jnp.float32)
        params = jax.eval_shape(model.init, jax.random.key(0))
        series = jax.ShapeDtypeStruct((1000, 1), jnp.float32)

        def total(params, xs, measured):
            return jnp.sum(sj.predict_ahead(model, params, xs, measured, steps_ahead=4)[1])

        compiled = jax.jit(jax.grad(total)).lower(params, series, series).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert needed(300) <= 1.5 * needed(2)
