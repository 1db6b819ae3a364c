"""The libraries that `compare` measures: the same recurrence in each, in its documented way.

Every peer is `apply(params, xs, state) -> ys` for xs [B, T, I], ys [B, T, H] and a state of one or
two arrays [B, H], and `convert(weights) -> params` from the weights that all of them share:
"kernel" [I, G·H], "recurrent_kernel" [H, G·H], "bias" [G·H], gates i, f, g, o or r, z, n. The GRU's
second candidate bias is zero, since flax nnx has none. What a library can not express is
left out: Equinox has no simple cell, Haiku's is a ReLU and its GRU resets before the matmul.
"""

import dataclasses
import os
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

os.environ.setdefault("KERAS_BACKEND", "jax")

import equinox as eqx
import haiku as hk
import jax
import jax.numpy as jnp
import keras
from flax import nnx
from jax import lax

import seqjax as sj

GATES = {"rnn": 1, "gru": 3, "lstm": 4}


class Peer(NamedTuple):
    """A library on JAX."""

    apply: Callable
    convert: Callable


def sizes(weights):
    return weights["kernel"].shape[0], weights["recurrent_kernel"].shape[0]


def first(state):
    return state[0] if len(state) == 1 else state


# ---- seqjax, and what anyone writes without a library ------------------------------------


def seqjax_peer(kind, weights, adjoint=None):
    cell = getattr(sj, kind)(*sizes(weights))
    options = {} if adjoint is None else {"adjoint": adjoint}

    def convert(weights):
        if kind != "gru":
            return weights
        return weights | {"recurrent_bias": jnp.zeros_like(weights["bias"][: sizes(weights)[1]])}

    def apply(params, xs, state):
        state = sj.LSTMState(*state) if kind == "lstm" else state[0]
        return jax.vmap(lambda xs, s: sj.unroll(cell, params, xs, s, **options)[1])(xs, state)

    return Peer(apply, convert)


def native_peer(kind, weights):
    """The same cell and engine, given a whole batch [B, …] at each step instead of a `vmap`."""
    cell = getattr(sj, kind)(*sizes(weights))

    def apply(params, xs, state):
        state = sj.LSTMState(*state) if kind == "lstm" else state[0]
        batched = dataclasses.replace(cell, input_spec=None, initial_state=lambda params: state)
        return jnp.swapaxes(sj.unroll(batched, params, jnp.swapaxes(xs, 0, 1), state)[1], 0, 1)

    return Peer(apply, seqjax_peer(kind, weights).convert)


def plain_scan(kind, weights, unroll=1):
    """`lax.scan` over the whole step, batched by hand."""
    _, hidden = sizes(weights)

    def step(params, state, x):
        u = x @ params["kernel"] + params["bias"]
        r = state[0] @ params["recurrent_kernel"]
        if kind == "rnn":
            h = jnp.tanh(u + r)
            return (h,), h
        if kind == "lstm":
            i, f, g, o = jnp.split(u + r, 4, axis=-1)
            c = jax.nn.sigmoid(f) * state[1] + jax.nn.sigmoid(i) * jnp.tanh(g)
            h = jax.nn.sigmoid(o) * jnp.tanh(c)
            return (h, c), h
        gates = jax.nn.sigmoid((u + r)[:, : 2 * hidden])
        reset, update = jnp.split(gates, 2, axis=-1)
        n = jnp.tanh(u[:, 2 * hidden :] + reset * r[:, 2 * hidden :])
        h = (1 - update) * n + update * state[0]
        return (h,), h

    def apply(params, xs, state):
        xs, run = jnp.swapaxes(xs, 0, 1), partial(step, params)
        return jnp.swapaxes(lax.scan(run, tuple(state), xs, unroll=unroll)[1], 0, 1)

    return Peer(apply, lambda weights: weights)


# ---- The peers ---------------------------------------------------------------------------


def flax_peer(kind, weights, optimized=True):
    names = {"rnn": "SimpleCell", "gru": "GRUCell", "lstm": "OptimizedLSTMCell"}
    name = names[kind] if optimized else "LSTMCell"
    model = nnx.RNN(getattr(nnx, name)(*sizes(weights), rngs=nnx.Rngs(0)))
    graph, state, rest = nnx.split(model, nnx.Param, ...)

    def convert(weights):
        kernel, recurrent, bias = (weights[k] for k in ("kernel", "recurrent_kernel", "bias"))
        inputs, hidden = {"kernel": kernel}, {"kernel": recurrent}
        if kind == "lstm" and not optimized:
            cell = {}
            for n, gate in enumerate("ifgo"):
                of_gate = lambda a, n=n: jnp.split(a, 4, axis=-1)[n]
                cell["if_" if gate == "f" else "i" + gate] = {"kernel": of_gate(kernel)}
                cell["h" + gate] = {"kernel": of_gate(recurrent), "bias": of_gate(bias)}
            return {"cell": cell}
        (hidden if kind == "lstm" else inputs)["bias"] = bias
        return {"cell": {"dense_i": inputs, "dense_h": hidden}}

    def apply(params, xs, carry):
        filled = jax.tree.map(lambda leaf: leaf, state)
        nnx.replace_by_pure_dict(filled, params)
        carry = tuple(carry)[::-1] if kind == "lstm" else carry[0]
        return nnx.merge(graph, filled, rest)(xs, initial_carry=carry)

    return Peer(apply, convert)


def equinox_peer(kind, weights):
    if kind == "rnn":
        return None
    make = eqx.nn.LSTMCell if kind == "lstm" else eqx.nn.GRUCell
    cell = make(*sizes(weights), key=jax.random.key(0))
    _, static = eqx.partition(cell, eqx.is_array)

    def convert(weights):
        parts = [weights["kernel"].T, weights["recurrent_kernel"].T, weights["bias"]]
        where = lambda c: [c.weight_ih, c.weight_hh, c.bias]
        filled = eqx.tree_at(where, cell, parts)
        if kind == "gru":
            filled = eqx.tree_at(lambda c: c.bias_n, filled, jnp.zeros_like(cell.bias_n))
        return eqx.partition(filled, eqx.is_array)[0]

    def apply(params, xs, state):
        step = eqx.combine(params, static)

        def one(xs, state):
            def body(carry, x):
                carry = step(x, carry)
                return carry, carry[0] if kind == "lstm" else carry

            return lax.scan(body, state, xs)[1]

        return jax.vmap(one)(xs, first(tuple(state)))

    return Peer(apply, convert)


def haiku_peer(kind, weights):
    if kind != "lstm":
        return None
    _, hidden = sizes(weights)

    def unroll(xs, state):
        return hk.dynamic_unroll(hk.LSTM(hidden), xs, hk.LSTMState(*state), time_major=False)[0]

    transformed = hk.without_apply_rng(hk.transform(unroll))

    def convert(weights):
        def order(a):  # haiku: i, g, f, o
            i, f, g, o = jnp.split(a, 4, axis=-1)
            return i, g, f, o

        both = jnp.concatenate([weights["kernel"], weights["recurrent_kernel"]])
        i, g, f, o = order(weights["bias"])
        bias = jnp.concatenate([i, g, f - 1, o])  # its forward pass adds 1 to f
        return {"lstm/linear": {"w": jnp.concatenate(order(both), axis=-1), "b": bias}}

    return Peer(transformed.apply, convert)


def keras_peer(kind, weights, mask=None):
    inputs, hidden = sizes(weights)
    name = {"rnn": "SimpleRNN", "gru": "GRU", "lstm": "LSTM"}[kind]
    layer = getattr(keras.layers, name)(hidden, return_sequences=True)
    layer.build((None, None, inputs))
    rest = [v.value for v in layer.non_trainable_variables]

    def convert(weights):
        kernel, recurrent, bias = (weights[k] for k in ("kernel", "recurrent_kernel", "bias"))
        if kind != "gru":
            return [kernel, recurrent, bias]

        def order(a):  # keras: z, r, n
            r, z, n = jnp.split(a, 3, axis=-1)
            return jnp.concatenate([z, r, n], axis=-1)

        biases = jnp.stack([order(bias), jnp.zeros_like(bias)])
        return [order(kernel), order(recurrent), biases]

    def apply(params, xs, state):
        return layer.stateless_call(params, rest, xs, initial_state=list(state), mask=mask)[0]

    return Peer(apply, convert)


JAX_PEERS = {
    "seqjax": seqjax_peer,
    "natively batched": native_peer,
    "plain scan": plain_scan,
    "flax nnx": flax_peer,
    "equinox": equinox_peer,
    "haiku": haiku_peer,
    "keras": keras_peer,
    "flax nnx, LSTMCell": partial(flax_peer, optimized=False),
}
NOT_PEERS = ("seqjax", "natively batched", "plain scan")
