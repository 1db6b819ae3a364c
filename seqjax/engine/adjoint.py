"""How a recurrence is differentiated: an object that the caller chooses (`adjoint=`)."""

import abc
import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from jax import lax

from seqjax import _checks
from seqjax.engine.bptt import (
    PREACTIVATIONS,
    STATES,
    Recurrence,
    Steps,
    bptt,
    cut,
    scan_states,
    select,
)

__all__ = ["BPTT", "Adjoint", "Autodiff"]

Tree = Any
Store = Literal["states", "preactivations", "chunk_starts"]
STORES = get_args(Store)
Window = Callable[[Tree, Tree], tuple[Tree, Tree]]


class Adjoint(abc.ABC):
    """A way to differentiate: how a recurrence runs, and how time is cut into windows."""

    def fitted(self, steps: int, step_bytes: int, state_bytes: int) -> "Adjoint":
        """With what the caller left open chosen by the number and size of the steps."""
        return self

    @abc.abstractmethod
    def recur(self, rec: Recurrence, params, state, start, u, steps: Steps) -> tuple[Tree, Tree]:
        """Runs `rec` over one window; returns h at its end and all h, [T, …]."""

    @abc.abstractmethod
    def over_time(self, window: Window, state: Tree, inputs: Tree) -> tuple[Tree, Tree]:
        """Runs `window(state, inputs) -> (state, ys)` over inputs [T, …], T ≥ 1."""


@dataclass(frozen=True)
class Autodiff(Adjoint):
    """A plain `lax.scan`, differentiated by JAX's own rules.

    The adjoint for forward mode (`jax.jvp`, `jax.jacfwd`), and the one that `BPTT` is tested
    against. Forward over reverse (`jax.hessian`) works with either.
    """

    def recur(self, rec, params, state, start, u, steps):
        states = scan_states(rec, params, state, start, u, steps)[0]
        return jax.tree.map(lambda h: h[-1], states), states

    def over_time(self, window, state, inputs):
        return window(state, inputs)


@dataclass(frozen=True, kw_only=True)
class BPTT(Adjoint):
    """Back-propagation through time by the hand-written recursion (notes, section 4).

    Reverse mode of any order; forward mode raises a TypeError: use `Autodiff` for it.

    Attributes:
      chunk: time steps that are worked on at once; the whole series if there are no more. The
        temporary memory of the pre-activations and their adjoints is that of one chunk. None:
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
        many steps lie apart, counted in the order of processing (Williams & Peng 1990).
        Derivatives of the truncated gradient itself are exact.
      clip: a bound on every element of λ(t) at every valid step (Graves 2013,
        arXiv:1308.0850, section 2.1). The gradient is then no longer that of the function.

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

    def recur(self, rec, params, state, start, u, steps):
        keep_z = self.store == "preactivations"
        return bptt(rec, params, state, start, u, steps, clip=self.clip, keep_z=keep_z)

    def over_time(self, window, state, inputs):
        steps = length_of(inputs)
        chunk_body = jax.checkpoint(
            window,
            policy=_POLICIES[self.store or "states"],
            # Common subexpressions merged, the second run of a chunk would be the first one.
            prevent_cse=self.store == "chunk_starts",
        )

        def chunks(state, inputs):
            return _in_pieces(chunk_body, state, inputs, self.chunk or steps)

        if self.truncate is None:
            return chunks(state, inputs)

        def truncated(state, first_and_inputs):
            first, inputs = first_and_inputs
            return chunks(select(first[0], state, cut(state)), inputs)

        first = jnp.arange(steps) < self.truncate
        return _in_pieces(truncated, state, (first, inputs), self.truncate)


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
    # With no steps left over, the body of a chunk is compiled once and not twice.
    fits = [n for n in range(about // 2 + 1, about * 3 // 2) if steps % n == 0]
    return min(fits, key=lambda n: abs(n - about), default=about), store


def batch_size(tree: Tree) -> int:
    """How many series `jax.vmap` has put beside each other here, as far as can be seen.

    The axes that it maps do not show in a shape, but on the tracers that stand for the arrays.
    A `jit` between `vmap` and here hides them; the choice made of them is one of speed alone.
    """
    return max((_mapped(leaf) for leaf in jax.tree.leaves(tree)), default=1)


def _mapped(array) -> int:
    size = 1
    while isinstance(array, jax.core.Tracer):
        if hasattr(array, "batch_dim"):
            array, axis = array.val, array.batch_dim
            mapped = array.shape[axis] if isinstance(axis, int) else 1
            size *= mapped if isinstance(mapped, int) else 1  # symbolic, in `jax.export`
        elif hasattr(array, "primal"):
            array = array.primal
        else:
            break
    return size


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


def _in_pieces(body: Window, state: Tree, inputs: Tree, size: int) -> tuple[Tree, Tree]:
    """`body` over consecutive pieces of `size` steps and the rest, its state carried."""
    steps = length_of(inputs)
    whole, rest = divmod(steps, size)
    if whole == 0 or steps == size:
        return body(state, inputs)
    pieces = jax.tree.map(lambda a: a[: whole * size].reshape(whole, size, *a.shape[1:]), inputs)
    state, ys = lax.scan(body, state, pieces)
    ys = jax.tree.map(lambda y: y.reshape(whole * size, *y.shape[2:]), ys)
    if rest:
        state, tail = body(state, jax.tree.map(lambda a: a[whole * size :], inputs))
        ys = jax.tree.map(lambda y, end: jnp.concatenate([y, end]), ys, tail)
    return state, ys
