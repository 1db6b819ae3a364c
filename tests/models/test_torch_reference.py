"""The order of the gates and all conventions, pinned to numbers that PyTorch computed.

`make_torch_reference.py` writes torch_reference.json with PyTorch; here it is only read.
Weights and inputs are formulas, so that the file holds results alone.
"""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.comparison import assert_close

import seqjax as sj

REFERENCE = pathlib.Path(__file__).with_name("torch_reference.json")
T, I, H, P = 5, 3, 4, 2  # noqa: E741
GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1, "lstm_projected": 4}


def wave(*shape, phase):
    return np.sin(np.arange(1.0, 1.0 + np.prod(shape)) * 1.7 + phase).reshape(shape)


def output_size(name):
    return P if name == "lstm_projected" else H


def inputs(name):
    """x, h(-1) (which PyTorch is given projected), c(-1), and weights of what a run returns."""
    size = output_size(name)
    shapes = {"x": (T, I), "h": (H,), "c": (H,), "w": (T, size), "w_h": (size,), "w_c": (H,)}
    return {key: wave(*shape, phase=n) for n, (key, shape) in enumerate(shapes.items())}


def weights(name):
    """Under PyTorch's names and in its layout."""
    rows = GATES[name] * H
    shapes = {
        "weight_ih": (rows, I),
        "weight_hh": (rows, output_size(name)),
        "bias_ih": (rows,),
        "bias_hh": (rows,),
    } | ({"weight_hr": (P, H)} if name == "lstm_projected" else {})
    return {key: 0.7 * wave(*shape, phase=7 + n) for n, (key, shape) in enumerate(shapes.items())}


CELLS = {
    "lstm": sj.lstm(I, H, dtype=jnp.float64),
    "gru": sj.gru(I, H, dtype=jnp.float64),
    "rnn_tanh": sj.rnn(I, H, dtype=jnp.float64),
    "rnn_relu": sj.rnn(I, H, activation=jax.nn.relu, dtype=jnp.float64),
    "lstm_projected": sj.lstm(I, H, projection_size=P, dtype=jnp.float64),
}


def params_of(name):
    torch = {key: jnp.asarray(value) for key, value in weights(name).items()}
    params = {"kernel": torch["weight_ih"].T, "recurrent_kernel": torch["weight_hh"].T}
    if name == "lstm_projected":
        params["projection"] = torch["weight_hr"].T
    if name != "gru":
        return params | {"bias": torch["bias_ih"] + torch["bias_hh"]}
    # PyTorch's two biases of r and z are added; that of n inside the reset is on its own.
    inside = jnp.arange(3 * H) >= 2 * H
    return params | {
        "bias": torch["bias_ih"] + jnp.where(inside, 0, torch["bias_hh"]),
        "recurrent_bias": torch["bias_hh"][2 * H :],
    }


def in_torch_layout(name, gradient):
    """Gradients by seqjax's params, as those by PyTorch's."""
    by_hh = gradient["bias"]
    if name == "gru":
        by_hh = jnp.concatenate([by_hh[: 2 * H], gradient["recurrent_bias"]])
    return {
        "weight_ih": gradient["kernel"].T,
        "weight_hh": gradient["recurrent_kernel"].T,
        "bias_ih": gradient["bias"],
        "bias_hh": by_hh,
    } | ({"weight_hr": gradient["projection"].T} if name == "lstm_projected" else {})


@pytest.mark.parametrize("adjoint", [sj.BPTT(), sj.BPTT(chunk=2), sj.Autodiff()], ids=repr)
@pytest.mark.parametrize("name", CELLS)
def test_outputs_states_and_gradients_are_those_of_pytorch(name, adjoint):
    reference = json.loads(REFERENCE.read_text())[name]
    given = {key: jnp.asarray(value) for key, value in inputs(name).items()}
    is_lstm = name.startswith("lstm")
    state = sj.LSTMState(given["h"], given["c"]) if is_lstm else given["h"]

    @jax.jit
    def run(params, x, state):
        def div(params, x, state):
            final, ys = sj.unroll(CELLS[name], params, x, state, adjoint=adjoint)
            ends = [CELLS[name].readout(params, final)] + ([final.c] if is_lstm else [])
            pairs = zip(ends, (given["w_h"], given["w_c"]), strict=False)
            total = jnp.sum(ys * given["w"]) + sum(jnp.sum(s * w) for s, w in pairs)
            return total, (ends, ys)

        return jax.grad(div, (0, 1, 2), has_aux=True)(params, x, state)

    (by_params, by_x, by_state), (final, ys) = run(params_of(name), given["x"], state)
    gradients = in_torch_layout(name, by_params) | {"x": by_x}
    gradients |= dict(zip("hc", jax.tree.leaves(by_state), strict=False))
    ours = {"ys": ys, "final": final, "gradients": gradients}
    is_array = lambda tree: not isinstance(tree, dict) and np.ndim(tree) > 0
    final_of_torch = [np.array(s) for s in reference.pop("final")]
    theirs = jax.tree.map(np.array, reference, is_leaf=is_array) | {"final": final_of_torch}
    assert_close(ours, theirs, 1e-12, nonzero=True)
