"""Weights of Keras: its own layers, by a grid of their options, and its files.

In float32: layers of Keras compute so, whatever the dtype. In float64 see test_literal.py.
"""

import itertools
import os

os.environ.setdefault("KERAS_BACKEND", "jax")

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.ported import XS, assert_equal, assert_same_outputs, filled, rules_of_others

import seqjax as sj

keras = pytest.importorskip("keras")
# By `set_weights` of Keras, under NumPy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

OPTIONS = [
    pytest.param(kind, both, options, id=f"{kind}-{both}-{[*options.values()]}")
    for kind, resets in {"LSTM": (None,), "GRU": (True, False), "SimpleRNN": (None,)}.items()
    for both, bias, reset in itertools.product(
        (None, "concat", "sum", "ave"), (True, False), resets
    )
    for options in [{"use_bias": bias} | ({} if reset is None else {"reset_after": reset})]
    if bias or both in (None, "sum")
]
MERGES = {"ave": "mean", "mul": "product"}


@pytest.fixture(autouse=True)
def rules_of_keras():
    with jax.enable_x64(False), rules_of_others():
        yield


def layer_of(kind, both, **options):
    layer = getattr(keras.layers, kind)(4, return_sequences=True, **options)
    return layer if both is None else keras.layers.Bidirectional(layer, merge_mode=both)


def built(layer, *shape):
    layer.build((None, *shape))
    layer.set_weights(filled(layer.get_weights()))
    return layer


def outputs_of(layer, xs):
    return np.asarray(layer(jnp.asarray(xs)[None]))[0]


def by_path(layer):
    return {weight.path: weight for weight in layer.weights}


@pytest.mark.parametrize(("kind", "both", "options"), OPTIONS)
def test_outputs_and_round_trips(kind, both, options):
    layer, xs = built(layer_of(kind, both, **options), None, 3), XS.astype(np.float32)
    asked = {"activation": jnp.tanh} if kind == "SimpleRNN" else {}
    asked |= {} if options["use_bias"] else {k: v for k, v in options.items() if k != "use_bias"}
    asked |= {"merge": MERGES.get(both, both)} if both else {}
    pair = sj.interop.keras.read(by_path(layer), **asked)
    assert_same_outputs(pair, xs, outputs_of(layer, xs))
    arrays = sj.interop.keras.write(*pair)
    layer.set_weights([*arrays.values()])
    assert_same_outputs(pair, xs, outputs_of(layer, xs))
    again = sj.interop.keras.read(arrays, **asked)
    assert again[0] == pair[0]
    assert_equal(again[1], pair[1])
    assert_equal(sj.interop.keras.into(pair[0], arrays), pair[1])


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "SimpleRNN"])
def test_other_activations(kind):
    options = {"activation": "relu"} | (
        {} if kind == "SimpleRNN" else {"recurrent_activation": "hard_sigmoid"}
    )
    layer, xs = built(layer_of(kind, None, **options), None, 3), XS.astype(np.float32)
    asked = {"activation": jax.nn.relu} | (
        {} if kind == "SimpleRNN" else {"gate_activation": jax.nn.hard_sigmoid}
    )
    pair = sj.interop.keras.read(by_path(layer), **asked)
    assert_same_outputs(pair, xs, outputs_of(layer, xs))
    layer.set_weights([*sj.interop.keras.write(*pair).values()])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "SimpleRNN"])
def test_half_precision_bit_for_bit(kind, dtype):
    options = {"use_bias": kind != "GRU", "recurrent_initializer": "uniform"}
    layer = layer_of(kind, None, dtype=dtype, **options)
    layer.build((None, None, 3))
    asked = {"SimpleRNN": {"activation": jnp.tanh}, "GRU": {"reset_after": True}}.get(kind, {})
    model, params = sj.interop.keras.read(by_path(layer), **asked)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(params)} == {dtype}
    written = sj.interop.keras.write(model, params).values()
    assert_equal([*written], [np.asarray(weight) for weight in layer.weights])


def network():
    return keras.Sequential(
        [
            keras.layers.Embedding(10, 3, name="tokens"),
            keras.layers.Bidirectional(
                keras.layers.GRU(4, return_sequences=True, recurrent_dropout=0.5), name="encoder"
            ),
            keras.layers.LayerNormalization(name="norm"),
            keras.layers.Dropout(0.5),
            keras.layers.LSTM(5, return_sequences=True, name="decoder"),
            keras.layers.Dense(2, activation="softmax", name="head"),
        ],
        name="net",
    )


LAYERS = ("tokens", "encoder", "norm", sj.dropout(0.5), "decoder", "head", jax.nn.softmax)


def test_a_network_and_its_file(tmp_path):
    original, tokens = built(network(), None), np.array([3, 1, 4, 1, 5, 9], np.int32)
    outputs = outputs_of(original, tokens)
    pair = sj.interop.keras.read(by_path(original), "net", layers=LAYERS, eps=1e-3)
    assert_same_outputs(pair, tokens, outputs)
    assert_equal(sj.interop.keras.into(pair[0], by_path(original), "net", layers=LAYERS), pair[1])
    other = built(network(), None)
    other.set_weights([*sj.interop.keras.write(*pair, layers=LAYERS).values()])
    assert_same_outputs(pair, tokens, outputs_of(other, tokens))

    h5py = pytest.importorskip("h5py")
    original.save_weights(tmp_path / "net.weights.h5")
    with h5py.File(tmp_path / "net.weights.h5") as file:
        from_file = sj.interop.keras.read(
            file, "layers", layers=in_file(LAYERS), eps=1e-3, kinds={"embedding": "embed"}
        )
    assert from_file[0] == pair[0]
    assert_equal(from_file[1], pair[1])


def in_file(layers):
    """A file has the layers under the names of their classes."""
    names = {
        "tokens": "embedding",
        "encoder": "bidirectional",
        "norm": "layer_normalization",
        "decoder": "lstm",
        "head": "dense",
    }
    return tuple(names.get(layer, layer) if isinstance(layer, str) else layer for layer in layers)


def test_a_gru_without_bias_does_not_tell_where_it_resets():
    layer = built(layer_of("GRU", None, use_bias=False), None, 3)
    with pytest.raises(ValueError, match=r"reset_after: expected True or False, which .* got None"):
        sj.interop.keras.read(by_path(layer))
    with pytest.raises(ValueError, match=r"reset_after: expected True, by .*/bias"):
        sj.interop.keras.read(by_path(built(layer_of("GRU", None), None, 3)), reset_after=False)


def test_check_names_the_order_of_the_gates():
    layer, xs = built(layer_of("LSTM", None), None, 3), XS.astype(np.float32)
    swapped = {
        path: np.concatenate([np.split(np.asarray(w), 4, -1)[n] for n in (0, 2, 1, 3)], axis=-1)
        for path, w in by_path(layer).items()
    }
    read = lambda **options: sj.interop.keras.read(swapped, **options)
    with pytest.raises(ValueError, match="they match if the gates are i,g,f,o"):
        sj.interop.check(read, outputs_of(layer, xs), xs)
