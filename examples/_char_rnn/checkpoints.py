"""The checkpoints of `char_rnn.py`: a run that is stopped continues as if it had not been."""

import contextlib
import shutil
import signal
from pathlib import Path

import jax
import orbax.checkpoint as ocp
from _char_rnn.options import REMEMBERED, parser
from _char_rnn.text import Data


def open_checkpoints(options) -> ocp.CheckpointManager:
    folder = Path(options.out).resolve() / "checkpoint"
    exists = folder.is_dir() and any(folder.iterdir())
    if (options.resume or options.sample) and not exists:
        parser.error(f"--out: expected a folder with a checkpoint, got {options.out}")
    if options.overwrite:
        shutil.rmtree(folder, ignore_errors=True)
    elif exists and not (options.resume or options.sample):
        how = "--resume continues it, --overwrite starts anew"
        parser.error(f"--out: expected a folder without a checkpoint, got {options.out}; {how}")
    keep = ocp.CheckpointManagerOptions(max_to_keep=1, enable_async_checkpointing=False)
    return ocp.CheckpointManager(folder, options=keep)


def save(checkpoints, options, data: Data, step: int, history: dict, params, carried):
    if step == checkpoints.latest_step():
        return
    notes = {
        "options": {name: getattr(options, name) for name in REMEMBERED},
        "vocabulary": data.vocabulary,
        "checksum": data.checksum,
        "history": history,
    }
    # From the host: what is saved does not depend on the devices, and any number of them reads it.
    params, carried = jax.device_get((params, carried))
    items = ocp.args.Composite(
        notes=ocp.args.JsonSave(notes),
        params=ocp.args.StandardSave(params),
        carried=ocp.args.StandardSave(carried),
    )
    checkpoints.save(step, args=items)


def restore(checkpoints, name: str, like=None):
    """One item of the checkpoint: the notes, or a tree of arrays that looks like `like`."""
    args = ocp.args.JsonRestore() if like is None else ocp.args.StandardRestore(like)
    items = ocp.args.Composite(**{name: args})
    return checkpoints.restore(checkpoints.latest_step(), args=items)[name]


def resume(checkpoints, options, data: Data, params, carried):
    """The number of updates done, the history, params and carried, the latter two as given."""
    done, notes = checkpoints.latest_step(), restore(checkpoints, "notes")
    if notes["checksum"] != data.checksum:
        parser.error("--resume: expected the text that the checkpoint was trained on, got "
                     f"another one from {options.data or 'the standard library'}")  # fmt: skip
    if options.steps < done:
        parser.error(f"--steps: expected at least {done}, which are done, got {options.steps}")
    params, carried = (
        restore(checkpoints, "params", params),
        restore(checkpoints, "carried", carried),
    )
    return done, notes["history"], params, carried


@contextlib.contextmanager
def interruptible():
    """Yields a function that says whether Ctrl-C was pressed; a second one is obeyed at once."""
    pressed = []

    def interrupt(signum, frame):
        pressed.append(signum)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield lambda: bool(pressed)
    finally:
        signal.signal(signal.SIGINT, before)
