"""Comparison of two gradients, of any pytrees and any inexact dtypes."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from seqjax._messages import LIMIT, clip, difference, mismatch
from seqjax._tree import is_inexact
from seqjax._types import PyTree


class Tolerance(NamedTuple):
    """How far two gradients may be apart.

    Attributes:
      rtol: the hand-written gradient against autodiff, relative to the largest element.
      eps: the step of finite differences.
      difference_atol, difference_rtol: the hand-written gradient against finite differences.
    """

    rtol: float
    eps: float
    difference_atol: float
    difference_rtol: float


TOLERANCES = {
    "float64": Tolerance(1e-10, 1e-6, 1e-5, 1e-3),
    "float32": Tolerance(1e-4, 1e-2, 2e-3, 2e-2),
}


def normal(spec: PyTree, rng: np.random.Generator, *leading: int) -> PyTree:
    """Normal random numbers for inexact leaves, zeros and ones for integers; zeros for others."""

    def draw(leaf: Any) -> jax.Array:
        shape = (*leading, *leaf.shape)
        if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
            parts = rng.standard_normal((2, *shape))
            return jnp.asarray(parts[0] + 1j * parts[1], leaf.dtype)
        if is_inexact(leaf):
            return jnp.asarray(rng.standard_normal(shape), leaf.dtype)
        if jnp.issubdtype(leaf.dtype, jnp.integer):
            return jnp.asarray(rng.integers(0, 2, shape), leaf.dtype)
        return jnp.zeros(shape, leaf.dtype)

    return jax.tree.map(draw, spec)


def check_differences(
    case: str, f: Callable, at: tuple, hand: tuple, names: tuple, tolerance: Tolerance
) -> None:
    """Central differences: along one random direction in all leaves, by chex; if that fails,
    leaf by leaf, to name the one that is off.
    """
    leaves, structure = jax.tree.flatten(at)
    places = [number for number, leaf in enumerate(leaves) if is_inexact(leaf)]
    _, eps, atol, rtol = tolerance

    @jax.jit
    def of_inexact(*values: jax.Array) -> jax.Array:
        changed = dict(zip(places, values, strict=True))
        return f(
            *jax.tree.unflatten(structure, [changed.get(n, leaf) for n, leaf in enumerate(leaves)])
        )

    point = tuple(leaves[number] for number in places)
    try:
        chex.assert_numerical_grads(
            of_inexact,
            point,
            order=1,
            atol=atol / max(point[0].size, 1),  # chex multiplies it by the size of the first leaf
            rtol=rtol,
            eps=eps,
            modes=("rev",),
        )
    except AssertionError as error:
        rng, off = np.random.default_rng(0), []
        for place, number in enumerate(places):
            path = _with_paths(at)[number][0]
            direction = normal(leaves[number], rng)
            there, back = (
                of_inexact(*point[:place], leaves[number] + step * direction, *point[place + 1 :])
                for step in (eps, -eps)
            )
            slope = float(there - back) / (2 * eps)
            ours = float(jnp.real(jnp.sum(jax.tree.leaves(hand)[number] * direction)))
            if not abs(ours - slope) <= atol + rtol * abs(slope):
                leaf = names[path[0].idx] + jax.tree_util.keystr(path[1:])
                off.append(f"d {leaf}: BPTT {ours:.6g}, differences {slope:.6g}")
        message = f"BPTT against finite differences, {case}: {'; '.join(off) or error}"
        raise AssertionError(clip(message, LIMIT)) from error


def compare(name: str, hand: PyTree, auto: PyTree, over_time: bool, rtol: float) -> None:
    """Relative to the largest element of a leaf; names the leaf and time that are off most."""
    structure: Any = jax.tree.structure(auto)
    if jax.tree.structure(hand) != structure:
        raise AssertionError(mismatch(*difference(name, auto, hand)))
    for (path, ours), (_, theirs) in zip(_with_paths(hand), _with_paths(auto), strict=True):
        if theirs.dtype == jax.dtypes.float0:
            continue
        leaf = name + jax.tree_util.keystr(path)
        if ours.shape != theirs.shape:
            expected = f"shape {theirs.shape}"
            raise AssertionError(mismatch(leaf, expected, str(ours.shape)))
        ours, theirs = np.asarray(ours), np.asarray(theirs)
        error = np.abs(ours - theirs) / max(np.abs(theirs).max(initial=0), 1e-30)
        if not ours.size or bool((error <= rtol).all()):  # a NaN is not within anything
            continue
        index = np.unravel_index(np.argmax(np.where(np.isnan(error), np.inf, error)), error.shape)
        place = f"at t={index[0]}" + (f", element {list(map(int, index[1:]))}" if index[1:] else "")
        place = place if over_time else f"element {list(map(int, index))}"
        raise AssertionError(
            f"{clip(leaf, LIMIT - 200)} {place} is off: by hand {ours[index]:.6g}, "
            f"autodiff {theirs[index]:.6g}, relative error {error[index]:.1e}"
        )


def _with_paths(tree: PyTree) -> list:
    return jax.tree_util.tree_leaves_with_path(tree)
