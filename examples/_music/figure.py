"""The figure of `music.py`: a chorale as the model expects it, and one that it wrote."""

from pathlib import Path

import numpy as np
from _music.data import LOWEST
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

INK, HEARD, WRITTEN = "#252525", "#2171b5", "#d94801"
EXPECTED = LinearSegmentedColormap.from_list("expected", ["white", "#41ab5d", "#00441b"])


def draw(path: Path, piece, expected, written, opening: int, title: str):
    """Draws two piano rolls.

    Args:
      path: of the figure.
      piece: bool [T, 88], not trained on.
      expected: [T - 1, 88], the probabilities of its keys at steps 1, …, T - 1.
      written: bool [T', 88]: an opening, and what the model wrote after it.
      opening: how many steps the opening has.
      title: of the figure.
    """
    figure = Figure(figsize=(12, 8), layout="constrained")
    figure.suptitle(title)
    top, bottom = figure.subplots(2, 1)
    image = np.concatenate([np.zeros((1, piece.shape[1])), expected])
    extent = (-0.5, len(piece) - 0.5, LOWEST - 0.5, LOWEST + piece.shape[1] - 0.5)
    found = top.imshow(
        image.T, cmap=EXPECTED, vmin=0, vmax=1, origin="lower", aspect="auto", extent=extent
    )
    figure.colorbar(found, ax=top, label="probability, one step before", pad=0.01)
    notes(top, piece, facecolors="none", edgecolors=INK, linewidth=0.9)
    top.set_title("a piece that it has never heard (outlined), and what it expects", loc="left")
    notes(bottom, written[:opening], color=HEARD)
    notes(bottom, written[opening:], first=opening, color=WRITTEN)
    bottom.axvline(opening - 0.5, color=INK, linewidth=0.8, linestyle=":")
    bottom.set_title("the opening of another one (blue), and how it goes on (orange)", loc="left")
    for axes, roll in ((top, piece), (bottom, written)):
        axes.set_yticks(range(24, 109, 12), [f"C{octave}" for octave in range(1, 9)])
        used = LOWEST + np.flatnonzero(roll.any(axis=0))
        if len(used):
            axes.set_ylim(used.min() - 2, used.max() + 2)
        axes.set(xlim=(-0.5, len(roll) - 0.5), xlabel="step")
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=140)


def notes(axes, roll: np.ndarray, first: int = 0, **style):
    """A bar for each key, as long as it sounds."""
    for key in np.flatnonzero(roll.any(axis=0)):
        change = np.diff(np.concatenate([[0], roll[:, key].astype(int), [0]]))
        starts, ends = np.flatnonzero(change == 1), np.flatnonzero(change == -1)
        bars = list(zip(first + starts - 0.46, ends - starts - 0.08, strict=True))
        axes.broken_barh(bars, (LOWEST + key - 0.4, 0.8), **style)
