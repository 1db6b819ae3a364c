"""The systems that `long_memory.py` compares."""

import dataclasses
import functools

import jax
import jax.numpy as jnp

import seqjax as sj

SYSTEMS = {  # the color of each in the figure, and what it remembers by
    "jordan": ("#8c6d31", "a fixed average of its outputs, which no gradient crosses"),
    "elman": ("#e7969c", "a copy of its hidden units, which no gradient crosses"),
    "narx": ("#7b4173", "its outputs, fed back after 1, 2, 4, 8, 16 steps: shortcuts in time"),
    "memory": ("#31a354", "averages of its hidden units, over spans that it learns"),
    "rnn": ("#fd8d3c", "its hidden units, which every step multiplies by W11: gradients vanish"),
    "gru": ("#3182bd", "its state, which a gate can keep as it is"),
    "lstm": ("#d62728", "its cell state, which a gate can keep as it is"),
}


def make_system(name, shape, size):
    """The model of a name, for series of a shape, with hidden layers of a size."""
    steps, inputs, outputs = shape
    dense = sj.dense(size, outputs)
    if name == "narx":
        return sj.narx(inputs, size, outputs, input_delays=(0,), output_delays=(1, 2, 4, 8, 16))
    if name == "jordan":
        return sj.jordan(inputs, size, outputs, decay=0.9)
    if name == "memory":
        return leaky_memory(sj.rnn(inputs, size, activation=jax.nn.relu), dense, steps)
    cell = getattr(sj, name)(inputs, size)
    if name in ("gru", "lstm"):
        cell = dataclasses.replace(cell, init=functools.partial(patient, cell.init, steps))
    return sj.stack(cell, dense)


def patient(init, steps, key):
    # Gates that keep for 1 … steps at first: Tallec & Ollivier 2018, arXiv:1804.11188. With
    # forget_bias=1 the LSTM is at chance on adding after 1500 updates; after 4000 it is not.
    init_key, keep_key = jax.random.split(key)
    params = init(init_key)
    gates = params["kernel"].shape[1] // len(params["recurrent_kernel"])
    first, keep, *others = jnp.split(params["bias"], gates)  # LSTM: i, f, g, o; GRU: r, z, n
    keep = jnp.log(jax.random.uniform(keep_key, keep.shape, minval=1, maxval=steps))
    return params | {"bias": jnp.concatenate([-keep if gates == 4 else first, keep, *others])}


def leaky_memory(rnn, dense, steps):
    """m(t) = a m(t-1) + (1 - a) h(t-1), with an a for each unit; h(t) = relu(W1 x + W11 m + b)."""
    (size,), both = dense.input_spec.shape, sj.stack(rnn, dense)
    return sj.memory(
        r=lambda params, y, h, m: h + jax.nn.sigmoid(params[2]) * (m - h),
        f=lambda params, x, m: rnn.step(params[0], m, x)[1],
        g=lambda params, h: dense.step(params[1], (), h)[1],
        init=lambda key: (*both.init(key), jnp.log(jnp.geomspace(1, steps, size))),
        initial_state=lambda params: tuple(map(jnp.zeros, (dense.output_size, size, size))),
    )
