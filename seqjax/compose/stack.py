"""Layers: models whose outputs are the inputs of the next one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce

import jax

from seqjax import _checks
from seqjax._static import call_of, static_partial
from seqjax._types import Key, PyTree, Step
from seqjax.compose._parts import Several, fits, output_at
from seqjax.engine.adjoint import Adjoint
from seqjax.engine.bound import Bound
from seqjax.engine.model import Model, check_params, check_state
from seqjax.engine.recurrence import Steps
from seqjax.models.function import as_model

__all__ = ["stack"]


def stack(*models: Model | Callable[[PyTree], PyTree]) -> "Stack":
    """Stacks layers: the outputs of each are the inputs of the next. The result is itself a model.

    A plain function of one step's output (`jnp.tanh`, `jax.nn.glu`, a lambda) is a layer too, with
    empty params and state, (). It runs for all steps at once, vmapped. A stack that begins with
    one does not know its input: its `input_spec` is None, and nothing is checked before the data
    come.

    Each layer runs over time before the next one starts, so that one matmul projects its inputs at
    all steps (within a chunk of `BPTT`; below a layer that reads the future there are no common
    chunks, each layer has its own).

    Args:
      *models: models or functions, at least one, of sizes that fit.

    Returns:
      A model whose params and state are tuples with an entry per layer.

    Raises:
      TypeError, ValueError: neither a model nor a function; none at all; sizes that do not fit; or
        a function that fails on what the layer below outputs.

    References:
      Notes, section 4, any number of layers k.

    >>> import jax, jax.numpy as jnp, seqjax as sj
    >>> model = sj.stack(sj.lstm(3, 8), sj.gru(8, 5), sj.dense(5, 4), jax.nn.glu)
    >>> state, ys = sj.unroll(model, model.init(jax.random.key(0)), jnp.ones((10, 3)))
    >>> ys.shape
    (10, 2)
    """
    if not models:
        raise ValueError(_checks.mismatch("models", "at least one", "none"))
    layers = tuple(as_model(f"models[{number}]", model) for number, model in enumerate(models))
    y = None  # what the layer below outputs, as far as it is known before the data come
    for number, layer in enumerate(layers):
        if y is not None and layer.input_spec is not None and not fits(y, layer.input_spec):
            expected = f"the input {_checks.describe(y)} that models[{number - 1}] outputs"
            given = _checks.describe(layer.input_spec)
            raise ValueError(_checks.mismatch(f"models[{number}]", expected, given))
        y = output_at(f"models[{number}]", layer, y)
    return Stack(layers)


@dataclass(frozen=True, repr=False)
class Stack(Several):
    """See `stack`."""

    @property
    def call(self) -> static_partial:
        return call_of(stack, *self.models)

    @property
    def input_spec(self) -> PyTree:  # type: ignore[override]  # a field of most kinds
        return self.models[0].input_spec

    def output_of(self, x: PyTree) -> PyTree:
        return reduce(lambda y, model: model.output_of(y), self.models, x)

    @property
    def vocabulary_size(self) -> int | None:  # type: ignore[override]  # constant for most kinds
        return self.models[0].vocabulary_size

    @property
    def receptive_field(self) -> float:  # type: ignore[override]  # constant for most kinds
        return 1 + sum(model.receptive_field - 1 for model in self.models)

    def bounded_step(
        self,
        bound: Bound,
        params: PyTree,
        state: PyTree,
        x: PyTree,
        key: Key | None = None,
    ) -> tuple[tuple[PyTree, ...], PyTree]:
        params, state = check_params(self, params), check_state(self, params, state)
        return _through(self.steps_of(bound, key), params, state, x)

    def preactivation_bytes(self, params: PyTree, state: PyTree, x: PyTree) -> int:
        total = 0
        for model, p, s in zip(self.models, params, state, strict=True):
            total += model.preactivation_bytes(p, s, x)
            x = jax.eval_shape(model.step, p, s, x)[1]
        return total

    def scan(
        self, params: PyTree, state: PyTree, xs: PyTree, steps: Steps, adjoint: Adjoint
    ) -> tuple[tuple[PyTree, ...], PyTree]:
        return _through(self.scans_of(steps, adjoint), params, state, xs)


def _through(
    layers: Sequence[Step], params: PyTree, state: PyTree, x: PyTree
) -> tuple[tuple[PyTree, ...], PyTree]:
    """`layer(params, state, x) -> (state, y)` of each layer, its y the next one's x."""
    new = []
    for layer, p, s in zip(layers, params, state, strict=True):
        s, x = layer(p, s, x)
        new.append(s)
    return tuple(new), x
