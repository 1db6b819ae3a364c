"""Identifies a nonlinear dynamic system from a record of its inputs and outputs.

    python examples/system_identification.py                      # under three minutes, two cores
    python examples/system_identification.py --data record.csv --inputs V1 --outputs V2

Every kind of model of the library learns the same record, with the same budget, and is then run
freely: it reads the test inputs alone, for hundreds of steps, and is never told how far off it is.
NARX models are also told, and predict, the measured outputs: one step and five steps ahead.

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

import functools
import math
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import seqjax as sj

try:
    from _common import console, make_folder
    from _system_identification.figure import draw
    from _system_identification.options import parser
    from _system_identification.record import WASHOUT, error, read, simulated, standardized
    from _system_identification.systems import systems
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn
    from rich.table import Table
except ImportError as missing:
    sys.exit(f"{missing}. This example needs: pip install 'seqjax[examples]'")

parser.set_defaults(  # --help says what each option means
    length=20_000,
    noise=0.1,
    models=list(systems(1, 1, 1)),
    hidden_size=32,
    updates=1500,
    batch_size=32,
    span=100,
    learning_rate=1e-2,
    seed=0,
    out="runs/system_identification",
)


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
        batch = record.xs[at], record.ys[at], keys, progress
        params, opt_state, report = step(params, opt_state, *batch)
        advance(report.loss)
    return params


def main(argv=None):
    options = parser.parse_args(argv)
    if options.data is None:
        record = simulated(options.length, options.noise, options.seed)
        title = f"Narendra & Parthasarathy's plant 4, output noise {100 * options.noise:g} %"
    else:
        record = read(parser, options.data, options.inputs, options.outputs)
        title = Path(options.data).name
    needed = WASHOUT + options.span
    if min(len(record.xs), len(record.test_xs)) < needed:
        parser.error(f"--span: expected a window of {needed} steps ({WASHOUT} not scored) to "
                     f"fit into the record, got {len(record.xs)} to learn and "
                     f"{len(record.test_xs)} to test")  # fmt: skip
    record = standardized(record)
    (_, inputs), (_, outputs) = record.xs.shape, record.ys.shape
    chosen = systems(inputs, outputs, options.hidden_size)
    out = make_folder(parser, options.out)
    console.print(f"{title}: {len(record.xs):,} steps to learn from, "
                  f"{len(record.test_xs):,} to be tested on")  # fmt: skip

    table = Table(title="Test errors, in % of the output's standard deviation")
    for heading in ("", "parameters", "free run", "1 ahead", "5 ahead", "seconds"):
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
            run_freely = jax.jit(functools.partial(sj.unroll, system.model))
            runs[name] = np.asarray(run_freely(params, record.test_xs)[1])
            ahead = ["–", "–"]
            if name.startswith("NARX"):
                narx: Any = system.model
                given = narx, params, record.test_xs, record.test_ys
                found = [sj.predict_ahead(*given, steps_ahead=k)[1] for k in (1, 5)]
                ahead = [f"{error(each, record.test_ys):.2f}" for each in found]
            count = sum(leaf.size for leaf in jax.tree.leaves(params))
            table.add_row(name, f"{count:,}", f"{error(runs[name], record.test_ys):.2f}", *ahead,
                          f"{time.perf_counter() - begun:.1f}")  # fmt: skip
    console.print(table)
    draw(out / "free_runs.png", record, runs, title)
    console.print(f"figure  {out / 'free_runs.png'}")


if __name__ == "__main__":
    main()
