"""The state-space RNN of the notes (Elman's architecture, trained by full BPTT)."""

import jax
import jax.numpy as jnp

from seqjax import _checks
from seqjax._bind import bind
from seqjax.models._recurrent import recurrent_cell, zero_vector
from seqjax.models.cell import Cell
from seqjax.ops.rows import matmul

__all__ = ["rnn"]


def rnn(
    input_size: int,
    hidden_size: int,
    *,
    activation=jnp.tanh,
    learn_initial_state: bool = False,
    dtype=None,
    param_dtype=None,
) -> Cell:
    """The simple recurrent network: h(t) = f(W1 x(t) + W11 h(t-1) + b), y(t) = h(t).

    Args:
      input_size: I, the size of x(t).
      hidden_size: H, the size of h(t).
      activation: f, any function of one vector [H]; tanh and `jax.nn.relu` have rules by hand.
      learn_initial_state: whether h(-1) is a parameter (from zero) instead of zero.
      dtype: of inputs, states and outputs; JAX's default float if None.
      param_dtype: of the parameters; `dtype` if None.

    Returns:
      A cell with params {"kernel": [I, H], "recurrent_kernel": [H, H], "bias": [H]}, drawn
      from U(±1/√H), and "initial_state": [H] if it is learned. The state is h, [H].

    Raises:
      TypeError, ValueError: an argument is not as described.

    References:
      Notes, sections 3 and 4; Elman 1990, Finding structure in time.

    >>> import jax, jax.numpy as jnp, seqjax as sj
    >>> cell = sj.rnn(3, 4, activation=jax.nn.relu)
    >>> h, ys = cell.unroll(cell.init(jax.random.key(0)), jnp.ones((10, 3)))
    >>> h.shape, ys.shape
    ((4,), (10, 4))
    """
    _checks.part("activation", activation)
    return recurrent_cell(
        "rnn",
        input_size,
        hidden_size,
        gates=1,
        adjust=None,
        zero_state=zero_vector,
        learn_initial_state=learn_initial_state,
        dtype=dtype,
        param_dtype=param_dtype,
        project=project,
        preactivate=preactivate,
        preactivate_vjp=preactivate_vjp,
        activate=bind(activate, activation),
        activate_vjp=activation_rule(activation),
    )


def project(params, x):
    return matmul(x, params["kernel"], params["bias"])


def preactivate(params, h_prev, u):
    return u + matmul(h_prev, params["recurrent_kernel"])


def preactivate_vjp(params, h_prev, u, z, dz):
    return matmul(dz, params["recurrent_kernel"].T)


def activate(activation, z, h_prev):
    return activation(z)


def activation_rule(activation):
    """∇_Z = ∇_h f'(Z): by hand where f' is known, by JAX for any other f."""
    return {jnp.tanh: tanh_vjp, jax.nn.tanh: tanh_vjp, jax.nn.relu: relu_vjp}.get(
        activation, bind(other_vjp, activation)
    )


def tanh_vjp(z, h_prev, h, dh):
    return dh * (1 - h * h), None


def relu_vjp(z, h_prev, h, dh):
    return jnp.where(h > 0, dh, 0), None


def other_vjp(activation, z, h_prev, h, dh):
    return jax.vjp(activation, z)[1](dh)[0], None
