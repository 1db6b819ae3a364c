"""Tasks: every recurrent model of the library on problems of memory, state, music and text.

    python -m benchmarks.tasks --data FOLDER                       # all of it: many hours
    python -m benchmarks.tasks --tasks parity_256 --models lstm lru
    python -m benchmarks.tasks --data FOLDER --tasks jsb --models gru --seeds 0 1 2

    adding_200, adding_600   the sum of two marked numbers of a series
    copy_200                 ten symbols, to be said again after 200 steps
    parity_256               whether the ones so far are odd, at every step of 256
    jsb, nottingham          which keys of a piano sound next (Boulanger-Lewandowski et al. 2012)
    shakespeare              the next character

FOLDER has what is not generated: jsb_chorales.npz, nottingham.npz, tinyshakespeare.txt. All models
of a task have one budget, which each row states: parameters at most, updates, series in an update,
a learning rate (it warms up and decays to 0) and dropout, none of them tuned by model. Where there
is a validation set, the parameters that are best on it are the ones that are tested.

Writes benchmarks/results/tasks_<task>.json, a row per model, and in it a score per seed, with its
seconds and its device; rows of other models stay, and so do other seeds of the same budget.
"""

import argparse
import functools
import json
import statistics
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import optax

import seqjax as sj
from benchmarks.machine import RESULTS, device
from benchmarks.task_models import BLOCKS, FED_BACK, KINDS, LINEAR, fitted, parameters
from benchmarks.task_problems import FILES, TASKS, Budget, Data

VALIDATIONS = 30  # in a training


def make_step(data: Data, model: sj.Model, budget: Budget):
    warm_up = budget.updates // 20
    rate = optax.warmup_cosine_decay_schedule(0.0, budget.learning_rate, warm_up, budget.updates)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))
    loss = functools.partial(data.loss, model)
    return optimizer, sj.train.make_step(loss, optimizer, has_aux=True)


def train(data: Data, model: sj.Model, step, optimizer, budget: Budget, seed: int) -> float:
    """The test score of one seed."""
    key = jax.random.key(seed)
    params = model.init(key)
    opt_state, carried = optimizer.init(params), data.carried(model, params, budget.batch)
    every, best, kept = max(1, budget.updates // VALIDATIONS), float("inf"), None
    for number, batch in enumerate(data.batches(seed, budget), 1):
        keys = jax.random.split(jax.random.fold_in(key, number), budget.batch)
        params, opt_state, report = step(params, opt_state, carried, keys, *batch)
        carried = report.aux
        if number % every == 0 or number == budget.updates:
            said = f"    update {number:6}  loss {report.loss:.4f}"
            if data.validated:
                valid = data.evaluate(model, params, "valid")
                if valid < best:
                    best, kept = valid, jax.tree.map(jnp.copy, params)
                said += f"  valid {valid:.4f}"
            print(said, flush=True)
    return data.evaluate(model, params if kept is None else kept, "test")


def results(name: str) -> dict[str, dict]:
    path = RESULTS / f"tasks_{name}.json"
    return json.loads(path.read_text()) if path.exists() else {}


def add(rows: dict[str, dict], kind: str, row: dict) -> dict[str, dict]:
    """The rows with this one: the seeds of one budget together, models in their order."""
    measured = ("scores", "seconds", "device")
    same = lambda row: {k: v for k, v in row.items() if k not in measured}
    if kind in rows and same(rows[kind]) == same(row):
        for of in measured:
            row |= {of: dict(sorted((rows[kind][of] | row[of]).items(), key=lambda s: int(s[0])))}
    rows = rows | {kind: row}
    return {kind: rows[kind] for kind in KINDS if kind in rows}


def table(name: str, rows: dict[str, dict]) -> str:
    """In Markdown: units, and the score in mean ± standard deviation."""
    task = TASKS[name]
    head = ["", "parameters", "updates × series", "learning rate", "seeds", task.score]
    head += ["published"] if task.published else []
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for kind, row in rows.items():
        budget, scores = row["budget"], list(row["scores"].values())
        cells = [f"{row['parameters']:,}", f"{budget['updates']:,} × {budget['batch']}"]
        cells += [f"{budget['learning_rate']:g}", str(len(scores)), spread(scores)]
        if task.published:
            cells += [f"{task.published[kind]:.3g}" if kind in task.published else "–"]
        units = f"{row['units']}, in {row['blocks']} blocks" if kind in LINEAR else row["units"]
        lines.append("| " + " | ".join([f"`sj.{kind}`, {units}", *cells]) + " |")
    return "\n".join(lines)


def spread(scores: list[float]) -> str:
    mean = f"{statistics.mean(scores):#.3g}".rstrip(".")
    return f"{mean} ± {statistics.stdev(scores):#.2g}" if len(scores) > 1 else mean


def main(argv: list[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    option = parser.add_argument
    option("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    option("--models", nargs="+", choices=KINDS, default=list(KINDS))
    option("--seeds", nargs="+", type=int, default=[0, 1, 2])
    option("--data", type=Path, metavar="FOLDER", help="of music and text")
    for field in Budget._fields:
        kind = Budget.__annotations__[field]
        option("--" + field.replace("_", "-"), type=kind, help="that of the task if not given")
    options = parser.parse_args(argv)
    given = {f: v for f in Budget._fields if (v := getattr(options, f)) is not None}
    for name in options.tasks:
        task, file = TASKS[name], None
        if name in FILES:
            file = options.data and options.data / FILES[name]
            if file is None or not file.exists():
                parser.error(f"--data: expected a folder with {FILES[name]}, got {options.data}")
        budget, data = task.budget._replace(**given), task.load(file)
        for kind in options.models:
            if kind in FED_BACK and task.remember is None:
                continue
            measure(name, kind, data, budget, options.seeds)
        print(table(name, results(name)))


def measure(name: str, kind: str, data: Data, budget: Budget, seeds: list[int]):
    """Adds a row, seed by seed."""
    model, units = fitted(kind, TASKS[name], budget.parameters, budget.dropout)
    optimizer, step = make_step(data, model, budget)
    row = {"budget": budget._asdict(), "units": units, "parameters": parameters(model)}
    row |= {"blocks": BLOCKS if kind in LINEAR else 0, "model": repr(model)}
    for seed in seeds:
        begun = time.perf_counter()
        score = train(data, model, step, optimizer, budget, seed)
        seconds = round(time.perf_counter() - begun, 1)
        print(f"{name} {kind} seed {seed}: {score:.5g} {TASKS[name].score}, {seconds} s")
        of = f"{device()}, jax {jax.__version__}"
        found = {"scores": score, "seconds": seconds, "device": of}
        found = {what: {str(seed): value} for what, value in found.items()}
        rows = add(results(name), kind, row | found)
        (RESULTS / f"tasks_{name}.json").write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
