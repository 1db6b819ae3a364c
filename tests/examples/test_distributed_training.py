"""examples/distributed/train.py: processes have the losses of one, and what is said of one lost.

Two processes of two devices each, on this machine. The sums over the batch are in another order
than in one process, so that losses are equal to a bound: 1e-5, relatively, after 120 updates.
"""

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import threading
from pathlib import Path

import numpy as np
import pytest
from support.scripts import run, start

for needed in ("matplotlib", "orbax.checkpoint", "rich"):
    pytest.importorskip(needed)

pytestmark = pytest.mark.slow

TINY = ["--hidden-size=8", "--batch-size=8", "--seq-length=16", "--eval-every=20", "--steps=120"]


@contextlib.contextmanager
def processes(*options, second=(), count=2):
    """So many, on this machine, `second` with options of its own; none outlives the test."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    where = ["--devices=2", f"--coordinator=127.0.0.1:{port}", "--processes=2", "--timeout=120"]
    started = []

    def kill():
        for process in started:
            process.kill()

    timer = threading.Timer(300, kill)  # whatever the test waits for then ends
    timer.start()
    try:
        for number, own in enumerate([(), second][:count]):
            every = [*TINY, *where, f"--process={number}", *options]
            started.append(start("distributed/train", *every, *own))
        yield started
    finally:
        timer.cancel()
        kill()
        for process in started:
            process.communicate()


def ended(process) -> tuple[int, str, str]:
    """Its status, what it printed, and what it said beside."""
    out, err = process.communicate()
    return process.returncode, out, err


def losses(out: Path) -> dict[str, np.ndarray]:
    """Of every update, and of every validation, as the checkpoint has them."""
    (notes,) = out.glob("checkpoint/*/notes/metadata")
    return {k: np.array(v) for k, v in json.loads(notes.read_text())["history"].items()}


def assert_equal_losses(out: Path, expected: Path):
    ours, theirs = losses(out), losses(expected)
    assert len(ours["loss"]) == 120
    for name in theirs:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-5, err_msg=name)


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    draw = random.Random(0)
    words = ["def", "return", "self", "(x)", ":\n", "# why\n", "    "]
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(" ".join(draw.choice(words) for _ in range(3000)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def whole(text, tmp_path_factory) -> Path:
    """The folder of a run that was not interrupted, of one process on one device."""
    out = tmp_path_factory.mktemp("whole")
    run("char_rnn", f"--data={text}", f"--out={out}", "--devices=1", *TINY)
    return out


def send_in_the_middle(process, sent, first):
    """A signal, when the first process has at least the checkpoint of update 40."""
    for line in first.stdout:
        if "update 60: " in line:
            process.send_signal(sent)
            return


@pytest.fixture(scope="module")
def killed(text, tmp_path_factory) -> Path:
    """The folder of a run of which one process was killed; the other has ended by itself."""
    out = tmp_path_factory.mktemp("killed")
    with processes(f"--data={text}", f"--out={out}") as (first, second):
        send_in_the_middle(second, signal.SIGKILL, first)
        status, _, err = ended(first)
        assert status == 1  # not aborted, as by JAX when it has waited for a sign of life
        assert "If another process died, start all again, by the same commands." in err
    (checkpoint,) = (c for c in out.glob("checkpoint/*") if c.name.isdigit())
    assert 40 <= int(checkpoint.name) < 120
    return out


def test_two_processes_have_the_losses_of_one(whole, text, tmp_path):
    with processes(f"--data={text}", f"--out={tmp_path}") as started:
        for process, says in zip(started, (True, False), strict=True):
            status, out, err = ended(process)
            assert status == 0, err
            assert says == ("devices     4 × cpu of 2 processes, each with a part" in out)
            assert says == ("── update 120: " in out)
    assert_equal_losses(tmp_path, whole)


@pytest.mark.parametrize("devices", [1, 4])
def test_one_process_resumes_what_two_began(whole, killed, tmp_path, devices):
    out = shutil.copytree(killed, tmp_path / "out")
    printed, _ = run("char_rnn", f"--out={out}", "--resume", f"--devices={devices}")
    assert f"devices     {devices} × cpu, " in printed
    assert_equal_losses(out, whole)


def test_the_same_commands_resume(whole, killed, text, tmp_path):
    out = shutil.copytree(killed, tmp_path / "out")
    with processes(f"--data={text}", f"--out={out}") as (first, second):
        status, printed, err = ended(first)
        assert status == 0, err
        assert "resumed     after update " in printed
        assert ended(second)[0] == 0
    assert_equal_losses(out, whole)


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_one_process_stops_all_at_the_same_update(whole, text, tmp_path, sent):
    with processes(f"--data={text}", f"--out={tmp_path}") as (first, second):
        send_in_the_middle(second, sent, first)
        status, printed, err = ended(first)
        assert status == os.EX_TEMPFAIL, err
        assert "Stopped after update " in printed
        assert ended(second)[0] == os.EX_TEMPFAIL
    ours, theirs = losses(tmp_path)["loss"], losses(whole)["loss"]
    assert 60 < len(ours) < 120
    np.testing.assert_allclose(ours, theirs[: len(ours)], rtol=1e-5)


@pytest.mark.parametrize(
    ("own", "name"),
    [
        ("--seed=1", "--seed"),
        ("--devices=1", "--devices"),
        ("--data={elsewhere}/other.txt", "--data"),
        ("--out={elsewhere}", "--out"),
    ],
)
def test_processes_that_differ_are_refused(whole, text, tmp_path, own, name):
    (tmp_path / "other.txt").write_text(text.read_text("utf-8") + "more", "utf-8")
    second = [own.format(elsewhere=tmp_path)]
    message = (
        f"{name}: expected the same in every process, "
        "got another one in process 1 than in process 0"
    )
    with processes(f"--data={text}", f"--out={whole}", second=second) as started:
        for process in started:
            status, _, err = ended(process)
            assert message in err
            assert status == 2


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (7, "--batch-size: expected a multiple of the 2 processes, got 7"),
        (6, "--devices: expected a divisor of --batch-size 6 / 2 processes, got 2"),
    ],
)
def test_a_batch_that_cannot_be_shared_is_named(text, tmp_path, batch, message):
    with processes(f"--data={text}", f"--out={tmp_path}", f"--batch-size={batch}") as started:
        for process in started:
            status, _, err = ended(process)
            assert message in err
            assert status == 2


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        (["--timeout=5"], 1, "in 5 seconds (--timeout)."),  # process 0, without the other
        (["--timeout=5", "--process=1"], 1, "Not all processes met at 127.0.0.1:"),
        (["--process=2"], 2, "--process: expected one of 0 to 1, got 2"),
        (["--coordinator=host"], 2, "--coordinator: expected HOST:PORT, got 'host'"),
        (["--sample=5"], 2, "--sample: expected no such option; `char_rnn.py --sample` writes"),
    ],
)
def test_a_process_alone_says_what_is_wrong(text, tmp_path, options, status, message):
    with processes(f"--data={text}", f"--out={tmp_path}", *options, count=1) as (process,):
        found, _, err = ended(process)
        assert message in err
        assert found == status


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--processes=2"], "--coordinator, --processes, --process: expected all of them, or none"),
        ([], "expected all of them, since no cluster that JAX knows tells"),
    ],
)
def test_where_no_cluster_tells_all_three_are_needed(text, tmp_path, options, message):
    process = start("distributed/train", f"--data={text}", f"--out={tmp_path}", *options)
    try:
        _, err = process.communicate(timeout=120)
    finally:
        process.kill()
    assert message in err
    assert process.returncode == 2
