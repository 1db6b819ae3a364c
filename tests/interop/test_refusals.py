"""What is not read, and what is not written: the error names the arrays, or the reason."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import seqjax as sj


def zeros(*shape, dtype=np.float32):
    return np.zeros(shape, dtype)


LSTM = {"weight_ih_l0": zeros(16, 3), "weight_hh_l0": zeros(16, 4)}
BIASED = LSTM | {"bias_ih_l0": zeros(16), "bias_hh_l0": zeros(16)}
RNN = {"weight_ih_l0": zeros(4, 3), "weight_hh_l0": zeros(4, 4)}
SECOND = {"weight_ih_l1": zeros(16, 4), "weight_hh_l1": zeros(16, 4)}
BACKWARD = {f"{name}_reverse": array for name, array in LSTM.items()}
HEAD = {"head.weight": zeros(2, 4), "head.bias": zeros(2)}
NETWORK = {f"lstm.{name}": array for name, array in LSTM.items()} | HEAD
NESTED = {f"net.{name}": array for name, array in NETWORK.items()}


@pytest.mark.parametrize(
    ("arrays", "options", "message"),
    [
        (BIASED | {"extra": zeros(3)}, {}, r"with extra float32\[3\], which it does not have"),
        (
            NETWORK,
            {},
            r"of several, their names as applied: layers=\('lstm', 'head'\), got lstm",
        ),
        (
            NESTED,
            {},
            r"prefix='net', layers=\('lstm', 'head'\), got net\.lstm\.weight_ih f",
        ),
        (NESTED, {"layers": ("lstm", "head")}, r"\(with prefix='net' it is one\), got 'lstm'"),
        (LSTM | {"bias_ih_l0": zeros(16)}, {}, "got one without bias_hh"),
        (LSTM | SECOND | {"weight_ih_l3": zeros(16, 4)}, {}, "also layer 2"),
        (LSTM | SECOND | BACKWARD, {}, "also layer 1 backward"),
        (BACKWARD, {}, "also layer 0"),
        ({"weight_ih_l0": zeros(16, 3), "weight_hh_l0": zeros(17, 4)}, {}, "shapes of"),
        (
            {"weight_ih_l0": zeros(3, 16), "weight_hh_l0": zeros(4, 16)},
            {},
            r"shapes of PyTorch: lstm with weight_ih \[4H, I\], weight_hh \[4H, H\]; gru",
        ),
        (
            {"conv.weight": zeros(16, 3, 5), "conv.bias": zeros(16)},
            {},
            r"dense with weight \[O, I\]; layer_norm with weight \[F\], got conv.w",
        ),
        ({"weight_ih_l0": zeros(0, 3), "weight_hh_l0": zeros(0, 0)}, {}, "shapes of"),
        (RNN, {}, "activation: expected tanh or relu, which .* do not tell, got None"),
        (
            RNN,
            {"activation": jnp.sin},
            "activation: expected tanh or relu, by weight_hh, weight_ih",
        ),
        (RNN, {"activation": "tanh"}, "activation: expected a function, got str 'tanh'"),
        ({"a.weight": zeros(4)}, {"eps": 0.0}, "eps: expected a number above 0"),
        (LSTM, {"activation": jnp.tanh}, r"activation: expected None for lstm\(3, 4"),
        (LSTM, {"eps": 1e-5}, r"eps: expected None for lstm\(3, 4"),
        ({"a.weight": zeros(2, 4)}, {}, "kinds: expected one of 'dense', 'embed' for a.weight"),
        ({"a.weight": zeros(2, 4)}, {"kinds": "lstm"}, "arrays: expected the names of"),
        ({"a.weight": zeros(2, 4)}, {"kinds": "linear"}, "kinds: expected one of 'lstm', "),
        ({"a.weight": zeros(4)}, {}, "kinds: expected one of 'layer_norm', 'rms_norm' for a.weig"),
        ({"a.weight": zeros(4)}, {"kinds": "rms_norm"}, "eps: expected that of the rms_norm"),
        (LSTM | {"weight_ih_l0": zeros(16)}, {}, "shapes of"),
        (LSTM, {"prefix": "encoder"}, "prefix: expected the beginning of some of the names weight"),
        (LSTM, {"prefix": 3}, "prefix: expected a string, got int 3"),
        (NETWORK, {"layers": ("lstm",)}, "also of head.bias, head.weight"),
        (NETWORK, {"layers": ("lstm", "haed")}, "layers: expected a module among head, lstm"),
        (NETWORK, {"layers": "lstm"}, "layers: expected names of modules in the order"),
        (NETWORK, {"layers": ("lstm", 3)}, "layers: expected names of modules in the order"),
        (
            NETWORK,
            {"layers": ("head", "lstm")},
            r"the order in which they are applied, got .* models\[1\]: expected the input float32",
        ),
        (NETWORK, {"layers": ("lstm", sj.dense(4, 4), "head")}, "a name of what has parameters"),
        (
            NETWORK,
            {"layers": ("lstm", "head"), "kinds": {"had": "dense"}},
            r"kinds: expected names of \('lstm', 'head'\), got 'had'",
        ),
        (
            LSTM | {"weight_hh_l0": zeros(16, 4, dtype=np.float64)},
            {},
            "float32 and float64; dtype=",
        ),
        (LSTM | {"weight_hh_l0": zeros(16, 4, dtype=int)}, {}, "weight_hh: expected a floating"),
        (LSTM, {"dtype": int}, "dtype: expected a floating dtype"),
        (LSTM, {"convention": {"gate": "ifgo"}}, "convention: expected a dict of some of gates, "),
        (LSTM, {"convention": {"gates": "ifg"}}, r"convention\['gates'\]: expected each gate of"),
        (LSTM, {"convention": {"gates": "rzn"}}, r"convention\['gates'\]: expected one of a"),
        (LSTM, {"convention": {"opposite": "z"}}, r"convention\['opposite'\]: expected one of a"),
        (LSTM, {"convention": {"opposite": "r"}}, r"convention\['opposite'\]: expected 'z' or ''"),
        (LSTM, {"convention": {"transposed": "kernel"}}, "expected a tuple of some of"),
        ({}, {}, "arrays: expected arrays by name"),
        (zeros(3), {}, r"arrays: expected arrays by name: .*, got float32\[3\]"),
        ({"a.b": zeros(3), "a": {"b": zeros(3)}}, {}, "each name once, got 'a.b' twice"),
        ({"weight_ih_l0": "x", "weight_hh_l0": "y"}, {}, "weight_ih_l0: expected an array"),
    ],
)
def test_what_is_not_read(arrays, options, message):
    with pytest.raises((TypeError, ValueError), match=message) as caught:
        sj.interop.torch.read(arrays, **options)
    assert len(str(caught.value)) <= 600


def test_tensors_need_pytorch(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)  # as if it were not installed
    with pytest.raises(ImportError, match="write: tensors need PyTorch; numpy=True returns NumPy"):
        sj.interop.torch.write(CELL, CELL.init(jax.random.key(0)))


def test_float64_needs_x64():
    with jax.enable_x64(False):
        arrays = {name: array.astype(np.float64) for name, array in LSTM.items()}
        with pytest.raises(ValueError, match="float64: set jax_enable_x64 for it"):
            sj.interop.torch.read(arrays)
        assert sj.interop.torch.read(arrays, dtype=np.float32)[0] == sj.lstm(3, 4, use_bias=False)


def test_no_traced_arrays():
    def loss(arrays):
        return sj.interop.torch.read(arrays)[1]["kernel"].sum()

    with pytest.raises(TypeError, match="expected an array with a value, got a traced"):
        jax.grad(loss)({name: jnp.asarray(array) for name, array in LSTM.items()})


MODELS = [
    (sj.elman(3, 4), "no gradient passes through its copied state"),
    (sj.gru(3, 4, reset_after=False), "its reset gate acts before the matmul, theirs after it"),
    (sj.lstm(3, 4, peepholes=True), "the lstm of PyTorch has no peepholes"),
    (sj.lstm(3, 4, coupled=True), "the lstm of PyTorch has no coupled"),
    (sj.lstm(3, 4, layer_norm=True), "the lstm of PyTorch has no layer_norm"),
    (sj.lstm(3, 4, learn_initial_state=True), "a learned initial state is no weight"),
    (sj.lstm(3, 4, gate_activation=jax.nn.relu), "the lstm of PyTorch has no gate_activation=relu"),
    (sj.gru(3, 4, activation=jax.nn.relu), "the gru of PyTorch has no activation=relu"),
    (sj.rnn(3, 4, activation=jnp.sin), "the rnn of PyTorch has no activation=sin"),
    (sj.dense(3, 4, activation=jnp.tanh), "the dense of PyTorch has no activation=tanh"),
    (sj.min_gru(3, 4), "it has no layer of this kind"),
    (sj.residual(sj.rnn(3, 3)), "it has no layer of this kind"),
    (sj.bidirectional(sj.rnn(3, 4), merge="sum"), "it has concat"),
    (sj.stack(sj.lstm(3, 4), sj.lstm(4, 5)), "layers of one module of PyTorch, which are alike"),
    (sj.stack(sj.lstm(3, 4), sj.gru(4, 4)), "layers of one module of PyTorch, which are alike"),
    (sj.stack(sj.lstm(3, 4), sj.lstm(4, 4, use_bias=False)), "which are alike"),
    (sj.stack(sj.lstm(3, 4), sj.bidirectional(sj.lstm(4, 4))), "which are alike"),
    (sj.bidirectional(sj.rnn(3, 4), sj.rnn(3, 5)), "layers of one module of PyTorch"),
    (sj.stack(sj.lstm(3, 4), jnp.tanh), "layers: expected a name for each of stack"),
]


@pytest.mark.parametrize(("model", "reason"), MODELS, ids=lambda value: repr(value)[:40])
def test_what_is_not_written(model, reason):
    params = model.init(jax.random.key(0))
    with pytest.raises(ValueError, match=reason):
        sj.interop.torch.write(model, params, numpy=True)


MODEL = sj.stack(sj.lstm(3, 4, use_bias=False), jnp.tanh, sj.dense(4, 2))
CELL = sj.lstm(3, 4, use_bias=False, dtype=np.float32)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (("lstm", "head"), r"layers: expected one for each of stack\("),
        (("lstm", jnp.sin, "head"), r"layers\[1\]: expected tanh, got <"),
        (("lstm", jnp.tanh, jnp.tanh), r"layers\[2\]: expected a name of dense\(4, 2"),
        (("lstm", "tanh", "head"), "model: expected what PyTorch has, got tanh"),
    ],
)
def test_layers_are_those_of_the_model(layers, message):
    with pytest.raises(ValueError, match=message):
        sj.interop.torch.write(MODEL, MODEL.init(jax.random.key(0)), layers=layers, numpy=True)


@pytest.mark.parametrize(
    ("model", "arrays", "message"),
    [
        (CELL, BIASED, "arrays: expected no biases"),
        (sj.lstm(3, 4, dtype=np.float32), LSTM, "arrays: expected biases"),
        (sj.lstm(3, 5, use_bias=False, dtype=np.float32), LSTM, r"params\['kernel'\]: expected"),
        (sj.lstm(3, 4, use_bias=False, dtype=np.float64), LSTM, "seqjax casts nothing"),
        (
            sj.gru(3, 4, use_bias=False, dtype=np.float32),
            LSTM,
            r"gru with weight_ih \[3H, I\]",
        ),
        (CELL, LSTM | SECOND, r"the layers and directions of lstm\(3, 4"),
        (
            sj.stack(CELL, sj.lstm(4, 4, dtype=np.float32)),
            LSTM,
            "the layers and directions of stack",
        ),
        (sj.bidirectional(CELL), LSTM, "the layers and directions of bidirectional"),
        (sj.elman(3, 4), LSTM, "no gradient passes through its copied state"),
        (3, LSTM, "model: expected a seqjax model, got int 3"),
    ],
)
def test_arrays_of_another_model_do_not_fill_one(model, arrays, message):
    with pytest.raises((TypeError, ValueError), match=message):
        sj.interop.torch.into(model, arrays)


def test_all_arrays_are_used():
    arrays = {f"0.{name}": array for name, array in LSTM.items()} | HEAD
    model = sj.stack(CELL)
    assert sj.interop.torch.into(model, NETWORK, "lstm")[0]["kernel"].shape == (3, 16)
    with pytest.raises(ValueError, match=r"also of head.bias, head.weight"):
        sj.interop.torch.into(model, arrays, layers=("0",))
