"""Each framework's layout in a literal NumPy loop, of its own arrays: it need not be installed."""

import jax.numpy as jnp
import numpy as np
import pytest
from support.ported import XS, assert_same_outputs

import seqjax as sj

I, H = 3, 4  # noqa: E741


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def lstm(i, f, g, o, c):
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def torch_lstm(a, x, h, c):
    z = a["weight_ih_l0"] @ x + a["bias_ih_l0"] + a["weight_hh_l0"] @ h + a["bias_hh_l0"]
    return lstm(*np.split(z, 4), c)


def torch_gru(a, x, h, c):
    r, z, n = np.split(a["weight_ih_l0"] @ x + a["bias_ih_l0"], 3)
    r_h, z_h, n_h = np.split(a["weight_hh_l0"] @ h + a["bias_hh_l0"], 3)
    z, n = sigmoid(z + z_h), np.tanh(n + sigmoid(r + r_h) * n_h)
    return (1 - z) * n + z * h, c


def torch_rnn(a, x, h, c):
    z = a["weight_ih_l0"] @ x + a["bias_ih_l0"] + a["weight_hh_l0"] @ h + a["bias_hh_l0"]
    return np.tanh(z), c


def torch_shapes(gates):
    rows = gates * H
    return {
        "weight_ih_l0": (rows, I),
        "weight_hh_l0": (rows, H),
        "bias_ih_l0": (rows,),
        "bias_hh_l0": (rows,),
    }


TANH = {"activation": jnp.tanh}
# The step, the shapes of the arrays, and what they do not tell.
LAYERS = {
    "torch": [
        (torch_lstm, torch_shapes(4), {}),
        (torch_gru, torch_shapes(3), {}),
        (torch_rnn, torch_shapes(1), TANH),
    ],
}


@pytest.mark.parametrize(
    ("framework", "step", "shapes", "options"),
    [
        pytest.param(framework, *layer, id=layer[0].__name__)
        for framework, layers in LAYERS.items()
        for layer in layers
    ],
)
def test_one_layer(framework, step, shapes, options):
    rng = np.random.default_rng(1)
    arrays = {name: rng.uniform(-0.7, 0.7, shape) for name, shape in shapes.items()}
    h, c, outputs = np.zeros(H), np.zeros(H), []
    for x in XS:
        h, c = step(arrays, x, h, c)
        outputs.append(h)
    pair = getattr(sj.interop, framework).read(arrays, **options)
    assert_same_outputs(pair, XS, outputs)
