"""What a recurrence keeps of its past, and what a step reads of it.

The state of most recurrences is what the step before computed. One that reads further back has a
line as its state, and the recursion of the notes, section 4, one term for every delay:

    λ(t) = ∂L/∂h(t) + Σ_d [∂z(t+d)/∂h(t)]ᵀ δ(t+d)

The loops carry the line, of h forward and of λ backward. What they store is one row a step: the
lines that the steps read are found again in the series of rows.
"""

import itertools
from dataclasses import dataclass
from typing import Protocol

import jax
import jax.numpy as jnp
from jax import lax

from seqjax._tree import at_step, where
from seqjax._types import PyTree
from seqjax.engine.recurrence import Steps
from seqjax.ops.shift import shifted

__all__ = ["LAST_STEP", "Delays", "History", "LastStep"]


class History(Protocol):
    """Converts between the state and the h(t) of the steps. All of it is linear."""

    def read(self, state: PyTree) -> PyTree:
        """What a step reads of the state: h_prev of its functions."""
        ...

    def push(self, state: PyTree, h_t: PyTree) -> PyTree:
        """The state after a step."""
        ...

    def newest(self, state: PyTree) -> PyTree:
        """h(t), of the state after step t."""
        ...

    def entering(self, state: PyTree, reset_state: PyTree, hs: PyTree, steps: Steps) -> PyTree:
        """What each step read, [T, …], of the state before them and their results."""
        ...

    def add(self, lam: list, d_h_t: list) -> list:
        """Cotangents of a state, with that of its newest h added (None where it is zero)."""
        ...

    def before(self, lam: list, d_read: list | None) -> list:
        """Cotangents of a state from those of the next one, but for the h pushed, and of `read`."""
        ...


@dataclass(frozen=True)
class LastStep:
    """The state is what the step before computed."""

    def read(self, state: PyTree) -> PyTree:
        return state

    def push(self, state: PyTree, h_t: PyTree) -> PyTree:
        return h_t

    def newest(self, state: PyTree) -> PyTree:
        return state

    def entering(self, state: PyTree, reset_state: PyTree, hs: PyTree, steps: Steps) -> PyTree:
        h_prev = jax.tree.map(shifted, state, hs)
        if steps.reset is None:
            return h_prev
        return jax.vmap(where, (0, None, 0))(steps.reset, reset_state, h_prev)

    def add(self, lam: list, d_h_t: list) -> list:
        return [a if d is None else a + d for a, d in zip(lam, d_h_t, strict=True)]

    def before(self, lam: list, d_read: list | None) -> list:
        return [jnp.zeros_like(a) for a in lam] if d_read is None else d_read


LAST_STEP = LastStep()


@dataclass(frozen=True)
class Delays:
    """The state is a line, [N, …]: what the last N steps computed, the oldest first.

    A step reads those rows of it that lie some delays back, [L, …], the oldest first.

    Attributes:
      delays: L of them, in increasing order; 1 is the previous step, N the largest.
    """

    delays: tuple[int, ...]

    def read(self, state: PyTree) -> PyTree:
        return jnp.concatenate([state[start:stop] for start, stop in self._runs()])

    def push(self, state: PyTree, h_t: PyTree) -> PyTree:
        return jnp.concatenate([state[1:], h_t[None]])

    def newest(self, state: PyTree) -> PyTree:
        return at_step(state, -1)

    def entering(self, state: PyTree, reset_state: PyTree, hs: PyTree, steps: Steps) -> PyTree:
        time = hs.shape[0]
        if steps.valid is None and steps.reset is None:
            whole = jnp.concatenate([state, hs])
            return jnp.stack([whole[row : row + time] for row in self._rows()], axis=1)
        return _found(state, reset_state, hs, steps, self._rows())

    def add(self, lam: list, d_h_t: list) -> list:
        (line,), (d_newest,) = lam, d_h_t
        if d_newest is None:
            return lam
        return [jnp.concatenate([line[:-1], line[-1:] + d_newest[None]])]

    def before(self, lam: list, d_read: list | None) -> list:
        (line,) = lam
        line = jnp.concatenate([jnp.zeros_like(line[:1]), line[:-1]])
        if d_read is None:
            return [line]
        pieces: list = []
        end = read = 0
        for start, stop in self._runs():
            number = stop - start
            pieces += [line[end:start], line[start:stop] + d_read[0][read : read + number]]
            end, read = stop, read + number
        return [jnp.concatenate([*pieces, line[end:]])]

    def _rows(self) -> list[int]:
        """The rows of a line that a step reads."""
        return [self.delays[-1] - delay for delay in reversed(self.delays)]

    def _runs(self) -> list[tuple[int, int]]:
        """The same as (first, behind the last) of rows that lie side by side."""
        numbered = itertools.groupby(enumerate(self._rows()), lambda pair: pair[1] - pair[0])
        runs = [[row for _, row in run] for _, run in numbered]
        return [(run[0], run[-1] + 1) for run in runs]


def _found(
    state: jax.Array, reset_state: jax.Array, hs: jax.Array, steps: Steps, rows: list[int]
) -> jax.Array:
    """These rows of the line before each step, [T, L, …].

    A step that is not valid pushes nothing, and a reset puts `reset_state` in its place.
    """
    longest, time = state.shape[0], hs.shape[0]
    numbers = jnp.arange(time)
    before = numbers  # how many steps have pushed before this one
    if steps.valid is not None:
        before = jnp.cumsum(steps.valid, dtype=numbers.dtype) - steps.valid.astype(numbers.dtype)
    whole, begin, first = [state, hs], jnp.zeros_like(before), jnp.zeros_like(before)
    if steps.reset is not None:
        whole = [state, reset_state, hs]
        begin = lax.cummax(jnp.where(steps.reset, before, 0))
        first = jnp.where(jnp.cumsum(steps.reset) > 0, longest, 0).astype(numbers.dtype)
    # Counted from the first row of the line as it was at the beginning, or at the last reset.
    row = (before - begin)[:, None] + jnp.array(rows, numbers.dtype)[None]
    pushed = jnp.maximum(row - longest + begin[:, None], 0)
    if steps.valid is not None:  # the first one, the second, … that are valid
        place = jnp.where(steps.valid, before, time)
        pushed = jnp.zeros_like(before).at[place].set(numbers, mode="drop")[pushed]
    behind = sum(a.shape[0] for a in whole[:-1])
    return jnp.concatenate(whole)[jnp.where(row < longest, first[:, None] + row, behind + pushed)]
