"""``rows @ W``: a matmul that is two-dimensional whatever axes ``vmap`` adds to the rows.

``vmap`` of a plain ``x @ W`` over time and batch gives a product on ``[T, B, I]``. JAX
transposes it into a contraction over two axes, for which XLA first copies a transposed
cotangent. Folding every mapped axis into the rows keeps the product two-dimensional, so
that its weight gradient is one ``rowsᵀ @ cotangent``, pooled over time and batch alike.

Rows are folded only where the program is compiled for one device (or inside `jax.shard_map`).
XLA can not shard the folded rows ``T·B`` along ``B``: it would gather the whole batch on
every device first. The axes kept apart, the one communication left is the all-reduce of the
weight gradient.

The other operations here, the sum with a bias and the shift by a step, are JAX's own but for
where `vmap` puts the batch: behind time, where a scan wants it, and not before it, for which XLA
would copy the whole series, and back again.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from seqjax import _checks

__all__ = ["matmul", "shifted"]


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
    y = _rows_matmul.bind(*_varying_alike(x, kernel))
    return y if bias is None else _rows_add.bind(*_varying_alike(bias, y))


def _varying_alike(*operands):
    """Inside `shard_map`: what is replicated counts as varying, so that its gradient is summed.

    JAX's own operations do so; a primitive of one's own has to.
    """
    axes = [_varying(jax.typeof(a)) for a in operands]
    missing = [tuple(frozenset().union(*axes) - own) for own in axes]
    return [_vary(a, names) if names else a for a, names in zip(operands, missing, strict=True)]


# Both names have changed between the versions of JAX that are supported.
def _vary(a, names):
    return lax.pcast(a, names, to="varying") if hasattr(lax, "pcast") else lax.pvary(a, names)  # type: ignore[attr-defined]


def _varying(aval) -> frozenset:
    if hasattr(aval, "manual_axis_type"):
        return aval.manual_axis_type.varying
    return aval.vma


def _dot(x, kernel):
    return lax.dot_general(x, kernel, (((x.ndim - 1,), (0,)), ((), ())))


def _pooled_dot(x, cotangent):
    rows = tuple(range(x.ndim - 1))
    return lax.dot_general(x, cotangent, ((rows, rows), ((), ())))


def _fold(a):
    return a.reshape(-1, a.shape[-1])


def _folded_dot(x, kernel):
    return _dot(_fold(x), kernel).reshape(*x.shape[:-1], kernel.shape[1])


def _folded_pooled_dot(x, cotangent):
    return _pooled_dot(_fold(x), _fold(cotangent))


def _kernel_cotangent(cotangent, x, kernel):
    del kernel
    return _pool.bind(x, cotangent)


def _rows_cotangent(cotangent, x, kernel):
    del x
    return _rows_matmul.bind(cotangent, kernel.T)


def _abstract_eval(x, kernel):
    return x.update(shape=(*x.shape[:-1], kernel.shape[1]), weak_type=False)


def _batch(operands, axes):
    (x, kernel), (x_axis, kernel_axis) = operands, axes
    if kernel_axis is not None:  # another kernel for every example: nothing to fold
        return jax.vmap(_dot, in_axes=axes)(x, kernel), 0
    axis = _beside_rows(x)
    return _rows_matmul.bind(jnp.moveaxis(x, x_axis, axis), kernel), axis


def _beside_rows(x):
    """Where a mapped axis goes: behind the rows there already (time), as a scan over them wants."""
    return 0 if x.ndim == 2 else x.ndim - 2


def _batch_pool(operands, axes):  # a weight gradient for every example was asked for
    return jax.vmap(_pooled_dot, in_axes=axes)(*operands), 0


def _lowering(apart, folded):
    apart, folded = (mlir.lower_fun(f, multiple_results=False) for f in (apart, folded))

    def lower(ctx, *operands):
        devices = getattr(ctx.module_context.axis_context, "num_devices", None)
        return (folded if devices in (None, 1) else apart)(ctx, *operands)

    return lower


_rows_matmul = Primitive("rows_matmul")
_rows_matmul.def_impl(_dot)
_rows_matmul.def_abstract_eval(_abstract_eval)
mlir.register_lowering(_rows_matmul, _lowering(_dot, _folded_dot))
ad.defbilinear(_rows_matmul, _rows_cotangent, _kernel_cotangent)
batching.primitive_batchers[_rows_matmul] = _batch

_pool = Primitive("rows_pool")  # the sum over rows of their outer products
_pool.def_impl(_pooled_dot)
_pool.def_abstract_eval(lambda x, d: x.update(shape=(x.shape[-1], d.shape[-1]), weak_type=False))
mlir.register_lowering(_pool, _lowering(_pooled_dot, _folded_pooled_dot))
ad.defbilinear(
    _pool,
    lambda cotangent, x, d: _rows_matmul.bind(d, cotangent.T),
    lambda cotangent, x, d: _rows_matmul.bind(x, cotangent),
)
batching.primitive_batchers[_pool] = _batch_pool


def _primitive(name: str, function, shape_of) -> Primitive:
    """`function` with batching and derivatives still to be defined."""
    primitive = Primitive(name)
    primitive.def_impl(function)
    primitive.def_abstract_eval(lambda *at: at[-1].update(shape=shape_of(*at), weak_type=False))
    mlir.register_lowering(primitive, mlir.lower_fun(function, multiple_results=False))
    return primitive


def _add(bias, y):
    return y + lax.broadcast_in_dim(bias, y.shape, (y.ndim - 1,))


def _batch_add(operands, axes):
    (bias, y), (bias_axis, y_axis) = operands, axes
    if bias_axis is not None:
        return jax.vmap(_add, in_axes=axes)(bias, y), 0
    axis = _beside_rows(y)
    return _rows_add.bind(bias, jnp.moveaxis(y, y_axis, axis)), axis


def _jvp_add(primals, tangents):
    y = _rows_add.bind(*primals)
    d_bias, d_y = tangents
    if isinstance(d_bias, ad.Zero):
        return y, d_y
    return y, _rows_add.bind(d_bias, ad.instantiate_zeros(d_y))


def _transpose_add(cotangent, bias, y):
    to_bias = _rows_sum.bind(cotangent) if ad.is_undefined_primal(bias) else None
    return to_bias, cotangent if ad.is_undefined_primal(y) else None


_rows_add = _primitive("rows_add", _add, lambda bias, y: y.shape)
ad.primitive_jvps[_rows_add] = _jvp_add
ad.primitive_transposes[_rows_add] = _transpose_add
batching.primitive_batchers[_rows_add] = _batch_add


def _sum(cotangent):
    """Over all rows; a sum in half precision stops growing at a few hundred terms."""
    rows = tuple(range(cotangent.ndim - 1))
    dtype = jnp.float32 if cotangent.dtype.itemsize < 4 else cotangent.dtype
    return jnp.sum(cotangent, rows, dtype=dtype).astype(cotangent.dtype)


def _transpose_sum(cotangent, y):
    return [lax.broadcast_in_dim(cotangent, y.aval.shape, (y.aval.ndim - 1,))]


_rows_sum = _primitive("rows_sum", _sum, lambda y: y.shape[-1:])
ad.deflinear2(_rows_sum, _transpose_sum)
batching.primitive_batchers[_rows_sum] = lambda operands, axes: (jax.vmap(_sum, axes)(*operands), 0)


def shifted(first: jax.Array, series: jax.Array) -> jax.Array:
    """`first` [...], then `series` [T, ...] without its last: what each step starts from."""
    return _shift.bind(*_varying_alike(first, series))


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


_shift = _primitive("rows_shift", _shifted, lambda first, series: series.shape)
ad.deflinear2(_shift, _transpose_shift)
batching.primitive_batchers[_shift] = _batch_shift
