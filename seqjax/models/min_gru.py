"""The minimal gated recurrent unit, whose gate does not read the state."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.nn import sigmoid

from seqjax import _checks
from seqjax._static import static_partial
from seqjax._types import Key, PyTree
from seqjax.models._affine import affine_cell, readout, widen
from seqjax.models._initial import (
    Array,
    Initializers,
    PerGate,
    check_initializers,
    draw_all,
    shown,
)
from seqjax.models.cell import Cell
from seqjax.ops.matmul import matmul

__all__ = ["min_gru", "positive"]


class Gates(NamedTuple):
    """Pre-activations: update, candidate."""

    z: jax.Array
    n: jax.Array


def min_gru(
    input_size: int,
    hidden_size: int,
    *,
    positive_candidate: bool = False,
    kernel_init: PerGate = None,
    bias_init: PerGate = None,
    use_bias: bool = True,
    learn_initial_state: bool = False,
    dtype: Any = None,
    param_dtype: Any = None,
) -> Cell:
    """The minimal gated recurrent unit: an affine cell, real.

        z, n = W1 x(t) + b
        h(t) = (1 - σ(z)) h(t-1) + σ(z) n,  y(t) = h(t)

    Args:
      input_size: I, the size of x(t).
      hidden_size: H, the size of h(t).
      positive_candidate: whether g(n) stands in the place of n, with g(n) = n + 1/2 for n ≥ 0,
        else σ(n): then h(t) > 0, as the form of the paper that is computed with logarithms needs
        it. Here no logarithm is: large pre-activations saturate.
      kernel_init, bias_init: what the parameters start from, each a function
        `(key, shape, dtype) -> array` as `jax.nn.initializers` makes, called for each gate; or a
        tuple of 2, of z and n, with None for the default.
      use_bias: whether there is a b.
      learn_initial_state: whether h(-1) is a parameter (from zero) instead of zero.
      dtype: of inputs and outputs; JAX's default float if None.
      param_dtype: of the parameters; `dtype` if None.

    Returns:
      A cell with params {"kernel": [I, 2H], "bias": [2H]}, drawn from U(±1/√I) by default; and
      "initial_state": [H], zero at first, if it is learned. The state is h, [H], in float32 where
      `dtype` is narrower.

    References:
      Feng et al. 2024, Were RNNs all we needed?, arXiv:2410.01201.

    >>> import jax, jax.numpy as jnp, seqjax as sj
    >>> cell = sj.min_gru(3, 4)
    >>> h, ys = sj.unroll(cell, cell.init(jax.random.key(0)), jnp.ones((10, 3)))
    >>> h.shape, ys.shape
    ((4,), (10, 4))
    """
    positive_candidate = _checks.flag("positive_candidate", positive_candidate)
    inits = check_initializers(2, kernel_init=kernel_init, bias_init=bias_init, use_bias=use_bias)
    return affine_cell(
        min_gru,
        {"input_size": input_size, "hidden_size": hidden_size},
        hidden_size,
        init=static_partial(init, 2, inits),
        options={"positive_candidate": positive_candidate, **shown(inits)},
        learn_initial_state=learn_initial_state,
        dtype=dtype,
        param_dtype=param_dtype,
        project=project,
        coefficients=static_partial(coefficients, positive_candidate),
        readout=readout,
    )


def init(
    gates: int, inits: Initializers, input_size: int, hidden_size: int, key: Key, *, dtype: Any
) -> dict:
    bound = input_size**-0.5
    arrays = {
        "kernel": Array((input_size, gates * hidden_size), bound, "kernel_init", gates),
        "bias": Array((gates * hidden_size,), bound, "bias_init", gates),
    }
    return draw_all(_checks.keys(key, len(arrays)), arrays, inits, dtype)


def project(params: PyTree, x: jax.Array) -> Gates:
    return Gates(*jnp.split(matmul(x, params["kernel"], params.get("bias")), 2, axis=-1))


def coefficients(positive_candidate: bool, z: Gates) -> tuple[jax.Array, jax.Array]:
    z = widen(z)
    n = positive(z.n) if positive_candidate else z.n
    return sigmoid(-z.z), sigmoid(z.z) * n


def positive(n: jax.Array) -> jax.Array:
    """g(n) of the paper: continuous, increasing and above zero."""
    return jnp.where(n >= 0, n + 0.5, sigmoid(n))
