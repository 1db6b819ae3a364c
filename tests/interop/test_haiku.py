"""Weights of Haiku: its own modules."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.comparison import assert_close
from support.ported import XS, assert_equal, assert_same_outputs, filled, rules_of_others

import seqjax as sj

hk = pytest.importorskip("haiku")

NAMES = {"LSTM": "lstm", "GRU": "gru", "VanillaRNN": "vanilla_rnn"}


@pytest.fixture(autouse=True)
def rules_of_haiku():
    with rules_of_others():
        yield


def run(core, xs):
    state = jax.tree.map(lambda leaf: leaf.astype(xs.dtype), core.initial_state(None))
    return hk.dynamic_unroll(core, xs, state)[0]


def transformed(function, x):
    original = hk.without_apply_rng(hk.transform(function))
    return original.apply, filled(original.init(jax.random.key(0), x))


@pytest.mark.parametrize(("kind", "dtype"), [*itertools.product(NAMES, (jnp.float32, jnp.float64))])
def test_outputs_and_round_trips(kind, dtype):
    xs = XS.astype(dtype)
    apply, params = transformed(lambda xs: run(getattr(hk, kind)(4), xs), xs)
    pair = sj.interop.haiku.read(params)
    assert_same_outputs(pair, xs, apply(params, xs))
    written = sj.interop.haiku.write(*pair, NAMES[kind])
    assert jax.tree.structure(written) == jax.tree.structure(params)
    assert_same_outputs(pair, xs, apply(written, xs))
    again = sj.interop.haiku.read(written)
    assert again[0] == pair[0]
    assert_equal(again[1], pair[1])
    assert_equal(sj.interop.haiku.into(pair[0], written), pair[1])


def test_the_bias_of_f_is_one_less_and_comes_back_to_one_rounding():
    cell = sj.lstm(3, 4, dtype=jnp.float32)
    params = cell.init(jax.random.key(0))
    again = sj.interop.haiku.read(sj.interop.haiku.write(cell, params, "lstm"))[1]
    forget = slice(4, 8)
    assert_close(again["bias"][forget], params["bias"][forget], 2**-23)
    params["bias"] = params["bias"].at[forget].set(1.5)
    written = sj.interop.haiku.write(cell, params, "lstm")
    assert (written["lstm/linear"]["b"][8:12] == 0.5).all()  # their order is i, g, f, o
    assert_equal(sj.interop.haiku.read(written)[1], params)


def test_a_rnn_with_one_bias():
    core = lambda xs: run(hk.VanillaRNN(4, double_bias=False), xs)
    apply, params = transformed(core, XS)
    assert_same_outputs(sj.interop.haiku.read(params), XS, apply(params, XS))


def network(tokens):
    x = hk.Embed(10, 3)(tokens)
    x = run(hk.LSTM(4, name="encoder"), x)
    x = run(hk.GRU(4), x)
    return hk.Linear(2)(jax.nn.relu(hk.LayerNorm(-1, True, True)(x)))


LAYERS = ("embed", "encoder", "gru", "layer_norm", jax.nn.relu, "linear")
SAID = {"layers": LAYERS, "kinds": {"encoder": "lstm"}, "eps": 1e-5}


def test_modules():
    tokens = np.array([3, 1, 4, 1, 5, 9], np.int32)
    with jax.enable_x64(False):
        apply, params = transformed(network, tokens)
        pair = sj.interop.haiku.read(params, **SAID)
        assert_same_outputs(pair, tokens, apply(params, tokens))
        written = sj.interop.haiku.write(*pair, layers=LAYERS)
        assert_same_outputs(pair, tokens, apply(written, tokens))
        assert_equal(sj.interop.haiku.into(pair[0], written, layers=LAYERS), pair[1])
        # A Linear in a module of the user's own looks like an LSTM of that name.
        with pytest.raises(ValueError, match="kinds: expected one of 'lstm', 'dense' for encoder/"):
            sj.interop.haiku.read(params, "encoder")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("lstm/linear", "lstm"),
        ("net/~/lstm_2/linear", "lstm"),
        ("linear", "dense"),
        ("mlp/~/linear", "dense"),
        ("lstm/linear_1", "dense"),
    ],
)
def test_a_linear_is_an_lstm_by_the_name_of_its_module(name, kind):
    model, _ = sj.interop.haiku.read({name: {"w": np.ones((7, 16)), "b": np.ones(16)}})
    assert model == {"lstm": sj.lstm(3, 4), "dense": sj.dense(7, 16)}[kind]


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_bit_for_bit(dtype):
    _, params = transformed(lambda xs: run(hk.GRU(4), xs), XS)
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), params)
    pair = sj.interop.haiku.read(params)
    assert {leaf.dtype for leaf in jax.tree.leaves(pair[1])} == {jnp.dtype(dtype)}
    assert_equal(sj.interop.haiku.write(*pair, "gru"), params)


def test_what_is_not_written():
    for model, reason in [
        (sj.gru(3, 4), "its reset gate acts after the matmul, theirs before it"),
        (sj.rnn(3, 4), "rnn"),
        (sj.bidirectional(sj.rnn(3, 4, activation=jax.nn.relu)), "no layer in two directions"),
    ]:
        with pytest.raises(ValueError, match=reason):
            sj.interop.haiku.write(model, model.init(jax.random.key(0)), "a")
    cell = sj.dense(3, 4)
    with pytest.raises(ValueError, match="prefix: expected the name of the module, got ''"):
        sj.interop.haiku.write(cell, cell.init(jax.random.key(0)))


def test_check_names_the_forget_offset():
    apply, params = transformed(lambda xs: run(hk.LSTM(4), xs), XS)
    outputs = apply(params, XS)
    params["lstm/linear"]["b"][8:12] += 1  # of somebody who had added it already
    read = lambda **options: sj.interop.haiku.read(params, **options)
    with pytest.raises(ValueError, match=r"they match with convention={'forget_offset': 0.0}"):
        sj.interop.check(read, outputs, XS)
