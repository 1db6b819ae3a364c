"""A model over time: lengths, masks, resets, reversal, and the choice of adjoint."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from seqjax import _checks
from seqjax._tokens import check_tokens
from seqjax._tree import flip, is_half, is_inexact, length_of, size_in_bytes, step_spec
from seqjax._types import Array, Key, PyTree
from seqjax.engine.across import check_common, check_divisible, check_undivided, place
from seqjax.engine.adjoint import BPTT, Adjoint
from seqjax.engine.keys import numbers, step_keys
from seqjax.engine.model import Model, check_params, check_state, one_step
from seqjax.engine.per_model import compiled
from seqjax.engine.plain_scan import one_by_one, plain_scan
from seqjax.engine.recurrence import Steps, fill, placed_with, vary_with, zero_invalid
from seqjax.engine.schedule import batch_size
from seqjax.ops._jax import is_impure, uses
from seqjax.ops.shift import spread

__all__ = ["run", "step_by_step", "unroll"]

_BPTT = BPTT()


def unroll(
    model: Model,
    params: PyTree,
    xs: PyTree,
    state: PyTree = None,
    *,
    length: int | Array | None = None,
    mask: Array | None = None,
    reset: Array | None = None,
    reverse: bool = False,
    key: Key | None = None,
    adjoint: Adjoint = _BPTT,
) -> tuple[PyTree, PyTree]:
    """Runs a model over one series. `jax.vmap` batches it, without overhead.

    Args:
      model: any model of seqjax.
      params: its parameters, as `model.init(key)` makes them.
      xs: [T, input_size], the series (for a model of your own: any pytree of [T, …]).
      state: h(-1); `model.initial_state(params)` if None.
      length: the number of valid steps, an integer scalar in [0, T] (a traced value outside the
        range is clamped). Steps from there on are invalid.
      mask: bool [T], False at invalid steps. An invalid step leaves the state alone (a
        reset there too), gives y = 0 and has no gradient; its x is not read and may be NaN.
        With `length` as well, a step is valid if both say so.
      reset: bool [T]; where True the state is `model.initial_state(params)` again *before*
        that step.
      reverse: run from t = T-1 down to 0; ys stay aligned with xs.
      key: a random key, for training: a model that draws (`dropout`, `zoneout`, …) draws at step t
        from `jax.random.fold_in(key, t)`. Or such keys themselves, one a step, [T]: those of the
        steps that a piece of a series has. None for evaluation. Other models do not read it.
      adjoint: how it is differentiated: `BPTT(...)` or `Autodiff()`.

    Returns:
      (state, ys): the state after the last valid step, and [T, output_size].

    Raises:
      TypeError, ValueError: an argument does not fit; the message names it, what was
        expected, and what it got. Also a TypeError for forward-mode derivatives of `BPTT`.

    >>> import jax, jax.numpy as jnp, seqjax as sj
    >>> cell = sj.lstm(3, 4)
    >>> params = cell.init(jax.random.key(0))
    >>> state, ys = sj.unroll(cell, params, jnp.ones((10, 3)), length=7)
    >>> ys.shape, state.h.shape, bool((ys[6] == state.h).all()), float(abs(ys[7:]).max())
    ((10, 4), (4,), True, 0.0)
    """
    _checks.instance("model", model, Model, "a seqjax model")
    _checks.instance("adjoint", adjoint, Adjoint, "a seqjax adjoint such as sj.BPTT()")
    _checks.flag("reverse", reverse)
    params = check_params(model, params)
    given, given_state = xs, state
    xs, time = _checks.series("xs", xs, model.input_spec)
    state = check_state(model, params, state)
    key = None if key is None else _checks.key("key", key, time)
    if adjoint.over is not None:
        check_divisible(model, adjoint.over)
        one_key = None if key is None or key.ndim else key
        check_common(adjoint.over, state=given_state, length=length, key=one_key)
    first, whole = place(adjoint.over, xs, time)
    steps = _steps(time, length, mask, reset, first, whole)
    check_undivided(xs=xs, mask=steps.valid, reset=steps.reset)
    steps = steps._replace(key=step_keys(model, key, time, first))
    tokens = given[0] if model.passing else given  # x(t) is the first of what it reads, then
    check_tokens("xs", tokens, model.vocabulary_size, steps.valid)
    if time == 0:
        return state, _no_outputs(model, params, state, xs)
    # What a batch on explicit axes has in common gets its gradient there: its type must say where.
    params, xs = placed_with((params, xs), (xs, state, steps))
    # Inside `shard_map` it is summed over devices here: once, not in each chunk or at each step.
    params = vary_with(params, (xs, state, steps))
    state = vary_with(_spread_over_batch(state, xs), (params, xs, steps))
    xs = fill(steps.valid, xs)
    if reverse:
        xs, steps, adjoint = flip(xs), flip(steps), adjoint.flipped()
    state, ys = run(model, params, state, xs, steps, adjoint)
    ys = zero_invalid(steps.valid, ys)
    return state, flip(ys) if reverse else ys


def run(
    model: Model, params: PyTree, state: PyTree, xs: PyTree, steps: Steps, adjoint: Adjoint
) -> tuple[PyTree, PyTree]:
    """Runs `model.scan` over a series, T ≥ 1, chunk by chunk as the adjoint says.

    A model that reads the future gets the series undivided. Steps with side effects run one by
    one, and so do those of an opaque model.
    """
    if not model.causal:
        return model.scan(params, state, xs, steps, adjoint)
    x = step_spec(xs)
    batch = batch_size((xs, state))
    step_bytes, state_bytes = model.preactivation_bytes(params, state, x), size_in_bytes(state)
    impure = _is_impure(model, params, state, x)
    if step_bytes and not impure:
        params, state, xs = adjoint.guard((params, state, xs))
    opaque = model.opaque and not adjoint.bounds_memory
    adjoint = adjoint.stepwise() if impure or opaque else adjoint
    adjoint = adjoint.resolve(length_of(xs), batch * step_bytes, batch * state_bytes, batch)
    in_windows = compiled(_in_windows, model, ("adjoint", "impure"), (params, state, xs, steps))
    return in_windows(params, state, xs, steps, adjoint=adjoint, impure=impure)


def _in_windows(
    model: Model,
    params: PyTree,
    state: PyTree,
    xs: PyTree,
    steps: Steps,
    *,
    adjoint: Adjoint,
    impure: bool,
) -> tuple[PyTree, PyTree]:
    def window(params: PyTree, state: PyTree, inputs: Any) -> tuple[PyTree, PyTree]:
        xs, steps = inputs
        scan = partial(step_by_step, model) if impure else model.scan
        return scan(params, state, xs, steps, adjoint)

    return adjoint.windows(window, params, state, xs, steps)


def step_by_step(
    model: Model, params: PyTree, state: PyTree, xs: PyTree, steps: Steps, adjoint: Adjoint
) -> tuple[PyTree, PyTree]:
    """`model.scan`, as a plain scan of the whole step that JAX differentiates."""
    reset_state = state if steps.reset is None else model.initial_state(params)
    step = one_by_one(partial(one_step, model, adjoint.bound), params)
    return plain_scan(step, state, reset_state, (xs, steps.key), steps.without_key)


def _is_impure(model: Model, params: PyTree, state: PyTree, x: PyTree) -> bool:
    """Whether a step, or its derivative, calls back into Python or names a mapped axis."""
    if not hasattr(model, "step"):
        return False  # of a user's own kind of model, which has none
    jaxpr = jax.make_jaxpr(model.step)(params, state, x).jaxpr
    if is_impure(jaxpr):
        return True
    if not uses(jaxpr, "custom_vjp_call"):
        return False

    def total(*at: PyTree) -> jax.Array:
        numbers = [a for a in jax.tree.leaves(model.step(*at)) if is_inexact(a)]
        return sum((jnp.sum(a.real) for a in numbers), start=jnp.zeros(()))

    derivative = jax.grad(total, (0, 1, 2), allow_int=True)
    return is_impure(jax.make_jaxpr(derivative)(params, state, x).jaxpr)


def _spread_over_batch(state: PyTree, xs: PyTree) -> PyTree:
    """A state in half precision that a batch shares: its gradient is summed in float32."""
    like = jax.tree.leaves(xs)[0][0]
    return jax.tree.map(lambda a: spread(a, like) if is_half(a.dtype) else a, state)


def _steps(time: int, length: Any, mask: Any, reset: Any, first: Any, whole: int) -> Steps:
    valid = None if mask is None else _checks.array("mask", mask, (time,), jnp.bool_)
    if length is not None:
        length = _checks.length(length, whole)
        within = numbers(first, time, length.dtype) < length
        valid = within if valid is None else valid & within
    if reset is not None:
        reset = _checks.array("reset", reset, (time,), jnp.bool_)
        reset = reset if valid is None else reset & valid
    return Steps(valid, reset)


def _no_outputs(model: Model, params: PyTree, state: PyTree, xs: PyTree) -> PyTree:
    one = jax.tree.map(lambda a: jnp.zeros((1, *a.shape[1:]), a.dtype), xs)
    ys = jax.eval_shape(lambda: run(model, params, state, one, Steps(), _BPTT)[1])
    return jax.tree.map(lambda a: jnp.zeros((0, *a.shape[1:]), a.dtype), ys)
