"""Zoneout: in training, elements of the state keep their value of the step before, at random."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from seqjax import _checks
from seqjax._static import call_of, static_partial
from seqjax._tree import is_inexact
from seqjax._types import Activate, ActivateVJP, Coefficients, Draw, Key, Project, PyTree
from seqjax.engine.per_model import params_spec
from seqjax.models.cell import Cell

__all__ = ["zoneout"]

Rates = tuple[float, ...]  # of the leaves of the state, in their order


def zoneout(cell: Cell, rate: PyTree) -> "Zoneout":
    """Zoneout around a cell: elements of its state keep their last value at random, in training.

        h(t) = m(t) ∘ h(t-1) + (1 - m(t)) ∘ h'(t),  m(t) ~ Bernoulli(rate)    with a key
        h(t) = rate h(t-1) + (1 - rate) h'(t)                                 without

    with h'(t) what the cell computes of h(t-1). y(t) is read from h(t). An infinite element of
    h(t-1), as m(-1) of `sj.slstm` is, is not kept. A key means training:
    `sj.unroll(model, params, xs, key=key)`. An affine cell stays one.

    Args:
      cell: an `sj.Cell`, such as `sj.lstm`.
      rate: the probability that an element keeps its value, in [0, 1]: a number, for all floating
        leaves of the state, or a tree like the state with a number per leaf,
        `sj.LSTMState(h=0.05, c=0.5)`.

    Returns:
      A cell with the params and the state of `cell`.

    Raises:
      TypeError, ValueError: not a cell; a rate that is none; a tree unlike the state; or a rate
        above 0 for a leaf of the state that is not floating.

    References:
      Krueger et al. 2017, Zoneout, arXiv:1606.01305.

    >>> import jax, jax.numpy as jnp, seqjax as sj
    >>> cell = sj.zoneout(sj.lstm(3, 4), sj.LSTMState(h=0.05, c=0.5))
    >>> params, key = cell.init(jax.random.key(0)), jax.random.key(1)
    >>> state, ys = sj.unroll(cell, params, jnp.ones((10, 3)), key=key)
    >>> ys.shape
    (10, 4)
    """
    _checks.instance("cell", cell, Cell, "an sj.Cell, which shows how its state is made")
    state = jax.eval_shape(cell.initial_state, params_spec(cell))
    rates, shapes = _rates(rate, state), tuple(leaf.shape for leaf in jax.tree.leaves(state))
    functions: dict[str, Any] = {
        "draw": static_partial(_draw, cell.draw, rates, shapes),
        "project": static_partial(_project, cell.project, cell.draw is not None),
    }
    if cell.coefficients is not None:
        functions["coefficients"] = static_partial(_coefficients, cell.coefficients, rates)
    else:
        functions |= {
            "preactivate": static_partial(_preactivate, cell.preactivate),
            "activate": static_partial(_activate, cell.activate, rates),
            "activate_vjp": static_partial(_activate_vjp, cell.activate, cell.activate_vjp, rates),
        }
        if cell.preactivate_vjp is not None:
            functions["preactivate_vjp"] = static_partial(_preactivate_vjp, cell.preactivate_vjp)
    kept = {f.name: getattr(cell, f.name) for f in dataclasses.fields(Cell) if f.name[0] != "_"}
    if cell.coefficients is not None:  # what is derived from them
        for name in ("preactivate", "activate"):
            kept.pop(name)
    return Zoneout(**kept | functions, cell=cell, rates=rates)


@dataclass(frozen=True, kw_only=True, repr=False)
class Zoneout(Cell):
    """See `zoneout`."""

    cell: Cell
    rates: Rates

    @property
    def call(self) -> static_partial:
        state = jax.eval_shape(self.cell.initial_state, params_spec(self.cell))
        same = set(self.rates) == {self.rates[0]}
        tree = jax.tree.unflatten(jax.tree.structure(state), self.rates)
        return call_of(zoneout, self.cell, self.rates[0] if same else tree)


def _rates(rate: Any, state: PyTree) -> Rates:
    leaves = jax.tree_util.tree_leaves_with_path(state)
    if isinstance(rate, (bool, int, float)):
        rate = _checks.rate("rate", rate, below_one=False)
        return tuple(rate if is_inexact(leaf) else 0.0 for _, leaf in leaves)
    structure: Any = jax.tree.structure(rate)
    if structure != jax.tree.structure(state):
        raise ValueError(_checks.mismatch(*_checks.difference("rate", state, rate)))
    found = []
    for (path, leaf), given in zip(leaves, jax.tree.leaves(rate), strict=True):
        name = "rate" + jax.tree_util.keystr(path)
        found.append(_checks.rate(name, given, below_one=False))
        if found[-1] and not is_inexact(leaf):
            expected = f"0, since the state has {_checks.describe(leaf)} there"
            raise ValueError(_checks.mismatch(name, expected, given))
    return tuple(found)


def _draw(
    draw: Draw | None, rates: Rates, shapes: tuple[tuple[int, ...], ...], key: Key | None
) -> tuple[PyTree, tuple]:
    """(what the cell draws, m(t) of the leaves that have one); no m(t) in evaluation."""
    if key is None:
        return None if draw is None else draw(None), ()
    drawn = None if draw is None else draw(jax.random.fold_in(key, 0))
    keys = jax.random.split(jax.random.fold_in(key, 1), len(rates))
    pairs = zip(keys, rates, shapes, strict=True)
    return drawn, tuple(jax.random.bernoulli(k, r, s) if r else None for k, r, s in pairs)


def _mixed(rates: Rates, masks: tuple, old: PyTree, new: PyTree, kept: PyTree = None) -> PyTree:
    """What m ∘ old + (1 - m) ∘ new is, with the rates in the place of m in evaluation.

    But m is 0 where what is kept is infinite.
    """
    leaves, structure = jax.tree.flatten(new)
    masks = masks or (None,) * len(rates)
    mixed = []
    kept = jax.tree.leaves(old if kept is None else kept)
    for rate, m, a, b, k in zip(rates, masks, jax.tree.leaves(old), leaves, kept, strict=True):
        if rate:
            both = rate * a + (1 - rate) * b if m is None else jnp.where(m, a, b)
            b = jnp.where(jnp.isinf(k), b, both)
        mixed.append(b)
    return jax.tree.unflatten(structure, mixed)


# u(t) and z(t) are those of the cell, and the masks beside them.
def _project(project: Project, draws: bool, params: PyTree, x: PyTree, drawn: tuple) -> tuple:
    of_cell, masks = drawn
    return project(params, x, *([of_cell] if draws else [])), masks


def _preactivate(preactivate: Any, params: PyTree, h_prev: PyTree, u: tuple) -> tuple:
    return preactivate(params, h_prev, u[0]), u[1]


def _preactivate_vjp(
    rule: Any, params: PyTree, h_prev: PyTree, u: tuple, z: tuple, dz: tuple
) -> PyTree:
    return rule(params, h_prev, u[0], z[0], dz[0])


def _activate(activate: Activate, rates: Rates, z: tuple, h_prev: PyTree) -> PyTree:
    return _mixed(rates, z[1], h_prev, activate(z[0], h_prev))


def _activate_vjp(
    activate: Activate,
    rule: ActivateVJP | None,
    rates: Rates,
    z: tuple,
    h_prev: PyTree,
    h: PyTree,
    dh: PyTree,
) -> tuple[tuple, PyTree]:
    z, masks = z
    nothing = jax.tree.map(_nothing, dh)
    d_new, d_old = (
        _mixed(rates, masks, *pair, kept=h_prev) for pair in ((nothing, dh), (dh, nothing))
    )
    new = activate(z, h_prev)
    if rule is None:
        dz, through_new = jax.vjp(activate, z, h_prev)[1](d_new)
    else:
        dz, through_new = rule(z, h_prev, new, d_new)
    if through_new is None:  # of a cell whose gradient does not cross a step
        return (dz, masks), d_old
    return (dz, masks), jax.tree.map(_sum, through_new, d_old)


# The cotangents of integers, of float0, are not added.
def _nothing(d: jax.Array) -> jax.Array:
    return d if d.dtype == jax.dtypes.float0 else jnp.zeros_like(d)


def _sum(a: jax.Array, b: jax.Array) -> jax.Array:
    return b if b.dtype == jax.dtypes.float0 else a + b


def _coefficients(coefficients: Coefficients, rates: Rates, z: tuple) -> tuple[PyTree, PyTree]:
    """Of h' = a h + b, which gives h(t) = (m + (1 - m) a) h + (1 - m) b."""
    a, b = coefficients(z[0])
    ones, zeros = jax.tree.map(jnp.ones_like, a), jax.tree.map(jnp.zeros_like, b)
    return _mixed(rates, z[1], ones, a), _mixed(rates, z[1], zeros, b)
