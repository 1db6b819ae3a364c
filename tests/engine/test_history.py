"""What a recurrence keeps of its past: reads, pushes and their transposes, by a plain loop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.comparison import assert_close
from support.table import normal

from seqjax.engine.history import LAST_STEP, Delays
from seqjax.engine.recurrence import Steps

T, O = 11, 2  # noqa: E741
DELAYS = [(1,), (1, 2, 3), (3,), (2, 3, 7), (1, 5, 6, 20)]
rows = lambda count, seed: normal(jax.ShapeDtypeStruct((count, O), jnp.float64), seed)


def random_steps(seed, *, masked, reset):
    rng = np.random.default_rng(seed)
    valid = rng.random(T) < 0.6
    flags = (rng.random(T) < 0.3) & (valid if masked else True)
    return Steps(jnp.asarray(valid) if masked else None, jnp.asarray(flags) if reset else None)


@pytest.mark.parametrize("delays", DELAYS)
def test_the_rules_are_the_transposes_of_read_and_push(delays):
    history, line, h_t = Delays(delays), rows(delays[-1], 1), rows(1, 2)[0]
    assert history.read(line).tolist() == [line[-delay].tolist() for delay in delays[::-1]]
    assert history.newest(history.push(line, h_t)).tolist() == h_t.tolist()
    (read, after), pull = jax.vjp(lambda *at: (history.read(at[0]), history.push(*at)), line, h_t)
    d_read, d_after = normal(read, 3), normal(after, 4)
    theirs = list(pull((d_read, d_after)))
    ours = history.before([d_after], [d_read]), history.newest([d_after])
    assert_close(jax.tree.leaves(ours), theirs, 1e-14)
    (unread,) = history.before([d_after], None)
    np.testing.assert_array_equal(unread, pull((jnp.zeros_like(read), d_after))[0])
    (added,) = history.add([d_after], [h_t])
    np.testing.assert_array_equal(added, d_after.at[-1].add(h_t))
    assert history.add([d_after], [None]) == [d_after]


def test_the_rules_of_a_single_step():
    state, d = rows(1, 1), rows(1, 2)
    assert LAST_STEP.push(rows(1, 3), state) is LAST_STEP.newest(state) is state
    (added,) = LAST_STEP.add([state], [d])
    np.testing.assert_array_equal(added, state + d)
    assert LAST_STEP.add([state], [None]) == [state]
    assert LAST_STEP.before([state], [d]) == [d]
    np.testing.assert_array_equal(LAST_STEP.before([state], None), jnp.zeros_like(state)[None])


@pytest.mark.parametrize("history", [LAST_STEP, *map(Delays, DELAYS)], ids=str)
@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_what_each_step_read_is_found_again(history, masked, reset):
    size = history.delays[-1] if isinstance(history, Delays) else 1
    first, start = rows(size, 1), rows(size, 2)
    if history is LAST_STEP:
        first, start = first[0], start[0]
    for seed in range(10):
        steps, results = random_steps(seed, masked=masked, reset=reset), rows(T, 3)
        state, hs, theirs = first, [], []
        for t in range(T):
            if reset and steps.reset[t]:
                state = start
            theirs.append(history.read(state))
            if not masked or steps.valid[t]:
                state = history.push(state, results[t])
            hs.append(history.newest(state))
        ours = history.entering(first, start if reset else None, jnp.stack(hs), steps)
        np.testing.assert_array_equal(ours, jnp.stack(theirs))
