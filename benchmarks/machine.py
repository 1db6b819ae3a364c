"""What the figures were measured on."""

import os
import platform
from pathlib import Path

import jax


def device() -> str:
    accelerator = jax.devices()[0]
    if accelerator.platform != "cpu":
        return accelerator.device_kind
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {len(names) or 1} cores"


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def slug() -> str:
    """The device as a part of a file's name."""
    return "".join(c if c.isalnum() else "_" for c in device()).strip("_").lower()
