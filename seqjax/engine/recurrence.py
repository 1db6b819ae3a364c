"""What the loops over time run: a recurrence, traced once, and what is special about its steps."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import lax

from seqjax import _checks
from seqjax.ops._jax import (
    Primitive,
    ad,
    batching,
    explicit_mesh,
    mlir,
    on_mesh,
    vary_over,
    varying_axes,
    zero_tangent,
)
from seqjax.ops.rows import is_half, spread, wide_dtype
from seqjax.ops.stage import Staged, stage

__all__ = [
    "Recurrence",
    "Steps",
    "Traced",
    "WholeStep",
    "at_step",
    "clipped",
    "cut",
    "fill",
    "one_by_one",
    "over_steps",
    "plain_scan",
    "select",
    "trace",
    "vary_with",
    "widened",
]

Tree = Any


class Recurrence(Protocol):
    """The functions the recursion needs; `seqjax.Cell` says what each one means."""

    @property
    def preactivate(self) -> Callable: ...
    @property
    def activate(self) -> Callable: ...
    @property
    def activate_vjp(self) -> Callable | None: ...
    @property
    def preactivate_vjp(self) -> Callable | None: ...


@dataclass(frozen=True)
class WholeStep:
    """The recurrence whose pre-activation is the whole step."""

    preactivate: Callable
    preactivate_vjp: None = None

    @staticmethod
    def activate(z, h_prev):
        return z

    @staticmethod
    def activate_vjp(z, h_prev, h, dh):
        return dh, None


@dataclass(frozen=True, eq=False)
class Traced:
    """A recurrence whose functions close over nothing; a static value, equal to itself alone.

    Its pre-activation reads `weights`: what it closed over, and the parameters.
    """

    rec: Recurrence
    staged: Staged  # the pre-activation
    activate: Callable
    forward: Staged  # (h(t-1), u(t)) to (z(t), h(t)), nothing cut: what the forward pass runs

    @property
    def closed_over(self) -> list:
        return self.staged.closed_over

    def preactivate(self, weights, h_prev, u_t):
        return self.staged.rest(self.staged.once(*weights), [], h_prev, u_t)


def trace(rec: Recurrence, params: Tree, h_prev: Tree, h_t: Tree, u_t: Tree) -> Traced:
    """Traces the functions of one step; only the types of the last four are used."""

    def preactivate(params, _, h_prev, u_t):
        return rec.preactivate(params, h_prev, u_t)

    def activate(z_t, h_prev):
        return _checks.tree("the state that activate returns", rec.activate(z_t, h_prev), h_t)

    def step(params, _, h_prev, u_t):
        z_t = rec.preactivate(params, h_prev, u_t)
        return z_t, activate(z_t, h_prev)

    staged = stage(preactivate, params, (), h_prev, u_t)
    # What the forward pass computes is differentiated in the gradient of a gradient alone, and
    # there nothing is cut.
    forward = stage(step, params, (), h_prev, u_t, without=_cut)
    known = {id(a) for a in staged.closed_over}
    if any(_is_differentiable(a) and id(a) not in known for a in forward.closed_over):
        # `activate` has no place for what it closes over, the pre-activation has.
        whole = WholeStep(lambda params, h_prev, u_t: step(params, (), h_prev, u_t)[1])
        return trace(whole, params, h_prev, h_t, u_t)
    return Traced(rec, staged, activate, forward)


def _is_differentiable(array) -> bool:
    return isinstance(array, jax.core.Tracer) and jnp.issubdtype(array.dtype, jnp.inexact)


class Steps(NamedTuple):
    """What is special about single time steps: bool [T] each, or None where nothing is.

    Attributes:
      valid: False at padding.
      reset: where the state is the initial one again before the step.
      cut: where no gradient goes from the step to the one before (truncation).
    """

    valid: jax.Array | None = None
    reset: jax.Array | None = None
    cut: jax.Array | None = None


def select(which, a: Tree, b: Tree) -> Tree:
    """`a` where `which` (a bool scalar) holds, else `b`; `b` as it is if `which` is None."""
    if which is None:
        return b
    return jax.tree.map(lambda x, y: jnp.where(which, x, y), a, b)


def cut(value: Tree, *, again: bool = False) -> Tree:
    """The identity, with a derivative of zero.

    Not `lax.stop_gradient`: that would cut the derivative of a *gradient* too, and second
    order would silently be wrong.

    Args:
      value: a pytree.
      again: whether the result may be cut a second time. Its derivative is then a zero that
        counts as one, for what has none is cut in the next order.
    """
    inexact = lambda a: jnp.issubdtype(a.dtype, jnp.inexact)
    return jax.tree.map(lambda a: _cut.bind(a, again=again) if inexact(a) else a, value)


_cut = Primitive("cut")
_cut.def_impl(lambda a, again: a)
_cut.def_abstract_eval(lambda a, again: a)
mlir.register_lowering(_cut, lambda ctx, a, again: [a])


def _batch_cut(operands, axes, again):
    return _cut.bind(*operands, again=again), axes[0]


batching.primitive_batchers[_cut] = _batch_cut


def _jvp_cut(primals, tangents, again):
    (a,) = primals  # itself, not cut once more: whoever differentiates this sees the identity
    return a, jnp.zeros_like(a) if again else zero_tangent(a)


ad.primitive_jvps[_cut] = _jvp_cut


def at_step(series: Tree, t: int) -> Tree:
    """One time step of a series."""
    return jax.tree.map(lambda a: a[t], series)


def harmless(leaf: jax.Array) -> jax.Array:
    """Numbers at which the functions that people write have derivatives: not 0, not 1."""
    if jnp.issubdtype(leaf.dtype, jnp.inexact):
        return jnp.full_like(leaf, 0.5)
    return leaf


def fill(valid: jax.Array | None, series: Tree) -> Tree:
    """The series with its first valid step in the place of every invalid one.

    What is computed there is not used, and its cotangent is zero; but zero times the infinite
    derivative that a function may have at an arbitrary place would be NaN.
    """
    if valid is None:
        return series
    first, some = jnp.argmax(valid), jnp.any(valid)

    def filled(a):
        instead = cut(select(some, a[first], harmless(a[first])))
        return jax.vmap(select, (0, 0, None))(valid, a, instead)

    return jax.tree.map(filled, series)


def over_steps(function: Callable, params: Tree, *series: Tree) -> Tree:
    """`function(params, *step)` at all steps of some series, in parallel.

    A vector of parameters in half precision is repeated by an operation that sums its gradient
    over time and batch in float32, however `function` uses it.
    """
    like, time = jax.tree.leaves(series)[0], jax.tree.leaves(series)[0].shape[0]
    axes = jax.tree.map(lambda leaf: 0 if _is_half_vector(leaf) else None, params)
    params = jax.tree.map(lambda a: spread(a, like, time) if _is_half_vector(a) else a, params)
    return jax.vmap(function, (axes, *(0 for _ in series)))(params, *series)


def one_by_one(step: Callable, params: Tree) -> Callable:
    """`step(params, state, x)` of one step after the other; gradients are summed as above."""
    wide, narrow = widened(params)

    def at(state, x):
        like = jax.tree.leaves(x)[0]
        spread_out = lambda a: spread(a, like) if _is_half_vector(a) else a
        return step(jax.tree.map(spread_out, narrow(wide)), state, x)

    return at


def _is_half_vector(leaf: jax.Array) -> bool:
    return is_half(leaf.dtype) and leaf.ndim <= 1


def vary_with(tree: Tree, others: Tree) -> Tree:
    """`tree` as the carry of a loop that reads `others`: its type has the axes of theirs.

    Inside `shard_map` it varies wherever a leaf of it or of `others` does; on a mesh with explicit
    axes it lies on that mesh.
    """
    leaves = jax.tree.leaves((tree, others))
    axes, mesh = frozenset().union(*map(varying_axes, leaves)), explicit_mesh(*leaves)
    return jax.tree.map(lambda a: vary_over(axes, on_mesh(mesh, a)), tree)


def widened(tree: Tree) -> tuple[Tree, Callable[[Tree], Tree]]:
    """What a loop reads at every step, in float32 if it has half of that, and the way back.

    Its gradient is a sum over the steps, which JAX forms in the dtype of what the loop reads.
    """

    def wide(a):
        return a.astype(wide_dtype(a.dtype)) if is_half(a.dtype) else a

    def narrow(wide):
        return jax.tree.map(lambda w, a: w.astype(a.dtype) if is_half(a.dtype) else w, wide, tree)

    return jax.tree.map(wide, tree), narrow


def plain_scan(step: Callable, state, start, inputs, steps: Steps, clip=None) -> tuple[Tree, Tree]:
    """A `lax.scan` of `step(state, inputs at t) -> (state, y)`, for JAX to differentiate."""
    state, start = vary_with((state, start), (inputs, steps))
    start, narrow = widened(start)
    bounded = (lambda h: h) if clip is None else partial(_clip_cotangent, clip)

    def body(h_prev, at_t):
        inputs_t, (valid_t, reset_t, cut_t) = at_t
        if cut_t is not None:
            h_prev = select(cut_t, cut(h_prev), h_prev)
        entering = select(reset_t, narrow(start), h_prev)
        if valid_t is None:
            h_t, y_t = step(entering, inputs_t)
            h_t = bounded(h_t)
            return h_t, y_t
        # Zero times an infinite derivative would be NaN.
        h_t, y_t = step(select(valid_t, entering, jax.tree.map(harmless, entering)), inputs_t)
        return select(valid_t, bounded(h_t), entering), y_t

    return lax.scan(body, state, (inputs, steps))


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _clip_cotangent(bound, tree):
    return tree


def _clip_cotangent_bwd(bound, _, cotangent):
    clip = lambda c: c if c.dtype == jax.dtypes.float0 else clipped(c, bound)
    return (jax.tree.map(clip, cotangent),)


_clip_cotangent.defvjp(lambda bound, tree: (tree, None), _clip_cotangent_bwd)


def clipped(lam: jax.Array, bound: float) -> jax.Array:
    """With elements of `bound` at most; complex ones by their modulus."""
    if not jnp.iscomplexobj(lam):
        return jnp.clip(lam, -bound, bound)
    size = jnp.abs(lam)
    return lam * jnp.where(size > bound, bound / jnp.maximum(size, bound), 1).astype(lam.dtype)
