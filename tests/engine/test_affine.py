"""Affine recurrences: as a loop and as an associative scan, the same numbers and gradients."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.comparison import assert_close, floats
from support.oracles import grad, outputs_and_gradient
from support.programs import scans
from support.table import BY_NAME, CASES, I, astype, parametrized, problem

import seqjax as sj
from seqjax.engine.schedule import SCANS, in_parallel

T = 13
AFFINE = [case for case in CASES if getattr(case.model, "coefficients", None)]
every_cell = parametrized(AFFINE)  # the rest with -m slow
# Of a run, and of `BPTT`.
RUNS = {
    "plain": ({}, {}),
    "mask in chunks": (
        {"mask": np.arange(T) % 3 != 1},
        {"chunk": 4, "store": "preactivations"},
    ),
    "everything": (
        {
            "mask": np.arange(T) % 5 != 1,
            "length": T - 1,
            "reset": np.arange(T) % 4 == 2,
            "reverse": True,
        },
        {"truncate": 3, "chunk": 5, "store": "chunk_starts"},
    ),
}


def run(model, options, **of_bptt):
    unroll = functools.partial(sj.unroll, model, adjoint=sj.BPTT(**of_bptt), **options)
    return jax.jit(lambda *at: outputs_and_gradient(unroll, *at, {}))


@every_cell
@pytest.mark.parametrize("of_run", RUNS)
def test_both_ways_are_one(case, of_run):
    """`test_options` holds the loop against a loop over the model's own step."""
    (params, xs, state), (options, of_bptt) = problem(case.model, T), RUNS[of_run]
    loop, tree = (run(case.model, options, **of_bptt, scan=scan) for scan in SCANS)
    one = loop(params, xs, state)
    assert_close(tree(params, xs, state), one, 1e-11)
    two = jax.vmap(tree, (None, 0, None))(params, jnp.stack([-xs, xs]), state)
    assert_close(jax.tree.map(lambda a: a[1], two), one, 1e-11)


@every_cell
@pytest.mark.parametrize("scan", SCANS)
def test_second_order(case, scan):
    def of_gradient(adjoint):
        def loss(params, xs, state):
            last, ys = sj.unroll(case.model, params, xs, state, adjoint=adjoint)
            return jnp.sum(jnp.sin(ys)) + sum(jnp.sum((a * a).real) for a in floats(last))

        first = grad(loss, (0, 1, 2))
        total = lambda *at: sum(jnp.sum(jnp.cos(g).real) for g in floats(first(*at)))
        return jax.jit(grad(total, (0, 1, 2)))(*problem(case.model, 4))

    assert_close(of_gradient(sj.BPTT(scan=scan)), of_gradient(sj.Autodiff()), 1e-10)


def constant(decay, complex_state=False):
    """h(t) = decay h(t-1) + x(t), of which every number is known."""
    dtype = jnp.complex64 if complex_state else jnp.float32
    return sj.Cell(
        init=lambda key: {"decay": jnp.asarray(decay, dtype)},
        initial_state=lambda params: jnp.zeros((), dtype),
        project=lambda params, x: (params["decay"], x.astype(dtype)),
        coefficients=lambda z: z,
        input_spec=jax.ShapeDtypeStruct((), jnp.float32),
    )


@pytest.mark.parametrize("scan", SCANS)
@pytest.mark.parametrize("modulus", [0.999, 1.0 - 2.0**-20, 1.0])
@pytest.mark.parametrize("phase", [0.01, 0.7, 2.0])
def test_a_hundred_thousand_turns_are_exact_to_a_bound(modulus, phase, scan):
    """As below; but the powers of a that an associative scan forms turn, each by a rounded angle.

    Its error is that of products of a, and grows faster: ten times the bound.
    """
    time = 10**5
    a = np.complex64(modulus * np.exp(1j * phase))
    cell = constant(a, complex_state=True)
    xs = np.random.default_rng(0).random(time).astype(np.float32)
    params = cell.init(jax.random.key(0))
    ys = sj.unroll(cell, params, jnp.asarray(xs), adjoint=sj.BPTT(scan=scan))[1]
    exact, h = np.zeros(time, complex), 0.0
    for t in range(time):
        exact[t] = h = complex(a) * h + float(xs[t])
    n = min(time, 1 / max(1 - abs(complex(a)), 1e-5))
    bound = (3 if scan == "loop" else 30) * np.sqrt(n) * np.finfo(np.float32).eps
    assert np.abs(np.asarray(ys) - exact).max() <= bound * np.abs(exact).max()


@pytest.mark.parametrize("scan", SCANS)
@pytest.mark.parametrize("decay", [0.0, 0.5, 0.999, 1.0 - 2.0**-20, 1.0])
def test_a_hundred_thousand_steps_are_exact_to_a_bound(decay, scan):
    """To 3 √n eps of the largest state, n being the steps it remembers: 1 / (1 - |a|), or all.

    Each step rounds once, and n roundings add up like a random walk.
    """
    cell, time = constant(decay), 10**5
    xs = np.random.default_rng(0).random(time).astype(np.float32)
    params = cell.init(jax.random.key(0))
    outputs = lambda params, xs: sj.unroll(cell, params, xs, adjoint=sj.BPTT(scan=scan))[1]
    ys, pull = jax.vjp(jax.jit(outputs), params, jnp.asarray(xs))
    d_params, d_xs = jax.jit(pull)(jnp.asarray(xs[::-1].copy()))
    exact, a = np.zeros(time), float(np.float32(decay))
    h = 0.0
    for t in range(time):
        exact[t] = h = a * h + float(xs[t])
    bound = 3 * np.sqrt(min(time, 1 / max(1 - a, 1e-5))) * np.finfo(np.float32).eps
    assert np.abs(np.asarray(ys, np.float64) - exact).max() <= bound * exact.max()
    # Of cotangents in reverse order, d xs is the series itself, in reverse.
    assert np.abs(np.asarray(d_xs, np.float64)[::-1] - exact).max() <= bound * exact.max()
    by_hand = np.sum(exact[-2::-1] * exact[:-1])
    assert abs(float(d_params["decay"]) - by_hand) <= 2 * bound * by_hand


@every_cell
@pytest.mark.parametrize("scan", SCANS)
@pytest.mark.parametrize("scale", [1e4, -1e4])
def test_saturated_inputs(case, scan, scale):
    """At pre-activations of ±10⁴, in float32, gates are 0 and 1 to the bit, and nothing is NaN."""
    model = case.make(jnp.float32)
    params, xs, state = astype(problem(case.model, T), jnp.float32)
    loop = run(model, {}, scan=scan)(params, scale * jnp.sign(xs), state)
    assert all(bool(jnp.isfinite(a).all()) for a in floats(loop))


@pytest.mark.parametrize(("case", "number"), [("lru", 1), ("min-gru", 2)])
def test_an_a_of_parameters_alone_is_not_repeated_over_time(case, number):
    """Each loop reads a series of states' size, b or ∂L/∂h, and a where it is another one."""
    model = BY_NAME[case].model
    params, xs, _ = problem(model, T)
    loss = lambda params, xs: jnp.sum(sj.unroll(model, params, xs, adjoint=sj.BPTT(scan="loop"))[1])
    loops = list(scans(jax.make_jaxpr(jax.grad(loss))(params, xs).jaxpr))
    assert len(loops) >= 2
    for loop in loops:
        assert [a.aval.shape for a in loop.invars].count((T, 4)) == number


def test_the_choice():
    assert not in_parallel(10**6, "cpu")
    assert in_parallel(1000, "gpu")
    assert in_parallel(1000, "tpu")
    assert not in_parallel(2, "gpu")


def test_refusals():
    both = sj.stack(sj.lru(I, 4, 3, dtype=jnp.float64), sj.lstm(I, 4, dtype=jnp.float64))
    for model in (sj.lstm(I, 4, dtype=jnp.float64), both):
        at = problem(model, 5)
        with pytest.raises(ValueError, match=r"scan: expected None where .*not an affine cell"):
            sj.unroll(model, *at, adjoint=sj.BPTT(scan="associative"))
        sj.unroll(model, *at, adjoint=sj.BPTT(scan="loop"))
    with pytest.raises(ValueError, match="scan: expected one of 'loop', 'associative', got 'tree'"):
        sj.BPTT(scan="tree")
    with pytest.raises(ValueError, match='scan: expected "loop" or None where clip is given'):
        sj.BPTT(scan="associative", clip=1.0)


def test_what_is_given_needs_no_chunk():
    """Where x(t) is (a(t), b(t)) itself, nothing is formed of which a chunk would store less."""
    given = sj.Cell(
        init=lambda key: (), initial_state=lambda params: jnp.zeros(4), coefficients=lambda z: z
    )
    formed = dataclasses.replace(given, coefficients=lambda z: (jnp.tanh(z[0]), z[1]))
    projected = dataclasses.replace(given, project=lambda params, x: (x[0] / 2, x[1]))
    x = jnp.ones(4), jnp.ones(4)
    sizes = [cell.preactivation_bytes((), x[0], x) for cell in (given, formed, projected)]
    assert sizes == [1, x[0].nbytes, x[0].nbytes]
