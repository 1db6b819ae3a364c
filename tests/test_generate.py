"""Generation: feeding back of what was drawn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.comparison import assert_close

import seqjax as sj

LOGITS = jnp.log(jnp.array([0.1, 0.4, 0.05, 0.3, 0.15]))


K = jax.random.key(0)


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.array, jnp.array, jnp.bfloat16])
def test_options_as_arrays(kind):
    """Scalars of NumPy and JAX, known or traced, draw what Python's numbers draw."""
    keys, options = jax.random.split(K, 50), {"temperature": 0.5, "top_p": 0.75}
    draw = jax.vmap(lambda key, options: sj.sample(key, LOGITS, **options), (0, None))
    expected = jax.vmap(lambda key: sj.sample(key, LOGITS, **options))(keys)
    arrays = {name: kind(value) for name, value in options.items()}
    np.testing.assert_array_equal(jax.jit(draw)(keys, arrays), expected)
    got = jax.vmap(lambda key: sj.sample(key, LOGITS, **arrays))(keys)
    np.testing.assert_array_equal(got, expected)
    whole = generate(length=4, **{name: kind(1) for name in options})[1]
    np.testing.assert_array_equal(whole, generate(length=4)[1])


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


def test_what_is_undefined_stays_so():
    """The model forgets at once; what it wrote does not become defined again."""

    def step(params, state, x):
        return state + 1, jnp.where(state == 3, jnp.nan, x + jnp.arange(5.0))

    model = sj.from_step(lambda key: (), step, lambda params: jnp.zeros((), int))
    seen = []

    def encode(symbol):
        jax.debug.callback(lambda s: seen.append(int(s)), symbol)
        return jnp.full(5, symbol, float)

    state, symbols = sj.generate(
        model, (), jnp.array([2, 1]), 6, key=K, encode=encode, temperature=0
    )
    jax.effects_barrier()
    np.testing.assert_array_equal(symbols, [4, 4, -1, -1, -1, -1])
    assert sorted(seen) == [-1, -1, -1, 1, 2, 4, 4]
    assert state == 7


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "int64", "uint64"])
def test_prompts_of_any_integers(dtype):
    """Known symbols are checked before they are narrowed, traced ones give undefined ones."""
    np.testing.assert_array_equal(generate(np.asarray(PROMPT, dtype))[1], generate()[1])
    run = jax.jit(lambda prompt: generate(prompt, length=3)[1])
    expected = generate(length=3)[1]
    np.testing.assert_array_equal(run(np.asarray(PROMPT, dtype)), expected)
    encode = lambda symbol: jax.nn.one_hot(symbol, 5, dtype=jnp.float64)
    own = jax.jit(lambda prompt: generate(prompt, length=3, encode=encode)[1])
    np.testing.assert_array_equal(own(np.asarray(PROMPT, dtype)), expected)
    most = np.iinfo(dtype).max
    np.testing.assert_array_equal(run(np.array([0, 1, most], dtype)), [-1, -1, -1])
    with pytest.raises(ValueError, match=rf"prompt: .* in \[0, 5\), got 0 to {most}"):
        generate(np.array([0, most], dtype))


def test_a_prompt_that_jax_would_narrow():
    seen = []

    def encode(symbol):
        seen.append(symbol.dtype)
        return jax.nn.one_hot(symbol, 5, dtype=jnp.float32)

    with jax.enable_x64(False):
        model = sj.stack(sj.lstm(5, 6), sj.dense(6, 5))
        params = model.init(K)
        run = lambda prompt, **options: sj.generate(model, params, prompt, 2, key=K, **options)
        for options in ({}, {"encode": encode}):
            with pytest.raises(ValueError, match=r"prompt: expected symbols .* got 4294967299"):
                run(np.array([2**32 + 3]), **options)
            assert run(np.array([3]), **options)[1].shape == (2,)
    run = lambda prompt: sj.generate(model, params, prompt, 2, key=K, encode=encode)[1]
    np.testing.assert_array_equal(jax.jit(run)(np.array([2**32 + 3])), [-1, -1])
    assert set(seen) == {jnp.dtype(jnp.int32)}


@pytest.mark.parametrize(
    "options", [{"temperature": 1e39}, {"temperature": 1e-50}, {"top_p": 1e-50}], ids=str
)
def test_options_beyond_float32_are_those_of_a_program(options):
    with jax.enable_x64(False):
        model = sj.stack(sj.lstm(5, 6), sj.dense(6, 5))
        run = lambda p: sj.generate(model, p, jnp.array([1]), 9, key=K, **options)[1]
        params = model.init(K)
        np.testing.assert_array_equal(run(params), jax.jit(run)(params))
        assert jnp.all(run(params) >= 0)


def test_keys_old_and_new():
    expected = generate(key=jax.random.key(7))[1]
    old = jax.random.PRNGKey(7)
    for key in (old, np.asarray(old)):
        np.testing.assert_array_equal(generate(key=key)[1], expected)
        assert sj.sample(key, LOGITS) == sj.sample(jax.random.key(7), LOGITS)
    rbg = jax.random.key(7, impl="rbg")
    np.testing.assert_array_equal(generate(length=1, key=rbg)[1].shape, (1,))


def test_encode_of_the_users_own():
    """An embedding inside the model: symbols themselves are the inputs."""
    table = jnp.asarray(np.random.default_rng(0).standard_normal((5, 5)))
    by_table = sj.generate(
        MODEL, PARAMS, PROMPT, 8, key=jax.random.key(0), encode=lambda s: table[s]
    )[1]
    assert by_table.shape == (8,)
    assert (by_table != sj.generate(MODEL, PARAMS, PROMPT, 8, key=jax.random.key(0))[1]).any()


KEYS = jax.random.split(jax.random.key(5), 16)


def test_what_is_behind_the_stop_symbol():
    """Each row of a batch is the row without `stop`, up to the first one, which is repeated."""
    whole = jax.vmap(lambda key: generate(key=key)[1])(KEYS)
    states, rows = jax.jit(jax.vmap(lambda key: generate(key=key, stop=2)))(KEYS)
    before = np.cumsum(np.asarray(whole) == 2, axis=1) == 0
    np.testing.assert_array_equal(rows, np.where(before, whole, 2))
    lengths = before.sum(axis=1)
    assert {0, 12} <= {*lengths.tolist()}  # at once, and not at all
    assert len({*lengths.tolist()}) > 4
    texts = jnp.concatenate([jnp.tile(PROMPT.astype(jnp.int32), (16, 1)), rows[:, :-1]], axis=1)
    read = lambda xs, length: sj.unroll(MODEL, PARAMS, xs, length=length)[0]
    counts = np.minimum(3 + lengths, 3 + 12 - 1)
    expected = jax.vmap(read)(jax.nn.one_hot(texts, 5, dtype=jnp.float64), counts)
    assert_close(states, expected, 1e-12)


def test_a_text_goes_on_behind_the_stop_symbol():
    """A stop symbol in the prompt ends nothing: the next text begins with it."""
    state, first = generate(length=6, key=KEYS[0], stop=2)
    assert first[-1] == 2
    _, rest = generate(first[-1:], 5, state=state, stop=2, temperature=0)
    text = jnp.concatenate([PROMPT.astype(jnp.int32), first[: jnp.argmax(first == 2) + 1]])
    np.testing.assert_array_equal(rest, generate(text, 5, stop=2, temperature=0)[1])


def penalize(logits, symbols, t):
    """Repetition penalty (Keskar et al. 2019), a ban, and no 2 among the first three."""
    seen = jnp.zeros(logits.shape, bool).at[symbols].set(True)
    logits = jnp.where(seen, jnp.where(logits > 0, logits / 1.5, logits * 1.5), logits)
    logits = logits.at[4].set(-jnp.inf)
    return jnp.where(t < len(PROMPT) + 3, logits.at[2].set(-jnp.inf), logits)


def penalized(logits, text, written):
    logits = np.array(logits)
    for v in {*text}:
        logits[v] = logits[v] / 1.5 if logits[v] > 0 else logits[v] * 1.5
    return jnp.where(
        (jnp.arange(5) == 4) | ((jnp.arange(5) == 2) & (written < 3)), -jnp.inf, logits
    )


def test_processed_logits_are_a_loop_over_step():
    run = lambda key: generate(key=key, process_logits=penalize)[1]
    rows = jax.jit(jax.vmap(run))(KEYS[:4])
    np.testing.assert_array_equal(run(KEYS[0]), rows[0])
    step = jax.jit(MODEL.step)
    draw = jax.jit(sj.sample)
    for row, key in zip(rows, KEYS, strict=False):
        text, state = [], MODEL.initial_state(PARAMS)
        for symbol in PROMPT.tolist():
            state, logits = step(PARAMS, state, jnp.eye(5)[symbol])
            text.append(symbol)
        for i, one in enumerate(jax.random.split(key, 12)):
            text.append(int(draw(one, penalized(logits, text, i))))
            state, logits = step(PARAMS, state, jnp.eye(5)[text[-1]])
        np.testing.assert_array_equal(row, text[3:])
    assert 2 in np.asarray(rows)[:, 3:]
    assert len({*map(tuple, rows.tolist())}) == 4


def test_what_process_logits_is_given():
    """The prompt, what was drawn, and V where nothing stands yet; float32 of short floats."""
    seen = []

    def look(logits, symbols, t):
        jax.debug.callback(lambda s, t: seen.append((int(t), s.tolist())), symbols, t)
        assert (logits.dtype, symbols.dtype, t.dtype) == (jnp.float32, jnp.int32, jnp.int32)
        return jnp.where(t == 4, jnp.nan, jnp.zeros(3, logits.dtype).at[(t + 1) % 3].set(99))

    step = lambda params, state, x: (state, jnp.zeros(3, jnp.bfloat16))
    model = sj.from_step(lambda key: (), step, lambda params: ())
    how = {"encode": lambda symbol: symbol, "process_logits": look}
    run = lambda **options: sj.generate(model, (), jnp.array([2, 7]), 4, key=K, **how, **options)[1]
    np.testing.assert_array_equal(run(), [0, 1, -1, -1])
    jax.effects_barrier()
    text = [2, 7, 0, 1, -1]
    assert sorted(seen) == [(t, text[:t] + [3] * (6 - t)) for t in range(2, 6)]
    np.testing.assert_array_equal(run(stop=1), [0, 1, 1, 1])


def test_a_ban_for_each_of_a_batch():
    """Outside `jit`: what `process_logits` closes over is mapped."""

    def run(banned):
        ban = lambda logits, symbols, t: jnp.where(jnp.arange(5) == banned, -jnp.inf, logits)
        return generate(process_logits=ban)[1]

    rows = jax.vmap(run)(jnp.arange(5))
    for banned, row in enumerate(rows.tolist()):
        assert banned not in row
    np.testing.assert_array_equal(rows[3], run(3))


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (
            lambda: generate(length=jnp.array(3)),
            TypeError,
            "length: expected a Python integer, got",
        ),
        (lambda: generate(key=0), TypeError, r"key: .* jax.random.key\(0\), got int 0"),
        (lambda: generate(key=None), TypeError, "key: .* got None"),
        (lambda: generate(key=jnp.ones(2)), TypeError, r"key: .* got float64\[2\]"),
        (lambda: generate(key=np.zeros(3, np.uint32)), TypeError, r"key: .* got uint32\[3\]"),
        (lambda: sj.sample(0, LOGITS), TypeError, "key: .* got int 0"),
        (
            lambda: generate(key=jax.random.split(K)),
            ValueError,
            r"key: expected one .* got key<fry>\[2\]; for a batch, use jax.vmap",
        ),
        (lambda: generate(temperature=np.ones(2)), ValueError, "temperature: expected a scalar"),
        (lambda: generate(temperature=np.array(-1)), ValueError, "temperature: .* got -1"),
        (lambda: generate(temperature=np.array(np.nan)), ValueError, "temperature: .* finite"),
        (lambda: generate(temperature=np.array(1j)), TypeError, "temperature: .* got complex128"),
        (lambda: generate(top_p=jnp.array(True)), TypeError, r"top_p: .* got bool\[\]"),
        (lambda: generate(top_k=jnp.array(2)), TypeError, "top_k: expected a Python integer"),
        (lambda: generate(encode=np.eye(5)), TypeError, "encode: expected a function"),
        (lambda: generate(stop=5), ValueError, r"stop: expected symbols in \[0, 5\), got 5"),
        (lambda: generate(stop=-1), ValueError, "stop: .* at least 0, got -1"),
        (lambda: generate(stop=jnp.array(3)), TypeError, "stop: expected a Python integer, got"),
        (
            lambda: generate(process_logits=jnp.eye(5)),
            TypeError,
            "process_logits: expected a function",
        ),
        (
            lambda: generate(process_logits=lambda logits, *_: logits[:4]),
            ValueError,
            r"(?m)logits that process_logits returns: expected float64\[5\], got float64\[4\]$",
        ),
        (
            lambda: generate(process_logits=lambda logits, *_: logits.astype(jnp.float32)),
            TypeError,
            r"the logits that process_logits returns: expected float64\[5\], got float32\[5\]",
        ),
        (lambda: generate(length=0), ValueError, "length: expected .* at least 1, got 0"),
        (lambda: generate(prompt=PROMPT[:0]), ValueError, r"prompt: expected int\[P\] with P ≥ 1"),
        (lambda: generate(prompt=PROMPT[None]), ValueError, r"prompt: .* got int64\[1, 3\]"),
        (lambda: generate(prompt=jnp.ones(2)), TypeError, "prompt: expected integers"),
        (lambda: generate(prompt=PROMPT + 2), ValueError, r"prompt: .* in \[0, 5\), got 2 to 5"),
        (
            lambda: sj.generate(sj.gru(5, 4), WIDE, PROMPT, 3, key=jax.random.key(0)),
            ValueError,
            r"model: .* one logit per symbol of its input, 5, got float64\[4\]",
        ),
        (lambda: generate(temperature=-1), ValueError, "temperature: expected .* got -1"),
        (lambda: generate(temperature="hot"), TypeError, "temperature: expected a number"),
        (lambda: generate(top_k=0), ValueError, "top_k: expected .* at least 1, got 0"),
        (lambda: generate(top_p=0), ValueError, r"top_p: .* in \(0, 1\], got 0"),
        (lambda: generate(top_p=1.5), ValueError, r"top_p: .* in \(0, 1\], got 1.5"),
        (lambda: sj.sample(jax.random.key(0), jnp.ones((2, 3))), ValueError, "logits: expected"),
        (lambda: sj.sample(jax.random.key(0), jnp.ones(3, int)), TypeError, "logits: expected"),
        (
            lambda: sj.generate(
                sj.from_step(lambda k: (), lambda p, s, x: (s, x)),
                (),
                PROMPT,
                3,
                key=jax.random.key(0),
            ),
            ValueError,
            "encode: expected a function symbol -> x",
        ),
    ],
)
def test_errors(call, kind, message):
    with pytest.raises(kind, match=message):
        call()
