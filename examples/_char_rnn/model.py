"""The model of `char_rnn.py`: an embedding of the characters, stacked LSTMs, a readout."""

import functools
import itertools

import jax
import jax.numpy as jnp

import seqjax as sj


def make_model(vocabulary_size: int, options) -> sj.Model:
    sizes = [options.embedding_size] + [options.hidden_size] * options.layers
    # A forget bias of 1 lets the gradient through from the first update on.
    cells = [sj.lstm(i, h, forget_bias=1.0) for i, h in itertools.pairwise(sizes)]
    below, above = sj.embed(vocabulary_size, sizes[0]), sj.dense(sizes[-1], vocabulary_size)
    return sj.stack(below, *cells, above)


def initial_states(model: sj.Model, params, count: int):
    return jax.vmap(model.initial_state, in_axes=None, axis_size=count)(params)


@functools.partial(jax.jit, static_argnums=0)
def activations(model: sj.Model, params, symbols) -> jax.Array:
    """[T, layers, H]: tanh(c(t)) of every LSTM cell, after each of the symbols [T]."""

    def read(state, symbol):
        state, _ = model.step(params, state, symbol)
        return state, jnp.stack([lstm.c for lstm in state[1:-1]])

    return jnp.tanh(jax.lax.scan(read, model.initial_state(params), symbols)[1])
