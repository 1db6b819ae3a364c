"""The explicit memory variable of the notes, from three functions of the user's own."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax import export

from seqjax import _checks
from seqjax._bind import bind
from seqjax.models.cell import Cell

__all__ = ["MemoryState", "memory"]

Tree = Any


class MemoryState(NamedTuple):
    """The state of `memory`: output, hidden unit and memory of the last step, any pytrees."""

    y: Tree
    h: Tree
    m: Tree


export.register_namedtuple_serialization(MemoryState, serialized_name="seqjax.MemoryState")


def memory(
    r: Callable,
    f: Callable,
    g: Callable,
    *,
    init: Callable,
    initial_state: Callable,
    input: jax.ShapeDtypeStruct | None = None,
) -> Cell:
    """A network with an explicit memory variable m, whose job it is to remember.

        m(t) = r(params, y(t-1), h(t-1), m(t-1))
        h(t) = f(params, x(t), m(t))
        y(t) = g(params, h(t))

    Jordan's and Elman's networks and the one-layer RNN are special cases: r takes the running
    average of y, a copy of h (cut by `jax.lax.stop_gradient`), or h itself. BPTT runs through
    all three functions, wherever they do not cut it.

    Args:
      r, f, g: as above, pure, of any pytrees. `seqjax.matmul` in them folds a batch.
      init: `init(key) -> params`.
      initial_state: `initial_state(params) -> (y(-1), h(-1), m(-1))`, which have the structure,
        shapes and dtypes of y(t), h(t), m(t).
      input: shape and dtype of x(t), to be checked; anything goes if None.

    Returns:
      A cell, whose state is MemoryState(y, h, m).

    Raises:
      TypeError: an argument is not as described. Running it raises ValueError or TypeError if
        the functions do not give back a state like the one before.

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
    >>> state, ys = peak.unroll(jnp.array(2.0), jnp.array([1.0, 4.0, 3.0]))
    >>> ys.tolist(), float(state.m)
    ([2.0, 8.0, 6.0], 8.0)
    """
    functions = {"r": r, "f": f, "g": g, "init": init, "initial_state": initial_state}
    for name, value in functions.items():
        _checks.part(name, value)
    _checks.spec("input", input)
    return Cell(
        init=init,
        initial_state=bind(_start, initial_state),
        preactivate=bind(_remember, r, f, g),
        activate=_as_it_is,
        activate_vjp=_as_it_is_vjp,
        readout=_output,
        input=input,
        name="memory",
    )


def _start(initial_state, params):
    start = initial_state(params)
    if not isinstance(start, tuple) or len(start) != 3:
        expected = "a function that returns (y, h, m)"
        raise TypeError(_checks.mismatch("initial_state", expected, _checks.describe(start)))
    return MemoryState(*start)


def _remember(r, f, g, params, prev, x):
    m = r(params, prev.y, prev.h, prev.m)
    h = f(params, x, m)
    new = MemoryState(g(params, h), h, m)
    _checks.tree("the (y, h, m) that g, f and r return", new, prev)
    return new


def _as_it_is(z, prev):
    return z


def _as_it_is_vjp(z, prev, new, d):
    return d, None


def _output(params, state):
    return state.y
