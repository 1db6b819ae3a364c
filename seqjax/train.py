"""Training: one optimizer step, compiled, and the means that series with padding need."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from seqjax import _checks
from seqjax._devices import DataParallel, data_parallel
from seqjax._tree import is_traced, wide_dtype
from seqjax._types import Array, PyTree
from seqjax.ops._jax import buffer_of

__all__ = ["DataParallel", "Report", "data_parallel", "make_step", "masked_mean"]


class Report(NamedTuple):
    """What a training step reports, all measured before the update.

    Attributes:
      loss: [], the value of the loss.
      grad_norm: [], the global norm of its gradient, in float32 at least.
      aux: what the loss returned beside its value, or None.
    """

    loss: jax.Array
    grad_norm: jax.Array
    aux: PyTree


def make_step(loss: Callable, optimizer: Any, *, has_aux: bool = False) -> Callable:
    """Makes `step(params, opt_state, *batch) -> (params, opt_state, Report)`.

    The step is compiled, and the buffers of `params` and `opt_state` are donated: use what it
    returns from then on, not what was passed. (A buffer that stands in more than one place,
    `batch` included, is copied first.)

    Args:
      loss: `loss(params, *batch) -> scalar`, or `-> (scalar, aux)`. A batch whose steps carry
        a state (truncated BPTT) passes it in `batch` and returns the new one in `aux`.
      optimizer: any optax transformation, e.g. a chain with `optax.clip_by_global_norm`, or
        another object with its `init` and `update`, e.g. `optax.MultiSteps`. Of these keyword
        arguments `update` is passed those that it takes: `value` and `grad`, the loss and its
        gradient; `value_fn` and `obj_fn`, params -> loss of this batch; `grad_fn`, (params,
        ...) -> its gradient.
      has_aux: whether the loss returns an `aux`.

    Returns:
      The step.

    Raises:
      TypeError: by the step, for a loss that returns no pair though `has_aux` is True.
      ValueError: by the step, for a loss that is not a scalar, a state of another optimizer, and
        params or a state that an earlier step was given.

    >>> import jax.numpy as jnp, optax, seqjax as sj
    >>> optimizer = optax.sgd(0.1)
    >>> step = sj.train.make_step(lambda w, x: jnp.sum((w - x) ** 2), optimizer)
    >>> w = jnp.array([1.0, 2.0])
    >>> w, opt_state, report = step(w, optimizer.init(w), jnp.zeros(2))
    >>> w.tolist(), float(report.loss)
    ([0.800000011920929, 1.600000023841858], 5.0)
    """
    _checks.function("loss", loss)
    _checks.flag("has_aux", has_aux)
    update = _update_of(optimizer)

    def scalar_loss(params: PyTree, *batch: PyTree) -> tuple[jax.Array, PyTree]:
        value, aux = _pair(loss(params, *batch)) if has_aux else (loss(params, *batch), None)
        if getattr(value, "shape", None) != ():
            hint = "; for (scalar, aux), set has_aux" if isinstance(value, tuple) else ""
            raise ValueError(_checks.mismatch("loss", "a scalar", _checks.describe(value) + hint))
        if not jnp.issubdtype(value.dtype, jnp.floating):
            got = _checks.describe(value)
            raise TypeError(_checks.mismatch("loss", "a floating scalar", got))
        return value, aux

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def compiled(
        params: PyTree, opt_state: PyTree, *batch: PyTree
    ) -> tuple[PyTree, PyTree, Report]:
        _differentiable(params)
        (value, aux), grad = jax.value_and_grad(scalar_loss, has_aux=True)(params, *batch)

        def value_fn(params: PyTree, *_: Any, obj_fn: Any = None, grad_fn: Any = None) -> jax.Array:
            del obj_fn, grad_fn  # the line searches of optax hand on what they do not know
            return scalar_loss(params, *batch)[0]

        extra = {
            "value": value,
            "grad": grad,
            "value_fn": value_fn,
            "obj_fn": value_fn,
            "grad_fn": jax.grad(value_fn),
        }
        updates, opt_state = _updates(optimizer, update, grad, opt_state, params, extra)
        return optax.apply_updates(params, updates), opt_state, Report(value, _norm(grad), aux)

    def step(params: PyTree, opt_state: PyTree, *batch: PyTree) -> tuple[PyTree, PyTree, Report]:
        seen = {buffer_of(leaf) for leaf in jax.tree.leaves(batch) if _is_held(leaf)}
        params = _donatable("params", params, seen)
        opt_state = _donatable("opt_state", opt_state, seen)
        try:
            return compiled(params, opt_state, *batch)
        except TypeError:  # of what `jax.jit` does not take, it may be
            for number, argument in enumerate(batch):
                _checks.traceable(f"batch[{number}]", argument)
            raise

    return step


def _pair(value: Any) -> Any:
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        expected = "a pair (scalar, aux), since has_aux is True"
        raise TypeError(_checks.mismatch("loss", expected, _checks.describe(value)))
    return value


def _update_of(optimizer: Any) -> Callable:
    """`update(grad, state, params, extra)`, which hands on of `extra` what the optimizer takes."""
    init, update = getattr(optimizer, "init", None), getattr(optimizer, "update", None)
    if isinstance(optimizer, type) or not (callable(init) and callable(update)):
        expected = "an optax optimizer, i.e. an object with functions init and update"
        raise TypeError(_checks.mismatch("optimizer", expected, _checks.describe(optimizer)))
    takes = list(inspect.signature(update).parameters.values())[3:]
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in takes):
        return lambda grad, state, params, extra: update(grad, state, params, **extra)
    names = [parameter.name for parameter in takes]
    return lambda grad, state, params, extra: update(
        grad, state, params, **{name: extra[name] for name in names if name in extra}
    )


def _updates(
    optimizer: Any, update: Callable, grad: PyTree, opt_state: PyTree, params: PyTree, extra: dict
) -> tuple[PyTree, PyTree]:
    """`update`, whose failure is that of a state of another optimizer, if it is one."""
    try:
        return update(grad, opt_state, params, extra)
    except Exception as error:
        spec: Any = jax.eval_shape(optimizer.init, params)
        wanted: Any = jax.tree.structure(spec)
        if wanted == jax.tree.structure(opt_state):
            raise
        message = _checks.mismatch(*_checks.difference("opt_state", spec, opt_state))
        raise ValueError(message) from error


def _differentiable(params: PyTree) -> None:
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            name = "params" + jax.tree_util.keystr(path)
            raise TypeError(_checks.mismatch(name, "a floating array", _checks.describe(leaf)))


def _norm(grad: PyTree) -> jax.Array:
    """The global norm in one dtype: half precision could not hold the squares."""
    leaves = jax.tree.leaves(grad)
    double = any(jnp.finfo(leaf.dtype).bits == 64 for leaf in leaves)
    dtype = jnp.float64 if double else jnp.float32
    return optax.tree.norm([jnp.abs(leaf).astype(dtype) for leaf in leaves])


def _donatable(name: str, tree: PyTree, seen: set[int]) -> PyTree:
    """`tree` with a copy of each leaf whose buffer is among those seen; adds the others.

    Optimizers keep the parameters that they began with, and layers share theirs: XLA takes no
    buffer twice.
    """

    def own(path: Any, leaf: Any) -> Any:
        if not _is_held(leaf):
            return leaf
        if leaf.is_deleted():
            expected, got = (
                "what the last step returned",
                "an array that was donated to an earlier step",
            )
            raise ValueError(_checks.mismatch(name + jax.tree_util.keystr(path), expected, got))
        if buffer_of(leaf) in seen:
            return jnp.copy(leaf)
        seen.add(buffer_of(leaf))
        return leaf

    return jax.tree_util.tree_map_with_path(own, tree)


def _is_held(leaf: Any) -> bool:
    """Whether a leaf is in JAX's memory already: neither traced nor NumPy's."""
    return isinstance(leaf, jax.Array) and not is_traced(leaf)


def masked_mean(values: Array, mask: Array) -> jax.Array:
    """The mean over valid entries only; 0 if there are none.

    Entries are counted and summed in float32 at least.

    Args:
      values: floating, of any shape, e.g. the losses [B, T] of `optax.losses`. What stands at
        invalid entries (NaN too) changes neither the mean nor the gradient of `values`.
      mask: bool, of the same shape.

    Returns:
      A scalar of the dtype of `values`.

    A NaN that enters *before* `values`, such as a missing target, leaves the mean right but makes
    the gradient of the parameters NaN: that entry's loss has a NaN derivative, and 0 · NaN is
    NaN. (So does a loss with an infinite derivative at an invalid entry.) Fill such targets before
    the loss is computed:

    >>> import jax, jax.numpy as jnp, seqjax as sj
    >>> targets = jnp.array([1.0, jnp.nan])
    >>> mask = jnp.array([True, False])
    >>> def loss(w, targets):
    ...     return sj.train.masked_mean((w - targets) ** 2, mask)
    >>> float(loss(3.0, targets)), float(jax.grad(loss)(3.0, targets))
    (4.0, nan)
    >>> float(jax.grad(loss)(3.0, jnp.where(mask, targets, 0)))
    4.0
    """
    values = _checks.as_array("values", values)
    _checks.float_dtype("values", values.dtype)
    mask = _checks.array("mask", mask, values.shape, jnp.bool_)
    dtype = wide_dtype(values.dtype)
    total = jnp.sum(jnp.where(mask, values, 0).astype(dtype))
    count = jnp.maximum(jnp.sum(mask), 1).astype(dtype)
    return (total / count).astype(values.dtype)
