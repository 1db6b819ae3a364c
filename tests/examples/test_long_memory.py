"""examples/long_memory.py: it names every system, draws its figure, and its zeros are zeros.

It runs in a process of its own, as a user runs it: float32, where the suite has float64.
"""

import jax
import numpy as np
import pytest
from support.scripts import imported, refused, run

for needed in ("matplotlib", "rich"):
    pytest.importorskip(needed)

TINY = ["--adding-length=6", "--copy-length=3", "--hidden-size=5", "--batch-size=4", "--updates=3"]


@pytest.fixture(scope="module")
def example():
    return imported("long_memory")


@pytest.mark.slow
def test_it_compares_every_system_and_draws_the_figure(example, tmp_path):
    printed, said = run("long_memory", f"--out={tmp_path}", *TINY, optimized=False)
    assert said == ""
    for title in ("adding, T = 6", "copy, T = 3"):
        assert f"{title} (not as published)" in printed
    for name in example.SYSTEMS:
        assert sum(f"│   {name} " in line for line in printed.splitlines()) == 2
    assert (tmp_path / "long_memory.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["jordan", "elman", "narx", "memory", "rnn", "gru", "lstm"])
@pytest.mark.parametrize("problem", ["adding", pytest.param("copy", marks=pytest.mark.slow)])
def test_where_the_gradient_is_exactly_0(example, problem, name):
    problem = getattr(example, problem)(6)
    model = example.make_system(name, problem.shape, 5)
    params = model.init(jax.random.key(0))
    series = problem.draw(jax.random.split(jax.random.key(1), 3))
    norms = example.gradient_norms(problem, model, params, *series)
    assert norms.shape == (problem.shape[0],)
    assert norms[-1] > 0
    assert np.all(norms[:-1] == 0) if name in ("jordan", "elman") else np.all(norms[:-1] > 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--updates=0"], "--updates: expected an integer of at least 1, got '0'"),
        (["--adding-length=long"], "--adding-length: expected an integer of at least 2, got"),
        (["--learning-rate=nan"], "--learning-rate: expected a number of at least 1e-09, got"),
        (["--systems", "rnn", "hmm"], "--systems: invalid choice: 'hmm'"),
        ([f"--out={__file__}"], "--out: expected a folder, got"),
    ],
)
def test_a_bad_option_is_named(example, capsys, options, message):
    assert message in refused(example, capsys, [*options])
