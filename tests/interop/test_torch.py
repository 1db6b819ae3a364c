"""Weights of PyTorch: its own modules, by a grid of their options."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.ported import XS, assert_equal, assert_same_outputs

import seqjax as sj

torch = pytest.importorskip("torch")

OPTIONS = [
    pytest.param(kind, dict(zip(names, values, strict=True)), id=f"{kind}-{values}")
    for kind, widths in {"LSTM": (0, 2), "GRU": (0,), "RNN": (0,)}.items()
    for names in [("num_layers", "bidirectional", "proj_size", "bias")]
    for values in itertools.product((1, 3), (False, True), widths, (True, False))
]
RELU = {"nonlinearity": "relu"}
OPTIONS += [pytest.param("RNN", {"num_layers": 2, **RELU}, id="RNN-relu")]
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections:UserWarning")


def module(kind, dtype=torch.float64, **options):
    torch.manual_seed(0)
    options = {k: v for k, v in options.items() if (k, v) != ("proj_size", 0)}
    return getattr(torch.nn, kind)(3, 4, dtype=dtype, **options)


def asked(kind, nonlinearity="tanh", **options):
    """What a state dict does not tell."""
    activation = {"tanh": jnp.tanh, "relu": jax.nn.relu}[nonlinearity]
    return {"activation": activation} if kind == "RNN" else {}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("kind", "options"), OPTIONS)
def test_outputs_and_round_trips(kind, options, dtype):
    original, xs = module(kind, dtype, **options), torch.tensor(XS, dtype=dtype)
    pair = sj.interop.torch.read(original.state_dict(), **asked(kind, **options))
    with torch.no_grad():
        assert_same_outputs(pair, xs.numpy(), original(xs)[0])
    written = sj.interop.torch.write(*pair)
    copy = module(kind, dtype, **options)
    copy.load_state_dict(written)  # strict: all names, shapes
    with torch.no_grad():
        assert_same_outputs(pair, xs.numpy(), copy(xs)[0])
    again = sj.interop.torch.read(written, **asked(kind, **options))
    assert again[0] == pair[0]
    assert_equal(again[1], pair[1])
    assert_equal(sj.interop.torch.into(pair[0], written), pair[1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_half_precision_bit_for_bit(kind, dtype):
    original = module(kind, dtype, num_layers=2)
    with torch.no_grad():  # of two biases the sum is rounded
        for layer in range(2):
            getattr(original, f"bias_hh_l{layer}")[: 8 if kind == "GRU" else None] = 0
    state_dict = original.state_dict()
    model, params = sj.interop.torch.read(state_dict, **asked(kind))
    assert {leaf.dtype.name for leaf in jax.tree.leaves(params)} == {str(dtype).split(".")[1]}
    written = sj.interop.torch.write(model, params)
    assert {*written} == {*state_dict}
    assert all(torch.equal(written[name], state_dict[name]) for name in written)


@pytest.mark.parametrize(("kind", "cell"), [("LSTM", "LSTMCell"), ("GRU", "GRUCell")])
def test_cells_have_the_names_of_a_layer_without_its_number(kind, cell):
    original = module(kind)
    of_cell = {k.removesuffix("_l0"): v for k, v in original.state_dict().items()}
    getattr(torch.nn, cell)(3, 4, dtype=torch.float64).load_state_dict(of_cell)
    (model, params), (_, expected) = map(sj.interop.torch.read, (of_cell, original.state_dict()))
    assert model == getattr(sj, kind.lower())(3, 4, dtype=jnp.float64)
    assert_equal(params, expected)


class Tagger(torch.nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.head = torch.nn.Linear(8, 2, **options)  # in another order than they are applied
        self.norm = torch.nn.LayerNorm(8, eps=1e-3, **options)
        self.encoder = torch.nn.GRU(3, 4, num_layers=2, bidirectional=True, **options)
        self.embedding = torch.nn.Embedding(10, 3, **options)

    def forward(self, tokens):
        return self.head(torch.relu(self.norm(self.encoder(self.embedding(tokens))[0])))


LAYERS = ("embedding", "encoder", "norm", jax.nn.relu, "head")
SAID = {"layers": LAYERS, "kinds": {"embedding": "embed"}, "eps": 1e-3}


def test_a_module_of_modules():
    torch.manual_seed(1)
    original, tokens = Tagger(dtype=torch.float64), torch.tensor([3, 1, 4, 1, 5, 9])
    state_dict = {f"net.{name}": array for name, array in original.state_dict().items()}
    pair = sj.interop.torch.read(state_dict | {"other": torch.ones(3)}, "net", **SAID)
    with torch.no_grad():
        assert_same_outputs(pair, tokens.numpy(), original(tokens))
    Tagger(dtype=torch.float64).load_state_dict(sj.interop.torch.write(*pair, layers=LAYERS))
    written = sj.interop.torch.write(*pair, "net.", layers=LAYERS)
    assert_equal(sj.interop.torch.read(written, "net.", **SAID)[1], pair[1])
    assert_equal(sj.interop.torch.into(pair[0], written, "net", layers=LAYERS), pair[1])


def test_what_is_read_and_what_is_written_share_no_memory():
    original = torch.nn.Linear(1, 3)
    pair = sj.interop.torch.read(original.state_dict())
    before = jax.tree.map(np.array, pair[1])
    written = sj.interop.torch.write(*pair)
    for array in (*original.state_dict().values(), *written.values()):
        array.add_(1)
    assert_equal(jax.tree.map(np.asarray, pair[1]), before)


def test_check_takes_tensors_and_batches():
    original, xs = module("LSTM", torch.float32, batch_first=True), torch.randn(2, 10, 3)
    read = lambda **options: sj.interop.torch.read(original.state_dict(), **options)
    assert sj.interop.check(read, original(xs)[0], xs) < 1e-6
