"""Long short-term memory."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import export
from jax.nn import sigmoid

from seqjax._types import PyTree
from seqjax.models._forget_bias import check_forget_bias, forget_bias_params
from seqjax.models._initial import PerGate
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
    chrono: float | None = None,
    kernel_init: PerGate = None,
    recurrent_init: PerGate = None,
    bias_init: PerGate = None,
    use_bias: bool = True,
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
      chrono: the number of steps T_max to remember for: the bias of f starts from
        log U(1, T_max - 1), that of i from its negative. These two go before `bias_init`.
      kernel_init, recurrent_init, bias_init: what the parameters start from, each a function
        `(key, shape, dtype) -> array` as `jax.nn.initializers` makes, which draws the block of
        each gate, [I, H], [H, H] or [H], on its own; or a tuple of one per gate, in their order.
        None is the default, of all gates or of one.
      use_bias: whether there is a b.
      learn_initial_state: whether h(-1), c(-1) are parameters, zero at first, instead of zero.
      dtype: of inputs, states and outputs; JAX's default float if None.
      param_dtype: of the parameters; `dtype` if None.

    Returns:
      A cell with params {"kernel": [I, 4H], "recurrent_kernel": [H, 4H], "bias": [4H]},
      all drawn from U(±1/√H) by default; and "initial_state", zero at first, if it is learned. The
      state is LSTMState(h, c).

    References:
      Hochreiter & Schmidhuber 1997; Gers et al. 2000 (forget gate); Jozefowicz et al. 2015
      (forget bias); Tallec & Ollivier 2018, arXiv:1804.11188 (chrono); notes, section 3.

    >>> import jax, jax.numpy as jnp, seqjax as sj
    >>> cell = sj.lstm(3, 4, forget_bias=1.0)
    >>> state, ys = sj.unroll(cell, cell.init(jax.random.key(0)), jnp.ones((10, 3)))
    >>> state.h.shape, state.c.shape, ys.shape
    ((4,), (4,), (10, 4))
    """
    forget_bias, chrono = check_forget_bias(forget_bias, chrono, use_bias)
    return recurrent_cell(
        lstm,
        input_size,
        hidden_size,
        gates=4,
        extra_params=forget_bias_params(forget_bias, chrono, gates=4, keep=1, opposed=0),
        zero_state=zero_state,
        options={"forget_bias": forget_bias, "chrono": chrono},
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
        activate=activate,
        activate_vjp=activate_vjp,
        readout=readout,
    )


def zero_state(hidden_size: int, dtype: Any) -> LSTMState:
    return LSTMState(jnp.zeros(hidden_size, dtype), jnp.zeros(hidden_size, dtype))


def project(params: PyTree, x: jax.Array) -> Gates:
    return Gates(*jnp.split(matmul(x, params["kernel"], params.get("bias")), 4, axis=-1))


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
