"""Layer normalization of one vector, LN(a) = (a - mean(a)) / √(var(a) + ε), and of products."""

import jax
import jax.numpy as jnp
from jax import lax

from seqjax._tree import wide_dtype
from seqjax._types import Key, PyTree
from seqjax.models._parts import Part
from seqjax.ops.matmul import matmul

__all__ = ["NORMED_PRODUCT", "add_scales", "normalize", "normalize_vjp"]

EPSILON = 1e-5


def normalize(a: jax.Array) -> jax.Array:
    """LN(a) of one vector."""
    return _centered(a)[0].astype(a.dtype)


def normalize_vjp(a: jax.Array, d: jax.Array) -> jax.Array:
    """The part of d / √(var(a) + ε) that changes neither the mean of a nor its length."""
    normal, inverse = _centered(a)
    d = d.astype(normal.dtype)
    along = jnp.mean(d * normal)
    return (inverse * (d - jnp.mean(d) - normal * along)).astype(a.dtype)


def _centered(a: jax.Array) -> tuple[jax.Array, jax.Array]:
    """LN(a), and 1 / √(var(a) + ε): of half precision in float32."""
    wide = a.astype(wide_dtype(a.dtype))
    centered = wide - jnp.mean(wide)
    inverse = lax.rsqrt(jnp.mean(centered * centered) + EPSILON)
    return centered * inverse, inverse


# s LN(x W), with a gain s for every unit of every gate.


def normed_product(params: PyTree, name: str, x: jax.Array) -> jax.Array:
    return params[f"{name}_scale"] * normalize(matmul(x, params[name]))


def normed_product_vjp(params: PyTree, name: str, x: jax.Array, d: jax.Array) -> jax.Array:
    kernel = params[name]
    return matmul(normalize_vjp(matmul(x, kernel), params[f"{name}_scale"] * d), kernel.T)


NORMED_PRODUCT = Part(normed_product, normed_product_vjp)


def add_scales(key: Key, params: dict, bound: float) -> dict:
    """Gains of one."""
    kernels = {name: params[name] for name in ("kernel", "recurrent_kernel")}
    return params | {f"{n}_scale": jnp.ones(a.shape[1], a.dtype) for n, a in kernels.items()}
