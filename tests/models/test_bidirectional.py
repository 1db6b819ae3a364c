"""Two nets, one reading forward and one backward, by two calls of one routine."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.comparison import assert_close, floats
from support.oracles import gradient, gradient_of, of_the_other_way
from support.table import problem

import seqjax as sj
from seqjax.compose.bidirectional import resets_of_backward
from seqjax.engine.recurrence import Steps

T = 7
LSTM, GRU = sj.lstm(3, 4, dtype=jnp.float64), sj.gru(3, 2, dtype=jnp.float64)
MODEL = sj.bidirectional(LSTM, GRU)


def by_hand(params, xs, state, length=None):
    forward = sj.unroll(LSTM, params["forward"], xs, state["forward"], length=length)
    backward = sj.unroll(
        GRU, params["backward"], xs, state["backward"], length=length, reverse=True
    )
    return (
        {"forward": forward[0], "backward": backward[0]},
        jnp.concatenate([forward[1], backward[1]], axis=1),
    )


@pytest.mark.parametrize("length", [None, 0, 1, 5])
def test_it_is_two_runs_aligned_with_the_input(length):
    params, xs, state = problem(MODEL, T)
    ours = sj.unroll(MODEL, params, xs, state, length=length)
    assert_close(floats(ours), floats(by_hand(params, xs, state, length)), 1e-14)


def test_backward_is_reset_where_a_series_ends_for_any_mask_and_resets():
    """All masks and resets of five steps, and no mask, against a loop."""
    flags = jnp.array(list(itertools.product((False, True), repeat=10)))
    mask, reset = flags[:, :5], flags[:, 5:] & flags[:, :5]
    ours = jax.vmap(lambda *at: resets_of_backward(Steps(*at)))(mask, reset)
    theirs = [
        of_the_other_way(*at, False) for at in zip(mask.tolist(), reset.tolist(), strict=True)
    ]
    np.testing.assert_array_equal(ours, theirs)
    unmasked = jax.vmap(lambda reset: resets_of_backward(Steps(None, reset)))(reset)
    theirs = [of_the_other_way([True] * 5, at, False) for at in reset.tolist()]
    np.testing.assert_array_equal(unmasked, theirs)


def test_backward_begins_at_the_last_valid_step():
    params, xs, state = problem(MODEL, T)
    padded = sj.unroll(MODEL, params, xs.at[4:].set(jnp.nan), state, length=4)
    alone = sj.unroll(MODEL, params, xs[:4], state)
    assert_close(floats(padded[0]), floats(alone[0]), 1e-14)
    assert_close([padded[1][:4]], [alone[1]], 1e-14)


@pytest.mark.parametrize("reverse", [False, True])
def test_two_series_in_one_are_two_runs(reverse):
    """A reset separates them for both nets; with invalid steps around it too."""
    params, xs, _ = problem(MODEL, T)
    mask = jnp.array([1, 1, 0, 0, 1, 1, 1], bool)
    border = 1 if reverse else 4  # of the series that comes second
    reset = jnp.arange(T) == border
    _, ys = sj.unroll(MODEL, params, xs, mask=mask, reset=reset, reverse=reverse)
    for part in (xs[:2], xs[4:]):
        alone = sj.unroll(MODEL, params, part, reverse=reverse)[1]
        joined = ys[:2] if len(part) == 2 else ys[4:]
        assert_close([joined], [alone], 1e-14)


@pytest.mark.parametrize(
    ("merge", "expected"),
    [
        ("concat", lambda a, b: np.concatenate([a, b], axis=1)),
        ("sum", lambda a, b: a + b),
        ("mean", lambda a, b: (a + b) / 2),
        ("product", lambda a, b: a * b),
        (lambda a, b: jnp.outer(a, b), lambda a, b: a[:, :, None] * b[:, None, :]),
    ],
    ids=["concat", "sum", "mean", "product", "function"],
)
def test_merges(merge, expected):
    model = sj.bidirectional(sj.rnn(3, 2, dtype=jnp.float64), merge=merge)
    params, xs, state = problem(model, T)
    assert not np.allclose(params["forward"]["kernel"], params["backward"]["kernel"])
    forward, backward = (
        np.asarray(
            sj.unroll(model.forward, params[way], xs, state[way], reverse=way == "backward")[1]
        )
        for way in ("forward", "backward")
    )
    ys = sj.unroll(model, params, xs, state)[1]
    np.testing.assert_allclose(ys, expected(forward, backward), atol=1e-14)


def test_it_is_two_calls_of_one_routine_forward_and_back():
    params, xs, state = problem(MODEL, T)
    loss = lambda params: jnp.sum(sj.unroll(MODEL, params, xs, state)[1] ** 2)
    count = lambda f: jax.jit(f).lower(params).as_text().count("stablehlo.while")
    assert count(loss) == 2
    assert count(jax.grad(loss)) == 4


@pytest.mark.parametrize("model", [MODEL, sj.stack(MODEL, sj.dense(6, 1, dtype=jnp.float64))])
def test_it_has_no_step_and_says_why(model):
    params, xs, state = problem(model, T)
    with pytest.raises(TypeError, match=r"step: .* depends on the inputs after t; use unroll"):
        model.step(params, state, xs[0])
    assert not model.causal


def test_every_output_reads_the_whole_series():
    params, xs, state = problem(MODEL, T)
    jacobian = jax.jit(jax.jacrev(lambda xs: sj.unroll(MODEL, params, xs, state)[1]))(xs)
    assert np.all(np.abs(jacobian).max(axis=(1, 3)) > 0)


def test_layers_below_and_above_see_the_whole_series_whatever_the_chunk():
    model = sj.stack(sj.gru(3, 3, dtype=jnp.float64), MODEL, sj.lstm(6, 2, dtype=jnp.float64))
    at = problem(model, T)
    whole = gradient(model, adjoint=sj.Autodiff())(*at)
    for adjoint in (sj.BPTT(chunk=2), sj.BPTT(chunk=3, store="chunk_starts")):
        assert_close(gradient(model, adjoint=adjoint)(*at), whole, 1e-12)


def test_below_a_layer_that_reads_the_future_each_layer_is_cut_on_its_own():
    """The stack is what its layers are one after the other, chunks and truncation too."""
    below, above = (
        sj.rnn(3, 4, dtype=jnp.float64),
        sj.bidirectional(sj.gru(4, 2, dtype=jnp.float64)),
    )
    model, adjoint = sj.stack(below, above), sj.BPTT(truncate=2, chunk=3)
    at = problem(model, 7)

    def in_turn(params, xs, state):
        last, hs = sj.unroll(below, params[0], xs, state[0], adjoint=adjoint)
        end, ys = sj.unroll(above, params[1], hs, state[1], adjoint=adjoint)
        return (last, end), ys

    ours = gradient(model, adjoint=adjoint)(*at)
    assert_close(ours, gradient_of(in_turn)(*at), 1e-12)
