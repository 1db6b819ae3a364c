"""Examples as a user runs them, in processes of their own: float32, where the suite has float64."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"


def imported(name: str):
    """The module of an example, whose folder is on the path as for a script that is run."""
    sys.path.insert(0, str(EXAMPLES))
    return importlib.import_module(name)


def start(name: str, *arguments, optimized: bool = True) -> subprocess.Popen:
    """A running example, to which every warning is an error."""
    dropped = ("JAX_ENABLE_X64", *(["XLA_FLAGS"] if optimized else []))
    environment = {k: v for k, v in os.environ.items() if k not in dropped}
    environment |= {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"}
    environment |= {"JAX_PLATFORMS": "cpu"}  # exact only where the sums are in a fixed order
    return subprocess.Popen(
        [sys.executable, "-W", "error", str(EXAMPLES / f"{name}.py"), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        encoding="utf-8",
    )


def run(name: str, *arguments, optimized: bool = True) -> tuple[str, str]:
    """What an example prints, and what it says beside, when it has ended well."""
    process = start(name, *arguments, optimized=optimized)
    try:
        out, err = process.communicate(timeout=600)
    finally:
        process.kill()
    assert process.returncode == 0, err
    assert "Traceback" not in err
    return out, err


def refused(example, capsys, arguments: list[str]) -> str:
    """What the example says of these options before it stops."""
    with pytest.raises(SystemExit) as stop:
        example.main(arguments)
    assert stop.value.code == 2
    return capsys.readouterr().err
