"""The hidden part of a network with output feedback: one layer, several, or a model."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import jax
import numpy as np

from seqjax import _checks
from seqjax._types import Key, PyTree
from seqjax.engine.model import Model
from seqjax.engine.per_model import params_spec
from seqjax.models._initial import Initializers
from seqjax.models._pointwise import Pointwise
from seqjax.models.dense import Dense

__all__ = ["DenseLayers", "Hidden", "check_hidden", "first_size"]

# The size of one layer, those of several, or a model of what lies above the first one.
Hidden: TypeAlias = int | tuple[int, ...] | Model


def check_hidden(name: str, hidden: Any, dtype: Any) -> Hidden:
    """Sizes; or a model from vectors to vectors that remembers nothing and draws nothing."""
    if isinstance(hidden, Model):
        return _check_model(name, hidden, dtype)
    if isinstance(hidden, (tuple, list)):
        if not hidden:
            raise ValueError(_checks.mismatch(name, "at least one size", "none"))
        sizes = [_checks.size(f"{name}[{number}]", size) for number, size in enumerate(hidden)]
        return tuple(sizes) if len(sizes) > 1 else sizes[0]
    if isinstance(hidden, (int, np.integer)):
        return _checks.size(name, hidden)
    expected = "an integer, a tuple of integers or a seqjax model"
    raise TypeError(_checks.mismatch(name, expected, _checks.describe(hidden)))


def _check_model(name: str, model: Model, dtype: Any) -> Model:
    _checks.hashable(name, model, "make it a frozen dataclass of hashable fields")
    if model.receptive_field != 1 or not model.causal or _has_state(model):
        expected = "a model without memory: what is remembered are the delayed inputs and outputs"
    elif model.stochastic:
        expected = "a model that draws nothing: a step of this one is given no random key"
    else:
        for verb, spec in {"reads": model.input_spec, "outputs": model.output_spec}.items():
            if len(getattr(spec, "shape", ())) != 1 or spec.dtype != dtype:
                expected = f"a model that {verb} a vector of {_checks.dtype_name(dtype)}"
                given = f"{model!r}, which {verb} {_checks.describe(spec)}"
                raise ValueError(_checks.mismatch(name, expected, given))
        return model
    raise ValueError(_checks.mismatch(name, expected, repr(model)))


def _has_state(model: Model) -> bool:
    return bool(jax.tree.leaves(jax.eval_shape(model.initial_state, params_spec(model))))


def first_size(hidden: Hidden) -> int:
    """H, the size of the first hidden layer."""
    if isinstance(hidden, Model):
        return hidden.input_spec.shape[0]  # type: ignore[union-attr]  # checked: it reads a vector
    return hidden[0] if isinstance(hidden, tuple) else hidden


@dataclass(frozen=True, kw_only=True, repr=False)
class DenseLayers(Pointwise):
    """Dense layers, each with the same activation; params are a tuple with an entry per layer."""

    sizes: tuple[int, ...]
    activation: Callable
    inits: Initializers
    dtype: Any
    param_dtype: Any

    def __repr__(self) -> str:
        return f"stack({', '.join(map(repr, self.layers))})"  # by its public name

    @property
    def input_spec(self) -> jax.ShapeDtypeStruct:  # type: ignore[override]  # a field of most kinds
        return jax.ShapeDtypeStruct(self.sizes[:1], self.dtype)

    @property
    def layers(self) -> tuple[Dense, ...]:
        return tuple(
            Dense(
                input_spec=jax.ShapeDtypeStruct((reads,), self.dtype),
                output_size=outputs,
                activation=self.activation,
                inits=self.inits,
                param_dtype=self.param_dtype,
            )
            for reads, outputs in itertools.pairwise(self.sizes)
        )

    def init(self, key: Key) -> tuple[dict[str, jax.Array], ...]:
        keys = _checks.keys(key, len(self.layers))
        return tuple(layer.init(k) for layer, k in zip(self.layers, keys, strict=True))

    def apply(self, params: PyTree, x: jax.Array) -> jax.Array:
        for layer, p in zip(self.layers, params, strict=True):
            x = layer.apply(p, x)
        return x
