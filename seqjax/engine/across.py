"""A series that lies on several devices, a part of it on each: what one hands to the next.

Device k of n holds a part of the steps of h(t) = a(t) ∘ h(t-1) + b(t). Let p_k be the product of
its a(t), and l_k the state that it ends in if nothing enters from the devices before it. Then e_k
enters, by a recurrence of the same kind over devices:

    e_0 = 0,  e_{k+1} = p_k ∘ e_k + l_k

The adjoint λ(t-1) = ∂L/∂h(t-1) + a(t) ∘ λ(t) is such a recurrence too, from the last device to the
first. Each device tells the others its p and l once, whatever the number of steps.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from seqjax import _checks
from seqjax._messages import clip
from seqjax._tree import where
from seqjax._types import PyTree
from seqjax.engine.cotangents import add, zeros
from seqjax.engine.recurrence import vary_with
from seqjax.ops._jax import axes_of, varying_axes

__all__ = [
    "Across",
    "check_common",
    "check_divisible",
    "check_undivided",
    "entered",
    "of_first",
    "of_last",
    "place",
]

End = Callable[[list, list, list], list]  # of a [T, …] or [...], b [T, …] and h(-1): h(T-1)


class Across(NamedTuple):
    """The devices that a series lies on.

    Attributes:
      axis: the name of their axis, of the mesh of a `shard_map`.
      reverse: whether the last device holds the steps that are processed first.
    """

    axis: str
    reverse: bool

    @property
    def backward(self) -> "Across":
        return self._replace(reverse=not self.reverse)

    @property
    def number(self) -> jax.Array:
        """k, of the device that this runs on."""
        k = lax.axis_index(self.axis)
        return lax.axis_size(self.axis) - 1 - k if self.reverse else k


def entered(across: Across, end: End, a: list, b: list, state: list) -> list:
    """What the steps of this device start from: `state`, given from outside, and e_k.

    `end(a, b, state)` is the state after them: l_k, or p_k if ones enter and b is zero.
    """
    ones = [jnp.ones_like(h) for h in state]
    products = end(a, vary_with(zeros(b), b), vary_with(ones, (a, b, state)))
    pairs = [jnp.stack(pair) for pair in zip(products, end(a, b, state), strict=True)]
    pairs = [lax.all_gather(pair, across.axis) for pair in pairs]
    pairs = [jnp.flip(pair, 0) for pair in pairs] if across.reverse else pairs

    def device(e: list, pair: list) -> tuple[list, list]:
        return [p * e + end for (p, end), e in zip(pair, e, strict=True)], e

    _, each = lax.scan(device, vary_with(zeros(state), (a, b, state)), pairs)
    e = [lax.dynamic_index_in_dim(e, across.number, keepdims=False) for e in each]
    return add(state, e)


def of_first(across: Across, state: list) -> list:
    """The state on the first device, zero on the others, which it enters by way of the first."""
    return where(across.number == 0, state, zeros(state))


def of_last(across: Across, state: list) -> list:
    """The state of the last device, on all of them."""
    last = lax.axis_size(across.axis) - 1
    return lax.psum(where(across.number == last, state, zeros(state)), across.axis)


def place(axis: str | None, xs: PyTree, time: int) -> tuple[Any, int]:
    """The number of the first step of this device, None if it has all, and that of all steps."""
    if axis is None:
        return None, time
    try:
        number, size = lax.axis_index(axis), lax.axis_size(axis)
    except NameError:
        names = ", ".join(map(repr, jax.sharding.get_abstract_mesh().axis_names)) or "none here"
        expected = f"the name of a mesh axis of the jax.shard_map that unroll runs in ({names})"
        raise ValueError(_checks.mismatch("over", expected, repr(axis))) from None
    # Of a `shard_map` that does not check replication, nothing is known to vary.
    if axis in varying_axes(number) and not any(
        axis in varying_axes(x) for x in jax.tree.leaves(xs)
    ):
        expected = f"a part of the series on each device (in_specs: PartitionSpec({axis!r}))"
        raise ValueError(_checks.mismatch("xs", expected, "the same on all of them"))
    return number * time, size * time


def check_common(axis: str, **whole: PyTree) -> None:
    """Refuses what is of the whole series and yet another one on each device, if that is known."""
    for name, leaves in whole.items():
        if any(axis in varying_axes(leaf) for leaf in jax.tree.leaves(leaves)):
            expected = "what is the same on all devices, as it is that of the whole series"
            got = f"another one on each along {axis!r} (in_specs: PartitionSpec() is one for all)"
            raise ValueError(_checks.mismatch(name, expected, got))


def check_undivided(**series: PyTree) -> None:
    """Refuses series whose steps an explicit mesh axis splits, which JAX refuses to slice."""
    for name, leaves in series.items():
        for path, leaf in jax.tree_util.tree_leaves_with_path(leaves):
            axis = axes_of(leaf)[0]
            if axis is not None:
                over = f"BPTT(over={axis!r}) in a jax.shard_map does that, for affine cells"
                expected = f"a series whose steps are not split over devices ({over})"
                got = f"{_checks.describe(leaf)}, split over {axis!r}"
                where = name + jax.tree_util.keystr(path)
                raise ValueError(_checks.mismatch(where, expected, got))


def check_divisible(model: Any, over: str) -> None:
    """Refuses to split time, where more goes from step to step than the states of affine cells."""
    for part in model.parts.values():
        check_divisible(part, over)
    if not model.divisible:
        linear = "each part is linear in its state (sj.lru, any cell with `coefficients`)"
        expected = f"None, or a model of which {linear} or has none"
        given = (
            f"{over!r} for {clip(repr(model), 60)}: split the batch over devices instead, "
            "or run the series in pieces, each from the state that the one before ended in"
        )
        raise ValueError(_checks.mismatch("over", expected, given))
