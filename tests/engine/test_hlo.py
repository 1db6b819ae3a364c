"""What XLA makes of it: which arrays the compiled gradient holds, and how much memory."""

import functools
import itertools
import math
import re

import jax
import jax.numpy as jnp
import pytest
from support.programs import scans

import seqjax as sj

GATES = {"lstm": 4, "gru": 3, "rnn": 1, "slstm": 4}
WHOLE = sj.BPTT(chunk=10**6, store="states")
ADJOINTS = [
    sj.BPTT(),
    WHOLE,
    sj.BPTT(chunk=8, store="states"),
    sj.BPTT(chunk=8, store="preactivations"),
]
every_cell = pytest.mark.parametrize("name", GATES)


def make(name, input_size, hidden_size):
    return getattr(sj, name)(input_size, hidden_size, dtype=jnp.float32)


def arguments(cell, time, *batch):
    params = jax.eval_shape(cell.init, jax.random.key(0))
    state = jax.eval_shape(cell.initial_state, params)
    lead = lambda leaf, *axes: jax.ShapeDtypeStruct((*axes, *leaf.shape), leaf.dtype)
    xs = lead(cell.input_spec, *batch, time)
    return params, xs, jax.tree.map(lambda leaf: lead(leaf, *batch), state)


def energy(outputs):
    return sum(jnp.sum(leaf * leaf) for leaf in jax.tree.leaves(outputs))


def of_one(cell, adjoint):
    return lambda *at: energy(sj.unroll(cell, *at, adjoint=adjoint))


def with_a_rule_for_the_weights(cell, adjoint):
    """The obvious custom_vjp, whose backward pass returns the gradient of the weights."""
    run = of_one(cell, adjoint)
    rule = jax.custom_vjp(run)
    rule.defvjp(
        lambda *at: (run(*at), at),
        lambda at, d: jax.tree.map(lambda g: d * g, jax.grad(run, (0, 1, 2))(*at)),
    )
    return rule


def of_batch(run):
    """Gradient by params, xs, state of the sum over a vmapped batch."""
    batched = jax.vmap(run, (None, 0, 0))
    return jax.grad(lambda *at: jnp.sum(batched(*at)), (0, 1, 2))


def compiled(function, at):
    return jax.jit(function).lower(*at).compile()


def shapes(program):
    """Every float32 shape in the text of a program."""
    for found in set(re.findall(r"f32\[([\d,]+)\]", program.as_text())):
        yield tuple(map(int, found.split(",")))


def holds_weights_per(count, rows, columns, program):
    """Shapes of at least `count` weights, whose own dimensions, or their product, they have."""
    for shape in shapes(program):
        partial = {
            math.prod(part) for n in range(1, 3) for part in itertools.combinations(shape, n)
        }
        of_weight = {rows, columns} <= set(shape) or rows * columns in partial
        if math.prod(shape) >= count * rows * columns and of_weight:
            yield shape


# T < I in all of them: the pre-activations [T, B, G·H] are smaller than [B, I, G·H].
SIZES = [
    pytest.param("lstm", 128, 32, 256, id="lstm-large"),
    ("lstm", 24, 16, 48),
    ("gru", 24, 16, 48),
    pytest.param("slstm", 24, 16, 48, marks=pytest.mark.slow),
    pytest.param("rnn", 24, 16, 48, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("name", "time", "batch", "size"), SIZES)
def test_no_weight_gradient_per_example(name, time, batch, size):
    cell = make(name, size, size)
    at = arguments(cell, time, batch)
    columns = GATES[name] * size
    for adjoint in ADJOINTS:
        program = compiled(of_batch(of_one(cell, adjoint)), at)
        assert list(holds_weights_per(batch, size, columns, program)) == []
        assert (size, columns) in shapes(program)  # the pooled one is there, so shapes are read
    naive = compiled(of_batch(with_a_rule_for_the_weights(cell, sj.BPTT())), at)
    assert (batch, size, columns) in holds_weights_per(batch, size, columns, naive)
    examples = jax.vmap(jax.grad(of_one(cell, sj.BPTT()), (0, 1, 2)), (None, 0, 0))
    asked_for = compiled(examples, at)
    assert (batch, size, columns) in holds_weights_per(batch, size, columns, asked_for)


def carried(function, at):
    """For each scan of a function: the last two sizes of the arrays it carries."""
    for scan in scans(jax.make_jaxpr(function)(*at).jaxpr):
        # What is stacked has an axis more outside than in the body.
        pairs = zip(scan.outvars, scan.params["jaxpr"].jaxpr.outvars, strict=True)
        yield {v.aval.shape[-2:] for v, inner in pairs if v.aval.shape == inner.aval.shape}


@every_cell
@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("store", ["states", "preactivations"])
def test_no_loop_over_time_accumulates_a_weight_gradient(name, batched, store):
    """In the jaxpr of the gradient: `Autodiff` carries an array like the kernel, BPTT none."""
    cell = make(name, 5, 7)
    at = arguments(cell, 20, *([11] if batched else []))
    recurrent_kernel = (7, GATES[name] * 7)

    def loops(adjoint):
        run = of_one(cell, adjoint)
        return list(carried(of_batch(run) if batched else jax.grad(run, (0, 1, 2)), at))

    by_hand = loops(sj.BPTT(store=store))
    assert len(by_hand) == 2  # one over time, one back
    assert not any(recurrent_kernel in carry for carry in by_hand)
    assert any(recurrent_kernel in carry for carry in loops(sj.Autodiff()))


def temporary(cell, time, adjoint, batch=()):
    """Bytes of temporary memory of the gradient of a function of the final state."""
    run = lambda *at: energy(sj.unroll(cell, *at, adjoint=adjoint)[0])
    gradient = of_batch(run) if batch else jax.grad(run, (0, 1, 2))
    return compiled(gradient, arguments(cell, time, *batch)).memory_analysis().temp_size_in_bytes


@every_cell
def test_memory_is_linear_in_time_without_chunks(name):
    cell = make(name, 4, 32)
    assert 3 <= temporary(cell, 1024, WHOLE) / temporary(cell, 256, WHOLE) <= 5


@every_cell
def test_memory_grows_as_the_root_of_time_with_chunk_starts(name):
    """16 times the steps, 4 times the memory (3.4 to 4.0 measured); with all states 9 to 13."""
    cell = make(name, 4, 32)
    growth = {}
    for store in ("chunk_starts", "states"):
        short, long = (
            temporary(cell, time, sj.BPTT(chunk=math.isqrt(time), store=store))
            for time in (256, 4096)
        )
        growth[store] = long / short
    assert growth["chunk_starts"] <= 4.6
    assert growth["states"] >= 7


@every_cell
def test_chunks_and_what_they_store_order_the_memory(name):
    """At T = 256, B = 8; measured: half to a third by chunks, a third less by their starts."""
    cell = make(name, 4, 32)
    whole, states, starts = (
        temporary(cell, 256, adjoint, (8,))
        for adjoint in (
            WHOLE,
            sj.BPTT(chunk=16, store="states"),
            sj.BPTT(chunk=16, store="chunk_starts"),
        )
    )
    assert starts < 0.7 * states
    assert states < 0.5 * whole


@pytest.mark.parametrize("stacked", [False, True])
def test_an_own_step_costs_what_a_scan_of_it_costs(stacked):
    """As many operations and bytes as `lax.scan` of the same step takes, forward and backward."""

    def step(params, h, x):
        h = jnp.tanh(x @ params["w"] + h @ params["r"] + params["b"])
        return h, h

    size, time, batch = 16, 64, 8
    params = {"w": jnp.ones((size, size)), "r": jnp.ones((size, size)), "b": jnp.ones(size)}
    own = sj.from_step(lambda key: params, step, lambda params: jnp.zeros(size))
    stack = sj.stack(own, jnp.cos)

    def cost(run):
        of = lambda params, xs: jnp.sum(jax.vmap(run, (None, 0))(params, xs)[1])
        xs = jnp.ones((batch, time, size))
        found = jax.jit(jax.grad(of, (0, 1))).lower(params, xs).compile()
        return found.cost_analysis()["flops"], found.memory_analysis().temp_size_in_bytes

    def plainly(params, xs):
        state, ys = jax.lax.scan(functools.partial(step, params), jnp.zeros(size), xs)
        return state, jnp.cos(ys) if stacked else ys

    in_stack = lambda params, xs: sj.unroll(stack, (params, ()), xs)
    plain, ours = cost(plainly), cost(in_stack if stacked else functools.partial(sj.unroll, own))
    assert all(a <= 1.05 * b for a, b in zip(ours, plain, strict=True))
