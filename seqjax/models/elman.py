"""Elman's network as it was trained first: the context is a copy that no gradient crosses."""

import jax.numpy as jnp

from seqjax import _checks
from seqjax._bind import bind
from seqjax.engine.recurrence import cut
from seqjax.models._recurrent import recurrent_cell, zero_vector
from seqjax.models.cell import Cell
from seqjax.models.rnn import activate, activation_rule, project
from seqjax.ops.rows import matmul

__all__ = ["elman"]


def elman(
    input_size: int, hidden_size: int, *, activation=jnp.tanh, dtype=None, param_dtype=None
) -> Cell:
    """The Elman network: h(t) = f(W1 x(t) + W11 c(t) + b), c(t) = h(t-1), y(t) = h(t).

    The outputs are those of `rnn`, and so are the parameters. The gradient is not: the context
    c(t) is a copy, the weight W11 from it is learned, but no gradient flows back over the copying
    link. So it is the gradient of full BPTT truncated at one step, and its backward pass has
    no loop over time; nothing reaches an earlier step or h(-1).

    Args:
      input_size: I, the size of x(t).
      hidden_size: H, the size of h(t).
      activation: f, any function of one vector [H].
      dtype: of inputs, states and outputs; JAX's default float if None.
      param_dtype: of the parameters; `dtype` if None.

    Returns:
      A cell with params {"kernel": [I, H], "recurrent_kernel": [H, H], "bias": [H]}, drawn
      from U(±1/√H). The state is h, [H].

    Raises:
      TypeError, ValueError: an argument is not as described.

    References:
      Elman 1990, Finding structure in time; notes, section 2.

    >>> import jax, jax.numpy as jnp, seqjax as sj
    >>> cell = sj.elman(3, 4)
    >>> params = cell.init(jax.random.key(0))
    >>> last = lambda xs: cell.unroll(params, xs)[1][-1].sum()
    >>> jnp.any(jax.grad(last)(jnp.ones((5, 3))) != 0, axis=1).tolist()
    [False, False, False, False, True]
    """
    _checks.part("activation", activation)
    return recurrent_cell(
        "elman",
        input_size,
        hidden_size,
        gates=1,
        adjust=None,
        zero_state=zero_vector,
        learn_initial_state=False,
        dtype=dtype,
        param_dtype=param_dtype,
        project=project,
        preactivate=preactivate,
        preactivate_vjp=preactivate_vjp,
        activate=bind(activate, activation),
        activate_vjp=activation_rule(activation),
    )


def preactivate(params, h_prev, u):
    return u + matmul(cut(h_prev), params["recurrent_kernel"])


def preactivate_vjp(params, h_prev, u, z, dz):
    return None  # the copying link
