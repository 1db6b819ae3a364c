"""Tests on several devices.

JAX fixes the number of its devices when it starts, so that such a test runs its own file as a
program, which prints what it found.
"""

import json
import math
import os
import pathlib
import re
import subprocess
import sys


def start_file(file, devices, *arguments):
    """A test file as a program, on so many devices of a CPU."""
    tests = pathlib.Path(__file__).resolve().parents[1]
    paths = [str(tests), str(tests.parent), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_ENABLE_X64": "1",  # for what is imported before conftest.py
        # Beside those of conftest.py, which compile quickly.
        "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}",
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
    }
    command = [sys.executable, os.path.abspath(file), *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, env=environment, text=True, **pipes)


def results(*programs):
    """What they printed; none outlives the test."""
    try:
        found = []
        for program in programs:
            out, problems = program.communicate(timeout=300)
            assert program.returncode == 0, problems[-4000:]
            found += [json.loads(line) for line in out.splitlines() if line.startswith("{")]
        return found
    finally:
        for program in programs:
            if program.poll() is None:
                program.kill()
                program.communicate()


def print_rows(names):
    """What such a program does: it calls the function that it was told, and prints its rows."""
    import conftest  # noqa: F401  float64, and no promotion

    for row in names[sys.argv[1]](*sys.argv[2:]):
        print(json.dumps(row), flush=True)


def elements(exchanged):
    """How many numbers these are, as `collectives` lists what is exchanged."""
    shapes = re.findall(r"\[([\d,]*)\]", " ".join(shape for _, shape in exchanged))
    return sum(math.prod(map(int, filter(None, shape.split(",")))) for shape in shapes)


COMMUNICATION = r" (all-\w+|collective-\w+|reduce-scatter)(?:-start)?\("


def kinds_of(program):
    """The ways in which the devices communicate."""
    return sorted(set(re.findall(COMMUNICATION, program.as_text())))


def collectives(program):
    """What devices exchange in the text of a program, kinds and shapes, and what of it in loops."""
    blocks = {}
    for block in re.split(r"\n(?=\S)", program):
        named = re.match(r"(?:ENTRY )?%?([\w.\-]+) \(", block)
        if named:
            blocks[named[1]] = block
    kind = re.compile(f"= (.*?){COMMUNICATION}")
    called = {
        name: set(re.findall(r"(?:to_apply|body|condition|calls)=%?([\w.\-]+)", block))
        for name, block in blocks.items()
    }
    repeated = {
        body for block in blocks.values() for body in re.findall(r"body=%?([\w.\-]+)", block)
    }
    while more := {inner for name in repeated for inner in called[name]} - repeated:
        repeated |= more
    shape = lambda found: re.sub(r"\{[^}]*\}", "", found)
    exchanged = {name: [(k, shape(s)) for s, k in kind.findall(b)] for name, b in blocks.items()}
    return {
        "exchanged": sorted(pair for pairs in exchanged.values() for pair in pairs),
        "in loops": sorted(pair for name in repeated for pair in exchanged[name]),
    }
