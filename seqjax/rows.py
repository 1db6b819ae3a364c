"""``rows @ W``: a matmul whose batching rule folds a vmapped axis into the rows.

``vmap`` of a plain ``x @ W`` over time and batch gives a product on ``[T, B, I]``. JAX
transposes it into a contraction over two axes, for which XLA first copies a transposed
cotangent. Folding every mapped axis into the rows keeps the product two-dimensional, so
that its weight gradient is one ``rowsᵀ @ cotangent``, pooled over time and batch alike.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from seqjax import _checks

__all__ = ["matmul"]


def matmul(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Multiplies rows with a kernel; under ``vmap`` the mapped axis of ``x`` becomes rows.

    Use it for the matmuls of a cell of your own: ``jax.vmap`` then costs nothing, forward
    or backward. It differentiates to any order, in both modes.

    Args:
      x: [I] or [rows, I].
      kernel: [I, O], of the same dtype.

    Returns:
      [O] or [rows, O].

    Raises:
      ValueError: the ranks or the inner sizes do not fit.
      TypeError: the dtypes differ.

    >>> import jax, jax.numpy as jnp, seqjax as sj
    >>> xs, kernel = jnp.ones((7, 3)), jnp.ones((3, 2))
    >>> jax.vmap(sj.matmul, (0, None))(xs, kernel).shape
    (7, 2)
    """
    _checks.matmul_operands(x, kernel)
    return _rows_matmul.bind(x, kernel)


def _dot(x, kernel):
    return lax.dot_general(x, kernel, (((x.ndim - 1,), (0,)), ((), ())))


def _kernel_cotangent(cotangent, x, kernel):
    del kernel
    if x.ndim == 1:
        x, cotangent = x[None], cotangent[None]
    return lax.dot_general(x, cotangent, (((0,), (0,)), ((), ())))


def _rows_cotangent(cotangent, x, kernel):
    del x
    return _rows_matmul.bind(cotangent, kernel.T)


def _abstract_eval(x, kernel):
    return x.update(shape=(*x.shape[:-1], kernel.shape[1]), weak_type=False)


def _batch(operands, axes):
    (x, kernel), (x_axis, kernel_axis) = operands, axes
    if kernel_axis is not None:  # another kernel for every example: nothing to fold
        return jax.vmap(_dot, in_axes=axes)(x, kernel), 0
    if x.ndim == 2:
        return _rows_matmul.bind(jnp.moveaxis(x, x_axis, 0), kernel), 0
    # Beside the rows that are there already (time): a scan over these wants it so.
    x = jnp.moveaxis(x, x_axis, 1)
    rows, batch, size = x.shape
    product = _rows_matmul.bind(x.reshape(rows * batch, size), kernel)
    return product.reshape(rows, batch, kernel.shape[1]), 1


_rows_matmul = Primitive("rows_matmul")
_rows_matmul.def_impl(_dot)
_rows_matmul.def_abstract_eval(_abstract_eval)
mlir.register_lowering(_rows_matmul, mlir.lower_fun(_dot, multiple_results=False))
ad.defbilinear(_rows_matmul, _rows_cotangent, _kernel_cotangent)
batching.primitive_batchers[_rows_matmul] = _batch
