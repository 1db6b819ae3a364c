"""An embedding: a vector for each token."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from seqjax import _checks
from seqjax._static import call_of, dtypes, static_partial
from seqjax._types import Key
from seqjax.models._pointwise import Pointwise
from seqjax.ops.lookup import lookup

__all__ = ["embed"]


def embed(
    vocabulary_size: int, features: int, *, dtype: Any = None, param_dtype: Any = None
) -> "Embed":
    """An embedding: y(t) is the row x(t) of a table W, which is learned.

        y(t) = W[x(t)]

    It is `dense` without a bias on one-hot vectors, by a lookup in place of a product.

    Args:
      vocabulary_size: V, the number of tokens. x(t) is an integer scalar in [0, V), of any
        integer dtype.
      features: F, the size of y(t).
      dtype: of outputs; JAX's default float if None.
      param_dtype: of the parameters; `dtype` if None.

    Returns:
      A model with params {"kernel": [V, F]}, drawn from N(0, 1). Its state is empty, ().

      A token outside [0, V) is a ValueError where its value is known. Where it is traced (inside
      `jit`, `grad`, `vmap`, …) its y(t) is NaN, so that it shows in the loss, and no row of W
      stands for it. Tokens at invalid steps are not read.

    References:
      Bengio et al. 2003, A neural probabilistic language model, section 2.

    >>> import jax, jax.numpy as jnp, seqjax as sj
    >>> model = sj.stack(sj.embed(50, 8), sj.lstm(8, 16), sj.dense(16, 50))
    >>> params, tokens = model.init(jax.random.key(0)), jnp.array([3, 14, 15])
    >>> sj.unroll(model, params, tokens)[1].shape
    (3, 50)
    """
    dtype = _checks.float_dtype("dtype", dtype)
    return Embed(
        vocabulary_size=_checks.size("vocabulary_size", vocabulary_size),
        features=_checks.size("features", features),
        dtype=dtype,
        param_dtype=_checks.float_dtype("param_dtype", param_dtype, default=dtype),
    )


@dataclass(frozen=True, kw_only=True, repr=False)
class Embed(Pointwise):
    """See `embed`."""

    vocabulary_size: int
    features: int
    dtype: Any
    param_dtype: Any
    input_spec = jax.ShapeDtypeStruct((), jnp.int32)

    @property
    def call(self) -> static_partial:
        options = dtypes(self.dtype, self.param_dtype)
        return call_of(embed, self.vocabulary_size, self.features, **options)

    @property
    def output_spec(self) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((self.features,), self.dtype)

    def init(self, key: Key) -> dict[str, jax.Array]:
        shape = self.vocabulary_size, self.features
        return {"kernel": jax.random.normal(_checks.key("key", key), shape, self.param_dtype)}

    def apply(self, params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
        return lookup(params["kernel"], x)
