"""Every option together: mask × reset × length × reverse × chunk × truncate × clip × store.

The oracle is a Python loop over the model's own step, differentiated by JAX, in which an
invalid step is not run at all.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import CASES, every_variant, floats, gradient, merged, problem, relative_error, weighted
from hypothesis import given, settings
from hypothesis import strategies as st

import seqjax as sj
from seqjax.compose.bidirectional import Bidirectional
from seqjax.compose.stack import Stack


def loop(model, params, xs, state, *, valid, reset, reverse, truncate):
    """What the options mean, one step after the other, in plain Python."""
    time = len(valid)
    how = {"valid": valid, "reset": reset, "reverse": reverse, "truncate": truncate}
    if isinstance(model, Stack):
        last = []
        for layer, p, s in zip(model.models, params, state, strict=True):
            s, xs = loop(layer, p, xs, s, **how)
            last.append(s)
        return tuple(last), xs
    if isinstance(model, Bidirectional):
        forth = loop(model.forward, params["forward"], xs, state["forward"], **how)
        how |= {"reset": of_the_other_way(valid, reset, reverse), "reverse": not reverse}
        back = loop(model.backward, params["backward"], xs, state["backward"], **how)
        return {"forward": forth[0], "backward": back[0]}, merged(model, forth[1], back[1])
    ys = [None] * time
    order = [t for t in range(time) if valid[t]]
    for number, t in enumerate(order[::-1] if reverse else order):
        if truncate is not None and number and number % truncate == 0:
            state = jax.tree.map(jax.lax.stop_gradient, state)
        if reset[t]:
            state = model.initial_state(params)
        state, ys[t] = model.step(params, state, jax.tree.map(lambda a, t=t: a[t], xs))
    x = jax.tree.map(lambda a: a[0], xs)
    y = jax.tree.map(jnp.zeros_like, jax.eval_shape(model.step, params, state, x)[1])
    ys = [y if step is None else step for step in ys]
    return state, jax.tree.map(lambda *steps: jnp.stack(steps), *ys)


def of_the_other_way(valid, reset, reverse):
    """Where a net that reads the other way comes into another series."""
    order = [t for t in range(len(valid)) if valid[t]]
    order = order[::-1] if reverse else order
    other = np.zeros(len(valid), bool)
    for before, after in itertools.pairwise(order):
        other[before] = reset[after]
    return other


@st.composite
def settings_of_a_run(draw):
    time = draw(st.integers(1, 7))
    flags = st.none() | st.lists(st.booleans(), min_size=time, max_size=time)
    some = lambda most: st.none() | st.integers(1, most)
    return {
        "time": time,
        "mask": draw(flags),
        "length": draw(st.none() | st.integers(0, time)),
        "reset": draw(flags),
        "reverse": draw(st.booleans()),
        "chunk": draw(some(time + 1)),
        "truncate": draw(some(time + 1)),
        "store": draw(st.sampled_from(["states", "preactivations", "chunk_starts"])),
    }


def check(case, run):
    time, mask, length, reset = (run[k] for k in ("time", "mask", "length", "reset"))
    model, at = case.model, problem(case.model, time, seed=time)
    valid = np.arange(time) < (time if length is None else length)
    valid &= np.ones(time, bool) if mask is None else np.array(mask)
    options = {
        "mask": None if mask is None else jnp.array(mask),
        "length": length,
        "reset": None if reset is None else jnp.array(reset),
        "reverse": run["reverse"],
    }
    by_hand = {"valid": valid, "reset": np.zeros(time, bool) if reset is None else reset}
    by_hand |= {"reverse": run["reverse"], "truncate": run["truncate"]}

    def plain(*at):
        outputs = loop(model, *at, **by_hand)
        return weighted(outputs), outputs

    theirs, outputs = jax.jit(jax.grad(plain, (0, 1, 2), has_aux=True, allow_int=True))(*at)
    adjoint = sj.BPTT(chunk=run["chunk"], truncate=run["truncate"], store=run["store"])
    ours = gradient(model, adjoint=adjoint, **options)(*at)
    assert relative_error(ours, floats(theirs)) <= 1e-10
    ran = jax.jit(lambda *at: sj.unroll(model, *at, adjoint=adjoint, **options))(*at)
    assert relative_error(floats(ran), floats(outputs)) <= 1e-12
    if run["truncate"] is None:
        plain_scan = gradient(model, adjoint=sj.Autodiff(), **options)(*at)
        assert relative_error(plain_scan, floats(theirs)) <= 1e-10


small = st.sampled_from([c for c in CASES if "stack" not in c.name])


@settings(max_examples=12)
@given(small, settings_of_a_run())
def test_options_compose(case, run):
    check(case, run)


@pytest.mark.slow
@settings(max_examples=200)
@given(st.sampled_from(CASES), settings_of_a_run())
def test_options_compose_in_200_draws(case, run):
    check(case, run)


FULL = {
    "time": 7,
    "mask": [True, False, True, True, False, True, True],
    "length": 6,
    "reset": [False, True, False, True, True, False, True],
    "reverse": True,
    "chunk": 2,
    "truncate": 5,
    "store": "states",
}


@every_variant
def test_all_options_at_once(case):
    check(case, FULL)


@pytest.mark.parametrize("chunk", [None, 2])
def test_clip_acts_at_valid_steps_only(chunk):
    """A run with invalid steps taken out has the same clipped gradient."""
    model = sj.lstm(3, 4, dtype=jnp.float64)
    params, xs, state = problem(model, 7)
    mask = jnp.array([1, 0, 1, 1, 0, 1, 0], bool)
    kept = xs[np.flatnonzero(mask)]
    div = lambda outputs: 1e3 * weighted(outputs[0]) + 1e3 * jnp.sum(outputs[1])
    adjoint = sj.BPTT(clip=0.5, chunk=chunk)
    masked = gradient(model, div, adjoint=adjoint, mask=mask)(params, xs, state)
    shorter = gradient(model, div, adjoint=adjoint)(params, kept, state)
    masked[-3] = masked[-3][np.flatnonzero(mask)]  # d xs
    assert relative_error(masked, shorter) <= 1e-12
