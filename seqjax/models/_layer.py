"""What the layers whose parameters are one kernel per delay share: sizes, dtypes, checks."""

import abc
from dataclasses import dataclass
from typing import Any

import jax

from seqjax._tree import cast
from seqjax._types import Key, PyTree
from seqjax.engine.adjoint import Adjoint
from seqjax.engine.bound import Bound
from seqjax.engine.model import StreamedModel, check_step
from seqjax.engine.recurrence import Steps

__all__ = ["Layer"]


@dataclass(frozen=True, kw_only=True, repr=False)
class Layer(StreamedModel):
    """A model from vectors to vectors; `step_cast` and `scan_cast` see parameters in its dtype."""

    input_spec: jax.ShapeDtypeStruct
    output_size: int
    param_dtype: Any

    @property
    def dtype(self) -> Any:
        return self.input_spec.dtype

    @property
    def input_size(self) -> int:
        return self.input_spec.shape[0]

    @property
    def output_spec(self) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((self.output_size,), self.dtype)

    def bounded_step(
        self,
        bound: Bound,
        params: PyTree,
        state: PyTree,
        x: PyTree,
        key: Key | None = None,
    ) -> tuple[PyTree, PyTree]:
        params, state, x = check_step(self, params, state, x)
        state, y = self.step_cast(self.cast_params(params), state, x)
        return bound.handed_on(state), y

    def scan(
        self, params: PyTree, state: PyTree, xs: PyTree, steps: Steps, adjoint: Adjoint
    ) -> tuple[PyTree, PyTree]:
        return self.scan_cast(self.cast_params(params), state, xs, steps, adjoint)

    def cast_params(self, params: PyTree) -> PyTree:
        return cast(params, self.dtype)

    @abc.abstractmethod
    def step_cast(self, params: PyTree, state: PyTree, x: jax.Array) -> tuple[PyTree, jax.Array]:
        """`step`, of what was checked."""

    @abc.abstractmethod
    def scan_cast(
        self, params: PyTree, state: PyTree, xs: jax.Array, steps: Steps, adjoint: Adjoint
    ) -> tuple[PyTree, jax.Array]:
        """See `Model.scan`."""
