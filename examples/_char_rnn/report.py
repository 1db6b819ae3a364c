"""What `char_rnn.py` prints: what is trained, and how far it is."""

import contextlib
import math
import sys
from pathlib import Path

import jax
from _char_rnn.text import Data
from _common import console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn


def describe(options, data: Data, params, done: int, devices) -> str:
    """Prints what is trained on what; returns the first half of it, for the title of a figure."""
    title = f"LSTM, {options.layers} × {options.hidden_size} units, on {data.name}"
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    per_epoch = (data.streams.shape[1] - 1) // options.seq_length
    size = f"{options.batch_size} × {options.seq_length}"
    console.print(data.summary)
    console.print(f"model       {title}: {count:,} parameters")
    kind = devices.mesh.devices.flat[0].device_kind
    of = f" of {jax.process_count()} processes" if jax.process_count() > 1 else ""
    idle = jax.device_count() - devices.mesh.size
    of += f" ({idle} more stand idle)" if idle else ""
    console.print(f"devices     {devices.mesh.size} × {kind}{of}, each with a part of the streams")
    console.print(f"training    {options.steps:,} updates of {size} characters, "
                  f"{options.steps / per_epoch:.2g} epochs; Ctrl-C saves and stops")  # fmt: skip
    if options.resume:
        console.print(f"resumed     after update {done:,}")
    return title


@contextlib.contextmanager
def progress_bar(done: int, steps: int):
    """Yields (progress, bar) with fields loss, val, norm and speed to update."""
    columns = ("{task.fields[loss]:.2f} bits/char", "val {task.fields[val]:.2f}",
               "|grad| {task.fields[norm]:.2f}", "{task.fields[speed]:,.0f} chars/s")  # fmt: skip
    columns = (BarColumn(None), MofNCompleteColumn(), *columns, TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        fields = {"loss": math.nan, "val": math.nan, "norm": math.nan, "speed": 0}
        yield progress, progress.add_task("", total=steps, completed=done, **fields)


def record(history: dict, reports: list, but: int = 0):
    """Adds the loss, in bits, and the norm of the gradient to the history, but of the last few.

    The last is read when the next update has begun, so that the devices do not wait for it.
    """
    while len(reports) > but:
        report = reports.pop(0)
        history["loss"].append(float(report.loss) / math.log(2))
        history["grad_norm"].append(float(report.grad_norm))
        if not math.isfinite(history["loss"][-1]):
            number = len(history["loss"])
            sys.exit(f"The loss of update {number} is not finite: try a lower --learning-rate.")


def stopped(options, done: int) -> str:
    how = f"{Path(sys.argv[0]).name} --out {options.out} --resume"
    how = how if jax.process_count() == 1 else "the same commands"
    return f"Stopped after update {done:,}, which is saved. To continue: {how}"
