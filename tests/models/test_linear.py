"""The linear recurrences against the equations of their papers, in literal NumPy loops."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.comparison import assert_close
from support.notes import sigmoid
from support.table import problem

import seqjax as sj
from seqjax.models.rg_lru import bounded_sqrt
from seqjax.models.s5 import hippo

T, I, H, O = 9, 3, 4, 2  # noqa: E741
F64 = {"dtype": jnp.float64}


def g(n):
    return n + 0.5 if n >= 0 else sigmoid(n)


def min_gru(p, x, h, positive):
    z = [sum(x[i] * p["kernel"][i, j] for i in range(I)) + p["bias"][j] for j in range(2 * H)]
    h = [
        (1 - sigmoid(z[j])) * h[j] + sigmoid(z[j]) * (g(z[H + j]) if positive else z[H + j])
        for j in range(H)
    ]
    return np.array(h), np.array(h)


def min_lstm(p, x, h, positive):
    z = [sum(x[i] * p["kernel"][i, j] for i in range(I)) + p["bias"][j] for j in range(3 * H)]
    new = []
    for j in range(H):
        f, i, candidate = sigmoid(z[j]), sigmoid(z[H + j]), z[2 * H + j]
        total = f + i
        new.append(f / total * h[j] + i / total * (g(candidate) if positive else candidate))
    return np.array(new), np.array(new)


def rg_lru(p, x, h, heads):
    block, new = H // heads, []
    for j in range(H):
        head, column = divmod(j, block)
        reads = x[head * block : (head + 1) * block]
        at = lambda k, head=head, reads=reads: sigmoid(
            sum(reads[i] * p["kernel"][head, i, k] for i in range(block))
            + p["bias"][head * 2 * block + k]
        )
        r, i = at(column), at(block + column)
        a = sigmoid(p["decay"][j]) ** (8 * r)
        new.append(a * h[j] + np.sqrt(1 - a**2) * i * x[j])
    return np.array(new), np.array(new)


def complex_of(p, name):
    return p[f"{name}_real"] + 1j * p[f"{name}_imag"]


def lru(p, x, h):
    a = np.exp(-np.exp(p["nu_log"]) + 1j * np.exp(p["theta_log"]))
    h = a * h + np.exp(p["gamma_log"]) * (complex_of(p, "input_kernel").T @ x)
    y = (complex_of(p, "output_kernel").T @ h).real + p["feedthrough_kernel"].T @ x
    return h, y


def s5(p, x, h, timesteps):
    x, elapsed = (x[:-1], x[-1]) if timesteps else (x, 1.0)
    eigenvalues = -np.exp(p["log_decay"]) + 1j * p["frequency"]
    a = np.exp(eigenvalues * np.exp(p["log_timestep"]) * elapsed)
    h = a * h + (a - 1) / eigenvalues * (complex_of(p, "input_kernel").T @ x)
    y = 2 * (complex_of(p, "output_kernel").T @ h).real + p["feedthrough_kernel"].T @ x
    return h, y


CELLS = {
    "min_gru": (sj.min_gru(I, H, **F64), lambda *at: min_gru(*at, False)),
    "min_gru, positive": (
        sj.min_gru(I, H, positive_candidate=True, **F64),
        lambda *at: min_gru(*at, True),
    ),
    "min_lstm": (sj.min_lstm(I, H, **F64), lambda *at: min_lstm(*at, False)),
    "min_lstm, positive": (
        sj.min_lstm(I, H, positive_candidate=True, **F64),
        lambda *at: min_lstm(*at, True),
    ),
    "rg_lru": (sj.rg_lru(H, **F64), lambda *at: rg_lru(*at, 1)),
    "rg_lru, heads": (sj.rg_lru(H, heads=2, **F64), lambda *at: rg_lru(*at, 2)),
    "lru": (sj.lru(I, H, O, **F64), lru),
    "s5": (sj.s5(I, H, O, **F64), lambda *at: s5(*at, False)),
    "s5, timesteps": (sj.s5(I, H, O, blocks=2, timesteps=True, **F64), lambda *at: s5(*at, True)),
}


@pytest.mark.parametrize("name", CELLS)
def test_it_is_the_equation(name):
    cell, equation = CELLS[name]
    size = cell.input_spec.shape[0]
    params, _, state = problem(cell, 1)
    xs = np.random.default_rng(0).standard_normal((T, size))
    h, ys, by_hand = np.asarray(state), [], jax.tree.map(np.asarray, params)
    for t in range(T):
        h, y = equation(by_hand, xs[t], h)
        ys.append(y)
    last, ours = sj.unroll(cell, params, jnp.asarray(xs), state)
    assert_close(ours, np.array(ys), 1e-12)
    assert_close(last, h, 1e-12)


def test_the_eigenvalues_of_lru_are_uniform_on_their_ring():
    cell = sj.lru(I, 20_000, O, r_min=0.6, r_max=0.9, max_phase=1.0)
    params = cell.init(jax.random.key(0))
    radius, phase = np.exp(-np.exp(params["nu_log"])), np.exp(params["theta_log"])
    assert 0.6 <= radius.min() < 0.601
    assert 0.899 < radius.max() <= 0.9
    # The mean of a square that is uniform between two squares; of an angle that is uniform.
    assert abs(np.mean(radius**2) - (0.36 + 0.81) / 2) < 0.003
    assert abs(np.mean(phase) - 0.5) < 0.01
    np.testing.assert_allclose(np.exp(params["gamma_log"]), np.sqrt(1 - radius**2), rtol=1e-5)


def test_the_states_of_lru_have_the_variance_of_its_inputs():
    """What γ is for: white noise in, E|h|² = the sum of E|B x|² with no 1 / (1 - |a|²)."""
    cell = sj.lru(8, 256, 2, r_min=0.5, r_max=0.99)
    xs = jax.random.normal(jax.random.key(1), (4000, 8))
    params = cell.init(jax.random.key(0))
    states = sj.unroll(cell, params, xs)[0]
    assert 0.7 < float(jnp.mean(jnp.abs(states) ** 2)) < 1.3


def test_s5_starts_from_the_eigenvalues_of_hippo():
    """The matrix built entry by entry (Smith et al. 2023, appendix B), and all its eigenvalues."""
    order = 8
    A = np.zeros((order, order))
    for n in range(order):
        for k in range(order):
            A[n, k] = -np.sqrt((2 * n + 1) * (2 * k + 1)) if n > k else -(n + 1) * (n == k)
    p = np.sqrt(np.arange(order) + 0.5)
    normal = A + np.outer(p, p)
    np.testing.assert_allclose(normal @ normal.T, normal.T @ normal, atol=1e-10)
    eigenvalues = np.linalg.eigvals(normal)
    np.testing.assert_allclose(eigenvalues.real, -0.5, atol=1e-10)
    upper = np.sort(eigenvalues.imag[eigenvalues.imag > 0])
    frequencies, vectors = hippo(order)
    np.testing.assert_allclose(frequencies, upper, rtol=1e-10)
    np.testing.assert_allclose(
        normal @ vectors, vectors * (-0.5 + 1j * frequencies), rtol=1e-9, atol=1e-9
    )
    params = sj.s5(I, 8, O, blocks=2).init(jax.random.key(0))
    np.testing.assert_allclose(params["frequency"], [*upper, *upper], rtol=1e-5)
    np.testing.assert_allclose(np.exp(params["log_decay"]), 0.5, rtol=1e-5)


def test_s5_holds_its_input_between_samples():
    """Two steps with the same x are one step that takes as long."""
    cell = sj.s5(I, H, O, timesteps=True, **F64)
    params, _, state = problem(cell, 1)
    x = np.array([0.3, -1.0, 2.0])
    twice = jnp.array([[*x, 0.7], [*x, 1.6]])
    once = jnp.array([[*x, 2.3]])
    two, one = (sj.unroll(cell, params, xs, state) for xs in (twice, once))
    assert_close((two[0], two[1][-1]), (one[0], one[1][-1]), 1e-12)


def test_the_decay_of_rg_lru_starts_where_it_is_asked_to():
    params = sj.rg_lru(2000, a_min=0.3, a_max=0.6).init(jax.random.key(0))
    a = sigmoid(np.asarray(params["decay"], np.float64)) ** 8
    assert 0.3 - 1e-5 < a.min() < 0.303
    assert 0.597 < a.max() < 0.6 + 1e-5
    assert abs(a.mean() - 0.45) < 0.01


def test_the_root_of_rg_lru_has_a_bounded_derivative():
    xs = jnp.array([0.0, 1e-8, 0.25e-6, 1e-4, 0.09])
    np.testing.assert_array_equal(bounded_sqrt(xs), jnp.sqrt(xs))
    slopes = jax.vmap(jax.grad(bounded_sqrt))(xs)
    np.testing.assert_allclose(slopes, [1000, 1000, 1000, 50, 1 / 0.6], rtol=1e-12)
    np.testing.assert_allclose(jax.vmap(jax.jacfwd(bounded_sqrt))(xs), slopes, rtol=1e-14)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_decays_drawn_in_half_precision_are_finite(dtype):
    """Drawn there, an |a| near 1 would be 1."""
    key = jax.random.key(0)
    for cell in (sj.lru(I, 1000, O, dtype=dtype), sj.s5(I, 1000, O, blocks=5, dtype=dtype)):
        assert all(bool(jnp.isfinite(p).all()) for p in jax.tree.leaves(cell.init(key)))
    decay, exact = (sj.rg_lru(1000, dtype=d).init(key)["decay"] for d in (dtype, "float32"))
    assert decay.dtype == dtype
    np.testing.assert_array_equal(decay, exact.astype(dtype))
    assert bool(jnp.isfinite(decay).all())


def test_frequencies_that_half_precision_does_not_hold_are_refused():
    s5 = functools.partial(sj.s5, I, 300, O, dtype="float16")
    with pytest.raises(ValueError, match=r"param_dtype: expected .* up to \d+, got float16"):
        s5().init(jax.random.key(0))
    frequency = s5(param_dtype="float32").init(jax.random.key(0))["frequency"]
    assert float(np.finfo("float16").max) < float(frequency.max()) < math.inf


def test_decays_stay_in_the_dtype_of_the_parameters():
    """Rounded to bfloat16, |a| = 0.999 would be another decay."""
    half = {"dtype": jnp.bfloat16, "param_dtype": jnp.float32}
    for cell, name in (
        (sj.lru(I, H, O, **half), "nu_log"),
        (sj.s5(I, H, O, **half), "log_decay"),
        (sj.rg_lru(H, **half), "decay"),
    ):
        params = cell.init(jax.random.key(0))
        xs = jnp.ones((50, cell.input_spec.shape[0]), jnp.bfloat16)
        run = lambda params, cell=cell, xs=xs: sj.unroll(cell, params, xs)[0]
        rounded = params[name].astype(jnp.bfloat16).astype(jnp.float32)
        assert params[name].dtype == jnp.float32
        assert bool(jnp.any(rounded != params[name]))
        assert bool(jnp.any(run(params | {name: rounded}) != run(params)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sj.rg_lru(4, heads=3), "heads: expected a divisor of the size 4, got 3"),
        (lambda: sj.rg_lru(4, a_min=0.9, a_max=0.5), "a_max: expected a number between a_min"),
        (lambda: sj.rg_lru(4, a_max=1.0), "a_max: expected a number between a_min = 0.9 and 1"),
        (lambda: sj.lru(I, H, O, r_min=0.9, r_max=0.5), "r_max: expected a number above r_min"),
        (lambda: sj.lru(I, H, O, r_max=1.5), "r_max: expected a number above r_min = 0, at most 1"),
        (lambda: sj.s5(I, 4, O, blocks=3), "blocks: expected a divisor of the hidden size 4"),
        (lambda: sj.s5(I, H, O, dt_min=0.5), "dt_max: expected a number above dt_min = 0.5"),
        (
            lambda: sj.Cell(
                init=lambda key: {},
                initial_state=lambda params: jnp.zeros(()),
                preactivate=lambda params, h, u: u,
                coefficients=lambda z: z,
            ),
            "preactivate: expected None beside coefficients",
        ),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        call()


def own(coefficients, state=jnp.zeros(2), **options):  # noqa: B008  an array does not change
    return sj.Cell(
        init=lambda key: {},
        initial_state=lambda params: state,
        coefficients=coefficients,
        input_spec=jax.ShapeDtypeStruct((2,), jnp.float64),
        **options,
    )


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (own(lambda z: z), r"coefficients: expected a function that returns \(a, b\)"),
        (own(lambda z: (z, z[:1])), r"the b that coefficients returns: expected .*\[2\]"),
        (own(lambda z: (z[0], z)), r"the a that coefficients returns: expected .*\[2\]"),
        (
            own(lambda z: (z, z.astype(jnp.float32))),
            r"the b that coefficients returns: expected float64\[2\]",
        ),
        (own(lambda z: (z, z), jnp.arange(2)), "the initial state: expected floating or complex"),
        (
            own(lambda z: (z, z), feedthrough=lambda params, x: x[:1]),
            "what feedthrough returns: expected",
        ),
    ],
)
@pytest.mark.parametrize("adjoint", [sj.BPTT(), sj.Autodiff()], ids=["bptt", "autodiff"])
def test_what_coefficients_return_is_checked(cell, message, adjoint):
    with pytest.raises((TypeError, ValueError), match=message):
        sj.unroll(cell, {}, jnp.ones((3, 2)), adjoint=adjoint)
    with pytest.raises((TypeError, ValueError), match=message):
        cell.step({}, cell.initial_state({}), jnp.ones(2))


def test_coefficients_are_replaced_with_what_follows_from_them():
    cell = own(lambda z: (z, z))
    other = dataclasses.replace(cell, coefficients=lambda z: (z * 0, z))
    xs = jnp.ones((3, 2))
    assert sj.unroll(other, {}, xs)[1].tolist() == xs.tolist()
    assert sj.unroll(cell, {}, xs)[1][:, 0].tolist() == [1, 2, 3]
