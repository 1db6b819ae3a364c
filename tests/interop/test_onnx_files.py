"""Files of ONNX as exporters write them, the node tests of ONNX itself, and what is refused."""

import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.onnx_graphs import graph, onnx, run
from support.ported import assert_equal

import seqjax as sj
from seqjax.interop._onnx.functions import function_of

RNG = np.random.default_rng(0)
STEPS, BATCH, INPUTS, HIDDEN = 6, 2, 3, 4


def normal(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def weights(gates, directions=1, inputs=INPUTS, **more):
    """The constants of an operator of so many gates."""
    rows = gates * HIDDEN
    return {
        "W": normal(directions, rows, inputs),
        "R": normal(directions, rows, HIDDEN),
        "B": normal(directions, 2 * rows),
        **more,
    }


XS = normal(STEPS, BATCH, INPUTS)
LSTM = weights(4)
BOTH = weights(4, directions=2)
GRU = weights(3)
DENSE = {"V": normal(HIDDEN, 2), "b": normal(2)}
ONE = {"one": np.array([1])}
NOT = "got another one"


def assert_read(proto, xs=XS, batch_axis=1, **expected):
    """The model of a file has its outputs, on series of these lengths."""
    model, params = sj.interop.onnx.read(proto)
    if "model" in expected:
        assert model == expected["model"]
    (name,) = [output.name for output in proto.graph.output][:1]
    theirs = run(proto, **{proto.graph.input[0].name: xs})[name]
    axes = batch_axis if xs.ndim > batch_axis else None
    call = lambda xs: sj.unroll(model, params, xs)[1]
    ours = call(xs) if axes is None else jax.vmap(call, axes, axes)(jnp.asarray(xs))
    np.testing.assert_allclose(ours, theirs.reshape(ours.shape), rtol=1e-5, atol=1e-5)
    assert np.any(theirs)


# ONNX' own tests of nodes: the constants are inputs there.


def cases():
    for name in ("rnn", "gru", "lstm"):
        module = importlib.import_module(f"onnx.backend.test.case.node.{name}")
        factory, found = getattr(module, name.upper()), []
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(
                module, "expect", lambda node, found=found, **of: found.append((node, of))
            )
            for export in [export for export in vars(factory) if export.startswith("export")]:
                getattr(factory, export)()
        for node, told in found:
            yield pytest.param(node, told["inputs"], told["outputs"], id=told["name"])


CASES = [*cases()]


def test_there_are_cases_of_every_operator():
    assert {case.values[0].op_type for case in CASES} == {"RNN", "GRU", "LSTM"}
    assert len(CASES) >= 12


@pytest.mark.parametrize(("node", "inputs", "outputs"), CASES)
def test_the_node_tests_of_onnx(node, inputs, outputs):
    helper = onnx.helper
    values = [helper.make_tensor_value_info("X", onnx.TensorProto.FLOAT, inputs[0].shape)]
    names = [name for name in node.output if name]
    made = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in names]
    arrays = zip([name for name in node.input if name], inputs, strict=True)
    tensors = [onnx.numpy_helper.from_array(array, name) for name, array in arrays if name != "X"]
    proto = helper.make_model(helper.make_graph([node], "case", values, made, tensors))
    told = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    model, params = sj.interop.onnx.read(proto, names[0])
    batch_first = told.get("layout", 0)
    call = functools.partial(sj.unroll, reverse=told.get("direction") == b"reverse")
    xs = inputs[0].swapaxes(0, 1) if batch_first else inputs[0]
    run = jax.vmap(lambda xs: call(model, params, xs), in_axes=1, out_axes=(0, 1))
    state, ys = run(jnp.asarray(xs))
    sides = [state["forward"], state["backward"]] if isinstance(state, dict) else [state]
    ours = {
        "Y": np.stack(np.split(np.asarray(ys), len(sides), axis=-1), axis=1),
        "Y_h": np.stack([getattr(side, "h", side) for side in sides]),
        "Y_c": np.stack([getattr(side, "c", side) for side in sides]),
    }
    for name, theirs in zip(names, outputs, strict=True):
        of_name = ours[name]
        if batch_first:
            of_name = of_name.transpose((2, 0, 1, 3) if name == "Y" else (1, 0, 2))
        np.testing.assert_allclose(of_name, theirs, rtol=1e-5, atol=1e-6)


# How exporters write: each of these is also run by onnxruntime.

EXPORTED = {
    "batch first": (
        """
        xt = Transpose <perm = [1, 0, 2]> (xs)
        Y, Yh, Yc = LSTM <hidden_size = 4> (xt, W, R, B)
        y = Squeeze (Y, one)
        ys = Transpose <perm = [1, 0, 2]> (y)
        """,
        {"inputs": "float[N,T,3] xs", "outputs": "float[N,T,4] ys, float[1,N,4] Yh"},
        LSTM | ONE,
        {"batch_axis": 0, "model": sj.lstm(3, 4, dtype=jnp.float32)},
    ),
    "two directions, and zeros of the size of the batch": (
        """
        shape = Shape (xs)
        n = Gather (shape, one)
        sizes = Concat <axis = 0> (two, n, four)
        h0 = ConstantOfShape (sizes)
        c0 = Expand (zero, sizes)
        Y, Yh, Yc = LSTM <hidden_size = 4, direction = "bidirectional"> (xs, W, R, B, , h0, c0)
        y = Transpose <perm = [0, 2, 1, 3]> (Y)
        ys = Reshape (y, flat)
        """,
        {"outputs": "float[T,N,8] ys"},
        BOTH
        | ONE
        | {
            "two": np.array([2]),
            "four": np.array([4]),
            "zero": np.zeros((2, 1, 4), np.float32),
            "flat": np.array([0, 0, -1]),
        },
        {"model": sj.bidirectional(sj.lstm(3, 4, dtype=jnp.float32))},
    ),
    "a dense layer on all steps of all series at once": (
        """
        Y = GRU <hidden_size = 4, linear_before_reset = 1> (xs, W, R, B)
        y = Squeeze (Y, one)
        rows = Reshape (y, rows_of)
        z = Gemm (rows, V, b)
        a = Relu (z)
        shape = Shape (xs)
        sizes = Slice (shape, start, end)
        to = Concat <axis = 0> (sizes, last)
        ys = Reshape (a, to)
        """,
        {},
        GRU
        | DENSE
        | ONE
        | {
            "rows_of": np.array([-1, 4]),
            "start": np.array([0]),
            "end": np.array([2]),
            "last": np.array([2]),
        },
        {
            "model": sj.stack(
                sj.gru(3, 4, dtype=jnp.float32), sj.dense(4, 2, dtype=jnp.float32), jax.nn.relu
            )
        },
    ),
    "a product and a sum": (
        """
        Y = GRU <hidden_size = 4> (xs, W, R)
        y = Squeeze (Y, one)
        z = MatMul (y, V)
        ys = Add (b, z)
        """,
        {},
        {k: v for k, v in GRU.items() if k != "B"} | DENSE | ONE,
        {
            "model": sj.stack(
                sj.gru(3, 4, reset_after=False, use_bias=False, dtype=jnp.float32),
                sj.dense(4, 2, dtype=jnp.float32),
            )
        },
    ),
    "one series without a batch": (
        """
        x = Unsqueeze (xs, one)
        Y = RNN <hidden_size = 4, activations = ["Relu"]> (x, W, R, B)
        y = Squeeze (Y, axes)
        ys = Gemm <transB = 1> (y, V, b)
        """,
        {"inputs": "float[T,3] xs", "outputs": "float[T,2] ys"},
        weights(1) | {"V": DENSE["V"].T.copy(), "b": DENSE["b"]} | ONE | {"axes": np.array([1, 2])},
        {"xs": XS[:, 0], "batch_axis": 9},
    ),
    "constants computed from others": (
        """
        w0 = Transpose <perm = [1, 0]> (Wt)
        w = Unsqueeze (w0, first)
        r = Identity (R)
        b1 = Slice (Bs, first, one)
        b = Concat <axis = 1> (b1, b1)
        Y = LSTM <hidden_size = 4> (xs, w, r, b)
        ys = Squeeze (Y, one)
        """,
        {"outputs": "float[T,N,4] ys"},
        {
            "Wt": LSTM["W"][0].T.copy(),
            "R": LSTM["R"],
            "Bs": np.stack([LSTM["B"][0, :16], LSTM["B"][0, 16:]]),
            "first": np.array([0]),
        }
        | ONE,
        {},
    ),
    "tokens": (
        """
        x = Gather (table, xs)
        Y = GRU <hidden_size = 4> (x, W, R, B)
        y = Squeeze (Y, one)
        ys = Softmax <axis = 2> (y)
        """,
        {"inputs": "int64[T,N] xs", "outputs": "float[T,N,4] ys"},
        GRU | ONE | {"table": normal(7, 3)},
        {"xs": RNG.integers(0, 7, (STEPS, BATCH))},
    ),
    "operators of 2018": (
        """
        Y, Yh, Yc = LSTM <hidden_size = 4> (xs, W, R, B)
        d = Dropout <ratio = 0.5> (Y)
        y = Squeeze <axes = [1]> (d)
        ys = LeakyRelu <alpha = 0.2> (y)
        """,
        {"opset": 9, "outputs": "float[T,N,4] ys"},
        LSTM,
        {"model": sj.stack(sj.lstm(3, 4, dtype=jnp.float32), function_of("LeakyRelu", (0.2,)))},
    ),
    "each direction in an operator of its own": (
        """
        Y = GRU <hidden_size = 4> (xs, W, R, B)
        y = Squeeze (Y, one)
        x = Slice (xs, last, least, first, minus)
        Z = GRU <hidden_size = 4> (x, W1, R1, B1)
        z = Squeeze (Z, one)
        back = Slice (z, last, least, first, minus)
        both = Concat <axis = -1> (y, back)
        V = RNN <hidden_size = 4> (both, W2, R2, B2)
        U = RNN <hidden_size = 4, direction = "reverse"> (both, W3, R3, B3)
        sides = Concat <axis = 1> (V, U)
        swapped = Transpose <perm = [0, 2, 1, 3]> (sides)
        ys = Reshape (swapped, flat)
        """,
        {"inputs": "float[T,N,K] xs", "outputs": "float[T,N,8] ys"},
        GRU
        | ONE
        | {f"{name}1": array for name, array in weights(3).items()}
        | {f"{name}2": array for name, array in weights(1, inputs=8).items()}
        | {f"{name}3": array for name, array in weights(1, inputs=8).items()}
        | {
            "first": np.array([0]),
            "last": np.array([-1]),
            "least": np.array([np.iinfo(np.int64).min]),
            "minus": np.array([-1]),
            "flat": np.array([0, 0, -1]),
        },
        {
            "model": sj.stack(
                sj.bidirectional(sj.gru(3, 4, reset_after=False, dtype=jnp.float32)),
                sj.bidirectional(sj.rnn(8, 4, dtype=jnp.float32)),
            )
        },
    ),
    "the same state for all": (
        """
        Y, Yh, Yc = LSTM <hidden_size = 4> (xs, W, R, B, , h0)
        ys = Squeeze (Y, one)
        """,
        {"inputs": "float[T,2,3] xs", "outputs": "float[T,2,4] ys"},
        LSTM | ONE | {"h0": np.repeat(normal(1, 1, 4), BATCH, axis=1)},
        {"model": sj.lstm(3, 4, learn_initial_state=True, dtype=jnp.float32)},
    ),
    "normalized": (
        """
        x = LayerNormalization <epsilon = 0.001> (xs, gain, shift)
        Y = RNN <hidden_size = 4, activations = ["Affine"], activation_alpha = [0.25]> (x, W, R, B)
        ys = Squeeze (Y, one)
        """,
        {"outputs": "float[T,N,4] ys"},
        weights(1) | ONE | {"gain": normal(3), "shift": normal(3)},
        {
            "model": sj.stack(
                sj.layer_norm(3, eps=1e-3, dtype=jnp.float32),
                sj.rnn(3, 4, activation=function_of("Affine", (0.25, 0.0)), dtype=jnp.float32),
            )
        },
    ),
}


@pytest.mark.parametrize(("body", "told", "arrays", "expected"), EXPORTED.values(), ids=EXPORTED)
def test_as_exporters_write(body, told, arrays, expected):
    assert_read(graph(body, **told, **arrays), **expected)


def test_batch_first_operators_are_the_same():
    """Which onnxruntime does not have: `layout = 1`."""
    h = np.repeat(normal(1, 1, 4), BATCH, axis=1)
    usual = "Y, Yh = GRU <hidden_size = 4> (xs, W, R, B, , h)  ys = Squeeze (Y, one)"
    first = usual.replace("<hidden_size = 4>", "<hidden_size = 4, layout = 1>")
    files = [
        graph(usual, "float[T,2,3] xs", "float[T,2,4] ys", **GRU, **ONE, h=h),
        graph(first, "float[2,T,3] xs", "float[2,T,4] ys", **GRU, one=[2], h=h.swapaxes(0, 1)),
    ]
    (model, params), (other, of_other) = map(sj.interop.onnx.read, files)
    assert (
        model
        == other
        == sj.gru(3, 4, reset_after=False, learn_initial_state=True, dtype=jnp.float32)
    )
    assert_equal(params, of_other)


def test_tokens_that_are_reversed_run_backward():
    body = """
        back = Slice (xs, minus, least, first, minus)
        x = Gather (table, back)
        Y = GRU <hidden_size = 4> (x, W, R, B)
        ys = Squeeze (Y, one)
    """
    told = {"table": normal(7, 3), "first": np.array([0]), "minus": np.array([-1])}
    told["least"] = np.array([np.iinfo(np.int64).min])
    proto = graph(body, "int64[T,N] xs", "float[T,N,4] ys", **GRU, **ONE, **told)
    with pytest.raises(ValueError, match="of which such are none"):
        sj.interop.onnx.read(proto)
    proto.graph.node[-1].output[0] = "y"
    again = onnx.helper.make_node("Slice", ["y", "minus", "least", "first", "minus"], ["ys"])
    proto.graph.node.append(again)
    with pytest.raises(ValueError, match="GRU 'Y': expected layers that run forward"):
        sj.interop.onnx.read(proto)


def test_states_and_lengths_that_are_inputs_are_those_of_unroll():
    body = """
        h0 = Slice (h, first, one)
        h1 = Slice (h, one, two)
        Y, Yh0 = GRU <hidden_size = 4> (xs, W, R, B, lengths, h0)
        y = Squeeze (Y, one)
        Z, Yh1 = GRU <hidden_size = 4, linear_before_reset = 1> (y, W1, R1, B1, lengths, h1)
        ys = Squeeze (Z, one)
        hn = Concat <axis = 0> (Yh0, Yh1)
    """
    second = {f"{name}1": array for name, array in weights(3, inputs=4).items()}
    proto = graph(
        body,
        inputs="float[T,N,3] xs, int32[N] lengths, float[2,N,4] h",
        outputs="float[T,N,4] ys, float[2,N,4] hn",
        **GRU | ONE | second | {"first": np.array([0]), "two": np.array([2])},
    )
    model, params = sj.interop.onnx.read(proto)
    lengths, h = np.array([4, 6], np.int32), normal(2, BATCH, 4)
    theirs = run(proto, xs=XS, lengths=lengths, h=h)
    call = lambda xs, length, h: sj.unroll(model, params, xs, tuple(h), length=length)
    state, ys = jax.vmap(call, (1, 0, 1), (0, 1))(jnp.asarray(XS), jnp.asarray(lengths), h)
    np.testing.assert_allclose(ys, theirs["ys"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(np.stack(state), theirs["hn"], rtol=1e-5, atol=1e-5)


# Single nodes.

BRANCHES = """
    y = If (flag) <
        then_branch = then () => (float[T,N,4] y0) {
            w = Identity (W)
            Y0 = LSTM <hidden_size = 4> (xs, w, R, B)
            y0 = Squeeze (Y0, one)
        },
        else_branch = else () => (float[T,N,4] y1) {
            Y1 = GRU <hidden_size = 4, direction = "reverse"> (xs, Wg, Rg, Bg)
            y1 = Squeeze (Y1, one)
        }
    >
    z = MatMul (y, V)
    ys = Add (z, b)
"""


def head(hs):
    return np.asarray(hs) @ DENSE["V"] + DENSE["b"]


def branched():
    of_gru = {f"{name}g": array for name, array in GRU.items()}
    inputs = "float[T,N,3] xs, bool flag"
    return graph(BRANCHES, inputs=inputs, **LSTM | of_gru | DENSE | ONE)


def test_nodes_in_branches_by_their_names():
    proto = branched()
    model, params = sj.interop.onnx.read(proto, layers=("Y0", jnp.tanh, "z"))
    dense = sj.dense(4, 2, dtype=jnp.float32)
    assert model == sj.stack(sj.lstm(3, 4, dtype=jnp.float32), jnp.tanh, dense)
    np.testing.assert_array_equal(params[2]["bias"], DENSE["b"])
    lstm, of_lstm = sj.interop.onnx.read(proto, "Y0")
    assert lstm == model.models[0]
    assert_equal(of_lstm, params[0])
    filled = sj.interop.onnx.into(model, proto, layers=("Y0", jnp.tanh, "z"))
    assert_equal(filled, params)
    assert_equal(sj.interop.onnx.into(lstm, proto, "Y0"), of_lstm)
    ours = jax.vmap(lambda xs: sj.unroll(lstm, of_lstm, xs)[1], 1, 1)(jnp.asarray(XS))
    theirs = run(proto, xs=XS, flag=np.array(True))["ys"]
    np.testing.assert_allclose(head(ours), theirs, rtol=1e-5, atol=1e-5)
    backward = sj.interop.onnx.read(proto, "Y1")
    ours = jax.vmap(lambda xs: sj.unroll(*backward, xs, reverse=True)[1], 1, 1)(jnp.asarray(XS))
    theirs = run(proto, xs=XS, flag=np.array(False))["ys"]
    np.testing.assert_allclose(head(ours), theirs, rtol=1e-5, atol=1e-5)


def test_check_names_the_convention_of_a_file():
    """Of a file whose gates are in PyTorch's order, that of somebody's own converter."""
    i, o, f, g = np.split(LSTM["W"], 4, axis=1)
    r = np.split(LSTM["R"], 4, axis=1)
    b = np.split(LSTM["B"], 8, axis=1)
    wrong = {
        "W": np.concatenate([i, f, g, o], axis=1),
        "R": np.concatenate([r[0], r[2], r[3], r[1]], axis=1),
        "B": np.concatenate([b[n] for n in (0, 2, 3, 1, 4, 6, 7, 5)], axis=1),
    }
    body = "Y = LSTM <hidden_size = 4> (xs, W, R, B)  ys = Squeeze (Y, one)"
    files = [graph(body, outputs="float[T,N,4] ys", **of, **ONE) for of in (LSTM, wrong)]
    xs = normal(12, 1, INPUTS)
    outputs = run(files[0], xs=xs)["ys"][:, 0]
    right, other = (functools.partial(sj.interop.onnx.read, file) for file in files)
    assert sj.interop.check(right, outputs, xs[:, 0]) < 1e-5
    with pytest.raises(ValueError, match="they match if the gates are i,f,g,o: with convention="):
        sj.interop.check(other, outputs, xs[:, 0])
    named = functools.partial(other, node="Y", convention={"gates": "ifgo"})
    assert sj.interop.check(named, outputs, xs[:, 0]) < 1e-5
    with pytest.raises(ValueError, match=r"convention\['opposite'\]: expected one of a layer"):
        other(convention={"opposite": "z"})


# What is refused, by the name and operator of the node.

Y = "Y, Yh, Yc = LSTM <hidden_size = 4> (xs, W, R, B)  "
END = "ys = Squeeze (Y, one)"
REFUSED = {
    "an operator that is none": (
        f"x = Erf (xs)  {Y.replace('xs', 'x')} {END}",
        {},
        f"Erf 'x'.*{NOT}",
    ),
    "in a branch": (BRANCHES, {"flag": np.array(True)}, f"If 'y': .*read by their names.*{NOT}"),
    "a residual": (f"{Y} y = Squeeze (Y, one)  ys = Add (y, y)", {}, "Add 'ys'"),
    "scaled": (f"{Y} y = Squeeze (Y, one)  ys = Mul (y, y0)", {"y0": normal(4)}, "Mul 'ys'"),
    "clip": (f"Y = LSTM <hidden_size = 4, clip = 3.0> (xs, W, R, B)  {END}", {}, "no clip: pre-"),
    "two activations": (
        f'Y = LSTM <hidden_size = 4, activations = ["Sigmoid", "Tanh", "Relu"]> (xs, W, R) {END}',
        {},
        "one activation of g and of c",
    ),
    "an activation of nobody": (
        f'Y = LSTM <hidden_size = 4, activations = ["Swish", "Tanh", "Tanh"]> (xs, W, R) {END}',
        {},
        "activations among Relu, .*got 'Swish'",
    ),
    "coupled gates that are not": (
        "Y = LSTM <hidden_size = 4, input_forget = 1,"
        f' activations = ["Tanh", "Tanh", "Tanh"]> (xs, W, R) {END}',
        {},
        r"gates of f\(-x\) = 1 - f\(x\) with input_forget",
    ),
    "backward": (
        f'Y = LSTM <hidden_size = 4, direction = "reverse"> (xs, W, R, B)  {END}',
        {},
        r"LSTM 'Y': expected layers that run forward .* run by sj.unroll\(reverse=True\)",
    ),
    "two directions, the wrong one first": (
        "Y = RNN <hidden_size = 4> (xs, W1, R1)"
        ' Z = RNN <hidden_size = 4, direction = "reverse"> (xs, W1, R1)'
        " both = Concat <axis = 3> (Z, Y)  ys = Squeeze (both, one)",
        {"W1": normal(1, 4, 3), "R1": normal(1, 4, 4)},
        "Concat 'both'",
    ),
    "two layers that are no directions": (
        "Y = RNN <hidden_size = 4> (xs, W1, R1)  Z = RNN <hidden_size = 4> (xs, W1, R1)"
        " both = Concat <axis = 3> (Z, Y)  ys = Squeeze (both, one)",
        {"W1": normal(1, 4, 3), "R1": normal(1, 4, 4)},
        "Concat 'both'",
    ),
    "a reversal of a piece": (
        f"x = Slice (xs, some, least, first, minus)  {Y.replace('xs', 'x')} {END}",
        {
            "some": np.array([100]),
            "least": np.array([np.iinfo(np.int64).min]),
            "first": np.array([0]),
            "minus": np.array([-1]),
        },
        "Slice 'x'",
    ),
    "a reversal of the outputs": (
        f"{Y} y = Squeeze (Y, one)  ys = Slice (y, minus, least, first, minus)",
        {
            "minus": np.array([-1]),
            "least": np.array([np.iinfo(np.int64).min]),
            "first": np.array([0]),
        },
        "of which such are none",
    ),
    "a cast that rounds": (f"x = Cast <to = 7> (xs)  {Y.replace('xs', 'x')} {END}", {}, "Cast 'x'"),
    "the last step": (
        "Y, Yh, Yc = LSTM <hidden_size = 4> (xs, W, R, B)  ys = Squeeze (Yh, one)",
        {},
        "one output that is a whole series, and final states, got ys, of which such are none",
    ),
    "one step of all": (
        f"{Y} y = Squeeze (Y, one)  last = Gather (y, minus)  ys = MatMul (last, V)",
        {"minus": np.array([-1])},
        "MatMul 'ys': expected all steps and features of the series",
    ),
    "a piece of the series": (
        f"x = Slice (xs, none, some)  {Y.replace('xs', 'x')} {END}",
        {"none": np.array([0]), "some": np.array([100])},
        "Slice 'x'",
    ),
    "features in another order": (
        f"{Y} y = Squeeze (Y, one)  x = Gather <axis = 2> (y, order)  ys = MatMul (x, V)",
        {"order": np.array([1, 0, 2, 3])},
        "MatMul 'ys': expected the features in the last axis",
    ),
    "other steps for the second layer": (
        f"{Y} y = Squeeze (Y, one)  x = Transpose <perm = [1, 0, 2]> (y)"
        " Z = RNN <hidden_size = 4> (x, W1, R1)  ys = Squeeze (Z, one)",
        {"W1": normal(1, 4, 4), "R1": normal(1, 4, 4)},
        "RNN 'Z': expected the steps in their order, along the same axis",
    ),
    "a state that is computed": (
        "h = ReduceMean <axes = [0], keepdims = 1> (xs)"
        f" Y = RNN <hidden_size = 3> (xs, W1, R1, , , h)  {END}",
        {"W1": normal(1, 3, 3), "R1": normal(1, 3, 3)},
        "RNN 'Y': expected initial_h to be constant or an input",
    ),
    "weights that are computed": (
        "Y = RNN <hidden_size = 3> (xs, xs, R1)  " + END,
        {"R1": normal(1, 3, 3)},
        "RNN 'Y': expected W to be constant",
    ),
    "a constant length": (
        f"Y = LSTM <hidden_size = 4> (xs, W, R, B, lengths)  {END}",
        {"lengths": np.array([2, 2, 2], np.int32)},
        "no constant sequence_lens: length= of sj.unroll is it",
    ),
    "other states for some": (
        f"Y = LSTM <hidden_size = 4> (xs, W, R, B, , h)  {END}",
        {"h": normal(1, 3, 4)},
        "a constant initial state that is the same for all series",
    ),
    "softmax over time": (
        f"{Y} y = Squeeze (Y, one)  ys = Softmax <axis = 0> (y)",
        {},
        "Softmax 'ys': expected one along the features of each step, axis=-1",
    ),
    "two outputs": (f"{Y} ys = Squeeze (Y, one)  zs = Tanh (ys)", {}, "of which such are ys, zs"),
    "a scaled product": (
        f"{Y} y = Squeeze (Y, one)  r = Reshape (y, rows)  ys = Gemm <alpha = 2.0> (r, V)",
        {"rows": np.array([-1, 4])},
        "Gemm 'ys': expected alpha=1, got 2",
    ),
    "another size": (f"x = Concat <axis = 2> (xs, xs)  {Y.replace('xs', 'x')} {END}", {}, "Concat"),
    "shapes": (
        f"Y = GRU <hidden_size = 4> (xs, W, R, B)  {END}",
        {},
        "GRU 'Y': expected shapes of",
    ),
    "directions": (
        f'Y = LSTM <hidden_size = 4, direction = "bidirectional"> (xs, W, R, B)  {END}',
        {},
        "arrays of direction 'bidirectional'",
    ),
    "an attribute of the future": (
        f"Y = LSTM <hidden_size = 4, cell_norm = 1> (xs, W, R, B)  {END}",
        {},
        "no other attributes, got cell_norm",
    ),
    "random": ("x = RandomUniformLike (xs)  ys = Squeeze (x, one)", {}, "RandomUniformLike 'x'"),
}


@pytest.mark.parametrize(("body", "arrays", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_not_read(body, arrays, message):
    outputs = "float[T,N,M] ys" + (", float[T,N,M] zs" if "zs =" in body else "")
    proto = graph(body, outputs=outputs, **{**LSTM, **ONE, **DENSE, **arrays})
    with pytest.raises(ValueError, match=message) as caught:
        sj.interop.onnx.read(proto)
    assert len(str(caught.value)) <= 600


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"node": "lstm"},
            "node: expected the name of a node, such as LSTM 'Y0', GRU 'Y1', MatMul",
        ),
        ({"layers": ("Y0", "lstm")}, "layers: expected the name of a node"),
        ({"node": "ys"}, "Add 'ys': expected a node that is a layer of seqjax"),
        ({"node": 3}, "node: expected the name of a node, got int 3"),
        ({"node": "Y0", "layers": ("z",)}, "layers: expected None beside node="),
        ({"layers": "Y0"}, "layers: expected names of modules"),
        ({"layers": ("Y0", sj.dense(4, 4))}, "a name of what has parameters"),
        ({"layers": ("Y0", "Y1")}, "no backward operator beside another recurrent one"),
        ({"node": "Y0", "dtype": int}, "dtype: expected a floating dtype"),
        ({"node": "Y0", "convention": {"gates": "rzn"}}, r"convention\['gates'\]: expected one of"),
    ],
)
def test_what_is_not_read_by_name(options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        sj.interop.onnx.read(branched(), **options)


def test_names_that_two_nodes_have():
    proto = branched()
    for attribute in proto.graph.node[0].attribute:
        for node in attribute.g.node:
            node.name = "layer"
    with pytest.raises(ValueError, match=r"the name of one node; by their first outputs they are"):
        sj.interop.onnx.read(proto, "layer")
    assert sj.interop.onnx.read(proto, "Y0")[0] == sj.lstm(3, 4, dtype=jnp.float32)


def test_a_source_that_is_none():
    with pytest.raises(TypeError, match=r"source: expected a path, bytes or an onnx\.ModelProto"):
        sj.interop.onnx.read({"W": LSTM["W"]})
    with pytest.raises(FileNotFoundError):
        sj.interop.onnx.read("nowhere.onnx")
