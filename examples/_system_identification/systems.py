"""The models that `system_identification.py` compares, and how each is trained."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from _system_identification.record import WASHOUT

import seqjax as sj


class System(NamedTuple):
    """A model, and what it predicts in training: (params, xs, ys, key, progress) -> [T, O]."""

    model: sj.Model
    predict: Callable


def systems(inputs, outputs, size):
    def free(model):
        return System(model, lambda params, xs, *_: sj.unroll(model, params, xs)[1])

    def open_loop(params, xs, ys, *_):
        return sj.teacher_force(narx, params, xs, ys)[1]

    def scheduled(params, xs, ys, key, progress):
        forced = jax.random.bernoulli(key, 1 - progress, xs.shape[:1])
        return sj.teacher_force(narx, params, xs, ys, forced=forced)[1]

    def closed_loop(params, xs, ys, *_):
        state = sj.warm_start(narx, xs[:WASHOUT], ys[:WASHOUT])
        predicted = sj.unroll(narx, params, xs[WASHOUT:], state)[1]
        return jnp.concatenate([ys[:WASHOUT], predicted])

    readout = sj.dense(size, outputs)
    tdnn = sj.tdnn(inputs, size, delays=range(16), activation=jnp.tanh)
    narx = sj.narx(inputs, size, outputs, input_delays=(0, 1, 2), output_delays=(1, 2, 3))
    return {
        "TDNN": free(sj.stack(tdnn, readout)),
        "NARX, open loop": System(narx, open_loop),
        "NARX, scheduled": System(narx, scheduled),
        "NARX, closed loop": System(narx, closed_loop),
        "Jordan": free(sj.jordan(inputs, size, outputs, decay=0.5)),
        "Elman": free(sj.stack(sj.elman(inputs, size), readout)),
        "RNN": free(sj.stack(sj.rnn(inputs, size), readout)),
        "GRU": free(sj.stack(sj.gru(inputs, size), readout)),
        "LSTM": free(sj.stack(sj.lstm(inputs, size), readout)),
    }
