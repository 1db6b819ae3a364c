"""Model: what every model of seqjax can do, and checks of the arguments that it is given."""

import abc
import dataclasses
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seqjax import _checks, _pickling
from seqjax._static import call_text, in_dtype, static_partial
from seqjax._tokens import check_tokens
from seqjax._tree import cast, where
from seqjax._types import Array, Key, PyTree
from seqjax.engine.adjoint import Adjoint
from seqjax.engine.bound import Bound
from seqjax.engine.per_model import params_spec
from seqjax.engine.recurrence import Steps

__all__ = [
    "Around",
    "Model",
    "NoInitialState",
    "StreamedModel",
    "check_params",
    "check_state",
    "check_step",
    "one_step",
    "spec_of",
]


def spec_of(function: Callable[..., PyTree], *at: PyTree) -> PyTree:
    """`jax.eval_shape`; None of what a run alone has: a state of the caller's, a mapped axis."""
    try:
        return jax.eval_shape(function, *at)
    except (NoInitialState, NameError):  # of `jax.lax.pmean`
        return None


class NoInitialState(ValueError):
    """What `initial_state` raises for a model that has none: the caller must pass a state."""


class Model(abc.ABC):
    """What every model of seqjax can do; `seqjax.unroll` runs it over a series.

    A model is a frozen record: equal arguments make equal, hashable models, and it passes
    through `jit`, `vmap` and `grad` as a static value.

    To define a new kind of model, write a frozen dataclass that inherits from this class, with
    `input_spec`, `init`, `initial_state` and `step` as fields or methods, and `scan`; one that
    wraps models names them in `parts`, and forwards their `receptive_field`, `vocabulary_size` and
    `causal`.

    Attributes:
      input_spec: shape and dtype of one x(t), or None where any pytree will do.
      init: `init(key) -> params`.
      initial_state: `initial_state(params) -> state`, h(-1).
      step: `step(params, state, x) -> (state, y)`: one time step, for streaming. Models of the
        library take two arguments more, by name: `key`, what the step draws from in training
        (`jax.random.fold_in(key, t)` for the draws of `sj.unroll(…, key=key)`), and `reset`, a bool
        scalar: whether the state is the initial one again before the step.
      parts: the models that this one is made of, by name.
      receptive_field: how many steps, t and those before it, y(t) depends on: `math.inf` for
        an infinite response (notes, section 2).
      vocabulary_size: V, where x(t) is a token, an integer in [0, V), of any integer dtype; None
        where it is not, or where V is unknown.
      causal: whether y(t) depends on no input after t; if not, `scan` is given the whole series.
      opaque: whether each recurrence in it is one function of a step, whose work cannot be
        parallelized over time.
      divisible: whether nothing but the states of affine cells goes from step to step, so that time
        can be split over devices (`BPTT(over=…)`).
      passing: whether it is made for one call around a lasting model, its first field: compiled
        programs are kept as long as that one lives.
    """

    input_spec: jax.ShapeDtypeStruct | None
    init: Callable[..., PyTree]
    initial_state: Callable[..., PyTree]
    step: Callable[..., tuple[PyTree, PyTree]]
    parts: Mapping[str, "Model"] = MappingProxyType({})
    receptive_field: float = math.inf
    vocabulary_size: int | None = None
    causal: bool = True
    opaque: bool = False
    divisible: bool = False
    passing: bool = False

    @property
    def call(self) -> static_partial | None:
        """The factory and its arguments, which make this model; None if there is no factory."""
        return None

    def __repr__(self) -> str:
        call = self.call
        return object.__repr__(self) if call is None else call_text(call)

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        jax.tree_util.register_static(cls)

    # A model cannot change: a copy would only be traced anew.
    def __copy__(self) -> "Model":
        return self

    def __deepcopy__(self, memo: dict) -> "Model":
        return self

    def __reduce__(self) -> tuple:
        return _pickling.loads, (type(self), _pickling.dumps(vars(self)))

    @abc.abstractmethod
    def scan(
        self, params: PyTree, state: PyTree, xs: PyTree, steps: Steps, adjoint: Adjoint
    ) -> tuple[PyTree, PyTree]:
        """Runs T ≥ 1 validated steps: a whole series, or one chunk of it."""

    @property
    def stochastic(self) -> bool:
        """Whether a step draws, in training: whether one of the parts does.

        `step` and `bounded_step` have an argument `key=None` then, and `scan` is given `steps.key`.
        """
        return any(part.stochastic for part in self.parts.values())

    @property
    def output_spec(self) -> PyTree:
        """Shape and dtype of one y(t); None where `input_spec` is, or it shows in a run alone."""
        if self.input_spec is None:
            return None
        params = params_spec(self)

        def output(params: PyTree, x: PyTree) -> PyTree:
            return self.step(params, self.initial_state(params), x)[1]

        return spec_of(output, params, self.input_spec)

    def output_of(self, x: PyTree) -> PyTree:
        """`output_spec`, where x(t) has this shape and dtype; None if it is unknown.

        Of use where `input_spec` is None, which leaves the one to the other: a plain function.
        """
        return self.output_spec

    def bounded_step(
        self,
        bound: Bound,
        params: PyTree,
        state: PyTree,
        x: PyTree,
        key: Key | None = None,
    ) -> tuple[PyTree, PyTree]:
        """Runs `step`, with `bound` applied to h(t), in which its cotangent is clipped, say.

        Here `bound` acts on the state and on y(t) separately, since an opaque step does not show
        how y(t) depends on the state. A kind of model that knows applies it to h(t) alone, and
        makes y(t) of the result.
        """
        state, y = self.step(params, state, x, **({} if key is None else {"key": key}))
        return bound(state), bound.output(y)

    def preactivation_bytes(self, params: PyTree, state: PyTree, x: PyTree) -> int:
        """The size of what one step hands to the recursion; 0 if nothing is recurrent."""
        return 0

    def astype(self, dtype: Any) -> "Model":
        """The same model with parameters, inputs and states of another floating dtype.

        Casts those fields of a dataclass that are models, shapes (`jax.ShapeDtypeStruct`) or
        floating dtypes (`numpy.dtype`), and what the functions in the fields `init` and
        `initial_state` return; models with other such fields must override it.

        Raises:
          TypeError: not a floating dtype; or the model has no field of these kinds.
        """
        if dtype is None:
            raise TypeError(_checks.mismatch("dtype", "a floating dtype", "None"))
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
        return dataclasses.replace(self, **new)  # type: ignore[type-var]  # a dataclass: see above


class StreamedModel(Model):
    """A model whose `step` is its `bounded_step`, without a bound."""

    def step(
        self,
        params: PyTree,
        state: PyTree,
        x: PyTree,
        *,
        key: Key | None = None,
        reset: Array | bool | None = None,
    ) -> tuple[PyTree, PyTree]:
        """One time step, in `lax.scan` order: (state, y(t)) from the state and x(t).

        Args:
          params: as `init` makes them.
          state: h(t-1).
          x: x(t), one input.
          key: what the step draws from, `jax.random.fold_in(key, t)` for the draws of
            `sj.unroll(…, key=key)`; None for evaluation.
          reset: a bool scalar: whether the state is the initial one again before the step.
        """
        key = None if key is None else _checks.key("key", key)
        if reset is not None:
            again = jnp.asarray(reset) if isinstance(reset, bool) else reset
            again = _checks.array("reset", again, (), jnp.bool_)
            params, state = check_params(self, params), check_state(self, params, state)
            state = where(again, check_state(self, params, None), state)
        return self.bounded_step(Bound(), params, state, x, key)


@dataclasses.dataclass(frozen=True)
class Around(Model):
    """What is made around a model for one call; its inputs are more than those of the model."""

    model: Model
    input_spec = None
    passing = True

    def init(self, key: Key) -> PyTree:
        return self.model.init(key)

    def initial_state(self, params: PyTree) -> PyTree:
        return self.model.initial_state(params)


def one_step(
    model: Model,
    bound: Bound,
    params: PyTree,
    state: PyTree,
    x: PyTree,
    key: Key | None,
) -> tuple[PyTree, PyTree]:
    """`model.bounded_step`, which need not take a key where the model draws nothing."""
    draws = key is not None and model.stochastic
    return model.bounded_step(bound, params, state, x, *([key] if draws else []))


def _is_model(part: Any) -> bool:
    return isinstance(part, Model)


def _part_astype(part: Any, dtype: Any) -> Any:
    if isinstance(part, Model):
        return part.astype(dtype)
    if isinstance(part, jax.ShapeDtypeStruct):
        return cast(part, dtype)
    return dtype if isinstance(part, np.dtype) and jnp.issubdtype(part, jnp.floating) else part


def check_params(model: Model, params: PyTree) -> PyTree:
    """`params`, having the structure, shapes and dtypes of `model.init(key)`."""
    _checks.hashable("model", model, "make it a frozen dataclass of hashable fields")
    return _checks.tree("params", params, params_spec(model))


def check_state(model: Model, params: PyTree, state: PyTree) -> PyTree:
    """`state`, having the structure, shapes and dtypes of the initial one; that one if None."""

    def initial_state(params: PyTree) -> PyTree:
        returned = "the state that initial_state returns"
        return _checks.arrays(returned, model.initial_state(params))

    if state is None:
        return initial_state(params)
    try:
        spec = jax.eval_shape(initial_state, params)
    except NoInitialState:  # nothing to hold it against
        return _checks.arrays("state", state)
    return _checks.tree("state", state, spec)


def check_step(
    model: Model, params: PyTree, state: PyTree, x: PyTree
) -> tuple[PyTree, PyTree, PyTree]:
    """The three arguments of `model.step`."""
    params, state = check_params(model, params), check_state(model, params, state)
    given, x = x, _checks.one("x", x, model.input_spec)
    check_tokens("x", given, model.vocabulary_size)
    return params, state, x
