"""What is done to the state of a step as it is made, before y(t) is made of it."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from seqjax._tree import is_inexact
from seqjax._types import PyTree

__all__ = ["Bound", "Clip", "Shift", "clipped"]


class Bound:
    """Nothing. A model calls it with h(t), its whole state, and makes y(t) of the result."""

    def __call__(self, h: PyTree) -> PyTree:
        return h

    def part(self, number: int) -> "Bound":
        """What is done to one entry of a state that is a tuple."""
        return self

    def handed_on(self, state: PyTree) -> PyTree:
        """A state of which y(t) is not made, and in which nothing is recurrent: a delay line."""
        return state

    def output(self, y: PyTree) -> PyTree:
        """The y(t) of a step that does not show how it is made of h(t)."""
        return y


@dataclass(frozen=True)
class Clip(Bound):
    """The cotangent of h(t) is bounded."""

    bound: float

    def __call__(self, h: PyTree) -> PyTree:
        return clip_cotangent(self.bound, h)

    def output(self, y: PyTree) -> PyTree:
        return clip_cotangent(self.bound, y)


@dataclass(frozen=True)
class Shift(Bound):
    """Something is added to the floating leaves of h(t), and then `outer` is done."""

    by: Any
    outer: Bound

    def __call__(self, h: PyTree) -> PyTree:
        return self.outer(self.handed_on(h))

    def part(self, number: int) -> Bound:
        return Shift(self.by[number], self.outer.part(number))

    def handed_on(self, state: PyTree) -> PyTree:
        return jax.tree.map(lambda s, d: s + d if is_inexact(s) else s, state, self.by)

    def output(self, y: PyTree) -> PyTree:
        return self.outer.output(y)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def clip_cotangent(bound: float, tree: PyTree) -> PyTree:
    """The identity, whose cotangent is clipped."""
    return tree


def _clip_cotangent_bwd(bound: float, _: None, cotangent: PyTree) -> tuple[PyTree]:
    clip = lambda c: c if c.dtype == jax.dtypes.float0 else clipped(c, bound)
    return (jax.tree.map(clip, cotangent),)


clip_cotangent.defvjp(lambda bound, tree: (tree, None), _clip_cotangent_bwd)


def clipped(lam: jax.Array, bound: float) -> jax.Array:
    """With elements of `bound` at most; complex ones by their modulus."""
    if not jnp.iscomplexobj(lam):
        return jnp.clip(lam, -bound, bound)
    size = jnp.abs(lam)
    return lam * jnp.where(size > bound, bound / jnp.maximum(size, bound), 1).astype(lam.dtype)
