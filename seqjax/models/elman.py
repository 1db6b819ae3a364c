"""Elman's network as it was trained first: the context is a copy that no gradient crosses."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from seqjax import _checks
from seqjax._static import static_partial
from seqjax._types import PyTree
from seqjax.models._initial import PerGate
from seqjax.models._recurrent import recurrent_cell, zero_vector
from seqjax.models.cell import Cell
from seqjax.models.rnn import activate, activation_rule, project
from seqjax.ops.matmul import matmul
from seqjax.ops.zero_cotangent import zero_cotangent

__all__ = ["elman"]


def elman(
    input_size: int,
    hidden_size: int,
    *,
    activation: Callable[[jax.Array], jax.Array] = jnp.tanh,
    kernel_init: PerGate = None,
    recurrent_init: PerGate = None,
    bias_init: PerGate = None,
    use_bias: bool = True,
    dtype: Any = None,
    param_dtype: Any = None,
) -> Cell:
    """The Elman network: h(t) = f(W1 x(t) + W11 c(t) + b), c(t) = h(t-1), y(t) = h(t).

    The outputs are those of `rnn`, and so are the parameters. The gradient is not: the context
    c(t) is a copy, the weight W11 from it is learned, but no gradient flows back through the
    copy. So it is the gradient of full BPTT truncated at one step, and its backward pass has
    no loop over time; nothing reaches an earlier step or h(-1).

    Args:
      input_size: I, the size of x(t).
      hidden_size: H, the size of h(t).
      activation: f, any function of one vector [H].
      kernel_init, recurrent_init, bias_init: what the parameters start from, each a function
        `(key, shape, dtype) -> array` as `jax.nn.initializers` makes; the default if None.
      use_bias: whether there is a b.
      dtype: of inputs, states and outputs; JAX's default float if None.
      param_dtype: of the parameters; `dtype` if None.

    Returns:
      A cell with params {"kernel": [I, H], "recurrent_kernel": [H, H], "bias": [H]}, all
      drawn from U(±1/√H) by default. The state is h, [H].

    References:
      Elman 1990, Finding structure in time; notes, section 2.

    >>> import jax, jax.numpy as jnp, seqjax as sj
    >>> cell = sj.elman(3, 4)
    >>> params = cell.init(jax.random.key(0))
    >>> last = lambda xs: sj.unroll(cell, params, xs)[1][-1].sum()
    >>> jnp.any(jax.grad(last)(jnp.ones((5, 3))) != 0, axis=1).tolist()
    [False, False, False, False, True]
    """
    _checks.part("activation", activation)
    return recurrent_cell(
        elman,
        input_size,
        hidden_size,
        gates=1,
        zero_state=zero_vector,
        options={"activation": activation},
        kernel_init=kernel_init,
        recurrent_init=recurrent_init,
        bias_init=bias_init,
        use_bias=use_bias,
        dtype=dtype,
        param_dtype=param_dtype,
        project=project,
        preactivate=preactivate,
        preactivate_vjp=preactivate_vjp,
        activate=static_partial(activate, activation),
        activate_vjp=activation_rule(activation),
    )


def preactivate(params: PyTree, h_prev: jax.Array, u: jax.Array) -> jax.Array:
    return u + matmul(zero_cotangent(h_prev), params["recurrent_kernel"])


def preactivate_vjp(
    params: PyTree, h_prev: jax.Array, u: jax.Array, z: jax.Array, dz: jax.Array
) -> None:
    return None  # no gradient flows back through the copy
