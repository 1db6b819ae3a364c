"""Every code block of the README runs, and every message of its table of errors is real."""

import dataclasses
import json
import pathlib
import re

import pytest

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


def test_the_table_of_speeds_is_that_of_the_committed_results():
    (results,) = (ROOT / "benchmarks" / "results").glob("compare_*epyc*.json")
    report = json.loads(results.read_text())
    assert table(report) in README
    assert report["summary"] == summary(report["rows"])


def test_the_table_of_stores_is_that_of_the_committed_results():
    (results,) = (ROOT / "benchmarks" / "results").glob("memory_*epyc*.json")
    found = json.loads(results.read_text())["long"]
    rows = re.findall(r"\| (\d+) MB \| ([\d.]+) s \|$", README, re.M)
    measured = {
        (f"{megabytes:.0f}", f"{found['ms'][name] / 1e3:.2f}")
        for name, megabytes in found["temp_mb"].items()
    }
    assert len(rows) == 5
    assert set(rows) <= measured


def test_ci_calls_the_readmes_test_command():
    command = re.search(r"^(python3 -m venv \S+ && .* pytest)$", README, flags=re.M)
    assert command is not None
    script = (ROOT / ".ci" / "run").read_text()
    assert command.group(1) in script
