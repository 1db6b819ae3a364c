"""The convolutional LSTM: its convolutions, its gradient, and what XLA makes of it."""

import functools
import itertools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.comparison import assert_close
from support.notes import sigmoid
from support.table import normal, problem

import seqjax as sj

T = 4
CELLS = {
    "1-D": sj.conv_lstm((5, 2), 3, 3),
    "2-D": sj.conv_lstm((4, 3, 2), 2, (3, 2)),
    "3-D": sj.conv_lstm((2, 3, 2, 1), 2, (1, 3, 2)),
    "wider than the image": sj.conv_lstm((2, 1), 1, 6),
}


def convolved(x, kernel):
    """Place by place, tap by tap: zeros outside, one place more after than before if K is even."""
    spatial, window = x.shape[:-1], kernel.shape[:-2]
    y = np.zeros((*spatial, kernel.shape[-1]))
    for place in itertools.product(*map(range, spatial)):
        for tap in itertools.product(*map(range, window)):
            read = tuple(p + q - (k - 1) // 2 for p, q, k in zip(place, tap, window, strict=True))
            if all(0 <= r < size for r, size in zip(read, spatial, strict=True)):
                for i in range(kernel.shape[-2]):
                    for o in range(kernel.shape[-1]):
                        y[(*place, o)] += x[(*read, i)] * kernel[(*tap, i, o)]
    return y


@pytest.mark.parametrize("name", CELLS)
def test_it_is_the_loop_of_its_equations(name):
    cell = CELLS[name]
    params, xs, start = problem(cell, T)
    state, ys = sj.unroll(cell, params, xs, start)
    kernel, recurrent, bias = (
        np.asarray(params[k]) for k in ("kernel", "recurrent_kernel", "bias")
    )
    h, c = map(np.asarray, start)
    for t in range(T):
        z = convolved(np.asarray(xs[t]), kernel) + convolved(h, recurrent) + bias
        i, f, g, o = np.split(z, 4, axis=-1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        assert_close(ys[t], jnp.asarray(h), 1e-13)
    assert_close(state, sj.LSTMState(jnp.asarray(h), jnp.asarray(c)), 1e-13)


def test_a_kernel_of_one_place_is_an_lstm_at_every_place():
    cell, lstm = sj.conv_lstm((5, 2), 3, 1), sj.lstm(2, 3)
    params, xs, state = problem(cell, T)
    pointwise = params | {k: params[k][0] for k in ("kernel", "recurrent_kernel")}
    run = functools.partial(sj.unroll, lstm, pointwise)
    theirs = jax.vmap(run, (1, 0), (0, 1))(xs, state)
    assert_close(sj.unroll(cell, params, xs, state), theirs, 1e-13)


@pytest.mark.parametrize("name", ["2-D", pytest.param("3-D", marks=pytest.mark.slow)])
def test_its_gradients_are_proved(name):
    sj.testing.check_cell(CELLS[name], draws=2)


def kernels_per(example, kernel, program):
    """Shapes of a program that hold a kernel once per example."""
    for found in set(re.findall(r"f32\[([\d,]+)\]", program.as_text())):
        shape = tuple(map(int, found.split(",")))
        if math.prod(shape) == example * math.prod(kernel) or sorted(shape) == sorted(
            (example, *kernel)
        ):
            yield shape


@pytest.mark.parametrize(
    "adjoint",
    [sj.BPTT(), *(sj.BPTT(chunk=3, store=s) for s in ("states", "preactivations"))],
    ids=str,
)
def test_the_kernels_are_pooled_over_time_and_batch(adjoint):
    """No kernel per example in the gradient of a batch; those that are asked for are found."""
    time, batch, inputs, channels = 6, 13, 7, 11
    cell = sj.conv_lstm((4, 2, inputs), channels, (5, 3), dtype=jnp.float32)
    params = jax.eval_shape(cell.init, jax.random.key(0))
    kernels = [params[k].shape for k in ("kernel", "recurrent_kernel")]
    xs = jax.ShapeDtypeStruct((batch, time, *cell.input_spec.shape), jnp.float32)

    def loss(params, xs):
        return jnp.sum(sj.unroll(cell, params, xs, adjoint=adjoint)[1] ** 2)

    def total(params, xs):
        return jnp.sum(jax.vmap(loss, (None, 0))(params, xs))

    pooled = jax.jit(jax.grad(total)).lower(params, xs).compile()
    each = jax.jit(jax.vmap(jax.grad(loss), (None, 0))).lower(params, xs).compile()
    for kernel in kernels:
        for count in (batch, time * batch, time):
            assert list(kernels_per(count, kernel, pooled)) == []
        assert list(kernels_per(batch, kernel, each)) != []


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_in_half_precision_the_sums_over_places_too_go_on(dtype):
    """40,960 terms of one sign: a sum in half precision stops at 256 or 2048, or rounds."""
    cell = sj.conv_lstm((64, 64, 1), 1, 1, dtype=dtype)
    zeros = jax.tree.map(jnp.zeros_like, cell.init(jax.random.key(0)))
    xs = jnp.ones((5, 2, 64, 64, 1), dtype)

    def loss(params):
        states, _ = jax.vmap(lambda xs: sj.unroll(cell, params, xs))(xs)
        return jnp.sum(states.c.astype(jnp.float32)) / 16

    grads = jax.jit(jax.grad(loss))(zeros)
    # c(1) = σ(f) c(0) + σ(i) tanh(g), and g alone is felt: half of 1, then a quarter.
    expected = 5 * 64 * 64 * (1 / 2 + 1 / 4) / 16
    np.testing.assert_allclose(np.float64(grads["bias"]), [0, 0, expected, 0], rtol=0.01)
    np.testing.assert_allclose(np.float64(grads["kernel"].ravel()), [0, 0, expected, 0], rtol=0.01)


def test_what_does_not_fit_is_named():
    for arguments, message in {
        ((3,), 2, 3): r"input_shape: expected one to three spatial axes, .*, got \(3,\)",
        ((1, 2, 3, 4, 5), 2, 3): "input_shape: expected one to three",
        ((4, 0), 2, 3): r"input_shape\[1\]: expected an integer of at least 1, got 0",
        ((4, 4, 1), 2, (3,)): r"kernel_size: expected a size for each of 2 spatial axes",
        ((4, 1), 2, (0,)): r"kernel_size\[0\]: expected an integer of at least 1, got 0",
    }.items():
        with pytest.raises(ValueError, match=message):
            sj.conv_lstm(*arguments)
    cell = CELLS["2-D"]
    params = cell.init(jax.random.key(0))
    with pytest.raises(ValueError, match=r"xs: expected float64\[T, 4, 3, 2\], got"):
        sj.unroll(cell, params, normal(jnp.zeros((T, 3, 4, 2)), 0))


def test_initial_parameters():
    cell = sj.conv_lstm((4, 4, 8), 16, 3, forget_bias=1.0)
    params = cell.init(jax.random.key(0))
    bound = (3 * 3 * 16) ** -0.5
    for name in ("kernel", "recurrent_kernel"):
        assert 0.9 * bound < float(jnp.abs(params[name]).max()) <= bound
    assert params["bias"][16:32].tolist() == [1.0] * 16
