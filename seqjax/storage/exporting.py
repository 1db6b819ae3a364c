"""A model as programs that run without seqjax: `jax.export` of its step and of a whole series."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import export as jax_export

from seqjax import _checks
from seqjax._tree import fields_of, length_of
from seqjax._types import PyTree
from seqjax.engine.model import Model, check_params
from seqjax.engine.unroll import unroll

__all__ = ["Exported", "export"]

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


class Exported(NamedTuple):
    """Programs with the parameters inside, each a `jax.export.Exported`, for any batch size B.

    Attributes:
      unroll: `(state, xs, length) -> (state, ys)`: xs [B, T, …] for any T, length [B] int32, the
        number of valid steps of each series.
      step: `(state, x) -> (state, y)`: one step of each series, x [B, …]; None of a model that has
        no step.
      initial_state: `(x) -> state`: the state before the first step, for as many series as x [B, …]
        has; None of a model that has none.
    """

    unroll: Any
    step: Any
    initial_state: Any


def export(
    model: Model,
    params: PyTree,
    *,
    x: PyTree = None,
    platforms: Sequence[str] = ("cpu", "cuda", "tpu"),
) -> Exported:
    """Exports a model and its parameters as programs for a process that has JAX and not seqjax.

    States are plain there: dicts in the place of named tuples, `{"h": …, "c": …}` of an
    `sj.lstm`. Nothing is drawn: the programs are those of evaluation. What depends on the backend,
    such as the schedule of an affine cell, is that of the machine that exports.

    Args:
      model: the model.
      params: its parameters, which become constants of the programs.
      x: shape and dtype of one x(t), where the model does not know them.
      platforms: what the programs are compiled for when they are called.

    Returns:
      An `Exported`; `.serialize()` of each program makes bytes of it, and
      `jax.export.deserialize(…).call` runs them.

    Raises:
      ValueError, TypeError: params that are not the model's; no x; an unknown platform.

    >>> import jax, numpy as np, seqjax as sj
    >>> model = sj.lstm(3, 4)
    >>> programs = sj.export(model, model.init(jax.random.key(0)), platforms=["cpu"])
    >>> file = programs.step.serialize()

    Then, without seqjax:

    >>> step = jax.export.deserialize(file).call
    >>> x = np.ones((2, 3), np.float32)
    >>> state, y = step({"h": np.zeros((2, 4), np.float32), "c": np.zeros((2, 4), np.float32)}, x)
    >>> y.shape
    (2, 4)
    """
    _checks.instance("model", model, Model, "a seqjax model")
    check_params(model, params)
    for platform in _checks.instance("platforms", platforms, (list, tuple), "a list of names"):
        _checks.choice("platforms", platform, PLATFORMS)
    if not platforms:
        raise ValueError(_checks.mismatch("platforms", "at least one", "none"))
    spec = model.input_spec if x is None else _checks.one("x", x, model.input_spec)
    if spec is None:
        expected = f"shape and dtype of one x(t), which {model!r} does not know"
        raise ValueError(_checks.mismatch("x", expected, "None"))
    params = jax.tree.map(jnp.asarray, params)
    batch, time = jax_export.symbolic_shape("batch, time")
    one = _leading(spec, batch)

    def initial_state(x: PyTree) -> PyTree:
        return _plain(jax.vmap(model.initial_state, None, axis_size=length_of(x))(params))

    def run(state: PyTree, xs: PyTree, length: jax.Array) -> tuple[PyTree, PyTree]:
        one_series = lambda s, x, n: unroll(model, params, x, s, length=n)
        state, ys = jax.vmap(one_series)(_restored(state_spec, state), xs, length)
        return _plain(state), ys

    def step(state: PyTree, x: PyTree) -> tuple[PyTree, PyTree]:
        step_of_one = lambda s, x: model.step(params, s, x)
        state, y = jax.vmap(step_of_one)(_restored(state_spec, state), x)
        return _plain(state), y

    def exported(function: Any, *at: PyTree) -> Any:
        return jax_export.export(jax.jit(function), platforms=platforms)(*at)

    state_spec = jax.eval_shape(model.initial_state, params)
    states = _leading(_plain(state_spec), batch)
    lengths = jax.ShapeDtypeStruct((batch,), jnp.int32)
    return Exported(
        unroll=exported(run, states, _leading(spec, batch, time), lengths),
        step=exported(step, states, one) if model.causal else None,
        initial_state=exported(initial_state, one),
    )


def _leading(spec: PyTree, *axes: Any) -> PyTree:
    """Shapes with axes before them."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((*axes, *leaf.shape), leaf.dtype), spec)


def _plain(tree: PyTree) -> PyTree:
    """Dicts in the place of named tuples, which a process without their classes does not have."""
    if (fields := fields_of(tree)) is not None:
        tree = fields
    if isinstance(tree, dict):
        return {name: _plain(part) for name, part in tree.items()}
    return type(tree)(map(_plain, tree)) if isinstance(tree, (tuple, list)) else tree


def _restored(spec: PyTree, plain: PyTree) -> PyTree:
    """The tree of which `_plain` was made, with the structure of `spec`."""
    if (fields := fields_of(spec)) is not None:
        return type(spec)(**{name: _restored(part, plain[name]) for name, part in fields.items()})
    if isinstance(spec, dict):
        return {name: _restored(part, plain[name]) for name, part in spec.items()}
    if isinstance(spec, (tuple, list)):
        return type(spec)(_restored(s, p) for s, p in zip(spec, plain, strict=True))
    return plain
