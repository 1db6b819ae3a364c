"""Weights of Equinox: its own modules."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from support.ported import XS, assert_equal, assert_same_outputs, filled, rules_of_others

import seqjax as sj

eqx = pytest.importorskip("equinox")


@pytest.fixture(autouse=True)
def rules_of_equinox():
    with rules_of_others():
        yield


def cell_of(kind, dtype, use_bias=True, key=0):
    options = {"use_bias": use_bias, "dtype": dtype, "key": jax.random.key(key)}
    return getattr(eqx.nn, kind)(3, 4, **options)


def run(cell, xs):
    zeros = jnp.zeros(4, cell.weight_hh.dtype)
    is_lstm = isinstance(cell, eqx.nn.LSTMCell)

    def step(state, x):
        state = cell(x, state)
        return state, state[0] if is_lstm else state

    return lax.scan(step, (zeros, zeros) if is_lstm else zeros, xs)[1]


@pytest.mark.parametrize(
    ("kind", "use_bias", "dtype"),
    [*itertools.product(("LSTMCell", "GRUCell"), (True, False), (jnp.float32, jnp.float64))],
)
def test_outputs_and_round_trips(kind, use_bias, dtype):
    cell, xs = cell_of(kind, dtype, use_bias), XS.astype(dtype)
    pair = sj.interop.equinox.read(cell)
    assert_same_outputs(pair, xs, run(cell, xs))
    other = cell_of(kind, dtype, use_bias, key=1)
    filled_in = sj.interop.equinox.write(*pair, module=other)
    assert eqx.tree_equal(filled_in, cell)
    assert not eqx.tree_equal(filled_in, other)
    arrays = sj.interop.equinox.write(*pair)
    again = sj.interop.equinox.read(arrays)
    assert again[0] == pair[0]
    assert_equal(again[1], pair[1])
    assert_equal(sj.interop.equinox.into(pair[0], cell), pair[1])


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
@pytest.mark.parametrize("kind", ["LSTMCell", "GRUCell"])
def test_half_precision_bit_for_bit(kind, dtype):
    cell = cell_of(kind, dtype)
    pair = sj.interop.equinox.read(cell)
    assert {leaf.dtype for leaf in jax.tree.leaves(pair[1])} == {jnp.dtype(dtype)}
    written = sj.interop.equinox.write(*pair, module=cell_of(kind, dtype, key=1))
    assert_equal(jax.tree.leaves(written), jax.tree.leaves(cell))


class Tagger(eqx.Module):
    head: eqx.nn.Linear
    cells: list
    norm: eqx.nn.LayerNorm
    embedding: eqx.nn.Embedding
    activation: object

    def __call__(self, tokens):
        x = jax.vmap(self.embedding)(tokens)
        x = run(self.cells[1], run(self.cells[0], x))
        return jax.vmap(self.head)(self.activation(jax.vmap(self.norm)(x)))


def tagger(seed):
    keys = jax.random.split(jax.random.key(seed), 4)
    return Tagger(
        eqx.nn.Linear(4, 2, key=keys[0]),
        [eqx.nn.GRUCell(3, 4, key=keys[1]), eqx.nn.LSTMCell(4, 4, key=keys[2])],
        eqx.nn.LayerNorm(4, eps=1e-3),
        eqx.nn.Embedding(10, 3, key=keys[3]),
        jax.nn.relu,
    )


LAYERS = ("embedding", "cells.0", "cells.1", "norm", jax.nn.relu, "head")
SAID = {"layers": LAYERS, "kinds": {"embedding": "embed"}, "eps": 1e-3}


def test_a_module_of_modules():
    original, tokens = tagger(0), np.array([3, 1, 4, 1, 5, 9])
    arrays = eqx.filter(original, eqx.is_array)
    pair = sj.interop.equinox.read(arrays, **SAID)
    assert_same_outputs(pair, tokens, original(tokens))
    written = sj.interop.equinox.write(*pair, layers=LAYERS, module=tagger(1))
    assert_equal(written(tokens), original(tokens))
    assert written.activation is original.activation
    with pytest.raises(TypeError, match="activation: expected an array, got the function relu"):
        sj.interop.equinox.read(original, **SAID)


def test_what_is_not_written():
    for model, reason in [
        (sj.rnn(3, 4), "it has no layer of this kind"),
        (sj.gru(3, 4, reset_after=False), "its reset gate acts before the matmul, theirs after it"),
        (sj.bidirectional(sj.gru(3, 4)), "no layer in two directions"),
    ]:
        with pytest.raises(ValueError, match=reason):
            sj.interop.equinox.write(model, model.init(jax.random.key(0)))


def test_a_module_that_does_not_fit():
    cell = sj.lstm(3, 4)
    params = cell.init(jax.random.key(0))
    with pytest.raises(ValueError, match="module: expected a module with arrays of the names"):
        sj.interop.equinox.write(cell, params, "cell", module=cell_of("LSTMCell", jnp.float64))
    with pytest.raises(TypeError, match=r"module.weight_ih: expected float64\[16, 3\]"):
        sj.interop.equinox.write(cell, params, module=cell_of("LSTMCell", jnp.float32))


def test_check_names_the_order_of_the_gates():
    cell = cell_of("GRUCell", jnp.float64)
    leaves, structure = jax.tree.flatten(filled(cell))
    order = lambda a: np.concatenate([np.split(a, 3)[n] for n in (1, 0, 2)])
    swapped = [order(leaf) if len(leaf) == 12 else leaf for leaf in leaves]
    outputs = run(jax.tree.unflatten(structure, leaves), XS)
    read = lambda **options: sj.interop.equinox.read(
        jax.tree.unflatten(structure, swapped), **options
    )
    with pytest.raises(ValueError, match="they match if the gates are z,r,n"):
        sj.interop.check(read, outputs, XS)
