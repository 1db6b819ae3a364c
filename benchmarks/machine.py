"""What the figures were measured on, and the files that hold them."""

import os
import platform
from pathlib import Path

import jax

RESULTS = Path(__file__).resolve().parent / "results"


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


def results_of(benchmark: str, folder: Path = RESULTS) -> Path:
    """The file of its figures on this device, of this version of JAX."""
    slug = "".join(c if c.isalnum() else "_" for c in device()).strip("_").lower()
    return folder / f"{benchmark}_jax_{jax.__version__}_{slug}.json"
