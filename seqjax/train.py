"""Training: one optimizer step, compiled, and the means that series with padding need."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from seqjax import _checks

__all__ = ["Report", "make_step", "masked_mean"]

Tree = Any


class Report(NamedTuple):
    """What `make_step` tells of a step, all measured before the update.

    Attributes:
      loss: [], the value of the loss.
      grad_norm: [], the global norm of its gradient.
      aux: what the loss returned beside its value, or None.
    """

    loss: jax.Array
    grad_norm: jax.Array
    aux: Tree


def make_step(
    loss: Callable, optimizer: optax.GradientTransformation, *, has_aux: bool = False
) -> Callable:
    """Makes `step(params, opt_state, *batch) -> (params, opt_state, Report)`.

    The step is compiled, and the buffers of `params` and `opt_state` are donated: use what it
    returns from then on, not what was passed.

    Args:
      loss: `loss(params, *batch) -> scalar`, or `-> (scalar, aux)`. A batch whose steps carry
        a state (truncated BPTT) passes it in `batch` and returns the new one in `aux`.
      optimizer: any optax transformation, e.g. a chain with `optax.clip_by_global_norm`.
      has_aux: whether the loss returns an `aux`.

    Returns:
      The step.

    Raises:
      TypeError: an argument is not as described. The step raises ValueError for a loss that
        is not a scalar.

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
    expected = "an optax.GradientTransformation"
    _checks.instance("optimizer", optimizer, optax.GradientTransformation, expected)

    def scalar_loss(params, *batch):
        value, aux = loss(params, *batch) if has_aux else (loss(params, *batch), None)
        if getattr(value, "shape", None) != ():
            raise ValueError(_checks.mismatch("loss", "a scalar", _checks.describe(value)))
        return value, aux

    def step(params, opt_state, *batch):
        (value, aux), grads = jax.value_and_grad(scalar_loss, has_aux=True)(params, *batch)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        report = Report(value, optax.tree.norm(grads), aux)
        return optax.apply_updates(params, updates), opt_state, report

    return jax.jit(step, donate_argnums=(0, 1))


def masked_mean(values: jax.Array, mask: jax.Array) -> jax.Array:
    """The mean over valid entries only; 0 if there are none.

    Args:
      values: floating, of any shape, e.g. the losses [B, T] of `optax.losses`. What stands at
        invalid entries (NaN too) changes neither the mean nor its gradient.
      mask: bool, of the same shape.

    Returns:
      A scalar of the dtype of `values`.

    Raises:
      TypeError, ValueError: an argument is not as described.

    >>> import jax.numpy as jnp, seqjax as sj
    >>> losses = jnp.array([[1.0, 3.0], [5.0, jnp.nan]])
    >>> float(sj.train.masked_mean(losses, jnp.array([[True, True], [True, False]])))
    3.0
    """
    values = _checks.as_array("values", values)
    _checks.float_dtype("values", values.dtype)
    mask = _checks.array("mask", mask, values.shape, jnp.bool_)
    count = jnp.maximum(jnp.sum(mask), 1).astype(values.dtype)
    return jnp.sum(jnp.where(mask, values, 0)) / count
