"""`jax.export` of every model and its gradient, for any number of series of any length."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from support.comparison import assert_close, floats
from support.table import CASES, I, problem

import seqjax as sj

NOW = {"stack", "narx"}
# The recursion over a state that holds an integer, which has no derivative.
COUNTS = ("own-step", "starts", "plain")
ADJOINTS = {
    "default": sj.BPTT(),
    "chunks": sj.BPTT(chunk=4, truncate=3),
    "starts": sj.BPTT(store="chunk_starts"),
    "autodiff": sj.Autodiff(),
}
OPTIONS = {"plain": (), "ragged": ("mask", "reset", "length")}
SWEEP = [
    pytest.param(
        case,
        adjoint,
        options,
        id=f"{case.name}-{adjoint}-{options}",
        marks=()
        if (case.name in NOW and (adjoint, options) == ("chunks", "ragged"))
        or (case.name, adjoint, options) in (COUNTS, ("lstm-learned", "default", "plain"))
        else pytest.mark.slow,
    )
    for case in CASES
    for adjoint in ADJOINTS
    for options in OPTIONS
]


@pytest.mark.parametrize(("case", "adjoint", "options"), SWEEP)
def test_any_batch_and_any_length(case, adjoint, options):
    params, _, state = problem(case.model, 1)

    def run(params, xs, state, *flags):
        named = dict(zip(("mask", "reset", "length"), flags, strict=True))
        given = {name: named[name] for name in OPTIONS[options]}
        return sj.unroll(case.model, params, xs, state, adjoint=ADJOINTS[adjoint], **given)

    def div(params, xs, state, *flags):
        runs = floats(jax.vmap(run, (None, 0, None, 0, 0, 0))(params, xs, state, *flags))
        return sum(jnp.sum(jnp.sin(a)) for a in runs), runs

    derived = jax.value_and_grad(div, (0, 1, 2), has_aux=True, allow_int=True)
    function = jax.jit(lambda *at: floats(derived(*at)))
    series, time = export.symbolic_shape("b, t")
    spec = jax.ShapeDtypeStruct
    flags = spec((series, time), bool)
    symbolic = spec((series, time, I), jnp.float64), state, flags, flags
    exported = export.export(function)(params, *symbolic, spec((series,), jnp.int64)).call
    for series, time in ((1, 1), (3, 11)):
        draw = np.random.default_rng(time)
        xs = jnp.asarray(draw.normal(size=(series, time, I)))
        mask, reset = draw.random((2, series, time)) < 0.6
        at = params, xs, state, mask, reset, draw.integers(0, time + 1, series)
        assert_close(exported(*at), function(*at), 1e-12)
