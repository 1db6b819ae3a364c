"""A series shifted by a step, and an array repeated along new axes, the batch behind time.

See `seqjax.ops.rows` for why these are primitives.
"""

from typing import Any

import jax
import jax.numpy as jnp

from seqjax.ops._jax import ad, axes_of, batching, repeated, zero_tangent
from seqjax.ops.rows import rows_primitive, sum_rows, vary_alike

__all__ = ["shifted", "spread"]


def shifted(first: jax.Array, series: jax.Array) -> jax.Array:
    """`first` [...], then `series` [T, ...] without its last: what each step starts from."""
    return _shift.bind(*vary_alike(first, series))


def spread(x: jax.Array, like: jax.Array, *rows: int) -> jax.Array:
    """`x` [...] repeated along new leading axes [*rows, ...], batched wherever `like` is.

    What is repeated by a primitive has its gradient summed by one, over rows and batch at once.
    """
    return _spread.bind(*vary_alike(x, like), rows=rows, axes=(None,) * len(rows))


def _concatenate(first: jax.Array, series: jax.Array) -> jax.Array:
    return jnp.concatenate([first[None], series[:-1]])


def _batch_shift(operands: Any, places: Any) -> Any:
    pairs = list(zip(operands, places, strict=True))
    (size, axis), *_ = ((a.shape[n], axes_of(a)[n]) for a, n in pairs if n is not None)
    (first, from_first), (series, from_series) = (
        (repeated(a, (size,), (axis,)), 0) if n is None else (a, n) for a, n in pairs
    )
    return _shift.bind(jnp.moveaxis(first, from_first, 0), jnp.moveaxis(series, from_series, 1)), 1


def _transpose_shift(cotangent: Any, first: Any, series: Any) -> Any:
    rest = jnp.concatenate([cotangent[1:], jnp.zeros_like(cotangent[:1])])
    return cotangent[0], rest


_shift = rows_primitive("rows_shift", _concatenate, lambda first, series: series)
ad.deflinear2(_shift, _transpose_shift)
batching.primitive_batchers[_shift] = _batch_shift


def _broadcast(x: jax.Array, like: jax.Array, *, rows: tuple[int, ...], axes: tuple) -> jax.Array:
    del like
    return repeated(x, rows, axes)


def _batch_spread(operands: Any, places: Any, *, rows: tuple[int, ...], axes: tuple) -> Any:
    (x, like), (x_place, like_place) = operands, places
    place = len(rows)  # behind time
    if x_place is not None:
        x = jnp.moveaxis(x, x_place, 0)
    else:
        rows = (*rows, like.shape[like_place])
        axes = (*axes, axes_of(like)[like_place])
    # Of `like` no more than what is mapped is read.
    return _spread.bind(x, like, rows=rows, axes=axes), place


def _jvp_spread(primals: Any, tangents: Any, **static: Any) -> Any:
    (x, like), (d_x, _) = primals, tangents
    y = _spread.bind(x, like, **static)
    if isinstance(d_x, ad.Zero):
        return y, zero_tangent(y)
    return y, _spread.bind(d_x, like, **static)


def _transpose_spread(
    cotangent: Any, x: Any, like: Any, *, rows: tuple[int, ...], axes: tuple
) -> Any:
    if isinstance(cotangent, ad.Zero):
        return None, None
    return sum_rows(cotangent, len(rows)), None


_spread = rows_primitive(
    "rows_spread", _broadcast, lambda x, like, *, rows, axes: (*rows, *x), "rows", "axes"
)
ad.primitive_jvps[_spread] = _jvp_spread
ad.primitive_transposes[_spread] = _transpose_spread
batching.primitive_batchers[_spread] = _batch_spread
