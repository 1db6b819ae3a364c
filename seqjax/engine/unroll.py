"""A model over time: lengths, masks, resets, reversal, and the choice of adjoint."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seqjax import _checks, _pickling
from seqjax._bind import in_dtype
from seqjax._dtypes import cast
from seqjax.engine.adjoint import BPTT, Adjoint, batch_size, length_of, size_in_bytes
from seqjax.engine.per_model import compiled, params_spec
from seqjax.engine.recurrence import Steps, fill, one_by_one, select, vary_with
from seqjax.ops._jax import is_impure, uses
from seqjax.ops.rows import is_half, spread

__all__ = ["Model", "unroll"]

Tree = Any
_BPTT = BPTT()


class NoInitialState(ValueError):
    """What `initial_state` raises for a model that has none: the caller must pass a state."""


class Model:
    """What every model of seqjax can do: `init`, `initial_state`, `step` and `unroll`.

    A model is a frozen record: equal arguments make equal, hashable models, and it passes
    through `jit`, `vmap` and `grad` as a static value.

    A kind of your own is a frozen dataclass that inherits from this class, with `input`, `init`,
    `initial_state` and `step` as fields or methods, and `window`; one that wraps a model hands
    its `receptive_field` and `causal` on.

    Attributes:
      input: shape and dtype of one x(t), or None where any pytree will do.
      init: `init(key) -> params`.
      initial_state: `initial_state(params) -> state`, h(-1).
      step: `step(params, state, x) -> (state, y)`: one time step, for streaming.
      receptive_field: how many steps, t and those before it, y(t) depends on: `math.inf` for
        an infinite response (notes, section 2).
      causal: whether y(t) depends on no input after t; if not, `run` needs the whole series.
      opaque: whether a step is one function, in which the recursion finds nothing to do at once.
    """

    input: jax.ShapeDtypeStruct | None
    init: Callable
    initial_state: Callable
    step: Callable
    receptive_field: float = math.inf
    causal: bool = True
    opaque: bool = False

    def __init_subclass__(cls, **options):
        super().__init_subclass__(**options)
        jax.tree_util.register_static(cls)

    # A model cannot change: a copy would only be traced anew.
    def __copy__(self):
        return self

    def __deepcopy__(self, memo):
        return self

    def __reduce__(self):
        return _pickling.loads, (type(self), _pickling.dumps(vars(self)))

    def window(self, params, state, xs, steps: Steps, adjoint: Adjoint) -> tuple[Tree, Tree]:
        """`unroll` over T ≥ 1 steps that were checked; what a new kind of model defines."""
        raise NotImplementedError(
            f"{type(self).__name__} needs a method window(params, state, xs, steps, adjoint)"
        )

    def step_bytes(self, params, state, x) -> int:
        """The size of what one step hands to the recursion; 0 if nothing is recurrent."""
        return 0

    def run(self, params, state, xs, steps: Steps, adjoint: Adjoint) -> tuple[Tree, Tree]:
        """The whole series, T ≥ 1, one window after the other as the adjoint says.

        A model that reads the future has no windows, and defines this instead.
        """
        x = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), xs)
        batch = batch_size((xs, state))
        step_bytes, state_bytes = self.step_bytes(params, state, x), size_in_bytes(state)
        impure = self._is_impure(params, state, x)
        if step_bytes and not impure:
            params, state, xs = adjoint.guarded((params, state, xs))
        stepwise = impure or (self.opaque and not adjoint.is_lean)
        adjoint = adjoint.plain() if stepwise else adjoint
        adjoint = adjoint.fitted(length_of(xs), batch * step_bytes, batch * state_bytes)
        over_time = compiled(_over_time, self, ("adjoint", "stepwise"), (params, state, xs, steps))
        return over_time(params, state, xs, steps, adjoint=adjoint, stepwise=stepwise)

    def _is_impure(self, params, state, x) -> bool:
        """Whether a step, or its derivative, calls back into Python or names a mapped axis."""
        if not hasattr(self, "step"):
            return False  # of a user's own kind of model, which has none
        jaxpr = jax.make_jaxpr(self.step)(params, state, x).jaxpr
        if is_impure(jaxpr) or not uses(jaxpr, "custom_vjp_call"):
            return is_impure(jaxpr)

        def total(*at):
            leaves = jax.tree.leaves(self.step(*at))
            numbers = [a for a in leaves if jnp.issubdtype(a.dtype, jnp.inexact)]
            return sum((jnp.sum(a.real) for a in numbers), start=jnp.zeros(()))

        derivative = jax.grad(total, (0, 1, 2), allow_int=True)
        return is_impure(jax.make_jaxpr(derivative)(params, state, x).jaxpr)

    def _step_by_step(self, params, state, xs, steps: Steps, adjoint: Adjoint):
        start = state if steps.reset is None else self.initial_state(params)
        return adjoint.scan(one_by_one(self.step, params), state, start, xs, steps)

    def astype(self, dtype) -> "Model":
        """The same model with parameters, inputs and states of another floating dtype.

        Casts those fields of a dataclass that are models, shapes (`jax.ShapeDtypeStruct`) or
        floating dtypes (`numpy.dtype`), and what the functions in the fields `init` and
        `initial_state` return; a kind of model with other ones defines it anew.

        Raises:
          TypeError: not a floating dtype; or the model has no field of these kinds.
        """
        dtype = _checks.float_dtype("dtype", dtype)
        fields: tuple = dataclasses.fields(self) if dataclasses.is_dataclass(self) else ()
        old = {field.name: getattr(self, field.name) for field in fields if field.init}
        kinds = (Model, jax.ShapeDtypeStruct, np.dtype)
        makers = {name: old.pop(name) for name in ("init", "initial_state") if name in old}
        parts = jax.tree.leaves(old, is_leaf=_is_model)
        if not makers and not any(isinstance(part, kinds) for part in parts):
            raise TypeError(
                f"astype: {type(self).__name__} has no field that is a model, a shape or a dtype; "
                "define astype(self, dtype)"
            )
        new = jax.tree.map(lambda part: _part_astype(part, dtype), old, is_leaf=_is_model)
        new |= {name: in_dtype(function, dtype) for name, function in makers.items()}
        return dataclasses.replace(self, **new)  # type: ignore[type-var]

    def unroll(self, params, xs, state=None, **options):
        """`seqjax.unroll` of this model: (state, ys)."""
        return unroll(self, params, xs, state, **options)


def _over_time(model: Model, params, state, xs, steps: Steps, *, adjoint: Adjoint, stepwise: bool):
    window = model._step_by_step if stepwise else model.window
    return adjoint.over_time(
        lambda params, state, inputs: window(params, state, inputs[0], inputs[1], adjoint),
        params,
        state,
        xs,
        steps,
    )


def _is_model(part) -> bool:
    return isinstance(part, Model)


def _part_astype(part, dtype):
    if isinstance(part, Model):
        return part.astype(dtype)
    if isinstance(part, jax.ShapeDtypeStruct):
        return cast(part, dtype)
    return dtype if isinstance(part, np.dtype) and jnp.issubdtype(part, jnp.floating) else part


def unroll(
    model: Model,
    params: Tree,
    xs: Tree,
    state: Tree = None,
    *,
    length: int | jax.Array | None = None,
    mask: jax.Array | None = None,
    reset: jax.Array | None = None,
    reverse: bool = False,
    adjoint: Adjoint = _BPTT,
) -> tuple[Tree, Tree]:
    """Runs a model over one series. `jax.vmap` batches it, at no cost.

    Args:
      model: any model of seqjax.
      params: its parameters, as `model.init(key)` makes them.
      xs: [T, input_size], the series (for a model of your own: any pytree of [T, …]).
      state: h(-1); `model.initial_state(params)` if None.
      length: the number of valid steps, an integer scalar in [0, T] (outside it, a traced
        one counts as the nearest end). Steps from there on are invalid.
      mask: bool [T], False at invalid steps. An invalid step leaves the state alone (a
        reset there too), gives y = 0 and has no gradient; its x is not read and may be NaN.
        With `length` as well, a step is valid if both say so.
      reset: bool [T]; where True the state is `model.initial_state(params)` again *before*
        that step.
      reverse: run from t = T-1 down to 0; ys stay aligned with xs.
      adjoint: how it is differentiated: `BPTT(...)` or `Autodiff()`.

    Returns:
      (state, ys): the state after the last valid step, and [T, output_size].

    Raises:
      TypeError, ValueError: an argument does not fit; the message names it, what was
        expected and what came. Also a TypeError for forward-mode derivatives of `BPTT`.

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
    xs, time = _checks.series("xs", xs, model.input)
    state = check_state(model, params, state)
    steps = _steps(time, length, mask, reset)
    if time == 0:
        return state, _no_outputs(model, params, state, xs)
    state = vary_with(_spread_over_batch(state, xs), (params, xs, steps))
    xs = fill(steps.valid, xs)
    if reverse:
        xs, steps = flip(xs), flip(steps)
    state, ys = model.run(params, state, xs, steps, adjoint)
    ys = ys if steps.valid is None else _where(steps.valid, ys)
    return state, flip(ys) if reverse else ys


def check_params(model: Model, params: Tree) -> Tree:
    """`params`, having the structure, shapes and dtypes of `model.init(key)`."""
    _checks.hashable("model", model, "make it a frozen dataclass of hashable fields")
    return _checks.tree("params", params, params_spec(model))


def check_state(model: Model, params: Tree, state: Tree) -> Tree:
    """`state`, having the structure, shapes and dtypes of the initial one; that one if None."""

    def initial_state(params):
        returned = "the state that initial_state returns"
        return _checks.arrays(returned, model.initial_state(params))

    if state is None:
        return initial_state(params)
    try:
        spec = jax.eval_shape(initial_state, params)
    except NoInitialState:  # nothing to hold it against
        return _checks.arrays("state", state)
    return _checks.tree("state", state, spec)


def output(model: Model) -> Tree:
    """What one step of a model outputs, given zeros; for `jax.eval_shape`."""
    assert model.input is not None
    params = model.init(jax.random.key(0))
    xs = jnp.zeros((1, *model.input.shape), model.input.dtype)
    ys = model.run(params, model.initial_state(params), xs, Steps(), _BPTT)[1]
    return jax.tree.map(lambda y: y[0], ys)


def _spread_over_batch(state: Tree, xs: Tree) -> Tree:
    """A state in half precision that a batch shares: its gradient is summed in float32."""
    like = jax.tree.leaves(xs)[0][0]
    return jax.tree.map(lambda a: spread(a, like) if is_half(a.dtype) else a, state)


def _steps(time: int, length, mask, reset) -> Steps:
    valid = None if mask is None else _checks.array("mask", mask, (time,), jnp.bool_)
    if length is not None:
        length = _checks.length(length, time)
        within = jnp.arange(time, dtype=length.dtype) < length
        valid = within if valid is None else valid & within
    if reset is not None:
        reset = _checks.array("reset", reset, (time,), jnp.bool_)
        reset = reset if valid is None else reset & valid
    return Steps(valid, reset)


def _no_outputs(model, params, state, xs):
    one = jax.tree.map(lambda a: jnp.zeros((1, *a.shape[1:]), a.dtype), xs)
    ys = jax.eval_shape(lambda: model.run(params, state, one, Steps(), _BPTT)[1])
    return jax.tree.map(lambda a: jnp.zeros((0, *a.shape[1:]), a.dtype), ys)


def _where(valid: jax.Array, series: Tree) -> Tree:
    """The series with zeros at invalid steps, in the value and in the cotangent."""
    return jax.vmap(lambda v, a: select(v, a, jax.tree.map(jnp.zeros_like, a)))(valid, series)


def flip(tree: Tree) -> Tree:
    return jax.tree.map(lambda a: jnp.flip(a, axis=0), tree)
