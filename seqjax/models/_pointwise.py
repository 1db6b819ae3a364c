"""What the models without a state share: y(t) depends on x(t) alone."""

import abc
from typing import Any

from seqjax._tree import cast
from seqjax._types import Key, PyTree
from seqjax.engine.adjoint import Adjoint
from seqjax.engine.bound import Bound
from seqjax.engine.model import StreamedModel, check_step
from seqjax.engine.recurrence import Steps, over_steps

__all__ = ["Pointwise"]


class Pointwise(StreamedModel):
    """y(t) = apply(params, x(t)), for all t at once; `apply` sees parameters in `dtype`."""

    dtype: Any
    receptive_field = 1
    divisible = True

    @abc.abstractmethod
    def apply(self, params: PyTree, x: PyTree) -> PyTree:
        """y(t), of what was checked."""

    def initial_state(self, params: PyTree) -> tuple[()]:
        return ()

    def bounded_step(
        self,
        bound: Bound,
        params: PyTree,
        state: PyTree,
        x: PyTree,
        key: Key | None = None,
    ) -> tuple[PyTree, PyTree]:
        params, state, x = check_step(self, params, state, x)
        return state, self.apply(cast(params, self.dtype), x)  # nothing is recurrent

    def scan(
        self, params: PyTree, state: PyTree, xs: PyTree, steps: Steps, adjoint: Adjoint
    ) -> tuple[PyTree, PyTree]:
        return state, over_steps(self.apply, cast(params, self.dtype), xs)
