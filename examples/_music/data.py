"""Polyphonic music as piano rolls: [T, 88], which keys sound at each step."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

KEYS = 88  # of a piano
LOWEST = 21  # the MIDI note of its first key, A0
PARTS = ("train", "valid", "test")


class Rolls(NamedTuple):
    """Pieces of music, padded with silence at their ends.

    Attributes:
      keys: bool [N, T, KEYS].
      lengths: int [N].
    """

    keys: np.ndarray
    lengths: np.ndarray


def read_rolls(path: str | Path) -> dict[str, Rolls]:
    """The parts of an .npz file, which has all pieces of a part end to end, eight keys in a byte.

    That is `part`, uint8 [frames, 11], and `part_lengths`, of each of "train", "valid", "test".
    """
    with np.load(path) as file:
        parts = {part: (file[part], file[f"{part}_lengths"]) for part in PARTS}
    rolls = {}
    for part, (packed, lengths) in parts.items():
        frames = np.unpackbits(packed, axis=1)[:, :KEYS].astype(bool)
        rolls[part] = padded(np.split(frames, np.cumsum(lengths)[:-1]))
    return rolls


def padded(pieces: list[np.ndarray]) -> Rolls:
    lengths = np.array([len(piece) for piece in pieces])
    keys = np.zeros((len(pieces), lengths.max(), KEYS), bool)
    for row, piece in zip(keys, pieces, strict=True):
        row[: len(piece)] = piece
    return Rolls(keys, lengths)


def batches(rolls: Rolls, rng: np.random.Generator, size: int, span: int) -> Iterator[Rolls]:
    """Without end: pieces in random order, each as often; of long ones a window of span + 1."""
    keys, lengths = rolls
    waiting = np.zeros(0, int)
    while True:
        while len(waiting) < size:
            waiting = np.concatenate([waiting, rng.permutation(len(lengths))])
        rows, waiting = waiting[:size], waiting[size:]
        starts = rng.integers(np.maximum(1, lengths[rows] - span))
        at = np.minimum(starts[:, None] + np.arange(span + 1), keys.shape[1] - 1)
        yield Rolls(keys[rows[:, None], at], np.minimum(lengths[rows] - starts, span + 1))


def composed(count: int, seed: int) -> list[np.ndarray]:
    """Made-up chorales: a seeded walk among the chords of a key, in four voices.

    Each chord is likely to move up a fourth or down a third, lasts two or four steps, and is laid
    out so that no voice moves further than it must; half of the time the soprano passes through
    the note between. A piece ends with the chord of the first degree.
    """
    draw = np.random.default_rng(seed)
    return [_compose(draw) for _ in range(count)]


MAJOR = np.array([0, 2, 4, 5, 7, 9, 11])
STEPS_OF_ROOT, ODDS = (3, 5, 1, 4), (0.5, 0.25, 0.15, 0.1)  # in degrees of the scale
CENTERS = (27, 36, 41, 48)  # the keys around which the four voices are


def _compose(draw: np.random.Generator) -> np.ndarray:
    tonic, root = draw.integers(12), 0
    scale = np.flatnonzero(np.isin((np.arange(KEYS) - tonic) % 12, MAJOR))
    degrees = np.searchsorted(MAJOR, (scale - tonic) % 12)
    voices, frames = np.array(CENTERS), []
    chords = draw.integers(8, 20)
    for number in range(chords):
        if number == chords - 1:
            root = 0
        members = (root, (root + 2) % 7, (root + 4) % 7)
        # The bass has the root, the others what is nearest to where they were.
        wanted = (members[0], members[draw.integers(3)], members[1], members[2])
        before, voices = voices, np.array([
            _nearest(scale[degrees == degree], (voice + center) / 2)
            for degree, voice, center in zip(wanted, voices, CENTERS, strict=True)
        ])  # fmt: skip
        if number and draw.random() < 0.5:
            frames[-1] = frames[-1].copy()
            frames[-1][3] = _nearest(scale, (before[3] + voices[3]) / 2)
        frames += [voices] * (4 if number == chords - 1 else 2 * draw.integers(1, 3))
        root = (root + draw.choice(STEPS_OF_ROOT, p=ODDS)) % 7
    roll = np.zeros((len(frames), KEYS), bool)
    np.put_along_axis(roll, np.array(frames), True, axis=1)
    return roll


def _nearest(keys: np.ndarray, place: float) -> int:
    return keys[np.abs(keys - place).argmin()]
