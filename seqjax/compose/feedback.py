"""A model that reads its own output of the step before."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from seqjax import _checks
from seqjax._static import call_of, static_partial
from seqjax._tree import size_in_bytes
from seqjax._types import Key, PyTree
from seqjax.compose._merges import Merge, check_merge, merge_function, merged_spec
from seqjax.engine.adjoint import Adjoint
from seqjax.engine.bound import Bound
from seqjax.engine.model import Model, StreamedModel, check_params, check_state, one_step
from seqjax.engine.recurrence import StepRecurrence, Steps
from seqjax.engine.unroll import step_by_step

__all__ = ["feedback"]


def feedback(model: Model, *, merge: str | Callable = "concat") -> "OutputFeedback":
    """Output feedback: the model reads, beside x(t), what it has output one step before.

        x'(t) = merge(x(t), y(t-1)),  y(t) = model(x')(t),  y(-1) = 0

    The gradient goes back through y(t-1). No x'(t) is known before y(t-1) is, so that steps run one
    after the other, and no matmul leaves the loop. Of outputs that are drawn, and read as symbols,
    see `sj.generate`.

    Args:
      model: any model that reads no input after t, and knows what it outputs before the data come.
      merge: "concat" (x(t) first, along the last axis), "sum", "mean", "product", or a function
        of x(t) and y(t-1): `lambda x, y: y` for a model that reads its outputs alone, of an x that
        has a length and is not read; `lambda x, y: jnp.concatenate([x, jax.nn.softmax(y)])`. With
        a function x(t) may be anything.

    Returns:
      A model with the params of `model`, and with state {"model": the state of `model`, "y":
      y(t-1)}. `BPTT(clip=…)` bounds what flows back into the one and into the other, each by
      itself.

    Raises:
      TypeError, ValueError: not a model; one that reads the whole series, or whose output is
        unknown; or a merge that does not give what the model reads (of a function, once the data
        come).

    References:
      Notes, section 2; Narendra & Parthasarathy 1990 (the parallel model), of any network.

    >>> import jax, jax.numpy as jnp, seqjax as sj
    >>> model = sj.feedback(sj.stack(sj.gru(3 + 2, 8), sj.dense(8, 2)))
    >>> state, ys = sj.unroll(model, model.init(jax.random.key(0)), jnp.ones((10, 3)))
    >>> ys.shape, bool((state["y"] == ys[-1]).all())
    ((10, 2), True)
    """
    _checks.instance("model", model, Model, "a seqjax model")
    if not model.causal:
        expected = "a model that reads no input after t: y(t-1) must be known before x'(t) is"
        raise ValueError(_checks.mismatch("model", expected, _checks.describe(model)))
    if model.output_spec is None:
        expected = "a model that knows its output before the data come, since y(-1) = 0 is like it"
        raise ValueError(_checks.mismatch("model", expected, _checks.describe(model)))
    merge = check_merge(merge)
    return OutputFeedback(model, merge, None if callable(merge) else _input_spec(model, merge))


def _input_spec(model: Model, merge: str) -> jax.ShapeDtypeStruct | None:
    """What is left for x(t) of what the model reads."""
    x, y = model.input_spec, model.output_spec
    if x is None:
        return None
    if merge == "concat":
        if not (x.shape and getattr(y, "shape", ()) and x.shape[-1] > y.shape[-1]):
            expected = f"a model that reads x(t) beside its output {_checks.describe(y)}"
            given = f"one that reads {_checks.describe(x)}"
            raise ValueError(_checks.mismatch("model", expected, given))
        x = jax.ShapeDtypeStruct((*x.shape[:-1], x.shape[-1] - y.shape[-1]), x.dtype)
    merged_spec(merge, (x, y))
    return x


@dataclass(frozen=True, repr=False)
class OutputFeedback(StreamedModel):
    """See `feedback`."""

    model: Model
    merge: Merge
    input_spec: jax.ShapeDtypeStruct | None
    opaque = True

    @property
    def call(self) -> static_partial:
        return call_of(feedback, self.model, merge=self.merge)

    @property
    def parts(self) -> dict[str, Model]:  # type: ignore[override]  # constant for most kinds
        return {"model": self.model}

    @property
    def output_spec(self) -> PyTree:
        return self.model.output_spec

    def init(self, key: Key) -> PyTree:
        return self.model.init(key)

    def initial_state(self, params: PyTree) -> dict[str, PyTree]:
        y = jax.tree.map(lambda spec: jnp.zeros(spec.shape, spec.dtype), self.output_spec)
        return {"model": self.model.initial_state(params), "y": y}

    def bounded_step(
        self,
        bound: Bound,
        params: PyTree,
        state: PyTree,
        x: PyTree,
        key: Key | None = None,
    ) -> tuple[dict[str, PyTree], PyTree]:
        params, state = check_params(self, params), check_state(self, params, state)
        state = bound(self._after(params, state, _checks.one("x", x, self.input_spec), key))
        return state, state["y"]

    def preactivation_bytes(self, params: PyTree, state: PyTree, x: PyTree) -> int:
        return size_in_bytes(state)

    def scan(
        self, params: PyTree, state: PyTree, xs: PyTree, steps: Steps, adjoint: Adjoint
    ) -> tuple[dict[str, PyTree], PyTree]:
        if adjoint.plain:
            return step_by_step(self, params, state, xs, steps, adjoint)
        reset_state = state if steps.reset is None else self.initial_state(params)
        rec = StepRecurrence(lambda params, state, u: self._after(params, state, *u))
        inputs, steps = (xs, steps.key), steps.without_key
        last, states = adjoint.scan_states(rec, params, state, reset_state, inputs, steps)
        return last, states["y"]

    def _after(
        self, params: PyTree, state: dict[str, PyTree], x: PyTree, key: Key | None
    ) -> dict[str, PyTree]:
        """The state after a step; y(t) is a part of it."""
        read = merge_function(self.merge)(x, state["y"])
        read = _checks.one("the x' that merge returns", read, self.model.input_spec)
        new, y = one_step(self.model, Bound(), params, state["model"], read, key)
        return {"model": new, "y": y}
