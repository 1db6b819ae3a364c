"""A user's own cell, given as one function of a step, with no structure to exploit."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from seqjax import _checks
from seqjax._bind import bind
from seqjax.engine.adjoint import size_in_bytes
from seqjax.engine.recurrence import Steps, WholeStep
from seqjax.engine.unroll import Model, NoInitialState

__all__ = ["cell"]

Tree = Any


def cell(
    init: Callable,
    step: Callable,
    initial_state: Callable | None = None,
    *,
    input: jax.ShapeDtypeStruct | None = None,
) -> "OwnCell":
    """A model out of a step function: BPTT, masks, resets and all else apply to it.

    It takes the time and the memory of a `lax.scan` of the step. Where `BPTT` is given a chunk or
    a store, or within a `stack`, the recursion keeps less and takes longer: the whole step counts
    as the pre-activation, its activation is the identity, and it is formed again for the backward
    pass. `seqjax.Cell` with rules is faster than either.

    Args:
      init: `init(key) -> params`.
      step: `step(params, state, x) -> (state, y)`, pure, of any pytrees; the new state has
        the structure, shapes and dtypes of the old one. `seqjax.matmul` in it folds a batch.
      initial_state: `initial_state(params) -> state`; without it every call passes `state=`,
        and a `reset` has nowhere to go.
      input: shape and dtype of x(t), to be checked; any pytree goes if None.

    Returns:
      A model.

    Raises:
      TypeError: an argument is not as described.

    >>> import jax, jax.numpy as jnp, seqjax as sj
    >>> def step(decay, mean, x):
    ...     mean = decay * mean + (1 - decay) * x
    ...     return mean, x - mean
    >>> highpass = sj.cell(lambda key: jnp.array(0.5), step, lambda decay: jnp.array(0.0))
    >>> highpass.unroll(jnp.array(0.5), jnp.ones(3))[1].tolist()
    [0.5, 0.25, 0.125]
    """
    _checks.part("init", init)
    _checks.part("step", step)
    _checks.part("initial_state", initial_state, optional=True)
    _checks.spec("input", input)
    return OwnCell(init, bind(checked_step, step), initial_state or no_initial_state, input)


def no_initial_state(params):
    raise NoInitialState(
        _checks.mismatch("state", "a state, since sj.cell was given no initial_state", "none")
    )


def checked_step(step, params, state, x):
    new, y = _checks.step_result(step(params, state, x))
    return _checks.tree("the state that step returns", new, state), y


class Held(NamedTuple):
    """What the recursion sees as the state: an output is a part of it that is never read."""

    state: Tree
    y: Tree


@dataclass(frozen=True)
class OwnCell(Model):
    """See `cell`."""

    init: Callable
    step: Callable
    initial_state: Callable
    input: jax.ShapeDtypeStruct | None = None
    opaque = True

    def step_bytes(self, params, state, x):
        return size_in_bytes(jax.eval_shape(self.step, params, state, x))

    def window(self, params, state, xs, steps: Steps, adjoint):
        x = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), xs)
        y = jax.eval_shape(self.step, params, state, x)[1]
        y = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), y)
        start = None if steps.reset is None else Held(self.initial_state(params), y)
        whole = WholeStep(lambda params, held, x: Held(*self.step(params, held.state, x)))
        last, states = adjoint.recur(whole, params, Held(state, y), start, xs, steps)
        return last.state, states.y
