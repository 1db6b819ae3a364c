"""examples/quickstart.py: it learns; and it and the training scripts stay as short as promised."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted((ROOT / "examples").glob("[!_]*.py"))


def test_it_learns():
    environment = {k: v for k, v in os.environ.items() if k not in ("JAX_ENABLE_X64", "XLA_FLAGS")}
    done = subprocess.run(
        [sys.executable, "-W", "error", str(ROOT / "examples" / "quickstart.py")],
        capture_output=True,
        env=environment | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
        encoding="utf-8",
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    first, *_, last = (float(line.split()[-1]) for line in done.stdout.splitlines())
    assert last < 0.01 < 0.15 < first


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_script_is_read_at_a_sitting(script):
    assert len(script.read_text(encoding="utf-8").splitlines()) <= (
        40 if script.stem == "quickstart" else 150
    )


def test_every_script_is_found():
    names = {"char_rnn", "long_memory", "quickstart", "system_identification", "tagging"}
    assert {script.stem for script in SCRIPTS} == names
