"""What `compare` found, in short: a table for docs/benchmarks.md, and a picture.

python -m benchmarks.report benchmarks/results/compare_jax_<version>_<device>.json
"""

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path

# A ratio of each row, and which of its values is the worst.
COLUMNS = {
    "best JAX peer, all cores": (lambda row: row["all_cores"]["best_jax_peer/seqjax"], min),
    "PyTorch": (lambda row: row["all_cores"]["torch/seqjax"], min),
    "best JAX peer, one device": (lambda row: row["best_jax_peer/seqjax"], min),
    "plain scan": (lambda row: row["plain scan/seqjax"], min),
    "batched by hand": (lambda row: row["ms"]["natively batched"] / row["ms"]["seqjax"], min),
    "compilation": (lambda row: row["compile_s"]["seqjax"] / row["compile_s"]["plain scan"], max),
    "memory": (
        lambda row: max(1, row["temp_mb"]["seqjax"]) / max(1, row["least_temp_mb_of_peers"]),
        max,
    ),
}
WHAT = {"forward": "forward alone", "gradient": "forward + backward"}
SHORT = {
    "one layer": "",
    "ragged": ["ragged"],
    "two layers": ["× 2"],
    "two directions": ["⇄"],
    "three layers": ["× 3"],
}


def geometric_mean(ratios: list[float]) -> float:
    return math.exp(sum(map(math.log, ratios)) / len(ratios))


def summary(rows: list[dict]) -> dict[str, dict]:
    """Of the rows of each cell, of all cells and of each other network: geometric mean, worst."""
    networks = {name: [row for row in rows if row["network"] == name] for name in SHORT}
    layers = networks.pop("one layer")
    cells = ("rnn", "gru", "lstm")
    groups = {f"sj.{cell}": [row for row in layers if row["cell"] == cell] for cell in cells}
    batches = [row for row in layers if row["shape"][1] >= 8]
    groups |= {"all": layers, "all, B ≥ 8": batches} | networks
    found = {}
    for what, title in WHAT.items():
        for name, group in groups.items():
            of = [row for row in group if row["what"] == what]
            if of:
                found[f"{name}, {title}"] = columns(of)
    return found


def columns(rows: list[dict]) -> dict[str, list[float]]:
    found = {}
    for name, (ratio, worst) in COLUMNS.items():
        if name == "batched by hand" and rows[0]["network"] != "one layer":
            continue  # not written by hand for these
        ratios = [ratio(row) for row in rows]
        found[name] = [round(geometric_mean(ratios), 2), round(worst(ratios), 2)]
    return found


def behind(rows: list[dict], ratio: Callable[[dict], float]) -> str:
    """The rows whose ratio is below 1, in words."""
    said = [
        f"{row['cell']} {tuple(row['shape'])}{''.join(f' {s}' for s in SHORT[row['network']])}"
        f" {ratio(row):.2f}"
        for row in rows
        if round(ratio(row), 2) < 1
    ]
    return ", ".join(said) or "none"


def table(report: dict) -> str:
    """In Markdown."""
    lines = ["| " + " | ".join(["", *COLUMNS]) + " |", "|" + "---|" * (1 + len(COLUMNS))]
    for name, found in report["summary"].items():
        figures = [
            "{:.2f} ({:.2f})".format(*found[column]) if column in found else ""
            for column in COLUMNS
        ]
        lines.append("| " + " | ".join([name, *figures]) + " |")
    return "\n".join(lines)


def draw(path: Path, report: dict):
    import numpy as np
    from matplotlib.figure import Figure

    figure = Figure(figsize=(19, 7.5), layout="constrained")
    figure.suptitle(f"Time relative to seqjax (above 1: seqjax is faster)\n{report['device']}")
    colours = {"best JAX peer, all cores": "#2171b5", "PyTorch": "#d94801"}
    for axes, what in zip(figure.subplots(2, 1, sharex=True), reversed(WHAT), strict=True):
        rows = [row for row in report["rows"] if row["what"] == what]
        labels = ["\n".join(map(str, (r["cell"], *r["shape"], *SHORT[r["network"]]))) for r in rows]
        for offset, (name, colour) in enumerate(colours.items()):
            values = [COLUMNS[name][0](row) for row in rows]
            places = np.arange(len(rows)) + 0.38 * (offset - 0.5)
            axes.bar(places, np.array(values) - 1, 0.36, 1, color=colour, label=name)
            for x, value in zip(places, values, strict=True):
                axes.text(x, max(value, 1) * 1.04, f"{value:.1f}", ha="center", fontsize=6)
        axes.set(yscale="log", ylabel="ratio of times", title=WHAT[what])
        axes.set_yticks([0.5, 1, 2, 5, 10, 20], ["0.5", "1", "2", "5", "10", "20"])
        axes.set_xticks(range(len(rows)), labels, fontsize=7)
        axes.axhline(1, color="black", linewidth=1)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, loc="upper right")
    figure.savefig(path, dpi=140)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path)
    report = json.loads(parser.parse_args().results.read_text())
    print(table(report))
    for what, title in WHAT.items():
        rows = [row for row in report["rows"] if row["what"] == what]
        for column in ("best JAX peer, all cores", "PyTorch", "best JAX peer, one device"):
            print(f"{title}, behind {column}: {behind(rows, COLUMNS[column][0])}")


if __name__ == "__main__":
    main()
