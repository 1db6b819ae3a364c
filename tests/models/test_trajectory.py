"""The states of all steps, and the gradient that each of them gets."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.comparison import assert_close, floats, is_float
from support.oracles import clipper, weighted
from support.table import BY_NAME, CASES, I, normal, parametrized, problem

import seqjax as sj

T = 6
NOW = ("lstm-learned", "narx", "tdnn", "own-step", "stochastic")
a_few = parametrized(
    [case for case in CASES if case.model.causal], later=lambda case: case.name not in NOW
)


@a_few
def test_states_are_those_of_a_loop(case):
    """With every option, and an ε(t) in each state that it is the gradient of."""
    model, (params, xs, state) = case.model, problem(case.model, T)
    key, valid, again = jax.random.key(3), jnp.arange(T) != 2, jnp.arange(T) == 4
    zeros = lambda a: jnp.zeros((T, *a.shape), a.dtype) if is_float(a) else jnp.stack([a] * T)
    nothing = jax.tree.map(zeros, state)

    @jax.jit
    def ours(epsilons):
        run = sj.trajectory(
            model, params, xs, state, perturb=epsilons, mask=valid, reset=again, key=key
        )
        return weighted(run), run

    step = jax.jit(model.step)
    carried, expected = state, []
    for t in range(T):
        draws = {"key": jax.random.fold_in(key, t)} if model.stochastic else {}
        carried = model.initial_state(params) if again[t] else carried
        if valid[t]:
            carried, y = step(params, carried, xs[t], **draws)
            expected.append((y, carried))
    _, (last, ys, states) = ours(nothing)
    assert_close(last, carried, 1e-12)
    kept = np.flatnonzero(valid)
    assert_close(
        floats(jax.tree.map(lambda a: a[kept], (ys, states))),
        floats(jax.tree.map(lambda *a: jnp.stack(a), *expected)),
        1e-12,
    )
    assert all(not np.asarray(a[2]).any() for a in floats((ys, states)))

    # The gradient is that of differences, and zero at the invalid step.
    grads, _ = jax.grad(ours, has_aux=True, allow_int=True)(nothing)
    assert all(not np.asarray(g[2]).any() for g in floats(grads))
    if case.partial or case.name == "zoneout-elman":  # a gradient that is cut is no difference
        return
    direction = normal(nothing, 7)
    moved = lambda h: jax.tree.map(lambda a, d: a + h * d if is_float(a) else a, nothing, direction)
    h = 1e-6
    difference = (ours(moved(h))[0] - ours(moved(-h))[0]) / (2 * h)
    pairs = zip(floats(grads), floats(direction), strict=True)
    ours_along = sum(jnp.vdot(g.conj(), d).real for g, d in pairs)
    assert_close(ours_along, difference, 1e-6)


def test_the_gradient_of_a_state_is_that_of_all_that_depends_on_it():
    """λ(t) of the notes: of a stack, layer by layer, with the y(t) that is made of h(t)."""
    model = sj.stack(sj.rnn(I, 4), sj.lstm(4, 3), sj.dense(3, 2))
    params, xs, state = problem(model, T)
    rnn, lstm, dense = params

    def by_hand(epsilons, clipped=lambda h: h):
        h, s = state[:2]
        total = 0.0
        for t in range(T):
            h = jnp.tanh(xs[t] @ rnn["kernel"] + rnn["bias"] + h @ rnn["recurrent_kernel"])
            h = clipped(h + epsilons[0][t])
            s, _ = model.models[1].step(lstm, s, h)
            s = clipped(jax.tree.map(jnp.add, s, jax.tree.map(lambda e, t=t: e[t], epsilons[1])))
            total += jnp.sin(jnp.sum(s.h @ dense["kernel"] + dense["bias"]) * (t + 1))
        return total

    def ours(epsilons, **options):
        _, ys, _ = sj.trajectory(model, params, xs, state, perturb=epsilons, **options)
        return jnp.sum(jnp.sin(ys.sum(1) * jnp.arange(1.0, T + 1)))

    nothing = jax.tree.map(lambda a: jnp.zeros((T, *a.shape)), state)
    theirs = jax.jit(jax.grad(by_hand))(nothing)
    for adjoint in (sj.BPTT(), sj.BPTT(chunk=4), sj.Autodiff()):
        grads = jax.jit(jax.grad(functools.partial(ours, adjoint=adjoint)))(nothing)
        assert_close(grads, theirs, 1e-12)
    clipped = functools.partial(ours, adjoint=sj.BPTT(clip=0.5))
    theirs = jax.jit(jax.grad(functools.partial(by_hand, clipped=clipper(0.5))))(nothing)
    assert_close(jax.jit(jax.grad(clipped))(nothing), theirs, 1e-12)
    assert max(float(abs(g).max()) for g in jax.tree.leaves(theirs)) == 0.5


@pytest.mark.parametrize(
    ("model", "perturb", "kind", "message"),
    [
        (
            BY_NAME["bidirectional"].model,
            None,
            TypeError,
            "model: expected a model that reads no input after t, whose steps have states, got ",
        ),
        (BY_NAME["gru"].model, jnp.ones(3), ValueError, "perturb: expected float64[3, 4], got "),
        (
            BY_NAME["lstm"].model,
            (jnp.ones((3, 4)),) * 2,
            ValueError,
            "perturb: expected LSTMState(h, c), got a tuple of 2",
        ),
    ],
)
def test_errors(model, perturb, kind, message):
    params, xs, _ = problem(model, 3)
    with pytest.raises(kind, match=re.escape(message)):
        sj.trajectory(model, params, xs, perturb=perturb)


@pytest.mark.parametrize(
    ("adjoint", "message"),
    [
        (sj.BPTT(over="time"), "adjoint: expected one without over: sj.trajectory runs step after"),
        (sj.BPTT(scan="associative"), "scan: expected None where steps run one after the other"),
    ],
)
def test_steps_run_one_after_the_other(adjoint, message):
    model = BY_NAME["min-gru"].model
    params, xs, _ = problem(model, 3)
    with pytest.raises(ValueError, match=re.escape(message)):
        sj.trajectory(model, params, xs, adjoint=adjoint)
