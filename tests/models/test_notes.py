"""The recursion, cell by cell, against the equations of the notes in NumPy loops."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.comparison import assert_close
from support.notes import (
    DIVS,
    OUTPUTS,
    I,
    O,
    T,
    any_number_of_layers,
    gated,
    gru_loop,
    lstm_loop,
    one_hidden_layer,
    random_layers,
)

import seqjax as sj

ADJOINTS = {
    "default": sj.BPTT(),
    "states": sj.BPTT(chunk=3),
    "preactivations": sj.BPTT(chunk=3, store="preactivations"),
    "chunk_starts": sj.BPTT(chunk=3, store="chunk_starts"),
}
every_adjoint = pytest.mark.parametrize("adjoint", ADJOINTS.values(), ids=ADJOINTS)


@functools.cache
def pullback(model, adjoint):
    """One program for all losses: (params, X, state) to the outputs, and ∇_Y to the gradient."""

    @jax.jit
    def pulled(at, grad_Y):
        def run(*at):
            last, Y = sj.unroll(model, *at, adjoint=adjoint)
            return Y, last

        Y, back, last = jax.vjp(run, *at, has_aux=True)
        return *back(grad_Y), last, Y

    def of_loss(at, loss):
        *_, Y = pulled(at, jnp.zeros((T, O)))
        return pulled(at, jax.grad(loss)(Y))

    return of_loss


def by_seqjax(hidden, output, X, activation, div, adjoint):
    """The same as the loops, in the order and layout they have."""
    sizes = [hidden[0][0].shape[1], *(len(b) for _, _, b, _ in hidden)]
    layers = [sj.rnn(m, n) for m, n in itertools.pairwise(sizes)]
    model = sj.stack(*layers, sj.dense(sizes[-1], O, activation=activation))
    params = (
        *({"kernel": W.T, "recurrent_kernel": W_rec.T, "bias": b} for W, W_rec, b, _ in hidden),
        {"kernel": output[0].T, "bias": output[1]},
    )
    state = (*(h for _, _, _, h in hidden), ())

    at = jax.tree.map(jnp.asarray, (params, X, state))
    by_params, by_X, by_state, last, Y = pullback(model, adjoint)(at, div)
    layers = [
        (g["kernel"], g["recurrent_kernel"], g["bias"], by_h)
        for g, by_h in zip(by_params[:-1], by_state[:-1], strict=True)
    ]
    return Y, list(last[:-1]), layers, (by_params[-1]["kernel"], by_params[-1]["bias"]), by_X


NAMES = ("Y", "h(T-1)", "∇ of the hidden layers", "∇ of the output layer", "∇_X")


def close(ours, theirs):
    assert all(leaf.dtype == np.float64 for leaf in jax.tree.leaves(ours))
    assert_close(ours, theirs, 1e-12, nonzero=True)


def assert_same(ours, theirs):
    pair = (dict(zip(NAMES, tree, strict=True)) for tree in (ours, theirs))
    close(*pair)


@every_adjoint
@pytest.mark.parametrize("div", DIVS)
@pytest.mark.parametrize("output", OUTPUTS)
def test_the_seven_steps_for_one_hidden_layer(output, div, adjoint):
    problem = random_layers((I, 5), seed=1)
    DIV, grad_of_DIV, div_of_seqjax = DIVS[div]
    f2, back_f2, activation = OUTPUTS[output]
    theirs = one_hidden_layer(*problem, f2, back_f2, grad_of_DIV)
    assert_same(by_seqjax(*problem, activation, div_of_seqjax, adjoint), theirs)
    np.testing.assert_allclose(div_of_seqjax(theirs[0]), DIV(theirs[0]), rtol=1e-13)


@every_adjoint
@pytest.mark.parametrize(
    "sizes",
    [
        pytest.param((I, 5), marks=pytest.mark.slow, id="k=1"),
        pytest.param((I, 2, 6), marks=pytest.mark.slow, id="k=2"),
        pytest.param((I, 4, 1, 5), id="k=3"),
    ],
)
@pytest.mark.parametrize(
    ("div", "output"), [("squared error", "sigmoid"), ("product over time", "softmax")]
)
def test_any_number_of_layers(div, output, sizes, adjoint):
    problem = random_layers(sizes, seed=2)
    f, back_f, activation = OUTPUTS[output]
    theirs = any_number_of_layers(*problem, f, back_f, DIVS[div][1])
    assert_same(by_seqjax(*problem, activation, DIVS[div][2], adjoint), theirs)


@pytest.mark.parametrize("div", DIVS)
def test_gradients_of_the_divergences_by_differences(div):
    """The oracle's own ∇_Y(t)."""
    DIV, grad_of_DIV, _ = DIVS[div]
    Y = list(np.random.default_rng(3).standard_normal((T, O)))
    grad = grad_of_DIV(Y)
    for t in range(T):
        for i in range(O):
            values = []
            for eps in (1e-6, -1e-6):
                changed = [y.copy() for y in Y]
                changed[t][i] += eps
                values.append(DIV(changed))
            assert abs((values[0] - values[1]) / 2e-6 - grad[t][i]) <= 1e-5 * max(1, abs(DIV(Y)))


@every_adjoint
def test_lstm_outputs(adjoint):
    W1, W11, b, _, X, h, c = gated(4, 5, seed=4)
    ys, h_last, c_last = lstm_loop(W1, W11, b, X, h, c)
    params = {"kernel": W1.T, "recurrent_kernel": W11.T, "bias": b}
    last, ours = sj.unroll(sj.lstm(I, 5), params, X, sj.LSTMState(h, c), adjoint=adjoint)
    theirs = {"y": ys, "h": h_last, "c": c_last}
    close({"y": ours, "h": last.h, "c": last.c}, theirs)


@every_adjoint
@pytest.mark.parametrize("reset_after", [True, False])
def test_gru_outputs(reset_after, adjoint):
    W1, W11, b, b_m, X, h, _ = gated(3, 5, seed=5)
    ys, h_last = gru_loop(W1, W11, b, b_m, X, h, reset_after)
    params = {"kernel": W1.T, "recurrent_kernel": W11.T, "bias": b}
    if reset_after:
        params["recurrent_bias"] = b_m
    cell = sj.gru(I, 5, reset_after=reset_after)
    last, ours = sj.unroll(cell, params, X, h, adjoint=adjoint)
    close({"y": ours, "h": last}, {"y": ys, "h": h_last})
