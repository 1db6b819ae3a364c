"""Long short-term memory."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import export
from jax.nn import sigmoid

from seqjax import _checks
from seqjax._static import static_partial
from seqjax._types import Key, PyTree
from seqjax.models._recurrent import recurrent_cell
from seqjax.models.cell import Cell
from seqjax.ops.matmul import matmul

__all__ = ["LSTMState", "lstm"]


class LSTMState(NamedTuple):
    """The state of `lstm`: the output h and the cell state c, [H] each."""

    h: jax.Array
    c: jax.Array


export.register_namedtuple_serialization(LSTMState, serialized_name="seqjax.LSTMState")


class Gates(NamedTuple):
    """One array per gate: slices of one array of [4H] do not vectorize in the loop."""

    i: jax.Array
    f: jax.Array
    g: jax.Array
    o: jax.Array


def lstm(
    input_size: int,
    hidden_size: int,
    *,
    forget_bias: float | None = None,
    learn_initial_state: bool = False,
    dtype: Any = None,
    param_dtype: Any = None,
) -> Cell:
    """Long short-term memory, with PyTorch's order of the gates.

        i, f, g, o = W1 x(t) + W11 h(t-1) + b
        c(t) = σ(f) c(t-1) + σ(i) tanh(g)
        h(t) = σ(o) tanh(c(t)),  y(t) = h(t)

    Args:
      input_size: I, the size of x(t).
      hidden_size: H, the size of h(t) and c(t).
      forget_bias: what the bias of f starts from (1 is common); drawn like the rest if None.
      learn_initial_state: whether h(-1), c(-1) are parameters, zero at first, instead of zero.
      dtype: of inputs, states and outputs; JAX's default float if None.
      param_dtype: of the parameters; `dtype` if None.

    Returns:
      A cell with params {"kernel": [I, 4H], "recurrent_kernel": [H, 4H], "bias": [4H]},
      all drawn from U(±1/√H); and "initial_state", zero at first, if it is learned. The state is
      LSTMState(h, c).

    References:
      Hochreiter & Schmidhuber 1997; Gers et al. 2000 (forget gate); Jozefowicz et al. 2015
      (forget bias); notes, section 3.

    >>> import jax, jax.numpy as jnp, seqjax as sj
    >>> cell = sj.lstm(3, 4, forget_bias=1.0)
    >>> state, ys = sj.unroll(cell, cell.init(jax.random.key(0)), jnp.ones((10, 3)))
    >>> state.h.shape, state.c.shape, ys.shape
    ((4,), (4,), (10, 4))
    """
    if forget_bias is not None:
        forget_bias = _checks.number("forget_bias", forget_bias)
    return recurrent_cell(
        lstm,
        input_size,
        hidden_size,
        gates=4,
        extra_params=None if forget_bias is None else static_partial(set_forget_bias, forget_bias),
        zero_state=zero_state,
        options={"forget_bias": forget_bias},
        learn_initial_state=learn_initial_state,
        dtype=dtype,
        param_dtype=param_dtype,
        project=project,
        preactivate=preactivate,
        preactivate_vjp=preactivate_vjp,
        activate=activate,
        activate_vjp=activate_vjp,
        readout=readout,
    )


def set_forget_bias(forget_bias: float, key: Key, params: dict, bound: float) -> dict:
    i, _, g, o = jnp.split(params["bias"], 4)
    return params | {"bias": jnp.concatenate([i, jnp.full_like(i, forget_bias), g, o])}


def zero_state(hidden_size: int, dtype: Any) -> LSTMState:
    return LSTMState(jnp.zeros(hidden_size, dtype), jnp.zeros(hidden_size, dtype))


def project(params: PyTree, x: jax.Array) -> Gates:
    return Gates(*jnp.split(matmul(x, params["kernel"], params["bias"]), 4, axis=-1))


def preactivate(params: PyTree, h_prev: LSTMState, u: Gates) -> Gates:
    recurrent = jnp.split(matmul(h_prev.h, params["recurrent_kernel"]), 4, axis=-1)
    return Gates(*(a + b for a, b in zip(u, recurrent, strict=True)))


def preactivate_vjp(params: PyTree, h_prev: LSTMState, u: Gates, z: Gates, dz: Gates) -> LSTMState:
    dh = matmul(jnp.concatenate(dz, axis=-1), params["recurrent_kernel"].T)
    return LSTMState(dh, jnp.zeros_like(h_prev.c))


def activate(z: Gates, h_prev: LSTMState) -> LSTMState:
    c = sigmoid(z.f) * h_prev.c + sigmoid(z.i) * jnp.tanh(z.g)
    return LSTMState(sigmoid(z.o) * jnp.tanh(c), c)


def activate_vjp(
    z: Gates, h_prev: LSTMState, h: LSTMState, dh: LSTMState
) -> tuple[Gates, LSTMState]:
    i, f, g, o = sigmoid(z.i), sigmoid(z.f), jnp.tanh(z.g), sigmoid(z.o)
    tanh_c = jnp.tanh(h.c)
    dc = dh.c + dh.h * (o * (1 - tanh_c * tanh_c))
    # Each is dh or dc times a factor, which needs neither and is computed outside of the loop.
    dz = Gates(
        i=dc * (g * (i * (1 - i))),
        f=dc * (h_prev.c * (f * (1 - f))),
        g=dc * (i * (1 - g * g)),
        o=dh.h * (tanh_c * (o * (1 - o))),
    )
    return dz, LSTMState(jnp.zeros_like(h_prev.h), dc * f)


def readout(params: PyTree, h: LSTMState) -> jax.Array:
    return h.h
