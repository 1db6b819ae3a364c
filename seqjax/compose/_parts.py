"""What models of models ask of their parts."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax

from seqjax import _checks
from seqjax._types import Key, PyTree, Step
from seqjax.engine.adjoint import Adjoint
from seqjax.engine.bound import Bound
from seqjax.engine.keys import part_key, part_steps
from seqjax.engine.model import Model, StreamedModel, check_params, one_step
from seqjax.engine.recurrence import Steps
from seqjax.engine.unroll import run

__all__ = ["Several", "fits", "output_at", "smallest_vocabulary"]


@dataclass(frozen=True, repr=False)
class Several(StreamedModel):
    """Any number of models; params and state are tuples with an entry per model."""

    models: tuple[Model, ...]

    @property
    def parts(self) -> dict[str, Model]:  # type: ignore[override]  # constant for most kinds
        return {f"models[{number}]": model for number, model in enumerate(self.models)}

    @property
    def output_spec(self) -> PyTree:
        return self.output_of(self.input_spec)

    @property
    def causal(self) -> bool:  # type: ignore[override]  # constant for most kinds
        return all(model.causal for model in self.models)

    @property
    def divisible(self) -> bool:  # type: ignore[override]  # constant for most kinds
        return all(model.divisible for model in self.models)

    @property
    def opaque(self) -> bool:  # type: ignore[override]  # constant for most kinds
        recurrent = [model for model in self.models if model.receptive_field != 1]
        return bool(recurrent) and all(model.opaque for model in recurrent)

    def init(self, key: Key) -> tuple[PyTree, ...]:
        keys = _checks.keys(key, len(self.models))
        return tuple(model.init(k) for model, k in zip(self.models, keys, strict=True))

    def initial_state(self, params: PyTree) -> tuple[PyTree, ...]:
        params = check_params(self, params)
        return tuple(model.initial_state(p) for model, p in zip(self.models, params, strict=True))

    def steps_of(self, bound: Bound, key: Key | None) -> list[Step]:
        """`bounded_step` of each model."""
        return [
            partial(one_step, model, bound.part(number), key=part_key(model, key, number))
            for number, model in enumerate(self.models)
        ]

    def scans_of(self, steps: Steps, adjoint: Adjoint) -> list[Step]:
        """`scan` of each model, or, beside one that reads the future, where there are no common
        windows, a run of each.
        """
        return [
            partial(
                model.scan if self.causal else partial(run, model),
                steps=part_steps(model, steps, number),
                adjoint=adjoint,
            )
            for number, model in enumerate(self.models)
        ]


def fits(y: PyTree, spec: jax.ShapeDtypeStruct) -> bool:
    """Whether what one model outputs is what another reads, both by their specs."""
    if not hasattr(y, "shape") or y.shape != spec.shape:
        return False
    return y.dtype == _checks.dtype_of_input("y", y, spec.dtype)


def output_at(place: str, model: Model, x: PyTree) -> PyTree:
    """`model.output_of(x)`; an error in a plain function names the place where it stands."""
    try:
        return model.output_of(x)
    except Exception as error:
        if model.input_spec is not None:
            raise
        given = f"{model!r}, which raises {type(error).__name__}: {error}"
        message = _checks.mismatch(place, f"a function of {_checks.describe(x)}", given)
        raise ValueError(message) from error


def smallest_vocabulary(*models: Model) -> int | None:
    """V of the tokens that all of these read; None if none of them says."""
    sizes: Any = (model.vocabulary_size for model in models)
    return min((size for size in sizes if size is not None), default=None)
