"""Normalization of one step's features."""

import abc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from seqjax import _checks
from seqjax._static import call_of, dtypes, static_partial
from seqjax._tree import cast, wide_dtype
from seqjax._types import Key
from seqjax.models._pointwise import Pointwise

__all__ = ["layer_norm", "rms_norm"]


def layer_norm(
    size: int, *, eps: float = 1e-5, dtype: Any = None, param_dtype: Any = None
) -> "LayerNorm":
    """Layer normalization, of every time step by itself.

        μ = mean(x(t)),  σ² = mean((x(t) - μ)²)
        y(t) = γ (x(t) - μ) / √(σ² + ε) + β

    Args:
      size: F, the size of x(t) and y(t).
      eps: ε.
      dtype: of inputs and outputs; JAX's default float if None. In half precision everything is
        computed in float32, and y(t) rounded.
      param_dtype: of the parameters; `dtype` if None.

    Returns:
      A model with params {"scale": [F], "bias": [F]}, γ of ones and β of zeros. Its state is
      empty, ().

    References:
      Ba et al. 2016, Layer normalization, arXiv:1607.06450.

    >>> import jax, jax.numpy as jnp, seqjax as sj
    >>> block = sj.residual(sj.stack(sj.layer_norm(4), sj.gru(4, 8), sj.dense(8, 8), jax.nn.glu))
    >>> sj.unroll(block, block.init(jax.random.key(0)), jnp.ones((10, 4)))[1].shape
    (10, 4)
    """
    return LayerNorm(**_fields(size, eps, dtype, param_dtype))


def rms_norm(
    size: int, *, eps: float = 1e-6, dtype: Any = None, param_dtype: Any = None
) -> "RMSNorm":
    """Root mean square normalization, of every time step by itself.

        y(t) = γ x(t) / √(mean(x(t)²) + ε)

    Args:
      size: F, the size of x(t) and y(t).
      eps: ε.
      dtype: of inputs and outputs; JAX's default float if None. In half precision everything is
        computed in float32, and y(t) rounded.
      param_dtype: of the parameters; `dtype` if None.

    Returns:
      A model with params {"scale": [F]}, γ of ones. Its state is empty, ().

    References:
      Zhang & Sennrich 2019, Root mean square layer normalization, arXiv:1910.07467.

    >>> import jax, jax.numpy as jnp, seqjax as sj
    >>> norm = sj.rms_norm(2)
    >>> sj.unroll(norm, norm.init(jax.random.key(0)), jnp.full((1, 2), 3.0))[1].round(3).tolist()
    [[1.0, 1.0]]
    """
    return RMSNorm(**_fields(size, eps, dtype, param_dtype))


def _fields(size: int, eps: float, dtype: Any, param_dtype: Any) -> dict[str, Any]:
    dtype = _checks.float_dtype("dtype", dtype)
    return {
        "input_spec": jax.ShapeDtypeStruct((_checks.size("size", size),), dtype),
        "eps": _checks.number("eps", eps, above=0),
        "param_dtype": _checks.float_dtype("param_dtype", param_dtype, default=dtype),
    }


@dataclass(frozen=True, kw_only=True, repr=False)
class _Norm(Pointwise):
    input_spec: jax.ShapeDtypeStruct
    eps: float
    param_dtype: Any

    @property
    def dtype(self) -> Any:
        return self.input_spec.dtype

    @property
    def size(self) -> int:
        return self.input_spec.shape[0]

    def _made_by(self, factory: Callable) -> static_partial:
        return call_of(factory, self.size, eps=self.eps, **dtypes(self.dtype, self.param_dtype))

    def init(self, key: Key) -> dict[str, jax.Array]:
        _checks.key("key", key)
        return {"scale": jnp.ones(self.size, self.param_dtype)}

    def apply(self, params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        wide = cast((params, x), wide_dtype(self.dtype))
        return self.normalize(*wide).astype(self.dtype)

    @abc.abstractmethod
    def normalize(self, params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        """y(t), in float32 at least."""


class LayerNorm(_Norm):
    """See `layer_norm`."""

    @property
    def call(self) -> static_partial:
        return self._made_by(layer_norm)

    def init(self, key: Key) -> dict[str, jax.Array]:
        return super().init(key) | {"bias": jnp.zeros(self.size, self.param_dtype)}

    def normalize(self, params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        return params["scale"] * _over_rms(x - jnp.mean(x), self.eps) + params["bias"]


class RMSNorm(_Norm):
    """See `rms_norm`."""

    @property
    def call(self) -> static_partial:
        return self._made_by(rms_norm)

    def normalize(self, params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        return params["scale"] * _over_rms(x, self.eps)


def _over_rms(x: jax.Array, eps: float) -> jax.Array:
    """X / √(mean(x²) + ε)"""
    return x * lax.rsqrt(jnp.mean(x * x) + eps)
