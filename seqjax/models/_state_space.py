"""What the state-space models share: complex kernels in two parts, C h + D x."""

from typing import Any

import jax
from jax import lax

from seqjax._tree import wide_dtype
from seqjax._types import PyTree
from seqjax.ops.matmul import matmul

__all__ = ["diagonal", "feedthrough", "inputs", "readout"]


def inputs(params: PyTree, x: jax.Array) -> jax.Array:
    """B x(t), complex."""
    parts = (matmul(x, params[f"input_kernel_{part}"]) for part in ("real", "imag"))
    return lax.complex(*(part.astype(wide_dtype(part.dtype)) for part in parts))


def readout(params: PyTree, h: jax.Array) -> jax.Array:
    """Re(C h(t))."""
    real, imag = params["output_kernel_real"], params["output_kernel_imag"]
    return matmul(h.real.astype(real.dtype), real) - matmul(h.imag.astype(imag.dtype), imag)


def feedthrough(params: PyTree, x: jax.Array) -> jax.Array:
    """D x(t)."""
    return matmul(x, params["feedthrough_kernel"])


def diagonal(z: Any) -> Any:
    """(a(t), b(t)), as `project` has made them."""
    return z
