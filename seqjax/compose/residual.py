"""A model whose output is added to its input."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from seqjax import _checks
from seqjax._static import call_of, static_partial
from seqjax._types import Key, PyTree
from seqjax.engine.adjoint import Adjoint
from seqjax.engine.bound import Bound
from seqjax.engine.model import Model, StreamedModel, one_step
from seqjax.engine.recurrence import Steps
from seqjax.models.function import as_model

__all__ = ["residual"]


def residual(model: Model | Callable[[PyTree], PyTree]) -> "Residual":
    """A residual connection around a model: its output is added to its input.

        y(t) = x(t) + model(x)(t)

    Args:
      model: any model whose y(t) has the shape and dtype of x(t); or a plain function of x(t).

    Returns:
      A model whose params and state are those of `model`.

    Raises:
      TypeError, ValueError: neither a model nor a function; or an output that is not like the
        input (where the input is not known before, once the data come).

    References:
      He et al. 2016, Deep residual learning for image recognition, arXiv:1512.03385.

    A block of S5 (Smith et al. 2023, arXiv:2208.04933) or Griffin (De et al. 2024,
    arXiv:2402.19427): norm, recurrence, gated output, and the input again.

    >>> import jax, jax.numpy as jnp, seqjax as sj
    >>> def block(cell):
    ...     return sj.residual(sj.stack(sj.layer_norm(4), cell, sj.dense(4, 8), jax.nn.glu))
    >>> model = sj.stack(block(sj.gru(4, 4)), block(sj.lstm(4, 4)))
    >>> sj.unroll(model, model.init(jax.random.key(0)), jnp.ones((10, 4)))[1].shape
    (10, 4)
    """
    model = as_model("model", model)
    x = model.input_spec
    y = model.output_of(x)
    if None not in (x, y) and y != x:
        expected = f"a model that outputs {_checks.describe(x)}, which it reads"
        raise ValueError(_checks.mismatch("model", expected, _checks.describe(y)))
    return Residual(model)


@dataclass(frozen=True, repr=False)
class Residual(StreamedModel):
    """See `residual`."""

    model: Model

    @property
    def call(self) -> static_partial:
        return call_of(residual, self.model)

    @property
    def parts(self) -> dict[str, Model]:  # type: ignore[override]  # constant for most kinds
        return {"model": self.model}

    @property
    def input_spec(self) -> PyTree:  # type: ignore[override]  # a field of most kinds
        return self.model.input_spec

    @property
    def output_spec(self) -> PyTree:
        return self.input_spec

    def output_of(self, x: PyTree) -> PyTree:
        return x

    @property
    def causal(self) -> bool:  # type: ignore[override]  # constant for most kinds
        return self.model.causal

    @property
    def receptive_field(self) -> float:  # type: ignore[override]  # constant for most kinds
        return self.model.receptive_field

    @property
    def opaque(self) -> bool:  # type: ignore[override]  # constant for most kinds
        return self.model.opaque

    @property
    def divisible(self) -> bool:  # type: ignore[override]  # constant for most kinds
        return self.model.divisible

    def init(self, key: Key) -> PyTree:
        return self.model.init(key)

    def initial_state(self, params: PyTree) -> PyTree:
        return self.model.initial_state(params)

    def bounded_step(
        self,
        bound: Bound,
        params: PyTree,
        state: PyTree,
        x: PyTree,
        key: Key | None = None,
    ) -> tuple[PyTree, PyTree]:
        state, y = one_step(self.model, bound, params, state, x, key)
        return state, _sum(x, y)

    def preactivation_bytes(self, params: PyTree, state: PyTree, x: PyTree) -> int:
        return self.model.preactivation_bytes(params, state, x)

    def scan(
        self, params: PyTree, state: PyTree, xs: PyTree, steps: Steps, adjoint: Adjoint
    ) -> tuple[PyTree, PyTree]:
        state, ys = self.model.scan(params, state, xs, steps, adjoint)
        return state, _sum(xs, ys)


def _sum(x: PyTree, y: PyTree) -> PyTree:
    y = _checks.tree("the y that is added to x", y, x)
    return jax.tree.map(jnp.add, x, y)
