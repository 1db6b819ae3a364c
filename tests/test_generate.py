"""Sampling and generation: the distribution drawn from, and feeding back of what was drawn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import seqjax as sj

LOGITS = jnp.log(jnp.array([0.1, 0.4, 0.05, 0.3, 0.15]))


def frequencies(draws=20000, **options):
    keys = jax.random.split(jax.random.key(0), draws)
    drawn = jax.jit(jax.vmap(lambda key: sj.sample(key, LOGITS, **options)))(keys)
    return np.bincount(drawn, minlength=5) / draws


def normalised(*probabilities):
    return np.array(probabilities) / sum(probabilities)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, normalised(0.1, 0.4, 0.05, 0.3, 0.15)),
        ({"temperature": 0}, [0, 1, 0, 0, 0]),
        ({"temperature": 0.5}, normalised(0.1**2, 0.4**2, 0.05**2, 0.3**2, 0.15**2)),
        ({"top_k": 2}, normalised(0, 0.4, 0, 0.3, 0)),
        ({"top_k": 9}, normalised(0.1, 0.4, 0.05, 0.3, 0.15)),
        ({"top_p": 0.39}, [0, 1, 0, 0, 0]),
        ({"top_p": 0.71}, normalised(0, 0.4, 0, 0.3, 0.15)),
        ({"top_p": 1.0}, normalised(0.1, 0.4, 0.05, 0.3, 0.15)),
        ({"top_k": 3, "top_p": 0.5}, normalised(0, 0.4, 0, 0.3, 0)),
    ],
)
def test_the_distribution_drawn_from(options, expected):
    np.testing.assert_allclose(frequencies(**options), expected, atol=0.012)
    assert all(f == 0 for f, e in zip(frequencies(**options), expected, strict=True) if e == 0)


MODEL = sj.stack(sj.lstm(5, 6, dtype=jnp.float64), sj.dense(6, 5, dtype=jnp.float64))
PARAMS = jax.tree.map(lambda p: 3 * p, MODEL.init(jax.random.key(3)))
WIDE = sj.gru(5, 4).init(jax.random.key(0))
PROMPT = jnp.array([0, 3, 1])


def generate(prompt=PROMPT, length=12, key=jax.random.key(1), **options):  # noqa: B008
    return sj.generate(MODEL, PARAMS, prompt, length, key=key, **options)


def test_generation_is_a_loop_over_step():
    state, written = generate(temperature=0.8, top_k=3)
    one_hot = lambda symbol: jax.nn.one_hot(symbol, 5, dtype=jnp.float64)
    expected, s = [], MODEL.initial_state(PARAMS)
    for symbol in PROMPT:
        s, logits = MODEL.step(PARAMS, s, one_hot(symbol))
    for key in jax.random.split(jax.random.key(1), 12):
        expected.append(sj.sample(key, logits, temperature=0.8, top_k=3))
        before = s
        s, logits = MODEL.step(PARAMS, s, one_hot(expected[-1]))
    assert written.dtype == jnp.int32
    assert len(set(map(int, written))) > 1
    np.testing.assert_array_equal(written, jnp.stack(expected))
    np.testing.assert_allclose(jax.tree.leaves(state)[0], jax.tree.leaves(before)[0], rtol=1e-12)


def test_writing_on_from_the_state_equals_writing_at_once():
    _, whole = generate(length=9, temperature=0)
    state, first = generate(length=4, temperature=0)
    _, rest = generate(prompt=first[-1:], length=5, state=state, temperature=0)
    np.testing.assert_array_equal(whole, jnp.concatenate([first, rest]))


def test_one_symbol_only_and_batches():
    keys = jax.random.split(jax.random.key(1), 4)
    batch = jax.jit(jax.vmap(lambda key: generate(length=6, key=key)[1]))(keys)
    for row, key in zip(batch, keys, strict=True):
        np.testing.assert_array_equal(row, generate(length=6, key=key)[1])
    np.testing.assert_array_equal(
        generate(length=1, temperature=0)[1], generate(temperature=0)[1][:1]
    )


def test_encode_of_the_users_own():
    """An embedding inside the model: symbols themselves are the inputs."""
    table = jnp.asarray(np.random.default_rng(0).standard_normal((5, 5)))
    by_table = sj.generate(
        MODEL, PARAMS, PROMPT, 8, key=jax.random.key(0), encode=lambda s: table[s]
    )[1]
    assert by_table.shape == (8,)
    assert (by_table != sj.generate(MODEL, PARAMS, PROMPT, 8, key=jax.random.key(0))[1]).any()


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: generate(length=0), ValueError, "length: expected .* at least 1, got 0"),
        (lambda: generate(prompt=PROMPT[:0]), ValueError, r"prompt: expected int\[P\] with P ≥ 1"),
        (lambda: generate(prompt=PROMPT[None]), ValueError, r"prompt: .* got int64\[1, 3\]"),
        (lambda: generate(prompt=jnp.ones(2)), TypeError, "prompt: expected whole numbers"),
        (lambda: generate(prompt=PROMPT + 2), ValueError, r"prompt: .* in \[0, 5\), got 2 to 5"),
        (
            lambda: sj.generate(sj.gru(5, 4), WIDE, PROMPT, 3, key=jax.random.key(0)),
            ValueError,
            r"model: .* as many logits as its input has symbols, 5, got float64\[4\]",
        ),
        (lambda: generate(temperature=-1), ValueError, "temperature: expected .* got -1"),
        (lambda: generate(temperature="hot"), TypeError, "temperature: expected a number"),
        (lambda: generate(top_k=0), ValueError, "top_k: expected .* at least 1, got 0"),
        (lambda: generate(top_p=0), ValueError, "top_p: expected a number above 0, got 0"),
        (lambda: generate(top_p=1.5), ValueError, r"top_p: .* in \(0, 1\], got 1.5"),
        (lambda: sj.sample(jax.random.key(0), jnp.ones((2, 3))), ValueError, "logits: expected"),
        (lambda: sj.sample(jax.random.key(0), jnp.ones(3, int)), TypeError, "logits: expected"),
        (
            lambda: sj.generate(
                sj.cell(lambda k: (), lambda p, s, x: (s, x)), (), PROMPT, 3, key=jax.random.key(0)
            ),
            ValueError,
            "encode: expected a function symbol -> x",
        ),
    ],
)
def test_errors(call, kind, message):
    with pytest.raises(kind, match=message):
        call()
