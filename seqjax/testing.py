"""Gradient checks for cells: hand-written rules, autodiff and finite differences agree."""

import warnings
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.random import Generator

from seqjax import _checks
from seqjax._gradients import (
    TOLERANCES,
    Tolerance,
    check_differences,
    compare,
    normal,
)
from seqjax._messages import LIMIT, clip
from seqjax._tree import at_step, cast, is_inexact
from seqjax._types import Key, PyTree
from seqjax.engine.adjoint import BPTT, Adjoint
from seqjax.engine.autodiff import Autodiff
from seqjax.engine.cotangents import inexact
from seqjax.engine.model import Model
from seqjax.engine.schedule import STORES
from seqjax.engine.unroll import unroll
from seqjax.models.cell import Cell
from seqjax.ops._jax import uses

__all__ = ["check_cell"]


def check_cell(
    model: Model, x: PyTree = None, *, draws: int = 4, steps: int = 6, seed: int = 0
) -> None:
    """Checks the gradients of a cell, or of any other model; in float64 if it can run in it.

    First every hand-written rule is held against `jax.vjp` at each time step of a random
    series. Then, for random lengths, masks, resets, directions, chunks and storage policies, the
    gradient of a random function of all outputs and the final state, to parameters, inputs and
    initial state: `BPTT` against `Autodiff`, and against central finite differences (but for
    `elman` and `jordan`, whose gradient is cut by definition). A model that draws is checked with
    random keys, and without.

    Built-in models, whatever their dtype, are checked in float64 by their `astype`. A model that
    insists on float32 (its functions call a built-in cell's `step`, say) is checked in float32,
    with wider tolerances, and a warning says so.

    Args:
      model: the model. Complex parameters, inputs and states are checked too.
      x: one input (an array, or a pytree of them; values are ignored), for a model that does not
        say what it reads.
      draws: how many random cases.
      steps: the length of the longest series.
      seed: of the random numbers; the same seed checks the same cases.

    Raises:
      AssertionError: a gradient is off; names the rule and leaf, where it can be told the time,
        and by how much.
      TypeError, ValueError: an argument is not as described, or the model does not run. A model
        that insists on half precision proves nothing.

    >>> import jax.numpy as jnp, seqjax as sj
    >>> sj.testing.check_cell(sj.gru(3, 2), draws=1)
    """
    _checks.instance("model", model, Model, "a seqjax model")
    draws, steps = _checks.size("draws", draws), _checks.size("steps", steps)
    spec = model.input_spec if x is None else x
    spec = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), _checks.arrays("x", spec))
    if not jax.tree.leaves(spec):
        expected = "an example of one input, since the model does not say what it reads"
        raise ValueError(_checks.mismatch("x", expected, _checks.describe(x)))
    try:
        with jax.enable_x64(True):
            wide, x = model.astype(jnp.float64), cast(spec, jnp.float64)
            return _check(wide, x, TOLERANCES["float64"], draws, steps, seed)
    except (TypeError, ValueError) as error:
        refusal = error
    dtypes = _dtypes(model, spec)
    if not dtypes <= {"float32", "float64"}:
        given = f"{', '.join(sorted(dtypes))} (in float64: {refusal})"
        raise TypeError(_checks.mismatch("model", "one that runs in float64 or float32", given))
    own = "float32" if "float32" in dtypes else "float64"
    _check(model, spec, TOLERANCES[own], draws, steps, seed)
    if own == "float32":
        message = f"check_cell: checked in float32, since the model refuses float64: {refusal}"
        warnings.warn(clip(message, LIMIT), stacklevel=2)


def _dtypes(model: Model, x: PyTree) -> set[str]:
    """The names of the real dtypes that a model computes with."""
    params = jax.eval_shape(lambda: model.init(jax.random.key(0)))
    state = jax.eval_shape(model.initial_state, params)
    real = {"complex64": "float32", "complex128": "float64"}
    names = [str(leaf.dtype) for leaf in inexact((params, state, x))]
    return {real.get(name, name) for name in names}


def _check(
    model: Model, x: PyTree, tolerance: Tolerance, draws: int, steps: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    for cell, name, x_of_cell in _cells(model, x):
        for training in (False, True) if cell.stochastic else (False,):
            _check_rules(cell, name, x_of_cell, steps, training, tolerance, rng)
    for draw in range(draws):
        time = (steps, 1, *rng.integers(1, steps + 1, size=draws))[draw]
        _check_unroll(model, x, int(time), tolerance, rng)


def _cells(model: Model, x: PyTree, name: str = "") -> Iterator[tuple[Cell, str, PyTree]]:
    """The cells of a model that have rules of their own: where each stands, what it reads.

    Of models of models only those are gone into whose inputs are known.
    """
    for number, (part, inner) in enumerate(model.parts.items()):
        reads = x if number == 0 and inner.input_spec is None else inner.input_spec
        yield from _cells(inner, reads, f"{name}{part}.")
    if isinstance(model, Cell) and x is not None:
        yield model, name, x


def _disturbed(tree: PyTree, scale: float, rng: Generator, *leading: int) -> PyTree:
    """The tree plus noise, with leading axes, so that no zero in it hides anything."""

    def disturb(leaf: jax.Array) -> jax.Array:
        leaf = jnp.broadcast_to(leaf, (*leading, *leaf.shape))
        return leaf + scale * normal(leaf, rng) if is_inexact(leaf) else leaf

    return jax.tree.map(disturb, tree)


def _cotangent(primal: PyTree, rng: Generator) -> PyTree:
    def draw(leaf: jax.Array) -> Any:
        none = np.zeros(leaf.shape, jax.dtypes.float0)
        return normal(leaf, rng) if is_inexact(leaf) else none

    return jax.tree.map(draw, primal)


def _random_params(model: Model, rng: Generator) -> PyTree:
    return _disturbed(model.init(_key(rng)), 0.1, rng)


def _key(rng: Generator) -> Key:
    return jax.random.key(int(rng.integers(2**31)))


def _state(model: Model, params: PyTree, x: PyTree, rng: Generator) -> PyTree:
    """A state that the model may be in, and not its first one.

    Noise alone need not be such a state: a normalizer is positive, and a running maximum begins at
    -∞, from which no noise leads away. A step from there leads to one.
    """
    noise = _disturbed(model.initial_state(params), 1.0, rng)
    return unroll(model, params, normal(x, rng, 1), noise)[0]


def _check_rules(
    cell: Cell,
    name: str,
    x: PyTree,
    time: int,
    training: bool,
    tolerance: Tolerance,
    rng: Generator,
) -> None:
    params = _random_params(cell, rng)
    keys = jax.random.split(_key(rng), time) if training else None

    def forward(h_prev: PyTree, x: PyTree, key: Key | None) -> tuple[PyTree, PyTree, PyTree]:
        u = cell.project_step(params, (x, key))
        z = cell.preactivate(params, h_prev, u)
        return u, z, cell.activate(z, h_prev)

    start = _disturbed(cell.initial_state(params), 1.0, rng, time)
    h_prev = jax.vmap(forward)(start, normal(x, rng, time), keys)[2]  # see `_state`
    _checks.tree(f"the state that {name}activate returns", at_step(h_prev, 0), at_step(start, 0))
    u, z, h = jax.vmap(forward)(h_prev, normal(x, rng, time), keys)
    dh, dz = _cotangent(h, rng), _cotangent(z, rng)
    if cell.activate_vjp is not None:
        hand = jax.vmap(cell.activate_vjp)(z, h_prev, h, dh)
        hand = _checks.pair(f"{name}activate_vjp", hand, "(dz, dh_prev)")
        auto = jax.vmap(lambda z, h, dh: jax.vjp(cell.activate, z, h)[1](dh))(z, h_prev, dh)
        for result, ours, theirs in zip(("dz", "dh_prev"), hand, auto, strict=True):
            ours = _none_as_zeros(ours, theirs)
            compare(f"{name}activate_vjp: {result}", ours, theirs, True, tolerance.rtol)
    if cell.preactivate_vjp is not None:

        def auto_rule(h_prev: PyTree, u: PyTree, dz: PyTree) -> PyTree:
            return jax.vjp(lambda h: cell.preactivate(params, h, u), h_prev)[1](dz)[0]

        hand = jax.vmap(cell.preactivate_vjp, (None, 0, 0, 0, 0))(params, h_prev, u, z, dz)
        auto = jax.vmap(auto_rule)(h_prev, u, dz)
        hand = _none_as_zeros(hand, auto)
        compare(f"{name}preactivate_vjp: dh_prev", hand, auto, True, tolerance.rtol)


def _none_as_zeros(hand: PyTree, auto: PyTree) -> PyTree:
    return jax.tree.map(jnp.zeros_like, auto) if hand is None else hand


def _check_unroll(model: Model, x: PyTree, time: int, tolerance: Tolerance, rng: Generator) -> None:
    params = _random_params(model, rng)
    options: dict[str, Any] = {
        "mask": jnp.asarray(rng.random(time) < 0.7) if rng.random() < 0.7 else None,
        "reset": jnp.asarray(rng.random(time) < 0.3) if rng.random() < 0.7 else None,
        "reverse": bool(rng.random() < 0.5),
    }
    if model.stochastic:
        options["key"] = _key(rng) if rng.random() < 0.7 else None
    state = _state(model, params, x, rng)
    xs = normal(x, rng, time)
    outputs = jax.eval_shape(lambda: unroll(model, params, xs, state))
    weights = normal(inexact(outputs), rng)
    chunk = int(rng.integers(1, time + 1))
    store: Any = STORES[rng.integers(len(STORES))]
    bptt = BPTT(chunk=chunk, store=store)

    def loss(adjoint: Adjoint, params: PyTree, xs: PyTree, state: PyTree) -> jax.Array:
        """A random function of the whole output series and the final state."""
        outputs = inexact(unroll(model, params, xs, state, adjoint=adjoint, **options))
        terms = zip(weights, outputs, strict=True)
        return jnp.sin(sum(jnp.sum(jnp.real(w * y)) / w.size for w, y in terms))

    def gradient(adjoint: Adjoint) -> tuple:  # by `vjp`, since `jax.grad` refuses complex arguments

        @jax.jit
        def pulled_back(*at: PyTree) -> tuple:
            value, pull = jax.vjp(lambda *at: loss(adjoint, *at), *at)
            return pull(jnp.ones_like(value))

        return pulled_back(*at)

    at = (params, xs, state)
    case = f"T={time}, {bptt}, " + ", ".join(f"{k}={_show(v)}" for k, v in options.items())
    hand, auto = gradient(bptt), gradient(Autodiff())
    names = ("params", "xs", "state")
    for name, ours, theirs in zip(names, hand, auto, strict=True):
        told = f"BPTT against Autodiff, {case}: d {name}"
        compare(told, ours, theirs, name == "xs", tolerance.rtol)
    plain = jax.make_jaxpr(lambda *at: unroll(model, *at, adjoint=Autodiff()))(*at)
    if not uses(
        plain.jaxpr, "zero_cotangent"
    ):  # the gradient of what cuts is not that of the function
        check_differences(case, lambda *at: loss(bptt, *at), at, hand, names, tolerance)


def _show(value: Any) -> str:
    if not hasattr(value, "tolist"):
        return str(value)
    known = jnp.issubdtype(value.dtype, jnp.bool_)
    return str(value.astype(int).tolist()) if known else str(jax.random.key_data(value).tolist())
