"""A dense layer at every time step: the readout y(t) = f(W x(t) + b)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax

from seqjax import _checks
from seqjax._static import call_of, dtypes, static_partial
from seqjax._types import Key, PyTree
from seqjax.models._initial import (
    Array,
    Initializers,
    PerGate,
    check_initializers,
    draw_all,
    shown,
)
from seqjax.models._pointwise import Pointwise
from seqjax.ops.matmul import matmul

__all__ = ["dense"]


def dense(
    input_size: int,
    output_size: int,
    *,
    activation: Callable | None = None,
    kernel_init: PerGate = None,
    bias_init: PerGate = None,
    use_bias: bool = True,
    dtype: Any = None,
    param_dtype: Any = None,
) -> "Dense":
    """A dense layer, the same at every time step: y(t) = f(x(t) W + b).

    Args:
      input_size: I, the size of x(t).
      output_size: O, the size of y(t).
      activation: f, any function of one vector [O] (`jax.nn.softmax` too); the identity if None.
      kernel_init, bias_init: what the parameters start from, each a function
        `(key, shape, dtype) -> array` as `jax.nn.initializers` makes; the default if None.
      use_bias: whether there is a b.
      dtype: of inputs and outputs; JAX's default float if None.
      param_dtype: of the parameters; `dtype` if None.

    Returns:
      A model with params {"kernel": [I, O], "bias": [O]}, both drawn from U(±1/√I) by default. Its
      state is empty, ().

    References:
      Notes, section 4: Y(t) = f2(W2 h(t) + b2).

    >>> import jax, jax.numpy as jnp, seqjax as sj
    >>> layer = sj.dense(4, 2)
    >>> sj.unroll(layer, layer.init(jax.random.key(0)), jnp.ones((10, 4)))[1].shape
    (10, 2)
    """
    dtype = _checks.float_dtype("dtype", dtype)
    return Dense(
        input_spec=jax.ShapeDtypeStruct((_checks.size("input_size", input_size),), dtype),
        output_size=_checks.size("output_size", output_size),
        activation=_checks.part("activation", activation, optional=True),
        inits=check_initializers(kernel_init=kernel_init, bias_init=bias_init, use_bias=use_bias),
        param_dtype=_checks.float_dtype("param_dtype", param_dtype, default=dtype),
    )


@dataclass(frozen=True, kw_only=True, repr=False)
class Dense(Pointwise):
    """See `dense`."""

    input_spec: jax.ShapeDtypeStruct
    output_size: int
    activation: Callable | None
    inits: Initializers
    param_dtype: Any

    @property
    def call(self) -> static_partial:
        options = {"activation": self.activation, **shown(self.inits)}
        options |= dtypes(self.dtype, self.param_dtype)
        return call_of(dense, self.input_size, self.output_size, **options)

    @property
    def dtype(self) -> Any:
        return self.input_spec.dtype

    @property
    def input_size(self) -> int:
        return self.input_spec.shape[0]

    def init(self, key: Key) -> dict[str, jax.Array]:
        bound = self.input_size**-0.5
        arrays = {
            "kernel": Array((self.input_size, self.output_size), bound, "kernel_init"),
            "bias": Array((self.output_size,), bound, "bias_init"),
        }
        keys = _checks.keys(key, len(arrays))
        return draw_all(keys, arrays, self.inits, self.param_dtype)

    def apply(self, params: PyTree, x: jax.Array) -> jax.Array:
        y = matmul(x, params["kernel"], params.get("bias"))
        return y if self.activation is None else self.activation(y)
