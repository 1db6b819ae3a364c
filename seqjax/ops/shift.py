"""A series shifted by a step, and an array repeated along new axes, the batch behind time.

See `seqjax.ops.rows` for why these are primitives.
"""

from typing import Any

import jax
import jax.numpy as jnp

from seqjax.ops._jax import ad, batching, has_explicit_axes, zero_tangent
from seqjax.ops.rows import rows_primitive, sum_rows, vary_alike

__all__ = ["shifted", "spread"]


def shifted(first: jax.Array, series: jax.Array) -> jax.Array:
    """`first` [...], then `series` [T, ...] without its last: what each step starts from."""
    if has_explicit_axes(first, series):
        return _concatenate(first, series)
    return _shift.bind(*vary_alike(first, series))


def spread(x: jax.Array, like: jax.Array, *rows: int) -> jax.Array:
    """`x` [...] repeated along new leading axes [*rows, ...], batched wherever `like` is.

    What is repeated by a primitive has its gradient summed by one, over rows and batch at once.
    """
    if has_explicit_axes(x, like):
        return _broadcast(x, like, rows=rows)
    return _spread.bind(*vary_alike(x, like), rows=rows)


def _concatenate(first: jax.Array, series: jax.Array) -> jax.Array:
    return jnp.concatenate([first[None], series[:-1]])


def _batch_shift(operands: Any, axes: Any) -> Any:
    (size, *_) = (a.shape[n] for a, n in zip(operands, axes, strict=True) if n is not None)
    first, series = (
        jnp.moveaxis(jnp.broadcast_to(a, (size, *a.shape)) if axis is None else a, axis or 0, place)
        for a, axis, place in zip(operands, axes, (0, 1), strict=True)
    )
    return _shift.bind(first, series), 1


def _transpose_shift(cotangent: Any, first: Any, series: Any) -> Any:
    rest = jnp.concatenate([cotangent[1:], jnp.zeros_like(cotangent[:1])])
    return cotangent[0], rest


_shift = rows_primitive("rows_shift", _concatenate, lambda first, series: series)
ad.deflinear2(_shift, _transpose_shift)
batching.primitive_batchers[_shift] = _batch_shift


def _broadcast(x: jax.Array, like: jax.Array, *, rows: tuple[int, ...]) -> jax.Array:
    del like
    return jnp.broadcast_to(x, (*rows, *x.shape))


def _batch_spread(operands: Any, axes: Any, *, rows: tuple[int, ...]) -> Any:
    (x, like), (x_axis, like_axis) = operands, axes
    place = len(rows)  # behind time
    if x_axis is not None:
        x = jnp.moveaxis(x, x_axis, 0)
    else:
        rows = (*rows, like.shape[like_axis])
    return _spread.bind(x, like, rows=rows), place  # of `like` no more than what is mapped is read


def _jvp_spread(primals: Any, tangents: Any, *, rows: tuple[int, ...]) -> Any:
    (x, like), (d_x, _) = primals, tangents
    y = _spread.bind(x, like, rows=rows)
    if isinstance(d_x, ad.Zero):
        return y, zero_tangent(y)
    return y, _spread.bind(d_x, like, rows=rows)


def _transpose_spread(cotangent: Any, x: Any, like: Any, *, rows: tuple[int, ...]) -> Any:
    if isinstance(cotangent, ad.Zero):
        return None, None
    return sum_rows(cotangent, len(rows)), None


_spread = rows_primitive("rows_spread", _broadcast, lambda x, like, *, rows: (*rows, *x), "rows")
ad.primitive_jvps[_spread] = _jvp_spread
ad.primitive_transposes[_spread] = _transpose_spread
batching.primitive_batchers[_spread] = _batch_spread
