"""How a recurrence is differentiated: an object that the caller chooses (`adjoint=`)."""

import abc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax

from seqjax import _checks
from seqjax.bptt import PREACTIVATIONS, STATES, Recurrence, Steps, bptt, cut, scan_states, select

__all__ = ["BPTT", "Adjoint", "Autodiff"]

Tree = Any
STORES = ("states", "preactivations", "chunk_starts")
Window = Callable[[Tree, Tree], tuple[Tree, Tree]]


class Adjoint(abc.ABC):
    """A way to differentiate: how a recurrence runs, and how time is cut into windows."""

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
      chunk: time steps that are worked on at once; the whole series if None. The temporary
        memory of the pre-activations and their adjoints is that of one chunk.
      store: what each time step keeps for the backward pass, beside its input.
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
    BPTT(chunk=None, store='states', truncate=50, clip=1.0)
    """

    chunk: int | None = None
    store: Literal["states", "preactivations", "chunk_starts"] = "states"
    truncate: int | None = None
    clip: float | None = None

    def __post_init__(self):
        for name in ("chunk", "truncate"):
            if getattr(self, name) is not None:
                _checks.size(name, getattr(self, name))
        if self.clip is not None:
            _checks.number("clip", self.clip, above=0)
        _checks.choice("store", self.store, STORES)

    def recur(self, rec, params, state, start, u, steps):
        keep_z = self.store == "preactivations"
        return bptt(rec, params, state, start, u, steps, clip=self.clip, keep_z=keep_z)

    def over_time(self, window, state, inputs):
        steps = _length(inputs)
        chunk_body = jax.checkpoint(
            window,
            policy=_POLICIES[self.store],
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


_POLICIES = {
    "states": jax.checkpoint_policies.save_only_these_names(STATES),
    "preactivations": jax.checkpoint_policies.save_only_these_names(STATES, PREACTIVATIONS),
    "chunk_starts": jax.checkpoint_policies.nothing_saveable,
}


def _length(inputs: Tree) -> int:
    return jax.tree.leaves(inputs)[0].shape[0]


def _in_pieces(body: Window, state: Tree, inputs: Tree, size: int) -> tuple[Tree, Tree]:
    """`body` over consecutive pieces of `size` steps and the rest, its state carried."""
    steps = _length(inputs)
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
