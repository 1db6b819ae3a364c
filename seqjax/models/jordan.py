"""The Jordan network: its memory is a running average of its own past outputs."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import export

from seqjax import _checks
from seqjax._static import call_of, static_partial
from seqjax._types import Key, PyTree
from seqjax.models import _feedback
from seqjax.models._initial import Initializers, PerGate, check_initializers, shown
from seqjax.models.cell import Cell
from seqjax.models.rnn import project
from seqjax.ops.matmul import matmul
from seqjax.ops.zero_cotangent import zero_cotangent

__all__ = ["JordanState", "jordan"]


class JordanState(NamedTuple):
    """The state of `jordan`: the last output, and the running average with it, [O] each."""

    y: jax.Array
    mean: jax.Array


export.register_namedtuple_serialization(JordanState, serialized_name="seqjax.JordanState")


def jordan(
    input_size: int,
    hidden_size: int,
    output_size: int,
    *,
    decay: float,
    activation: Callable = jnp.tanh,
    output_activation: Callable | None = None,
    kernel_init: PerGate = None,
    recurrent_init: PerGate = None,
    bias_init: PerGate = None,
    dtype: Any = None,
    param_dtype: Any = None,
) -> Cell:
    """The Jordan network, whose memory unit averages past outputs and has nothing to learn.

        m(t) = decay m(t-1) + (1 - decay) y(t-1)
        h(t) = f(W1 x(t) + W11 m(t) + b1)
        y(t) = g(W2 h(t) + b2)

    The memory's structure is fixed: `decay` is no parameter. No gradient flows back through the
    memory, so "in learning, the current error does not propagate to the past", and the
    backward pass has no loop over time. (With full BPTT: `sj.memory`, or `sj.narx` for decay 0.)

    Args:
      input_size: I, the size of x(t).
      hidden_size: H, the size of h(t).
      output_size: O, the size of y(t) and of the memory m(t).
      decay: of the average, in [0, 1); 0 remembers the last output alone.
      activation: f, any function of one vector [H].
      output_activation: g, any function of one vector [O] (`jax.nn.softmax` too); the identity if
        None.
      kernel_init, recurrent_init, bias_init: what the parameters start from, each a function
        `(key, shape, dtype) -> array` as `jax.nn.initializers` makes, the first and the last for
        the output layer as well; the default if None.
      dtype: of inputs, states and outputs; JAX's default float if None.
      param_dtype: of the parameters; `dtype` if None.

    Returns:
      A cell with params {"kernel": [I, H], "recurrent_kernel": [O, H], "bias": [H],
      "output_kernel": [H, O], "output_bias": [O]}, all drawn from U(±1/√fan-in) by default. The
      state is JordanState(y, mean), zero at first.

    References:
      Jordan 1986, Serial order: a parallel distributed processing approach; notes, section 2.

    >>> import jax, jax.numpy as jnp, seqjax as sj
    >>> cell = sj.jordan(3, 8, 2, decay=0.5)
    >>> state, ys = sj.unroll(cell, cell.init(jax.random.key(0)), jnp.ones((10, 3)))
    >>> ys.shape, state.mean.shape
    ((10, 2), (2,))
    """
    sizes = {"input_size": input_size, "hidden_size": hidden_size, "output_size": output_size}
    input_size, hidden_size, output_size = (_checks.size(n, v) for n, v in sizes.items())
    decay = _checks.rate("decay", decay)
    _checks.part("activation", activation)
    _checks.part("output_activation", output_activation, optional=True)
    dtype = _checks.float_dtype("dtype", dtype)
    param_dtype = _checks.float_dtype("param_dtype", param_dtype, default=dtype)
    inits = check_initializers(
        kernel_init=kernel_init, recurrent_init=recurrent_init, bias_init=bias_init
    )
    return Cell(
        init=static_partial(init, input_size, hidden_size, output_size, inits, dtype=param_dtype),
        initial_state=static_partial(initial_state, output_size, dtype=dtype),
        project=project,
        preactivate=static_partial(preactivate, activation),
        preactivate_vjp=preactivate_vjp,
        activate=static_partial(activate, decay, output_activation),
        activate_vjp=static_partial(activate_vjp, decay, output_activation),
        readout=readout,
        input_spec=jax.ShapeDtypeStruct((input_size,), dtype),
        dtype=dtype,
        name=call_of(
            jordan,
            input_size,
            hidden_size,
            output_size,
            decay=decay,
            activation=activation,
            output_activation=output_activation,
            **shown(inits),
        ),
    )


def init(
    input_size: int,
    hidden_size: int,
    output_size: int,
    inits: Initializers,
    key: Key,
    *,
    dtype: Any,
) -> dict[str, jax.Array]:
    shapes = (input_size, hidden_size), (output_size, hidden_size), (hidden_size, output_size)
    return _feedback.init(key, *shapes, inits, dtype)


def initial_state(output_size: int, params: PyTree, *, dtype: Any) -> JordanState:
    return JordanState(jnp.zeros(output_size, dtype), jnp.zeros(output_size, dtype))


def preactivate(
    activation: Callable, params: PyTree, h_prev: JordanState, u: jax.Array
) -> _feedback.Layers:
    hidden = u + matmul(zero_cotangent(h_prev.mean), params["recurrent_kernel"])
    return _feedback.layers(activation, params, hidden)


def preactivate_vjp(
    params: PyTree, h_prev: JordanState, u: jax.Array, z: _feedback.Layers, dz: _feedback.Layers
) -> None:
    return None


def activate(
    decay: float, output_activation: Callable | None, z: _feedback.Layers, h_prev: JordanState
) -> JordanState:
    y = _feedback.output(output_activation, z)
    return JordanState(y, decay * zero_cotangent(h_prev.mean) + (1 - decay) * y)


def activate_vjp(
    decay: float,
    output_activation: Callable | None,
    z: _feedback.Layers,
    h_prev: JordanState,
    h: JordanState,
    dh: JordanState,
) -> tuple[_feedback.Layers, None]:
    dy = dh.y + (1 - decay) * dh.mean
    return _feedback.output_vjp(output_activation, z, dy), None


def readout(params: PyTree, h: JordanState) -> jax.Array:
    return h.y
