"""examples/long_memory.py: it names every system, draws its figure, and its zeros are zeros.

It runs in a process of its own, as a user runs it: float32, where the suite has float64.
"""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

for needed in ("matplotlib", "rich"):
    pytest.importorskip(needed)

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "examples" / "long_memory.py"
TINY = ["--adding-length=6", "--copy-length=3", "--hidden-size=5", "--batch-size=4", "--updates=3"]


@pytest.fixture(scope="module")
def example():
    sys.path.insert(0, str(SCRIPT.parent))  # as for a script that is run
    return importlib.import_module("long_memory")


@pytest.mark.slow
def test_it_compares_every_system_and_draws_the_figure(example, tmp_path):
    environment = {k: v for k, v in os.environ.items() if k != "JAX_ENABLE_X64"}
    environment |= {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-W", "error", str(SCRIPT), f"--out={tmp_path}", *TINY],
        capture_output=True,
        env=environment,
        encoding="utf-8",
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    for title in ("adding, T = 6", "copy, T = 3"):
        assert f"{title} (not as published)" in done.stdout
    for name in example.SYSTEMS:
        assert sum(f"│   {name} " in line for line in done.stdout.splitlines()) == 2
    assert (tmp_path / "long_memory.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["jordan", "elman", "narx", "memory", "rnn", "gru", "lstm"])
@pytest.mark.parametrize("problem", ["adding", pytest.param("copy", marks=pytest.mark.slow)])
def test_where_the_gradient_is_exactly_0(example, problem, name):
    problem = getattr(example, problem)(6)
    model, output = example.make_system(name, problem.shape, 5)
    params = model.init(jax.random.key(0))
    series = problem.draw(jax.random.split(jax.random.key(1), 3))
    norms = example.gradient_norms(problem, model, output, params, *series)
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
        ([f"--out={SCRIPT}"], "--out: expected a folder, got"),
    ],
)
def test_a_bad_option_is_named(example, capsys, options, message):
    with pytest.raises(SystemExit) as stop:
        example.main([*options])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
