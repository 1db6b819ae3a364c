"""Each framework's layout in a literal NumPy loop, of its own arrays: it need not be installed."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.comparison import assert_close
from support.ported import XS, assert_equal, assert_same_outputs

import seqjax as sj
from seqjax.interop._names import named

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


def keras_lstm(a, x, h, c):
    i, f, g, o = np.split(x @ a["kernel"] + h @ a["recurrent_kernel"] + a["bias"], 4)
    return lstm(i, f, g, o, c)


def keras_gru_after(a, x, h, c):
    z, r, n = np.split(x @ a["kernel"] + a["bias"][0], 3)
    z_h, r_h, n_h = np.split(h @ a["recurrent_kernel"] + a["bias"][1], 3)
    z, n = sigmoid(z + z_h), np.tanh(n + sigmoid(r + r_h) * n_h)
    return z * h + (1 - z) * n, c


def keras_gru_before(a, x, h, c):
    z, r, n = np.split(x @ a["kernel"] + a["bias"], 3)
    u_z, u_r, u_n = np.split(a["recurrent_kernel"], 3, axis=1)
    z = sigmoid(z + h @ u_z)
    n = np.tanh(n + (sigmoid(r + h @ u_r) * h) @ u_n)
    return z * h + (1 - z) * n, c


def keras_rnn(a, x, h, c):
    return np.tanh(x @ a["kernel"] + h @ a["recurrent_kernel"] + a["bias"]), c


def keras_shapes(gates, *bias):
    shapes = {"kernel": (I, gates * H), "recurrent_kernel": (H, gates * H)}
    return shapes | {"bias": (*bias, gates * H)}


def linen_lstm(a, x, h, c):
    z = (
        x @ a[f"i{gate}/kernel"] + h @ a[f"h{gate}/kernel"] + a[f"h{gate}/bias"] for gate in "ifgo"
    )
    return lstm(*z, c)


def linen_gru(a, x, h, c):
    of_x = lambda gate: x @ a[f"i{gate}/kernel"] + a[f"i{gate}/bias"]
    r, z = (sigmoid(of_x(gate) + h @ a[f"h{gate}/kernel"]) for gate in "rz")
    n = np.tanh(of_x("n") + r * (h @ a["hn/kernel"] + a["hn/bias"]))
    return (1 - z) * n + z * h, c


def linen_rnn(a, x, h, c):
    return np.tanh(x @ a["i/kernel"] + a["i/bias"] + h @ a["h/kernel"]), c


def linen_shapes(gates, biases):
    kernels = {f"i{gate}/kernel": (I, H) for gate in gates}
    kernels |= {f"h{gate}/kernel": (H, H) for gate in gates}
    return kernels | {f"{name}/bias": (H,) for name in biases}


def nnx_lstm(a, x, h, c):
    z = x @ a["dense_i/kernel"] + h @ a["dense_h/kernel"] + a["dense_h/bias"]
    return lstm(*np.split(z, 4), c)


def nnx_gru(a, x, h, c):
    r, z, n = np.split(x @ a["dense_i/kernel"] + a["dense_i/bias"], 3)
    r_h, z_h, n_h = np.split(h @ a["dense_h/kernel"], 3)
    z, n = sigmoid(z + z_h), np.tanh(n + sigmoid(r + r_h) * n_h)
    return (1 - z) * n + z * h, c


def nnx_shapes(gates, side):
    shapes = {"dense_i/kernel": (I, gates * H), "dense_h/kernel": (H, gates * H)}
    return shapes | {f"dense_{side}/bias": (gates * H,)}


def haiku_lstm(a, x, h, c):
    z = np.concatenate([x, h]) @ a["lstm/linear/w"] + a["lstm/linear/b"]
    i, g, f, o = np.split(z, 4)
    return lstm(i, f + 1, g, o, c)


def haiku_gru(a, x, h, c):
    z, r, n = np.split(x @ a["gru/w_i"] + a["gru/b"], 3)
    u_z, u_r, u_n = np.split(a["gru/w_h"], 3, axis=1)
    z, r = sigmoid(z + h @ u_z), sigmoid(r + h @ u_r)
    return (1 - z) * h + z * np.tanh(n + (r * h) @ u_n), c


def haiku_rnn(a, x, h, c):
    z = x @ a["rnn/linear/w"] + a["rnn/linear/b"] + h @ a["rnn/linear_1/w"] + a["rnn/linear_1/b"]
    return np.maximum(z, 0), c


def equinox_lstm(a, x, h, c):
    return lstm(*np.split(a["weight_ih"] @ x + a["weight_hh"] @ h + a["bias"], 4), c)


def equinox_gru(a, x, h, c):
    r, z, n = np.split(a["weight_ih"] @ x + a["bias"], 3)
    r_h, z_h, n_h = np.split(a["weight_hh"] @ h, 3)
    z, n = sigmoid(z + z_h), np.tanh(n + sigmoid(r + r_h) * (n_h + a["bias_n"]))
    return n + z * (h - n), c


def equinox_shapes(gates):
    return {"weight_ih": (gates * H, I), "weight_hh": (gates * H, H), "bias": (gates * H,)}


TANH = {"activation": jnp.tanh}
LINEAR = {"rnn/linear/w": (I, H), "rnn/linear/b": (H,)}
# The step, the shapes of the arrays, and what they do not tell.
LAYERS = {
    "torch": [
        (torch_lstm, torch_shapes(4), {}),
        (torch_gru, torch_shapes(3), {}),
        (torch_rnn, torch_shapes(1), TANH),
    ],
    "keras": [
        (keras_lstm, keras_shapes(4), {}),
        (keras_gru_after, keras_shapes(3, 2), {}),
        (keras_gru_before, keras_shapes(3), {}),
        (keras_rnn, keras_shapes(1), TANH),
    ],
    "flax": [
        (linen_lstm, linen_shapes("ifgo", ["hi", "hf", "hg", "ho"]), {}),
        (linen_gru, linen_shapes("rzn", ["ir", "iz", "in", "hn"]), {}),
        (linen_rnn, {"i/kernel": (I, H), "i/bias": (H,), "h/kernel": (H, H)}, TANH),
        (nnx_lstm, nnx_shapes(4, "h"), {}),
        (nnx_gru, nnx_shapes(3, "i"), {}),
    ],
    "haiku": [
        (haiku_lstm, {"lstm/linear/w": (I + H, 4 * H), "lstm/linear/b": (4 * H,)}, {}),
        (haiku_gru, {"gru/w_i": (I, 3 * H), "gru/w_h": (H, 3 * H), "gru/b": (3 * H,)}, {}),
        (haiku_rnn, LINEAR | {"rnn/linear_1/w": (H, H), "rnn/linear_1/b": (H,)}, {}),
    ],
    "equinox": [
        (equinox_lstm, equinox_shapes(4), {}),
        (equinox_gru, equinox_shapes(3) | {"bias_n": (H,)}, {}),
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
    outputs = run(step, arrays)
    read = functools.partial(getattr(sj.interop, framework).read, **options)
    pair = read(arrays)
    assert_same_outputs(pair, XS, outputs)
    assert sj.interop.check(functools.partial(read, arrays), outputs, XS) < 1e-10
    written = write(framework, *pair, step.__name__)
    assert {name: array.shape for name, array in written.items()} == shapes
    assert all(array.flags.c_contiguous for array in written.values())
    assert_close(run(step, written), outputs, 1e-14)
    assert read(written)[0] == pair[0]
    assert_close(read(written)[1], pair[1], 1e-15)  # the bias of f of Haiku is shifted twice


def run(step, arrays):
    h, c, outputs = np.zeros(H), np.zeros(H), []
    for x in XS:
        h, c = step(arrays, x, h, c)
        outputs.append(h)
    return np.array(outputs)


def write(framework, model, params, name):
    """Flat, by the names of the loops."""
    options = {
        "torch": {"numpy": True},
        "flax": {"api": name.split("_")[0]},
        "haiku": {"prefix": name.split("_")[1]},
    }
    tree = getattr(sj.interop, framework).write(model, params, **options.get(framework, {}))
    return named(tree, "/")


def torch_lstm_arrays(dtype=np.float64):
    rng = np.random.default_rng(1)
    return {n: rng.uniform(-1, 1, shape).astype(dtype) for n, shape in torch_shapes(4).items()}


@pytest.mark.parametrize("dtype", [">f4", ">f8", "<f2"])
def test_arrays_of_any_byte_order(dtype):
    _, params = sj.interop.torch.read(torch_lstm_arrays(dtype))
    native = np.dtype(dtype).newbyteorder("=")
    assert params["kernel"].dtype == native
    assert_equal(params, sj.interop.torch.read(torch_lstm_arrays(native))[1])


def test_check_of_arrays_of_any_byte_order():
    pair = sj.interop.torch.read(torch_lstm_arrays())
    outputs = np.asarray(sj.unroll(*pair, XS)[1])
    assert sj.interop.check(pair, outputs.astype(">f8"), XS.astype(">f8")) == 0


def test_what_is_read_is_a_copy():
    arrays = torch_lstm_arrays()
    _, params = sj.interop.torch.read(arrays)
    before = {name: np.array(array) for name, array in params.items()}
    for array in arrays.values():
        array[:] = 0
    assert_equal({name: np.asarray(array) for name, array in params.items()}, before)


def test_one_direction_of_two():
    arrays = {name: np.ones(shape) for name, shape in keras_shapes(4).items()}
    for direction in ("forward", "backward"):
        of_one = {f"bidirectional/{direction}_lstm/cell/{n}": a for n, a in arrays.items()}
        model, params = sj.interop.keras.read(of_one)
        assert model == sj.lstm(I, H)
        assert_equal(params, sj.interop.keras.read(arrays)[1])


def test_how_a_model_was_trained_is_no_obstacle():
    plain = sj.lstm(I, H)
    params = plain.init(jax.random.key(0))
    expected = sj.interop.torch.write(plain, params, numpy=True)
    for model in [
        sj.lstm(I, H, recurrent_dropout=0.5),
        sj.lstm(I, H, forget_bias=1.0, kernel_init=jax.nn.initializers.zeros),
        sj.lstm(I, H, dtype=jnp.bfloat16, param_dtype=jnp.float64),
    ]:
        assert_equal(sj.interop.torch.write(model, params, numpy=True), expected)


def test_what_has_no_place_must_be_zero():
    cell = sj.gru(I, H)
    params = cell.init(jax.random.key(0))
    with pytest.raises(ValueError, match=r"recurrent_bias'\]: expected a recurrent bias of zeros"):
        sj.interop.flax.write(cell, params, api="nnx")


def test_a_cell_without_biases_where_the_framework_always_has_them():
    for cell, framework in [
        (sj.lstm(I, H, use_bias=False), "flax"),
        (sj.lstm(I, H, use_bias=False), "haiku"),
        (sj.gru(I, H, reset_after=False, use_bias=False), "haiku"),
    ]:
        params = cell.init(jax.random.key(0))
        kind = "lstm" if framework == "flax" or "lstm" in repr(cell) else "gru"
        written = write(framework, cell, params, {"flax": "linen_lstm"}.get(framework, f"_{kind}"))
        model, again = getattr(sj.interop, framework).read(written)
        assert "bias" in again
        assert_close(sj.unroll(model, again, XS)[1], sj.unroll(cell, params, XS)[1], 1e-14)


def test_arrays_in_lists_and_tuples():
    model, params = sj.interop.equinox.read([{"weight": np.ones((2, 3)), "bias": np.ones(2)}])
    assert model == sj.dense(3, 2)
    assert params["kernel"].shape == (3, 2)
