"""Parts that gated cells are put together of: a function and its hand-written rule, always both."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from seqjax import _checks
from seqjax._static import static_partial
from seqjax._types import PyTree
from seqjax.ops.matmul import matmul

__all__ = ["PRODUCT", "Part", "around", "bound", "has_rules", "pointwise", "pointwise_functions"]


class Part(NamedTuple):
    """A function, and the rule of its gradient."""

    function: Callable
    rule: Callable


def around(outer: Part, inner: Part) -> Part:
    """A part that is given another one first: its function the function, its rule the rule."""
    return Part(*(static_partial(f, g) for f, g in zip(outer, inner, strict=True)))


def pointwise(name: str, function: Any) -> Callable:
    """An activation, by the name of its argument: its result must have the shape of a gate."""
    return static_partial(_apply, name, _checks.part(name, function))


def _apply(name: str, function: Callable, z: jax.Array) -> jax.Array:
    return _checks.array(f"the array that {name} returns", function(z), z.shape, z.dtype)


def bound(function: Any) -> Iterator[Any]:
    """What a `static_partial` binds, however deep."""
    for value in getattr(function, "args", ()):
        yield value
        yield from bound(value)


def pointwise_functions(*functions: Callable) -> dict[str, Callable]:
    """The activations that functions of a cell bind by `pointwise`, by the name of the argument."""
    parts = [part for function in functions for part in bound(function)]
    return dict(part.args[:2] for part in parts if getattr(part, "func", None) is _apply)


def has_rules(gate_activation: Callable, activation: Callable) -> bool:
    """Whether the hand-written rules hold: they are those of σ and tanh."""
    return gate_activation == jax.nn.sigmoid and activation in (jnp.tanh, jax.nn.tanh)


def product(params: PyTree, name: str, x: jax.Array) -> jax.Array:
    """X W, the kernel by its name."""
    return matmul(x, params[name])


def product_vjp(params: PyTree, name: str, x: jax.Array, d: jax.Array) -> jax.Array:
    return matmul(d, params[name].T)


PRODUCT = Part(product, product_vjp)
