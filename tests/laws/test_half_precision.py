"""Half precision: what is summed over 60,000 rows neither stops growing nor overflows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.comparison import assert_close, floats
from support.oracles import grad
from support.table import CASES, FEW, astype, in_dtypes_of, problem, series

import seqjax as sj
from seqjax.engine.plain_scan import widened
from seqjax.engine.schedule import STORES

RUNS = {
    "many series": (3000, 20, {}),
    "chunks": (600, 100, {"adjoint": sj.BPTT(chunk=7), "reset": np.arange(100) % 5 == 4}),
    "a plain scan": (600, 100, {"reset": np.arange(100) % 5 == 4, "length": 90}),
}
NOW = [("bfloat16", "many series"), ("float16", "chunks")]  # one and the other by turns
SWEEP = [
    pytest.param(
        case,
        dtype,
        run,
        id=f"{case.name}-{dtype}-{run}",
        marks=() if (dtype, run) == NOW[number % 2] and case.name in FEW else pytest.mark.slow,
    )
    for number, case in enumerate(CASES)
    for dtype in ("bfloat16", "float16")
    for run in RUNS
    if case.name in FEW
    or (dtype, run) == NOW[number % 2]
    or (not case.variant and (dtype, run) in NOW)
]


def gradient(model, at, options):
    """Of a sum of all that a batch of series puts out, whose terms have one sign in the main."""

    def total(params, xs, state):
        runs = jax.vmap(lambda xs: sj.unroll(model, params, xs, state, **options))(xs)
        # The outputs of a softmax have a constant sum: halves, quarters, … of them have not.
        weighted = lambda a: a @ 0.5 ** jnp.arange(1.0, a.shape[-1] + 1) if a.ndim > 1 else a
        wide = lambda a: (a.real + a.imag if jnp.iscomplexobj(a) else a).astype(jnp.float64)
        return sum(jnp.sum(weighted(wide(a))) for a in floats(runs)) / 16

    return floats(jax.jit(grad(total, (0, 2)))(*at))


@pytest.mark.parametrize(("case", "dtype", "run"), SWEEP)
def test_pooled_gradients_are_those_of_float64(case, dtype, run):
    """Of kernels, biases, readouts, initial states and delay lines, from the same numbers."""
    number, time, options = RUNS[run]
    params, _, state = problem(case.model, 1)
    xs = jnp.abs(series(case.model, 3, number, time))
    at = astype((params, xs, state), dtype)
    exact = gradient(case.model, astype(at, jnp.float64), options)
    model = case.make(jnp.dtype(dtype))
    at = in_dtypes_of(model, at)
    ours = gradient(model, at, options)
    assert [a.dtype for a in ours] == [a.dtype for a in floats((at[0], at[2]))]
    assert_close(astype(ours, jnp.float64), exact, 0.01)


def test_what_steps_one_by_one_read_is_summed_in_float32_and_read_in_half():
    params = {"half": jnp.ones(2, jnp.bfloat16), "double": jnp.ones(2), "number": jnp.arange(2)}
    wide, narrow = widened(params)
    dtypes = {name: leaf.dtype for name, leaf in wide.items()}
    assert dtypes == {"half": jnp.float32, "double": jnp.float64, "number": params["number"].dtype}
    assert all(narrow(wide)[name].dtype == leaf.dtype for name, leaf in params.items())


@pytest.mark.parametrize("store", STORES)
def test_a_pre_activation_that_is_a_vector_of_parameters(store):
    """It is the same for a whole batch, and each series has a cotangent of it."""

    def make(dtype):
        return sj.Cell(
            init=lambda key: {"kernel": jnp.eye(3, dtype=dtype), "gain": jnp.ones(3, dtype)},
            initial_state=lambda params: jnp.zeros(3, dtype),
            project=lambda params, x: sj.matmul(x, params["kernel"]),
            preactivate=lambda params, h, u: (u + h / 2, params["gain"]),
            activate=lambda z, h: jnp.tanh(z[0] * z[1]),
        )

    def gradient(dtype):
        xs = jnp.asarray(np.random.default_rng(0).standard_normal((8, 5, 3)), dtype)
        run = lambda params: jax.vmap(
            lambda xs: sj.unroll(make(dtype), params, xs, adjoint=sj.BPTT(store=store))[1]
        )(xs)
        return jax.grad(lambda params: jnp.sum(run(params)))(make(dtype).init(None))

    assert_close(astype(gradient(jnp.bfloat16), jnp.float64), gradient(jnp.float64), 0.05)
