"""The record that `system_identification.py` learns from, and the error on its test."""

from typing import NamedTuple

import numpy as np

WASHOUT = 50  # steps at the start of a window, or of the test, that are not scored


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


def read(parser, path, inputs, outputs):
    """The named columns of a CSV file; parser.error names what is wrong with it."""
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


def standardized(record):
    """In standard deviations of what is learned from."""
    scale = {kind: (part.mean(0), part.std(0) + 1e-12)
             for kind, part in (("x", record.xs), ("y", record.ys))}  # fmt: skip
    kinds = ("x", "y", "x", "y")
    return Record(*(((part - scale[kind][0]) / scale[kind][1]).astype(np.float32)
                    for kind, part in zip(kinds, record, strict=True)))  # fmt: skip


def error(predicted, ys):
    """Root mean squared error, in percent of the standard deviation of what was to be predicted."""
    scored, truth = np.asarray(predicted, np.float64)[WASHOUT:], ys[WASHOUT:]
    return 100 * float(np.sqrt(np.mean((scored - truth) ** 2) / np.mean(truth.var(0))))
