"""examples/quickstart.py: it learns; and it and the training scripts stay as short as promised."""

import pytest
from support.scripts import EXAMPLES, run

SCRIPTS = sorted(EXAMPLES.glob("[!_]*.py"))


def test_it_learns():
    printed, _ = run("quickstart")
    first, *_, last = (float(line.split()[-1]) for line in printed.splitlines())
    assert last < 0.01 < 0.15 < first


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_script_is_read_at_a_sitting(script):
    assert len(script.read_text(encoding="utf-8").splitlines()) <= (
        40 if script.stem == "quickstart" else 150
    )


def test_every_script_is_found():
    names = {"char_rnn", "long_memory", "music", "quickstart", "system_identification", "tagging"}
    assert {script.stem for script in SCRIPTS} == names
