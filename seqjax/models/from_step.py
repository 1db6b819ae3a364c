"""A model from one function of a step, with no structure to exploit."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from seqjax import _checks
from seqjax._static import call_of, static_partial
from seqjax._tree import size_in_bytes, step_spec
from seqjax._types import Init, InitialState, Key, PyTree, Step
from seqjax.engine.adjoint import Adjoint
from seqjax.engine.bound import Bound
from seqjax.engine.model import NoInitialState, StreamedModel
from seqjax.engine.recurrence import StepRecurrence, Steps
from seqjax.engine.unroll import step_by_step

__all__ = ["from_step"]


def from_step(
    init: Init,
    step: Step,
    initial_state: InitialState | None = None,
    *,
    input_spec: jax.ShapeDtypeStruct | None = None,
    stochastic: bool = False,
) -> "FromStep":
    """A model from a step function, with masks, resets, chunks and truncation like any other.

    It takes the time and the memory of a `lax.scan` of the step. With a `chunk` or a `store` given
    to `BPTT`, or in a `stack` with a recurrence of another kind, the recursion runs instead: the
    whole step counts as the pre-activation, its activation is the identity, and it is computed
    again, in parallel over a chunk, for the backward pass. That takes a fraction of the memory, and
    less time or more, by the step and the sizes. If you give its structure to `seqjax.Cell`
    instead, matmuls leave the loop too.

    Args:
      init: `init(key) -> params`.
      step: `step(params, state, x) -> (state, y)`, pure, of any pytrees; the new state has
        the structure, shapes and dtypes of the old one. `seqjax.matmul` in it folds a batch.
      initial_state: `initial_state(params) -> state`; without it every call passes `state=`,
        and a `reset` has no state to return to.
      input_spec: shape and dtype of x(t); unchecked if None.
      stochastic: whether a step draws: `step(params, state, x, key)` then, with a random key of
        the step's own, or None in evaluation (see `key` of `sj.unroll`).

    Returns:
      A model. `BPTT(clip=…)` bounds what flows back into the state and into y(t), each by itself:
      in one opaque function the one is not seen to be made of the other.

    >>> import jax, jax.numpy as jnp, seqjax as sj
    >>> def step(decay, mean, x):
    ...     mean = decay * mean + (1 - decay) * x
    ...     return mean, x - mean
    >>> highpass = sj.from_step(lambda key: jnp.array(0.5), step, lambda decay: jnp.array(0.0))
    >>> sj.unroll(highpass, jnp.array(0.5), jnp.ones(3))[1].tolist()
    [0.5, 0.25, 0.125]
    """
    _checks.part("init", init)
    _checks.part("step", step)
    _checks.part("initial_state", initial_state, optional=True)
    _checks.spec("input_spec", input_spec)
    return FromStep(
        init,
        step,
        initial_state or _no_initial_state,
        input_spec,
        _checks.flag("stochastic", stochastic),
    )


def _no_initial_state(params: PyTree) -> PyTree:
    raise NoInitialState(
        _checks.mismatch("state", "a state, since sj.from_step was given no initial_state", "none")
    )


class StepCarry(NamedTuple):
    """What the recursion sees as the state: an output is a part of it that is never read."""

    state: PyTree
    y: PyTree


@dataclass(frozen=True, repr=False)
class FromStep(StreamedModel):
    """See `from_step`."""

    init: Init
    function: Callable[..., tuple[PyTree, PyTree]]
    initial_state: InitialState
    input_spec: jax.ShapeDtypeStruct | None = None
    stochastic: bool = False
    opaque = True

    @property
    def call(self) -> static_partial:
        given = None if self.initial_state is _no_initial_state else self.initial_state
        options = {"input_spec": self.input_spec, "stochastic": self.stochastic}
        return call_of(from_step, self.init, self.function, initial_state=given, **options)

    def bounded_step(
        self,
        bound: Bound,
        params: PyTree,
        state: PyTree,
        x: PyTree,
        key: Key | None = None,
    ) -> tuple[PyTree, PyTree]:
        state, y = self.checked(params, state, x, key)
        return bound(state), bound.output(y)

    def checked(
        self, params: PyTree, state: PyTree, x: PyTree, key: Key | None
    ) -> tuple[PyTree, PyTree]:
        """What the function returns."""
        drawn_from = [key] if self.stochastic else []
        new, y = _checks.step_result(self.function(params, state, x, *drawn_from))
        return _checks.tree("the state that step returns", new, state), y

    def preactivation_bytes(self, params: PyTree, state: PyTree, x: PyTree) -> int:
        return size_in_bytes(jax.eval_shape(partial(self.checked, key=None), params, state, x))

    def scan(
        self, params: PyTree, state: PyTree, xs: PyTree, steps: Steps, adjoint: Adjoint
    ) -> tuple[PyTree, PyTree]:
        if adjoint.plain:
            return step_by_step(self, params, state, xs, steps, adjoint)
        x, key = step_spec(xs), None if steps.key is None else steps.key[0]
        y = jax.eval_shape(partial(self.checked, key=key), params, state, x)[1]
        y = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), y)
        reset_state = None if steps.reset is None else StepCarry(self.initial_state(params), y)
        rec = StepRecurrence(
            lambda params, carry, u: StepCarry(*self.checked(params, carry.state, u[0], u[1]))
        )
        inputs, steps = (xs, steps.key), steps.without_key
        last, carries = adjoint.scan_states(
            rec, params, StepCarry(state, y), reset_state, inputs, steps
        )
        return last.state, carries.y
