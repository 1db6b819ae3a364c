"""The gated recurrent unit."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.nn import sigmoid

from seqjax import _checks
from seqjax._static import static_partial
from seqjax._types import Key, PyTree
from seqjax.models._forget_bias import check_forget_bias, forget_bias_params
from seqjax.models._initial import Array, PerGate, draw
from seqjax.models._layer_norm import NORMED_PRODUCT, add_scales
from seqjax.models._parts import PRODUCT, Part, around, has_rules, pointwise
from seqjax.models._recurrent import recurrent_cell, zero_vector
from seqjax.models._recurrent_dropout import dropped, with_dropout
from seqjax.models.cell import Cell
from seqjax.ops.matmul import add_bias, matmul

__all__ = ["gru"]


class Gates(NamedTuple):
    """Pre-activations: reset, update, candidate; `kept` says which elements are not dropped."""

    r: jax.Array
    z: jax.Array
    n: jax.Array
    kept: tuple[jax.Array, ...] = ()


class GatesAfter(NamedTuple):
    """Pre-activations where the reset gate comes after the matmul: it acts on m alone."""

    r: jax.Array
    z: jax.Array
    n: jax.Array
    m: jax.Array
    kept: tuple[jax.Array, ...] = ()


def gru(
    input_size: int,
    hidden_size: int,
    *,
    reset_after: bool = True,
    layer_norm: bool = False,
    gate_activation: Callable[[jax.Array], jax.Array] = jax.nn.sigmoid,
    activation: Callable[[jax.Array], jax.Array] = jnp.tanh,
    recurrent_dropout: float = 0.0,
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
    """The gated recurrent unit, with PyTorch's order of the gates (r, z, n).

        r, z = W1 x(t) + W11 h(t-1) + b                     (their rows of W1, W11, b)
        n = W1 x(t) + b + σ(r) m,  m = W11 h(t-1) + b_m      reset after the matmul
        n = W1 x(t) + b + W11 (σ(r) h(t-1))                  reset before it
        h(t) = (1 - σ(z)) tanh(n) + σ(z) h(t-1),  y(t) = h(t)

    With layer norm the products W1 x(t) and W11 h(t-1), of all gates together, are
    s1 LN(W1 x(t)) and s11 LN(W11 h(t-1)), LN(a) = (a - mean(a)) / √(var(a) + 10⁻⁵).

    Args:
      input_size: I, the size of x(t).
      hidden_size: H, the size of h(t).
      reset_after: where the reset gate acts: after the matmul (PyTorch, cuDNN, Flax), or
        before it (Cho et al. 2014; Haiku).
      layer_norm: whether there is layer normalization; with the reset after the matmul alone.
      gate_activation: any function of one vector [H], in the place of σ. The rules of the gradient
        are hand-written for σ and tanh, and JAX's own for other functions.
      activation: any function of one vector [H], in the place of tanh.
      recurrent_dropout: in training, the probability that an element of the candidate tanh(n), what
        a step adds to the memory, is zero; the others are scaled by its inverse. See `key` of
        `sj.unroll`.
      forget_bias: what the bias of z, which keeps the state, starts from; drawn like the rest if
        None.
      chrono: the number of steps T_max to remember for: the bias of z starts from
        log U(1, T_max - 1). These two go before `bias_init`.
      kernel_init, recurrent_init, bias_init: what the parameters start from, each a function
        `(key, shape, dtype) -> array` as `jax.nn.initializers` makes, which draws the block of
        each gate, [I, H], [H, H] or [H], on its own; or a tuple of one per gate, in their order.
        None is the default, of all gates or of one.
      use_bias: whether there are b and b_m; b_m starts as the b of n does.
      learn_initial_state: whether h(-1) is a parameter (from zero) instead of zero.
      dtype: of inputs, states and outputs; JAX's default float if None.
      param_dtype: of the parameters; `dtype` if None.

    Returns:
      A cell with params {"kernel": [I, 3H], "recurrent_kernel": [H, 3H], "bias": [3H]}, and
      "recurrent_bias": [H] (b_m) if the reset comes after, all drawn from U(±1/√H) by default;
      the gains "kernel_scale" and "recurrent_kernel_scale": [3H] of layer norm, one at first; and
      "initial_state": [H], zero at first, if it is learned. The state is h, [H].

    References:
      Cho et al. 2014, arXiv:1406.1078; Tallec & Ollivier 2018, arXiv:1804.11188 (chrono); Ba
      et al. 2016, arXiv:1607.06450 (layer norm); Semeniuta et al. 2016, arXiv:1603.05118 (recurrent
      dropout); notes, section 3.

    >>> import jax, jax.numpy as jnp, seqjax as sj
    >>> cell = sj.gru(3, 4)
    >>> h, ys = sj.unroll(cell, cell.init(jax.random.key(0)), jnp.ones((10, 3)))
    >>> h.shape, ys.shape
    ((4,), (10, 4))
    """
    reset_after = _checks.flag("reset_after", reset_after)
    gate = pointwise("gate_activation", gate_activation)
    candidate = pointwise("activation", activation)
    forget_bias, chrono = check_forget_bias(forget_bias, chrono, use_bias)
    extra_params = forget_bias_params(forget_bias, chrono, gates=3, keep=1, opposed=None)
    if reset_after and use_bias:
        extra_params = (static_partial(add_recurrent_bias, bias_init), *extra_params)
    layer_norm = _checks.flag("layer_norm", layer_norm)
    if layer_norm:
        if not reset_after:
            raise ValueError(_checks.mismatch("layer_norm", "False with reset_after=False", True))
        extra_params += (add_scales,)
    linear = NORMED_PRODUCT if layer_norm else PRODUCT
    # How z(t), the pre-activations, and h(t) are made: each is a function and its rule.
    if reset_after:
        make_z = around(Part(preactivate_after, preactivate_after_vjp), linear)
        make_h = Part(activate_after, activate_after_vjp)
    else:
        make_z = Part(static_partial(preactivate_before, gate), preactivate_before_vjp)
        make_h = Part(activate_before, activate_before_vjp)
    make_u = static_partial(project, linear.function)
    read_x, draw = with_dropout(recurrent_dropout, hidden_size, make_u)
    ruled = has_rules(gate_activation, activation)
    return recurrent_cell(
        gru,
        input_size,
        hidden_size,
        gates=3,
        zero_state=zero_vector,
        options={
            "reset_after": reset_after,
            "layer_norm": layer_norm,
            "gate_activation": gate_activation,
            "activation": activation,
            "recurrent_dropout": recurrent_dropout,
            "forget_bias": forget_bias,
            "chrono": chrono,
        },
        kernel_init=kernel_init,
        recurrent_init=recurrent_init,
        bias_init=bias_init,
        use_bias=use_bias,
        extra_params=extra_params,
        learn_initial_state=learn_initial_state,
        dtype=dtype,
        param_dtype=param_dtype,
        project=read_x,
        draw=draw,
        preactivate=make_z.function,
        preactivate_vjp=make_z.rule if ruled or reset_after else None,
        activate=static_partial(make_h.function, recurrent_dropout, gate, candidate),
        activate_vjp=static_partial(make_h.rule, recurrent_dropout) if ruled else None,
    )


def project(linear: Callable, params: PyTree, x: jax.Array) -> Gates:
    stacked = add_bias(linear(params, "kernel", x), params.get("bias"))
    r, z, n = jnp.split(stacked, 3, axis=-1)
    return Gates(r, z, n)


# Reset after the matmul.
def add_recurrent_bias(bias_init: PerGate, key: Key, params: dict, bound: float) -> dict:
    init = bias_init[2] if isinstance(bias_init, tuple) else bias_init
    kernel = params["recurrent_kernel"]
    array = Array(kernel.shape[:1], bound, "bias_init")
    return params | {"recurrent_bias": draw(key, array, init, kernel.dtype)}


def preactivate_after(linear: Callable, params: PyTree, h_prev: jax.Array, u: Gates) -> GatesAfter:
    r, z, m = jnp.split(linear(params, "recurrent_kernel", h_prev), 3, axis=-1)
    m = add_bias(m, params.get("recurrent_bias"))
    return GatesAfter(u.r + r, u.z + z, u.n, m, u.kept)


def preactivate_after_vjp(
    linear_vjp: Callable,
    params: PyTree,
    h_prev: jax.Array,
    u: Gates,
    z: GatesAfter,
    dz: GatesAfter,
) -> jax.Array:
    stacked = jnp.concatenate([dz.r, dz.z, dz.m], axis=-1)
    return linear_vjp(params, "recurrent_kernel", h_prev, stacked)


def activate_after(
    rate: float, gate: Callable, activation: Callable, z: GatesAfter, h_prev: jax.Array
) -> jax.Array:
    # The barrier splits the loop that XLA's CPU compiler makes of a step: one that reads as many
    # arrays as the whole has is not vectorized, and takes twice as long for a batch of one.
    before_n = lax.optimization_barrier(z.n + gate(z.r) * z.m)
    n = dropped(rate, z.kept, activation(before_n))
    return n + gate(z.z) * (h_prev - n)


def activate_after_vjp(
    rate: float, z: GatesAfter, h_prev: jax.Array, h: jax.Array, dh: jax.Array
) -> tuple[GatesAfter, jax.Array]:
    r, update = sigmoid(z.r), sigmoid(z.z)
    n = jnp.tanh(z.n + r * z.m)
    to_n = (1 - update) * dropped(rate, z.kept, 1 - n * n)
    dz = GatesAfter(
        r=dh * (to_n * (z.m * (r * (1 - r)))),
        z=dh * ((h_prev - dropped(rate, z.kept, n)) * (update * (1 - update))),
        n=dh * to_n,
        m=dh * (to_n * r),
        kept=z.kept,
    )
    return dz, dh * update


# Reset before the matmul: r acts inside `preactivate`, which is then not linear in h(t-1).
def preactivate_before(gate: Callable, params: PyTree, h_prev: jax.Array, u: Gates) -> Gates:
    to_gates, to_candidate = _split_kernel(params, h_prev.size)
    r, z = jnp.split(matmul(h_prev, to_gates), 2, axis=-1)
    r = u.r + r
    return Gates(r, u.z + z, u.n + matmul(gate(r) * h_prev, to_candidate), u.kept)


def preactivate_before_vjp(
    params: PyTree, h_prev: jax.Array, u: Gates, z: Gates, dz: Gates
) -> jax.Array:
    to_gates, to_candidate = _split_kernel(params, h_prev.size)
    r = sigmoid(z.r)
    d_gated = matmul(dz.n, to_candidate.T)
    dr = dz.r + d_gated * (h_prev * (r * (1 - r)))
    return d_gated * r + matmul(jnp.concatenate([dr, dz.z], axis=-1), to_gates.T)


def activate_before(
    rate: float, gate: Callable, activation: Callable, z: Gates, h_prev: jax.Array
) -> jax.Array:
    n = dropped(rate, z.kept, activation(z.n))
    return n + gate(z.z) * (h_prev - n)


def activate_before_vjp(
    rate: float, z: Gates, h_prev: jax.Array, h: jax.Array, dh: jax.Array
) -> tuple[Gates, jax.Array]:
    update, n = sigmoid(z.z), jnp.tanh(z.n)
    dz = Gates(
        r=jnp.zeros_like(dh),
        z=dh * ((h_prev - dropped(rate, z.kept, n)) * (update * (1 - update))),
        n=dh * ((1 - update) * dropped(rate, z.kept, 1 - n * n)),
        kept=z.kept,
    )
    return dz, dh * update


def _split_kernel(params: PyTree, hidden_size: int) -> list[jax.Array]:
    return jnp.split(params["recurrent_kernel"], [2 * hidden_size], axis=1)
