"""A dense layer at every time step: the readout y(t) = f(W x(t) + b)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax

from seqjax import _checks
from seqjax._dtypes import cast
from seqjax.engine.recurrence import over_steps
from seqjax.engine.unroll import Model, check_params, check_state
from seqjax.ops.rows import matmul

__all__ = ["dense"]


def dense(
    input_size: int,
    output_size: int,
    *,
    activation: Callable | None = None,
    dtype=None,
    param_dtype=None,
) -> "Dense":
    """A dense layer, the same at every time step: y(t) = f(x(t) W + b).

    Args:
      input_size: I, the size of x(t).
      output_size: O, the size of y(t).
      activation: f, any function of one vector [O] (`jax.nn.softmax` too); none if None.
      dtype: of inputs and outputs; JAX's default float if None.
      param_dtype: of the parameters; `dtype` if None.

    Returns:
      A model with params {"kernel": [I, O], "bias": [O]}, drawn from U(±1/√I), and the
      empty state ().

    Raises:
      TypeError, ValueError: an argument is not as described.

    References:
      Notes, section 4: Y(t) = f2(W2 h(t) + b2).

    >>> import jax, jax.numpy as jnp, seqjax as sj
    >>> layer = sj.dense(4, 2)
    >>> layer.unroll(layer.init(jax.random.key(0)), jnp.ones((10, 4)))[1].shape
    (10, 2)
    """
    dtype = _checks.float_dtype("dtype", dtype)
    return Dense(
        jax.ShapeDtypeStruct((_checks.size("input_size", input_size),), dtype),
        _checks.size("output_size", output_size),
        _checks.part("activation", activation, optional=True),
        _checks.float_dtype("param_dtype", param_dtype, default=dtype),
    )


@dataclass(frozen=True, repr=False)
class Dense(Model):
    """See `dense`."""

    input: jax.ShapeDtypeStruct
    output_size: int
    activation: Callable | None
    param_dtype: Any
    receptive_field = 1

    def __repr__(self):
        return f"<dense({self.input.shape[0]}, {self.output_size})>"

    def init(self, key):
        (input_size,) = self.input.shape
        bound = input_size**-0.5
        draw = lambda k, *shape: jax.random.uniform(k, shape, self.param_dtype, -bound, bound)
        kernel_key, bias_key = _checks.keys(key, 2)
        return {
            "kernel": draw(kernel_key, input_size, self.output_size),
            "bias": draw(bias_key, self.output_size),
        }

    def initial_state(self, params):
        return ()

    def step(self, params, state, x):
        params, state = check_params(self, params), check_state(self, params, state)
        x = _checks.one("x", x, self.input)
        return state, self._apply(cast(params, self.input.dtype), x)

    def window(self, params, state, xs, steps, adjoint):
        params = cast(params, self.input.dtype)
        return state, over_steps(self._apply, params, xs)

    def _apply(self, params, x):
        y = matmul(x, params["kernel"], params["bias"])
        return y if self.activation is None else self.activation(y)
