"""The training of `char_rnn.py` on the devices of several machines: one command for each of them.

    python train.py --coordinator host0:1234 --processes 2 --process 0 --out /shared/run  # on host0
    python train.py --coordinator host0:1234 --processes 2 --process 1 --out /shared/run  # on host1
    srun python train.py --out /shared/run  # Slurm, TPU pods and Kubernetes tell all three
    python ../char_rnn.py --out /shared/run --sample 500  # on one machine: what it has learned

All options of `char_rnn.py` hold, and are the same on every machine. Each process reads all of the
text and trains on its share of the streams, so that the losses are those of one process, but for
the order of the sums over the batch. The folder `--out` is one that every machine sees.

If a process dies, the others stop with an error. The same commands, on as many machines as there
are then, or `char_rnn.py --resume` on one, continue from the last checkpoint. A process that is
sent SIGTERM, as by a scheduler that takes its machine away, or Ctrl-C makes all save and stop.

docs/distributed.md says what a cluster has to provide.
"""

import argparse
import contextlib
import os
import sys
import threading
import traceback
import zlib
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where char_rnn.py is

import char_rnn
from _char_rnn.checkpoints import has_checkpoint
from _char_rnn.devices import claim_cores
from _char_rnn.options import REMEMBERED, parse, parser
from _char_rnn.text import read_text
from _common import console, number


def address(text: str) -> str:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal():
        raise argparse.ArgumentTypeError(f"expected HOST:PORT, got {text!r}")
    return text


option = parser.add_argument_group("several machines (not if the cluster tells)").add_argument
option("--coordinator", type=address, metavar="HOST:PORT", help="of process 0")
option("--processes", type=number(int, 1), metavar="N", help="how many there are")
option("--process", type=number(int, 0), metavar="I", help="which this is, from 0 on")
option("--timeout", type=number(int, 1), default=60, metavar="SECONDS",
       help="to wait for the others, at the start and for a sign of life")  # fmt: skip


def placed(options) -> tuple:
    """Where process 0 is, how many there are, and which this is; None if the cluster tells."""
    given = options.coordinator, options.processes, options.process
    if None in given and given != (None, None, None):
        parser.error("--coordinator, --processes, --process: expected all of them, or none")
    if None not in given and options.process >= options.processes:
        expected = f"one of 0 to {options.processes - 1}"
        parser.error(f"--process: expected {expected}, got {options.process}")
    if options.sample:
        parser.error("--sample: expected no such option; `char_rnn.py --sample` writes")
    return given


def join(given: tuple, timeout: int):
    """Meets the other processes; from then on JAX's devices are those of all."""

    def give_up():  # before JAX does, which aborts and says that another process died
        where = f"at {given[0]}" if given[0] else "where the cluster tells"
        print(f"Not all processes met {where} in {timeout} seconds (--timeout).", file=sys.stderr)
        os._exit(1)

    timer = threading.Timer(timeout, give_up)
    timer.start()
    try:
        jax.distributed.initialize(
            *given, initialization_timeout=2 * timeout, heartbeat_timeout_seconds=timeout
        )
    except ValueError as error:
        parser.error("--coordinator, --processes, --process: expected all of them, since no "
                     f"cluster that JAX knows tells ({error})")  # fmt: skip
    finally:
        timer.cancel()
    console.quiet = jax.process_index() > 0


def agree(options):
    """Refuses processes that would not compute the same: their sums would mean nothing."""

    def refuse(name, process):
        parser.error(f"{name}: expected the same in every process, "
                     f"got another one in process {process} than in process 0")  # fmt: skip

    local = [jax.local_devices(process_index=process) for process in range(jax.process_count())]
    for process, devices in enumerate(local):
        if len(devices) != len(local[0]):
            refuse("--devices", process)  # nor could they be asked for the rest
    values = {f"--{name.replace('_', '-')}": getattr(options, name) for name in REMEMBERED}
    values["--data"] = read_text(options.data)  # its path may differ
    values["--out"] = has_checkpoint(options.out)  # or else they do not see the same folder
    mine = np.array([zlib.crc32(repr(value).encode()) for value in values.values()], np.uint32)
    theirs = multihost_utils.process_allgather(mine)
    for process, which in np.argwhere(theirs != theirs[0]):
        refuse(list(values)[which], process)


@contextlib.contextmanager
def failing_at_once():
    """At an orderly exit JAX waits for the other processes, which wait for one that has failed."""
    try:
        yield
    except SystemExit as stop:  # with a message that is said, or to be said
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
        code = stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        traceback.print_exc()
        print("If another process died, start all again, by the same commands.", file=sys.stderr)
        code = 1
    else:
        return
    sys.stdout.flush()
    os._exit(code)


def main(argv) -> int:
    options = parse(argv)
    given = placed(options)
    claim_cores(options)
    with failing_at_once():
        join(given, options.timeout)
        agree(options)
        if has_checkpoint(options.out) and not options.overwrite:
            argv = [*argv, "--resume"]  # what starts the processes anew need not know of it
        finished = char_rnn.main(argv)
    return 0 if finished else os.EX_TEMPFAIL  # what has stopped here is to be started again


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
