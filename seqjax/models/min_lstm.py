"""The minimal long short-term memory, whose gates do not read the state."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.nn import log_sigmoid, sigmoid

from seqjax import _checks
from seqjax._static import static_partial
from seqjax._types import PyTree
from seqjax.models._affine import affine_cell, readout, widen
from seqjax.models._initial import PerGate, check_initializers, shown
from seqjax.models.cell import Cell
from seqjax.models.min_gru import init, positive
from seqjax.ops.matmul import matmul

__all__ = ["min_lstm"]


class Gates(NamedTuple):
    """Pre-activations: forget, input, candidate."""

    f: jax.Array
    i: jax.Array
    g: jax.Array


def min_lstm(
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
    """The minimal long short-term memory: an affine cell, real.

        f, i, g = W1 x(t) + b
        h(t) = f' h(t-1) + i' g,  f' = σ(f) / (σ(f) + σ(i)),  i' = 1 - f',  y(t) = h(t)

    Args:
      input_size: I, the size of x(t).
      hidden_size: H, the size of h(t).
      positive_candidate: whether g(·) > 0 of `min_gru` is applied to the candidate.
      kernel_init, bias_init: what the parameters start from, each a function
        `(key, shape, dtype) -> array` as `jax.nn.initializers` makes, called for each gate; or a
        tuple of 3, of f, i and g, with None for the default.
      use_bias: whether there is a b.
      learn_initial_state: whether h(-1) is a parameter (from zero) instead of zero.
      dtype: of inputs and outputs; JAX's default float if None.
      param_dtype: of the parameters; `dtype` if None.

    Returns:
      A cell with params {"kernel": [I, 3H], "bias": [3H]}, drawn from U(±1/√I) by default; and
      "initial_state": [H], zero at first, if it is learned. The state is h, [H], in float32 where
      `dtype` is narrower.

    References:
      Feng et al. 2024, Were RNNs all we needed?, arXiv:2410.01201 (with normalized gates).

    >>> import jax, jax.numpy as jnp, seqjax as sj
    >>> cell = sj.min_lstm(3, 4)
    >>> h, ys = sj.unroll(cell, cell.init(jax.random.key(0)), jnp.ones((10, 3)))
    >>> h.shape, ys.shape
    ((4,), (10, 4))
    """
    positive_candidate = _checks.flag("positive_candidate", positive_candidate)
    inits = check_initializers(3, kernel_init=kernel_init, bias_init=bias_init, use_bias=use_bias)
    return affine_cell(
        min_lstm,
        {"input_size": input_size, "hidden_size": hidden_size},
        hidden_size,
        init=static_partial(init, 3, inits),
        options={"positive_candidate": positive_candidate, **shown(inits)},
        learn_initial_state=learn_initial_state,
        dtype=dtype,
        param_dtype=param_dtype,
        project=project,
        coefficients=static_partial(coefficients, positive_candidate),
        readout=readout,
    )


def project(params: PyTree, x: jax.Array) -> Gates:
    return Gates(*jnp.split(matmul(x, params["kernel"], params.get("bias")), 3, axis=-1))


def coefficients(positive_candidate: bool, z: Gates) -> tuple[jax.Array, jax.Array]:
    z = widen(z)
    g = positive(z.g) if positive_candidate else z.g
    # The logarithm of σ(f) / σ(i): both may be too small to be divided.
    ratio = log_sigmoid(z.f) - log_sigmoid(z.i)
    return sigmoid(ratio), sigmoid(-ratio) * g
