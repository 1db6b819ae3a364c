"""A batch of series: `vmap` is a loop over them, and their gradients are summed."""

import functools

import jax
import jax.numpy as jnp
import pytest
from support.batches import B, T, at, batch, many, one_by_one, stacked
from support.comparison import assert_close, floats
from support.oracles import outputs_and_gradient, weighted
from support.table import CASES, FEW, KINDS, a_few_now, problem, two_now

import seqjax as sj

IN_AXES = {
    "everything": (0, 0, 0, 0),
    "params and inputs": (0, 0, None, None),  # an ensemble, each member with data of its own
    "params": (0, None, None, None),
    "inputs": (None, 0, None, None),
    "state": (None, None, 0, None),
    "options": (None, None, None, 0),
    "all but params": (None, 0, 0, 0),
}


SWEEP = [
    pytest.param(
        case,
        axes,
        id=f"{case.name}-{name}",
        marks=() if name.startswith("all") and case.name in FEW else pytest.mark.slow,
    )
    for case in KINDS
    for name, axes in IN_AXES.items()
    if case.name in FEW or name in ("everything", "params and inputs", "all but params")
]


@pytest.mark.parametrize(("case", "axes"), SWEEP)
def test_vmap_is_a_loop(case, axes):
    whole = batch(case.model)
    examples = [
        tuple(at(a, 0 if axis is None else n) for a, axis in zip(whole, axes, strict=True))
        for n in range(B)
    ]
    inputs = tuple(at(a, 0) if axis is None else a for a, axis in zip(whole, axes, strict=True))
    batched = many(case.name)
    if axes != IN_AXES["all but params"]:
        batched = jax.jit(jax.vmap(functools.partial(outputs_and_gradient, case.model), axes))
    assert_close(batched(*inputs), stacked(*(one_by_one(case.name)(*e) for e in examples)), 1e-11)


@two_now
def test_nested_vmap_and_an_inner_batch_axis(case):
    """[members, B]: an ensemble over a batch; batch axes that are not the first one."""
    params, xs, state, options = batch(case.model)
    inner = jax.vmap(functools.partial(outputs_and_gradient, case.model), (None, 1, None, 0))
    outer = jax.jit(jax.vmap(inner, (0, None, 0, None), out_axes=1))
    ours = outer(params, jnp.moveaxis(xs, 0, 1), state, options)
    run = one_by_one(case.name)
    rows = [
        stacked(*(run(at(params, m), xs[n], at(state, m), at(options, n)) for m in range(2)))
        for n in range(B)
    ]
    assert_close(jax.tree.map(lambda leaf: leaf[:, :2], ours), stacked(*rows), 1e-11)


@a_few_now
def test_gradient_of_a_batch_is_the_sum_of_per_example_gradients(case):
    model, (params, xs, state, options) = case.model, batch(case.model)
    params = at(params, 0)

    def loss(params, xs, state, options):
        return weighted(sj.unroll(model, params, xs, state, **options))

    over = functools.partial(jax.vmap, in_axes=(None, 0, 0, 0))
    pooled = jax.jit(jax.grad(lambda *args: over(loss)(*args).sum()))(params, xs, state, options)
    each = many(case.name)(params, xs, state, options)[1].params
    assert all(leaf.shape[0] == B for leaf in jax.tree.leaves(each))
    assert_close(pooled, jax.tree.map(lambda leaf: leaf.sum(0), each), 1e-11)


EMPTY = [
    pytest.param(
        case,
        size,
        time,
        id=f"{case.name}-{size}-{time}",
        marks=() if size == 0 < time and not case.variant else pytest.mark.slow,
    )
    for case in CASES
    for size, time in ((0, 4), (0, 0), (3, 0))
]


@pytest.mark.parametrize(("case", "size", "time"), EMPTY)
def test_empty_batches_and_empty_series(case, size, time):
    model, (params, xs, state) = case.model, problem(case.model, 4)
    xs = jnp.broadcast_to(xs[:time], (size, time, *xs.shape[1:]))
    state = jax.tree.map(lambda s: jnp.broadcast_to(s, (size, *s.shape)), state)

    def run(params, xs, state):
        return jax.vmap(functools.partial(sj.unroll, model, params))(xs, state)

    batched = jax.jit(functools.partial(outputs_and_gradient, run))
    (final, ys), grads = batched(params, xs, state, {})
    assert all(y.shape[:2] == (size, time) for y in jax.tree.leaves(ys))
    assert_close(final, state, 1e-11)
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(grads.params))
    assert [leaf.shape for leaf in floats(grads.xs)] == [leaf.shape for leaf in floats(xs)]
    # Nothing lies between the initial state and the final one: its cotangent passes through.
    assert all((leaf != 0).all() for leaf in jax.tree.leaves(grads.state))


@a_few_now
def test_a_batch_of_one(case):
    model, (params, xs, state) = case.model, problem(case.model, T)

    def loss(params, many):
        return weighted(jax.vmap(lambda xs: sj.unroll(model, params, xs, state))(many))

    value, grads = jax.jit(jax.value_and_grad(loss))(params, xs[None])
    assert all(bool(jnp.isfinite(g).all()) for g in floats(grads))
    outputs = jax.jit(sj.unroll, static_argnums=0)(model, params, xs, state)
    assert_close(value, weighted(jax.tree.map(lambda leaf: leaf[None], outputs)), 1e-12)
