"""How a recurrence is differentiated: an object that the caller chooses (`adjoint=`)."""

import abc
import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from jax import lax

from seqjax import _checks
from seqjax.engine.bptt import PREACTIVATIONS, STATES, bptt
from seqjax.engine.history import LAST_STEP, History
from seqjax.engine.recurrence import Recurrence, Steps, at_step, plain_scan, widened
from seqjax.ops._jax import mapped_size
from seqjax.ops.reverse_mode import reverse_mode_only
from seqjax.ops.stage import stage

__all__ = ["BPTT", "Adjoint", "Autodiff"]

Tree = Any
Store = Literal["states", "preactivations", "chunk_starts"]
STORES = get_args(Store)
Window = Callable[[Tree, Tree, Tree], tuple[Tree, Tree]]


class Adjoint(abc.ABC):
    """A way to differentiate: how a recurrence runs, and how time is cut into windows."""

    def fitted(self, steps: int, step_bytes: int, state_bytes: int) -> "Adjoint":
        """With what the caller left open chosen by the number and size of the steps."""
        return self

    def guarded(self, operands: Tree) -> Tree:
        """What a recurrence reads, refusing derivatives that it does not have."""
        return operands

    def plain(self) -> "Adjoint":
        """The same gradient by JAX's own rules, for steps that run one after the other."""
        return self

    @property
    def is_lean(self) -> bool:
        """Whether the caller asked it to keep less than all that the backward pass can use."""
        return False

    @abc.abstractmethod
    def recur(
        self, rec: Recurrence, params, state, start, u, steps: Steps, history: History = LAST_STEP
    ) -> tuple[Tree, Tree]:
        """Runs `rec` over one window; returns the state at its end and all h, [T, …]."""

    @abc.abstractmethod
    def scan(self, step: Callable, state, start, inputs, steps: Steps) -> tuple[Tree, Tree]:
        """Runs `step(state, inputs at t) -> (state, y)` over one window; returns (state, ys)."""

    @abc.abstractmethod
    def over_time(self, window: Window, params, state, xs, steps: Steps) -> tuple[Tree, Tree]:
        """Runs `window(params, state, (xs, steps)) -> (state, ys)` over a series, T ≥ 1."""


@dataclass(frozen=True)
class Autodiff(Adjoint):
    """A plain `lax.scan`, differentiated by JAX's own rules.

    The adjoint for forward mode (`jax.jvp`, `jax.jacfwd`), and the one that `BPTT` is tested
    against. Forward over reverse (`jax.hessian`) works with either.
    """

    def recur(self, rec, params, state, start, u, steps, history=LAST_STEP):
        preactivate = stage(
            lambda params, _, h_prev, u_t: rec.preactivate(params, h_prev, u_t),
            params,
            (),
            history.read(state),
            at_step(u, 0),
        )
        once = preactivate.once(preactivate.closed_over, params)

        def step(state, u_t):
            h_prev = history.read(state)
            h_t = rec.activate(preactivate.rest(once, [], h_prev, u_t), h_prev)
            h_t = _checks.tree("the state that activate returns", h_t, history.newest(state))
            return history.push(state, h_t), h_t

        return self.scan(step, state, start, u, steps)

    def scan(self, step, state, start, inputs, steps):
        return plain_scan(step, state, start, inputs, steps)

    def over_time(self, window, params, state, xs, steps):
        return window(params, state, (xs, steps))


@dataclass(frozen=True, kw_only=True)
class BPTT(Adjoint):
    """Back-propagation through time by the hand-written recursion (notes, section 4).

    Reverse mode of any order; forward mode raises a TypeError: use `Autodiff` for it.

    Attributes:
      chunk: time steps that are worked on at once, at most; the whole series if there are no more.
        The temporary memory of the pre-activations and their adjoints is that of one chunk. None:
        by the sizes, see `seqjax.engine.adjoint.schedule`; √T steps for "chunk_starts".
      store: what each time step keeps for the backward pass, beside its input. None: one of the
        first two, chosen by the sizes.
        With S the size of the state (LSTM 2H, others H), Z that of the pre-activations
        (RNN H, LSTM 4H, GRU 4H), per sequence and in units of the dtype's size (float32: 4):
        "states": S a step; the pre-activations are formed again, in one matmul a chunk.
        "preactivations": S + Z a step; nothing is computed twice but pointwise functions.
        "chunk_starts": S a chunk; the chunk runs a second time. With a chunk of √T steps the
        memory is that of √T steps (Chen et al. 2016, arXiv:1604.06174).
      truncate: truncated BPTT: λ is not carried back across the steps k, 2k, … that this
        many valid steps lie apart, counted in the order of processing (Williams & Peng 1990).
        Derivatives of the truncated gradient itself are exact.
      clip: a bound on every element of λ(t) at every valid step, on the modulus of a complex one
        (Graves 2013, arXiv:1308.0850, section 2.1). The gradient is then no longer that of the
        function.

    A step that calls back into Python (`jax.debug.callback`, `jax.pure_callback`, …) or names a
    mapped axis (`jax.lax.pmean`) is not run twice or in parallel with others: it is differentiated
    by JAX's own rules, as under `Autodiff`, with the same chunks, truncation and clipping. So is
    the step of a `seqjax.cell`, in which no structure is seen, unless `chunk` or `store` is given:
    its derivatives are kept from the forward pass then, which takes least time.

    Raises:
      TypeError, ValueError: an attribute is not as described.

    >>> import seqjax as sj
    >>> sj.BPTT(truncate=50, clip=1.0)
    BPTT(chunk=None, store=None, truncate=50, clip=1.0)
    """

    chunk: int | None = None
    store: Store | None = None
    truncate: int | None = None
    clip: float | None = None

    def __post_init__(self):
        for name in ("chunk", "truncate"):
            if getattr(self, name) is not None:
                _checks.size(name, getattr(self, name))
        if self.clip is not None:
            _checks.number("clip", self.clip, above=0)
        if self.store is not None:
            _checks.choice("store", self.store, STORES)

    def fitted(self, steps, step_bytes, state_bytes):
        chunk, store = schedule(steps, step_bytes, state_bytes, jax.default_backend())
        if self.store == "chunk_starts" and isinstance(steps, int):
            chunk = math.isqrt(steps)
        return dataclasses.replace(self, chunk=self.chunk or chunk, store=self.store or store)

    def guarded(self, operands):
        return reverse_mode_only(operands)

    def plain(self):
        return _PlainBPTT(**vars(self))

    @property
    def is_lean(self):
        return self.chunk is not None or self.store is not None

    def recur(self, rec, params, state, start, u, steps, history=LAST_STEP):
        keep_z = self.store == "preactivations"
        return bptt(rec, params, state, start, u, steps, history, self.clip, keep_z)

    def scan(self, step, state, start, inputs, steps):
        return plain_scan(step, state, start, inputs, steps, clip=self.clip)

    def over_time(self, window, params, state, xs, steps):
        wide, narrow = widened(params)
        chunk = jax.checkpoint(
            lambda wide, *inputs: window(narrow(wide), *inputs),
            policy=_POLICIES[self.store or "states"],
            # Common subexpressions merged, the second run of a chunk would be the first one.
            prevent_cse=self.store == "chunk_starts",
        )
        steps = steps._replace(cut=_cuts(steps.valid, length_of(xs), self.truncate))
        return _in_chunks(partial(chunk, wide), state, xs, steps, self.chunk)


class _PlainBPTT(BPTT):
    """`BPTT` of steps that run one after the other, once each: nothing is kept or formed again but
    what the caller asks for.
    """

    def fitted(self, steps, step_bytes, state_bytes):
        return self

    def over_time(self, window, params, state, xs, steps):
        if self.is_lean:
            return super().over_time(window, params, state, xs, steps)
        steps = steps._replace(cut=_cuts(steps.valid, length_of(xs), self.truncate))
        return window(params, state, (xs, steps))


def _cuts(valid, time: int, every: int | None):
    """Where truncation cuts: before the valid steps `every`, 2 `every`, …"""
    if every is None or (isinstance(time, int) and time <= every):
        return None
    number = jnp.arange(time) if valid is None else jnp.cumsum(valid) - 1
    starts = (number > 0) & (number % every == 0)
    return starts if valid is None else starts & valid


def schedule(
    steps: int, step_bytes: int, state_bytes: int, backend: str
) -> tuple[int | None, Store]:
    """(chunk, store) for pre-activations and states of these sizes a step, of a whole batch.

    On a CPU chunks of 2 MB fit the cache: larger buffers are fetched from memory, and mapped
    afresh by the allocator at every call. A series that is not much larger is one chunk; but
    where a step has more pre-activations than state (gates), and the series is long enough, a
    quarter of it, so that what only a chunk needs is little beside what all steps keep. To form
    pre-activations again costs a matmul, to store them memory traffic: only where a step is tiny
    is the matmul cheaper. Measured in benchmarks/schedule.py. Elsewhere there is no such cache,
    and every chunk is one more launch.
    """
    store: Store = "states" if step_bytes <= 512 else "preactivations"
    if backend != "cpu" or not isinstance(steps, int) or step_bytes == 0:
        return None, store  # a symbolic number of steps, in `jax.export`, cannot be divided
    about = max(8, 2_000_000 // step_bytes)
    if steps * step_bytes <= 6_500_000:
        if step_bytes <= state_bytes:
            return None, store
        about = max(128, steps // 4)
    if about >= steps:
        return None, store
    return _divisor(steps, about, about * 3 // 2) or about, store


def _divisor(steps: int, about: int, most: int) -> int | None:
    """The divisor of `steps` nearest to `about`, more than half of it and at most `most`.

    With no steps left over, every chunk is alike, and none is padded.
    """
    fits = [n for n in range(about // 2 + 1, most + 1) if steps % n == 0]
    return min(fits, key=lambda n: abs(n - about), default=None)


def batch_size(tree: Tree) -> int:
    """How many series `jax.vmap` has put beside each other here, as far as can be seen.

    The axes that it maps do not show in a shape, but on the tracers that stand for the arrays.
    A `jit` between `vmap` and here hides them; the choice made of them is one of speed alone.
    """
    return max((mapped_size(leaf) for leaf in jax.tree.leaves(tree)), default=1)


_POLICIES = {
    "states": jax.checkpoint_policies.save_only_these_names(STATES),
    "preactivations": jax.checkpoint_policies.save_only_these_names(STATES, PREACTIVATIONS),
    "chunk_starts": jax.checkpoint_policies.nothing_saveable,
}


def size_in_bytes(tree: Tree) -> int:
    """Of the differentiable leaves."""
    leaves = [a for a in jax.tree.leaves(tree) if jnp.issubdtype(a.dtype, jnp.inexact)]
    return sum(a.size * a.dtype.itemsize for a in leaves)


def length_of(inputs: Tree) -> int:
    return jax.tree.leaves(inputs)[0].shape[0]


def _in_chunks(chunk: Callable, state, xs, steps: Steps, size: int | None) -> tuple[Tree, Tree]:
    """`chunk(state, (xs, steps))` over consecutive pieces of at most `size` steps.

    All pieces have one length, so that one program serves for all: a divisor of the number of
    steps where there is one that is not much smaller; else the last piece is padded.
    """
    time = length_of(xs)
    if size is None or (isinstance(time, int) and size >= time):
        return chunk(state, (xs, steps))
    number = -(-time // size)
    if isinstance(time, int):
        size = _divisor(time, size, size) or -(-time // number)
        number = -(-time // size)
    if number * size != time:
        rest = number * size - time
        valid = jnp.ones(time, bool) if steps.valid is None else steps.valid
        xs = jax.tree.map(lambda a: _extended(a, a[-1], rest), xs)
        steps = steps._replace(valid=valid)
        steps = jax.tree.map(lambda a: _extended(a, jnp.zeros_like(a[0]), rest), steps)
    pieces = jax.tree.map(lambda a: a.reshape(number, size, *a.shape[1:]), (xs, steps))
    state, ys = lax.scan(chunk, state, pieces)
    return state, jax.tree.map(lambda y: y.reshape(number * size, *y.shape[2:])[:time], ys)


def _extended(series: jax.Array, value: jax.Array, rest: int) -> jax.Array:
    """`series` [T, …], and `value` for `rest` steps more."""
    return jnp.concatenate([series, jnp.broadcast_to(value, (rest, *series.shape[1:]))])
