"""What is drawn in training: dropout, zoneout, recurrent dropout, dropped weights."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.comparison import assert_close
from support.oracles import gradient
from support.table import BY_NAME, I, problem

import seqjax as sj

T = 7
KEY = jax.random.key(11)
STEP_KEYS = [jax.random.fold_in(KEY, t) for t in range(T)]
STOCHASTIC = BY_NAME["stochastic"].model


def run(model, params, xs, *state, **options):
    return jax.jit(lambda *at: sj.unroll(model, *at, **options))(params, xs, *state)


def test_draws_do_not_depend_on_how_a_series_runs():
    """Whole, in chunks, in pieces with keys of their own, by `step`, in reverse: the same draws."""
    params, xs, state = problem(STOCHASTIC, T)
    whole = run(STOCHASTIC, params, xs, state, key=KEY)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(KEY, jnp.arange(T))
    first, ys = run(STOCHASTIC, params, xs[:3], state, key=keys[:3])
    last, others = run(STOCHASTIC, params, xs[3:], first, key=keys[3:])
    assert_close((last, jnp.concatenate([ys, others])), whole, 1e-13)

    step, carried, outputs = jax.jit(STOCHASTIC.step), state, []
    for t in range(T):
        carried, y = step(params, carried, xs[t], key=STEP_KEYS[t])
        outputs.append(y)
    assert_close((carried, jnp.stack(outputs)), whole, 1e-13)

    flipped = run(STOCHASTIC, params, xs[::-1], state, key=keys[::-1], reverse=True)
    assert_close((flipped[0], flipped[1][::-1]), whole, 1e-13)
    other = run(STOCHASTIC, params, xs, state, key=jax.random.key(12))
    assert float(abs(other[1] - whole[1]).max()) > 0.1
    no_state = run(STOCHASTIC, params, xs, key=KEY)
    assert_close(run(STOCHASTIC, params, xs, key=jax.random.key_data(KEY)), no_state, 0)


def test_series_of_a_batch_draw_by_their_keys():
    params, xs, _ = problem(STOCHASTIC, T)
    keys = jax.random.split(KEY, 3)
    ys = jax.jit(jax.vmap(lambda key: sj.unroll(STOCHASTIC, params, xs, key=key)[1]))(keys)
    for number in range(3):
        assert_close(ys[number], run(STOCHASTIC, params, xs, key=keys[number])[1], 1e-13)


def test_gradients_of_what_is_drawn_are_those_of_a_plain_scan():
    at = problem(STOCHASTIC, T)
    theirs = gradient(STOCHASTIC, key=KEY, adjoint=sj.Autodiff())(*at)
    for adjoint in (sj.BPTT(), sj.BPTT(chunk=3, store="chunk_starts")):
        assert_close(gradient(STOCHASTIC, key=KEY, adjoint=adjoint)(*at), theirs, 1e-11)


@pytest.mark.parametrize(
    "cell",
    [
        sj.zoneout(sj.lstm(I, 2), sj.LSTMState(h=0.5, c=0)),
        sj.zoneout(sj.min_gru(I, 2), 0.5),
        sj.lstm(I, 2, recurrent_dropout=0.5),
        sj.gru(I, 2, recurrent_dropout=0.5, reset_after=False),
    ],
)
def test_check_cell_checks_what_draws(cell):
    sj.testing.check_cell(sj.stack(cell, sj.dense(2, 1)), draws=2, steps=3)


def test_a_rule_that_is_off_in_training_alone_is_found():
    cell = sj.lstm(I, 4, recurrent_dropout=0.5)
    not_scaled = dataclasses.replace(cell, activate_vjp=sj.lstm(I, 4).activate_vjp)
    with pytest.raises(AssertionError, match=r"activate_vjp: dz\.[ig] at t="):
        sj.testing.check_cell(not_scaled, draws=1)


def test_dropout_is_bernoulli_scaled_and_nothing_in_evaluation():
    model, xs = sj.dropout(0.3), jnp.full((2000, 5), 3.0)
    _, ys = run(model, (), xs, key=KEY)
    kept = np.asarray(ys) != 0
    np.testing.assert_array_equal(ys[kept], 3.0 / 0.7)
    # 10,000 draws: four standard deviations.
    assert abs(kept.mean() - 0.7) < 4 * np.sqrt(0.3 * 0.7 / kept.size)
    # Steps and elements are independent: so is the number that is kept at both of two neighbours.
    for pair in (kept[1:] & kept[:-1], kept[:, 1:] & kept[:, :-1]):
        assert abs(pair.mean() - 0.49) < 4 * 0.5 / np.sqrt(pair.size)
    np.testing.assert_array_equal(run(model, (), xs)[1], xs)
    np.testing.assert_array_equal(run(sj.dropout(0), (), xs, key=KEY)[1], xs)
    _, pair = run(model, (), {"a": xs, "b": xs}, key=KEY)
    assert not bool(((pair["a"] == 0) == (pair["b"] == 0)).all())


def test_a_mask_shared_over_time_is_drawn_at_the_first_step_and_after_a_reset():
    model, xs = sj.dropout(0.5, shared_over_time=True), jnp.ones((T, 40))
    valid, reset = jnp.arange(T) != 0, jnp.arange(T) == 4
    state, ys = run(model, (), xs, key=KEY, mask=valid, reset=reset)
    assert not bool(ys[0].any())
    np.testing.assert_array_equal(ys[1], ys[2])
    np.testing.assert_array_equal(ys[1], ys[3])
    np.testing.assert_array_equal(ys[4], ys[6])
    assert not bool((ys[1] == ys[4]).all())
    assert set(np.unique(ys[1:])) == {0.0, 2.0}
    # The next piece of the series goes on with it, with whatever key; another series does not.
    _, more = run(model, (), xs, state, key=jax.random.key(5))
    np.testing.assert_array_equal(more, jnp.broadcast_to(ys[6], more.shape))
    assert not bool((run(model, (), xs, key=jax.random.key(5))[1][0] == ys[6]).all())
    # In evaluation a reset forgets the mask, and nothing else happens.
    unchanged, plain = run(model, (), xs, state)
    np.testing.assert_array_equal(plain, xs)
    assert_close(unchanged, state, 0)
    assert_close(run(model, (), xs, state, reset=reset)[0], model.initial_state(()), 0)
    nothing = run(model, (), xs, key=KEY, length=0)[0]
    assert not bool(nothing.drawn)


@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize("invalid", [(), (0, 2), (1, 2, 5)])
def test_a_shared_mask_is_that_of_the_step_at_which_it_is_drawn(held, invalid):
    model, xs = sj.dropout(0.5, shared_over_time=True), jnp.ones((T, 40))
    valid = ~np.isin(np.arange(T), invalid)
    reset = np.arange(T) == 4
    state = model.initial_state(())
    state = model.step((), state, xs[0], key=jax.random.key(9))[0] if held else state
    last, ys = run(model, (), xs, state, key=KEY, mask=jnp.array(valid), reset=jnp.array(reset))
    for t in np.flatnonzero(valid):
        state, y = model.step((), state, xs[t], key=STEP_KEYS[t], reset=bool(reset[t]))
        np.testing.assert_array_equal(ys[t], y)
    assert_close(last, state, 0)


@pytest.mark.parametrize("kind", ["lstm", "min_gru"])
def test_zoneout_is_its_equation(kind):
    """A loop over the cell's own step, whose old and new states are mixed by hand."""
    inner = getattr(sj, kind)(I, 50)
    rates = sj.LSTMState(h=0.2, c=0.6) if kind == "lstm" else 0.2
    cell = sj.zoneout(inner, rates)
    params, xs, state = problem(inner, 40)
    rates = rates if kind == "lstm" else [rates]
    _, ys = run(cell, params, xs, state)
    step = jax.jit(inner.step)
    for t in range(3):  # evaluation: the mean
        new, _ = step(params, state, xs[t])
        old, structure = jax.tree.flatten(state)
        mixed = zip(rates, old, jax.tree.leaves(new), strict=True)
        state = jax.tree.unflatten(structure, [r * a + (1 - r) * b for r, a, b in mixed])
        np.testing.assert_allclose(ys[t], jax.tree.leaves(state)[0], rtol=1e-12)
    params, xs, state = problem(inner, 40)
    kept = [[] for _ in rates]
    draw = jax.jit(cell.step)
    for t in range(40):  # training: one of the two, at the rate of each leaf
        ours, y = draw(params, state, xs[t], key=jax.random.fold_in(KEY, t))
        new, _ = step(params, state, xs[t])
        for each, *of in zip(kept, *map(jax.tree.leaves, (ours, state, new)), strict=True):
            is_, was, would_be = map(np.asarray, of)
            old = is_ == was
            np.testing.assert_allclose(is_[~old], would_be[~old], rtol=1e-12, atol=0)
            each.append(old)
        np.testing.assert_array_equal(y, jax.tree.leaves(ours)[0])
        state = ours
    for each, rate in zip(kept, rates, strict=True):
        assert abs(np.mean(each) - rate) < 4 * np.sqrt(rate * (1 - rate) / 2000)
    if kind == "lstm":  # independent of each other
        assert abs(np.mean(np.array(kept[0]) & np.array(kept[1])) - 0.12) < 4 * 0.33 / 2000**0.5


@pytest.mark.parametrize("key", [None, KEY])
def test_zoneout_does_not_keep_what_is_infinite(key):
    """The m(-1) = -∞ of the sLSTM, kept, or mixed with what is finite, would forget all, always."""
    cell = sj.zoneout(sj.slstm(I, 4, forget_bias=3.0), 0.3)
    params, xs, _ = problem(cell, 30)
    begin = cell.initial_state(params)
    last, _ = run(cell, params, xs, begin, key=key)
    assert bool(jnp.isfinite(last.m).all())
    ys = lambda xs, adjoint: run(cell, params, xs, begin, key=key, adjoint=adjoint)[1]
    ours, theirs = (
        jax.grad(lambda xs, a=a: ys(xs, a)[-1].sum())(xs) for a in (sj.BPTT(), sj.Autodiff())
    )
    assert_close(ours, theirs, 1e-12)
    assert float(jnp.abs(ours[0]).max()) > 1e-5


def test_what_zoneout_draws_is_independent_of_what_its_cell_draws():
    """c(0) is zero where c(-1) = 0 is kept, and where the candidate is dropped: half, and half."""
    lstm = sj.lstm(I, 2000, recurrent_dropout=0.5)
    cell = sj.zoneout(lstm, sj.LSTMState(h=0, c=0.5))
    params = jax.tree.map(jnp.ones_like, cell.init(KEY))
    state, _ = cell.step(params, cell.initial_state(params), jnp.ones(I), key=KEY)
    assert abs(float((state.c != 0).mean()) - 0.25) < 4 * 0.44 / 2000**0.5


def test_zoneout_of_an_affine_cell_is_affine_and_of_a_running_maximum_finite():
    cell = sj.zoneout(sj.min_gru(I, 4), 0.4)
    at = problem(cell, T)
    loop, parallel = (
        gradient(cell, key=KEY, adjoint=sj.BPTT(scan=scan))(*at) for scan in ("loop", "associative")
    )
    assert_close(loop, parallel, 1e-12)
    theirs = gradient(cell, key=KEY, adjoint=sj.Autodiff())(*at)
    assert_close(loop, theirs, 1e-12)
    slstm = sj.zoneout(sj.slstm(I, 4), sj.SLSTMState(h=0.5, c=0, n=0, m=0))
    ys = run(slstm, slstm.init(KEY), jnp.ones((T, I)), key=KEY)[1]
    assert bool(jnp.isfinite(ys).all())


@pytest.mark.parametrize("options", [{}, {"coupled": True}])
def test_recurrent_dropout_drops_what_is_added_to_the_memory(options):
    """With f = 1 and o = 1 the cell state is the sum of the candidates that are kept."""
    cell = sj.lstm(I, 1000, recurrent_dropout=0.25, **options)
    params = jax.tree.map(jnp.zeros_like, cell.init(KEY))
    i, f, g, o = [[0.0], [0.0], [3.0], [0.0]]
    bias = jnp.repeat(jnp.array([*([] if options else i), *f, *g, *o]), 1000)
    params["bias"] = bias
    state, _ = cell.step(params, cell.initial_state(params), jnp.zeros(I), key=KEY)
    added = np.asarray(state.c)
    expected = 0.5 * np.tanh(3.0) / 0.75
    np.testing.assert_allclose(added[added != 0], expected, rtol=1e-12)
    assert abs(np.mean(added != 0) - 0.75) < 4 * np.sqrt(0.25 * 0.75 / 1000)
    evaluated, _ = cell.step(params, cell.initial_state(params), jnp.zeros(I))
    np.testing.assert_allclose(evaluated.c, 0.5 * np.tanh(3.0), rtol=1e-12)


@pytest.mark.parametrize("reset_after", [True, False])
def test_recurrent_dropout_of_the_gru(reset_after):
    cell = sj.gru(I, 1000, recurrent_dropout=0.25, reset_after=reset_after)
    params = jax.tree.map(jnp.zeros_like, cell.init(KEY))
    params["bias"] = jnp.repeat(jnp.array([0.0, 0.0, 3.0]), 1000)
    h, _ = cell.step(params, jnp.ones(1000), jnp.zeros(I), key=KEY)
    kept = np.asarray(h) != 0.5
    np.testing.assert_allclose(h[kept], 0.5 + 0.5 * np.tanh(3.0) / 0.75, rtol=1e-12)
    assert abs(kept.mean() - 0.75) < 4 * np.sqrt(0.25 * 0.75 / 1000)


def test_no_two_parts_draw_the_same():
    parts = sj.branches(*[sj.dropout(0.5)] * 2, merge=lambda a, b: jnp.stack([a, b]))
    both = sj.bidirectional(sj.dropout(0.5), merge=lambda a, b: jnp.stack([a, b]))
    xs = jnp.ones((T, 30))
    for model in (parts, both):
        _, ys = run(model, model.init(KEY), xs, key=KEY)
        assert abs(float((ys[:, 0] == ys[:, 1]).mean()) - 0.5) < 4 * 0.5 / 210**0.5
    _, ys = run(sj.stack(*[sj.dropout(0.5)] * 2), ((), ()), xs, key=KEY)
    assert abs(float((ys != 0).mean()) - 0.25) < 4 * 0.44 / 210**0.5
    assert set(np.unique(ys)) == {0.0, 4.0}


def test_weights_are_dropped_by_name():
    model = sj.stack(sj.lstm(I, 30), sj.residual(sj.gru(30, 30)))
    params = model.init(KEY)
    dropped = sj.weight_drop(params, KEY, 0.4)
    masks = []
    for old, new in zip(params, dropped, strict=True):
        for name in old:
            if name != "recurrent_kernel":
                np.testing.assert_array_equal(new[name], old[name])
        kept = np.asarray(new["recurrent_kernel"]) != 0
        expected = old["recurrent_kernel"][kept] / 0.6
        np.testing.assert_allclose(new["recurrent_kernel"][kept], expected, rtol=1e-12)
        assert abs(kept.mean() - 0.6) < 4 * np.sqrt(0.24 / kept.size)
        masks.append(kept[:, :90])
    assert not (masks[0] == masks[1]).all()
    assert sj.weight_drop(params, None, 0.4) is params
    bias = sj.weight_drop(params, KEY, 0.4, names=("bias",))
    assert bool((bias[0]["bias"] == 0).any())
    np.testing.assert_array_equal(bias[0]["kernel"], params[0]["kernel"])


def test_a_step_with_a_reset_begins_anew():
    model = BY_NAME["stack"].model
    params, xs, state = problem(model, 2)
    step = jax.jit(model.step, static_argnames="reset")
    goes_on = step(params, state, xs[0])
    assert_close(step(params, state, xs[0], reset=False), goes_on, 1e-14)
    anew = step(params, model.initial_state(params), xs[0])
    assert_close(step(params, state, xs[0], reset=True), anew, 1e-14)
    # A batch, of which some series begin anew.
    states = jax.tree.map(lambda a: jnp.stack([a, a]), state)
    batched = jax.jit(jax.vmap(lambda s, r: model.step(params, s, xs[0], reset=r)))
    ours = batched(states, jnp.array([True, False]))
    assert_close(jax.tree.map(lambda a: a[0], ours), anew, 1e-14)
    assert_close(jax.tree.map(lambda a: a[1], ours), goes_on, 1e-14)


LSTM = sj.lstm(I, 4)
PARAMS = LSTM.init(KEY)
XS = jnp.ones((T, I))


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: sj.dropout(1.0), ValueError, r"rate: expected a number in [0, 1), got 1.0"),
        (lambda: sj.dropout(-0.1), ValueError, r"rate: expected a number of at least 0, got -0.1"),
        (lambda: sj.dropout("a"), TypeError, r"rate: expected a number, got str 'a'"),
        (
            lambda: sj.unroll(sj.dropout(0.5), (), jnp.arange(3), key=KEY),
            TypeError,
            "x: expected a floating array, since dropout scales it, got int64[]",
        ),
        (
            lambda: sj.zoneout(sj.dense(3, 4), 0.5),
            TypeError,
            "cell: expected an sj.Cell, which shows how its state is made, got seqjax.Dense",
        ),
        (
            lambda: sj.zoneout(LSTM, 1.5),
            ValueError,
            "rate: expected a number in [0, 1], got 1.5",
        ),
        (
            lambda: sj.zoneout(LSTM, sj.LSTMState(0.5, 2.0)),
            ValueError,
            "rate.c: expected a number in [0, 1], got 2.0",
        ),
        (lambda: sj.zoneout(LSTM, (0.5, 0.5)), ValueError, "rate: expected "),
        (
            lambda: sj.lstm(3, 4, recurrent_dropout=1.0),
            ValueError,
            "recurrent_dropout: expected a number in [0, 1), got 1.0",
        ),
        (
            lambda: sj.weight_drop(PARAMS, KEY, 0.5, names=("kernels",)),
            ValueError,
            "names: expected some of the names of these parameters, bias, kernel, "
            "recurrent_kernel, got 'kernels'",
        ),
        (
            lambda: sj.weight_drop({"kernel": PARAMS["kernel"]}, KEY, 0.5),
            ValueError,
            "names: expected some of the names of these parameters, kernel, got 'recurrent_kernel'",
        ),
        (
            lambda: sj.unroll(LSTM, PARAMS, XS, key=3),
            TypeError,
            "key: expected a JAX random key such as jax.random.key(0), got int 3",
        ),
        (
            lambda: sj.unroll(LSTM, PARAMS, XS, key=jax.random.split(KEY, 3)),
            ValueError,
            "key: expected one JAX random key, or 7 of them, got key<fry>[3]",
        ),
        (
            lambda: LSTM.step(PARAMS, LSTM.initial_state(PARAMS), XS[0], reset=1),
            TypeError,
            "reset: expected a JAX or NumPy array, got ",
        ),
        (
            lambda: LSTM.step(PARAMS, LSTM.initial_state(PARAMS), XS[0], reset=XS[0] > 0),
            ValueError,
            "reset: expected bool[], got bool[3]",
        ),
    ],
)
def test_errors(call, kind, message):
    with pytest.raises(kind, match=re.escape(message)):
        call()
