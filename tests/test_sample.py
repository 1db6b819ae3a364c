"""Sampling: the distribution that a symbol is drawn from, and the edges of its options."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import seqjax as sj

LOGITS = jnp.log(jnp.array([0.1, 0.4, 0.05, 0.3, 0.15]))
K = jax.random.key(0)


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


TINY = 1e-38
inf, nan = jnp.inf, jnp.nan


def constant(logits):
    """A model of symbols whose logits are always these."""
    return sj.from_step(lambda key: (), lambda params, state, x: (state, logits), lambda params: ())


def chi_square(drawn, logits):
    """In standard deviations from its mean."""
    logits = np.asarray(logits, float)
    expected = np.exp(logits - logits.max())
    expected *= drawn.size / expected.sum()
    counts = np.bincount(drawn.ravel(), minlength=logits.size)
    freedom = logits.size - 1
    return (np.sum((counts - expected) ** 2 / expected) - freedom) / np.sqrt(2 * freedom)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64"])
def test_draws_in_every_dtype_follow_the_distribution(dtype):
    """10⁵ draws of 64 symbols. With noise of that dtype: float16 37, bfloat16 570."""
    logits = (1.5 * jax.random.normal(K, (64,))).astype(dtype)
    draw = jax.jit(jax.vmap(lambda key: sj.sample(key, logits)))
    drawn = draw(jax.random.split(K, 100_000))
    assert drawn.dtype == jnp.int32
    assert abs(chi_square(drawn, logits)) < 5

    def generate(key):
        encode = lambda symbol: symbol[None]
        return sj.generate(constant(logits), (), jnp.zeros(1, int), 100, key=key, encode=encode)[1]

    drawn = jax.jit(jax.vmap(generate))(jax.random.split(K, 1000))
    assert drawn.dtype == jnp.int32
    assert abs(chi_square(drawn, logits)) < 5


@pytest.mark.parametrize(
    ("dtype", "logits", "options"),
    [
        ("float16", [70, 90], {"temperature": 1e-3}),
        ("float32", [10, 20], {"temperature": TINY}),
        ("float32", [10, 20], {"temperature": 1e-50}),
        ("float64", [10, 20], {"temperature": 1e-300}),
        ("float32", [-3e38, 3e38], {}),
        ("float16", [0, 3], {"top_p": 1e-8}),
        ("float32", [0, 3], {"top_p": 1e-50}),
        ("float32", [0, 3, 3], {"top_p": 1e-50}),
        ("float32", [0, inf], {}),
        ("float32", [0, inf], {"temperature": 0}),
        ("float32", [0, inf], {"top_k": 2, "top_p": 0.9}),
        ("float16", [65504, inf], {"top_p": 1.0}),
        ("float32", [-inf, 0], {"top_k": 2, "top_p": 1.0}),
        ("bfloat16", [0, 3, 3], {"temperature": 0}),
    ],
)
def test_the_most_likely_symbol_at_the_edges(dtype, logits, options):
    """Symbol 1, for any key, traced options or not, and with no NaN on the way."""
    logits = jnp.array(logits, dtype)
    traced = {name: options.get(name) for name in ("temperature", "top_p") if name in options}
    fixed = {name: options[name] for name in options if name not in traced}
    by_trace = jax.jit(lambda key, traced: sj.sample(key, logits, **fixed, **traced))
    with jax.debug_nans(True):
        for key in jax.random.split(K, 8):
            assert sj.sample(key, logits, **options) == 1
            assert by_trace(key, traced) == 1


def test_infinite_logits_share_the_probability():
    logits = jnp.array([inf, 0.0, inf, -inf])
    drawn = jax.vmap(lambda key: sj.sample(key, logits))(jax.random.split(K, 2000))
    np.testing.assert_allclose(np.bincount(drawn, minlength=4) / 2000, [0.5, 0, 0.5, 0], atol=0.05)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
def test_the_whole_nucleus_keeps_every_symbol(dtype, monkeypatch):
    """The rounded sum of 2,000 probabilities may reach 1 before the last of them."""
    count = lambda key, logits: jnp.sum(logits > -inf)
    monkeypatch.setattr(jax.random, "categorical", count)
    logits = (3 * jax.random.normal(K, (50, 2000))).astype(dtype)
    kept = jax.jit(jax.vmap(lambda z, p: sj.sample(K, z, top_p=p), (0, None)))
    np.testing.assert_array_equal(kept(logits, 1.0), 2000)
    assert np.all(kept(logits, 0.5) < 1000)


@pytest.mark.parametrize("options", [{}, {"temperature": 0}, {"top_k": 2, "top_p": 0.5}])
@pytest.mark.parametrize("logits", [[0.0, nan, 1.0], [nan, inf, 0.0], [-inf, -inf, -inf]])
def test_no_distribution_gives_no_symbol(logits, options):
    for dtype in ("float16", "float64"):
        draw = lambda logits: sj.sample(K, logits, **options)
        assert draw(jnp.array(logits, dtype)) == jax.jit(draw)(jnp.array(logits, dtype)) == -1


def test_traced_options_out_of_range_give_no_symbol():
    draw = jax.jit(lambda t, p: sj.sample(K, jnp.array([0.0, 9.0]), temperature=t, top_p=p))
    for temperature in (-1.0, -1, inf, nan):
        assert draw(temperature, 0.5) == -1
    for top_p in (-1.0, 0.0, 1.5, nan):
        assert draw(1.0, top_p) == -1
    for temperature, top_p in [(0.0, 1.0), (0, 1), (-0.0, 0.5), (1e-3, 1e-300)]:
        assert draw(temperature, top_p) == 1
