"""``rows @ W``: a matmul that is two-dimensional whatever axes ``vmap`` adds to the rows.

``vmap`` of a plain ``x @ W`` over time and batch gives a product on ``[T, B, I]``. JAX
transposes it into a contraction over two axes, for which XLA first copies a transposed
cotangent. Folding every mapped axis into the rows keeps the product two-dimensional, so
that its weight gradient is one ``rowsᵀ @ cotangent``, pooled over time and batch alike.

Rows are folded only where the program is compiled for one device (or inside `jax.shard_map`).
XLA can not shard the folded rows ``T·B`` along ``B``: it would gather the whole batch on
every device first. The axes kept apart, the one communication left is the all-reduce of the
weight gradient.

The other operations here, the sum with a bias, the shift by a step and `spread`, are JAX's own but
for where `vmap` puts the batch: behind time, where a scan wants it, and not before it, for which
XLA would copy the whole series, and back again. Sums over rows and batch of half-precision numbers
are formed in float32: in half precision they stop growing after a few hundred terms.

Arrays on a mesh with explicit axes have their sharding in their type, and JAX's own operations know
the rules of these types: there they are used.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from seqjax import _checks
from seqjax.ops._jax import (
    Primitive,
    ad,
    batching,
    has_explicit_axes,
    matmul_precision,
    mlir,
    number_of_devices,
    vary_over,
    varying_axes,
    zero_tangent,
)

__all__ = ["add_bias", "is_half", "matmul", "shifted", "spread", "wide_dtype"]


def matmul(x: jax.Array, kernel: jax.Array, bias: jax.Array | None = None) -> jax.Array:
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
    _checks.matmul_operands(x, kernel, bias)
    if has_explicit_axes(x, kernel):
        y = _dot(x, kernel)
    else:
        # The precision that is in force here: the lowering runs when it no longer is.
        y = _rows_matmul.bind(*_vary_alike(x, kernel), precision=matmul_precision())
    return y if bias is None else add_bias(y, bias)


def add_bias(y: jax.Array, bias: jax.Array) -> jax.Array:
    """``y + bias`` for y [O] or [rows, O], the gradient of the bias summed as one over all rows."""
    if has_explicit_axes(y, bias):
        return _add(bias, y)
    return _rows_add.bind(*_vary_alike(bias, y))


def shifted(first: jax.Array, series: jax.Array) -> jax.Array:
    """`first` [...], then `series` [T, ...] without its last: what each step starts from."""
    if has_explicit_axes(first, series):
        return _shifted(first, series)
    return _shift.bind(*_vary_alike(first, series))


def spread(x: jax.Array, like: jax.Array, *rows: int) -> jax.Array:
    """`x` [...] repeated along new leading axes [*rows, ...], batched wherever `like` is.

    What is repeated by a primitive has its gradient summed by one, over rows and batch at once.
    """
    if has_explicit_axes(x, like):
        return _spread(x, like, rows=rows)
    return _rows_spread.bind(*_vary_alike(x, like), rows=rows)


def _dot(x, kernel, precision=None):
    return lax.dot_general(x, kernel, (((x.ndim - 1,), (0,)), ((), ())), precision=precision)


def _pooled_dot(x, cotangent, precision=None):
    rows = tuple(range(x.ndim - 1))
    dtype = wide_dtype(x.dtype)
    pooled = lax.dot_general(
        x, cotangent, ((rows, rows), ((), ())), precision=precision, preferred_element_type=dtype
    )
    return pooled.astype(x.dtype)


def _vary_alike(*arrays):
    """Inside `shard_map`: what is replicated counts as varying, so that its gradient is summed.

    JAX's own operations do so; a primitive of one's own has to.
    """
    axes = frozenset().union(*map(varying_axes, arrays))
    return [vary_over(axes, a) for a in arrays]


def is_half(dtype) -> bool:
    """Whether sums of many such numbers stop growing, or overflow."""
    return jnp.issubdtype(dtype, jnp.floating) and dtype.itemsize < 4


def wide_dtype(dtype):
    """The dtype in which many numbers of this one are summed."""
    return jnp.dtype(jnp.float32) if is_half(dtype) else dtype


def _fold(a):
    return a.reshape(-1, a.shape[-1])


def _folded_dot(x, kernel, precision=None):
    return _dot(_fold(x), kernel, precision).reshape(*x.shape[:-1], kernel.shape[1])


def _folded_pooled_dot(x, cotangent, precision=None):
    return _pooled_dot(_fold(x), _fold(cotangent), precision)


def _kernel_cotangent(cotangent, x, kernel, **precision):
    del kernel
    return _pool.bind(x, cotangent, **precision)


def _rows_cotangent(cotangent, x, kernel, **precision):
    del x
    return _rows_matmul.bind(cotangent, kernel.T, **precision)


def _batch(operands, axes, **precision):
    (x, kernel), (x_axis, kernel_axis) = operands, axes
    if kernel_axis is not None:  # another kernel for every example: nothing to fold
        return jax.vmap(lambda x, k: _dot(x, k, **precision), in_axes=axes)(x, kernel), 0
    axis = _beside_rows(x)
    return _rows_matmul.bind(jnp.moveaxis(x, x_axis, axis), kernel, **precision), axis


def _beside_rows(x):
    """Where a mapped axis goes: behind the rows there already (time), as a scan over them wants."""
    return 0 if x.ndim == 2 else x.ndim - 2


def _batch_pool(operands, axes, **precision):  # a weight gradient for every example was asked for
    return jax.vmap(partial(_pooled_dot, **precision), in_axes=axes)(*operands), 0


def _primitive(
    name: str, function: Callable, shape_of: Callable, *params: str, folded: Callable | None = None
) -> Primitive:
    """`function` with batching and derivatives still to be defined.

    `params` are the names of its static arguments; `folded` computes the same on one device.
    """
    primitive = Primitive(name)
    primitive.def_impl(jax.jit(function, static_argnames=params))

    def abstract_eval(*at, **params):
        return at[0].update(shape=shape_of(*(a.shape for a in at), **params), weak_type=False)

    primitive.def_abstract_eval(abstract_eval)
    apart, together = (
        mlir.lower_fun(f, multiple_results=False) for f in (function, folded or function)
    )

    def lower(ctx, *operands, **params):
        one = number_of_devices(ctx) in (None, 1)
        return (together if one else apart)(ctx, *operands, **params)

    mlir.register_lowering(primitive, lower)
    return primitive


_rows_matmul = _primitive(
    "rows_matmul",
    _dot,
    lambda x, kernel, **_: (*x[:-1], kernel[1]),
    "precision",
    folded=_folded_dot,
)
ad.defbilinear(_rows_matmul, _rows_cotangent, _kernel_cotangent)
batching.primitive_batchers[_rows_matmul] = _batch

# The sum over rows of their outer products.
_pool = _primitive(
    "rows_pool",
    _pooled_dot,
    lambda x, d, **_: (x[-1], d[-1]),
    "precision",
    folded=_folded_pooled_dot,
)
ad.defbilinear(
    _pool,
    lambda cotangent, x, d, **precision: _rows_matmul.bind(d, cotangent.T, **precision),
    lambda cotangent, x, d, **precision: _rows_matmul.bind(x, cotangent, **precision),
)
batching.primitive_batchers[_pool] = _batch_pool


def _add(bias, y):
    return y + lax.broadcast_in_dim(bias, y.shape, (y.ndim - 1,))


def _batch_add(operands, axes):
    (bias, y), (bias_axis, y_axis) = operands, axes
    if bias_axis is not None:
        return jax.vmap(_add, in_axes=axes)(bias, y), 0
    # Where it is: what comes out of a matmul lies beside the rows already, and to move what comes
    # out of a convolution would copy it. Only the last axis is taken.
    axis = y_axis if y_axis < y.ndim - 1 else _beside_rows(y)
    return _rows_add.bind(bias, jnp.moveaxis(y, y_axis, axis)), axis


def _jvp_add(primals, tangents):
    y = _rows_add.bind(*primals)
    d_bias, d_y = tangents
    if isinstance(d_bias, ad.Zero):
        return y, d_y
    return y, _rows_add.bind(d_bias, ad.instantiate_zeros(d_y))


def _transpose_add(cotangent, bias, y):
    if isinstance(cotangent, ad.Zero):
        return None, None
    to_bias = _sum_rows(cotangent) if ad.is_undefined_primal(bias) else None
    return to_bias, cotangent if ad.is_undefined_primal(y) else None


def _sum_rows(a):
    return _rows_sum.bind(a, rows=a.ndim - 1)


_rows_add = _primitive("rows_add", _add, lambda bias, y: y)
ad.primitive_jvps[_rows_add] = _jvp_add
ad.primitive_transposes[_rows_add] = _transpose_add
batching.primitive_batchers[_rows_add] = _batch_add


def _sum(a, *, rows):
    """Over the first `rows` axes."""
    return jnp.sum(a, tuple(range(rows)), dtype=wide_dtype(a.dtype)).astype(a.dtype)


def _transpose_sum(cotangent, a, *, rows):
    shape = a.aval.shape
    return [lax.broadcast_in_dim(cotangent, shape, tuple(range(rows, len(shape))))]


_rows_sum = _primitive("rows_sum", _sum, lambda a, *, rows: a[rows:], "rows")
ad.deflinear2(_rows_sum, _transpose_sum)
batching.primitive_batchers[_rows_sum] = lambda operands, axes, **rows: (
    jax.vmap(partial(_sum, **rows), axes)(*operands),
    0,
)


def _shifted(first, series):
    return jnp.concatenate([first[None], series[:-1]])


def _batch_shift(operands, axes):
    (size, *_) = (a.shape[n] for a, n in zip(operands, axes, strict=True) if n is not None)
    first, series = (
        jnp.moveaxis(jnp.broadcast_to(a, (size, *a.shape)) if axis is None else a, axis or 0, place)
        for a, axis, place in zip(operands, axes, (0, 1), strict=True)
    )
    return _shift.bind(first, series), 1


def _transpose_shift(cotangent, first, series):
    rest = jnp.concatenate([cotangent[1:], jnp.zeros_like(cotangent[:1])])
    return cotangent[0], rest


_shift = _primitive("rows_shift", _shifted, lambda first, series: series)
ad.deflinear2(_shift, _transpose_shift)
batching.primitive_batchers[_shift] = _batch_shift


def _spread(x, like, *, rows):
    del like
    return jnp.broadcast_to(x, (*rows, *x.shape))


def _batch_spread(operands, axes, *, rows):
    (x, like), (x_axis, like_axis) = operands, axes
    place = len(rows)  # behind time
    if x_axis is not None:
        x = jnp.moveaxis(x, x_axis, 0)
    else:
        rows = (*rows, like.shape[like_axis])
    if like_axis is not None:  # any one of the batch tells as much
        like = lax.index_in_dim(like, 0, like_axis, keepdims=False)
    return _rows_spread.bind(x, like, rows=rows), place


def _jvp_spread(primals, tangents, *, rows):
    (x, like), (d_x, _) = primals, tangents
    y = _rows_spread.bind(x, like, rows=rows)
    if isinstance(d_x, ad.Zero):
        return y, zero_tangent(y)
    return y, _rows_spread.bind(d_x, like, rows=rows)


def _transpose_spread(cotangent, x, like, *, rows):
    if isinstance(cotangent, ad.Zero):
        return None, None
    return _rows_sum.bind(cotangent, rows=len(rows)), None


_rows_spread = _primitive("rows_spread", _spread, lambda x, like, *, rows: (*rows, *x), "rows")
ad.primitive_jvps[_rows_spread] = _jvp_spread
ad.primitive_transposes[_rows_spread] = _transpose_spread
batching.primitive_batchers[_rows_spread] = _batch_spread
