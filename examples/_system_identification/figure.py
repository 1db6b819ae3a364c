"""The figure of `system_identification.py`: free runs over the test, and their errors."""

import numpy as np
from _system_identification.record import WASHOUT, error
from matplotlib.figure import Figure


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
    middle.set(yscale="log", ylabel="|error|, in std", xlabel="time step (gray: not scored)")
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
