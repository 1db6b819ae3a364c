"""Piano rolls as MIDI files."""

from pathlib import Path

import mido
import numpy as np
from _music.data import LOWEST

TICKS = 480  # of a step


def write_midi(path: Path, roll: np.ndarray, steps_per_minute: float):
    """A roll, bool [T, 88]. A key that sounds in several steps on end is held, not struck again."""
    file = mido.MidiFile(ticks_per_beat=TICKS)
    track = mido.MidiTrack()
    file.tracks.append(track)
    track.append(mido.MetaMessage("set_tempo", tempo=mido.bpm2tempo(steps_per_minute)))
    silence = np.zeros((1, roll.shape[1]), bool)
    changes = np.diff(np.concatenate([silence, roll, silence]).astype(int), axis=0)
    before = 0
    for step, change in enumerate(changes):
        for kind, sign in (("note_off", -1), ("note_on", 1)):
            for key in np.flatnonzero(change == sign):
                time = TICKS * (step - before)
                track.append(mido.Message(kind, note=LOWEST + int(key), velocity=64, time=time))
                before = step
    file.save(path)
