"""Output feedback: a loop that hands y(t-1) back, its gradient, and what does not fit."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.comparison import assert_close
from support.table import BY_NAME, problem
from support.wrong import told

import seqjax as sj

I, H, O, T = 3, 4, 2, 6  # noqa: E741
K = jax.random.key(0)


def network(reads):
    """Logits of O symbols."""
    cell = sj.rnn(reads, H, dtype=jnp.float64)
    return sj.stack(cell, sj.dense(H, O, dtype=jnp.float64))


def soft(x, y):
    return jnp.concatenate([x, jax.nn.softmax(y)])


def alone(x, y):
    return jnp.sin(y)


MERGES = {
    "concat": (I + O, "concat", lambda x, y: np.concatenate([x, y])),
    "softmax": (I + O, soft, lambda x, y: np.concatenate([x, np.exp(y) / np.exp(y).sum()])),
    "y alone": (O, alone, lambda x, y: np.sin(y)),
    "sum": (O, "sum", lambda x, y: x + y),
}


@pytest.mark.parametrize("name", MERGES)
def test_it_is_a_loop(name):
    """In NumPy: an invalid step leaves y(t-1) alone, and a reset makes it zero."""
    reads, merge, by_hand = MERGES[name]
    model = sj.feedback(network(reads), merge=merge)
    params, _, state = problem(model, 1)
    rng = np.random.default_rng(1)
    xs = rng.standard_normal((T, O if merge == "sum" else I))
    valid, reset = np.arange(T) != 2, np.arange(T) == 4
    cell, top = jax.tree.map(np.asarray, params)
    h, y = np.asarray(state["model"][0]), np.asarray(state["y"])
    assert y.all()
    expected = []
    for t in range(T):
        h, y = (0 * h, 0 * y) if reset[t] else (h, y)
        if not valid[t]:
            expected.append(0 * y)
            continue
        z = by_hand(xs[t], y) @ cell["kernel"] + h @ cell["recurrent_kernel"] + cell["bias"]
        h = np.tanh(z)
        y = h @ top["kernel"] + top["bias"]
        expected.append(y)
    last, ys = sj.unroll(model, params, jnp.asarray(xs), state, mask=valid, reset=reset)
    assert_close(ys, np.array(expected), 1e-12)
    assert_close(last, {"model": (h, ()), "y": y}, 1e-12)
    start = {"model": (jnp.zeros(H), ()), "y": jnp.zeros(O)}
    assert_close(model.initial_state(params), start, 0)


ADJOINTS = [sj.BPTT(), sj.BPTT(chunk=4, store="preactivations"), sj.Autodiff()]


@pytest.mark.parametrize("adjoint", ADJOINTS, ids=str)
def test_a_forecast_is_differentiated_through_what_it_feeds_back(adjoint):
    """From measured values on, by its own: the loss and the gradient of a loop over `step`."""
    model = network(O)
    free = sj.feedback(model, merge=alone)
    params, measured, _ = problem(model, T)
    weights = jnp.asarray(np.random.default_rng(2).standard_normal((9, O)))

    def ours(params, measured):
        state, ahead = sj.unroll(model, params, measured, adjoint=adjoint)
        start = {"model": state, "y": ahead[-1]}
        return (weights * sj.unroll(free, params, jnp.zeros(9), start, adjoint=adjoint)[1]).sum()

    def theirs(params, measured):
        state, total = model.initial_state(params), 0.0
        for x in measured:
            state, y = model.step(params, state, x)
        for w in weights:
            state, y = model.step(params, state, jnp.sin(y))
            total += (w * y).sum()
        return total

    at = params, measured
    found, expected = (jax.jit(jax.value_and_grad(f, (0, 1)))(*at) for f in (ours, theirs))
    assert_close(found, expected, 1e-12)


def test_it_draws_what_its_model_draws_and_feeds_back_any_pytree():
    def step(params, state, x, key):
        noise = 0.0 if key is None else jax.random.normal(key, (), jnp.float64)
        state = jnp.tanh(params * state + x + noise)
        return state, {"half": state / 2}

    own = sj.from_step(
        lambda key: jnp.array(0.5),
        step,
        lambda params: jnp.array(0.0),
        input_spec=jax.ShapeDtypeStruct((), jnp.float64),
        stochastic=True,
    )
    model = sj.feedback(own, merge=lambda x, y: x[0] + y["half"])
    assert model.stochastic
    params, state, xs = model.init(K), model.initial_state(None), jnp.ones((T, 1))
    last, ys = sj.unroll(model, params, xs, key=K)
    h = y = jnp.array(0.0)
    for t, x in enumerate(xs):
        key = jax.random.fold_in(K, t)
        h, y = step(params, h, x[0] + (y["half"] if t else 0), key)
        state, streamed = model.step(params, state, x, key=key)
        assert_close([streamed, {"half": ys["half"][t]}], [y, y], 1e-14)
    assert_close([last, state], [{"model": h, "y": y}] * 2, 1e-14)
    assert not np.allclose(ys["half"], sj.unroll(model, params, xs)[1]["half"])


def test_what_it_says_of_itself():
    model, inner = BY_NAME["feedback"].model, sj.stack(sj.tdnn(5, 2), jnp.tanh)
    assert model.input_spec == jax.ShapeDtypeStruct((3,), jnp.float64)
    assert model.output_spec == jax.ShapeDtypeStruct((2,), jnp.float64)
    assert model == BY_NAME["feedback"].make(jnp.float64)
    assert model.astype(jnp.bfloat16) == BY_NAME["feedback"].make(jnp.bfloat16)
    assert (inner.receptive_field, sj.feedback(inner).receptive_field) == (3, math.inf)
    assert sj.feedback(inner, merge=alone).input_spec is None
    state = sj.feedback(inner).initial_state(inner.init(K))
    assert model.preactivation_bytes(None, model.initial_state(model.init(K)), None) == 10 * 8
    assert jax.tree.map(jnp.shape, state) == {"model": ((2, 5), ()), "y": (2,)}


TDNN = sj.tdnn(5, 2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: sj.feedback(sj.bidirectional(sj.gru(5, 2), merge="sum")),
            "model: expected a model that reads no input after t: y(t-1) must be known before",
        ),
        (
            lambda: sj.feedback(sj.stack(jnp.tanh, sj.dropout(0.5))),
            "model: expected a model that knows its output before the data come",
        ),
        (lambda: sj.feedback(jnp.tanh), "model: expected a seqjax model, got"),
        (lambda: sj.feedback(TDNN, merge="max"), "merge: expected one of 'concat'"),
        (
            lambda: sj.feedback(sj.gru(3, 3)),
            "model: expected a model that reads x(t) beside its output float64[3], got one that",
        ),
        (
            lambda: sj.feedback(sj.embed(5, 2)),
            "model: expected a model that reads x(t) beside its output float64[2], got one that",
        ),
        (
            lambda: sj.feedback(TDNN, merge="sum"),
            "merge: expected outputs that fit 'sum', got float64[5] and float64[2]",
        ),
        (
            lambda: sj.feedback(sj.conv_lstm((4, 3), 2, 3), merge="sum"),
            "merge: expected outputs that fit 'sum', got float64[4, 3] and float64[4, 2]",
        ),
        (
            lambda: sj.unroll(sj.feedback(TDNN), TDNN.init(K), jnp.ones((T, 5))),
            "xs: expected float64[T, 3], got float64[6, 5]",
        ),
        (
            lambda: sj.feedback(TDNN).step(TDNN.init(K), None, jnp.ones(5)),
            "x: expected float64[3], got float64[5]",
        ),
        (
            lambda: sj.unroll(sj.feedback(TDNN, merge=alone), TDNN.init(K), jnp.ones(T)),
            "the x' that merge returns: expected float64[5], got float64[2]",
        ),
        (
            lambda: sj.feedback(TDNN).step(TDNN.init(K), jnp.ones(5), jnp.ones(3)),
            "state: expected a dict of 'model', 'y', got float64[5]",
        ),
    ],
)
def test_errors(call, message):
    assert told(call).startswith(message), told(call)
