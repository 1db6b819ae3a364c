"""What the loops over time run: a recurrence, traced once, and what is special about its steps."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp

from seqjax import _checks
from seqjax._tree import at_step, is_half, is_inexact, is_traced, length_of, where
from seqjax._types import Activate, ActivateVJP, Preactivate, PreactivateVJP, PyTree
from seqjax.ops._jax import explicit_mesh, on_mesh, vary_over, varying_axes
from seqjax.ops.hoist import Hoisted, hoist
from seqjax.ops.lookup import rows_at
from seqjax.ops.shift import spread
from seqjax.ops.zero_cotangent import PRIMITIVE as ZERO_COTANGENT
from seqjax.ops.zero_cotangent import zero_cotangent

__all__ = [
    "Recurrence",
    "StepRecurrence",
    "Steps",
    "Traced",
    "fill",
    "harmless",
    "over_steps",
    "placed_with",
    "spread_half_vectors",
    "trace",
    "vary_with",
    "zero_invalid",
]


class Recurrence(Protocol):
    """The functions the recursion needs; `seqjax.Cell` says what each one means."""

    @property
    def preactivate(self) -> Preactivate: ...
    @property
    def activate(self) -> Activate: ...
    @property
    def activate_vjp(self) -> ActivateVJP | None: ...
    @property
    def preactivate_vjp(self) -> PreactivateVJP | None: ...


@dataclass(frozen=True)
class StepRecurrence:
    """The recurrence whose pre-activation is the whole step."""

    preactivate: Preactivate
    preactivate_vjp: None = None

    @staticmethod
    def activate(z: PyTree, h_prev: PyTree) -> PyTree:
        return z

    @staticmethod
    def activate_vjp(z: PyTree, h_prev: PyTree, h: PyTree, dh: PyTree) -> tuple[PyTree, None]:
        return dh, None


class Steps(NamedTuple):
    """What is special about single time steps: [T] each, or None where nothing is.

    Attributes:
      valid: bool, False at padding.
      reset: bool, where the state is the initial one again before the step.
      cut: bool, where no gradient goes from the step to the one before (truncation).
      key: random keys, what the step draws from; None in evaluation.
    """

    valid: jax.Array | None = None
    reset: jax.Array | None = None
    cut: jax.Array | None = None
    key: jax.Array | None = None

    @property
    def without_key(self) -> "Steps":
        """For a recurrence whose draws are made: they are a part of its inputs."""
        return self._replace(key=None)


@dataclass(frozen=True, eq=False)
class Traced:
    """A recurrence whose functions close over nothing; a static value, compared by identity.

    Its pre-activation reads `weights`: what it closed over, and the parameters.
    """

    rec: Recurrence
    hoisted: Hoisted  # the pre-activation
    activate: Activate
    forward: Hoisted  # (h(t-1), u(t)) to (z(t), h(t)), nothing cut: what the forward pass runs

    @property
    def closed_over(self) -> list:
        return self.hoisted.closed_over

    def preactivate(self, weights: PyTree, h_prev: PyTree, u_t: PyTree) -> PyTree:
        return self.hoisted.rest(self.hoisted.once(*weights), [], h_prev, u_t)


def trace(rec: Recurrence, params: PyTree, h_prev: PyTree, h_t: PyTree, u_t: PyTree) -> Traced:
    """Traces the functions of one step; only the types of the last four are used."""

    def preactivate(params: PyTree, _: PyTree, h_prev: PyTree, u_t: PyTree) -> PyTree:
        return rec.preactivate(params, h_prev, u_t)

    def activate(z_t: PyTree, h_prev: PyTree) -> PyTree:
        return _checks.tree("the state that activate returns", rec.activate(z_t, h_prev), h_t)

    def step(params: PyTree, _: PyTree, h_prev: PyTree, u_t: PyTree) -> tuple[PyTree, PyTree]:
        z_t = rec.preactivate(params, h_prev, u_t)
        return z_t, activate(z_t, h_prev)

    hoisted = hoist(preactivate, params, (), h_prev, u_t)
    # Second order alone differentiates the forward pass, and there no derivative is to be zero:
    # it runs without `zero_cotangent`.
    forward = hoist(step, params, (), h_prev, u_t, without=ZERO_COTANGENT)
    known = {id(a) for a in hoisted.closed_over}
    if any(_is_differentiable(a) and id(a) not in known for a in forward.closed_over):
        # `activate` has no argument for what it closes over; the pre-activation has.
        whole = StepRecurrence(lambda params, h_prev, u_t: step(params, (), h_prev, u_t)[1])
        return trace(whole, params, h_prev, h_t, u_t)
    return Traced(rec, hoisted, activate, forward)


def _is_differentiable(array: jax.Array) -> bool:
    return is_traced(array) and is_inexact(array)


def over_steps(function: Callable, params: PyTree, *series: PyTree) -> PyTree:
    """`function(params, *step)` at all steps of some series, in parallel.

    A vector of parameters in half precision is repeated by an operation that sums its gradient
    over time and batch in float32, however `function` uses it.
    """
    axes = jax.tree.map(lambda leaf: 0 if _is_half_vector(leaf) else None, params)
    params = spread_half_vectors(params, at_step(series, 0), length_of(series))
    return jax.vmap(function, (axes, *(0 for _ in series)))(params, *series)


def spread_half_vectors(params: PyTree, x: PyTree, *time: int) -> PyTree:
    """The parameters, their half-precision vectors batched wherever `x`, one step's input, is."""
    like = jax.tree.leaves(x)[0]
    return jax.tree.map(lambda a: spread(a, like, *time) if _is_half_vector(a) else a, params)


def _is_half_vector(leaf: jax.Array) -> bool:
    return is_half(leaf.dtype) and leaf.ndim <= 1


def fill(valid: jax.Array | None, series: PyTree) -> PyTree:
    """The series with its first valid step in the place of every invalid one.

    What is computed there is not used, and its cotangent is zero; but zero times the infinite
    derivative that a function may have at an arbitrary place would be NaN.
    """
    if valid is None:
        return series
    first, some = jnp.argmax(valid), jnp.any(valid)

    def filled(a: jax.Array) -> jax.Array:
        one = rows_at(a, first)
        instead = zero_cotangent(where(some, one, harmless(one)))
        return jax.vmap(where, (0, 0, None))(valid, a, instead)

    return jax.tree.map(filled, series)


def zero_invalid(valid: jax.Array | None, series: PyTree) -> PyTree:
    """The series with zeros at invalid steps, in the value and in the cotangent."""
    if valid is None:
        return series
    return jax.vmap(lambda v, a: where(v, a, jax.tree.map(jnp.zeros_like, a)))(valid, series)


def harmless(leaf: jax.Array) -> jax.Array:
    """A value at which common functions have a derivative, neither 0 nor 1; the token 0."""
    if jnp.issubdtype(leaf.dtype, jnp.integer):
        return jnp.zeros_like(leaf)
    return jnp.full_like(leaf, 0.5) if is_inexact(leaf) else leaf


def placed_with(tree: PyTree, others: PyTree) -> PyTree:
    """`tree` on the mesh with explicit axes that a leaf of `others` lies on, if there is one."""
    mesh = explicit_mesh(*jax.tree.leaves(others))
    return tree if mesh is None else jax.tree.map(lambda a: on_mesh(mesh, a), tree)


def vary_with(tree: PyTree, others: PyTree) -> PyTree:
    """`tree` with the sharding type that a loop's carry needs when the loop reads `others`.

    Inside `shard_map` it varies wherever a leaf of it or of `others` does; on a mesh with explicit
    axes it lies on that mesh.
    """
    leaves = jax.tree.leaves((tree, others))
    axes: frozenset = frozenset().union(*map(varying_axes, leaves))
    mesh = explicit_mesh(*leaves)
    return jax.tree.map(lambda a: vary_over(axes, on_mesh(mesh, a)), tree)
