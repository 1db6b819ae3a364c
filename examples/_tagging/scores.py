"""How right the outputs of `tagging.py` are, and the table that says so."""

import itertools
import math

import numpy as np
from _common import console
from _tagging.data import TAG, Lines
from rich.table import Table

NETS = ("forward-only", "bidirectional")
PLACES = range(1, 11)  # which character of a name


def collapse(best) -> list[int]:
    """Greedy decoding of CTC: the most likely output of each step; no repetitions, no blanks."""
    return [int(k) for k, _ in itertools.groupby(best) if k]


def edit_distance(a: list, b: list) -> int:
    """How many insertions, deletions and substitutions make b of a (Levenshtein)."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, start=1):
        diagonal, row[0] = row[0], i
        for j, y in enumerate(b, start=1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (x != y))
    return row[-1]


def measure(task: str, best: np.ndarray, lines: Lines) -> dict:
    """Shares of right or wrong answers, of the most likely outputs [B, T]."""
    if task == "unsegmented":
        wanted = [[k for k in row if k] for row in lines.labels.tolist()]
        found = [collapse(row) for row in np.where(lines.symbols > 0, best, 0).tolist()]
        errors = np.array([edit_distance(a, b) for a, b in zip(found, wanted, strict=True)])
        rate = errors.sum() / sum(map(len, wanted))
        return {"label error rate": rate, "lines without an error": np.mean(errors == 0)}
    places = np.where(lines.tags == TAG["defined"], 0, lines.places)
    chosen = {"all characters": lines.symbols > 0, "characters of names": places > 0}
    chosen |= {k: places == k for k in PLACES}
    return {k: (best == lines.tags)[a].mean() if a.any() else math.nan for k, a in chosen.items()}


def show(parameters: dict, scores: dict, seconds: dict):
    table = Table(title="On files that were not learned from")
    table.add_column("")
    for net in NETS:
        table.add_column(net, justify="right")

    def add(heading, figure):
        table.add_row(heading, *(figure(net) for net in NETS))

    percent = lambda task, key: lambda net: f"{100 * scores[task, net][key]:.1f} %"
    add("parameters", lambda net: f"{parameters[net]:,}")
    table.add_section()
    for key in ("all characters", "characters of names"):
        add(f"right tags, {key}", percent("segmented", key))
    for place in (1, 3, 6):
        add(f"… at character {place} of a name", percent("segmented", place))
    add("seconds", lambda net: f"{seconds['segmented', net]:.0f}")
    table.add_section()
    for key in ("label error rate", "lines without an error"):
        add(f"CTC, {key}", percent("unsegmented", key))
    add("seconds", lambda net: f"{seconds['unsegmented', net]:.0f}")
    console.print(table)
    console.print("Names without those behind `def` and `class`, which the past decides.")
