"""How a recurrence is differentiated: an object that the caller chooses (`adjoint=`)."""

import abc
import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax

from seqjax import _checks
from seqjax._tree import length_of
from seqjax._types import PyTree
from seqjax.engine.across import Across
from seqjax.engine.affine import Affine, affine_scan
from seqjax.engine.bound import Bound, Clip
from seqjax.engine.bptt import PREACTIVATIONS, STATES, bptt
from seqjax.engine.chunks import scan_chunks, truncation
from seqjax.engine.history import LAST_STEP, History
from seqjax.engine.plain_scan import widened
from seqjax.engine.recurrence import Recurrence, Steps, over_steps
from seqjax.engine.schedule import SCANS, STORES, Scan, Store, in_parallel, schedule
from seqjax.ops.reverse_mode import reverse_mode_only

__all__ = ["BPTT", "Adjoint", "Window"]

Window = Callable[[PyTree, PyTree, PyTree], tuple[PyTree, PyTree]]


class Adjoint(abc.ABC):
    """A method of differentiation: how a recurrence runs, and how time is cut into windows.

    Attributes:
      over: the mesh axis whose devices hold a part of the series each, if they do.
    """

    over: str | None = None
    plain = False  # whether an opaque model's steps run one by one, for JAX to differentiate

    def resolve(
        self, steps: int, preactivation_bytes: int, state_bytes: int, batch: int = 1
    ) -> "Adjoint":
        """Returns a copy with unset options resolved by the number and size of the steps.

        The sizes are those of a step of the whole batch, of `batch` series.
        """
        return self

    def guard(self, operands: PyTree) -> PyTree:
        """Returns what a recurrence reads, refusing derivatives that it does not have."""
        return operands

    def stepwise(self) -> "Adjoint":
        """The same gradient by JAX's own rules, for steps that run one after the other."""
        return self

    def flipped(self) -> "Adjoint":
        """The same for a series in reverse order."""
        return self

    @property
    def bounds_memory(self) -> bool:
        """Whether the caller limits what is stored (`chunk` or `store`)."""
        return False

    @property
    def bound(self) -> Bound:
        """What is done to h(t) where steps run one by one."""
        return Bound()

    @abc.abstractmethod
    def windows(
        self, window: Window, params: PyTree, state: PyTree, xs: PyTree, steps: Steps
    ) -> tuple[PyTree, PyTree]:
        """Runs `window(params, state, (xs, steps)) -> (state, ys)` over a series, T ≥ 1."""

    @abc.abstractmethod
    def scan_states(
        self,
        rec: Recurrence,
        params: PyTree,
        state: PyTree,
        reset_state: PyTree,
        u: PyTree,
        steps: Steps,
        history: History = LAST_STEP,
    ) -> tuple[PyTree, PyTree]:
        """Runs `rec` over one window; returns the state at its end and all h, [T, …]."""

    def scan_affine(
        self,
        rec: Affine,
        params: PyTree,
        state: PyTree,
        reset_state: PyTree,
        xs: PyTree,
        steps: Steps,
    ) -> tuple[PyTree, PyTree]:
        """The same for an affine recurrence, whose steps read xs."""
        u = over_steps(rec.project_step, params, xs)
        return self.scan_states(rec, params, state, reset_state, u, steps)


@dataclass(frozen=True, kw_only=True)
class BPTT(Adjoint):
    """Back-propagation through time by the hand-written recursion (notes, section 4).

    Reverse mode of any order; forward mode raises a TypeError: use `Autodiff` for it.

    Attributes:
      chunk: maximum number of time steps processed at once.
        The temporary memory of the pre-activations and their cotangents is that of one chunk. If
        None, chosen from the sizes, see `seqjax.engine.schedule.schedule`; √T steps for
        "chunk_starts".
      store: what each time step keeps for the backward pass, besides its input. If None, one of
        the first two, chosen from the sizes.
        With S the size of the state (LSTM 2H, others H), Z that of the pre-activations
        (RNN H, LSTM 4H, GRU 4H), per sequence and in units of the dtype's size (float32: 4):
        "states": S per step; the pre-activations are formed again, in one matmul per chunk.
        "preactivations": S + Z per step; nothing is computed twice but pointwise functions.
        "chunk_starts": S per chunk; the chunk runs a second time. With a chunk of √T steps the
        memory is that of √T steps (Chen et al. 2016, arXiv:1604.06174).
      truncate: truncated BPTT: λ is not carried back across the start of any segment of this many
        valid steps, counted in the order of processing (Williams & Peng 1990).
        Derivatives of the truncated gradient itself are exact.
      clip: a bound on every element of λ(t) at every valid step, on the modulus of a complex one
        (Graves 2013, arXiv:1308.0850, section 2.1). The gradient is then no longer that of the
        function.
      scan: how cells with `coefficients` run, forward and backward: in a "loop", or as an
        "associative" scan (Blelloch 1990), which other models refuse, and which cannot clip. If
        None, chosen by backend and number of steps, for each cell. A state is exact to some √n eps,
        n the steps that it remembers; a complex one in an associative scan to ten times that.
      over: the name of a mesh axis that time is split over: `sj.unroll` runs in a `jax.shard_map`,
        and its xs, mask and reset (and keys, if given one a step) are the steps that one device
        holds, T of n T; ys are those steps too. State and length are of the whole series, which
        is how it is differentiated. For models made of cells with `coefficients` and of layers
        without memory; others refuse. `chunk`, `truncate`, `clip` and "chunk_starts" are refused
        as well: each device runs its part as one piece. Devices exchange a few arrays of the
        state's size, once forward and once backward. If None, each device has a series of its own.

    A step that calls back into Python (`jax.debug.callback`, `jax.pure_callback`, …) or names a
    mapped axis (`jax.lax.pmean`) does not run in parallel with others: it is differentiated by
    JAX's own rules, as under `Autodiff`, with the same chunks, truncation and clipping. It runs
    once, or, where `chunk` or `store` is given, a second time in the backward pass (a last chunk
    that is not full is padded, and runs whole). The step of a `seqjax.from_step`, in which no
    structure is seen, or of a `seqjax.feedback`, is treated likewise as long as neither `chunk` nor
    `store` is given.

    >>> import seqjax as sj
    >>> sj.BPTT(truncate=50, clip=1.0)
    BPTT(chunk=None, store=None, truncate=50, clip=1.0, scan=None, over=None)
    """

    chunk: int | None = None
    store: Store | None = None
    truncate: int | None = None
    clip: float | None = None
    scan: Scan | None = None
    over: str | None = None
    _from_last = False  # whether the last device holds the steps that are processed first

    def __post_init__(self) -> None:
        for name in ("chunk", "truncate"):
            if getattr(self, name) is not None:
                _checks.size(name, getattr(self, name))
        if self.clip is not None:
            _checks.number("clip", self.clip, above=0)
        if self.store is not None:
            _checks.choice("store", self.store, STORES)
        if self.scan is not None:
            _checks.choice("scan", self.scan, SCANS)
        if self.scan == "associative" and self.clip is not None:
            expected = '"loop" or None where clip is given, which acts step by step'
            raise ValueError(_checks.mismatch("scan", expected, repr(self.scan)))
        if self.over is not None:
            self._check_over()

    def _check_over(self) -> None:
        _checks.instance("over", self.over, str, "the name of a mesh axis")
        for name in ("chunk", "truncate", "clip"):
            if getattr(self, name) is not None:
                reason = "each device runs its part of the series as one piece, uncut and unclipped"
                expected = f"None with over={self.over!r}, where {reason}"
                raise ValueError(_checks.mismatch(name, expected, getattr(self, name)))
        if self.store == "chunk_starts":
            others = " or ".join([*(repr(s) for s in STORES if s != self.store), "None"])
            expected = f"{others} with over={self.over!r}, where there are no chunks"
            raise ValueError(_checks.mismatch("store", expected, repr(self.store)))

    def resolve(
        self, steps: int, preactivation_bytes: int, state_bytes: int, batch: int = 1
    ) -> Adjoint:
        backend = jax.default_backend()
        chunk, store = schedule(steps, preactivation_bytes, state_bytes, batch, backend)
        if self.store == "chunk_starts" and isinstance(steps, int):
            chunk = math.isqrt(steps)
        if self.over is not None:
            chunk = None  # each would wait for the devices before this one
        return dataclasses.replace(self, chunk=self.chunk or chunk, store=self.store or store)

    def guard(self, operands: PyTree) -> PyTree:
        return reverse_mode_only(operands)

    def stepwise(self) -> Adjoint:
        self._refuse_parallel("steps run one after the other")
        return _PlainBPTT(**vars(self))

    def flipped(self) -> Adjoint:
        return self if self.over is None else _FlippedBPTT(**vars(self))

    def _refuse_parallel(self, where: str) -> None:
        if self.over is not None:
            raise ValueError(_checks.mismatch("over", f"None where {where}", repr(self.over)))
        if self.scan == "associative":
            raise ValueError(_checks.mismatch("scan", f"None where {where}", repr(self.scan)))

    @property
    def bounds_memory(self) -> bool:
        return self.chunk is not None or self.store is not None

    def scan_states(
        self,
        rec: Recurrence,
        params: PyTree,
        state: PyTree,
        reset_state: PyTree,
        u: PyTree,
        steps: Steps,
        history: History = LAST_STEP,
    ) -> tuple[PyTree, PyTree]:
        self._refuse_parallel("a part of the model is not an affine cell (no `coefficients`)")
        keep_z = self.store == "preactivations"
        return bptt(rec, params, state, reset_state, u, steps, history, self.clip, keep_z)

    def scan_affine(
        self,
        rec: Affine,
        params: PyTree,
        state: PyTree,
        reset_state: PyTree,
        xs: PyTree,
        steps: Steps,
    ) -> tuple[PyTree, PyTree]:
        parallel = self.scan == "associative"
        if self.scan is None and self.clip is None:
            parallel = in_parallel(length_of(xs), jax.default_backend())
        across = None if self.over is None else Across(self.over, self._from_last)
        how = parallel, across, self.clip
        return affine_scan(rec, params, state, reset_state, xs, steps, *how)

    @property
    def bound(self) -> Bound:
        return Bound() if self.clip is None else Clip(self.clip)

    def windows(
        self, window: Window, params: PyTree, state: PyTree, xs: PyTree, steps: Steps
    ) -> tuple[PyTree, PyTree]:
        wide, narrow = widened(params)
        chunk = jax.checkpoint(
            lambda wide, *inputs: window(narrow(wide), *inputs),
            policy=_POLICIES[self.store or "states"],
            # Without this, the second run of a chunk would be merged with the first.
            prevent_cse=self.store == "chunk_starts",
        )
        return scan_chunks(partial(chunk, wide), state, xs, self._cut(xs, steps), self.chunk)

    def _cut(self, xs: PyTree, steps: Steps) -> Steps:
        return steps._replace(cut=truncation(steps.valid, length_of(xs), self.truncate))


class _FlippedBPTT(BPTT):
    """`BPTT` of a series in reverse order, split over time."""

    _from_last = True


class _PlainBPTT(BPTT):
    """`BPTT` of steps that run one after the other: recomputed only if `chunk` or `store` asks."""

    plain = True

    def resolve(
        self, steps: int, preactivation_bytes: int, state_bytes: int, batch: int = 1
    ) -> Adjoint:
        return self

    def windows(
        self, window: Window, params: PyTree, state: PyTree, xs: PyTree, steps: Steps
    ) -> tuple[PyTree, PyTree]:
        if self.bounds_memory:
            return super().windows(window, params, state, xs, steps)
        return window(params, state, (xs, self._cut(xs, steps)))


_POLICIES = {
    "states": jax.checkpoint_policies.save_only_these_names(STATES),
    "preactivations": jax.checkpoint_policies.save_only_these_names(STATES, PREACTIVATIONS),
    "chunk_starts": jax.checkpoint_policies.nothing_saveable,
}
