"""Models as programs: the same bits as here, also in a process without seqjax."""

import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.comparison import assert_close
from support.table import CASES, series

import seqjax as sj

KEY = jax.random.key(0)
NOW = ("lstm-learned", "own-step", "stack", "lru", "narx", "bidirectional", "embed")
SWEEP = [
    pytest.param(case, id=case.name, marks=() if case.name in NOW else pytest.mark.slow)
    for case in CASES
]


@pytest.mark.parametrize("case", SWEEP)
def test_every_model_runs_the_same_bits(case):
    model, params = case.model, case.model.init(KEY)
    xs, length = series(model, 1, 3, 7), np.array([7, 0, 4], np.int32)
    first = jax.tree.map(lambda series: series[:, 0], xs)
    x = jax.eval_shape(lambda: xs[0, 0]) if model.input_spec is None else None
    programs = sj.export(model, params, x=x, platforms=["cpu"])

    @jax.jit
    def run(state, xs, length):
        one = lambda state, x, n: sj.unroll(model, params, x, state, length=n)
        return jax.vmap(one)(state, xs, length)

    state = jax.vmap(model.initial_state, None, axis_size=3)(params)
    plain = programs.initial_state.call(first)
    assert_close(jax.tree.leaves(by_name(state)), jax.tree.leaves(plain), 0)
    expected, ys = run(state, xs, length)
    final, ours = programs.unroll.call(plain, xs, length)
    assert_close(ours, ys, 0)
    assert_close(jax.tree.leaves(final), jax.tree.leaves(by_name(expected)), 0)
    if model.causal:
        step = jax.jit(jax.vmap(lambda state, x: model.step(params, state, x)))
        (state, y), (plain, ours) = step(state, first), programs.step.call(plain, first)
        assert_close(ours, y, 0)
        assert_close(jax.tree.leaves(plain), jax.tree.leaves(by_name(state)), 0)
    else:
        assert programs.step is None


def by_name(tree):
    """Dicts in the place of named tuples."""
    if hasattr(tree, "_asdict"):
        tree = tree._asdict()
    if isinstance(tree, dict):
        return {name: by_name(part) for name, part in tree.items()}
    return type(tree)(map(by_name, tree)) if isinstance(tree, (tuple, list)) else tree


STREAM = """
import sys
sys.modules["seqjax"] = None
import jax, numpy as np
jax.config.update("jax_enable_x64", True)
folder = sys.argv[1]
read = lambda name: jax.export.deserialize(open(f"{folder}/{name}", "rb").read())
step, start, whole = read("step").call, read("initial_state").call, read("unroll").call
xs = np.load(f"{folder}/xs.npy")
state, ys = start(xs[:, 0]), []
for t in range(xs.shape[1]):
    state, y = step(state, xs[:, t])
    ys.append(y)
assert sorted(state[0]) == ["c", "h"]
np.save(f"{folder}/streamed.npy", np.stack(ys, 1))
np.save(f"{folder}/whole.npy", whole(start(xs[:, 0]), xs, np.full(len(xs), xs.shape[1], "i4"))[1])
print(read("step").platforms, "seqjax" in dir())
"""


def test_it_streams_in_a_process_without_seqjax(tmp_path):
    model = sj.stack(
        sj.lstm(3, 4, learn_initial_state=True), sj.lru(4, 3, 4), sj.gru(4, 2), sj.dense(2, 2)
    )
    params, xs = model.init(KEY), series(model, 0, 5, 9)
    for name, program in sj.export(model, params)._asdict().items():
        (tmp_path / name).write_bytes(program.serialize())
    np.save(tmp_path / "xs.npy", xs)
    command = [sys.executable, "-c", STREAM, str(tmp_path)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert said.strip() == "('cpu', 'cuda', 'tpu') False"
    step = jax.jit(jax.vmap(lambda state, x: model.step(params, state, x)))
    state, streamed = jax.vmap(model.initial_state, None, axis_size=5)(params), []
    for t in range(9):
        state, y = step(state, xs[:, t])
        streamed.append(y)
    whole = jax.jit(jax.vmap(lambda xs: sj.unroll(model, params, xs, length=9)[1]))(xs)
    assert_close(np.load(tmp_path / "streamed.npy"), np.stack(streamed, 1), 0)
    assert_close(np.load(tmp_path / "whole.npy"), np.asarray(whole), 0)
    assert_close(np.load(tmp_path / "whole.npy"), np.stack(streamed, 1), 1e-12)


def test_what_cannot_be_exported():
    cell = sj.rnn(3, 4)
    params = cell.init(KEY)
    own = sj.from_step(lambda key: (), lambda p, s, x: (s, x), lambda p: jnp.zeros(()))
    for run, message in (
        (lambda: sj.export(own, ()), "x: expected shape and dtype of one x(t), which from_step("),
        (lambda: sj.export(cell, params, platforms=["gpu"]), "platforms: expected one of 'cpu',"),
        (lambda: sj.export(cell, params, platforms=[]), "platforms: expected at least one"),
        (lambda: sj.export(cell, {}), "params: expected a dict of"),
    ):
        with pytest.raises((ValueError, TypeError), match=re.escape(message)):
            run()
