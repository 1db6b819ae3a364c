"""``rows @ W + b``: a matmul that is two-dimensional whatever axes ``vmap`` adds to the rows.

``vmap`` of a plain ``x @ W`` over time and batch gives a product on ``[T, B, I]``. JAX
transposes it into a contraction over two axes, for which XLA first copies a transposed
cotangent. Folding every mapped axis into the rows keeps the product two-dimensional, so
that its weight gradient is one ``rowsᵀ @ cotangent``, pooled over time and batch alike.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from seqjax import _checks
from seqjax._tree import wide_dtype
from seqjax._types import Array
from seqjax.ops._jax import (
    ad,
    axes_of,
    batching,
    matmul_precision,
    placed_as,
    repeated,
    sharding,
)
from seqjax.ops.rows import beside_rows, rows_primitive, sum_rows, vary_alike
from seqjax.ops.shift import spread

__all__ = ["add_bias", "matmul"]


def matmul(x: Array, kernel: Array, bias: Array | None = None) -> jax.Array:
    """``x @ kernel + bias``; under ``vmap`` the mapped axis of ``x`` becomes rows.

    Use it for the matmuls of a cell of your own: ``jax.vmap`` then costs nothing, forward
    or backward. It differentiates to any order, in both modes.

    Args:
      x: [I] or [rows, I].
      kernel: [I, O], of the same dtype.
      bias: [O], of the same dtype; nothing is added if None.

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
    rows, weights, shift = _operands(x, kernel, bias)
    # The precision that is in force here: the lowering runs when it no longer is.
    y = _matmul.bind(*vary_alike(rows, weights), precision=matmul_precision())
    return add_bias(y, shift)


def _operands(x: Any, kernel: Any, bias: Any) -> tuple[Any, Any, Any]:
    """The arguments of `matmul`, checked."""
    x, kernel = _checks.as_array("x", x), _checks.as_array("kernel", kernel)
    if kernel.ndim != 2:
        raise ValueError(_checks.mismatch("kernel", "[I, O]", _checks.describe(kernel)))
    if x.ndim not in (1, 2) or x.shape[-1] != kernel.shape[0]:
        expected = f"[{kernel.shape[0]}] or [rows, {kernel.shape[0]}]"
        raise ValueError(_checks.mismatch("x", expected, _checks.describe(x)))
    if x.dtype != kernel.dtype:
        expected = f"the kernel's dtype {kernel.dtype.name}"
        raise TypeError(_checks.mismatch("x", expected, _checks.describe(x)))
    if bias is not None:
        bias = _checks.array("bias", bias, kernel.shape[1:], kernel.dtype)
    return x, kernel, bias


def add_bias(y: jax.Array, bias: jax.Array | None) -> jax.Array:
    """``y + bias`` for y [O] or [rows, O], the gradient of the bias summed as one over all rows.

    Nothing is added where the bias is None.
    """
    if bias is None:
        return y
    return _add_bias.bind(*vary_alike(bias, y))


def _dot(x: jax.Array, kernel: jax.Array, precision: Any = None) -> jax.Array:
    dimensions = (((x.ndim - 1,), (0,)), ((), ()))
    place = sharding((*axes_of(x)[:-1], axes_of(kernel)[-1]), x, kernel)
    return lax.dot_general(x, kernel, dimensions, precision=precision, out_sharding=place)


def _pooled_dot(x: jax.Array, cotangent: jax.Array, precision: Any = None) -> jax.Array:
    rows = tuple(range(x.ndim - 1))
    dtype = wide_dtype(x.dtype)
    pooled = lax.dot_general(
        x,
        cotangent,
        ((rows, rows), ((), ())),
        precision=precision,
        preferred_element_type=dtype,
        out_sharding=sharding((axes_of(x)[-1], axes_of(cotangent)[-1]), x, cotangent),
    )
    return pooled.astype(x.dtype)


def _fold(a: jax.Array) -> jax.Array:
    return a.reshape(-1, a.shape[-1])


def _folded_dot(x: jax.Array, kernel: jax.Array, precision: Any = None) -> jax.Array:
    return _dot(_fold(x), kernel, precision).reshape(*x.shape[:-1], kernel.shape[1])


def _folded_pooled_dot(x: jax.Array, cotangent: jax.Array, precision: Any = None) -> jax.Array:
    return _pooled_dot(_fold(x), _fold(cotangent), precision)


def _kernel_cotangent(cotangent: Any, x: Any, kernel: Any, **precision: Any) -> Any:
    return placed_as(_pool.bind(x, cotangent, **precision), kernel.aval)


def _rows_cotangent(cotangent: Any, x: Any, kernel: Any, **precision: Any) -> Any:
    return placed_as(_matmul.bind(cotangent, kernel.T, **precision), x.aval)


def _batch_matmul(operands: Any, axes: Any, **precision: Any) -> Any:
    (x, kernel), (x_axis, kernel_axis) = operands, axes
    if kernel_axis is not None:  # another kernel for every example: nothing to fold
        return jax.vmap(lambda x, k: _dot(x, k, **precision), in_axes=axes)(x, kernel), 0
    axis = beside_rows(x)
    return _matmul.bind(jnp.moveaxis(x, x_axis, axis), kernel, **precision), axis


def _batch_pool(operands: Any, axes: Any, **precision: Any) -> Any:
    # a weight gradient for every example was asked for
    return jax.vmap(partial(_pooled_dot, **precision), in_axes=axes)(*operands), 0


_matmul = rows_primitive(
    "rows_matmul",
    _dot,
    lambda x, kernel, **_: (*x[:-1], kernel[1]),
    "precision",
    folded=_folded_dot,
)
ad.defbilinear(_matmul, _rows_cotangent, _kernel_cotangent)
batching.primitive_batchers[_matmul] = _batch_matmul

# The sum over rows of their outer products.
_pool = rows_primitive(
    "rows_pool",
    _pooled_dot,
    lambda x, d, **_: (x[-1], d[-1]),
    "precision",
    folded=_folded_pooled_dot,
)
ad.defbilinear(
    _pool,
    lambda c, x, d, **precision: placed_as(_matmul.bind(d, c.T, **precision), x.aval),
    lambda c, x, d, **precision: placed_as(_matmul.bind(x, c, **precision), d.aval),
)
batching.primitive_batchers[_pool] = _batch_pool


def _add(bias: jax.Array, y: jax.Array) -> jax.Array:
    return y + repeated(bias, y.shape[:-1], axes_of(y)[:-1])


def _batch_add(operands: Any, axes: Any) -> Any:
    (bias, y), (bias_axis, y_axis) = operands, axes
    if bias_axis is not None:  # a gradient for every example, summed over its own rows
        return jax.vmap(lambda bias, y: y + spread(bias, bias, *y.shape[:-1]), axes)(bias, y), 0
    # Where it is: what comes out of a matmul lies beside the rows already, and to move what comes
    # out of a convolution would copy it. Only the last axis is taken.
    axis = y_axis if y_axis < y.ndim - 1 else beside_rows(y)
    return _add_bias.bind(bias, jnp.moveaxis(y, y_axis, axis)), axis


def _jvp_add(primals: Any, tangents: Any) -> Any:
    y = _add_bias.bind(*primals)
    d_bias, d_y = tangents
    if isinstance(d_bias, ad.Zero):
        return y, d_y
    return y, _add_bias.bind(d_bias, ad.instantiate_zeros(d_y))


def _transpose_add(cotangent: Any, bias: Any, y: Any) -> Any:
    if isinstance(cotangent, ad.Zero):
        return None, None
    to_bias = to_y = None
    if ad.is_undefined_primal(bias):
        to_bias = placed_as(sum_rows(cotangent, cotangent.ndim - 1), bias.aval)
    if ad.is_undefined_primal(y):
        to_y = placed_as(cotangent, y.aval)
    return to_bias, to_y


_add_bias = rows_primitive("rows_add", _add, lambda bias, y: y)
ad.primitive_jvps[_add_bias] = _jvp_add
ad.primitive_transposes[_add_bias] = _transpose_add
batching.primitive_batchers[_add_bias] = _batch_add
