"""What the primitives on rows share: how they are made, batched and summed.

Rows are folded only where the program is compiled for one device (or inside `jax.shard_map`).
XLA can not shard the folded rows ``T·B`` along ``B``: it would gather the whole batch on
every device first. The axes kept apart, the one communication left is the all-reduce of the
weight gradient.

Beside the matmul, the operations are JAX's own but for where `vmap` puts the batch: behind time,
where a scan wants it, and not before it, for which XLA would copy the whole series, and back again.
Sums over rows and batch of half-precision numbers are formed in float32: in half precision they
stop growing after a few hundred terms.

Arrays on a mesh with explicit axes have their sharding in their type, and JAX's own operations know
the rules of these types: there an operation has the type that JAX gives to what it does.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from seqjax._tree import wide_dtype
from seqjax.ops._jax import (
    Primitive,
    ad,
    batching,
    has_explicit_axes,
    mlir,
    number_of_devices,
    repeated,
    type_of_result,
    vary_over,
    varying_axes,
)

__all__ = ["beside_rows", "rows_primitive", "sum_rows", "vary_alike"]


def rows_primitive(
    name: str, function: Callable, shape_of: Callable, *params: str, folded: Callable | None = None
) -> Primitive:
    """`function` with batching and derivatives still to be defined.

    `params` are the names of its static arguments; `folded` computes the same on one device.
    """
    primitive = Primitive(name)
    primitive.def_impl(jax.jit(function, static_argnames=params))

    def abstract_eval(*at: Any, **params: Any) -> Any:
        if has_explicit_axes(*at):
            return type_of_result(partial(function, **params), *at)
        return at[0].update(shape=shape_of(*(a.shape for a in at), **params), weak_type=False)

    primitive.def_abstract_eval(abstract_eval)
    apart, together = (
        mlir.lower_fun(f, multiple_results=False) for f in (function, folded or function)
    )

    def lower(ctx: Any, *operands: Any, **params: Any) -> Any:
        one = number_of_devices(ctx) in (None, 1) and not has_explicit_axes(*ctx.avals_in)
        return (together if one else apart)(ctx, *operands, **params)

    mlir.register_lowering(primitive, lower)
    return primitive


def vary_alike(*arrays: jax.Array) -> list[jax.Array]:
    """Inside `shard_map`: what is replicated counts as varying, so that its gradient is summed.

    JAX's own operations do so; a primitive of one's own has to.
    """
    axes: frozenset = frozenset().union(*map(varying_axes, arrays))
    return [vary_over(axes, a) for a in arrays]


def beside_rows(x: jax.Array) -> int:
    """Where a mapped axis goes: behind the rows there already (time), as a scan over them wants."""
    return x.ndim - 2


def sum_rows(a: jax.Array, rows: int) -> jax.Array:
    """The sum over the first `rows` axes."""
    return _sum_rows.bind(a, rows=rows)


def _sum(a: jax.Array, *, rows: int) -> jax.Array:
    return jnp.sum(a, tuple(range(rows)), dtype=wide_dtype(a.dtype)).astype(a.dtype)


def _transpose_sum(cotangent: Any, a: Any, *, rows: int) -> list:
    return [repeated(cotangent, a.aval.shape[:rows], a.aval.sharding.spec[:rows])]


_sum_rows = rows_primitive("rows_sum", _sum, lambda a, *, rows: a[rows:], "rows")
ad.deflinear2(_sum_rows, _transpose_sum)
batching.primitive_batchers[_sum_rows] = lambda operands, axes, **rows: (
    jax.vmap(partial(_sum, **rows), axes)(*operands),
    0,
)
