"""benchmarks/tasks.py: its data and scores, that every model runs, and its tables in the docs."""

import functools
import json
import math
from pathlib import Path

import jax
import numpy as np
import pytest

import seqjax as sj

pytest.importorskip("rich")

from benchmarks import task_models, task_problems, tasks
from benchmarks.task_problems import TASKS

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "benchmarks.md").read_text()
ROWS = {name: rows for name in TASKS if (rows := tasks.results(name))}


@pytest.fixture
def as_a_script():
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Data of a few pieces and a few lines."""
    at, draw = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    lengths = np.array([9, 140, 30])
    keys = draw.random((lengths.sum(), 88)) < 0.05
    parts = ("train", "valid", "test")
    rolls = dict.fromkeys(parts, np.packbits(keys, axis=1))
    rolls |= {f"{part}_lengths": lengths for part in parts}
    for name in ("jsb_chorales", "nottingham"):
        np.savez(at / f"{name}.npz", **rolls)
    text = "".join(map(chr, draw.integers(32, 97, 12_000)))
    (at / "tinyshakespeare.txt").write_text(text, encoding="utf-8")
    return at


def load(name: str, folder: Path) -> task_problems.Data:
    return TASKS[name].load(folder / tasks.FILES[name] if name in tasks.FILES else None)


@pytest.mark.parametrize("name", ROWS)
def test_the_docs_have_the_tables_of_the_committed_results(name):
    assert f"**{TASKS[name].title}: " in PAGE
    assert tasks.table(name, ROWS[name]) in PAGE


@pytest.mark.parametrize("name", ROWS)
def test_each_row_has_the_parameters_that_its_budget_allows(name):
    for kind, row in ROWS[name].items():
        budget, units = task_problems.Budget(**row["budget"]), row["units"]
        make = functools.partial(task_models.make_model, kind, TASKS[name], dropout=budget.dropout)
        model = make(units)
        assert row["parameters"] == task_models.parameters(model) <= budget.parameters
        larger = task_models.parameters(make(units + 4))
        assert larger > budget.parameters or units == task_models.MOST_UNITS
        assert row["model"] == repr(model)
        assert (
            list(row["scores"]) == list(row["seconds"]) == list(map(str, range(len(row["scores"]))))
        )
    gru = ROWS[name]["gru"]
    found, units = task_models.fitted("gru", TASKS[name], budget.parameters, budget.dropout)
    assert (repr(found), units) == (gru["model"], gru["units"])


def test_what_the_docs_say_of_parity_is_true_of_the_rows():
    scores = {kind: [*row["scores"].values()] for kind, row in ROWS["parity_256"].items()}
    assert min(scores["rnn"]) < max(scores.pop("rnn")) == 100
    for kind, found in scores.items():
        assert max(found) < 55 if kind in task_models.LINEAR else min(found) == 100
    assert {"lstm", "gru", "slstm", *task_models.LINEAR} == set(scores)


def test_what_the_docs_say_of_the_chorales_is_true_of_the_rows():
    published = TASKS["jsb"].published
    scores = {kind: row["scores"].values() for kind, row in ROWS["jsb"].items()}
    assert max(scores["lstm"]) < published["lstm"]
    assert max(scores["rnn"]) < published["rnn"]
    assert min(scores["gru"]) > published["gru"]
    means = {kind: sum(found) / len(found) for kind, found in scores.items()}
    assert set(sorted(means, key=means.__getitem__)[:2]) == {"min_gru", "min_lstm"}


def test_every_model_has_three_seeds_of_every_task():
    for name, task in TASKS.items():
        kinds = set(task_models.KINDS) - (set() if task.remember else set(task_models.FED_BACK))
        assert {kind: len(row["scores"]) for kind, row in ROWS[name].items()} == dict.fromkeys(
            kinds, 3
        )


def learned(name: str, at_most: float) -> dict[str, int]:
    """In how many seeds each model that learns a task does; the others stay far from it."""
    scores = {kind: row["scores"].values() for kind, row in ROWS[name].items()}
    seeds = {kind: sum(score <= at_most for score in found) for kind, found in scores.items()}
    return {kind: count for kind, count in seeds.items() if count}


GATED = {"lstm", "gru", "slstm", "min_gru", "min_lstm", "rg_lru", "memory"}


def test_what_the_docs_say_of_adding_is_true_of_the_rows():
    assert learned("adding_200", 0.001) == learned("adding_200", 0.16) == dict.fromkeys(GATED, 3)
    narx = sorted(ROWS["adding_200"]["narx"]["scores"].values())
    assert narx[1] < 1
    assert narx[2] == pytest.approx(190, abs=0.5)
    of_600 = dict.fromkeys(GATED, 3) | {"lstm": 2, "memory": 2}
    assert learned("adding_600", 0.002) == learned("adding_600", 0.16) == of_600


def test_what_the_docs_say_of_copying_is_true_of_the_rows():
    scores = {kind: [*row["scores"].values()] for kind, row in ROWS["copy_200"].items()}
    chance = math.log(8) * 10 / 220
    assert learned("copy_200", 0.001) == {"s5": 3}
    assert sum(score < chance / 5 for score in scores["lru"]) == 1
    assert 0.4 * chance < min(scores["rg_lru"]) < max(scores["rg_lru"]) < 0.6 * chance
    begun = {kind for kind in scores if max(scores[kind]) < 0.97 * chance}
    assert begun == {"s5", "lru", "rg_lru", "gru", "slstm"}


def test_what_the_docs_say_of_nottingham_and_text_is_true_of_the_rows():
    music, text = (
        {kind: [*row["scores"].values()] for kind, row in ROWS[name].items()}
        for name in ("nottingham", "shakespeare")
    )
    published = TASKS["nottingham"].published
    assert {kind for kind in published if min(music[kind]) <= published[kind]} == {"rnn"}
    assert max(music["rnn"]) <= published["rnn"]
    mean = lambda scores: lambda kind: sum(scores[kind]) / len(scores[kind])
    assert set(sorted(music, key=mean(music))[:2]) == {"lru", "s5"}
    assert min(text, key=mean(text)) == "min_gru"
    assert max(text, key=mean(text)) == "rg_lru"


@pytest.mark.usefixtures("as_a_script")
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n == "parity_256" else pytest.mark.slow) for n in TASKS]
)
def test_every_model_reads_every_task(name, folder):
    task, data = TASKS[name], load(name, folder)
    budget = task.budget._replace(batch=2, updates=2)
    batch = next(iter(data.batches(0, budget)))
    keys = jax.random.split(jax.random.key(0), 2)
    for kind in task_models.KINDS:
        if kind in task_models.FED_BACK and task.remember is None:
            with pytest.raises(ValueError, match="models: expected another one"):
                task_models.make_model(kind, task, 4, 0.5)
            continue
        model = task_models.make_model(kind, task, 4, 0.5)
        params = jax.eval_shape(model.init, keys[0])
        carry = functools.partial(data.carried, model)
        carried = jax.eval_shape(lambda params, carry=carry: carry(params, 2), params)
        loss_of = functools.partial(data.loss, model)
        loss, after = jax.eval_shape(loss_of, params, carried, keys, *batch)
        assert loss.shape == ()
        same = lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype)
        assert jax.tree.all(jax.tree.map(same, carried, after))


@pytest.mark.usefixtures("as_a_script")
@pytest.mark.slow
@pytest.mark.parametrize("name", ["adding_200", "parity_256", "jsb", "shakespeare"])
def test_a_training_ends_with_a_score_and_a_row(name, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(tasks, "RESULTS", tmp_path)
    monkeypatch.setattr(task_problems, "EVALUATED", (1, 4))
    given = f"--data={folder} --tasks {name} --parameters 3000 --updates 2 --batch 2".split()
    tasks.main([*given, "--models", "gru", "--seeds", "0", "1"])
    rows = json.loads((tmp_path / f"tasks_{name}.json").read_text())
    assert list(rows) == ["gru"]
    assert list(rows["gru"]["scores"]) == ["0", "1"]
    assert np.isfinite([*rows["gru"]["scores"].values()]).all()


def test_rows_of_one_budget_are_joined():
    row = lambda updates, seed: (
        {"budget": {"updates": updates}}
        | {of: {str(seed): float(seed)} for of in ("scores", "seconds", "device")}
    )
    rows = tasks.add({}, "gru", row(5, 10))
    rows = tasks.add(rows, "rnn", row(5, 0))
    rows = tasks.add(rows, "gru", row(5, 2))
    assert list(rows) == ["rnn", "gru"]
    assert list(rows["gru"]["scores"].items()) == [("2", 2.0), ("10", 10.0)]
    assert tasks.add(rows, "gru", row(6, 1))["gru"]["scores"] == {"1": 1.0}


def test_parity_is_counted_since_the_last_reset():
    data = TASKS["parity_256"].load(None)
    budget = TASKS["parity_256"].budget._replace(batch=3, updates=24)
    periods = []
    for xs, odd, reset in data.batches(0, budget):
        count = np.zeros(3, int)
        for t in range(256):
            count = xs[:, t, 0].astype(int).clip(0) + np.where(reset[t], 0, count)
            np.testing.assert_array_equal(odd[:, t], count % 2)
        assert set(np.unique(xs)) == {-1, 1}
        periods.append(256 // reset.sum())
    assert periods[::2] == [4, 8, 16, 32, 64, 128, *[256] * 6]


@pytest.mark.usefixtures("as_a_script")
def test_the_chance_of_parity_is_a_half():
    """Of a model that says what it last heard."""
    data, heard = TASKS["parity_256"].load(None), sj.stack(lambda x: x)
    assert data.evaluate(heard, heard.init(jax.random.key(0)), "test") == pytest.approx(50, abs=4)


@pytest.mark.usefixtures("as_a_script")
def test_text_is_read_on_from_update_to_update(folder):
    """The loss of two updates is that of one run over both, from a state of the first."""
    data, task = load("shakespeare", folder), TASKS["shakespeare"]
    budget = task.budget._replace(batch=2, updates=2)
    (first, begins), (second, goes_on) = data.batches(0, budget)
    assert (begins, goes_on) == (True, False)
    np.testing.assert_array_equal(first[:, -1], second[:, 0])
    model = task_models.make_model("gru", task, 4, 0.0)
    params = model.init(jax.random.key(0))
    keys = jax.random.split(jax.random.key(0), 2)
    strange = jax.tree.map(lambda a: a + 1, data.carried(model, params, 2))
    one, states = data.loss(model, params, strange, keys, first, begins)
    fresh, _ = data.loss(model, params, data.carried(model, params, 2), keys, first, False)
    assert float(one) == float(fresh)  # a stream that begins does not read what was before
    two, _ = data.loss(model, params, states, keys, second, goes_on)
    both = np.concatenate([first, second[:, 1:]], axis=1)
    whole, _ = data.loss(model, params, strange, keys, both, True)
    assert float(whole) == pytest.approx(float(one + two) / 2, rel=1e-5)


def test_data_that_are_not_there_are_asked_for(capsys):
    with pytest.raises(SystemExit):
        tasks.main(["--tasks", "jsb"])
    assert "--data: expected a folder with jsb_chorales.npz, got None" in capsys.readouterr().err
