"""Every option together: mask × reset × length × reverse × chunk × truncate × store × key.

The oracle is a Python loop over the model's own step, differentiated by JAX, in which an
invalid step is not run at all.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.comparison import assert_close
from support.oracles import gradient, loop, outputs_and_gradient, weighted
from support.table import CASES, FEW, parametrized, problem

import seqjax as sj


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
        "seed": draw(st.none() | st.integers(0, 3)),
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

    if run["seed"] is not None:
        options["key"] = key = jax.random.key(run["seed"])
        by_hand["keys"] = [jax.random.fold_in(key, t) for t in range(time)]

    theirs = outputs_and_gradient(functools.partial(loop, model, **by_hand), *at, {})
    adjoint = sj.BPTT(chunk=run["chunk"], truncate=run["truncate"], store=run["store"])
    adjoints = [adjoint] if run["truncate"] else [adjoint, sj.Autodiff()]
    for adjoint in adjoints:
        ours = functools.partial(sj.unroll, model, adjoint=adjoint, **options)
        assert_close(jax.jit(functools.partial(outputs_and_gradient, ours))(*at, {}), theirs, 1e-10)


small = st.sampled_from([c for c in CASES if "stack" not in c.name])


@pytest.mark.slow
@settings(max_examples=12)
@given(small, settings_of_a_run())
def test_options_compose(case, run):
    check(case, run)


@pytest.mark.slow
@settings(max_examples=100)
@given(st.sampled_from(CASES), settings_of_a_run())
def test_options_compose_in_100_draws(case, run):
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
    "seed": 0,
}


@parametrized(CASES, later=lambda case: case.name not in FEW | {"stochastic"})
def test_all_options_at_once(case):
    check(case, FULL)


@pytest.mark.parametrize("chunk", [None, 2])
def test_clip_acts_at_valid_steps_only(chunk):
    """A run with invalid steps taken out has the same clipped gradient."""
    model = sj.lstm(3, 4, dtype=jnp.float64)
    params, xs, state = problem(model, 7)
    mask = jnp.array([1, 0, 1, 1, 0, 1, 0], bool)
    kept = xs[np.flatnonzero(mask)]
    loss = lambda outputs: 1e3 * weighted(outputs[0]) + 1e3 * jnp.sum(outputs[1])
    adjoint = sj.BPTT(clip=0.5, chunk=chunk)
    masked = gradient(model, loss, adjoint=adjoint, mask=mask)(params, xs, state)
    shorter = gradient(model, loss, adjoint=adjoint)(params, kept, state)
    assert_close(masked._replace(xs=masked.xs[np.flatnonzero(mask)]), shorter, 1e-12)
