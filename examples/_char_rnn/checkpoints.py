"""The checkpoints of `char_rnn.py`: a run that is stopped continues as if it had not been."""

import contextlib
import os
import shutil
import signal
from pathlib import Path

import jax
import orbax.checkpoint as ocp
from _char_rnn.options import REMEMBERED, parser
from _char_rnn.text import Data
from jax.experimental import multihost_utils


def has_checkpoint(out: str) -> bool:
    """Whether a folder has one that was finished: it is named by the number of updates."""
    return any(saved.name.isdigit() for saved in Path(out, "checkpoint").glob("*"))


def open_checkpoints(options) -> ocp.CheckpointManager:
    folder, exists = Path(options.out).resolve() / "checkpoint", has_checkpoint(options.out)
    if (options.resume or options.sample) and not exists:
        parser.error(f"--out: expected a folder with a checkpoint, got {options.out}")
    if options.overwrite and jax.process_index() == 0:
        shutil.rmtree(folder, ignore_errors=True)
    if exists and not (options.resume or options.sample or options.overwrite):
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
    params, carried = multihost_utils.process_allgather((params, carried), tiled=True)
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
    """Yields a function of the updates done that says whether to stop there, after Ctrl-C.

    A second Ctrl-C is obeyed at once. Of several processes all stop at the same update, once any
    was sent Ctrl-C or SIGTERM, as a scheduler sends it.
    """
    pressed = []

    def interrupt(signum, frame):
        pressed.append(signum)
        if jax.process_count() > 1:
            os.kill(os.getpid(), signal.SIGTERM)  # of which JAX tells the other processes
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        if jax.process_count() > 1:
            yield multihost_utils.reached_preemption_sync_point
        else:
            yield lambda done: bool(pressed)
    finally:
        signal.signal(signal.SIGINT, before)
