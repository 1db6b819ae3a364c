"""The two figures of `char_rnn.py`: the curves of a training, and a cell that means something."""

import re
import warnings
from pathlib import Path

import jax
import numpy as np
from _char_rnn.model import activations
from _char_rnn.text import Data, encode
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

import seqjax as sj


def draw(out: Path, history: dict, title: str, options, model: sj.Model, params, data: Data) -> str:
    """Draws both into a folder; says which they are."""
    draw_curves(out / "curves.png", history, title, options.grad_clip)
    unseen = encode(data.unseen, data.vocabulary)
    cells = np.array(activations(model, jax.device_get(params), unseen))
    what = draw_activation(out / "activation.png", cells, data.unseen)
    return f"curves      {out / 'curves.png'}\nactivation  {out / 'activation.png'}: {what}"


def draw_curves(path: Path, history: dict, title: str, clip: float):
    figure = Figure(figsize=(9, 6.5), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[2, 1])
    window = 1 + len(history["loss"]) // 50
    for axes, name, color in ((top, "loss", "#2171b5"), (bottom, "grad_norm", "#238b45")):
        values = np.array(history[name])
        steps = np.arange(1, len(values) + 1)
        mean = np.convolve(values, np.ones(window) / window, "valid")
        axes.plot(steps, values, color=color, linewidth=0.6, alpha=0.35)
        axes.plot(steps[window - 1 :], mean, color=color, label="training, running mean")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    steps, bits = zip(*history["val"], strict=True)
    top.plot(steps, bits, "o-", color="#d94801", markersize=4, label="validation")
    top.annotate(f"{bits[-1]:.2f}", (steps[-1], bits[-1]), (0, 9), color="#d94801",
                 textcoords="offset points", ha="center", parse_math=False)  # fmt: skip
    top.set_ylabel("bits per character")
    top.set_ylim(bottom=0.9 * min(history["loss"]))
    top.set_title(title, parse_math=False)
    top.legend(frameon=False)
    bottom.axhline(clip, color="0.4", linestyle=":", label="clipped to this")
    bottom.set(yscale="log", ylabel="gradient norm", xlabel="updates")
    bottom.legend(frameon=False)
    figure.savefig(path, dpi=150)


# What a cell might follow: being within a span of these kinds. Quotes and comments are one
# pattern, for either may hold the other's marks.
STRING = r""""{3}[\s\S]*?"{3}|'{3}[\s\S]*?'{3}|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'"""
SPANS = {
    "inside quotes": rf"(?P<span>{STRING})|#.*",
    "in a comment": rf"{STRING}|(?P<span>#.*)",
    "inside brackets": r"(?P<span>[(\[{][^()\[\]{}]*[)\]}])",
    "in capitals": r"(?P<span>\b[A-Z]{2,}\b)",
}


def features(text: str) -> dict[str, np.ndarray]:
    found = {}
    for name, pattern in SPANS.items():
        found[name] = np.zeros(len(text))
        for match in re.finditer(pattern, text):
            if match["span"]:
                found[name][slice(*match.span("span"))] = 1
    found = {name: value for name, value in found.items() if value.std() > 0.1}
    # A text with none of these at least has lines.
    columns = [i for line in text.split("\n") for i in range(len(line) + 1)]
    return found or {"place in the line": np.array(columns[: len(text)], float)}


def draw_activation(path: Path, cells: np.ndarray, text: str) -> str:
    """The activation of one cell over a text, as the color behind each character.

    It is the cell that goes best with one of the features above, by its correlation over
    the whole text; shown are the lines where that feature varies most.

    Args:
      path: of the figure.
      cells: [len(text), layers, H], tanh(c) of every cell after each character.
      text: not trained on.

    Returns:
      Which cell it is.
    """
    standard = lambda a: (a - a.mean(0)) / (a.std(0) + 1e-6)
    every = features(text)
    r = {name: np.einsum("t,tlh->lh", standard(value), standard(cells)) / len(text)
         for name, value in every.items()}  # fmt: skip
    name = max(r, key=lambda name: np.abs(r[name]).max())
    layer, cell = np.unravel_index(np.abs(r[name]).argmax(), r[name].shape)
    what = f"layer {layer + 1}, cell {cell + 1}: {name} (correlation {r[name][layer, cell]:+.2f})"

    rows, width = 22, 90
    lines = [m.span() for m in re.finditer(rf"[^\n]{{1,{width - 1}}}\n?|\n", text)]
    starts = range(max(1, len(lines) - rows + 1))
    pages = [slice(lines[i][0], lines[i : i + rows][-1][1]) for i in starts]
    best = int(np.argmax([every[name][page].std() for page in pages]))
    shown = lines[best : best + rows]

    figure = Figure(figsize=(10, 0.5 + 0.26 * len(shown)), layout="constrained")
    axes = figure.subplots()
    image = np.full((len(shown), width), np.nan)
    for row, (start, end) in enumerate(shown):
        image[row, : end - start] = cells[start:end, layer, cell]
        for column, character in enumerate(text[start:end]):
            axes.text(column, row, character.replace("\n", "↵"), family="monospace", fontsize=9,
                      ha="center", va="center_baseline", parse_math=False)  # fmt: skip
    pale = LinearSegmentedColormap.from_list("pale", ["#f26b4e", "#fdfdf6", "#4ea3e0"])
    colors = axes.imshow(image, cmap=pale, vmin=-1, vmax=1, aspect="auto")
    axes.set_axis_off()
    axes.set_title(what, fontsize=11, loc="left")
    figure.colorbar(colors, label="tanh(c)", ticks=[-1, 0, 1], pad=0.01, aspect=40)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)  # it draws a box
        figure.savefig(path, dpi=150)
    return what
