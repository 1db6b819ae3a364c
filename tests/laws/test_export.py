"""`jax.export` of every model and its gradient, for any number of series of any length."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from support.comparison import assert_close, floats
from support.oracles import grad
from support.table import FEW, KINDS, problem, series

import seqjax as sj

RAGGED = ("mask", "reset", "length")
# Each with what is given per series.
ADJOINTS = {
    "default": (sj.BPTT(), ()),
    "chunks": (sj.BPTT(chunk=4, truncate=3), RAGGED),
    "starts": (sj.BPTT(store="chunk_starts"), ()),
    "autodiff": (sj.Autodiff(), RAGGED),
}
NOW = [
    ("stack", "chunks"),
    ("narx", "chunks"),
    ("lstm-learned", "default"),
    ("own-step", "starts"),  # the recursion over an integer, which has no derivative
]
SWEEP = [
    pytest.param(
        case,
        adjoint,
        id=f"{case.name}-{adjoint}",
        marks=() if (case.name, adjoint) in NOW else pytest.mark.slow,
    )
    for case in KINDS
    for adjoint in ADJOINTS
    if case.name in FEW or adjoint in ("chunks", "autodiff") or (case.name, adjoint) in NOW
]


@pytest.mark.parametrize(("case", "adjoint"), SWEEP)
def test_any_batch_and_any_length(case, adjoint):
    adjoint, ragged = ADJOINTS[adjoint]
    params, xs, state = problem(case.model, 1)

    def run(params, xs, state, *flags):
        given = dict(zip(RAGGED, flags, strict=True)) if ragged else {}
        return sj.unroll(case.model, params, xs, state, adjoint=adjoint, **given)

    def div(params, xs, state, *flags):
        runs = floats(jax.vmap(run, (None, 0, None, 0, 0, 0))(params, xs, state, *flags))
        return sum(jnp.sum(jnp.sin(a).real) for a in runs), runs

    derived = grad(div, (0, 1, 2), has_aux=True)
    function = jax.jit(lambda *at: floats(derived(*at)))
    number, time = export.symbolic_shape("b, t")
    spec = jax.ShapeDtypeStruct
    flags = spec((number, time), bool)
    symbolic = spec((number, time, *xs.shape[1:]), xs.dtype), state, flags, flags
    exported = export.export(function)(params, *symbolic, spec((number,), jnp.int64)).call
    for number, time in ((1, 1), (3, 11)):
        draw = np.random.default_rng(time)
        mask, reset = draw.random((2, number, time)) < 0.6
        xs, length = series(case.model, time, number, time), draw.integers(0, time + 1, number)
        at = params, xs, state, mask, reset, length
        assert_close(exported(*at), function(*at), 1e-12)
