"""Every code block of the README runs, and every message of its table of errors is real."""

import dataclasses
import itertools
import json
import pathlib
import re
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from benchmarks.report import summary, table

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.S)
ERRORS = re.findall(r"^\| `([^|]+)` \| `([^|]+)` \|$", README, flags=re.M)


def test_the_readme_has_what_these_tests_read():
    assert len(BLOCKS) >= 3
    assert len(ERRORS) >= 8


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_code_block_runs(number):
    import jax

    # As a reader runs them: float32, and the blocks one after the other in one session.
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
        names: dict = {"__name__": "readme"}
        for block in BLOCKS[: number + 1]:
            exec(compile(block, "README.md", "exec"), names)


@pytest.mark.parametrize(("call", "message"), ERRORS)
def test_error_of_the_table(call, message):
    import jax
    import jax.numpy as jnp

    import seqjax as sj

    with jax.enable_x64(False):
        cell = sj.lstm(3, 4)
        names = {
            "dataclasses": dataclasses,
            "sj": sj,
            "jnp": jnp,
            "cell": cell,
            "params": cell.init(jax.random.key(0)),
        }
        names["xs"] = jnp.ones((10, 3))
        with pytest.raises((ValueError, TypeError)) as caught:
            eval(call, names)
    assert str(caught.value) == message


def test_every_file_that_is_linked_is_there():
    linked = set(re.findall(r"\]\(([^)#:]+)\)", README))
    assert {f"examples/{name}.py" for name in ("tagging", "long_memory", "char_rnn")} <= linked
    assert [path for path in linked if not (ROOT / path).exists()] == []


# Of each system, a word of the lines of the notes that the table of models sends a reader to.
WORDS = {
    "sj.tdnn": "TDNN", "sj.narx": "NARX", "sj.memory": "memory variable", "sj.jordan": "Jordan",
    "sj.elman": "Elman", "sj.rnn": "RNN", "sj.stack": "layers k", "sj.bidirectional": "backward",
    "sj.generate": "character-level", "any divergence": "DIV",
}  # fmt: skip


@pytest.mark.parametrize("system", WORDS)
def test_the_lines_of_the_notes_are_about_the_system(system):
    notes = ROOT.parent / "shared" / "notes.md"
    if not notes.exists():
        pytest.skip("the notes are not at hand")
    row = next(r for r in README.splitlines() if r.startswith("| ") and system in r.split("|")[1])
    lines, cited = notes.read_text().splitlines(), row.split("|")[3]
    text = ""
    for first, last in re.findall(r"(\d+)(?:–(\d+))?(?=[,; ]|$)", re.sub("§\\d", "", cited)):
        text += " ".join(lines[int(first) - 1 : int(last or first)])
    assert WORDS[system] in text


def results(name):
    (path,) = (ROOT / "benchmarks" / "results").glob(f"{name}_*epyc*.json")
    return json.loads(path.read_text())


def test_the_table_of_speeds_is_that_of_the_committed_results():
    report = results("compare")
    assert table(report) in README
    assert report["summary"] == summary(report["rows"])
    versions = report["versions"]
    assert f"(jax {versions['jax']}, torch {versions['torch']})" in README


def test_what_is_said_of_the_speeds_is_true_of_the_committed_results():
    rows = results("compare")["rows"]
    gradient, forward = ([r for r in rows if r["what"] == w] for w in ("gradient", "forward"))
    peak = [round(100 * r["fraction_of_matmul_peak"]) for r in gradient]
    assert f"of which the gradient reaches {min(peak)} to {max(peak)} %" in README
    behind = lambda rows: {
        (r["cell"], *r["shape"]): round(r["best_jax_peer/seqjax"], 2)
        for r in rows
        if r["best_jax_peer/seqjax"] < 1
    }
    assert behind(gradient) == {
        ("gru", 1024, 1, 32): 0.68,
        ("gru", 1024, 1, 128): 0.82,
        ("lstm", 96, 128, 128): 0.91,
    }
    forward = behind(forward)
    assert forward.pop(("gru", 1024, 1, 32)) == 0.37
    assert forward.pop(("gru", 1024, 1, 128)) == 0.6
    assert forward.pop(("rnn", 1024, 1, 32)) < 1
    assert forward.pop(("lstm", 1024, 1, 32)) < 1
    assert {cell for cell, *_ in forward} == {"lstm"}
    assert len(forward) == 3
    assert min(forward.values()) >= 0.95
    fatter = {
        (r["cell"], *r["shape"])
        for r in gradient
        if r["temp_mb"]["seqjax"] > 1.085 * r["least_temp_mb_of_peers"] and r["cell"] != "rnn"
    }
    assert fatter == {("gru", 128, 32, 64), ("lstm", 128, 32, 64)}
    for r in rows:
        if r["cell"] == "lstm" and r["network"] != "ragged" and r["shape"][1] > 1:
            assert r["ms"].pop("torch") < min(r["ms"].values())


def test_the_table_of_stores_is_that_of_the_committed_results():
    report = results("memory")
    found = report["long"]
    rows = re.findall(r"\| (\d+) MB \| ([\d.]+) s \|$", README, re.M)
    measured = {
        (f"{megabytes:.0f}", f"{found['ms'][name] / 1e3:.2f}")
        for name, megabytes in found["temp_mb"].items()
    }
    assert len(rows) == 5
    assert set(rows) <= measured
    assert f"2 cores, jax {report['jax']}; `benchmarks/memory.py`" in README


def test_time_is_proportional_to_the_length():
    """Where JAX's own scan is; a jaxlib where it is not is excluded."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (jaxlib,) = [d for d in project["dependencies"] if d.startswith("jaxlib")]
    ratios = []
    for version, found in results("length")["jaxlib"].items():
        of = {(r["cell"], r["what"]): r["time(2T)/time(T)"].values() for r in found["rows"]}
        scan = of.pop(("plain scan", "forward"))
        measured = itertools.product(("rnn", "gru", "lstm"), ("forward", "gradient", "generate"))
        assert set(of) == set(measured)
        assert (f"!={version}" in jaxlib) == (min(scan) > 3)
        if max(scan) < 3:
            assert version in README
            ratios += itertools.chain(*of.values())
        else:
            assert f"With jaxlib {version}, which is excluded," in README
    said = f"each doubling takes {min(ratios):.2f} to {max(ratios):.2f} times as long"
    assert said in README
    assert max(ratios) < 2.5


@pytest.mark.parametrize("place", [".ci/run", ".github/workflows/ci.yml"])
def test_ci_calls_the_readmes_test_command(place):
    command = re.search(r"^(python3 -m venv \S+ && .* pytest)$", README, flags=re.M)
    assert command is not None
    assert command.group(1) in (ROOT / place).read_text()


def test_ci_tests_with_the_lower_bounds():
    """Each `name>=x` is `name==x` in the constraints of the oldest dependencies, and no others."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    bounds = [Requirement(d) for d in project["dependencies"] + extras["examples"] + extras["test"]]
    least = {r.name: Version(s.version) for r in bounds for s in r.specifier if s.operator == ">="}
    lines = (ROOT / ".ci" / "oldest.txt").read_text().splitlines()
    pins = [line.split("==") for line in lines if not line.startswith("#")]
    assert {name: Version(version) for name, version in pins} == least


def test_every_test_of_the_quick_tier_is_there():
    for entry in (ROOT / "tests" / "quick.txt").read_text().splitlines():
        path, _, function = entry.partition("::")
        assert f"def {function}" in (ROOT / path).read_text(), entry
