"""The devices that `char_rnn.py` trains on: each reads a part of the streams.

They may be those of several processes (`distributed/train.py`), all of which hold all streams.
"""

import os

import jax
from _char_rnn.options import parser

import seqjax as sj


def claim_cores(options):
    """A CPU is one device unless JAX is told otherwise before it is used."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    jax.config.update("jax_num_cpu_devices", options.devices or cores)


def open_devices(options):
    """As many of each process as `--devices`; by default all, or as many as divide the batch."""
    processes, batch = jax.process_count(), options.batch_size
    if batch % processes:
        expected = f"a multiple of the {processes} processes"
        parser.error(f"--batch-size: expected {expected}, got {batch}")
    found, rows = jax.local_device_count(), batch // processes
    number = options.devices or max(n for n in range(1, found + 1) if rows % n == 0)
    if number > found:
        parser.error(f"--devices: expected at most {found}, which there are, got {number}")
    if rows % number:
        of = f"--batch-size {batch}" + (f" / {processes} processes" if processes > 1 else "")
        parser.error(f"--devices: expected a divisor of {of}, got {number}")
    local = [jax.local_devices(process_index=process)[:number] for process in range(processes)]
    return sj.train.data_parallel([device for own in local for device in own])


def split(devices, batch):
    """A part for each device of arrays of a batch: of the rows that are this process's share."""

    def own(leaf):
        rows = len(leaf) // jax.process_count()
        return leaf[rows * jax.process_index() :][:rows]

    return devices.split(jax.tree.map(own, batch))


def split_if_divisible(devices, streams):
    """A part of them for each device, or all of them for all."""
    whole = len(streams) % devices.mesh.size
    return devices.everywhere(streams) if whole else split(devices, streams)
