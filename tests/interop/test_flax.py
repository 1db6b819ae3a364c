"""Weights of Flax, of linen and of nnx: their own cells, by a grid of their options."""

import itertools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.ported import XS, assert_equal, assert_same_outputs, filled, rules_of_others

import seqjax as sj

with warnings.catch_warnings():  # the oldest that is tested uses what JAX deprecates
    warnings.simplefilter("ignore", DeprecationWarning)
    pytest.importorskip("flax")
    from flax import linen, nnx

CELLS = ["LSTMCell", "OptimizedLSTMCell", "GRUCell", "SimpleCell"]
GRID = [*itertools.product(CELLS, (False, True), (jnp.float32, jnp.float64))]


@pytest.fixture(autouse=True)
def rules_of_flax():
    with rules_of_others():
        yield


def asked(cell):
    return {"activation": jnp.tanh} if cell == "SimpleCell" else {}


def of_linen(cell, both, dtype):
    make = lambda: linen.RNN(getattr(linen, cell)(4, dtype=dtype, param_dtype=dtype))
    return linen.Bidirectional(make(), make()) if both else make()


def of_nnx(cell, both, dtype):
    options = {"dtype": dtype, "param_dtype": dtype, "rngs": nnx.Rngs(0)}
    make = lambda: nnx.RNN(getattr(nnx, cell)(3, 4, **options))
    return nnx.Bidirectional(make(), make()) if both else make()


def assert_round_trip(pair, tree, cell):
    again = sj.interop.flax.read(tree, **asked(cell))
    assert again[0] == pair[0]
    assert_equal(again[1], pair[1])
    assert_equal(sj.interop.flax.into(pair[0], tree), pair[1])


@pytest.mark.parametrize(("cell", "both", "dtype"), GRID)
def test_linen(cell, both, dtype):
    module, xs = of_linen(cell, both, dtype), XS.astype(dtype)
    variables = filled(module.init(jax.random.key(0), xs[None]))
    pair = sj.interop.flax.read(variables, **asked(cell))
    outputs = module.apply(variables, xs[None])[0]
    assert_same_outputs(pair, xs, outputs)
    tree = sj.interop.flax.write(*pair, "" if both else "cell", api="linen")
    assert_equal(tree, variables["params"])
    assert_round_trip(pair, tree, cell)


@pytest.mark.parametrize(("cell", "both", "dtype"), GRID)
def test_nnx(cell, both, dtype):
    module, xs = of_nnx(cell, both, dtype), XS.astype(dtype)
    state = filled(nnx.state(module, nnx.Param))
    nnx.update(module, state)
    pair = sj.interop.flax.read(state, **asked(cell))
    outputs = module(xs[None])[0]
    assert_same_outputs(pair, xs, outputs)
    tree = sj.interop.flax.write(*pair, "" if both else "cell", api="nnx")
    assert_round_trip(pair, tree, cell)
    optimized = of_nnx("OptimizedLSTMCell" if cell == "LSTMCell" else cell, both, dtype)
    state = nnx.state(optimized, nnx.Param)
    nnx.replace_by_pure_dict(state, tree)
    nnx.update(optimized, state)
    assert_same_outputs(pair, xs, optimized(xs[None])[0])


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
@pytest.mark.parametrize("cell", CELLS)
def test_half_precision_bit_for_bit(cell, dtype):
    module = of_linen(cell, False, jnp.float32)
    variables = module.init(jax.random.key(0), XS[None].astype(np.float32))
    variables = jax.tree.map(lambda leaf: leaf.astype(dtype), filled(variables))
    model, params = sj.interop.flax.read(variables, **asked(cell))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(dtype)}
    tree = sj.interop.flax.write(model, params, "cell", api="linen")
    assert_equal(tree, variables["params"])


class Tagger(linen.Module):
    @linen.compact
    def __call__(self, tokens):
        x = linen.Embed(10, 3, name="tokens")(tokens)
        for _ in range(2):
            x = linen.RNN(linen.OptimizedLSTMCell(4))(x)
        return linen.Dense(2)(jax.nn.relu(linen.LayerNorm()(x)))


LAYERS = (
    "tokens",
    "OptimizedLSTMCell_0",
    "OptimizedLSTMCell_1",
    "LayerNorm_0",
    jax.nn.relu,
    "Dense_0",
)


def test_a_module_of_modules():
    tokens = np.array([3, 1, 4, 1, 5, 9], np.int32)
    with jax.enable_x64(False):
        variables = filled(Tagger().init(jax.random.key(0), tokens[None]))
        outputs = Tagger().apply(variables, tokens[None])[0]
        pair = sj.interop.flax.read(variables, "params", layers=LAYERS, eps=1e-6)
        assert_same_outputs(pair, tokens, outputs)
        tree = sj.interop.flax.write(*pair, "params", layers=LAYERS, api="linen")
        assert_equal(tree, variables)
        assert_equal(sj.interop.flax.into(pair[0], tree, "params", layers=LAYERS), pair[1])
        with pytest.raises(
            ValueError, match=r"LayerNorm_0.*eps|eps: expected that of the layer_no"
        ):
            sj.interop.flax.read(variables, "params", layers=LAYERS)


def test_the_gru_of_nnx_has_no_bias_inside_the_reset():
    cell = sj.gru(3, 4)
    params = cell.init(jax.random.key(0))
    with pytest.raises(ValueError, match=r"recurrent_bias'\]: expected a recurrent bias of zeros"):
        sj.interop.flax.write(cell, params, api="nnx")
    params["recurrent_bias"] = jnp.zeros(4)
    sj.interop.flax.write(cell, params, api="nnx")


def test_biases_of_zeros_where_the_model_has_none():
    cell = sj.lstm(3, 4, use_bias=False)
    params = cell.init(jax.random.key(0))
    model, read = sj.interop.flax.read(sj.interop.flax.write(cell, params, api="linen"))
    assert model == sj.lstm(3, 4)
    assert_equal(read, params | {"bias": jnp.zeros(16)})


def test_what_is_not_written():
    for model, reason in [
        (sj.gru(3, 4, reset_after=False), "its reset gate acts before the matmul, theirs after it"),
        (sj.lstm(3, 4, projection_size=2), "the lstm of Flax has no projection"),
        (sj.stack(sj.rnn(3, 4), sj.rnn(4, 4)), "layers: expected a name for each of stack"),
        (sj.bidirectional(sj.rnn(3, 4), merge=jnp.add), "it has concat or sum or mean or product"),
    ]:
        with pytest.raises(ValueError, match=reason):
            sj.interop.flax.write(model, model.init(jax.random.key(0)), api="linen")
    with pytest.raises(ValueError, match="api: expected one of 'linen', 'nnx', got 'flax'"):
        sj.interop.flax.write(model, model.init(jax.random.key(0)), api="flax")


def test_check_names_a_transposed_kernel():
    module, xs = of_linen("SimpleCell", False, jnp.float64), XS
    variables = filled(module.init(jax.random.key(0), xs[None]))
    outputs = module.apply(variables, xs[None])[0]
    kernel = variables["params"]["cell"]["h"]["kernel"]
    variables["params"]["cell"]["h"]["kernel"] = kernel.T
    read = lambda **options: sj.interop.flax.read(variables, activation=jnp.tanh, **options)
    with pytest.raises(ValueError, match=r"they match with .*'transposed': \('recurrent_kernel'"):
        sj.interop.check(read, outputs, xs)
