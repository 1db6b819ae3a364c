"""The finite response: exactly N steps, as a convolution, over any delays."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from support.comparison import assert_close, relative_error
from support.oracles import gradient
from support.table import problem

import seqjax as sj
from seqjax.models.narx_open_loop import OpenLoop

T = 12
DELAYS = [(0, 1, 2), (0, 2, 4), (0, 1, 5), (3,), (2, 5, 8), (0, 7, 9), (0,), (0, 20)]
DELAYS += [(0, 1, 3), (1, 2, 24)]
every_delay = pytest.mark.parametrize("delays", DELAYS, ids=str)


def make(delays, **options):
    return sj.tdnn(3, 2, delays=delays, dtype=jnp.float64, **options)


@every_delay
def test_it_is_the_equation(delays):
    """Y(t) = f(X(t) … X(t-N)), as a loop over times and delays."""
    model = make(delays, activation=jnp.tanh)
    params, xs, line = problem(model, T)
    state, ys = sj.unroll(model, params, xs, line)
    assert ys.shape == (T, 2)
    history = np.concatenate([line, xs])
    for t in range(T):
        z = np.array(params["bias"])
        for number, delay in enumerate(delays):
            z = z + history[len(line) + t - delay] @ params["kernel"][number]
        np.testing.assert_allclose(ys[t], np.tanh(z), atol=1e-13)
    np.testing.assert_array_equal(state, history[T:])


@every_delay
def test_one_step_and_no_series(delays):
    """T = 1 is `step`, however long the line; an empty batch has outputs and gradients too."""
    model = make(delays, activation=jnp.tanh)
    params, xs, line = problem(model, 1)
    line_after, ys = sj.unroll(model, params, xs, line)
    streamed, y = model.step(params, line, xs[0])
    np.testing.assert_array_equal(line_after, streamed)
    np.testing.assert_allclose(ys[0], y, atol=1e-14)

    def energy(params, xs):
        return jnp.sum(jax.vmap(lambda xs: sj.unroll(model, params, xs, line)[1])(xs))

    d_params, d_xs = jax.jit(jax.grad(energy, (0, 1)))(params, jnp.zeros((0, T, 3)))
    assert d_xs.shape == (0, T, 3)
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(d_params))


def test_the_line_keeps_the_sign_of_zero():
    model = make((0, 3))
    params, xs, line = problem(model, 1)
    after, _ = sj.unroll(model, params, xs, -jnp.zeros_like(line))
    assert np.signbit(after[:2]).all()


@every_delay
def test_nothing_else_is_read(delays):
    """∂Y(t)/∂X(t') is zero to the bit but where t - t' is a delay."""
    model = make(delays, activation=jnp.tanh)
    params, xs, line = problem(model, T)
    jacobian = jax.jit(jax.jacrev(lambda xs: sj.unroll(model, params, xs, line)[1]))(xs)
    for t in range(T):
        for before in range(T):
            zero = not np.any(jacobian[t, :, before])
            assert zero == (t - before not in delays)
    assert model.receptive_field == delays[-1] + 1


def test_receptive_field_of_a_deep_net():
    """Dilated as a TCN is: 1 + 1 + 2 + 4 + 8 steps, and a readout."""
    layers = [make((0, d), activation=jnp.tanh) for d in (1,)]
    layers += [sj.tdnn(2, 2, delays=(0, d), dtype=jnp.float64) for d in (2, 4, 8)]
    model = sj.stack(*layers, sj.dense(2, 1, dtype=jnp.float64))
    assert model.receptive_field == 16
    params, xs, state = problem(model, 40)
    d_xs = jax.jit(jax.grad(lambda xs: sj.unroll(model, params, xs, state)[1][30, 0]))(xs)
    np.testing.assert_array_equal(np.flatnonzero(np.any(d_xs, axis=1)), np.arange(15, 31))
    assert sj.stack(make((0, 1)), sj.gru(2, 2, dtype=jnp.float64)).receptive_field == np.inf


def test_it_is_one_convolution_and_no_loop():
    model = sj.tdnn(3, 8, delays=(0, 2, 4), dtype=jnp.float32)
    params, xs = model.init(jax.random.key(0)), jnp.ones((4, T, 3), jnp.float32)

    def energy(params, xs):
        return jnp.sum(jax.vmap(lambda xs: sj.unroll(model, params, xs)[1])(xs) ** 2)

    forward = jax.jit(energy).lower(params, xs).as_text()
    assert len(re.findall("stablehlo.convolution", forward)) == 1
    backward = jax.jit(jax.grad(energy, (0, 1))).lower(params, xs).as_text()
    assert "stablehlo.while" not in forward + backward


@every_delay
def test_delays_far_apart_are_no_convolution(delays):
    """Half a kernel of zeros, or more: forward and backward do without them."""
    model = make(delays)
    params, xs, line = problem(model, T)
    energy = lambda params, xs: jnp.sum(sj.unroll(model, params, xs, line)[1] ** 2)
    text = jax.jit(jax.grad(energy, (0, 1))).lower(params, xs).as_text()
    sparse = delays in [(0, 1, 5), (0, 7, 9), (1, 2, 24)]
    assert ("stablehlo.convolution" in text) != sparse


LEVEL = {"activation": lambda z: z}  # all is positive: no sum of these hides in a difference
POOLED = {
    "dense": lambda dtype: sj.dense(1, 1, dtype=dtype),
    "tdnn": lambda dtype: sj.tdnn(1, 1, dtype=dtype),
    "tdnn, far apart": lambda dtype: sj.tdnn(1, 1, delays=(0, 1, 50), dtype=dtype),
    "narx": lambda dtype: sj.narx(1, 1, 1, **LEVEL, dtype=dtype),
    "narx, far apart": lambda dtype: sj.narx(1, 1, 1, input_delays=(0, 9), **LEVEL, dtype=dtype),
    "narx, open loop": lambda dtype: OpenLoop(sj.narx(1, 1, 1, **LEVEL, dtype=dtype)),
}


@pytest.mark.parametrize(
    ("run", "dtype"),
    [
        ("unroll", jnp.bfloat16),
        ("reset", jnp.float16),
        ("step", jnp.bfloat16),
        pytest.param("unroll", jnp.float16, marks=pytest.mark.slow),
        pytest.param("reset", jnp.bfloat16, marks=pytest.mark.slow),
        pytest.param("step", jnp.float16, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("name", POOLED)
def test_gradients_summed_over_a_large_batch_in_half_precision(name, dtype, run):
    """Of every parameter and of a state that all series share: 30,000 times that of one series.

    A sum in bfloat16 stops growing at 256 terms of one size.
    """
    if run == "step" and "open" in name:
        pytest.skip("the open loop has no step")
    series, time = 30_000, 10
    reset = jnp.arange(time) == 4

    def gradients(dtype, series):
        model = POOLED[name](dtype)

        def outputs(params, state, xs):
            if run == "step":
                return model.step(params, state, xs[0])[1]
            xs = (xs, xs) if isinstance(model, OpenLoop) else xs
            return sj.unroll(model, params, xs, state, reset=reset if run == "reset" else None)[1]

        def total(params, state, xs, weight):
            ys = jax.vmap(outputs, (None, None, 0))(params, state, xs)
            return jnp.sum(weight * ys.astype(jnp.float64))

        fill = lambda value, tree: jax.tree.map(lambda a: jnp.full_like(a, value), tree)
        params = fill(0.125, model.init(jax.random.key(0)))
        state = fill(1, model.initial_state(params))
        xs = jnp.ones((series, time, 1), dtype)
        return jax.jit(jax.grad(total, (0, 1)))(params, state, xs, 0.1)

    ours, one = gradients(dtype, series), gradients(jnp.float64, 1)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(one), strict=True):
        assert a.dtype == dtype
        np.testing.assert_allclose(a.astype(jnp.float64), series * b, rtol=0.01)


STEPWISE = {
    "tdnn": lambda: make((0, 1, 3), activation=jnp.tanh),
    "tdnn, far apart": lambda: make((1, 2, 24)),
    "narx": lambda: sj.narx(3, 4, 2, output_delays=(1, 3), dtype=jnp.float64),
}


GIVEN = [(), ("mask", "reset"), ("reverse", "length")]
EXPORTED = [
    pytest.param(
        name,
        options,
        id=f"{name}-{options}",
        marks=() if place == number else pytest.mark.slow,
    )
    for number, name in enumerate(STEPWISE)
    for place, options in enumerate(GIVEN)
]


@pytest.mark.parametrize(("name", "options"), EXPORTED)
def test_export_for_any_batch_and_any_length(name, options):
    """Value and gradient, at fewer steps than the longest delay and at more."""
    model = STEPWISE[name]()
    params, _, _ = problem(model, 1)

    def run(params, xs, mask, reset, length):
        given = {"mask": mask, "reset": reset, "reverse": True, "length": length}
        return sj.unroll(model, params, xs, **{name: given[name] for name in options})[1]

    def div(params, *series):
        return jnp.sum(jnp.sin(jax.vmap(run, (None, 0, 0, 0, 0))(params, *series)))

    def spec(size, time):
        shapes = {(size, time, 3): jnp.float64, (size, time): jnp.bool_, (size,): jnp.int64}
        xs, flags, length = (jax.ShapeDtypeStruct(s, dtype) for s, dtype in shapes.items())
        return xs, flags, flags, length

    function = jax.jit(jax.value_and_grad(div, (0, 1)))
    exported = export.export(function)(params, *spec(*export.symbolic_shape("b, t")))
    for size, time in ((1, 1), (3, 30)):
        draw = np.random.default_rng(time)
        xs, (mask, reset) = draw.normal(size=(size, time, 3)), draw.random((2, size, time)) < 0.6
        at = (params, xs, mask, reset, draw.integers(0, time + 1, size))
        ours, theirs = (jax.tree.leaves(f(*at)) for f in (exported.call, function))
        assert_close(ours, theirs, 1e-12)


@every_delay
def test_batched_kernels(delays):
    """An ensemble: each member its own kernel, on the same series and on its own."""
    model = make(delays)
    params, xs, line = problem(model, T)
    members = jax.tree.map(lambda p: jnp.stack([p, 2 * p, -p]), params)
    for axes in ((0, None), (0, 0)):
        series = xs if axes[1] is None else jnp.stack([xs, xs + 1, xs * 2])
        ours = jax.vmap(lambda p, xs: sj.unroll(model, p, xs, line)[1], axes)(members, series)
        for n in range(3):
            p = jax.tree.map(lambda leaf, n=n: leaf[n], members)
            alone = sj.unroll(model, p, series if axes[1] is None else series[n], line)[1]
            assert_close([ours[n]], [alone], 1e-13)


@every_delay
def test_masks_and_resets_over_any_delays(delays):
    """Against the stream: an invalid step is not in the line, a reset empties it."""
    model = make(delays)
    params, xs, line = problem(model, T)
    mask = jnp.array([1, 0, 1, 1, 1, 0, 0, 1, 1, 1, 1, 0], bool)
    reset = jnp.zeros(T, bool).at[jnp.array([3, 4, 8])].set(True)
    for options in ({"mask": mask}, {"reset": reset}, {"mask": mask, "reset": reset}):
        state, ys = sj.unroll(model, params, xs, line, **options)
        streamed = line
        for t in range(T):
            if not options.get("mask", jnp.ones(T, bool))[t]:
                np.testing.assert_array_equal(ys[t], 0)
                continue
            if "reset" in options and reset[t]:
                streamed = model.initial_state(params)
            streamed, y = model.step(params, streamed, xs[t])
            np.testing.assert_allclose(ys[t], y, atol=1e-13)
        np.testing.assert_array_equal(state, streamed)


def test_a_reset_at_the_last_step_leaves_one_row():
    model = sj.tdnn(3, 2, delays=(0, 1, 3), dtype=jnp.float64)
    params, xs, state = problem(model, T)
    last, _ = sj.unroll(model, params, xs, state, reset=jnp.arange(T) == T - 1)
    np.testing.assert_array_equal(last, jnp.zeros_like(state).at[-1].set(xs[-1]))


def test_truncation_cuts_the_delay_line():
    model = make((0, 1, 3))
    at = problem(model, 9)
    pieces = lambda outputs: sum(jnp.sum(jnp.sin(y)) for y in jax.tree.leaves(outputs))
    whole, cut = (gradient(model, pieces, adjoint=sj.BPTT(truncate=k))(*at) for k in (9, 4))
    assert_close(whole.params, cut.params, 1e-12)  # the weights: no recurrence in them
    assert relative_error(whole.xs, cut.xs) > 0.01  # the inputs: what lies before the cut
