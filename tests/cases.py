"""One table of all models, run by every suite.

Each case makes its model in a given dtype, so that the suites can run it in any.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import seqjax as sj

I = 3  # noqa: E741  the size of x(t) in every case


class Case(NamedTuple):
    name: str
    make: Callable[[Any], sj.Model]

    @property
    def model(self) -> sj.Model:
        return self.make(jnp.float64)


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
        input=jax.ShapeDtypeStruct((I,), dtype),
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

    return sj.cell(init, step, initial_state)


def _stack(dtype):
    return sj.stack(
        sj.lstm(I, 5, learn_initial_state=True, dtype=dtype),
        sj.rnn(5, 4, dtype=dtype),
        sj.dense(4, 2, activation=jax.nn.softmax, dtype=dtype),
    )


CASES = [
    Case("rnn", lambda dtype: sj.rnn(I, 4, dtype=dtype)),
    Case("rnn-relu", lambda dtype: sj.rnn(I, 4, activation=jax.nn.relu, dtype=dtype)),
    Case(
        "rnn-elu-learned",
        lambda dtype: sj.rnn(I, 4, activation=jax.nn.elu, learn_initial_state=True, dtype=dtype),
    ),
    Case("rnn-one-unit", lambda dtype: sj.rnn(I, 1, dtype=dtype)),
    Case("lstm", lambda dtype: sj.lstm(I, 4, dtype=dtype)),
    Case(
        "lstm-learned",
        lambda dtype: sj.lstm(I, 4, forget_bias=1.0, learn_initial_state=True, dtype=dtype),
    ),
    Case("gru", lambda dtype: sj.gru(I, 4, dtype=dtype)),
    Case("gru-reset-before", lambda dtype: sj.gru(I, 4, reset_after=False, dtype=dtype)),
    Case("structured-without-rules", _leaky),
    Case("own-step", _own),
    Case("stack", _stack),
    Case("stack-with-own", lambda dtype: sj.stack(sj.gru(I, I, dtype=dtype), _own(dtype))),
]
IDS = [case.name for case in CASES]


def is_float(leaf) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.floating)


def normal(spec, seed, *leading):
    """Normal numbers for the floating leaves of `spec`, with leading axes; others repeated."""
    rng = np.random.default_rng(seed)

    def draw(leaf):
        if is_float(leaf):
            return jnp.asarray(rng.standard_normal((*leading, *leaf.shape)), leaf.dtype)
        return jnp.broadcast_to(leaf, (*leading, *leaf.shape))

    return jax.tree.map(draw, spec)


def problem(model, time, seed=0, dtype=jnp.float64):
    """(params, xs, state) at which nothing is zero by accident."""
    params = model.init(jax.random.key(seed))
    params = jax.tree.map(lambda p, n: p + 0.1 * n, params, normal(params, seed + 1))
    state = model.initial_state(params)
    state = jax.tree.map(
        lambda s, n: s + n / 2 if is_float(s) else s, state, normal(state, seed + 2)
    )
    xs = jnp.asarray(np.random.default_rng(seed + 3).standard_normal((time, I)), dtype)
    return params, xs, state


def floats(tree):
    return [leaf for leaf in jax.tree.leaves(tree) if is_float(leaf)]


def weighted(outputs, seed=5):
    """A divergence of everything a run returns: another random weight for every number."""
    weights = normal(jax.tree.map(lambda a: a, outputs), seed)
    pairs = zip(floats(weights), floats(outputs), strict=True)
    return jnp.sin(sum(jnp.sum(w * y) for w, y in pairs))


def gradient(model, div=weighted, **options):
    """Jitted d DIV(state, ys) by (params, xs, state): floating leaves only, in order."""

    def of(params, xs, state):
        return div(sj.unroll(model, params, xs, state, **options))

    grad = jax.jit(jax.grad(of, (0, 1, 2), allow_int=True))
    return lambda *at: floats(grad(*at))


def relative_error(ours, theirs) -> float:
    """The largest error of any leaf, relative to the leaf's largest element; NaN is inf."""
    worst = 0.0
    for a, b in zip(ours, theirs, strict=True):
        assert a.shape == b.shape
        if a.size:
            error = float(jnp.max(jnp.abs(a - b))) / max(float(jnp.max(jnp.abs(b))), 1e-30)
            worst = max(worst, error if np.isfinite(error) else np.inf)
    return worst


def clipper(bound):
    """An identity that clips its cotangent: what `BPTT(clip=bound)` does to each state."""

    @jax.custom_vjp
    def clipped(tree):
        return tree

    def backward(_, cotangent):
        clip = lambda c: c if c.dtype == jax.dtypes.float0 else jnp.clip(c, -bound, bound)
        return (jax.tree.map(clip, cotangent),)

    clipped.defvjp(lambda tree: (tree, None), backward)
    return clipped
