"""One table of all models, run by every suite.

Each case makes its model in a given dtype, so that the suites can run it in any.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.comparison import is_float

import seqjax as sj

I = 3  # noqa: E741  the size of x(t), but in cases that read arrays of other shapes


class Case(NamedTuple):
    name: str
    make: Callable[[Any], sj.Model]
    partial: bool = False  # "partially recurrent": no gradient crosses a step
    # Options of a model that is there already: under the suites of rules alone (gradients, second
    # order, all options, half precision, empty batches), with -m slow.
    variant: bool = False
    slow: bool = False  # much like another one: with -m slow

    @property
    def model(self) -> sj.Model:
        return _model(self)


@functools.cache
def _model(case):
    """One object, so that a program of it is compiled once."""
    return case.make(jnp.float64)


def _leaky(dtype):
    """A structured cell with no rules by hand, with leaves of several shapes."""
    return sj.Cell(
        init=lambda key: {
            "kernel": jax.random.normal(key, (I, 4), dtype),
            "recurrent_kernel": jax.random.normal(key, (4, 4), dtype) / 2,
            "readout": jax.random.normal(key, (4, 2), dtype),
        },
        initial_state=lambda params: {"h": jnp.zeros(4, dtype), "mean": jnp.zeros((), dtype)},
        project=lambda params, x: sj.matmul(x, params["kernel"]),
        preactivate=lambda params, s, u: u + sj.matmul(s["h"], params["recurrent_kernel"]),
        activate=lambda z, s: {
            "h": s["h"] / 2 + jnp.tanh(z + s["mean"]),
            "mean": s["mean"] / 2 + jnp.mean(z) / 2,
        },
        readout=lambda params, s: sj.matmul(s["h"], params["readout"]) * s["mean"],
        input_spec=jax.ShapeDtypeStruct((I,), dtype),
    )


def _own(dtype):
    """One opaque step: a pytree state with an integer leaf and a random key, y a dict."""

    def init(key):
        return {
            "w": jax.random.normal(key, (I, 4), dtype) / 2,
            "r": jax.random.normal(key, (4, 4), dtype) / 2,
            "start": jax.random.normal(key, (4,), dtype),
        }

    def step(params, state, x):
        h, count, key = state
        key, _ = jax.random.split(key)
        wave = jnp.where(count % 2 == 0, 1.0, 0.5).astype(h.dtype)
        h = jnp.tanh(sj.matmul(x, params["w"]) + wave * sj.matmul(h, params["r"]))
        return (h, count + 1, key), {"sum": h.sum(), "part": h[:2] * x[:2]}

    def initial_state(params):
        return params["start"], jnp.array(0), jax.random.key(0)

    return sj.from_step(init, step, initial_state)


def _stack(dtype):
    return sj.stack(
        sj.lstm(I, 5, learn_initial_state=True, dtype=dtype),
        sj.rnn(5, 4, dtype=dtype),
        sj.dense(4, 2, activation=jax.nn.softmax, dtype=dtype),
    )


def _memory(dtype):
    """An explicit memory that reads all that it may: y, h and m of the step before."""

    def init(key):
        shapes = {"w": (I, 4), "m": (3, 4), "y": (2, 3), "h": (4, 3), "g": (4, 2), "m0": (3,)}
        keys = jax.random.split(key, len(shapes))
        draw = lambda k, shape: jax.random.normal(k, shape, dtype) / 2
        return {n: draw(k, shapes[n]) for k, n in zip(keys, shapes, strict=True)}

    def r(params, y, h, m):
        return jnp.tanh(sj.matmul(y, params["y"]) + sj.matmul(h, params["h"]) + m / 2)

    def f(params, x, m):
        return jnp.tanh(sj.matmul(x, params["w"]) + sj.matmul(m, params["m"]))

    def start(params):
        return jnp.zeros(2, dtype), jnp.zeros(4, dtype), params["m0"]

    def g(params, h):
        return jnp.sin(sj.matmul(h, params["g"]))

    spec = jax.ShapeDtypeStruct((I,), dtype)
    return sj.memory(r, f, g, init=init, initial_state=start, input_spec=spec)


def _two_directions(dtype):
    both = sj.bidirectional(sj.elman(3, 2, dtype=dtype), sj.tdnn(3, 2, dtype=dtype), merge="mean")
    below = sj.bidirectional(sj.rnn(I, 3, dtype=dtype), merge="product")
    return sj.stack(below, both, sj.dense(2, 2, dtype=dtype))


def _without_bias(dtype):
    """Every layer that can do without one, and kernels that are drawn by gate."""
    options = {"use_bias": False, "dtype": dtype}
    zeros = jax.nn.initializers.zeros
    return sj.stack(
        sj.lstm(I, 3, recurrent_init=(None, None, zeros, None), **options),
        sj.gru(3, 3, **options),
        sj.gru(3, 3, reset_after=False, **options),
        sj.rnn(3, 3, kernel_init=(None,), **options),
        sj.tdnn(3, 3, delays=(0, 2), **options),
        sj.dense(3, 2, **options),
    )


def _language_model(dtype):
    """Tokens in, logits out."""
    return sj.stack(
        sj.embed(5, I, dtype=dtype), sj.gru(I, 4, dtype=dtype), sj.dense(4, 5, dtype=dtype)
    )


def _block(dtype):
    """Norm, recurrence, gated output, and the input again; branches of two depths beside a tanh."""
    inner = (
        sj.layer_norm(I, dtype=dtype),
        sj.gru(I, 4, dtype=dtype),
        sj.dense(4, 2 * I, dtype=dtype),
    )
    beside = sj.stack(sj.rms_norm(I, dtype=dtype), sj.tdnn(I, I, delays=(0, 2), dtype=dtype))
    return sj.stack(
        sj.residual(sj.stack(*inner, jax.nn.glu)),
        sj.branches(sj.rnn(I, I, dtype=dtype), beside, jnp.tanh, merge="mean"),
    )


def _feedback(dtype):
    """A model that reads its own softmax, beside x."""
    top = sj.dense(4, 2, activation=jax.nn.softmax, dtype=dtype)
    return sj.feedback(sj.stack(sj.lstm(I + 2, 4, learn_initial_state=True, dtype=dtype), top))


def _stochastic(dtype):
    """All that draws, one above the other."""

    def step(params, state, x, key):
        noise = 0 if key is None else jax.random.normal(key, state.shape, state.dtype)
        state = jnp.tanh(state * params + x + noise)
        return state, state

    own = sj.from_step(
        lambda key: jnp.full(3, 0.5, dtype), step, lambda p: jnp.zeros(3, dtype), stochastic=True
    )
    return sj.stack(
        sj.dropout(0.3, shared_over_time=True),
        sj.zoneout(sj.lstm(I, 3, recurrent_dropout=0.3, dtype=dtype), sj.LSTMState(h=0, c=0.5)),
        sj.residual(sj.branches(sj.dropout(0.5), own, merge="sum")),
    )


def _narx_of_blocks(dtype):
    """Its hidden network is a model: a norm, a layer with a function behind it, a residual one."""
    hidden = sj.stack(
        sj.layer_norm(6, dtype=dtype),
        sj.dense(6, 4, dtype=dtype),
        jnp.tanh,
        sj.residual(sj.dense(4, 4, activation=jax.nn.relu, dtype=dtype)),
    )
    return sj.narx(I, hidden, 2, output_delays=(1, 3), output_activation=jnp.tanh, dtype=dtype)


CASES = [
    Case("rnn", lambda dtype: sj.rnn(I, 4, dtype=dtype)),
    Case("rnn-relu", lambda dtype: sj.rnn(I, 4, activation=jax.nn.relu, dtype=dtype), variant=True),
    Case(
        "rnn-elu-learned",
        lambda dtype: sj.rnn(I, 4, activation=jax.nn.elu, learn_initial_state=True, dtype=dtype),
        variant=True,
    ),
    Case("rnn-one-unit", lambda dtype: sj.rnn(I, 1, dtype=dtype), variant=True),
    Case("lstm", lambda dtype: sj.lstm(I, 4, dtype=dtype), variant=True),
    Case(
        "lstm-learned",
        lambda dtype: sj.lstm(I, 4, forget_bias=1.0, learn_initial_state=True, dtype=dtype),
    ),
    Case(
        "lstm-peephole",
        lambda dtype: sj.lstm(I, 4, peepholes=True, learn_initial_state=True, dtype=dtype),
        variant=True,
    ),
    Case("lstm-coupled", lambda dtype: sj.lstm(I, 4, coupled=True, dtype=dtype), variant=True),
    Case(
        "lstm-projected",
        lambda dtype: sj.lstm(I, 4, projection_size=2, peepholes=True, coupled=True, dtype=dtype),
        variant=True,
    ),
    # Of 4 units the norm amplifies what half precision rounds off, whoever derives the gradient.
    Case("lstm-norm", lambda dtype: sj.lstm(I, 6, layer_norm=True, dtype=dtype), variant=True),
    Case(
        "lstm-other-functions",
        lambda dtype: sj.lstm(
            I, 4, gate_activation=jax.nn.hard_sigmoid, activation=jax.nn.soft_sign, dtype=dtype
        ),
        variant=True,
    ),
    Case("gru", lambda dtype: sj.gru(I, 4, dtype=dtype)),
    Case("gru-norm", lambda dtype: sj.gru(I, 4, layer_norm=True, dtype=dtype), variant=True),
    Case(
        "gru-other-functions",
        lambda dtype: sj.gru(
            I, 4, reset_after=False, gate_activation=jax.nn.hard_sigmoid, dtype=dtype
        ),
        variant=True,
    ),
    Case("gru-reset-before", lambda dtype: sj.gru(I, 4, reset_after=False, dtype=dtype)),
    Case("slstm", lambda dtype: sj.slstm(I, 4, heads=2, dtype=dtype)),
    Case(
        "slstm-exp",
        lambda dtype: sj.slstm(I, 4, forget_gate="exp", forget_bias=1.0, dtype=dtype),
        variant=True,
    ),
    Case("conv_lstm", lambda dtype: sj.conv_lstm((4, 2), 3, 3, dtype=dtype)),
    Case(
        "conv_lstm-2-D",
        lambda dtype: sj.conv_lstm((3, 2, 2), 2, (3, 2), forget_bias=1.0, dtype=dtype),
        variant=True,
    ),
    Case("structured-without-rules", _leaky),
    Case("own-step", _own),
    Case("stack", _stack),
    Case(
        "stack-with-own",
        lambda dtype: sj.stack(sj.gru(I, I, dtype=dtype), _own(dtype)),
        variant=True,
    ),
    Case("stack-without-bias", _without_bias, variant=True),
    Case("elman", lambda dtype: sj.elman(I, 4, dtype=dtype), partial=True),
    Case(
        "jordan",
        lambda dtype: sj.jordan(I, 4, 3, decay=0.6, output_activation=jax.nn.softmax, dtype=dtype),
        partial=True,
    ),
    Case("memory", _memory),
    Case("lru", lambda dtype: sj.lru(I, 4, 2, dtype=dtype)),
    Case("s5", lambda dtype: sj.s5(I, 4, 2, blocks=2, dtype=dtype), slow=True),
    Case("min-gru", lambda dtype: sj.min_gru(I, 4, learn_initial_state=True, dtype=dtype)),
    Case(
        "min-lstm",
        lambda dtype: sj.min_lstm(I, 4, positive_candidate=True, dtype=dtype),
        slow=True,
    ),
    Case("rg-lru", lambda dtype: sj.rg_lru(I, dtype=dtype), slow=True),
    Case("tdnn", lambda dtype: sj.tdnn(I, 2, delays=(0, 1, 3), activation=jnp.tanh, dtype=dtype)),
    Case(
        "tdnn-deep",
        lambda dtype: sj.stack(
            sj.tdnn(I, 3, delays=(0, 1), activation=jax.nn.relu, dtype=dtype),
            sj.tdnn(3, 2, delays=(0, 2), dtype=dtype),
        ),
        variant=True,
    ),
    Case(
        "narx",
        lambda dtype: sj.narx(
            I,
            5,
            2,
            input_delays=(0, 2),
            output_delays=(1, 3),
            output_activation=jnp.tanh,
            dtype=dtype,
        ),
    ),
    Case(
        "narx-deep",
        lambda dtype: sj.narx(I, (5, 4), 2, output_delays=(1, 3), dtype=dtype),
        variant=True,
    ),
    Case("narx-own-hidden", _narx_of_blocks, variant=True),
    Case(
        "bidirectional",
        lambda dtype: sj.bidirectional(
            sj.lstm(I, 4, learn_initial_state=True, dtype=dtype), sj.gru(I, 2, dtype=dtype)
        ),
    ),
    Case("stack-of-bidirectional", _two_directions),
    Case("stochastic", _stochastic, slow=True),
    Case(
        "zoneout-affine",
        lambda dtype: sj.zoneout(sj.min_gru(I, 4, dtype=dtype), 0.4),
        variant=True,
    ),
    Case("zoneout-elman", lambda dtype: sj.zoneout(sj.elman(I, 4, dtype=dtype), 0.4), variant=True),
    Case(
        "recurrent-dropout",
        lambda dtype: sj.bidirectional(
            sj.lstm(I, 4, coupled=True, recurrent_dropout=0.4, dtype=dtype),
            sj.stack(
                sj.gru(I, 3, recurrent_dropout=0.4, dtype=dtype),
                sj.gru(3, 4, reset_after=False, recurrent_dropout=0.4, dtype=dtype),
            ),
            merge="mean",
        ),
        variant=True,
    ),
    Case("embed", _language_model),
    Case("block", _block),
    Case("feedback", _feedback, slow=True),
]


def parametrized(cases, later=lambda case: case.variant or case.slow):
    """Over these cases; those that may come later run with -m slow."""
    return pytest.mark.parametrize(
        "case",
        [
            pytest.param(case, id=case.name, marks=pytest.mark.slow if later(case) else ())
            for case in cases
        ],
    )


BY_NAME = {case.name: case for case in CASES}
KINDS = [case for case in CASES if not case.variant]
every_model = parametrized(CASES)
# Each kind of model once; all of them with -m slow.
FEW = {"lstm-learned", "own-step", "narx", "tdnn", "bidirectional"}
a_few_now = parametrized(KINDS, later=lambda case: case.name not in FEW)
two_now = parametrized(KINDS, later=lambda case: case.name not in ("lstm-learned", "narx"))
a_few_causal_now = parametrized(
    [case for case in KINDS if case.model.causal], later=lambda case: case.name not in FEW
)


def normal(spec, seed, *leading):
    """Normal numbers for the floating leaves of `spec`, with leading axes; others repeated."""
    rng = np.random.default_rng(seed)

    def draw(leaf):
        if is_float(leaf):
            shape = (*leading, *leaf.shape)
            drawn = rng.standard_normal(shape)
            if jnp.iscomplexobj(leaf):
                drawn = drawn + 1j * rng.standard_normal(shape)
            return jnp.asarray(drawn, leaf.dtype)
        return jnp.broadcast_to(leaf, (*leading, *leaf.shape))

    return jax.tree.map(draw, spec)


def astype(tree, dtype):
    """Floating leaves in `dtype`, complex ones in two of float32 at least."""
    two = jnp.complex128 if dtype == jnp.float64 else jnp.complex64
    to = lambda a: a.astype(two if jnp.iscomplexobj(a) else dtype) if is_float(a) else a
    return jax.tree.map(to, tree)


def in_dtypes_of(model, tree):
    """(params, xs, state) in the dtypes that `model` has; a series as it is."""
    params = jax.eval_shape(lambda: model.init(jax.random.key(0)))
    state = jax.eval_shape(model.initial_state, params)
    like = lambda a, spec: a.astype(spec.dtype) if is_float(a) else a
    return jax.tree.map(like, tree[0], params), tree[1], jax.tree.map(like, tree[2], state)


@functools.cache
def problem(model, time, seed=0, dtype=jnp.float64):
    """(params, xs, state) at which nothing is zero by accident."""
    params = model.init(jax.random.key(seed))
    params = jax.tree.map(lambda p, n: p + 0.1 * n, params, normal(params, seed + 1))
    state = model.initial_state(params)

    # Of a running maximum, which starts from -∞, a state that the model may be in: finite, and
    # positive as its normalizer is.
    finite = all(bool(jnp.isfinite(s).all()) for s in jax.tree.leaves(state) if is_float(s))

    def moved(s, n):
        if not is_float(s):
            return s
        return s + n / 2 if finite else jnp.where(jnp.isfinite(s), s, 0) + abs(n) / 2

    state = jax.tree.map(moved, state, normal(state, seed + 2))
    return params, series(model, seed + 3, time, dtype=dtype), state


def series(model, seed, *leading, dtype=jnp.float64):
    """Inputs with leading axes, such as [B, T]: normal numbers of the shape read, or tokens."""
    if model.vocabulary_size is not None:
        draw = np.random.default_rng(seed).integers(0, model.vocabulary_size, leading)
        return jnp.asarray(draw, jnp.int32)
    shape = (I,) if model.input_spec is None else model.input_spec.shape
    return normal(jax.ShapeDtypeStruct(shape, dtype), seed, *leading)
