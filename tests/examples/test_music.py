"""examples/music.py: its batches, its score and its MIDI files are what they should be; it runs."""

import importlib
import itertools

import numpy as np
import pytest
from support.scripts import imported, refused, run

for needed in ("matplotlib", "mido", "rich"):
    pytest.importorskip(needed)

TINY = ["--hidden-size=8", "--batch-size=4", "--span=16", "--steps=6", "--eval-every=3"]


@pytest.fixture(scope="module")
def example():
    return imported("music")


@pytest.fixture(scope="module")
def data(example):
    return importlib.import_module("_music.data")


def heard(path) -> np.ndarray:
    """The keys of each step of a MIDI file, by counting its ticks."""
    mido, ticks = importlib.import_module("mido"), importlib.import_module("_music.midi").TICKS
    (track,) = mido.MidiFile(path).tracks
    now, sounding, frames = 0, np.zeros(88, bool), []
    for message in track:
        now += message.time
        while len(frames) * ticks < now:
            frames.append(sounding.copy())
        if message.type in ("note_on", "note_off"):
            struck = message.type == "note_on"
            assert sounding[message.note - 21] != struck
            sounding[message.note - 21] = struck
    assert not sounding.any()
    return np.array(frames)


@pytest.mark.slow
def test_it_leaves_a_picture_and_a_midi_file_of_made_up_music(example, tmp_path):
    length = ["--opening=5", "--length=7"]
    printed, said = run("music", f"--out={tmp_path}", *TINY, *length)
    assert said == ""
    assert "update     6" in printed
    assert "without listening" in printed
    assert (tmp_path / "music.png").read_bytes().startswith(b"\x89PNG")
    keys = heard(tmp_path / "music.mid")
    assert len(keys) == 12
    assert (keys[5:].sum(-1) == 4).all()


def test_a_midi_file_has_the_keys_of_the_roll(example, tmp_path):
    roll = np.random.default_rng(0).random((30, 88)) < 0.3
    roll[10:12] = False
    importlib.import_module("_music.midi").write_midi(tmp_path / "roll.mid", roll, 120.0)
    np.testing.assert_array_equal(heard(tmp_path / "roll.mid"), roll)


def test_what_was_packed_is_read(data, tmp_path):
    draw = np.random.default_rng(0)
    parts = {p: [draw.random((n, 88)) < 0.2 for n in (5, 3, 9)] for p in data.PARTS}
    arrays = {p: np.packbits(np.concatenate(pieces), axis=1) for p, pieces in parts.items()}
    arrays |= {f"{p}_lengths": np.array([5, 3, 9], np.int32) for p in data.PARTS}
    np.savez(tmp_path / "rolls.npz", **arrays)
    found = data.read_rolls(tmp_path / "rolls.npz")
    for part, pieces in parts.items():
        keys, lengths = found[part]
        assert lengths.tolist() == [5, 3, 9]
        for row, piece in zip(keys, pieces, strict=True):
            np.testing.assert_array_equal(row[: len(piece)], piece)
            assert not row[len(piece) :].any()


def test_batches_are_windows_of_every_piece_as_often(data):
    """The step of a piece is written into it, as the key that sounds."""
    lengths = (3, 40, 12)
    pieces = [np.eye(88, dtype=bool)[:n] for n in lengths]
    drawn = data.batches(data.padded(pieces), np.random.default_rng(0), 2, 10)
    seen, starts = [], set()
    for _ in range(300):
        keys, found = next(drawn)
        assert keys.shape == (2, 11, 88)
        for row, length in zip(keys, found, strict=True):
            steps = row[:length].argmax(-1)
            assert row[:length].any(-1).all()
            np.testing.assert_array_equal(steps, steps[0] + np.arange(length))
            seen.append(length)
            starts.add((length, int(steps[0])))
    assert sorted(set(seen)) == [3, 11]
    assert seen.count(3) == 200
    assert {(3, 0), (11, 29)} <= starts
    assert max(start for _, start in starts) == 29


def test_made_up_music_is_in_a_key_and_in_four_voices(data):
    for piece in data.composed(5, 0):
        assert piece.any(-1).all()
        assert piece.sum(-1).max() <= 4
        pitches = np.unique(np.nonzero(piece)[1] % 12)
        assert any(np.isin((pitches - tonic) % 12, data.MAJOR).all() for tonic in range(12))
    np.testing.assert_array_equal(data.composed(1, 3)[0], data.composed(1, 3)[0])
    assert not np.array_equal(data.composed(1, 3)[0], data.composed(1, 4)[0])


def test_the_score_is_that_of_a_loop_over_keys(example, data):
    """-log p of each next step, by `step`; and of who knows the frequencies alone."""
    import jax

    of_model = importlib.import_module("_music.model")
    rolls = data.padded([p[:n] for p, n in zip(data.composed(2, 1), (6, 4), strict=True)])
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):  # as the script runs
        model = of_model.make_model(4, 2, 0.5)
        params = model.init(jax.random.key(0))
        found = float(of_model.mean_nats(model, params, rolls))
        losses = []
        for roll, length in zip(*rolls, strict=True):
            state = model.initial_state(params)
            for now, then in itertools.pairwise(roll[:length]):
                state, logits = model.step(params, state, now.astype(np.float32))
                right = 1 / (1 + np.exp(np.where(then, -1, 1) * np.asarray(logits, float)))
                losses.append(-np.log(right).sum())
    assert len(losses) == 5 + 3
    assert found == pytest.approx(np.mean(losses), rel=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--steps=0"], "--steps: expected an integer of at least 1, got '0'"),
        (["--dropout=1"], "--dropout: expected a number from 0 to 0.99, got '1'"),
        (["--data=no/such.npz"], "--data: expected an .npz file of piano rolls, got no/such.npz"),
        ([f"--out={__file__}"], "--out: expected a folder, got"),
    ],
)
def test_a_bad_option_is_named(example, tmp_path, capsys, options, message):
    assert message in refused(example, capsys, [f"--out={tmp_path}", *options])
