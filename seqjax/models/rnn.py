"""The state-space RNN of the notes (Elman's architecture, trained by full BPTT)."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from seqjax import _checks
from seqjax._static import static_partial
from seqjax._types import ActivateVJP, PyTree
from seqjax.models._initial import PerGate
from seqjax.models._recurrent import recurrent_cell, zero_vector
from seqjax.models.cell import Cell
from seqjax.ops.matmul import matmul

__all__ = ["rnn"]


def rnn(
    input_size: int,
    hidden_size: int,
    *,
    activation: Callable[[jax.Array], jax.Array] = jnp.tanh,
    kernel_init: PerGate = None,
    recurrent_init: PerGate = None,
    bias_init: PerGate = None,
    use_bias: bool = True,
    learn_initial_state: bool = False,
    dtype: Any = None,
    param_dtype: Any = None,
) -> Cell:
    """The simple recurrent network: h(t) = f(W1 x(t) + W11 h(t-1) + b), y(t) = h(t).

    Args:
      input_size: I, the size of x(t).
      hidden_size: H, the size of h(t).
      activation: f, any function of one vector [H]; tanh and `jax.nn.relu` have hand-written rules.
      kernel_init, recurrent_init, bias_init: what the parameters start from, each a function
        `(key, shape, dtype) -> array` as `jax.nn.initializers` makes; the default if None.
      use_bias: whether there is a b.
      learn_initial_state: whether h(-1) is a parameter (from zero) instead of zero.
      dtype: of inputs, states and outputs; JAX's default float if None.
      param_dtype: of the parameters; `dtype` if None.

    Returns:
      A cell with params {"kernel": [I, H], "recurrent_kernel": [H, H], "bias": [H]}, all
      drawn from U(±1/√H) by default; and "initial_state": [H], zero at first, if it is learned. The
      state is h, [H].

    References:
      Notes, sections 3 and 4; Elman 1990, Finding structure in time.

    >>> import jax, jax.numpy as jnp, seqjax as sj
    >>> cell = sj.rnn(3, 4, activation=jax.nn.relu)
    >>> h, ys = sj.unroll(cell, cell.init(jax.random.key(0)), jnp.ones((10, 3)))
    >>> h.shape, ys.shape
    ((4,), (10, 4))
    """
    _checks.part("activation", activation)
    return recurrent_cell(
        rnn,
        input_size,
        hidden_size,
        gates=1,
        zero_state=zero_vector,
        options={"activation": activation},
        kernel_init=kernel_init,
        recurrent_init=recurrent_init,
        bias_init=bias_init,
        use_bias=use_bias,
        learn_initial_state=learn_initial_state,
        dtype=dtype,
        param_dtype=param_dtype,
        project=project,
        preactivate=preactivate,
        preactivate_vjp=preactivate_vjp,
        activate=static_partial(activate, activation),
        activate_vjp=activation_rule(activation),
    )


def project(params: PyTree, x: jax.Array) -> jax.Array:
    return matmul(x, params["kernel"], params.get("bias"))


def preactivate(params: PyTree, h_prev: jax.Array, u: jax.Array) -> jax.Array:
    return u + matmul(h_prev, params["recurrent_kernel"])


def preactivate_vjp(
    params: PyTree, h_prev: jax.Array, u: jax.Array, z: jax.Array, dz: jax.Array
) -> jax.Array:
    return matmul(dz, params["recurrent_kernel"].T)


def activate(activation: Callable, z: jax.Array, h_prev: jax.Array) -> jax.Array:
    return activation(z)


def activation_rule(activation: Callable) -> ActivateVJP:
    """∇_Z = ∇_h f'(Z): hand-written where f' is known, by JAX for any other f."""
    return {jnp.tanh: tanh_vjp, jax.nn.tanh: tanh_vjp, jax.nn.relu: relu_vjp}.get(
        activation, static_partial(other_vjp, activation)
    )


def tanh_vjp(
    z: jax.Array, h_prev: jax.Array, h: jax.Array, dh: jax.Array
) -> tuple[jax.Array, None]:
    return dh * (1 - h * h), None


def relu_vjp(
    z: jax.Array, h_prev: jax.Array, h: jax.Array, dh: jax.Array
) -> tuple[jax.Array, None]:
    return jnp.where(h > 0, dh, 0), None


def other_vjp(
    activation: Callable, z: jax.Array, h_prev: jax.Array, h: jax.Array, dh: jax.Array
) -> tuple[jax.Array, None]:
    return jax.vjp(activation, z)[1](dh)[0], None
