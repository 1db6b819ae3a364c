"""The chunk and the store of `BPTT` by size: what `adjoint=sj.BPTT()` resolves to."""

from typing import Literal, get_args

import jax

from seqjax._types import PyTree
from seqjax.ops._jax import mapped_size

__all__ = [
    "SCANS",
    "STORES",
    "Scan",
    "Store",
    "batch_size",
    "divisor",
    "in_parallel",
    "schedule",
    "unroll",
]

Store = Literal["states", "preactivations", "chunk_starts"]
STORES = get_args(Store)
Scan = Literal["loop", "associative"]
SCANS = get_args(Scan)


def schedule(
    steps: int, preactivation_bytes: int, state_bytes: int, batch: int, backend: str
) -> tuple[int | None, Store]:
    """(chunk, store) for pre-activations and states of these sizes a step, of a whole batch.

    On a CPU chunks of 2 MB fit the cache: larger buffers are fetched from memory, and mapped
    afresh by the allocator at every call. A series that is not much larger is one chunk; but
    where a step has more pre-activations than state (gates), and the series is long enough, a
    quarter of it, so that what only a chunk needs is little beside what all steps keep. Below 1 MB
    that is nothing to save, and one loop compiles in two thirds of the time of two. To form
    pre-activations again costs a matmul, to store them memory traffic: the matmul is cheaper where
    a step is tiny, and where the units are few and the series too long for any cache (there it
    takes 0.8 to 1 times the time, and a third to a half of the memory). Measured in
    benchmarks/schedule.py and benchmarks/memory.py.
    Elsewhere there is no such cache, and every chunk is one more launch. On a GPU, too, a matmul
    over all steps is cheaper than to store what each of them formed: benchmarks/gpu.py.
    """
    cheap = backend == "gpu" or preactivation_bytes <= 512
    store: Store = "states" if cheap else "preactivations"
    if backend != "cpu" or not isinstance(steps, int) or preactivation_bytes == 0:
        return None, store  # a symbolic number of steps, in `jax.export`, cannot be divided
    if preactivation_bytes <= 2048 * batch and steps * preactivation_bytes > 40_000_000:
        store = "states"
    about = max(8, 2_000_000 // preactivation_bytes)
    if steps * preactivation_bytes <= 6_500_000:
        if preactivation_bytes <= state_bytes or steps * preactivation_bytes <= 1_000_000:
            return None, store
        about = max(128, steps // 4)
    if about >= steps:
        return None, store
    return divisor(steps, about, about * 3 // 2) or about, store


def in_parallel(steps: int, backend: str) -> bool:
    """Whether an affine recurrence runs as an associative scan.

    It does more work than a loop and moves more memory: on a CPU the loop is faster. On an
    accelerator each step of a loop waits for a launch, whatever its size.
    """
    # A symbolic number of steps, in `jax.export`, cannot be halved.
    return backend != "cpu" and isinstance(steps, int) and steps > 16


def unroll(steps: int, backend: str) -> int:
    """How many steps an iteration of a compiled loop has: the `unroll` of `lax.scan`.

    On a GPU each operation of an iteration is a launch, and so is each array that it writes a part
    of: eight steps share these. On a CPU there is nothing to share, and the program is larger.
    Measured in benchmarks/gpu.py.
    """
    # A symbolic number of steps, in `jax.export`, cannot be divided.
    return 8 if backend == "gpu" and isinstance(steps, int) else 1


def divisor(steps: int, about: int, most: int) -> int | None:
    """The divisor of `steps` nearest to `about`, more than half of it and at most `most`.

    With no steps left over, every chunk is alike, and none is padded.
    """
    fits = [n for n in range(about // 2 + 1, most + 1) if steps % n == 0]
    return min(fits, key=lambda n: abs(n - about), default=None)


def batch_size(tree: PyTree) -> int:
    """How many series `jax.vmap` has put beside each other here, as far as can be seen.

    The axes that it maps do not show in a shape, but on the tracers that stand for the arrays. Of
    a batch that explicit axes split, the series of one device are counted.
    A `jit` between `vmap` and here hides them; the choice made of them is one of speed alone.
    """
    return max(mapped_size(leaf) for leaf in jax.tree.leaves(tree))
