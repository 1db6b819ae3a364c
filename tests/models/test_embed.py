"""Embeddings: a lookup, its pooled gradient, and tokens that are none."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.comparison import assert_close
from support.table import BY_NAME, problem

import seqjax as sj
from seqjax.engine.recurrence import harmless

V, F = 5, 3
MODEL = sj.embed(V, F, dtype=jnp.float64)
PARAMS = MODEL.init(jax.random.key(0))
TOKENS = jnp.array([3, 0, 3, 4, 3])
WRITER, (PARAMS_OF_WRITER, *_) = BY_NAME["embed"].model, problem(BY_NAME["embed"].model, 1)


def test_it_is_the_rows_of_the_table_and_its_gradient_their_sum():
    table, ys = np.asarray(PARAMS["kernel"]), sj.unroll(MODEL, PARAMS, TOKENS)[1]
    weights = np.random.default_rng(0).standard_normal((len(TOKENS), F))
    expected, gradient = np.zeros((len(TOKENS), F)), np.zeros((V, F))
    for t, token in enumerate(TOKENS.tolist()):
        expected[t] = table[token]
        gradient[token] += weights[t]
    np.testing.assert_array_equal(ys, expected)
    loss = lambda params: jnp.sum(weights * sj.unroll(MODEL, params, TOKENS)[1])
    assert_close(jax.grad(loss)(PARAMS)["kernel"], gradient, 1e-14)


@pytest.mark.parametrize("x64", [True, False])
@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "uint32", "int64", "uint64"])
def test_tokens_of_any_integer_dtype(dtype, x64):
    with jax.enable_x64(x64):
        tokens = np.asarray(TOKENS, dtype)
        model = MODEL.astype(jnp.float32)
        params = model.init(jax.random.key(0))
        expected = params["kernel"][np.asarray(TOKENS)]
        for run in (sj.unroll, jax.jit(sj.unroll, static_argnums=0)):
            np.testing.assert_array_equal(run(model, params, tokens)[1], expected)
        np.testing.assert_array_equal(model.step(params, (), tokens[0])[1], expected[0])
        assert sj.unroll(WRITER, PARAMS_OF_WRITER, tokens)[1].shape == (5, V) if x64 else True


def test_a_known_token_outside_the_vocabulary_is_refused():
    twice = sj.bidirectional(WRITER, sj.stack(sj.embed(V - 1, 2), sj.dense(2, V)), merge="sum")
    for model, tokens, message in [
        (MODEL, [0, 5], r"xs: expected symbols in \[0, 5\), got 0 to 5"),
        (WRITER, [-1], r"xs: expected symbols in \[0, 5\), got -1"),
        (twice, [4], r"xs: expected symbols in \[0, 4\), got 4"),
    ]:
        with pytest.raises(ValueError, match=message):
            sj.unroll(model, model.init(jax.random.key(0)), jnp.array(tokens))
    with pytest.raises(ValueError, match=r"xs: expected symbols in \[0, 5\), got 5"):
        sj.trajectory(WRITER, PARAMS_OF_WRITER, jnp.array([5]))
    with pytest.raises(ValueError, match=r"x: expected symbols in \[0, 5\), got -3"):
        WRITER.step(PARAMS_OF_WRITER, WRITER.initial_state(PARAMS_OF_WRITER), jnp.array(-3))
    with jax.enable_x64(False):  # where JAX makes 3 of it
        model = MODEL.astype(jnp.float32)
        with pytest.raises(ValueError, match="got 4294967299"):
            sj.unroll(model, model.init(jax.random.key(0)), np.array([2**32 + 3]))


@pytest.mark.parametrize("bad", [-1, -V, V, 2**31 - 1, -(2**31), 2**32 + 3, -(2**63)])
def test_a_traced_one_is_nan_and_no_row(bad):
    tokens = np.array([1, bad, 2], np.int64)

    @jax.jit
    def run(params, tokens):
        loss = lambda p: jnp.sum(jnp.where(valid, sj.unroll(MODEL, p, tokens)[1], 0))
        valid = jnp.array([[True], [False], [True]]) & jnp.ones((3, F), bool)
        return sj.unroll(MODEL, params, tokens)[1], jax.grad(loss)(params)["kernel"]

    ys, gradient = run(PARAMS, tokens)
    assert jnp.isnan(ys[1]).all()
    np.testing.assert_array_equal(ys[::2], PARAMS["kernel"][1:3])
    np.testing.assert_array_equal(gradient, np.array([0, 1, 1, 0, 0])[:, None] * np.ones(F))


@pytest.mark.parametrize("adjoint", [sj.BPTT(), sj.BPTT(chunk=2), sj.Autodiff()], ids=str)
@pytest.mark.parametrize("length", [0, 2])
def test_padding_may_hold_anything(adjoint, length):
    """Known or traced; of a series without a valid step too."""
    tokens = np.where(np.arange(5) < length, TOKENS, -1)
    run = lambda p, n: sj.unroll(WRITER, p, tokens, length=n, adjoint=adjoint)[1]
    ys = run(PARAMS_OF_WRITER, length)
    assert_close(jax.jit(run)(PARAMS_OF_WRITER, length), ys, 1e-14)
    gradient = jax.jit(jax.grad(lambda p, n: jnp.sum(jnp.sin(run(p, n)))))
    assert all(
        bool(jnp.isfinite(g).all()) for g in jax.tree.leaves(gradient(PARAMS_OF_WRITER, length))
    )
    with pytest.raises(ValueError, match="got -1"):
        run(PARAMS_OF_WRITER, length + 1)


def test_what_stands_in_for_a_token_is_one():
    assert harmless(jnp.array(7)) == 0


def compiled_shapes(function, *at):
    return set(re.findall(r"\w+\[[\d,]+\]", jax.jit(function).lower(*at).compile().as_text()))


def test_the_gradient_of_a_batch_holds_one_table_and_half_precision_no_wide_one():
    batch, time, vocabulary, features = 4, 3, 11, 7
    model = sj.embed(vocabulary, features, dtype=jnp.bfloat16)
    params = model.init(jax.random.key(0))
    tokens = jnp.zeros((batch, time), jnp.int32)
    run = lambda p, xs: jax.vmap(lambda xs: sj.unroll(model, p, xs)[1])(xs)
    loss = lambda p, xs: jnp.sum(run(p, xs).astype(jnp.float32))
    for dtype in ("bf16", "f32"):
        assert f"{dtype}[{batch},{vocabulary},{features}]" not in compiled_shapes(
            jax.grad(loss), params, tokens
        )
    assert f"f32[{vocabulary},{features}]" in compiled_shapes(jax.grad(loss), params, tokens)
    step = jax.jit(model.step).lower(params, (), tokens[0, 0]).as_text()
    assert f"tensor<{vocabulary}x{features}xbf16>" in step
    assert f"tensor<{vocabulary}x{features}xf32>" not in step


def test_symbols_are_generated_from_tokens_as_from_one_hot_vectors():
    twin = sj.stack(sj.dense(V, F, dtype=jnp.float64), *WRITER.models[1:])
    table = PARAMS_OF_WRITER[0]["kernel"]
    params = ({"kernel": table, "bias": jnp.zeros(F)}, *PARAMS_OF_WRITER[1:])
    write = lambda model, p, prompt=TOKENS: sj.generate(model, p, prompt, 9, key=jax.random.key(2))
    state, symbols = write(WRITER, PARAMS_OF_WRITER)
    expected_state, expected = write(twin, params)
    np.testing.assert_array_equal(symbols, expected)
    assert len(set(symbols.tolist())) > 1
    assert_close(state[1:], expected_state[1:], 1e-12)
    with pytest.raises(ValueError, match=r"prompt: expected symbols in \[0, 5\), got 2 to 5"):
        write(WRITER, PARAMS_OF_WRITER, np.array([2, 5]))
    bad = jax.jit(lambda prompt: write(WRITER, PARAMS_OF_WRITER, prompt)[1])(np.array([2, 5]))
    np.testing.assert_array_equal(bad, -1)


def test_a_model_of_tokens_without_a_logit_for_each_is_refused():
    more = sj.stack(sj.embed(V + 1, F), sj.dense(F, V))
    message = r"model: expected a model that outputs one logit per symbol of its input, 6, got"
    with pytest.raises(ValueError, match=message):
        sj.generate(more, more.init(jax.random.key(0)), TOKENS, 3, key=jax.random.key(0))
    own = sj.from_step(
        lambda key: (),
        lambda params, s, token: (s, jax.nn.one_hot(token + 1, V) * 100),
        lambda params: jnp.zeros(()),
        input_spec=jax.ShapeDtypeStruct((), jnp.int32),
    )  # which does not say how many tokens it reads
    symbols = sj.generate(own, (), jnp.array([0]), 3, key=jax.random.key(0))[1]
    np.testing.assert_array_equal(symbols, [1, 2, 3])


def test_its_gradients_are_proved_like_those_of_any_other():
    sj.testing.check_cell(WRITER, draws=1, steps=3)
