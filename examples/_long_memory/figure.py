"""The figure of `long_memory.py`: learning curves, and the gradients that explain them."""

import math

import numpy as np
from _long_memory.systems import SYSTEMS
from matplotlib.figure import Figure


def draw(path, problems, results, updates):
    figure = Figure(figsize=(6.4 * len(problems), 8.4), layout="constrained")
    columns = figure.subplots(2, len(problems), squeeze=False, height_ratios=[1, 1.2]).T
    window = 1 + updates // 50
    for problem, (top, bottom) in zip(problems, columns, strict=True):
        for name, (losses, before, after) in results[problem.title].items():
            color = SYSTEMS[name][0]
            mean = np.convolve(losses, np.ones(window) / window, "valid") / problem.chance
            top.plot(np.arange(window, updates + 1), mean, color=color, label=name)
            for norms, style, width in ((before, ":", 1.1), (after, "-", 1.8)):
                shown = np.where(norms > 1e-12 * norms[-1], norms / norms[-1], math.nan)
                if not norms[:-1].any():
                    shown[:-1] = 3e-13 if name == "jordan" else 1e-13  # to see both
                bottom.plot(shown, style, color=color, linewidth=width)
        top.axhline(1, color="black", linestyle="--", linewidth=1, label="chance")
        top.set(yscale="log", xlabel="updates", ylabel="loss ÷ chance", title=problem.title)
        top.set_ylim(top=1.5)
        top.yaxis.set_major_formatter("{x:g}")
        bottom.set_title("how the last step's loss depends on h(t) (dotted: untrained)")
        bottom.set(yscale="log", xlabel="t", ylabel="‖∂loss/∂h(t)‖, last is 1", ylim=(4e-14, None))
        bottom.axhspan(4e-14, 1e-12, color="0.92", zorder=0)
        bottom.text(0.02, 4.5e-13, "exactly 0", transform=bottom.get_yaxis_transform())
        for axes in (top, bottom):
            axes.spines[["top", "right"]].set_visible(False)
            axes.grid(alpha=0.25)
    handles = columns[0][0].get_legend_handles_labels()
    figure.legend(*handles, ncols=8, frameon=False, loc="outside lower center")
    figure.savefig(path, dpi=150)
