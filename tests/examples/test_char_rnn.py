"""examples/char_rnn.py: it resumes exactly, writes, stops cleanly, and says what is wrong.

It runs in processes of its own, as a user runs it: float32, where the suite has float64.
"""

import importlib
import json
import os
import random
import signal
from pathlib import Path

import pytest
from support.scripts import imported, refused, run, start

for needed in ("matplotlib", "orbax.checkpoint", "rich"):
    pytest.importorskip(needed)

TINY = ["--hidden-size=8", "--batch-size=4", "--seq-length=16", "--eval-every=50", "--steps=400"]


def losses(out: Path) -> tuple[list, list]:
    """Of every update, and of every validation, as the checkpoint has them."""
    (notes,) = out.glob("checkpoint/*/notes/metadata")
    history = json.loads(notes.read_text())["history"]
    return history["loss"] + history["grad_norm"], history["val"]


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    draw = random.Random(0)
    words = ["def", "return", "self", "(x)", ":\n", "# why\n", "'naïve'", "$x$", "    "]
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(" ".join(draw.choice(words) for _ in range(3000)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def whole(text, tmp_path_factory) -> Path:
    """The folder of a run that was not interrupted."""
    out = tmp_path_factory.mktemp("whole")
    printed, _ = run("char_rnn", f"--data={text}", f"--out={out}", *TINY)
    assert "update 400: " in printed
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    used = max(n for n in (1, 2, 4) if n <= cores)  # all that divide the 4 streams
    idle = f" ({cores - used} more stand idle)" if cores > used else ""
    assert f"devices     {used} × cpu{idle}, each with a part" in printed
    assert "bits/char" in printed
    return out


def test_it_leaves_figures_and_a_checkpoint(whole):
    for name in ("curves.png", "activation.png"):
        assert (whole / name).read_bytes().startswith(b"\x89PNG")
    assert [folder.name for folder in (whole / "checkpoint").iterdir()] == ["400"]


def test_it_learns(whole):
    val = [bits for _, bits in losses(whole)[1]]
    assert val[-1] < 0.6 * val[0]


@pytest.mark.slow
def test_ctrl_c_saves_and_resume_continues_exactly(whole, text, tmp_path):
    process = start("char_rnn", f"--data={text}", f"--out={tmp_path}", *TINY)
    for line in process.stdout:
        if "update 100: " in line:
            process.send_signal(signal.SIGINT)
            break
    out, err = process.communicate(timeout=900)
    assert process.returncode == 0, err
    assert err == ""
    assert "To continue: char_rnn.py --out" in out
    begun = losses(tmp_path)
    assert 100 <= len(begun[0]) // 2 < 400

    run("char_rnn", f"--out={tmp_path}", "--resume")  # everything else is remembered
    assert losses(tmp_path) == losses(whole)


@pytest.mark.parametrize("prime", ["", "self (x)"])
def test_sample_writes_as_many_characters_as_asked_for(whole, prime):
    printed, _ = run("char_rnn", f"--out={whole}", "--sample=120", f"--prime={prime}", "--top-k=5")
    assert printed.startswith(prime)
    assert len(printed) == len(prime) + 120 + len("\n")


@pytest.fixture(scope="module")
def example():
    return imported("char_rnn")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--hidden-size=0"], "--hidden-size: expected an integer of at least 1, got '0'"),
        (["--steps=many"], "--steps: expected an integer of at least 1, got 'many'"),
        (["--val-fraction=1"], "--val-fraction: expected a number from 0.001 to 0.5, got '1'"),
        (["--learning-rate=nan"], "--learning-rate: expected a number of at least 1e-09"),
        (["--top-p=2"], "--top-p: expected a number from 1e-06 to 1.0, got '2'"),
        (["--data=no/such.txt"], "--data: expected a text file in UTF-8, got"),
        (["--batch-size=3000"], "= 195,000 characters to train on and 65 to validate, got"),
        (["--devices=1000"], "--devices: expected at most"),
        (["--devices=1", "--batch-size=0"], "--batch-size: expected"),
        (["--sample=5"], "--out: expected a folder with a checkpoint, got"),
        (["--resume"], "--out: expected a folder with a checkpoint, got"),
        (["--resume", "--sample=5"], "not allowed with argument"),
    ],
)
def test_a_bad_option_is_named(example, text, tmp_path, capsys, options, message):
    assert message in refused(example, capsys, [f"--data={text}", f"--out={tmp_path}", *options])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "--out: expected a folder without a checkpoint, got"),
        (["--resume", "--layers=3"], "--layers: expected 2, which the checkpoint has, got 3"),
        (["--resume", "--steps=20"], "--steps: expected at least 400, which are done, got 20"),
        (["--sample=5", "--prime=zebra"], "--prime: expected characters of the text learned"),
    ],
)
def test_what_does_not_fit_the_checkpoint_is_named(example, whole, capsys, options, message):
    assert message in refused(example, capsys, [f"--out={whole}", *options])


def test_resume_refuses_another_text(example, whole, text, tmp_path, capsys):
    begun = text.read_text(encoding="utf-8")
    text.write_text(begun + "more", encoding="utf-8")
    try:
        with pytest.raises(SystemExit):
            example.main([f"--out={whole}", "--resume"])
    finally:
        text.write_text(begun, encoding="utf-8")
    assert "--resume: expected the text that the checkpoint" in capsys.readouterr().err


def test_the_standard_library_and_its_vocabulary(example):
    data = importlib.import_module("_char_rnn.text")
    text = data.read_text(None, limit=1_000_000)
    assert len(text) == 1_000_000
    assert text.count("def ") > 1000
    vocabulary = data.make_vocabulary(text, 60)
    assert len(vocabulary) == 60
    assert vocabulary[-1] == data.UNKNOWN
    assert data.encode("e€", vocabulary).tolist() == [vocabulary.index("e"), 59]
    assert data.make_vocabulary("abba", 60) == "ab"
