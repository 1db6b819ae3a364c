"""The layers of a model one by one, as ONNX has them; a model filled by those of a file."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from seqjax import _checks
from seqjax._types import PyTree
from seqjax.compose.bidirectional import Bidirectional
from seqjax.compose.stack import Stack
from seqjax.engine.model import Model, check_params
from seqjax.engine.per_model import params_spec
from seqjax.interop._kinds import kind_of
from seqjax.interop._onnx.nodes import Layer
from seqjax.models.dense import Dense
from seqjax.models.dropout import Dropout
from seqjax.models.function import Function

__all__ = ["Leaf", "fill", "leaves"]


class Leaf(NamedTuple):
    """One layer of a model, and its number among all; dropout counts."""

    model: Model
    params: PyTree
    number: int


def leaves(model: Model, params: PyTree) -> list[Leaf]:
    """The layers of stacks in stacks, but for dropout, which evaluation does not have."""
    every = enumerate(_leaves(model, params))
    return [Leaf(*pair, number) for number, pair in every if not isinstance(pair[0], Dropout)]


def _leaves(model: Model, params: PyTree) -> Iterator[tuple[Model, PyTree]]:
    if not isinstance(model, Stack):
        yield model, params
        return
    for part, of_part in zip(model.models, params, strict=True):
        yield from _leaves(part, of_part)


def fill(model: Any, layers: list[Layer]) -> PyTree:
    """The params of a model, of layers that were read, each in its place."""
    model = _checks.instance("model", model, Model, "a seqjax model")
    unused = iter(layers)
    params = _filled(model, params_spec(model), unused)
    more = [layer.model for layer in unused]
    if more:
        expected = f"a model of more layers: the file has {', '.join(map(repr, more))} too"
        raise ValueError(_checks.mismatch("model", expected, repr(model)))
    return check_params(model, params)


def _filled(model: Model, spec: PyTree, layers: Iterator[Layer]) -> PyTree:
    if isinstance(model, Stack):
        pairs = zip(model.models, spec, strict=True)
        return tuple(_filled(part, of_part, layers) for part, of_part in pairs)
    if isinstance(model, Dropout):
        return ()
    layer = next(layers, None)
    if layer is None:
        raise ValueError(_checks.mismatch("model", "one of fewer layers", f"{model!r} too"))
    params = _matched(model, spec, layer.model, layer.params)
    if isinstance(model, Dense) and model.activation is not None:
        after = next(layers, None)
        if after is None or after.model != Function(model.activation):
            given = "nothing" if after is None else repr(after.model)
            raise ValueError(_checks.mismatch("model", f"one with {given} after it", repr(model)))
    return params


def _matched(model: Model, spec: PyTree, theirs: Model, params: PyTree) -> PyTree:
    """The params that were read, if a model computes what that of the file does."""
    if isinstance(model, Bidirectional) and isinstance(theirs, Bidirectional):
        if model.merge != theirs.merge:
            raise _other(model, theirs)
        return {
            name: _matched(part, spec[name], theirs.parts[name], params[name])
            for name, part in model.parts.items()
        }
    ours, of_file = (_known(m) for m in (model, theirs))
    if isinstance(model, Function) or ours is None or of_file is None:
        if model != theirs:
            raise _other(model, theirs)
        return params
    kind, options = ours
    if kind == "dense":  # a layer of its own in the file
        options.pop("activation", None)
    if options.pop("learn_initial_state", False) and not of_file[1].pop("learn_initial_state", 0):
        params = params | {"initial_state": jax.tree.map(_zeros, spec["initial_state"])}
    if ours != of_file:
        raise _other(model, theirs)
    return params


def _known(model: Model) -> tuple[str, dict[str, Any]] | None:
    found = kind_of(model)
    return None if found is None else (found[0], dict(found[1]))


def _zeros(spec: Any) -> jax.Array:
    return jnp.zeros(spec.shape, spec.dtype)


def _other(model: Model, theirs: Model) -> ValueError:
    return ValueError(_checks.mismatch("model", f"{theirs!r}, as in the file", repr(model)))
