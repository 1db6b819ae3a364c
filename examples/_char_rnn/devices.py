"""The devices that `char_rnn.py` trains on: each reads a part of the streams."""

import os

import jax
from _char_rnn.options import parser

import seqjax as sj


def claim_cores(options):
    """A CPU is one device unless JAX is told otherwise before it is used."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    jax.config.update("jax_num_cpu_devices", options.devices or cores)


def open_devices(options):
    """As many as `--devices`; by default as many as there are and divide the batch."""
    found, batch = jax.devices(), options.batch_size
    fits = max(n for n in range(1, len(found) + 1) if batch % n == 0)
    number = options.devices or fits
    if number > len(found):
        parser.error(f"--devices: expected at most {len(found)}, which there are, got {number}")
    if batch % number:
        parser.error(f"--devices: expected a divisor of --batch-size {batch}, got {number}")
    return sj.train.data_parallel(found[:number])


def split_if_divisible(devices, streams):
    """A part of them for each device, or all of them for all."""
    number = devices.mesh.size
    return devices.everywhere(streams) if len(streams) % number else devices.split(streams)
