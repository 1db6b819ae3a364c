"""Several models that read the same input."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax

from seqjax import _checks
from seqjax._static import call_of, static_partial
from seqjax._types import Key, PyTree, Step
from seqjax.compose._merges import Merge, check_merge, merge_function, merged_spec
from seqjax.compose._parts import Several, output_at, smallest_vocabulary
from seqjax.engine.adjoint import Adjoint
from seqjax.engine.bound import Bound
from seqjax.engine.model import Model, check_params, check_state
from seqjax.engine.recurrence import Steps
from seqjax.models.function import as_model

__all__ = ["branches"]


def branches(
    *models: Model | Callable[[PyTree], PyTree], merge: str | Callable = "concat"
) -> "Branches":
    """Models side by side: all read the same x(t), and their outputs are merged.

        y(t) = merge(models[0](x)(t), models[1](x)(t), …)

    Args:
      *models: models of the same input, or plain functions of x(t), at least one.
      merge: "concat" (along the last axis), "sum", "mean", "product", or a function of the
        outputs of one step.

    Returns:
      A model whose params and state are tuples with an entry per model.

    Raises:
      TypeError, ValueError: neither a model nor a function; none at all; inputs that differ; or
        outputs that do not merge.

    >>> import jax, jax.numpy as jnp, seqjax as sj
    >>> model = sj.branches(sj.gru(3, 8), sj.tdnn(3, 4, delays=(0, 2)), lambda x: x)
    >>> sj.unroll(model, model.init(jax.random.key(0)), jnp.ones((10, 3)))[1].shape
    (10, 15)
    """
    if not models:
        raise ValueError(_checks.mismatch("models", "at least one", "none"))
    made = Branches(
        tuple(as_model(f"models[{number}]", model) for number, model in enumerate(models)),
        check_merge(merge),
    )
    x = made.input_spec
    for number, model in enumerate(made.models):
        if model.input_spec not in (None, x):
            expected = f"the input {_checks.describe(x)} that others read"
            given = _checks.describe(model.input_spec)
            raise ValueError(_checks.mismatch(f"models[{number}]", expected, given))
        output_at(f"models[{number}]", model, x)
    made.output_of(x)
    return made


@dataclass(frozen=True, repr=False)
class Branches(Several):
    """See `branches`."""

    merge: Merge

    @property
    def call(self) -> static_partial:
        return call_of(branches, *self.models, merge=self.merge)

    @property
    def input_spec(self) -> PyTree:  # type: ignore[override]  # a field of most kinds
        specs = (model.input_spec for model in self.models)
        return next((spec for spec in specs if spec is not None), None)

    @property
    def vocabulary_size(self) -> int | None:  # type: ignore[override]  # constant for most kinds
        return smallest_vocabulary(*self.models)

    def output_of(self, x: PyTree) -> PyTree:
        return merged_spec(self.merge, tuple(model.output_of(x) for model in self.models))

    @property
    def receptive_field(self) -> float:  # type: ignore[override]  # constant for most kinds
        return max(model.receptive_field for model in self.models)

    def bounded_step(
        self,
        bound: Bound,
        params: PyTree,
        state: PyTree,
        x: PyTree,
        key: Key | None = None,
    ) -> tuple[tuple[PyTree, ...], PyTree]:
        params, state = check_params(self, params), check_state(self, params, state)
        state, ys = self._all(self.steps_of(bound, key), params, state, x)
        return state, merge_function(self.merge)(*ys)

    def preactivation_bytes(self, params: PyTree, state: PyTree, x: PyTree) -> int:
        each = zip(self.models, params, state, strict=True)
        return sum(model.preactivation_bytes(p, s, x) for model, p, s in each)

    def scan(
        self, params: PyTree, state: PyTree, xs: PyTree, steps: Steps, adjoint: Adjoint
    ) -> tuple[tuple[PyTree, ...], PyTree]:
        state, ys = self._all(self.scans_of(steps, adjoint), params, state, xs)
        return state, jax.vmap(merge_function(self.merge))(*ys)

    @staticmethod
    def _all(
        each: Sequence[Step], params: PyTree, state: PyTree, x: PyTree
    ) -> tuple[tuple[PyTree, ...], tuple[PyTree, ...]]:
        """The states and the outputs, a tuple each, of all `model(params, state, x)`."""
        found = [model(p, s, x) for model, p, s in zip(each, params, state, strict=True)]
        return tuple(s for s, _ in found), tuple(y for _, y in found)
