"""Beam search: exhaustive where it can be, a loop over lists where not, and what is undefined."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.comparison import assert_close

import seqjax as sj

V, LENGTH, STOP = 3, 4, 1
K = jax.random.key(0)
MODEL = sj.stack(
    sj.embed(V, 4, dtype=jnp.float64),
    sj.lstm(4, 5, dtype=jnp.float64),
    sj.dense(5, V, dtype=jnp.float64),
)
PARAMS = jax.tree.map(lambda p: 2 * p, MODEL.init(jax.random.key(10)))
PROMPT = jnp.array([0, 2], jnp.int32)
STEP = jax.jit(MODEL.step)
inf, nan = np.inf, np.nan


PROMPTS = jnp.array([[0, 2], [1, 1], [2, 0], [2, 1]], jnp.int32)


def search(prompt=PROMPT, length=LENGTH, beams=3, **options):
    return sj.beam_search(MODEL, PARAMS, prompt, length, beams=beams, **options)


def penalize(logits, symbols, t):
    """A repetition penalty, and no symbol three times in the same place of the text."""
    seen = jnp.zeros(logits.shape, bool).at[symbols].set(True)
    logits = jnp.where(seen, logits - 0.7, logits)
    return jnp.where((t == 3) & (jnp.arange(V, dtype=jnp.int32) == symbols[2]), -jnp.inf, logits)


def penalized(logits, text):
    """The same, of a list."""
    logits = np.where(np.isin(np.arange(V), text), np.asarray(logits) - 0.7, logits)
    return np.where((len(text) == 3) & (np.arange(V) == text[-1]), -inf, logits)


def plain_beam_search(prompt, length, beams, stop=None, alpha=0.0, process=lambda z, text: z):
    """The definition, in lists: (score, log_prob, symbols, state before the last of them)."""
    state = MODEL.initial_state(PARAMS)
    for symbol in prompt[:-1]:
        state, _ = STEP(PARAMS, state, symbol)
    held = [(0.0, 0.0, [], state)]
    for _ in range(length):
        found = []
        for score, log_prob, symbols, state in held:
            if symbols and symbols[-1] == stop:
                found.append((score, log_prob, symbols, state))
                continue
            text = [*prompt, *symbols]
            after, logits = STEP(PARAMS, state, text[-1])
            logits = process(np.asarray(logits), text)
            log_p = logits - np.log(np.sum(np.exp(logits)))
            for symbol in range(V):
                total, n = log_prob + log_p[symbol], len(symbols) + 1
                score = total / ((5 + n) / 6) ** alpha
                found.append((score, total, [*symbols, symbol], after))
        held = sorted((f for f in found if f[0] > -inf), key=lambda f: -f[0])[:beams]
    return held


def assert_found(got, expected, beams, length, stop=None):
    states, symbols, scores = got
    assert symbols.dtype == jnp.int32
    assert scores.dtype == jnp.float64
    rest = beams - len(expected)
    padded = [f[2] + [stop] * (length - len(f[2])) for f in expected] + [[-1] * length] * rest
    np.testing.assert_array_equal(symbols, padded)
    np.testing.assert_allclose(scores, [f[0] for f in expected] + [-inf] * rest, rtol=1e-12)
    # The plain states are those before the last symbol was chosen: after all but it.
    states = jax.tree.map(lambda a: a[: len(expected)], states)
    assert_close(states, jax.tree.map(lambda *a: jnp.stack(a), *(f[3] for f in expected)), 1e-12)


@pytest.mark.parametrize("stop", [None, STOP])
def test_with_every_series_held_it_is_exhaustive(stop):
    """No beam is cut: the plain search is that of all V^length series, and two are left over."""
    beams = V**LENGTH + 2
    orders = set()
    for alpha in (0.0, 0.7, 3.0):
        expected = plain_beam_search(PROMPT.tolist(), LENGTH, beams, stop, alpha)
        assert len(expected) == (V**LENGTH if stop is None else 1 + 2 + 4 + 8 * V)
        got = search(beams=beams, stop=stop, length_penalty=alpha)
        assert_found(got, expected, beams, LENGTH, stop)
        orders.add(tuple(tuple(symbols) for _, _, symbols, _ in expected))
    assert len(orders) == (1 if stop is None else 3)  # the penalty decides
    overflowing = search(beams=beams, stop=stop, length_penalty=1e4)[2]
    np.testing.assert_array_equal(overflowing == -inf, np.arange(beams) >= len(expected))


def test_a_batch_of_prompts_is_a_loop_of_lists():
    """Three beams of a long search, with all options."""
    how = {"stop": STOP, "process_logits": penalize}
    run = lambda prompt, alpha: search(prompt, 9, length_penalty=alpha, **how)
    alphas = jnp.array([0.0, 0.6, 1.0, 1.0])
    batch = jax.jit(jax.vmap(run))(PROMPTS, alphas)
    for row, (prompt, alpha) in enumerate(zip(PROMPTS.tolist(), alphas.tolist(), strict=True)):
        expected = plain_beam_search(prompt, 9, 3, STOP, alpha, penalized)
        got = jax.tree.map(lambda a, row=row: a[row], batch)
        assert_found(got, expected, 3, 9, STOP)
    stops = (np.asarray(batch[1]) == STOP).sum(axis=-1)
    assert len({*stops.ravel().tolist()}) > 3


@pytest.mark.parametrize(
    "options", [{}, {"stop": STOP, "process_logits": penalize}], ids=("", "stop-process_logits")
)
def test_one_beam_is_greedy(options):
    greedy = lambda prompt: sj.generate(MODEL, PARAMS, prompt, 9, key=K, temperature=0, **options)
    state, symbols = jax.jit(jax.vmap(greedy))(PROMPTS)
    one = lambda prompt: search(prompt, 9, 1, length_penalty=0.5, **options)
    got_state, got, _ = jax.jit(jax.vmap(one))(PROMPTS)
    np.testing.assert_array_equal(got[:, 0], symbols)
    assert_close(jax.tree.map(lambda a: a[:, 0], got_state), state, 1e-12)
    assert len({*map(tuple, symbols.tolist())}) > 1


def test_it_goes_on_from_its_states():
    state, symbols, scores = search(length=3, beams=1)
    best = jax.tree.map(lambda a: a[0], state)
    _, rest, more = search(symbols[0, -1:], 2, 1, state=best)
    _, whole, total = search(length=5, beams=1)
    np.testing.assert_array_equal(jnp.concatenate([symbols, rest], axis=1), whole)
    np.testing.assert_allclose(scores + more, total, rtol=1e-12)


def test_the_gradient_of_a_score_is_that_of_the_series():
    """Which series it is does not depend on the parameters; its probability does."""

    def score(params):
        _, symbols, scores = sj.beam_search(
            MODEL, params, PROMPT, LENGTH, beams=2, length_penalty=1
        )
        return scores[1], symbols[1]

    gradient, symbols = jax.jit(jax.grad(score, has_aux=True))(PARAMS)

    def log_prob(params):
        text = jnp.concatenate([PROMPT, symbols])
        log_p = jax.nn.log_softmax(sj.unroll(MODEL, params, text[:-1])[1][1:])
        return jnp.sum(log_p[jnp.arange(LENGTH), symbols]) / ((5 + LENGTH) / 6)

    assert_close(gradient, jax.jit(jax.grad(log_prob))(PARAMS), 1e-10, nonzero=True)


def test_a_batch_on_a_mesh_with_explicit_axes():
    """Whose arrays have their sharding in their types, which a gather has to be told."""
    run = jax.jit(jax.vmap(lambda prompt: search(prompt, 5, stop=STOP, length_penalty=1)))
    expected = run(PROMPTS)
    mesh = jax.make_mesh((1,), ("batch",), axis_types=(jax.sharding.AxisType.Explicit,))
    with jax.set_mesh(mesh):
        spread = jax.device_put(np.asarray(PROMPTS), jax.NamedSharding(mesh, jax.P("batch")))
        got = run(spread)
    assert jax.typeof(got[1]).sharding.spec[0] == "batch"
    assert_close(jax.tree.map(np.asarray, got), jax.tree.map(np.asarray, expected), 1e-12)


# A model whose logits after symbol w, read at time t, are params[t, w]; it counts in integers.
TABLE = sj.from_step(
    lambda key: jnp.zeros((3, V, V), jnp.float32),
    lambda table, t, symbol: (t + 1, table[t, symbol]),
    lambda params: jnp.zeros((), jnp.int32),
)


@jax.jit
def search_table(table, prompt=0, alpha=0.0):
    """Four beams, three symbols."""
    return sj.beam_search(
        TABLE, table, jnp.array([prompt]), 3, beams=4, stop=2, length_penalty=alpha,
        encode=lambda symbol: symbol,
    )  # fmt: skip


def table(*changes):
    """Logits of 0, 1 and 2 after any symbol, 2 the least likely; changed at (t, symbol)."""
    logits = np.tile(np.array([1, 0, -9], np.float32), (3, V, 1))
    for where, new in changes:
        logits[where] = new
    return logits


def test_ties_go_to_the_first():
    """Of uniform logits: the earlier hypothesis, then the smaller symbol."""
    states, symbols, scores = search_table(np.zeros((3, V, V), np.float32))
    np.testing.assert_array_equal(symbols, [[2, 2, 2], [0, 2, 2], [0, 0, 0], [0, 0, 1]])
    np.testing.assert_allclose(scores, -np.log(3) * np.array([1, 2, 3, 3]), rtol=1e-6)
    np.testing.assert_array_equal(states, [1, 2, 3, 3])
    assert (states.dtype, scores.dtype) == (jnp.int32, jnp.float32)


def test_logits_that_are_infinite():
    # No symbol is possible after 0: a series that has no continuation is none.
    dead = search_table(table(((1, 0), -inf)))
    np.testing.assert_array_equal(dead[1][:, 0], 1)
    assert np.isfinite(dead[2]).all()
    # One series, and no other.
    _, symbols, scores = search_table(
        table((0, [-inf, 0, -inf]), (1, [0, -inf, -inf]), (2, [-inf, -inf, 5]))
    )
    np.testing.assert_array_equal(symbols, [[1, 0, 2]] + [[-1] * 3] * 3)
    np.testing.assert_array_equal(scores, [0, -inf, -inf, -inf])
    # None at all.
    _, symbols, scores = search_table(table((1, -inf), (0, [0, 0, -inf])))
    np.testing.assert_array_equal(symbols, -1)
    np.testing.assert_array_equal(scores, -inf)
    # Those at +inf share the probability.
    _, symbols, scores = search_table(table((0, [inf, 3, inf]), (1, [inf, 0, 0])))
    np.testing.assert_array_equal(symbols[:2], [[2, 2, 2], [0, 0, 0]])
    np.testing.assert_allclose(scores[0], -np.log(2), rtol=1e-6)


def test_logits_that_are_no_numbers():
    everything = lambda got: (np.asarray(got[1]) == -1).all() and np.isnan(got[2]).all()
    for where in ((0, 0, 2), (1, 1, 0), (2, 0, 1), (2, 1)):
        for sign in (nan, -nan):
            assert everything(search_table(table((where, sign)))), where
    # After the stop symbol, or a series that is none, nothing is read.
    clean = search_table(table())
    for where in ((1, 2), (2, 2)):
        got = search_table(table((where, nan)))
        np.testing.assert_array_equal(got[1], clean[1])
    got = search_table(table(((0, 0, 1), -inf), ((1, 1), nan)))
    assert np.isfinite(got[2]).all()


def test_what_is_out_of_range_where_it_is_traced():
    run = jax.jit(lambda prompt, alpha: search(prompt, beams=2, length_penalty=alpha)[1:])
    assert np.isfinite(run(PROMPT, 0.5)[1]).all()
    for prompt, alpha in ((PROMPT + 2, 0.5), (PROMPT, -1.0), (PROMPT, nan), (PROMPT, inf)):
        symbols, scores = run(prompt, alpha)
        np.testing.assert_array_equal(symbols, -1)
        assert np.isnan(scores).all()


def test_one_symbol_of_half_precision():
    model, prompt = sj.stack(sj.rnn(V, 4), sj.dense(4, V)).astype("bfloat16"), jnp.array([1])
    params = model.init(K)
    _, logits = sj.unroll(model, params, jax.nn.one_hot(prompt, V, dtype=jnp.bfloat16))
    log_p = jax.nn.log_softmax(logits[0].astype(jnp.float32))
    state, symbols, scores = sj.beam_search(model, params, prompt, 1, beams=V)
    order = np.argsort(-log_p)
    np.testing.assert_array_equal(symbols[:, 0], order)
    np.testing.assert_allclose(scores, log_p[order], rtol=1e-6)
    assert (scores.dtype, state[0].dtype) == (jnp.float32, jnp.bfloat16)


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"beams": 0}, ValueError, "beams: expected an integer of at least 1, got 0"),
        ({"beams": jnp.array(2)}, TypeError, "beams: expected a Python integer, got"),
        ({"length": 0}, ValueError, "length: .* at least 1, got 0"),
        ({"stop": V}, ValueError, r"stop: expected symbols in \[0, 3\), got 3"),
        ({"length_penalty": -1}, ValueError, "length_penalty: .* at least 0, got -1"),
        ({"length_penalty": inf}, ValueError, "length_penalty: .* finite number, got inf"),
        ({"length_penalty": jnp.ones(2)}, ValueError, r"length_penalty: .* got float64\[2\]; for"),
        ({"prompt": PROMPT[None]}, ValueError, r"prompt: .* got int32\[1, 2\]; for a batch, use"),
        (
            {"process_logits": lambda logits, *_: logits[None]},
            ValueError,
            r"(?m)logits that process_logits returns: expected float64\[3\], got float64\[1, 3\]$",
        ),
        ({"encode": lambda s: s.astype(float)}, TypeError, "the x that encode returns: .* int32"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_errors(options, kind, message):
    with pytest.raises(kind, match=message):
        search(**options)
