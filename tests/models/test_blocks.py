"""Functions as layers, residual connections, branches: what they compute, and what does not fit."""

import math
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.comparison import assert_close
from support.table import problem

import seqjax as sj

I, T = 3, 5  # noqa: E741
GRU = sj.gru(I, 4, dtype=jnp.float64)
SQUARE = sj.gru(I, I, dtype=jnp.float64)
WIDE = sj.dense(4, 2 * I, dtype=jnp.float64)
NORM = sj.layer_norm(I, dtype=jnp.float64)
K = jax.random.key(0)


def test_the_block_is_its_parts_by_hand():
    """Norm, recurrence, gated output and the input, one step after the other in NumPy."""
    model = sj.residual(sj.stack(NORM, GRU, WIDE, jax.nn.glu))
    params, xs, state = problem(model, T)
    h, expected = state[1], []
    for x in np.asarray(xs):
        centered = x - x.mean()
        scaled = centered / np.sqrt((centered**2).mean() + 1e-5)
        h, _ = GRU.step(params[1], h, jnp.asarray(scaled * params[0]["scale"] + params[0]["bias"]))
        a, b = np.split(np.asarray(h @ params[2]["kernel"] + params[2]["bias"]), 2)
        expected.append(x + a / (1 + np.exp(-b)))
    last, ys = sj.unroll(model, params, xs, state)
    assert_close(ys, np.array(expected), 1e-12)
    assert_close(last, ((), h, (), ()), 1e-12)
    assert params[3] == ()


MERGES = {
    "concat": lambda a, b, c: np.concatenate([a, b, c], -1),
    "sum": lambda a, b, c: a + b + c,
    "mean": lambda a, b, c: (a + b + c) / 3,
    "product": lambda a, b, c: a * b * c,
}


@pytest.mark.parametrize("merge", [*MERGES, "a function"])
def test_branches_read_the_same_and_are_merged(merge):
    by_hand = MERGES.get(merge, lambda a, b, c: a - b * c)
    model = sj.branches(SQUARE, NORM, jnp.sin, merge=merge if merge in MERGES else by_hand)
    params, xs, state = problem(model, T)
    last, ys = sj.unroll(model, params, xs, state)
    h, by_gru = sj.unroll(SQUARE, params[0], xs, state[0])
    expected = by_hand(by_gru, sj.unroll(NORM, params[1], xs)[1], np.sin(xs))
    assert_close(ys, np.asarray(expected), 1e-13)
    assert_close(last, (h, (), ()), 0)
    assert model.output_spec == jax.ShapeDtypeStruct(ys.shape[1:], jnp.float64)


def test_a_model_beside_one_that_reads_the_future():
    both = sj.bidirectional(SQUARE, merge="sum")
    model = sj.branches(both, sj.tdnn(I, I, delays=(0, 2), dtype=jnp.float64), merge="sum")
    assert not model.causal
    assert not sj.residual(both).causal
    params, xs, state = problem(model, T)
    ys = sj.unroll(model, params, xs, state, reverse=True, length=4)[1]
    parts = zip(model.models, params, state, strict=True)
    each = [sj.unroll(m, p, xs, s, reverse=True, length=4)[1] for m, p, s in parts]
    assert_close(ys, each[0] + each[1], 1e-13)


@pytest.mark.parametrize("first", [SQUARE, sj.bidirectional(SQUARE, merge="sum")], ids=repr)
def test_truncation_means_the_same_in_branches(first):
    """Segments are counted over the whole series, chunks or none."""
    second = sj.rnn(I, I, dtype=jnp.float64)
    model, adjoint = sj.branches(first, second, merge="sum"), sj.BPTT(chunk=3, truncate=2)
    params, xs, state = problem(model, 7)
    weights = np.random.default_rng(0).standard_normal((7, I))
    run = lambda m: lambda *at: jnp.sum(weights * sj.unroll(m, *at, adjoint=adjoint)[1])
    ours = jax.jit(jax.grad(run(model)))(params, xs, state)
    pairs = zip(model.models, params, state, strict=True)
    assert_close(ours, tuple(jax.grad(run(m))(p, xs, s) for m, p, s in pairs), 1e-12)


def test_what_wrappers_say_of_what_they_hold():
    tdnn, own = sj.tdnn(I, I, delays=(0, 4)), sj.from_step(lambda k: (), lambda p, s, x: (s, x))
    assert sj.residual(tdnn).receptive_field == 5
    assert sj.branches(tdnn, jnp.tanh).receptive_field == 5
    assert sj.branches(tdnn, sj.gru(I, I)).receptive_field == math.inf
    assert sj.stack(tdnn, jnp.tanh).receptive_field == 5
    assert sj.residual(own).opaque
    assert sj.branches(own, own).opaque
    assert not sj.branches(own, GRU).opaque
    assert sj.stack(sj.dense(I, I), own).opaque
    assert not sj.stack(own, tdnn).opaque
    assert not sj.stack(jnp.tanh).opaque
    tokens = sj.branches(sj.embed(5, 2), sj.embed(7, 3))
    assert tokens.vocabulary_size == 5
    assert tokens.input_spec.dtype == jnp.int32
    params, state, x = GRU.init(K), GRU.initial_state(None), jnp.ones(I)
    for model, p, s in [(sj.residual(SQUARE), SQUARE.init(K), SQUARE.initial_state(None))]:
        assert model.preactivation_bytes(p, s, x) == SQUARE.preactivation_bytes(p, s, x) > 0
    twice = sj.branches(GRU, GRU).preactivation_bytes((params,) * 2, (state,) * 2, x)
    assert twice == 2 * GRU.preactivation_bytes(params, state, x)


def test_what_is_known_of_a_functions_output():
    assert sj.stack(WIDE, jax.nn.glu).output_spec.shape == (I,)
    assert sj.stack(WIDE, jnp.sum).output_spec.shape == ()
    unknown = sj.stack(jnp.tanh, WIDE)
    assert unknown.input_spec is None
    assert unknown.output_spec.shape == (2 * I,)
    assert sj.stack(jnp.tanh, jnp.sin).output_spec is None
    assert sj.stack(NORM, sj.residual(jnp.tanh)).output_spec.shape == (I,)
    assert sj.stack(NORM, sj.branches(jnp.tanh, jnp.sin)).output_spec.shape == (2 * I,)
    # A function that names a mapped axis is known when it runs.
    mean = sj.stack(NORM, lambda x: jax.lax.pmean(x, "batch"))
    assert mean.output_spec is None
    params = mean.init(K)
    xs = jnp.asarray(np.random.default_rng(0).standard_normal((2, T, I)))
    ys = jax.vmap(lambda xs: sj.unroll(mean, params, xs)[1], axis_name="batch")(xs)
    each = jax.vmap(lambda xs: sj.unroll(NORM, params[0], xs)[1])(xs)
    assert_close(ys, jnp.broadcast_to(each.mean(0), each.shape), 1e-13)


def test_a_function_with_a_rule_of_its_own_keeps_it():
    @jax.custom_vjp
    def clipped(x):
        return x

    clipped.defvjp(lambda x: (x, None), lambda _, d: (jnp.clip(d, -0.1, 0.1),))
    model = sj.stack(NORM, clipped)
    params, xs, _ = problem(model, T)
    ours = jax.grad(lambda xs: 5 * sj.unroll(model, params, xs)[1].sum())(xs)
    theirs = jax.grad(lambda xs: 0.1 * sj.unroll(NORM, params[0], xs)[1].sum())(xs)
    assert_close(ours, theirs, 1e-12)


def test_functions_make_equal_models_that_pickle_and_take_a_dtype():
    make = lambda dtype: sj.stack(sj.dense(3, 4, dtype=dtype), jax.nn.glu, jnp.tanh)
    model = make(jnp.float64)
    assert model == make(jnp.float64)
    assert hash(model) == hash(make(jnp.float64))
    assert pickle.loads(pickle.dumps(model)) == model
    assert model.astype(jnp.bfloat16) == make(jnp.bfloat16)
    assert repr(model).endswith("glu, tanh)")


def unrolled(model, xs):
    return lambda: sj.unroll(model, model.init(K), xs)


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (
            lambda: sj.stack(NORM, "tanh"),
            TypeError,
            r"models\[1\]: expected a seqjax model or a function, got str 'tanh'",
        ),
        (
            lambda: sj.stack(GRU, sj.dense(4, 3, dtype=jnp.float64), jax.nn.glu),
            ValueError,
            r"models\[2\]: expected a function of float64\[3\], got glu, which raises Assertion",
        ),
        (
            lambda: sj.branches(NORM, lambda x: x[:, 0]),
            ValueError,
            r"models\[1\]: expected a function of float64\[3\], got <lambda>, which raises Index",
        ),
        (
            lambda: sj.stack(WIDE, jax.nn.glu, sj.dense(4, 2, dtype=jnp.float64)),
            ValueError,
            r"models\[2\]: .* float64\[3\] that models\[1\] outputs, got float64\[4\]",
        ),
        (
            lambda: sj.stack(NORM, lambda x: 0.5),
            ValueError,
            r"models\[1\]: .* the y that <lambda> returns: expected a JAX or NumPy array, got",
        ),
        (
            lambda: sj.residual(GRU),
            ValueError,
            r"model: expected a model that outputs float64\[3\], which it reads, got float64\[4\]",
        ),
        (
            unrolled(sj.residual(lambda x: x[:1]), jnp.ones((4, 3))),  # and is not broadcast
            ValueError,
            r"the y that is added to x: expected float64\[3\], got float64\[1\]",
        ),
        (lambda: sj.residual(3), TypeError, "model: expected a seqjax model or a function, got"),
        (lambda: sj.residual(sj.lru), TypeError, r"model: expected lru\(…\), a model, got sj\.lru"),
        (lambda: sj.branches(), ValueError, "models: expected at least one, got none"),
        (
            lambda: sj.branches(GRU, WIDE),
            ValueError,
            r"models\[1\]: expected the input float64\[3\] that others read, got float64\[4\]",
        ),
        (
            lambda: sj.branches(GRU, NORM, merge="sum"),
            ValueError,
            r"merge: expected outputs that fit 'sum', got float64\[4\] and float64\[3\]",
        ),
        (lambda: sj.branches(GRU, merge="max"), ValueError, "merge: expected one of 'concat'"),
    ],
)
def test_errors(call, kind, message):
    with pytest.raises(kind, match=message) as caught:
        call()
    assert len(str(caught.value)) <= 600
