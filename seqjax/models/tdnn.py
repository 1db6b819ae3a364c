"""The time-delay neural network: a finite response."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from seqjax import _checks
from seqjax._static import call_of, dtypes, static_partial
from seqjax._types import Key, PyTree
from seqjax.engine.adjoint import Adjoint
from seqjax.engine.recurrence import Steps, over_steps
from seqjax.models._delay_line import check_delays, extend, read_line, read_series
from seqjax.models._initial import (
    Array,
    Initializers,
    PerGate,
    check_initializers,
    draw_all,
    shown,
)
from seqjax.models._layer import Layer
from seqjax.ops.matmul import add_bias

__all__ = ["tdnn"]


def tdnn(
    input_size: int,
    output_size: int,
    *,
    delays: Sequence[int] = (0, 1, 2),
    activation: Callable | None = None,
    kernel_init: PerGate = None,
    bias_init: PerGate = None,
    use_bias: bool = True,
    dtype: Any = None,
    param_dtype: Any = None,
) -> "TDNN":
    """A layer of a time-delay neural network: y(t) = f(Σ_k x(t - delays[k]) W_k + b).

    A causal convolution over time. What happens at t affects the outputs t … t + N, N the
    largest delay, and no other one. Layers stack into a deep causal network, dilated as in a TCN
    by the choice of their delays; `receptive_field` of a model says how many steps it reads.

    Args:
      input_size: I, the size of x(t).
      output_size: O, the size of y(t).
      delays: integers, each larger than the one before: `range(8)`, or (0, 4, 8, 12).
      activation: f, any function of one vector [O]; the identity if None.
      kernel_init, bias_init: what the parameters start from, each a function
        `(key, shape, dtype) -> array` as `jax.nn.initializers` makes; the default if None.
      use_bias: whether there is a b.
      dtype: of inputs and outputs; JAX's default float if None.
      param_dtype: of the parameters; `dtype` if None.

    Returns:
      A model with params {"kernel": [K, I, O], "bias": [O]} for K delays, drawn from
      U(±1/√(K I)) by default. The state is the delay line, [N, I], the oldest x first, zero
      at first.

    References:
      Notes, section 1; Waibel et al. 1989; Bai et al. 2018, arXiv:1803.01271 (TCN).

    >>> import jax, jax.numpy as jnp, seqjax as sj
    >>> layers = [sj.tdnn(1, 8, delays=(0, d), activation=jnp.tanh) for d in (1,)]
    >>> layers += [sj.tdnn(8, 8, delays=(0, d), activation=jnp.tanh) for d in (2, 4)]
    >>> model = sj.stack(*layers, sj.dense(8, 1))
    >>> model.receptive_field
    8
    >>> sj.unroll(model, model.init(jax.random.key(0)), jnp.ones((10, 1)))[1].shape
    (10, 1)
    """
    dtype = _checks.float_dtype("dtype", dtype)
    return TDNN(
        input_spec=jax.ShapeDtypeStruct((_checks.size("input_size", input_size),), dtype),
        output_size=_checks.size("output_size", output_size),
        delays=check_delays("delays", delays, at_least=0),
        activation=_checks.part("activation", activation, optional=True),
        inits=check_initializers(kernel_init=kernel_init, bias_init=bias_init, use_bias=use_bias),
        param_dtype=_checks.float_dtype("param_dtype", param_dtype, default=dtype),
    )


@dataclass(frozen=True, kw_only=True, repr=False)
class TDNN(Layer):
    """See `tdnn`."""

    delays: tuple[int, ...]
    activation: Callable | None
    inits: Initializers

    @property
    def call(self) -> static_partial:
        options = {"delays": self.delays, "activation": self.activation, **shown(self.inits)}
        options |= dtypes(self.dtype, self.param_dtype)
        return call_of(tdnn, self.input_size, self.output_size, **options)

    @property
    def receptive_field(self) -> int:  # type: ignore[override]  # a constant of most kinds
        return self.delays[-1] + 1

    def init(self, key: Key) -> dict[str, jax.Array]:
        kernel = (len(self.delays), self.input_size, self.output_size)
        bound = math.prod(kernel[:2]) ** -0.5
        arrays = {
            "kernel": Array(kernel, bound, "kernel_init"),
            "bias": Array((self.output_size,), bound, "bias_init"),
        }
        keys = _checks.keys(key, len(arrays))
        return draw_all(keys, arrays, self.inits, self.param_dtype)

    def initial_state(self, params: PyTree) -> jax.Array:
        return jnp.zeros((self.delays[-1], self.input_size), self.dtype)

    def step_cast(
        self, params: PyTree, state: jax.Array, x: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        line = extend(state, x[None])
        return line[1:], self._activate(params, read_line(self.delays, params["kernel"], line))

    def scan_cast(
        self, params: PyTree, state: jax.Array, xs: jax.Array, steps: Steps, adjoint: Adjoint
    ) -> tuple[jax.Array, jax.Array]:
        state, us = read_series(self.delays, params["kernel"], state, xs, steps)
        return state, over_steps(self._activate, params, us)

    def _activate(self, params: PyTree, u: jax.Array) -> jax.Array:
        z = add_bias(u, params.get("bias"))
        return z if self.activation is None else self.activation(z)
