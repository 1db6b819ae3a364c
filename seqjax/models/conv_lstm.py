"""The convolutional LSTM: an LSTM of images, or of any grid of values."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.nn import sigmoid

from seqjax import _checks
from seqjax._static import call_of, static_partial
from seqjax._types import Key, PyTree
from seqjax.models._forget_bias import check_forget_bias, set_constant
from seqjax.models._initial import (
    Array,
    Initializers,
    PerGate,
    check_initializers,
    draw_all,
    shown,
)
from seqjax.models.cell import Cell
from seqjax.models.lstm import (
    Gates,
    LSTMState,
    activate,
    activate_vjp,
    by_gate,
    output,
    output_vjp,
    readout,
    update,
    update_vjp,
)
from seqjax.ops.matmul import add_bias

__all__ = ["conv_lstm"]


def conv_lstm(
    input_shape: tuple[int, ...],
    channels: int,
    kernel_size: int | tuple[int, ...],
    *,
    forget_bias: float | None = None,
    kernel_init: PerGate = None,
    recurrent_init: PerGate = None,
    bias_init: PerGate = None,
    use_bias: bool = True,
    dtype: Any = None,
    param_dtype: Any = None,
) -> Cell:
    """The LSTM whose products with kernels are convolutions, over one to three axes.

        i, f, g, o = W1 ∗ x(t) + W11 ∗ h(t-1) + b
        c(t) = σ(f) c(t-1) + σ(i) tanh(g)
        h(t) = σ(o) tanh(c(t)),  y(t) = h(t)

    ∗ is a convolution as networks have it, (W ∗ x)[p] = Σ_q W[q] x[p + q - (K-1)//2] along each
    axis, with zeros outside, so that h(t) has the spatial shape of x(t). With K = 1 it is one LSTM
    for every place.

    The paper's peepholes are left out: a weight for every place, they would bind the parameters to
    one size of image, and what is learned at one place would not hold at another.

    Args:
      input_shape: (*spatial, I), the shape of x(t): one to three spatial axes, and I channels.
      channels: C, the number of channels of h(t) and c(t).
      kernel_size: K, for all spatial axes or for each. A place reads K-1 more in all, an odd one
        after it.
      forget_bias: what the bias of f starts from (1 is common); drawn like the rest if None.
      kernel_init, recurrent_init, bias_init: what the parameters start from, each a function
        `(key, shape, dtype) -> array` as `jax.nn.initializers` makes, called for each gate (with
        [*K, I, C] for the kernel); or a tuple of four, of i, f, g and o, with None for the default.
      use_bias: whether there is a b.
      dtype: of inputs, states and outputs; JAX's default float if None.
      param_dtype: of the parameters; `dtype` if None.

    Returns:
      A cell with params {"kernel": [*K, I, 4C], "recurrent_kernel": [*K, C, 4C], "bias": [4C]}, all
      drawn from U(±1/√(K… C)) by default, the number of values of h that a gate reads. The state is
      LSTMState(h, c), [*spatial, C] each, zero at first.

    Raises:
      ValueError: not one to three spatial axes, or not as many kernel sizes.

    References:
      Shi et al. 2015, Convolutional LSTM network, arXiv:1506.04214.

    >>> import jax, jax.numpy as jnp, seqjax as sj
    >>> cell = sj.conv_lstm((8, 8, 1), 4, 3)
    >>> state, ys = sj.unroll(cell, cell.init(jax.random.key(0)), jnp.ones((10, 8, 8, 1)))
    >>> ys.shape, state.c.shape
    ((10, 8, 8, 4), (8, 8, 4))
    """
    *spatial, inputs = _sizes("input_shape", input_shape)
    if not 1 <= len(spatial) <= 3:
        expected = "one to three spatial axes, then the channels"
        raise ValueError(_checks.mismatch("input_shape", expected, input_shape))
    channels = _checks.size("channels", channels)
    if isinstance(kernel_size, (tuple, list)):
        window = _sizes("kernel_size", kernel_size)
        if len(window) != len(spatial):
            expected = f"a size for each of {len(spatial)} spatial axes, or one for all"
            raise ValueError(_checks.mismatch("kernel_size", expected, kernel_size))
    else:
        window = (_checks.size("kernel_size", kernel_size),) * len(spatial)
    inits = check_initializers(
        4,
        kernel_init=kernel_init,
        recurrent_init=recurrent_init,
        bias_init=bias_init,
        use_bias=use_bias,
    )
    forget_bias, _ = check_forget_bias(forget_bias, None, use_bias)
    dtype = _checks.float_dtype("dtype", dtype)
    param_dtype = _checks.float_dtype("param_dtype", param_dtype, default=dtype)
    shape = (*spatial, inputs)
    return Cell(
        init=static_partial(init, window, inputs, channels, forget_bias, inits, dtype=param_dtype),
        initial_state=static_partial(initial_state, (*spatial, channels), dtype=dtype),
        project=project,
        preactivate=preactivate,
        activate=static_partial(
            activate,
            static_partial(update, 0.0, sigmoid, jnp.tanh),  # nothing is dropped
            static_partial(output, sigmoid, jnp.tanh),
        ),
        activate_vjp=static_partial(activate_vjp, static_partial(update_vjp, 0.0), output_vjp),
        readout=readout,
        input_spec=jax.ShapeDtypeStruct(shape, dtype),
        dtype=dtype,
        name=call_of(conv_lstm, shape, channels, window, forget_bias=forget_bias, **shown(inits)),
    )


def _sizes(name: str, value: Any) -> tuple[int, ...]:
    if not isinstance(value, (tuple, list)):
        raise TypeError(_checks.mismatch(name, "a tuple of integers", _checks.describe(value)))
    return tuple(_checks.size(f"{name}[{n}]", size) for n, size in enumerate(value))


def init(
    window: tuple[int, ...],
    inputs: int,
    channels: int,
    forget_bias: float | None,
    inits: Initializers,
    key: Key,
    *,
    dtype: Any,
) -> dict[str, jax.Array]:
    bound = (math.prod(window) * channels) ** -0.5
    arrays = {
        "kernel": Array((*window, inputs, 4 * channels), bound, "kernel_init", 4),
        "recurrent_kernel": Array((*window, channels, 4 * channels), bound, "recurrent_init", 4),
        "bias": Array((4 * channels,), bound, "bias_init", 4),
    }
    params = draw_all(_checks.keys(key, len(arrays)), arrays, inits, dtype)
    return params if forget_bias is None else set_constant(forget_bias, 4, 1, key, params, bound)


def initial_state(shape: tuple[int, ...], params: PyTree, *, dtype: Any) -> LSTMState:
    return LSTMState(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype))


def project(params: PyTree, x: jax.Array) -> Gates:
    z = convolve(x, params["kernel"])
    rows = add_bias(z.reshape(-1, z.shape[-1]), params.get("bias"))
    return by_gate(4, rows.reshape(z.shape))


def preactivate(params: PyTree, h_prev: LSTMState, u: Gates) -> Gates:
    recurrent = by_gate(4, convolve(h_prev.h, params["recurrent_kernel"]))
    return jax.tree.map(jnp.add, u, recurrent)


def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The convolution of x [*spatial, I] with a kernel [*K, I, O]: [*spatial, O].

    `vmap` folds time and batch into the axis of examples. The gradient of the kernel is then one
    convolution that sums over them.
    """
    spatial = "DHW"[4 - x.ndim :]
    return lax.conv_general_dilated(
        x[None],
        kernel,
        window_strides=(1,) * len(spatial),
        padding="SAME",
        dimension_numbers=(f"N{spatial}C", f"{spatial}IO", f"N{spatial}C"),
    )[0]
