"""examples/tagging.py: its tags are exact, CTC is decoded, and it runs."""

import importlib
import random
from pathlib import Path

import numpy as np
import pytest
from support.scripts import imported, refused, run

for needed in ("matplotlib", "rich"):
    pytest.importorskip(needed)


@pytest.fixture(scope="module")
def example():
    return imported("tagging")


@pytest.fixture(scope="module")
def code(tmp_path_factory) -> Path:
    draw = random.Random(0)
    lines = ["x = foo(1)", "for a in b.c:", "    print('s', a)  # why", "def f(y): return y.z", "p"]
    path = tmp_path_factory.mktemp("code") / "code.py"
    kept = [line for line in draw.choices(lines, k=800) if not line.startswith("for")]
    path.write_text("\n".join(line.strip() for line in kept))
    return path


def spelled(example, line, kind):
    names = [*example.TAGS]
    return [names[n] for n in getattr(line, kind)]


def test_the_tags_of_a_line_are_those_of_its_tokens(example):
    (line,) = importlib.import_module("_tagging.data").tag_lines("x.y = foo(n, 1)  # why")
    tags = spelled(example, line, "tags")
    text = "x.y = foo(n, 1)  # why"
    expected = {"x": "object", "foo": "called", "n": "name", "1": "number", "# why": "comment"}
    for part, tag in expected.items():
        start = text.index(part)
        assert tags[start : start + len(part)] == [tag] * len(part)
    assert tags[2] == "assigned"  # the name before the `=`
    assert tags[3] == "space"
    assert line.places[6:9] == [1, 2, 3]
    labels = spelled(example, line, "labels")
    assert labels[:6] == ["object", "operator", "assigned", "operator", "called", "operator"]
    assert labels[-1] == "comment"


def test_what_only_the_past_or_nothing_decides(example):
    tag_lines = importlib.import_module("_tagging.data").tag_lines
    (line,) = tag_lines("def name(): pass")
    assert spelled(example, line, "labels")[:2] == ["keyword", "defined"]
    assert tag_lines("a = '''\nlong\n'''\nb = 1")[0].labels == tag_lines("b = 1")[0].labels
    assert tag_lines("this is ( no Python") == []


def test_greedy_decoding_and_edit_distance(example):
    scores = importlib.import_module("_tagging.scores")
    assert scores.collapse([0, 3, 3, 0, 3, 5, 5, 0]) == [3, 3, 5]
    assert scores.collapse([0, 0]) == []
    distance = scores.edit_distance
    assert distance("kitten", "sitting") == 3
    assert (distance([], [1, 2]), distance([1], []), distance([1, 2], [1, 2])) == (2, 1, 0)


@pytest.mark.slow
def test_it_runs_and_the_future_helps(code, tmp_path):
    options = [f"--data={code}", f"--out={tmp_path}", "--updates=60", "--hidden-size=16"]
    printed, _ = run("tagging", *options)
    (row,) = (line for line in printed.splitlines() if "characters of names" in line)
    forward, both = (float(cell.strip(" %")) for cell in row.split("│")[2:4])
    assert both > forward > 10
    assert "label error rate" in printed
    assert (tmp_path / "tagging.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--updates=0"], "--updates: expected an integer of at least 1, got '0'"),
        (["--hidden-size=x"], "--hidden-size: expected an integer of at least 1, got 'x'"),
        (["--data=no/such"], "--data: expected at least 100 lines of Python code, got no/such"),
    ],
)
def test_a_bad_option_is_named(example, tmp_path, capsys, options, message):
    assert message in refused(example, capsys, [f"--out={tmp_path}", *options])


def test_both_nets_have_about_as_many_parameters(example):
    sizes = [example.parameters(model) for model in example.make_models(64).values()]
    assert np.ptp(sizes) < 0.05 * max(sizes)
