"""Proof that weights were read as they were meant, by the outputs of the original."""

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seqjax import _checks
from seqjax._types import PyTree
from seqjax.engine.model import Model
from seqjax.engine.unroll import unroll
from seqjax.interop._convention import kinds_of
from seqjax.interop._kinds import kind_of
from seqjax.interop._layout import GATES
from seqjax.interop._names import as_numpy, plain

__all__ = ["check"]

Pair = tuple[Model, PyTree]

ELSEWHERE = (
    "no other convention makes them match, nor do two together: look at the order of the layers, "
    "the functions between them and the axes"
)
TELLING = "inputs that tell the conventions apart: random ones, more steps"
LARGE = 1e-2  # an array of smaller numbers may do nothing that shows


def check(
    read: Callable[..., Pair] | Pair, outputs: Any, xs: Any, *, tolerance: float = 1e-5
) -> float:
    """Compares what was read with the original, on inputs and outputs of the original.

    A wrong order of the gates and a square kernel that is not transposed have the right shapes:
    outputs alone show them. Where they differ, the conventions are tried, one or two at a time, and
    the error says which one fits. Where they agree, it is made sure that each other convention
    would have shown, and that every array acts: not so for inputs of zeros, or for one step.

    Args:
      read: a call of one of the `read` functions, not made yet, so that it can be made with other
        conventions: `functools.partial(sj.interop.torch.read, state_dict)`. Or what one returned,
        (model, params), which is compared and nothing else.
      outputs: what the original outputs on `xs`, [T, O] or [B, T, O].
      xs: the inputs, [T, I] or [B, T, I] (tokens [T] or [B, T]); random ones, of ten steps or more.
      tolerance: of the largest difference, relative to the largest output if that is above 1.

    Returns:
      The largest difference.

    Raises:
      ValueError: the outputs differ, or the inputs do not tell the conventions apart.

    >>> import functools, jax, numpy as np, seqjax as sj
    >>> rng = np.random.default_rng(0)
    >>> cell, xs = sj.lstm(3, 4), rng.standard_normal((10, 3), np.float32)
    >>> params = cell.init(jax.random.key(0))
    >>> outputs = sj.unroll(cell, params, xs)[1]
    >>> state_dict = sj.interop.torch.write(cell, params, numpy=True)
    >>> read = functools.partial(sj.interop.torch.read, state_dict)
    >>> sj.interop.check(read, outputs, xs)
    0.0

    A file of somebody else, under the same names in another order:

    >>> for name, array in state_dict.items():
    ...     i, f, g, o = np.split(array, 4)
    ...     state_dict[name] = np.concatenate([i, o, f, g])
    >>> try:
    ...     sj.interop.check(read, outputs, xs)
    ... except ValueError as error:
    ...     print(str(error).split("; ")[1])
    they match if the gates are i,o,f,g: with convention={'gates': 'iofg'}
    """
    tolerance = _checks.number("tolerance", tolerance, above=0)
    trial = Trial(plain("xs", xs), as_numpy("outputs", outputs), tolerance)
    if not callable(read):
        difference = trial.difference(*_check_pair(read))
        if difference <= trial.allowed:
            return difference
        raise trial.mismatch(difference, "pass functools.partial(read, …) to learn the cause")
    pair, claimed = read(), getattr(read, "keywords", {}).get("convention") or {}
    difference = trial.difference(*pair)
    singles = list(_conventions({kind for kind, _ in _kinds(pair[0])}))
    if difference <= trial.allowed:
        trial.check_inputs(*pair)
        for convention in singles:
            if trial.fits(read, {**claimed, **convention}, pair):
                given = f"some whose outputs also match {_told(convention)}"
                raise ValueError(_checks.mismatch("xs", TELLING, given))
        return difference
    pairs = [a | b for a, b in itertools.combinations(singles, 2) if not {*a} & {*b}]
    others = [{**claimed, **convention} for convention in (*singles, *pairs)]
    if claimed:  # by mistake, perhaps
        others = [{}, *others, *singles, *pairs]
    for convention in others:
        if trial.fits(read, convention, pair):
            raise trial.mismatch(difference, f"they match {_told(convention)}")
    raise trial.mismatch(difference, ELSEWHERE)


class Trial:
    """Inputs and outputs of the original, for anything read to be held against."""

    def __init__(self, xs: np.ndarray, outputs: np.ndarray, tolerance: float):
        if not outputs.size:
            raise ValueError(_checks.mismatch("outputs", "some", _checks.describe(outputs)))
        self.xs, self.given, self.outputs = xs, outputs, outputs.astype(np.float64)
        self.allowed = tolerance * max(1.0, float(np.max(np.abs(self.outputs))))
        self.run = jax.jit(self._run, static_argnums=0)  # its programs go when this goes

    def _run(self, model: Model, params: PyTree, xs: jax.Array) -> PyTree:
        run = lambda xs: unroll(model, params, xs)[1]
        return (jax.vmap(run) if self.outputs.ndim == 3 else run)(xs)

    def difference(self, model: Model, params: PyTree) -> float:
        ys = self.run(model, params, self.xs)
        if ys.shape != self.outputs.shape:
            expected, given = map(_checks.describe, (ys, self.given))
            raise ValueError(_checks.mismatch("outputs", expected, given))
        return float(np.max(np.abs(np.asarray(ys).astype(np.float64) - self.outputs)))

    def check_inputs(self, model: Model, params: PyTree) -> None:
        """Refuses inputs on which an array of the file does not act: it could be any other."""
        leaves, structure = jax.tree_util.tree_flatten_with_path(params)
        for number, (path, leaf) in enumerate(leaves):
            if not np.max(np.abs(leaf), initial=0) > LARGE:
                continue
            without = [leaf for _, leaf in leaves]
            without[number] = jnp.zeros_like(leaf)
            if self.difference(model, jax.tree.unflatten(structure, without)) <= self.allowed:
                name = f"params{jax.tree_util.keystr(path)}"
                given = f"some whose outputs do not depend on {name}"
                raise ValueError(_checks.mismatch("xs", TELLING, given))

    def fits(self, read: Any, convention: dict[str, Any], pair: Pair) -> bool:
        """Whether with another convention something else is read, and it matches."""
        try:
            model, params = read(convention=convention)
        except (TypeError, ValueError):  # of other shapes, or of another kind
            return False
        if (model.input_spec, model.output_spec) != (pair[0].input_spec, pair[0].output_spec):
            return False
        if model == pair[0] and _equal(params, pair[1]):
            return False
        return self.difference(model, params) <= self.allowed

    def mismatch(self, difference: float, told: str) -> ValueError:
        expected = f"those of what was read, to {self.allowed:.1e}"
        return ValueError(_checks.mismatch("outputs", expected, f"{difference:.1e} off; {told}"))


def _equal(a: PyTree, b: PyTree) -> bool:
    """Of params of one model."""
    return all(map(np.array_equal, jax.tree.leaves(a), jax.tree.leaves(b)))


def _told(convention: Mapping[str, Any]) -> str:
    if not convention:
        return "without `convention`"
    shown = ", ".join(
        f"{name!r}: {getattr(value, '__name__', repr(value))}" for name, value in convention.items()
    )
    gates = f"if the gates are {','.join(convention['gates'])}: " if "gates" in convention else ""
    return f"{gates}with convention={{{shown}}}"


def _check_pair(read: Any) -> Pair:
    expected = "a function that reads, or (model, params)"
    pair = _checks.instance("read", read, tuple, expected)
    if len(pair) != 2 or not isinstance(pair[0], Model):
        raise TypeError(_checks.mismatch("read", expected, _checks.describe(read)))
    return pair


def _kinds(model: Model) -> Iterator[tuple[str, dict]]:
    """The kind and options of every layer of a model."""
    known = kind_of(model)
    if known is not None:
        yield known
    for part in model.parts.values():
        yield from _kinds(part)


def _conventions(kinds: set[str]) -> Iterator[dict[str, Any]]:
    """Everything that a file may do otherwise, one thing at a time."""
    values: dict[str, list] = {
        "gates": [
            "".join(o) for kind in ("lstm", "gru") for o in itertools.permutations(GATES[kind])
        ],
        "transposed": [("recurrent_kernel",), ("kernel",), ("kernel", "recurrent_kernel")],
        "forget_offset": [1.0, 0.0, -1.0],
        "opposite": ["z", ""],
        "reset_after": [False, True],
        "activation": [jax.nn.relu, jnp.tanh],
    }
    values["transposed_gates"] = values["transposed"]
    for name, told in values.items():
        for value in told:
            if kinds & kinds_of(name, value):
                yield {name: value}
