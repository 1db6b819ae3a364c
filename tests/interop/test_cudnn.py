"""Weights of cuDNN, as `jax.experimental.rnn` has them: its reference implementation."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import rnn
from support.comparison import assert_close

import seqjax as sj

NAMES = "weight_ih", "weight_hh", "bias_ih", "bias_hh"
BATCH, STEPS, INPUTS, HIDDEN = 3, 6, 3, 4


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize(("layers", "both"), [*itertools.product((1, 2, 3), (False, True))])
def test_the_reference_implementation_of_jax(layers, both, dtype):
    sizes = INPUTS, HIDDEN, layers, both
    flat = rnn.init_lstm_weight(jax.random.key(0), *sizes).astype(dtype)
    weights = rnn.unpack_lstm_weights(flat, *sizes)
    directions = ("", "_reverse") if both else ("",)
    arrays = {}
    for number, (layer, direction) in enumerate(itertools.product(range(layers), directions)):
        for name, of_layers in zip(NAMES, weights, strict=True):
            arrays[f"{name}_l{layer}{direction}"] = of_layers[number]
    model, params = sj.interop.torch.read(arrays)

    draw = np.random.default_rng(0)
    xs = jnp.asarray(draw.standard_normal((BATCH, STEPS, INPUTS)), dtype)
    lengths = np.array([STEPS, 2, 4], np.int32)
    zeros = jnp.zeros((layers * len(directions), BATCH, HIDDEN), dtype)
    run = lambda xs, length: sj.unroll(model, params, xs, length=length)[1]
    ys = jax.vmap(run)(xs, lengths)
    expected, _, _ = rnn.lstm_ref(xs, zeros, zeros, *weights, lengths, *sizes[:3], 0.0, both)
    valid = np.arange(STEPS)[:, None] < lengths[:, None, None]
    assert_close(ys, jnp.where(valid, expected, 0), 1e-5 if dtype == jnp.float32 else 1e-12)
