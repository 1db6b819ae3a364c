"""Identifies a nonlinear dynamic system from a record of its inputs and outputs.

    python examples/system_identification.py                      # under three minutes, two cores
    python examples/system_identification.py --data record.csv --inputs V1 --outputs V2

Every kind of model of the library learns the same record, with the same budget, and is then run
freely: it reads the test inputs alone, for hundreds of steps, and is never told how far off it is.

The default system is the fourth plant of Narendra & Parthasarathy (1990), "Identification and
control of dynamical systems using neural networks", IEEE Trans. Neural Networks 1(1),

    y(t) = (y(t-1) y(t-2) y(t-3) x(t-1) (y(t-3) - 1) + x(t)) / (1 + y(t-2)² + y(t-3)²)

learned from random levels, each held for a random while, and tested on sines as in the paper;
outputs are learned with noise on them (`--noise`) and scored without. A record of your own is a
CSV file with a header; its last fifth is the test. Three ways to train a NARX model are compared:

    open loop    measured outputs are fed back (teacher forcing): parallel in time, but what is
                 learned is one step ahead, and the noise of what is fed back biases it
    scheduled    its own outputs take the place of more and more of the measured ones
    closed loop  it runs freely from a measured start, and BPTT goes through what is fed back
"""

import argparse
import functools
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import seqjax as sj

try:
    from matplotlib.figure import Figure
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn
    from rich.table import Table
except ImportError as missing:
    sys.exit(f"{missing}. This example needs: pip install 'seqjax[examples]'")

console = Console(highlight=False, soft_wrap=True)
WASHOUT = 50  # steps at the start of a window, or of the test, that are not scored


def number(kind, low, high=math.inf):
    """What argparse makes of the text of an option: a number within bounds."""

    def parse(text):
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high or value == math.inf:
            noun = "an integer" if kind is int else "a number"
            bounds = f"of at least {low}" if high == math.inf else f"from {low} to {high}"
            raise argparse.ArgumentTypeError(f"expected {noun} {bounds}, got {text!r}")
        return value

    return parse


# ---- The record --------------------------------------------------------------------------


class Record(NamedTuple):
    """A pair of [T, I] inputs and [T, O] outputs to learn from, and one to be tested on."""

    xs: np.ndarray
    ys: np.ndarray
    test_xs: np.ndarray
    test_ys: np.ndarray


def plant(x):
    """The response of the plant to an input [T], from rest."""
    y = np.zeros(len(x) + 3)
    before = np.concatenate([[0.0], x[:-1]])
    for t in range(len(x)):
        y1, y2, y3 = y[t + 2], y[t + 1], y[t]
        y[t + 3] = (y1 * y2 * y3 * before[t] * (y3 - 1) + x[t]) / (1 + y2**2 + y3**2)
    return y[3:]


def simulated(steps, noise, seed):
    draw = np.random.default_rng(seed)
    holds = draw.integers(1, 20, steps)  # a random level for as many steps each
    xs = np.repeat(draw.uniform(-1, 1, steps), holds)[:steps]
    t = np.arange(1000)
    slow, fast = np.sin(2 * np.pi * t / 250), np.sin(2 * np.pi * t / 25)
    test_xs = np.where(t < 500, slow, 0.8 * slow + 0.2 * fast)
    ys = plant(xs)
    ys += noise * ys.std() * draw.standard_normal(steps)
    return Record(*(a[:, None] for a in (xs, ys, test_xs, plant(test_xs))))


def read(path, inputs, outputs):
    try:
        table = np.genfromtxt(path, delimiter=",", names=True, deletechars="")
    except (OSError, ValueError) as error:
        parser.error(f"--data: expected a CSV file with a header, got {path} ({error})")
    names = [name.strip('"') for name in table.dtype.names or ()]
    columns = dict(zip(names, table.dtype.names or (), strict=True))
    picked = []
    for option, wanted in (("--inputs", inputs or names[:1]), ("--outputs", outputs or names[1:2])):
        for name in wanted:
            if name not in columns:
                parser.error(f"{option}: expected columns among {', '.join(names)}, got {name}")
        picked.append(np.stack([table[columns[name]] for name in wanted], axis=1))
    if not all(np.isfinite(part).all() for part in picked):
        parser.error(f"--data: expected a number in every row of its columns, got {path} with gaps")
    cut = len(table) * 4 // 5
    return Record(*(part[:cut] for part in picked), *(part[cut:] for part in picked))


def standardised(record):
    """In standard deviations of what is learned from."""
    scale = {kind: (part.mean(0), part.std(0) + 1e-12)
             for kind, part in (("x", record.xs), ("y", record.ys))}  # fmt: skip
    kinds = ("x", "y", "x", "y")
    return Record(*(((part - scale[kind][0]) / scale[kind][1]).astype(np.float32)
                    for kind, part in zip(kinds, record, strict=True)))  # fmt: skip


# ---- The models --------------------------------------------------------------------------


class System(NamedTuple):
    """A model, and what it predicts in training: (params, xs, ys, key, progress) -> [T, O]."""

    model: sj.Model
    predict: Callable


def systems(inputs, outputs, size):
    def free(model):
        return System(model, lambda params, xs, *_: sj.unroll(model, params, xs)[1])

    def open_loop(params, xs, ys, *_):
        return sj.teacher_force(narx, params, xs, ys)[1]

    def scheduled(params, xs, ys, key, progress):
        forced = jax.random.bernoulli(key, 1 - progress, xs.shape[:1])
        return sj.teacher_force(narx, params, xs, ys, forced=forced)[1]

    def closed_loop(params, xs, ys, *_):
        state = sj.warm_start(narx, xs[:WASHOUT], ys[:WASHOUT])
        predicted = sj.unroll(narx, params, xs[WASHOUT:], state)[1]
        return jnp.concatenate([ys[:WASHOUT], predicted])

    readout = sj.dense(size, outputs)
    tdnn = sj.tdnn(inputs, size, delays=range(16), activation=jnp.tanh)
    narx = sj.narx(inputs, size, outputs, input_delays=(0, 1, 2), output_delays=(1, 2, 3))
    return {
        "TDNN": free(sj.stack(tdnn, readout)),
        "NARX, open loop": System(narx, open_loop),
        "NARX, scheduled": System(narx, scheduled),
        "NARX, closed loop": System(narx, closed_loop),
        "Jordan": free(sj.jordan(inputs, size, outputs, decay=0.5)),
        "Elman": free(sj.stack(sj.elman(inputs, size), readout)),
        "RNN": free(sj.stack(sj.rnn(inputs, size), readout)),
        "GRU": free(sj.stack(sj.gru(inputs, size), readout)),
        "LSTM": free(sj.stack(sj.lstm(inputs, size), readout)),
    }


# ---- Training and test -------------------------------------------------------------------


def train(system, record, options, advance):
    """The parameters after `--updates` updates; calls advance(mean squared error) after each."""

    def loss(params, xs, ys, keys, progress):
        predict = jax.vmap(system.predict, (None, 0, 0, 0, None))
        errors = predict(params, xs, ys, keys, progress) - ys
        return jnp.mean(errors[:, WASHOUT:] ** 2)

    rate = optax.cosine_decay_schedule(options.learning_rate, options.updates)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))
    step = sj.train.make_step(loss, optimizer)
    key = jax.random.key(options.seed)
    params = system.model.init(key)
    opt_state = optimizer.init(params)
    draw = np.random.default_rng(options.seed)
    window = np.arange(WASHOUT + options.span)
    for update in range(options.updates):
        starts = draw.integers(0, len(record.xs) - len(window) + 1, options.batch_size)
        at = starts[:, None] + window
        keys = jax.random.split(jax.random.fold_in(key, update), options.batch_size)
        progress = np.float32(min(1.0, 1.25 * update / options.updates))
        params, opt_state, report = step(
            params, opt_state, record.xs[at], record.ys[at], keys, progress
        )
        advance(report.loss)
    return params


def error(predicted, ys):
    """Root mean squared error, in percent of the standard deviation of what was to be predicted."""
    scored, truth = np.asarray(predicted, np.float64)[WASHOUT:], ys[WASHOUT:]
    return 100 * float(np.sqrt(np.mean((scored - truth) ** 2) / np.mean(truth.var(0))))


def draw(path, record, runs, title):
    """The free runs over the test, each one's error over time, and the errors of all."""
    figure = Figure(figsize=(11, 8), layout="constrained")
    figure.suptitle(title, parse_math=False)
    top, middle, bottom = figure.subplots(3, 1, height_ratios=[3, 2, 2.2])
    shown = slice(0, min(1000, len(record.test_ys)))
    truth = record.test_ys[shown, 0]
    ranked = sorted(runs, key=lambda name: error(runs[name], record.test_ys))
    paint = {name: f"C{number % 10}" for number, name in enumerate(ranked)}
    top.plot(truth, color="black", linewidth=2.4, alpha=0.35, label="the system")
    for name in (ranked[0], ranked[-1]):
        top.plot(runs[name][shown, 0], color=paint[name], linewidth=1.1, label=name)
    top.set_ylabel("output, in std")
    top.set_title("free runs over the test: the best and the worst model", fontsize=10, loc="left")
    for name in ranked:
        off = np.abs(np.asarray(runs[name])[shown, 0] - truth)
        smooth = np.convolve(off, np.ones(25) / 25, "same")
        middle.plot(np.maximum(smooth, 1e-4), color=paint[name], linewidth=1)
    middle.axvspan(0, WASHOUT, color="0.92", zorder=0)
    middle.set(yscale="log", ylabel="|error|, in std", xlabel="time step (grey: not scored)")
    values = [error(runs[name], record.test_ys) for name in ranked]
    bars = bottom.barh(ranked, values, color=[paint[name] for name in ranked])
    bottom.bar_label(bars, [f" {value:.1f} %" for value in values], fontsize=8)
    bottom.set(xlabel="free-run error, in % of the output's standard deviation")
    bottom.invert_yaxis()
    for axes in (top, middle, bottom):
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(x=0.01)
    bottom.margins(x=0.08)
    top.legend(frameon=False, ncols=3, fontsize=8)
    figure.savefig(path, dpi=150)


size, whole = number(int, 1), number(int, 0)
parser = argparse.ArgumentParser(
    description="Identifies a dynamic system with every kind of model.",
    formatter_class=argparse.ArgumentDefaultsHelpFormatter,
)
option = parser.add_argument
option("--data", metavar="FILE", help="a CSV file with a header (may be .gz); simulated if absent")
option("--inputs", nargs="+", metavar="COLUMN", help="by name; the file's first one if absent")
option("--outputs", nargs="+", metavar="COLUMN", help="by name; the file's second one if absent")
option("--length", type=size, default=20_000, help="steps to simulate")
option("--noise", type=number(float, 0), default=0.1, help="in standard deviations of the output")
option("--models", nargs="+", choices=systems(1, 1, 1), default=list(systems(1, 1, 1)))
option("--hidden-size", type=size, default=32)
option("--updates", type=size, default=1500, help="for each model")
option("--batch-size", type=size, default=32, help="windows of the record in an update")
option("--span", type=size, default=100, help="scored steps of a window")
option("--learning-rate", type=number(float, 1e-9), default=1e-2, help="it decays to 0")
option("--seed", type=whole, default=0)
option("--out", metavar="DIR", default="runs/system_identification", help="for the figure")


def main(argv=None):
    options = parser.parse_args(argv)
    if options.data is None:
        record = simulated(options.length, options.noise, options.seed)
        title = f"Narendra & Parthasarathy's plant 4, output noise {100 * options.noise:g} %"
    else:
        record = read(options.data, options.inputs, options.outputs)
        title = Path(options.data).name
    needed = WASHOUT + options.span
    if min(len(record.xs), len(record.test_xs)) < needed:
        parser.error(f"--span: expected a window of {needed} steps ({WASHOUT} not scored) to "
                     f"fit into the record, got {len(record.xs)} to learn and "
                     f"{len(record.test_xs)} to test")  # fmt: skip
    record = standardised(record)
    (_, inputs), (_, outputs) = record.xs.shape, record.ys.shape
    chosen = systems(inputs, outputs, options.hidden_size)
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    console.print(f"{title}: {len(record.xs):,} steps to learn from, "
                  f"{len(record.test_xs):,} to be tested on")  # fmt: skip

    table = Table(title="Test errors, in % of the output's standard deviation")
    for heading in ("", "parameters", "free run", "one step ahead", "seconds"):
        table.add_column(heading, justify="right" if heading else "left")
    runs = {}
    columns = ("{task.description:18}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
               "training error {task.fields[off]:.3f}")  # fmt: skip
    with Progress(*columns, console=console) as progress:
        for name in options.models:
            system, bar = chosen[name], progress.add_task(name, total=options.updates, off=math.nan)
            begun, recent = time.perf_counter(), []

            def advance(loss, bar=bar, recent=recent):
                recent.append(loss)
                if len(recent) == 50:  # to look at a loss is to wait for it
                    off = math.sqrt(np.mean(jax.device_get(recent)))
                    progress.update(bar, advance=len(recent), off=off)
                    recent.clear()

            params = train(system, record, options, advance)
            progress.update(bar, completed=options.updates)
            runs[name] = np.asarray(
                jax.jit(functools.partial(sj.unroll, system.model))(params, record.test_xs)[1]
            )
            ahead = "–"
            if name.startswith("NARX"):
                forced = sj.teacher_force(system.model, params, record.test_xs, record.test_ys)[1]
                ahead = f"{error(forced, record.test_ys):.2f}"
            count = sum(leaf.size for leaf in jax.tree.leaves(params))
            table.add_row(name, f"{count:,}", f"{error(runs[name], record.test_ys):.2f}", ahead,
                          f"{time.perf_counter() - begun:.1f}")  # fmt: skip
    console.print(table)
    draw(out / "free_runs.png", record, runs, title)
    console.print(f"figure  {out / 'free_runs.png'}")


if __name__ == "__main__":
    main()
