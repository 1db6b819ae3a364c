"""Large inputs, long series, short floats and NaN."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.comparison import floats, is_float
from support.oracles import grad
from support.table import (
    KINDS,
    I,
    a_few_now,
    astype,
    in_dtypes_of,
    normal,
    parametrized,
    problem,
)

import seqjax as sj


def finite(leaves) -> bool:
    return all(bool(jnp.isfinite(leaf).all()) for leaf in leaves)


@functools.cache
def values_and_gradient(model, **options):
    """Jitted: the floating leaves of (state, ys), and of the gradient of a linear function."""

    def div(params, xs, state):
        outputs = sj.unroll(model, params, xs, state, **options)
        weights = normal(jax.tree.map(lambda leaf: leaf, outputs), 5)
        pairs = zip(floats(weights), floats(outputs), strict=True)
        # Summed in float64: the rounding of a sum over time would hide that of the model.
        return sum(jnp.sum((w * y).real.astype(jnp.float64)) for w, y in pairs), outputs

    def run(params, xs, state):
        grads, outputs = grad(div, (0, 1, 2), has_aux=True)(params, xs, state)
        return floats(outputs), floats(grads)

    return jax.jit(run)


@a_few_now
def test_large_inputs_stay_finite(case):
    dtype = jnp.float32  # where 1e4 is nearer to overflow than in float64
    model, (params, xs, state) = case.make(dtype), problem(case.model, 8)
    run = values_and_gradient(model)
    for scale in (1e4, -1e4, 1e-30):
        scaled = scale * jnp.sign(xs) if is_float(xs) else xs
        outputs, grads = run(*astype((params, scaled, state), dtype))
        assert finite(outputs)
        assert finite(grads)
        if abs(scale) < 1:  # at 1e4, tanh is saturated to the last bit
            assert max(float(jnp.abs(leaf).max()) for leaf in grads) > 0


LONG = {
    "rnn": lambda: sj.rnn(I, 4, dtype=jnp.float32),
    "lstm": lambda: sj.lstm(I, 4, dtype=jnp.float32),
    "gru": lambda: sj.gru(I, 4, dtype=jnp.float32),
    "gru-reset-before": lambda: sj.gru(I, 4, reset_after=False, dtype=jnp.float32),
    "slstm": lambda: sj.slstm(I, 4, dtype=jnp.float32),
}


@pytest.mark.parametrize("make", LONG.values(), ids=LONG)
def test_a_hundred_thousand_steps(make):
    """Finite forward and backward, the same gradient whatever is stored."""
    model, steps = make(), 10**5
    at = astype(problem(model, steps), jnp.float32)
    adjoints = (sj.BPTT(), sj.BPTT(chunk=316, store="chunk_starts"))
    (outputs, whole), (_, chunked) = (values_and_gradient(model, adjoint=a)(*at) for a in adjoints)
    assert finite(outputs)
    assert finite(whole)
    assert outputs[-1].shape[0] == steps
    # A weight's gradient is a sum over 10^5 steps, whose order the chunks change.
    assert distance(chunked, whole) < 1e-4
    # d xs: it is neither lost on the way back nor cut short, from the first step to the last.
    d_xs = next(leaf for leaf in whole if leaf.shape == (steps, I))
    assert float(jnp.abs(d_xs[:100]).max()) > 0.01
    assert float(jnp.abs(d_xs[-100:]).max()) > 0.01


def distance(ours, theirs) -> float:
    """The error of everything together, as a vector, relative to its length."""
    ours, theirs = (
        np.concatenate([np.asarray(leaf).astype(np.complex128).ravel() for leaf in leaves])
        for leaves in (ours, theirs)
    )
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


@a_few_now
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_short_floats_keep_their_dtype_and_are_as_exact_as_they_can_be(case, dtype):
    """In units of the dtype's eps, 20 steps, at inputs that it represents exactly.

    Measured over all models, both dtypes and four seeds: outputs 1.25 at most, gradients 3.1
    (`Autodiff` 3.3).
    """
    eps = float(jnp.finfo(dtype).eps)
    short, exact = values_and_gradient(case.make(dtype)), values_and_gradient(case.model)
    for seed in range(2):
        at = astype(problem(case.model, 20, seed=seed), dtype)
        theirs = exact(*astype(at, jnp.float64))
        at = in_dtypes_of(case.make(dtype), at)
        outputs, grads = short(*at)
        assert outputs[-1].dtype == dtype
        assert [leaf.dtype for leaf in grads] == [leaf.dtype for leaf in floats(at)]
        assert distance(outputs, theirs[0]) <= 3 * eps
        assert distance(grads, theirs[1]) <= 7 * eps
        # Rounded to float16 and no further, it is at least a hundredth of that off.
        assert distance(grads, theirs[1]) >= eps / 100


MIXED = {
    "rnn": lambda **dtypes: sj.rnn(I, 4, learn_initial_state=True, **dtypes),
    "lstm": lambda **dtypes: sj.lstm(I, 4, learn_initial_state=True, **dtypes),
    "gru": lambda **dtypes: sj.gru(I, 4, learn_initial_state=True, **dtypes),
    "slstm": lambda **dtypes: sj.slstm(I, 4, **dtypes),
    "dense": lambda **dtypes: sj.dense(I, 4, activation=jnp.tanh, **dtypes),
    "stack": lambda **dtypes: sj.stack(sj.lstm(I, 4, **dtypes), sj.dense(4, 2, **dtypes)),
}


@pytest.mark.parametrize("make", MIXED.values(), ids=MIXED)
def test_float32_parameters_of_a_bfloat16_model(make):
    """Computed in bfloat16; what the optimizer sees is float32."""
    model = make(dtype=jnp.bfloat16, param_dtype=jnp.float32)
    params = model.init(jax.random.key(0))
    xs = normal(jax.ShapeDtypeStruct((10, I), jnp.bfloat16), 3)

    state = model.initial_state(params)
    outputs, grads = values_and_gradient(model)(params, xs, state)
    number = len(floats(params))
    assert {leaf.dtype for leaf in grads[:number]} == {jnp.dtype(jnp.float32)}
    assert {leaf.dtype for leaf in [*grads[number:], *outputs]} == {jnp.dtype(jnp.bfloat16)}
    exact = values_and_gradient(make(dtype=jnp.float64))
    theirs = exact(*astype((params, xs, state), jnp.float64))[1]
    assert distance(grads, theirs) <= 7 * float(jnp.finfo(jnp.bfloat16).eps)


@a_few_now
def test_debug_nans_finds_nothing_in_valid_input(case):
    """A division by zero or an inf · 0 in a rule would be found, masked out or not."""
    model, at = case.model, problem(case.model, 6)
    mask = jnp.array([True, False, True, True, True, False])
    with jax.debug_nans(True), jax.debug_infs(True):
        for options in ({}, {"mask": mask}):
            run = values_and_gradient.__wrapped__(model, **options)  # an array is no key of a cache
            outputs, grads = run(*at)
            assert finite([*outputs, *grads])


@parametrized([c for c in KINDS if c.model.causal and c.model.receptive_field == math.inf])
@pytest.mark.parametrize(
    "adjoint",
    [
        sj.BPTT(),
        *(pytest.param(a, marks=pytest.mark.slow) for a in (sj.BPTT(chunk=3), sj.Autodiff())),
    ],
    ids=str,
)
def test_a_nan_shows_from_its_step_on_and_nowhere_before(case, adjoint):
    model, (params, xs, state) = case.model, problem(case.model, 8)
    run = values_and_gradient(model, adjoint=adjoint)
    clean, _ = run(params, xs, state)
    bad = jnp.nan if is_float(xs) else -1  # no token
    dirty, grads = run(params, xs.at[4].set(bad), state)
    series = [(a, b) for a, b in zip(clean, dirty, strict=True) if a.ndim and a.shape[0] == 8]
    assert len(series) >= 1
    for before, after in series:
        np.testing.assert_array_equal(after[:4], before[:4])
        assert bool(jnp.isnan(after[4:]).all())
    states = [leaf for leaf in dirty if not leaf.ndim or leaf.shape[0] != 8]
    if case.name == "narx":  # its line of inputs has forgotten it
        states = states[1:]
    assert all(bool(jnp.isnan(leaf).all()) for leaf in states)
    d_params = grads[: len(floats(params))]
    assert any(bool(jnp.isnan(leaf).any()) for leaf in d_params)


@a_few_now
@pytest.mark.parametrize(
    "adjoint",
    [
        pytest.param(sj.BPTT(), marks=pytest.mark.slow),
        sj.BPTT(chunk=2, store="chunk_starts"),
    ],
    ids=str,
)
def test_a_precision_context_holds_forward_and_backward(case, adjoint):
    """Every product has the precision that is in force where the model, or its gradient, runs."""
    at = problem(case.model, 4)

    def div(*at):
        return sum(
            jnp.sum(jnp.sin(a).real) for a in floats(sj.unroll(case.model, *at, adjoint=adjoint))
        )

    def within(precision, function):
        def run(*at):
            with jax.default_matmul_precision(precision):
                return function(*at)

        return run

    def products(function):
        text = jax.jit(function).lower(*at).as_text()
        kinds = ("stablehlo.dot_general", "stablehlo.convolution")
        return [line for line in text.splitlines() if any(kind in line for kind in kinds)]

    gradient = grad(div, (0, 1, 2))
    inside = grad(within("highest", div), (0, 1, 2))
    for function in (within("highest", div), within("highest", gradient), inside):
        assert products(function)
        assert all("HIGHEST" in line for line in products(function))
    with jax.default_matmul_precision("highest"):
        assert all("HIGHEST" in line for line in products(gradient))
    assert not any("HIGHEST" in line for line in products(gradient))
