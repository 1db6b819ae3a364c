"""The finite response: exactly N steps, as a convolution, over any delays."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import gradient, problem, relative_error

import seqjax as sj

T = 12
DELAYS = [(0, 1, 2), (0, 2, 4), (0, 1, 5), (3,), (2, 5, 8), (0, 7, 9), (0,), (0, 20)]
every_delay = pytest.mark.parametrize("delays", DELAYS, ids=str)


def make(delays, **options):
    return sj.tdnn(3, 2, delays=delays, dtype=jnp.float64, **options)


@every_delay
def test_it_is_the_equation(delays):
    """Y(t) = f(X(t) … X(t-N)), as a loop over times and delays."""
    model = make(delays, activation=jnp.tanh)
    params, xs, line = problem(model, T)
    state, ys = model.unroll(params, xs, line)
    assert ys.shape == (T, 2)
    history = np.concatenate([line, xs])
    for t in range(T):
        z = np.array(params["bias"])
        for number, delay in enumerate(delays):
            z = z + history[len(line) + t - delay] @ params["kernel"][number]
        np.testing.assert_allclose(ys[t], np.tanh(z), atol=1e-13)
    np.testing.assert_array_equal(state, history[T:])


@every_delay
def test_nothing_else_is_read(delays):
    """∂Y(t)/∂X(t') is zero to the bit but where t - t' is a delay."""
    model = make(delays, activation=jnp.tanh)
    params, xs, line = problem(model, T)
    jacobian = jax.jit(jax.jacrev(lambda xs: model.unroll(params, xs, line)[1]))(xs)
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
    d_xs = jax.jit(jax.grad(lambda xs: model.unroll(params, xs, state)[1][30, 0]))(xs)
    np.testing.assert_array_equal(np.flatnonzero(np.any(d_xs, axis=1)), np.arange(15, 31))
    assert sj.stack(make((0, 1)), sj.gru(2, 2, dtype=jnp.float64)).receptive_field == np.inf


def test_it_is_one_convolution_and_no_loop():
    model = sj.tdnn(3, 8, delays=(0, 2, 4), dtype=jnp.float32)
    params, xs = model.init(jax.random.key(0)), jnp.ones((4, T, 3), jnp.float32)

    def energy(params, xs):
        return jnp.sum(jax.vmap(lambda xs: model.unroll(params, xs)[1])(xs) ** 2)

    forward = jax.jit(energy).lower(params, xs).as_text()
    assert len(re.findall("stablehlo.convolution", forward)) == 1
    backward = jax.jit(jax.grad(energy, (0, 1))).lower(params, xs).as_text()
    assert "stablehlo.while" not in forward + backward


@every_delay
def test_batched_kernels(delays):
    """An ensemble: each member its own kernel, on the same series and on its own."""
    model = make(delays)
    params, xs, line = problem(model, T)
    members = jax.tree.map(lambda p: jnp.stack([p, 2 * p, -p]), params)
    for axes in ((0, None), (0, 0)):
        series = xs if axes[1] is None else jnp.stack([xs, xs + 1, xs * 2])
        ours = jax.vmap(lambda p, xs: model.unroll(p, xs, line)[1], axes)(members, series)
        for n in range(3):
            p = jax.tree.map(lambda leaf, n=n: leaf[n], members)
            alone = model.unroll(p, series if axes[1] is None else series[n], line)[1]
            assert relative_error([ours[n]], [alone]) <= 1e-13


@every_delay
def test_masks_and_resets_over_any_delays(delays):
    """Against the stream: an invalid step is not in the line, a reset empties it."""
    model = make(delays)
    params, xs, line = problem(model, T)
    mask = jnp.array([1, 0, 1, 1, 1, 0, 0, 1, 1, 1, 1, 0], bool)
    reset = jnp.zeros(T, bool).at[jnp.array([3, 4, 8])].set(True)
    for options in ({"mask": mask}, {"reset": reset}, {"mask": mask, "reset": reset}):
        state, ys = model.unroll(params, xs, line, **options)
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


def test_truncation_cuts_the_delay_line():
    model = make((0, 1, 3))
    at = problem(model, 9)
    pieces = lambda outputs: sum(jnp.sum(jnp.sin(y)) for y in jax.tree.leaves(outputs))
    whole, cut = (gradient(model, pieces, adjoint=sj.BPTT(truncate=k))(*at) for k in (9, 4))
    assert relative_error(whole[:2], cut[:2]) <= 1e-12  # the weights: no recurrence in them
    assert relative_error(whole[2:3], cut[2:3]) > 0.01  # the inputs: what lies before the cut
