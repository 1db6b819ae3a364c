"""ONNX: what is written runs in onnxruntime, whole and in pieces, and is read to the bit."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.ported import assert_equal, filled

import seqjax as sj

onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")

STEPS, BATCH, INPUTS, HIDDEN = 6, 2, 3, 4
TOLERANCE = 1e-5


def hard(alpha, beta):
    return sj.interop._onnx_functions.function_of("HardSigmoid", (alpha, beta))


def made(name, *numbers):
    return sj.interop._onnx_functions.function_of(name, numbers)


F32 = {"dtype": jnp.float32}
CELLS = {
    "rnn": functools.partial(sj.rnn, **F32),
    "rnn-relu": functools.partial(sj.rnn, activation=jax.nn.relu, **F32),
    "rnn-affine": functools.partial(sj.rnn, activation=made("Affine", 0.5, 0.1), **F32),
    "rnn-thresholded": functools.partial(sj.rnn, activation=made("ThresholdedRelu", 0.3), **F32),
    "gru": functools.partial(sj.gru, **F32),
    "gru-before": functools.partial(sj.gru, reset_after=False, **F32),
    "gru-hard": functools.partial(
        sj.gru, gate_activation=jax.nn.hard_sigmoid, activation=jax.nn.soft_sign, **F32
    ),
    "gru-scaled": functools.partial(
        sj.gru, gate_activation=hard(0.3, 0.4), activation=made("ScaledTanh", 1.7159, 0.66), **F32
    ),
    "lstm": functools.partial(sj.lstm, **F32),
    "lstm-peepholes": functools.partial(sj.lstm, peepholes=True, **F32),
    "lstm-coupled": functools.partial(sj.lstm, coupled=True, **F32),
    "lstm-coupled-peepholes": functools.partial(sj.lstm, coupled=True, peepholes=True, **F32),
    "lstm-coupled-hard": functools.partial(
        sj.lstm, coupled=True, gate_activation=hard(0.2, 0.5), **F32
    ),
    "lstm-hard": functools.partial(
        sj.lstm, gate_activation=hard(0.2, 0.5), activation=jax.nn.softplus, **F32
    ),
    "lstm-leaky": functools.partial(
        sj.lstm, gate_activation=made("LeakyRelu", 0.3), activation=jax.nn.elu, **F32
    ),
}
BIAS = {"bias": {}, "no-bias": {"use_bias": False}}
LEARNED = {"zero": {}, "learned": {"learn_initial_state": True}}
SHAPES = {
    "one": lambda cell: cell(INPUTS, HIDDEN),
    "both": lambda cell: sj.bidirectional(cell(INPUTS, HIDDEN)),
    "stack": lambda cell: sj.stack(
        cell(INPUTS, HIDDEN),
        sj.bidirectional(cell(HIDDEN, 5)),
        sj.dense(10, 3, **F32),
        jax.nn.relu,
        cell(3, 2),
    ),
}
GRID = [
    pytest.param(shape(functools.partial(cell, **bias, **learned)), id=f"{a}-{b}-{c}-{d}")
    for a, cell in CELLS.items()
    for b, bias in BIAS.items()
    for c, learned in LEARNED.items()
    for d, shape in SHAPES.items()
]
OTHERS = [
    sj.stack(sj.embed(7, INPUTS, **F32), sj.gru(INPUTS, HIDDEN, **F32)),
    sj.embed(7, 3, **F32),
    sj.dense(INPUTS, 2, **F32),
    sj.stack(jnp.tanh, sj.dense(INPUTS, 2, use_bias=False, **F32), jax.nn.softmax),
    sj.stack(
        sj.layer_norm(INPUTS, eps=1e-3, **F32), sj.dense(INPUTS, 2, **F32), jax.nn.log_softmax
    ),
    sj.bidirectional(
        sj.lstm(INPUTS, HIDDEN, activation=jax.nn.relu, **F32),
        sj.lstm(INPUTS, HIDDEN, gate_activation=jax.nn.elu, **F32),
    ),
    sj.stack(
        sj.rnn(INPUTS, HIDDEN, **F32),
        *(made(name, 0.3) for name in ("LeakyRelu", "Elu", "ThresholdedRelu")),
        hard(0.3, 0.4),
        *(
            jax.nn.soft_sign,
            jax.nn.softplus,
            jax.nn.hard_swish,
            jax.nn.sigmoid,
            jax.nn.hard_sigmoid,
        ),
        *(jnp.exp, jnp.log, jnp.sqrt, jnp.negative, jnp.abs, jnp.sin, jnp.cos),
    ),
]


def series(model, steps=STEPS):
    rng = np.random.default_rng(1)
    first = getattr(model, "models", [model])[0]
    if first.vocabulary_size is not None:
        return rng.integers(0, first.vocabulary_size, (steps, BATCH))
    return rng.standard_normal((steps, BATCH, INPUTS)).astype(np.float32)


def params_of(model):
    return filled(model.init(jax.random.key(0)))


def session(proto):
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    return runtime.InferenceSession(proto.SerializeToString(), options)


def outputs(proto, **feed):
    run = session(proto)
    return dict(zip([o.name for o in run.get_outputs()], run.run(None, feed), strict=True))


def states_of(model, state):
    """The states of a model by the names that they have in ONNX, [D, B, H]."""
    parts = zip(model.models, state, strict=True) if hasattr(model, "models") else [(model, state)]
    named = {}
    for number, (_, of_layer) in enumerate(parts):
        sides = (
            [of_layer[s] for s in ("forward", "backward")]
            if isinstance(of_layer, dict)
            else [of_layer]
        )
        for part in ("h", "c"):
            found = [getattr(side, part, side if part == "h" else ()) for side in sides]
            if not isinstance(found[0], tuple):
                named[f"final_state.{number}.{part}"] = np.stack(found)
    return named


def unrolled(model, params, xs):
    run = jax.vmap(lambda xs: sj.unroll(model, params, xs), in_axes=1, out_axes=(0, 1))
    state, ys = run(jnp.asarray(xs))
    return {"ys": np.asarray(ys), **states_of(model, state)}


def assert_all_close(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, array in theirs.items():
        assert array.dtype == ours[name].dtype
        np.testing.assert_allclose(ours[name], array, rtol=TOLERANCE, atol=TOLERANCE, err_msg=name)


@pytest.mark.parametrize("model", [*GRID, *OTHERS], ids=lambda model: repr(model)[:60])
def test_written_run_and_read(model):
    params, xs = params_of(model), series(model)
    proto = sj.interop.onnx.write(model, params)
    onnx.checker.check_model(proto, full_check=True)
    assert_all_close(unrolled(model, params, xs), outputs(proto, xs=xs))
    again, read = sj.interop.onnx.read(proto)
    assert again == model
    assert_equal(read, params)
    assert_equal(sj.interop.onnx.into(model, proto), params)
