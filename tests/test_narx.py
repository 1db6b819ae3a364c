"""NARX in closed loop, in open loop, and in between."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import floats, normal, problem, relative_error, weighted
from jax import export

import seqjax as sj
from seqjax.models.narx_open_loop import OpenLoop

T = 9
MODEL = sj.narx(3, 5, 2, input_delays=(0, 2), output_delays=(1, 3), dtype=jnp.float64)
PARAMS, XS, STATE = problem(MODEL, T)
MEASURED = normal(jax.ShapeDtypeStruct((T, 2), jnp.float64), 9)
ONE_TAP = sj.narx(1, 4, 1, input_delays=(0,), output_delays=(1,), dtype=jnp.float64)


def loop(params, xs, state, feed):
    """The equations, in numpy; `feed(t, y)` is what is fed back of y(t)."""
    inputs, fed, ys = [*state.xs, *xs], list(state.ys), []
    for t in range(len(xs)):
        z = np.array(params["bias"])
        for number, delay in enumerate((0, 2)):
            z = z + inputs[len(state.xs) + t - delay] @ params["kernel"][number]
        for number, delay in enumerate((1, 3)):
            z = z + fed[len(state.ys) + t - delay] @ params["recurrent_kernel"][number]
        ys.append(np.tanh(z) @ params["output_kernel"] + params["output_bias"])
        fed.append(feed(t, ys[-1]))
    return np.array(inputs[len(xs) :]), np.array(fed[len(xs) :]), np.array(ys)


def agree(ours, theirs):
    (state, ys), (x_line, y_line, oracle) = ours, theirs
    for a, b in ((state.xs, x_line), (state.ys, y_line), (ys, oracle)):
        np.testing.assert_allclose(a, b, atol=1e-13)


def test_closed_loop_is_the_equation():
    agree(MODEL.unroll(PARAMS, XS, STATE), loop(PARAMS, XS, STATE, lambda t, y: y))


def test_open_loop_is_the_equation_on_measured_outputs():
    ours = sj.teacher_force(MODEL, PARAMS, XS, MEASURED, STATE)
    agree(ours, loop(PARAMS, XS, STATE, lambda t, y: MEASURED[t]))


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
        return MODEL.unroll(p, xs, s)

    at = (PARAMS, XS, STATE)
    for ours, theirs in ((forced(True), open_loop), (forced(False), closed_loop)):
        assert relative_error(gradients(ours, *at), gradients(theirs, *at)) <= 1e-12
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
    closed = jax.jit(lambda p, xs: MODEL.unroll(p, xs)).lower(PARAMS, XS).as_text()
    assert "stablehlo.while" in closed


def test_open_loop_with_lengths_resets_and_chunks():
    reset = jnp.arange(T) == 4
    _, ys = sj.teacher_force(MODEL, PARAMS, XS, MEASURED, STATE, reset=reset, length=7)
    _, second = sj.teacher_force(MODEL, PARAMS, XS[4:7], MEASURED[4:7])
    np.testing.assert_allclose(ys[4:7], second, atol=1e-13)
    np.testing.assert_array_equal(ys[7:], 0)
    whole = sj.teacher_force(MODEL, PARAMS, XS, MEASURED, STATE)
    chunked = sj.teacher_force(MODEL, PARAMS, XS, MEASURED, STATE, adjoint=sj.BPTT(chunk=4))
    assert relative_error(floats(chunked), floats(whole)) <= 1e-13
    batch = lambda a: jnp.stack([a, a + 1])
    both = jax.vmap(lambda xs, ys: sj.teacher_force(MODEL, PARAMS, xs, ys, STATE)[1])(
        batch(XS), batch(MEASURED)
    )
    np.testing.assert_allclose(both[0], whole[1], atol=1e-13)


def test_the_open_loop_is_proved_as_any_model_is():
    sj.testing.check_cell(OpenLoop(MODEL), x=(jnp.zeros(3), jnp.zeros(2)), draws=2)


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
        assert relative_error(floats(exported(*at)), floats(run(*at))) <= 1e-12


def test_an_impulse_shows_up_for_ever():
    """Infinite response, of one tap of each (notes, section 2); a finite one forgets."""
    params, _, _ = problem(ONE_TAP, 1)
    params["recurrent_kernel"] = jnp.ones((1, 1, 4))
    params["output_kernel"] = jnp.full((4, 1), 0.3)  # 4 · 0.3 > 1: it holds what it is told
    params |= {"bias": jnp.zeros(4), "output_bias": jnp.zeros(1)}
    steps = 10_000
    impulse, none = jnp.zeros((steps, 1)).at[0].set(1.0), jnp.zeros((steps, 1))
    difference = jnp.abs(ONE_TAP.unroll(params, impulse)[1] - ONE_TAP.unroll(params, none)[1])
    assert float(difference.min()) > 0.1
    tdnn = sj.tdnn(1, 1, delays=range(5), dtype=jnp.float64)
    weights = tdnn.init(jax.random.key(0))
    difference = jnp.abs(tdnn.unroll(weights, impulse)[1] - tdnn.unroll(weights, none)[1])
    assert np.flatnonzero(difference).tolist() == [0, 1, 2, 3, 4]


def test_one_tap_is_a_jordan_network_without_average_but_for_the_gradient():
    params, xs, _ = problem(ONE_TAP, 6)
    xs = xs[:, :1]
    jordan = sj.jordan(1, 4, 1, decay=0.0, dtype=jnp.float64)
    same = params | {n: params[n][0] for n in ("kernel", "recurrent_kernel")}
    ours, theirs = ONE_TAP.unroll(params, xs)[1], jordan.unroll(same, xs)[1]
    np.testing.assert_allclose(ours, theirs, atol=1e-14)
