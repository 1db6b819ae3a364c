"""Layers: models whose outputs are the inputs of the next one."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import jax

from seqjax import _checks
from seqjax._types import Key, PyTree, Step
from seqjax.engine.adjoint import Adjoint
from seqjax.engine.model import Model, check_params, check_state
from seqjax.engine.recurrence import Steps
from seqjax.engine.unroll import run

__all__ = ["stack"]


def stack(*models: Model) -> "Stack":
    """Stacks layers: the outputs of each are the inputs of the next. The result is itself a model.

    Each layer runs over time before the next one starts, so that one matmul projects its inputs at
    all steps (within a chunk of `BPTT`; below a layer that reads the future there are no common
    chunks, each layer has its own).

    Args:
      *models: at least one, of sizes that fit.

    Returns:
      A model whose params and state are tuples with an entry per layer.

    Raises:
      TypeError, ValueError: not a model; none at all; or sizes that do not fit.

    References:
      Notes, section 4, any number of layers k.

    >>> import jax, jax.numpy as jnp, seqjax as sj
    >>> model = sj.stack(sj.lstm(3, 8), sj.gru(8, 5), sj.dense(5, 2))
    >>> state, ys = sj.unroll(model, model.init(jax.random.key(0)), jnp.ones((10, 3)))
    >>> ys.shape
    (10, 2)
    """
    if not models:
        raise ValueError(_checks.mismatch("models", "at least one", "none"))
    for number, model in enumerate(models):
        _checks.instance(f"models[{number}]", model, Model, "a seqjax model")
    for number, (below, above) in enumerate(itertools.pairwise(models), start=1):
        if below.input_spec is None or above.input_spec is None:
            continue  # nothing is known before the data come
        y = below.output_spec
        if not fits(y, above.input_spec):
            expected = f"the input {_checks.describe(y)} that models[{number - 1}] outputs"
            given = _checks.describe(above.input_spec)
            raise ValueError(_checks.mismatch(f"models[{number}]", expected, given))
    return Stack(models)


@dataclass(frozen=True, repr=False)
class Stack(Model):
    """See `stack`."""

    models: tuple[Model, ...]

    def __repr__(self) -> str:
        return f"stack({', '.join(map(repr, self.models))})"

    @property
    def parts(self) -> dict[str, Model]:  # type: ignore[override]  # constant for most kinds
        return {f"models[{number}]": model for number, model in enumerate(self.models)}

    @property
    def input_spec(self) -> PyTree:  # type: ignore[override]  # a field of most kinds
        return self.models[0].input_spec

    @property
    def output_spec(self) -> PyTree:
        return self.models[-1].output_spec

    @property
    def vocabulary_size(self) -> int | None:  # type: ignore[override]  # constant for most kinds
        return self.models[0].vocabulary_size

    @property
    def causal(self) -> bool:  # type: ignore[override]  # constant for most kinds
        return all(model.causal for model in self.models)

    @property
    def receptive_field(self) -> float:  # type: ignore[override]  # constant for most kinds
        return 1 + sum(model.receptive_field - 1 for model in self.models)

    def init(self, key: Key) -> tuple[PyTree, ...]:
        keys = _checks.keys(key, len(self.models))
        return tuple(model.init(k) for model, k in zip(self.models, keys, strict=True))

    def initial_state(self, params: PyTree) -> tuple[PyTree, ...]:
        params = check_params(self, params)
        return tuple(model.initial_state(p) for model, p in zip(self.models, params, strict=True))

    def step(self, params: PyTree, state: PyTree, x: PyTree) -> tuple[tuple[PyTree, ...], PyTree]:
        params, state = check_params(self, params), check_state(self, params, state)
        return _through([model.step for model in self.models], params, state, x)

    def bounded_step(
        self, bound: Callable[[PyTree], PyTree], params: PyTree, state: PyTree, x: PyTree
    ) -> tuple[tuple[PyTree, ...], PyTree]:
        params, state = check_params(self, params), check_state(self, params, state)
        layers = [partial(model.bounded_step, bound) for model in self.models]
        return _through(layers, params, state, x)

    def preactivation_bytes(self, params: PyTree, state: PyTree, x: PyTree) -> int:
        total = 0
        for model, p, s in zip(self.models, params, state, strict=True):
            total += model.preactivation_bytes(p, s, x)
            x = jax.eval_shape(model.step, p, s, x)[1]
        return total

    def scan(
        self, params: PyTree, state: PyTree, xs: PyTree, steps: Steps, adjoint: Adjoint
    ) -> tuple[tuple[PyTree, ...], PyTree]:
        # Below a layer that reads the future there are no common windows: each has its own.
        scans = [model.scan if self.causal else partial(run, model) for model in self.models]
        layers = [partial(scan, steps=steps, adjoint=adjoint) for scan in scans]
        return _through(layers, params, state, xs)


def fits(y: PyTree, spec: jax.ShapeDtypeStruct) -> bool:
    """Whether what one model outputs is what another reads, both by their specs."""
    if not hasattr(y, "shape") or y.shape != spec.shape:
        return False
    return y.dtype == _checks.dtype_of_input("y", y, spec.dtype)


def _through(
    layers: Sequence[Step], params: PyTree, state: PyTree, x: PyTree
) -> tuple[tuple[PyTree, ...], PyTree]:
    """`layer(params, state, x) -> (state, y)` of each layer, its y the next one's x."""
    new = []
    for layer, p, s in zip(layers, params, state, strict=True):
        s, x = layer(p, s, x)
        new.append(s)
    return tuple(new), x
