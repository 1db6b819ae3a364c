"""ONNX: what is written runs in onnxruntime, whole and in pieces, and is read back to the bit."""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.onnx_graphs import onnx, run
from support.ported import assert_equal, filled

import seqjax as sj
from seqjax.interop._onnx.functions import function_of

STEPS, BATCH, INPUTS, HIDDEN = 6, 2, 3, 4
F32 = {"dtype": jnp.float32}
HARD = function_of("HardSigmoid", (0.2, 0.5))
SCALED = function_of("ScaledTanh", (1.7159, 0.66))
CELLS = {
    "rnn": (sj.rnn, {}),
    "rnn-relu": (sj.rnn, {"activation": jax.nn.relu}),
    "rnn-affine": (sj.rnn, {"activation": function_of("Affine", (0.5, 0.1))}),
    "rnn-thresholded": (sj.rnn, {"activation": function_of("ThresholdedRelu", (0.3,))}),
    "gru": (sj.gru, {}),
    "gru-before": (sj.gru, {"reset_after": False}),
    "gru-hard": (
        sj.gru,
        {"gate_activation": jax.nn.hard_sigmoid, "activation": jax.nn.soft_sign},
    ),
    "gru-scaled": (
        sj.gru,
        {"gate_activation": function_of("HardSigmoid", (0.3, 0.4)), "activation": SCALED},
    ),
    "lstm": (sj.lstm, {}),
    "lstm-peepholes": (sj.lstm, {"peepholes": True}),
    "lstm-coupled": (sj.lstm, {"coupled": True}),
    "lstm-coupled-peepholes": (sj.lstm, {"coupled": True, "peepholes": True}),
    "lstm-coupled-hard": (sj.lstm, {"coupled": True, "gate_activation": HARD}),
    "lstm-hard": (sj.lstm, {"gate_activation": HARD, "activation": jax.nn.softplus}),
    "lstm-leaky": (
        sj.lstm,
        {"gate_activation": function_of("LeakyRelu", (0.3,)), "activation": jax.nn.elu},
    ),
}
SHAPES = {
    "one": lambda cell: cell(INPUTS, HIDDEN),
    "both": lambda cell: sj.bidirectional(cell(INPUTS, HIDDEN)),
    "stack": lambda cell: sj.stack(
        cell(INPUTS, HIDDEN),
        sj.bidirectional(cell(HIDDEN, 5)),
        sj.dense(10, 3, **F32),
        jax.nn.softplus,
        cell(3, 4),
    ),
}


def grid():
    for name, (factory, options) in CELLS.items():
        for bias in (True, False):
            for learned in (True, False):
                for shape, make in SHAPES.items():
                    more = {"use_bias": bias, "learn_initial_state": learned}
                    model = make(functools.partial(factory, **options, **more, **F32))
                    usual = (bias, learned, shape) in [(True, False, "stack"), (False, True, "one")]
                    marks = () if usual else pytest.mark.slow
                    told = f"{name}-{bias}-{learned}-{shape}"
                    yield pytest.param(model, id=told, marks=marks)


OTHERS = [
    sj.stack(sj.embed(7, INPUTS, **F32), sj.gru(INPUTS, HIDDEN, **F32)),
    sj.embed(7, 3, **F32),
    sj.dense(INPUTS, 2, **F32),
    sj.stack(jnp.tanh, sj.dense(INPUTS, 2, use_bias=False, **F32), jax.nn.softmax),
    sj.stack(sj.layer_norm(INPUTS, eps=1e-3, **F32), jax.nn.log_softmax),
    sj.bidirectional(
        sj.lstm(INPUTS, HIDDEN, activation=jax.nn.relu, **F32),
        sj.lstm(INPUTS, HIDDEN, gate_activation=SCALED, **F32),
    ),
    sj.stack(
        sj.rnn(INPUTS, HIDDEN, **F32),
        *(function_of(name, (0.3,)) for name in ("LeakyRelu", "Elu", "ThresholdedRelu")),
        *(jax.nn.leaky_relu, jnp.exp, jnp.log, jax.nn.soft_sign, jax.nn.softplus, jnp.sqrt),
        *(jax.nn.hard_swish, jax.nn.elu, function_of("HardSigmoid", (0.3, 0.4)), jnp.negative),
        *(jnp.abs, jnp.sin, jnp.cos, jax.nn.hard_sigmoid, jax.nn.sigmoid),
    ),
]


def series(model, dtype=np.float32):
    rng = np.random.default_rng(1)
    first = getattr(model, "models", [model])[0]
    if first.vocabulary_size is not None:
        return rng.integers(0, first.vocabulary_size, (STEPS, BATCH))
    return rng.standard_normal((STEPS, BATCH, INPUTS)).astype(dtype)


def params_of(model):
    return filled(model.init(jax.random.key(0)), seed=3)


def states_of(model, state, prefix="final_state"):
    """The states of a batch by the names that they have in ONNX, [D, B, H]."""
    layers = state if isinstance(model, type(STACK)) else (state,)
    named = {}
    for number, layer in enumerate(layers):
        sides = [layer["forward"], layer["backward"]] if isinstance(layer, dict) else [layer]
        for part in ("h", "c"):
            found = [getattr(s, part, s if part == "h" else ()) for s in sides]
            if not isinstance(found[0], tuple):
                named[f"{prefix}.{number}.{part}"] = np.stack(found)
    return named


STACK = sj.stack(sj.lstm(INPUTS, HIDDEN, **F32), sj.gru(HIDDEN, 5, **F32), sj.dense(5, 2, **F32))


def unrolled(model, params, xs):
    run = jax.vmap(lambda xs: sj.unroll(model, params, xs), in_axes=1, out_axes=(0, 1))
    state, ys = jax.jit(run)(jnp.asarray(xs))
    return {"ys": np.asarray(ys), **states_of(model, state)}


def assert_all_close(ours, theirs, tolerance=1e-5):
    assert {*ours} == {*theirs}
    assert np.any(next(iter(theirs.values())))
    for name, array in theirs.items():
        assert array.dtype == ours[name].dtype
        assert np.isfinite(array).all()
        np.testing.assert_allclose(ours[name], array, rtol=tolerance, atol=tolerance, err_msg=name)


@pytest.mark.parametrize("model", [*grid(), *OTHERS], ids=lambda model: repr(model)[:60])
def test_written_run_and_read(model):
    params, xs = params_of(model), series(model)
    proto = sj.interop.onnx.write(model, params)
    onnx.checker.check_model(proto, full_check=True)
    assert_all_close(unrolled(model, params, xs), run(proto, xs=xs))
    again, read = sj.interop.onnx.read(proto)
    assert again == model
    assert hash(again) == hash(model)
    assert_equal(read, params)
    assert_equal(sj.interop.onnx.into(model, proto), params)


def test_streamed_in_pieces():
    params, xs = params_of(STACK), series(STACK)
    proto = sj.interop.onnx.write(STACK, params)
    whole = run(proto, xs=xs)
    states, pieces = {}, []
    for piece in (xs[:1], xs[1:4], xs[4:]):
        made = run(proto, xs=piece, **states)
        pieces.append(made.pop("ys"))
        states = {name.removeprefix("final_"): array for name, array in made.items()}
    assert_all_close({"ys": np.concatenate(pieces)}, {"ys": whole["ys"]})
    # The state of seqjax goes on in ONNX; of one series in the place of a batch, for all of them.
    state, _ = sj.unroll(STACK, params, xs[:4, 0])
    of_batch = jax.tree.map(lambda leaf: leaf[None], state)
    ys = run(proto, xs=xs[4:, :1], **states_of(STACK, of_batch, "state"))["ys"]
    assert_all_close({"ys": ys}, {"ys": whole["ys"][4:, :1]})
    alike = run(proto, xs=xs[4:, [0, 0]], **states_of(STACK, of_batch, "state"))["ys"]
    assert_all_close({"ys": alike}, {"ys": whole["ys"][4:, [0, 0]]})


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
@pytest.mark.parametrize("factory", [sj.lstm, sj.gru, sj.rnn])
def test_other_dtypes_by_the_reference(factory, dtype):
    """Which onnxruntime has no operators for."""
    cells = factory(INPUTS, HIDDEN, dtype=dtype), factory(HIDDEN, 3, dtype=dtype)
    model = sj.stack(*cells, sj.dense(3, 2, dtype=dtype), jnp.tanh)
    params, xs = params_of(model), series(model, dtype)
    proto = sj.interop.onnx.write(model, params)
    onnx.checker.check_model(proto, full_check=True)
    evaluator = importorskip_reference().ReferenceEvaluator(proto)
    feed = {"xs": xs} | {
        name: np.broadcast_to(array, (len(array), 1, array.shape[-1]))
        for tensor in proto.graph.initializer
        if (name := tensor.name).startswith("state.") and name.count(".") == 2
        for array in [onnx.numpy_helper.to_array(tensor)]
    }
    names = [o.name for o in proto.graph.output if not o.name.endswith(".c")]  # old ones lack c
    made = dict(zip(names, evaluator.run(names, feed), strict=True))
    ours = {name: array for name, array in unrolled(model, params, xs).items() if name in names}
    tolerance = {"float16": 5e-3, "float64": 1e-12}[np.dtype(dtype).name]
    assert_all_close(ours, made, tolerance)
    assert sj.interop.onnx.read(proto)[0] == model
    assert_equal(sj.interop.onnx.read(proto)[1], params)


def importorskip_reference():
    return pytest.importorskip("onnx.reference")


def test_a_file_and_its_bytes(tmp_path):
    params = params_of(STACK)
    proto = sj.interop.onnx.write(STACK, params)
    onnx.save(proto, tmp_path / "model.onnx")
    for source in (
        tmp_path / "model.onnx",
        str(tmp_path / "model.onnx"),
        proto.SerializeToString(),
    ):
        assert_equal(sj.interop.onnx.read(source)[1], params)
    onnx.save(
        proto,
        tmp_path / "apart.onnx",
        save_as_external_data=True,
        size_threshold=0,
        location="data",
    )
    assert_equal(sj.interop.onnx.read(tmp_path / "apart.onnx")[1], params)
    without = onnx.load(tmp_path / "apart.onnx", load_external_data=False)
    with pytest.raises(ValueError, match=r"is in another file, which onnx\.load reads"):
        sj.interop.onnx.read(without)


def test_two_reads_are_equal():
    model = sj.stack(SHAPES["one"](functools.partial(sj.lstm, activation=SCALED, **F32)), HARD)
    proto = sj.interop.onnx.write(model, params_of(model))
    first, second = (sj.interop.onnx.read(proto)[0] for _ in range(2))
    assert first == second
    assert hash(first) == hash(second)
    assert jax.jit(lambda p, xs: sj.unroll(first, p, xs)[1])(
        params_of(model), series(model)[:, 0]
    ).shape


def test_a_cast_to_another_dtype():
    proto = sj.interop.onnx.write(STACK, params_of(STACK))
    model, params = sj.interop.onnx.read(proto, dtype=np.float64)
    assert model == STACK.astype(np.float64)
    assert_equal(params, jax.tree.map(lambda a: a.astype(np.float64), params_of(STACK)))


DROPPED = sj.stack(
    sj.stack(
        sj.gru(INPUTS, HIDDEN, recurrent_dropout=0.1, learn_initial_state=True, **F32),
        sj.dropout(0.2),
    ),
    sj.dense(HIDDEN, 2, activation=jax.nn.relu, **F32),
    sj.lstm(2, 3, forget_bias=1.0, **F32),
)
SAME = sj.stack(
    sj.gru(INPUTS, HIDDEN, **F32), sj.dense(HIDDEN, 2, **F32), jax.nn.relu, sj.lstm(2, 3, **F32)
)


def test_a_model_in_training_is_written_as_it_is_evaluated_and_filled_again():
    params = params_of(DROPPED)
    params[0][0]["initial_state"] = np.zeros(HIDDEN, np.float32)  # no other constant than none
    proto = sj.interop.onnx.write(DROPPED, params)
    assert sj.interop.onnx.read(proto)[0] == SAME
    assert_equal(sj.interop.onnx.into(DROPPED, proto), params)
    made = run(proto, xs=series(SAME))
    assert {*made} == {"ys", "final_state.0.h", "final_state.3.h", "final_state.3.c"}
    ys = unrolled(DROPPED.models[0], params[0], series(SAME))["final_state.0.h"]
    assert_all_close({"h": made["final_state.0.h"]}, {"h": ys})


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            sj.stack(*SAME.models[:3]),
            r"a model of more layers: the file has lstm\(2, 3, dtype=float32\) too",
        ),
        (sj.stack(*SAME.models, jnp.tanh), "one of fewer layers, got tanh too"),
        (sj.stack(*SAME.models[:2], jnp.tanh, SAME.models[3]), "expected relu, as in the file"),
        (
            sj.stack(SAME.models[0], sj.dense(4, 2, activation=jnp.tanh, **F32), SAME.models[3]),
            "expected one with relu after it",
        ),
        (
            sj.stack(sj.gru(3, 4, reset_after=False, **F32), *SAME.models[1:]),
            r"expected gru\(3, 4, .*\), as in the file, got gru\(3, 4, reset_after=False",
        ),
        (
            sj.stack(sj.gru(3, 5, **F32), sj.dense(5, 2, **F32), *SAME.models[2:]),
            r"params\[0\]\['bias'\]: expected float32\[15\]",
        ),
        (
            sj.stack(sj.min_gru(3, 4, **F32), *SAME.models[1:]),
            r"expected gru\(3, 4, .*\), as in the file",
        ),
        (sj.stack(sj.gru(3, 4, use_bias=False, **F32), *SAME.models[1:]), "params.*bias"),
        (SAME.astype(np.float64), "seqjax casts nothing"),
        (3, "model: expected a seqjax model, got int 3"),
    ],
)
def test_a_file_of_another_model_does_not_fill_one(model, message):
    proto = sj.interop.onnx.write(SAME, params_of(SAME))
    with pytest.raises((TypeError, ValueError), match=message):
        sj.interop.onnx.into(model, proto)


def test_a_learned_state_is_not_lost():
    model = sj.gru(INPUTS, HIDDEN, learn_initial_state=True, **F32)
    proto = sj.interop.onnx.write(model, params_of(model))
    with pytest.raises(ValueError, match=r"learn_initial_state=True, .* as in the file"):
        sj.interop.onnx.into(sj.gru(INPUTS, HIDDEN, **F32), proto)


REFUSED = [
    (sj.elman(3, 4, **F32), "no gradient passes through its copied state"),
    (sj.lstm(3, 4, layer_norm=True, **F32), "the lstm of ONNX has no layer_norm"),
    (sj.lstm(3, 4, projection_size=2, **F32), "the lstm of ONNX has no projection"),
    (sj.rnn(3, 4, activation=jnp.sin, **F32), "activations that ONNX has in its recurrent"),
    (sj.stack(sj.rnn(3, 4, **F32), jax.nn.gelu), "functions that are operators of ONNX"),
    (sj.stack(sj.rnn(3, 4, **F32), SCALED), "functions that are operators of ONNX"),
    (
        sj.lstm(3, 4, coupled=True, gate_activation=jnp.tanh, **F32),
        r"gates of f\(-x\) = 1 - f\(x\)",
    ),
    (sj.min_gru(3, 4, **F32), "it has no layer of this kind"),
    (sj.residual(sj.rnn(3, 3, **F32)), "it has no layer of this kind"),
    (sj.rms_norm(3, **F32), "it has no layer of this kind"),
    (sj.bidirectional(sj.rnn(3, 4, **F32), merge="sum"), "it has concat"),
    (sj.bidirectional(sj.dense(3, 4, **F32)), "lstm, gru, rnn in two directions"),
    (
        sj.bidirectional(sj.rnn(3, 4, **F32), sj.rnn(3, 5, **F32)),
        "two directions of the same sizes",
    ),
    (
        sj.bidirectional(sj.rnn(3, 4, **F32), sj.gru(3, 4, **F32)),
        "two directions of the same sizes",
    ),
    (
        sj.bidirectional(sj.rnn(3, 4, **F32), sj.rnn(3, 4, use_bias=False, **F32)),
        "two directions of the same sizes",
    ),
    (sj.stack(jnp.tanh, jnp.sin), "a model that says what it reads"),
    (sj.gru(3, 4, dtype=jnp.bfloat16), "one dtype of float16, float32, float64"),
    (sj.gru(3, 4, dtype=jnp.float16, param_dtype=jnp.float32), "got float32 and float16 in gru"),
    (sj.layer_norm(3, dtype=jnp.float64), "ONNX computes mean and variance in float32"),
]


@pytest.mark.parametrize(("model", "reason"), REFUSED, ids=lambda value: repr(value)[:40])
def test_what_is_not_written(model, reason):
    params = model.init(jax.random.key(0))
    with pytest.raises((TypeError, ValueError), match=reason) as caught:
        sj.interop.onnx.write(model, params)
    assert len(str(caught.value)) <= 600


@pytest.mark.parametrize("name", ["read", "into", "write"])
def test_the_package_is_needed(monkeypatch, name):
    monkeypatch.setitem(sys.modules, "onnx", None)  # as if it were not installed
    arguments = {
        "read": ("model.onnx",),
        "into": (STACK, "model.onnx"),
        "write": (STACK, params_of(STACK)),
    }
    with pytest.raises(ImportError, match=r"needs the package onnx: pip install 'seqjax\[onnx\]'"):
        getattr(sj.interop.onnx, name)(*arguments[name])


def test_a_model_of_a_file_is_saved(tmp_path):
    """Functions that no other library has are saved by the names of the operators."""
    functions = {"gate_activation": function_of("HardSigmoid", (0.25, 0.5))}
    functions["activation"] = function_of("ScaledTanh", (1.5, 0.5))
    cell = sj.lstm(3, 4, **functions)
    model, params = sj.interop.onnx.read(sj.interop.onnx.write(cell, cell.init(jax.random.key(0))))
    assert model == cell
    sj.save(tmp_path / "model", model, params)
    loaded = sj.load(tmp_path / "model")
    assert loaded.model == model
    assert_equal(loaded.params, params)
