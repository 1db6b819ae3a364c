"""examples/system_identification.py: it runs, its plant is the published one, a CSV is read."""

import importlib

import numpy as np
import pytest
from support.scripts import imported, refused, run

for needed in ("matplotlib", "rich"):
    pytest.importorskip(needed)

TINY = ["--updates=100", "--hidden-size=6", "--batch-size=8", "--span=20", "--length=2000"]


@pytest.fixture(scope="module")
def example():
    return imported("system_identification")


def errors(printed: str) -> dict[str, float]:
    """The free-run errors of the table."""
    rows = [line.split("│")[1:-1] for line in printed.splitlines() if line.startswith("│")]
    return {cells[0].strip(): float(cells[2]) for cells in rows}


@pytest.mark.slow
def test_every_model_is_trained_and_run_freely(example, tmp_path):
    found = errors(run("system_identification", f"--out={tmp_path}", *TINY)[0])
    assert list(found) == list(example.systems(1, 1, 1))
    assert all(0 < error < 90 for error in found.values())  # 100 % is to predict the mean
    assert (tmp_path / "free_runs.png").read_bytes().startswith(b"\x89PNG")


def test_the_plant_is_the_published_one(example):
    """Narendra & Parthasarathy 1990, equation of example 4, one step at a time."""
    plant = importlib.import_module("_system_identification.record").plant
    x = np.random.default_rng(0).uniform(-1, 1, 50)
    y = [0.0, 0.0, 0.0]  # y(k), y(k-1), y(k-2)
    for k, response in enumerate(plant(x)):
        before = x[k - 1] if k else 0.0
        new = (y[0] * y[1] * y[2] * before * (y[2] - 1) + x[k]) / (1 + y[2] ** 2 + y[1] ** 2)
        assert response == pytest.approx(new, abs=1e-12)
        y = [new, y[0], y[1]]


@pytest.mark.slow
def test_a_record_of_ones_own(tmp_path):
    """Two inputs, one output, a header in quotes; the table has the models that were chosen."""
    draw = np.random.default_rng(0).standard_normal((2000, 2))
    output = 0.5 * draw[:, 0] + np.roll(draw[:, 1], 1)
    table = np.column_stack([draw, output])
    path = tmp_path / "record.csv"
    np.savetxt(path, table, delimiter=",", header='"force","heat","place"', comments="")
    chosen = ["--models", "TDNN", "NARX, closed loop"]
    given = ["--inputs", "force", "heat", "--outputs", "place"]
    options = ["--learning-rate=0.03", "--updates=400", f"--out={tmp_path}", *TINY[1:]]
    found = errors(run("system_identification", f"--data={path}", *given, *chosen, *options)[0])
    assert list(found) == chosen[1:]
    assert all(error < 20 for error in found.values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--updates=0"], "--updates: expected an integer of at least 1, got '0'"),
        (["--noise=-1"], "--noise: expected a number of at least 0, got '-1'"),
        (["--data=no/such.csv"], "--data: expected a CSV file with a header, got no/such.csv"),
        (["--span=30000"], "--span: expected a window of 30050 steps"),
        (["--models", "ESN"], "--models: invalid choice: 'ESN'"),
    ],
)
def test_a_bad_option_is_named(example, tmp_path, capsys, options, message):
    assert message in refused(example, capsys, [f"--out={tmp_path}", *options])


def test_a_column_that_is_not_there_is_named(example, tmp_path, capsys):
    path = tmp_path / "record.csv"
    path.write_text("a,b\n" + "1,2\n" * 300)
    with pytest.raises(SystemExit):
        example.main([f"--data={path}", "--inputs", "c", f"--out={tmp_path}"])
    assert "--inputs: expected columns among a, b, got c" in capsys.readouterr().err
