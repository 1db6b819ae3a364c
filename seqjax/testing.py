"""Proof of a cell: its hand-written rules, autodiff and finite differences say the same."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from seqjax import _checks
from seqjax.compose import Bidirectional, Stack
from seqjax.engine.adjoint import BPTT, STORES, Autodiff
from seqjax.engine.recurrence import at_step, pair
from seqjax.engine.unroll import Model, unroll
from seqjax.models.cell import Cell

__all__ = ["check_cell"]

Tree = Any


def check_cell(model: Model, x: Tree = None, *, draws: int = 4, steps: int = 6, seed: int = 0):
    """Proves the gradients of a cell, or of any other model; in float64, whatever its dtype.

    First every hand-written rule is held against `jax.vjp` at each time step of a random
    series. Then, for random lengths, masks, resets, directions, chunks and storage policies, the
    gradient of a random function of all outputs and the final state, to parameters, inputs and
    initial state: `BPTT` against `Autodiff`, and against central finite differences.

    Args:
      model: the model. A user's own functions must not insist on another dtype than their
        arguments have.
      x: one input (an array, or a pytree of them; values are ignored), for a model that does not
        say what it reads.
      draws: how many random cases.
      steps: the length of the longest series.
      seed: of the random numbers; the same seed checks the same cases.

    Raises:
      AssertionError: a gradient is off; names the rule and leaf, where it can be told the time,
        and by how much.
      TypeError, ValueError: an argument is not as described.

    >>> import jax.numpy as jnp, seqjax as sj
    >>> sj.testing.check_cell(sj.gru(3, 2), draws=1)
    """
    _checks.instance("model", model, Model, "a seqjax model")
    draws, steps = _checks.size("draws", draws), _checks.size("steps", steps)
    spec = model.input if x is None else x
    if spec is None:
        expected = "an example of one input, since the model does not say what it reads"
        raise ValueError(_checks.mismatch("x", expected, "none"))
    with jax.enable_x64(True):
        rng = np.random.default_rng(seed)
        model = model.astype(jnp.float64)
        for cell, name in _cells(model):
            _check_rules(cell, name, cell.input or spec, steps, rng)
        for draw in range(draws):
            time = (steps, 1, *rng.integers(1, steps + 1, size=draws))[draw]
            _check_unroll(model, spec, int(time), rng)


def _cells(model, name=""):
    """The cells of a model that have rules of their own, each with where it stands."""
    if isinstance(model, Stack):
        for number, layer in enumerate(model.models):
            yield from _cells(layer, f"{name}models[{number}].")
    elif isinstance(model, Bidirectional):
        yield from _cells(model.forward, f"{name}forward.")
        yield from _cells(model.backward, f"{name}backward.")
    elif isinstance(model, Cell):
        yield model, name


def _normal(spec: Tree, rng, *leading: int) -> Tree:
    """Normal random numbers for floating leaves; zeros for others."""

    def draw(leaf):
        shape = (*leading, *leaf.shape)
        if _is_float(leaf):
            return jnp.asarray(rng.standard_normal(shape))
        return jnp.zeros(shape, leaf.dtype)

    return jax.tree.map(draw, spec)


def _disturbed(tree: Tree, scale: float, rng, *leading: int) -> Tree:
    """The tree plus noise, with leading axes, so that no zero in it hides anything."""

    def disturb(leaf):
        leaf = jnp.broadcast_to(leaf, (*leading, *leaf.shape))
        return leaf + scale * _normal(leaf, rng) if _is_float(leaf) else leaf

    return jax.tree.map(disturb, tree)


def _cotangent(primal: Tree, rng) -> Tree:
    def draw(leaf):
        none = np.zeros(leaf.shape, jax.dtypes.float0)
        return _normal(leaf, rng) if _is_float(leaf) else none

    return jax.tree.map(draw, primal)


def _random_params(model: Model, rng) -> Tree:
    return _disturbed(model.init(jax.random.key(int(rng.integers(2**31)))), 0.1, rng)


def _check_rules(cell: Cell, name: str, x: Tree, time: int, rng) -> None:
    params = _random_params(cell, rng)
    h_prev = _disturbed(cell.initial_state(params), 1.0, rng, time)
    u = jax.vmap(cell.project, (None, 0))(params, _normal(x, rng, time))
    z = jax.vmap(cell.preactivate, (None, 0, 0))(params, h_prev, u)
    h = jax.vmap(cell.activate)(z, h_prev)
    _checks.tree(f"the state that {name}activate returns", at_step(h, 0), at_step(h_prev, 0))
    dh, dz = _cotangent(h, rng), _cotangent(z, rng)
    if cell.activate_vjp is not None:
        hand = pair(jax.vmap(cell.activate_vjp)(z, h_prev, h, dh))
        auto = jax.vmap(lambda z, h, dh: jax.vjp(cell.activate, z, h)[1](dh))(z, h_prev, dh)
        for result, ours, theirs in zip(("dz", "dh_prev"), hand, auto, strict=True):
            ours = _none_as_zeros(ours, theirs)
            _compare(f"{name}activate_vjp: {result}", ours, theirs, over_time=True)
    if cell.preactivate_vjp is not None:

        def auto_rule(h_prev, u, dz):
            return jax.vjp(lambda h: cell.preactivate(params, h, u), h_prev)[1](dz)[0]

        hand = jax.vmap(cell.preactivate_vjp, (None, 0, 0, 0, 0))(params, h_prev, u, z, dz)
        auto = jax.vmap(auto_rule)(h_prev, u, dz)
        hand = _none_as_zeros(hand, auto)
        _compare(f"{name}preactivate_vjp: dh_prev", hand, auto, over_time=True)


def _none_as_zeros(hand: Tree, auto: Tree) -> Tree:
    return jax.tree.map(jnp.zeros_like, auto) if hand is None else hand


def _check_unroll(model: Model, x: Tree, time: int, rng) -> None:
    params = _random_params(model, rng)
    options: dict[str, Any] = {
        "mask": jnp.asarray(rng.random(time) < 0.7) if rng.random() < 0.7 else None,
        "reset": jnp.asarray(rng.random(time) < 0.3) if rng.random() < 0.7 else None,
        "reverse": bool(rng.random() < 0.5),
    }
    state = _disturbed(model.initial_state(params), 1.0, rng)
    xs = _normal(x, rng, time)
    outputs = jax.eval_shape(lambda: unroll(model, params, xs, state))
    weights = _normal(_floats(outputs), rng)
    chunk = int(rng.integers(1, time + 1))
    store: Any = STORES[rng.integers(len(STORES))]
    bptt = BPTT(chunk=chunk, store=store)

    def div(adjoint, params, xs, state):
        """A random function of the whole output series and the final state."""
        outputs = _floats(unroll(model, params, xs, state, adjoint=adjoint, **options))
        terms = zip(weights, outputs, strict=True)
        return jnp.sin(sum(jnp.sum(w * y) / w.size for w, y in terms))

    def gradient(adjoint):
        return jax.jit(jax.grad(lambda *at: div(adjoint, *at), (0, 1, 2), allow_int=True))(*at)

    at = (params, xs, state)
    case = f"T={time}, {bptt}, " + ", ".join(f"{k}={_show(v)}" for k, v in options.items())
    hand, auto = gradient(bptt), gradient(Autodiff())
    names = ("params", "xs", "state")
    for name, ours, theirs in zip(names, hand, auto, strict=True):
        _compare(f"BPTT against Autodiff, {case}: d {name}", ours, theirs, name == "xs")
    _check_differences(case, lambda *at: div(bptt, *at), at, hand, names)


def _check_differences(case: str, f, at: tuple, hand: tuple, names: tuple) -> None:
    """Central differences: along one random direction in all leaves, by chex; if that fails,
    leaf by leaf, to name the one that is off.
    """
    leaves, structure = _flatten(at)
    floats = [number for number, leaf in enumerate(leaves) if _is_float(leaf)]

    @jax.jit
    def of_floats(*values):
        changed = dict(zip(floats, values, strict=True))
        return f(*structure.unflatten([changed.get(n, leaf) for n, leaf in enumerate(leaves)]))

    point = tuple(leaves[number] for number in floats)
    try:
        # chex multiplies atol by the size of the first leaf
        atol = 1e-5 / max(point[0].size, 1)
        chex.assert_numerical_grads(
            of_floats, point, order=1, atol=atol, rtol=1e-3, eps=1e-6, modes=("rev",)
        )
    except AssertionError as error:
        rng, off = np.random.default_rng(0), []
        for place, number in enumerate(floats):
            path = _leaves(at)[number][0]
            direction = _normal(leaves[number], rng)
            there, back = (
                of_floats(*point[:place], leaves[number] + eps * direction, *point[place + 1 :])
                for eps in (1e-6, -1e-6)
            )
            slope = float(there - back) / 2e-6
            ours = float(jnp.vdot(jax.tree.leaves(hand)[number], direction))
            if not abs(ours - slope) <= 1e-5 + 1e-3 * abs(slope):
                leaf = names[path[0].idx] + jax.tree_util.keystr(path[1:])
                off.append(f"d {leaf}: by hand {ours:.6g}, differences {slope:.6g}")
        raise AssertionError(
            f"BPTT against finite differences, {case}: {'; '.join(off) or error}"
        ) from error


def _compare(name: str, hand: Tree, auto: Tree, over_time: bool, rtol: float = 1e-10) -> None:
    """Relative to the largest element of a leaf; names the leaf and time that are off most."""
    if _flatten(hand)[1] != _flatten(auto)[1]:
        raise AssertionError(
            f"{name}: expected the structure {_flatten(auto)[1]}, got {_flatten(hand)[1]}"
        )
    for (path, ours), (_, theirs) in zip(_leaves(hand), _leaves(auto), strict=True):
        if theirs.dtype == jax.dtypes.float0:
            continue
        leaf = name + jax.tree_util.keystr(path)
        if ours.shape != theirs.shape:
            raise AssertionError(f"{leaf}: expected shape {theirs.shape}, got {ours.shape}")
        ours, theirs = np.asarray(ours), np.asarray(theirs)
        error = np.abs(ours - theirs) / max(np.abs(theirs).max(initial=0), 1e-30)
        if not ours.size or bool((error <= rtol).all()):  # a NaN is not within anything
            continue
        index = np.unravel_index(np.argmax(np.where(np.isnan(error), np.inf, error)), error.shape)
        place = f"at t={index[0]}" + (f", element {list(map(int, index[1:]))}" if index[1:] else "")
        place = place if over_time else f"element {list(map(int, index))}"
        raise AssertionError(
            f"{leaf} {place} is off: by hand {ours[index]:.6g}, autodiff {theirs[index]:.6g}, "
            f"relative error {error[index]:.1e}"
        )


def _flatten(tree: Tree) -> tuple[list, Any]:
    return jax.tree.flatten(tree)


def _floats(tree: Tree) -> list:
    return [leaf for leaf in jax.tree.leaves(tree) if _is_float(leaf)]


def _leaves(tree: Tree) -> list:
    return jax.tree_util.tree_leaves_with_path(tree)


def _is_float(leaf) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.floating)


def _show(value) -> str:
    return str(value) if not hasattr(value, "tolist") else str(value.astype(int).tolist())
