"""The sLSTM: the paper's equations, its stabilizer at -∞, its heads, and what only it can learn."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.comparison import assert_close, floats
from support.notes import sigmoid
from support.oracles import gradient_of
from support.table import normal

import seqjax as sj

T, I, H = 9, 3, 4  # noqa: E741
MASK, RESET = np.arange(T) % 3 != 1, np.arange(T) % 4 == 2
CELLS = {
    "heads": sj.slstm(I, H, heads=2),
    "exp": sj.slstm(I, H, forget_gate="exp", heads=4),
}
every_cell = pytest.mark.parametrize("name", CELLS)


def problem(name):
    cell = CELLS[name]
    params = cell.init(jax.random.key(0))
    return cell, params, normal(jnp.zeros((T, I)), 1)


def published(forget_gate, params, xs):
    """The equations of the paper as they stand, unit by unit, without a stabilizer."""
    kernel, blocks, bias = (np.asarray(params[k]) for k in ("kernel", "recurrent_kernel", "bias"))
    size = H // len(blocks)
    h, c, n, ys = np.zeros(H), np.zeros(H), np.zeros(H), []
    for x in np.asarray(xs):
        before = h.copy()
        for unit in range(H):
            head, place = divmod(unit, size)
            z = []
            for gate in range(4):
                column = gate * H + unit
                total = bias[column]
                for j in range(I):
                    total += x[j] * kernel[j, column]
                for j in range(size):
                    weight = blocks[head, j, gate * size + place]
                    total += before[head * size + j] * weight
                z.append(total)
            i = np.exp(z[0])
            f = np.exp(z[1]) if forget_gate == "exp" else sigmoid(z[1])
            c[unit] = f * c[unit] + i * np.tanh(z[2])
            n[unit] = f * n[unit] + i
            h[unit] = sigmoid(z[3]) * c[unit] / n[unit]
        ys.append(h.copy())
    return np.array(ys), c, n


@every_cell
def test_it_is_the_function_of_the_paper(name):
    cell, params, xs = problem(name)
    state, ys = sj.unroll(cell, params, xs)
    expected, c, n = published("exp" if name == "exp" else "sigmoid", params, xs)
    assert_close(ys, jnp.asarray(expected), 1e-13)
    unscaled = [state.c * jnp.exp(state.m), state.n * jnp.exp(state.m)]
    assert_close(unscaled, [jnp.asarray(c), jnp.asarray(n)], 1e-13)
    assert float(state.n.min()) >= 1


def test_the_stabilizer_is_a_running_maximum():
    """What the state holds, not only what cancels in the output."""
    cell, params, xs = problem("exp")
    m, stabilizers = np.full(H, -np.inf), []
    h = np.zeros(H)
    for x, y in zip(np.asarray(xs), published("exp", params, xs)[0], strict=True):
        recurrent = np.concatenate(
            [h[k : k + 1] @ block for k, block in enumerate(np.asarray(params["recurrent_kernel"]))]
        ).reshape(H, 4)
        z = x @ np.asarray(params["kernel"]) + np.asarray(params["bias"]) + recurrent.T.ravel()
        m, h = np.maximum(z[H : 2 * H] + m, z[:H]), y
        stabilizers.append(m)
    for t in (0, 1, T - 1):
        state, _ = sj.unroll(cell, params, xs[: t + 1])
        assert_close(state.m, jnp.asarray(stabilizers[t]), 1e-13)


OPTIONS = {
    "plain": {},
    "first steps invalid": {"mask": np.arange(T) > 2},
    "all": {"mask": MASK, "reset": RESET, "length": T - 1, "reverse": True},
    "no valid step": {"length": 0},
}


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("name", ["heads", pytest.param("exp", marks=pytest.mark.slow)])
def test_from_minus_infinity_no_value_and_no_gradient_is_nan(name, options):
    """A loss of all of the state, m too, and of all outputs; by the rules and by JAX's own."""
    cell, params, xs = problem(name)
    options = OPTIONS[options]
    some_step = options.get("length") != 0

    def run(adjoint, *at):
        state, ys = sj.unroll(cell, *at, adjoint=adjoint, **options)
        return (state if some_step else state._replace(m=jnp.zeros(H))), ys

    at = params, xs, cell.initial_state(params)
    assert bool((at[2].m == -jnp.inf).all())
    with jax.debug_nans(True):
        ours, theirs = (
            gradient_of(functools.partial(run, adjoint))(*at)
            for adjoint in (sj.BPTT(chunk=2), sj.Autodiff())
        )
    assert all(bool(jnp.isfinite(g).all()) for g in floats(ours))
    assert_close(ours, theirs, 1e-11)
    if some_step:
        assert all(float(jnp.abs(g).max()) > 0 for g in floats(ours[:2]))
        # What m = -∞ has wiped out has no gradient.
        assert all(float(jnp.abs(d).max()) == 0 for d in floats(ours.state[1:]))


def test_no_step_leaves_minus_infinity_as_it_is():
    cell, params, xs = problem("heads")
    for options in ({"length": 0}, {"mask": np.zeros(T, bool)}):
        state, ys = sj.unroll(cell, params, xs, **options)
        assert_close(state, cell.initial_state(params), 0)
        assert float(jnp.abs(ys).max()) == 0


def test_infinities_are_compared_as_numbers_are():
    low, other = jnp.array([-jnp.inf, 1.0]), jnp.array([-5.0, 1.0])
    assert_close(low, low, 0)
    for ours, theirs in ((low, other), (other, low), (low, -low), (low * 0, low * 0)):
        with pytest.raises(AssertionError, match="error inf"):
            assert_close(ours, theirs, 1e-3)
    with pytest.raises(AssertionError, match=re.escape("element [1]")):
        assert_close(low, low.at[1].set(1.1), 1e-3)  # the infinity is not what it is relative to


@every_cell
def test_a_tie_of_the_maximum_has_the_derivative_that_jax_gives_it(name):
    cell = CELLS[name]
    spec = jax.eval_shape(cell.initial_state, None)
    state = normal(spec, 1)._replace(n=jnp.ones(H), m=jnp.zeros(H))
    z = cell.project(cell.init(jax.random.key(0)), jnp.ones(I))
    log_f = z.f if name == "exp" else jax.nn.log_sigmoid(z.f)
    z = z._replace(i=log_f + state.m)
    new, pull = jax.vjp(cell.activate, z, state)
    assert_close(new.m, z.i, 0)
    dh = normal(new, 2)
    assert_close(cell.activate_vjp(z, state, new, dh), pull(dh), 1e-13)


def test_a_normalizer_below_1_is_divided_by_as_it_is():
    """FlashRNN's max(n, 1) would give a tenth of it, or another part from another m."""
    cell, params, xs = problem("heads")
    z = cell.project(params, xs[0])._replace(i=jnp.full(H, np.log(0.1)), f=jnp.full(H, 50.0))
    for m in (0.0, 3.0):
        one = jnp.ones(H)
        new = cell.activate(z, sj.SLSTMState(0 * one, 0 * one, 0 * one, m * one))
        assert float(new.n.max()) <= 0.1 + 1e-12
        assert_close(new.h, jax.nn.sigmoid(z.o) * jnp.tanh(z.g), 1e-13)


def test_check_cell_looks_at_it_where_the_stabilizer_is_finite():
    """At -∞ a wrong sign of its gradient, which is zero, would pass."""
    cell = CELLS["heads"]

    def wrong(*arguments):
        dz, d_state = cell.activate_vjp(*arguments)
        return dz, d_state._replace(m=-d_state.m)

    with pytest.raises(AssertionError, match=r"activate_vjp: dh_prev\.m at t=\d"):
        sj.testing.check_cell(dataclasses.replace(cell, activate_vjp=wrong))


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize("forget_gate", ["sigmoid", "exp"])
def test_gates_of_ten_thousand_stay_finite(forget_gate, dtype):
    """Pre-activations of ±10⁴: an exponential of them alone would be infinite."""
    cell = sj.slstm(I, H, forget_gate=forget_gate, dtype=dtype)
    params = jax.tree.map(jnp.zeros_like, cell.init(jax.random.key(0)))
    params["kernel"] = jnp.repeat(jnp.eye(I, 4, dtype=dtype), H, axis=1)
    signs = np.random.default_rng(0).choice([-1.0, 1.0], (20, I))
    xs = jnp.asarray(1e4 * signs, dtype)
    if forget_gate == "exp" and dtype == jnp.float16:
        xs = xs / 4  # a sum of ten of them is beyond float16

    def loss(params, xs):
        state, ys = sj.unroll(cell, params, xs)
        return jnp.sum(ys) + jnp.sum(state.h), (state, ys)

    grads, outputs = jax.grad(loss, (0, 1), has_aux=True)(params, xs)
    assert all(bool(jnp.isfinite(a).all()) for a in floats((grads, outputs)))
    assert float(jnp.abs(outputs[1]).max()) <= 1


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_in_half_precision_the_normalizer_stays_at_1_or_more(dtype):
    """Log f = -0.01 is lost beside m = 100: were f' made of the rounded m, n would fade to 0."""
    cell = sj.slstm(1, 1, forget_gate="exp", dtype=dtype)
    one = jnp.ones(1, dtype)
    state = sj.SLSTMState(0 * one, one, one, 100 * one)
    z = cell.project(cell.init(jax.random.key(0)), one)
    z = z._replace(i=-100 * one, f=-0.01 * one)

    def run(state):
        return jax.lax.fori_loop(0, 5000, lambda _, s: cell.activate(z, s), state)

    state = jax.jit(run)(state)
    assert float(state.n[0]) >= 1
    assert bool(jnp.isfinite(state.h).all())


def holds_block_per(example, block, program):
    """Shapes of a program that hold a head's block once per example."""
    for found in set(re.findall(r"f32\[([\d,]+)\]", program.as_text())):
        shape = tuple(map(int, found.split(",")))
        if {example, *block} <= set(shape) or np.prod((example, *block)) == np.prod(shape):
            yield shape


def test_the_kernels_of_the_heads_are_pooled_over_time_and_batch():
    """One product [T B, H/heads]ᵀ [T B, 4H/heads] for every head, and none per example."""
    time, batch, size, heads = 7, 11, 24, 3
    cell = sj.slstm(5, size * heads, heads=heads, dtype=jnp.float32)
    params = jax.eval_shape(cell.init, jax.random.key(0))
    xs = jax.ShapeDtypeStruct((batch, time, 5), jnp.float32)

    def loss(run, params, xs):
        return jnp.sum(run(params, xs) ** 2)

    def run(params, xs):
        return jax.vmap(lambda xs: sj.unroll(cell, params, xs)[1])(xs)

    program = jax.jit(jax.grad(functools.partial(loss, run))).lower(params, xs).compile()
    assert list(holds_block_per(batch, (size, 4 * size), program)) == []
    rows = rf"f32\[{size},{4 * size}\]\S* dot\(.*(lhs_contracting_dims={{0}}|rhs_contracting)"
    assert len(re.findall(rows, program.as_text())) == heads
    each = jax.vmap(jax.grad(lambda p, x: jnp.sum(run(p, x[None]) ** 2)), (None, 0))
    asked_for = jax.jit(each).lower(params, xs).compile()
    assert list(holds_block_per(batch, (size, 4 * size), asked_for)) != []


def test_sizes_of_heads():
    with pytest.raises(ValueError, match="heads: expected a divisor of hidden_size, 4, got 3"):
        sj.slstm(I, 4, heads=3)
    bounds = {"kernel": 1 / 8, "bias": 1 / 8, "recurrent_kernel": 1 / 4}
    params = sj.slstm(I, 64, heads=4).init(jax.random.key(0))
    for name, bound in bounds.items():
        assert 0.9 * bound < float(jnp.abs(params[name]).max()) <= bound
    forget = sj.slstm(I, 64, forget_bias=2.0).init(jax.random.key(0))["bias"][64:128]
    assert forget.tolist() == [2.0] * 64
