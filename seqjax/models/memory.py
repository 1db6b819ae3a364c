"""The explicit memory variable of the notes, from three functions of the user's own."""

from collections.abc import Callable
from typing import NamedTuple

import jax
from jax import export

from seqjax import _checks
from seqjax._static import call_of, static_partial
from seqjax._types import Init, InitialState, PyTree
from seqjax.engine.recurrence import StepRecurrence
from seqjax.models.cell import Cell

__all__ = ["MemoryState", "memory"]


class MemoryState(NamedTuple):
    """The state of `memory`: output, hidden unit and memory of the last step, any pytrees."""

    y: PyTree
    h: PyTree
    m: PyTree


export.register_namedtuple_serialization(MemoryState, serialized_name="seqjax.MemoryState")


def memory(
    r: Callable,
    f: Callable,
    g: Callable,
    *,
    init: Init,
    initial_state: InitialState,
    input_spec: jax.ShapeDtypeStruct | None = None,
) -> Cell:
    """A network with an explicit memory variable m, whose job it is to remember.

        m(t) = r(params, y(t-1), h(t-1), m(t-1))
        h(t) = f(params, x(t), m(t))
        y(t) = g(params, h(t))

    Jordan's and Elman's networks and the one-layer RNN are special cases: r takes the running
    average of y, a copy of h (by `jax.lax.stop_gradient`), or h itself. BPTT runs through
    all three functions, where they do not stop it.

    Args:
      r, f, g: as above, pure, of any pytrees. `seqjax.matmul` in them folds a batch.
      init: `init(key) -> params`.
      initial_state: `initial_state(params) -> (y(-1), h(-1), m(-1))`, which have the structure,
        shapes and dtypes of y(t), h(t), m(t).
      input_spec: shape and dtype of x(t), unchecked if None.

    Returns:
      A cell, whose state is MemoryState(y, h, m).

    Raises:
      ValueError, TypeError: when it runs, if the functions do not return a state like the one
        before.

    References:
      Notes, section 2.

    >>> import jax, jax.numpy as jnp, seqjax as sj
    >>> peak = sj.memory(                       # the largest output so far, and what is new of it
    ...     r=lambda params, y, h, m: jnp.maximum(y, m),
    ...     f=lambda params, x, m: params * x,
    ...     g=lambda params, h: h,
    ...     init=lambda key: jnp.array(2.0),
    ...     initial_state=lambda params: (jnp.array(0.0),) * 3,
    ... )
    >>> state, ys = sj.unroll(peak, jnp.array(2.0), jnp.array([1.0, 4.0, 3.0]))
    >>> ys.tolist(), float(state.m)
    ([2.0, 8.0, 6.0], 8.0)
    """
    made = {"init": init, "initial_state": initial_state}
    for name, value in {"r": r, "f": f, "g": g, **made}.items():
        _checks.part(name, value)
    _checks.spec("input_spec", input_spec)
    return Cell(
        init=init,
        initial_state=static_partial(_initial_state, initial_state),
        preactivate=static_partial(_remember, r, f, g),
        activate=StepRecurrence.activate,
        activate_vjp=StepRecurrence.activate_vjp,
        readout=_readout,
        input_spec=input_spec,
        name=call_of(memory, r, f, g, **made, input_spec=input_spec),
    )


def _initial_state(initial_state: InitialState, params: PyTree) -> MemoryState:
    state = initial_state(params)
    if not isinstance(state, tuple) or len(state) != 3:
        expected = "a function that returns (y, h, m)"
        raise TypeError(_checks.mismatch("initial_state", expected, _checks.describe(state)))
    return MemoryState(*state)


def _remember(
    r: Callable, f: Callable, g: Callable, params: PyTree, h_prev: MemoryState, x: PyTree
) -> MemoryState:
    m = r(params, h_prev.y, h_prev.h, h_prev.m)
    h = f(params, x, m)
    return _checks.tree(
        "the (y, h, m) that g, f and r return", MemoryState(g(params, h), h, m), h_prev
    )


def _readout(params: PyTree, h: MemoryState) -> PyTree:
    return h.y
