"""The figure of `tagging.py`: lines of code with their predicted tags, and how right they are."""

import itertools
from pathlib import Path

import numpy as np
from _tagging.data import LENGTH, TAG, TAGS, VOCABULARY, Lines
from _tagging.scores import NETS, PLACES
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

INK, PAPER = "#cdd6f4", "#1e1e2e"


def draw(path: Path, test: Lines, outputs: dict, scores: dict):
    """Predicted tags of a few lines; accuracy by place in the name; CTC's outputs of a line."""
    figure = Figure(figsize=(12, 9.5), layout="constrained", facecolor=PAPER)
    code, below = figure.subfigures(
        2, 1, squeeze=False, height_ratios=[1.25, 1], facecolor=PAPER
    ).flat
    low = below.subfigures(1, 2, width_ratios=[1, 2.2], facecolor=PAPER)
    # Chosen by the code, not by how the nets do: the most tags that need the future.
    needy = np.isin(test.labels, [TAG[name] for name in ("called", "object", "assigned")]).sum(1)
    first = np.convolve(needy, np.ones(5), "valid").argmax()
    draw_code(code.subplots(), test, outputs, range(first, first + 5))
    draw_places(styled(low[0].subplots()), scores)
    short = np.count_nonzero(test.symbols, axis=1) <= 50
    draw_ctc(styled(low[1].subplots()), test, outputs, np.where(short, needy, 0).argmax())
    figure.savefig(path, dpi=150, facecolor=PAPER)


def draw_code(axes, test, outputs, rows):
    for i, (row, net) in enumerate(itertools.product(rows, NETS)):
        y, best = -i - 0.5 * (i // 2), outputs["segmented", net][row].argmax(-1)
        axes.text(-1.2, y, "→" if net == NETS[0] else "⇄", color=INK, ha="right", va="center")
        for x in range(np.count_nonzero(test.symbols[row])):
            character(axes, x, y, test.symbols[row, x], best[x])
            if best[x] != test.tags[row, x]:
                box = Rectangle((x - 0.5, y - 0.5), 1, 1, color="#f38ba8", alpha=0.4, linewidth=0)
                axes.add_patch(box)
    for i, (name, color) in enumerate(TAGS.items()):
        axes.text(7.2 * i, -13, name, color=color, fontsize=9, weight="bold")
    title = "→ forward-only, ⇄ bidirectional: code it has never seen, colored by tag, errors boxed"
    axes.set_title(title, color=INK, loc="left", fontsize=11)
    axes.set(xlim=(-3, LENGTH), ylim=(-13.5, 0.8), facecolor=PAPER)
    axes.set_axis_off()


def draw_places(axes, scores):
    for net, color in zip(NETS, ("#fab387", "#74a8fc"), strict=True):
        right = [100 * scores["segmented", net][place] for place in PLACES]
        axes.plot(PLACES, right, "o-", color=color, label=net)
    axes.set_title("right tags of names", color=INK, loc="left", fontsize=11)
    axes.set_xlabel("character of the name", color=INK)
    axes.set_ylabel("%", color=INK)
    axes.set_xticks(PLACES)
    axes.legend(frameon=False, labelcolor=INK)


def draw_ctc(axes, test, outputs, row):
    """Of the bidirectional net: each token is said once, in a spike, and nobody told it where."""
    count = np.count_nonzero(test.symbols[row])
    likely = outputs["unsegmented", NETS[1]][row, :count]
    for tag, (name, color) in list(enumerate(TAGS.items()))[1:]:
        if likely[:, tag].max() > 0.1:
            axes.fill_between(range(count), likely[:, tag], step="mid", color=color, alpha=0.85)
            at = int(likely[:, tag].argmax())
            axes.text(at, 1.03, name, color=color, fontsize=7, rotation=35)
    for x in range(count):
        character(axes, x, -0.08, test.symbols[row, x], test.tags[row, x])
    indent = int(np.argmax(test.tags[row] > 0))
    axes.set(xlim=(indent - 1, count), ylim=(-0.16, 1.25))
    axes.set_yticks([0, 0.5, 1])
    axes.set_xticks([])
    axes.set_title("CTC: the probability of each tag, learned without positions", color=INK,
                   loc="left", fontsize=11)  # fmt: skip


def styled(axes):
    axes.set_facecolor(PAPER)
    axes.tick_params(colors=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["bottom", "left"]].set_color(INK)
    axes.grid(alpha=0.15)
    return axes


def character(axes, x, y, symbol, tag):
    axes.text(x, y, VOCABULARY[symbol], color=[*TAGS.values()][tag], family="monospace",
              fontsize=9.5, ha="center", va="center_baseline", parse_math=False)  # fmt: skip
