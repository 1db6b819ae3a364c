"""Long short-term memory."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import export
from jax.nn import sigmoid

from seqjax import _checks
from seqjax._static import static_partial
from seqjax._types import PyTree
from seqjax.models._forget_bias import check_forget_bias, forget_bias_params
from seqjax.models._initial import PerGate
from seqjax.models._layer_norm import NORMED_PRODUCT, add_scales
from seqjax.models._lstm_variants import (
    COUPLED_UPDATE,
    NORMED_OUTPUT,
    PEEPHOLE_OUTPUT,
    PEEPHOLES,
    PROJECTION,
    add_cell_norm,
    add_peepholes,
    add_projection,
    cell_norm_project,
    peephole_project,
    projected_readout,
)
from seqjax.models._parts import PRODUCT, Part, around, has_rules, pointwise
from seqjax.models._recurrent import recurrent_cell
from seqjax.models._recurrent_dropout import dropped, with_dropout
from seqjax.models.cell import Cell
from seqjax.ops.matmul import add_bias

__all__ = ["LSTMState", "lstm"]


class LSTMState(NamedTuple):
    """The state of `lstm`: the output h and the cell state c, [H] each."""

    h: jax.Array
    c: jax.Array


export.register_namedtuple_serialization(LSTMState, serialized_name="seqjax.LSTMState")


class Gates(NamedTuple):
    """Pre-activations, an array each: slices of one array of [4H] do not vectorize in the loop.

    There is no i if the gates are coupled; `beside_o` are parameters that the output needs, `kept`
    says which elements of the candidate are not dropped.
    """

    i: Any  # an array, or None
    f: jax.Array
    g: jax.Array
    o: jax.Array
    beside_o: tuple[jax.Array, ...] = ()
    kept: tuple[jax.Array, ...] = ()


def lstm(
    input_size: int,
    hidden_size: int,
    *,
    peepholes: bool = False,
    coupled: bool = False,
    projection_size: int | None = None,
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
    """Long short-term memory, with PyTorch's order of the gates.

        i, f, g, o = W1 x(t) + W11 h(t-1) + b
        c(t) = σ(f) c(t-1) + σ(i) tanh(g)
        h(t) = σ(o) tanh(c(t)),  y(t) = h(t)

    Variants, any of them together, but for peepholes with layer norm:

        peepholes     w_i c(t-1) is added to i, w_f c(t-1) to f, w_o c(t) to o
        coupled       c(t) = σ(f) c(t-1) + (1 - σ(f)) tanh(g), and there is no i
        projection    y(t) = h(t) W_p, and W11 reads y(t-1) in the place of h(t-1)
        layer norm    i, f, g, o = s1 LN(W1 x(t)) + s11 LN(W11 h(t-1)) + b
                      h(t) = σ(o) tanh(s_c LN(c(t)) + b_c)
                      LN(a) = (a - mean(a)) / √(var(a) + 10⁻⁵), over all gates together

    Args:
      input_size: I, the size of x(t).
      hidden_size: H, the size of h(t) and c(t).
      peepholes: whether the gates see the cell state.
      coupled: whether f is also what i is: the gates are then (f, g, o).
      projection_size: P, the size of y(t) (PyTorch's proj_size); there is no W_p if None.
      layer_norm: whether there is layer normalization.
      gate_activation: any function of one vector [H], in the place of σ. The rules of the gradient
        are hand-written for σ and tanh, and JAX's own for other functions.
      activation: any function of one vector [H], in the place of tanh.
      recurrent_dropout: in training, the probability that an element of the candidate tanh(g), what
        a step adds to the memory, is zero; the others are scaled by its inverse. See `key` of
        `sj.unroll`.
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

      With coupled gates these kernels and the bias have 3H columns. The variants add, drawn alike,
      "peepholes": [3H], w_i, w_f and w_o side by side (coupled: [2H], w_f and w_o), and
      "projection": [H, P]; the recurrent kernel then is [P, 4H], and the h of the state is not
      projected. Layer norm adds "kernel_scale" and "recurrent_kernel_scale": [4H], "cell_scale":
      [H], one at first, and "cell_bias": [H], zero at first.

    References:
      Hochreiter & Schmidhuber 1997; Gers et al. 2000 (forget gate); Jozefowicz et al. 2015
      (forget bias); Tallec & Ollivier 2018, arXiv:1804.11188 (chrono); Gers & Schmidhuber 2000,
      Recurrent nets that time and count (peepholes); Greff et al. 2017, arXiv:1503.04069 (coupled
      gates); Sak et al. 2014, arXiv:1402.1128 (projection); Ba et al. 2016, arXiv:1607.06450
      (layer norm); Semeniuta et al. 2016, arXiv:1603.05118 (recurrent dropout); notes, section 3.

    >>> import jax, jax.numpy as jnp, seqjax as sj
    >>> cell = sj.lstm(3, 4, forget_bias=1.0)
    >>> state, ys = sj.unroll(cell, cell.init(jax.random.key(0)), jnp.ones((10, 3)))
    >>> state.h.shape, state.c.shape, ys.shape
    ((4,), (4,), (10, 4))
    """
    hidden_size = _checks.size("hidden_size", hidden_size)
    flags = {"peepholes": peepholes, "coupled": coupled, "layer_norm": layer_norm}
    peepholes, coupled, layer_norm = (_checks.flag(name, value) for name, value in flags.items())
    if layer_norm and peepholes:
        raise ValueError(_checks.mismatch("layer_norm", "False with peepholes=True", True))
    gates, keep, opposed = (3, 0, None) if coupled else (4, 1, 0)
    forget_bias, chrono = check_forget_bias(forget_bias, chrono, use_bias)
    extra_params = forget_bias_params(forget_bias, chrono, gates, keep, opposed)
    # How u(t), z(t), c(t) and h(t) are made, the last three with their rules.
    linear = NORMED_PRODUCT if layer_norm else PRODUCT
    make_u = static_partial(project, gates, linear.function)
    make_z = around(Part(static_partial(preactivate, gates), preactivate_vjp), linear)
    make_c = COUPLED_UPDATE if coupled else Part(update, update_vjp)
    make_c = Part(*(static_partial(function, recurrent_dropout) for function in make_c))
    make_h, read = Part(output, output_vjp), readout
    if peepholes:
        make_u = static_partial(peephole_project, make_u)
        make_z, make_h = around(PEEPHOLES, make_z), PEEPHOLE_OUTPUT
        extra_params += (static_partial(add_peepholes, hidden_size, gates - 1),)
    if layer_norm:
        make_u, make_h = static_partial(cell_norm_project, make_u), NORMED_OUTPUT
        extra_params += (add_scales, static_partial(add_cell_norm, hidden_size))
    if projection_size is not None:
        projection_size = _checks.size("projection_size", projection_size)
        make_z, read = around(PROJECTION, make_z), projected_readout
        extra_params += (static_partial(add_projection, hidden_size, projection_size),)
    read_x, draw = with_dropout(recurrent_dropout, hidden_size, make_u)
    functions = (
        pointwise("gate_activation", gate_activation),
        pointwise("activation", activation),
    )
    return recurrent_cell(
        lstm,
        input_size,
        hidden_size,
        gates=gates,
        read_size=projection_size,
        extra_params=extra_params,
        zero_state=zero_state,
        options={
            "peepholes": peepholes,
            "coupled": coupled,
            "projection_size": projection_size,
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
        learn_initial_state=learn_initial_state,
        dtype=dtype,
        param_dtype=param_dtype,
        project=read_x,
        draw=draw,
        preactivate=make_z.function,
        preactivate_vjp=make_z.rule,
        activate=static_partial(
            activate,
            *(static_partial(part.function, *functions) for part in (make_c, make_h)),
        ),
        activate_vjp=static_partial(activate_vjp, make_c.rule, make_h.rule)
        if has_rules(gate_activation, activation)
        else None,
        readout=read,
    )


def zero_state(hidden_size: int, dtype: Any) -> LSTMState:
    return LSTMState(jnp.zeros(hidden_size, dtype), jnp.zeros(hidden_size, dtype))


def by_gate(gates: int, stacked: jax.Array) -> Gates:
    *i, f, g, o = jnp.split(stacked, gates, axis=-1)
    return Gates(i[0] if i else None, f, g, o)


def project(gates: int, linear: Callable, params: PyTree, x: jax.Array) -> Gates:
    return by_gate(gates, add_bias(linear(params, "kernel", x), params.get("bias")))


def preactivate(gates: int, linear: Callable, params: PyTree, h_prev: LSTMState, u: Gates) -> Gates:
    recurrent = by_gate(gates, linear(params, "recurrent_kernel", h_prev.h))
    z = jax.tree.map(jnp.add, u._replace(beside_o=(), kept=()), recurrent)
    return z._replace(beside_o=u.beside_o, kept=u.kept)


def preactivate_vjp(
    linear_vjp: Callable, params: PyTree, h_prev: LSTMState, u: Gates, z: Gates, dz: Gates
) -> LSTMState:
    stacked = jnp.concatenate(jax.tree.leaves((dz.i, dz.f, dz.g, dz.o)), axis=-1)
    dh = linear_vjp(params, "recurrent_kernel", h_prev.h, stacked)
    return LSTMState(dh, jnp.zeros_like(h_prev.c))


# c(t) = σ(f) c(t-1) + σ(i) tanh(g)
def update(
    rate: float, gate: Callable, activation: Callable, z: Gates, c_prev: jax.Array
) -> jax.Array:
    return gate(z.f) * c_prev + gate(z.i) * dropped(rate, z.kept, activation(z.g))


def update_vjp(rate: float, z: Gates, c_prev: jax.Array, dc: jax.Array) -> tuple[dict, jax.Array]:
    i, f, g = sigmoid(z.i), sigmoid(z.f), jnp.tanh(z.g)
    # Each is dc times a factor, which does not need it and is computed outside of the loop.
    d_i = dc * (dropped(rate, z.kept, g) * (i * (1 - i)))
    d_f = dc * (c_prev * (f * (1 - f)))
    d_g = dc * dropped(rate, z.kept, i * (1 - g * g))
    return {"i": d_i, "f": d_f, "g": d_g}, dc * f


# h(t) = σ(o) tanh(c(t))
def output(gate: Callable, activation: Callable, z: Gates, c: jax.Array) -> jax.Array:
    return gate(z.o) * activation(c)


def output_vjp(z: Gates, c: jax.Array, dh: jax.Array) -> tuple[dict, jax.Array]:
    o, tanh_c = sigmoid(z.o), jnp.tanh(c)
    return {"o": dh * (tanh_c * (o * (1 - o)))}, dh * (o * (1 - tanh_c * tanh_c))


def activate(make_c: Callable, make_h: Callable, z: Gates, h_prev: LSTMState) -> LSTMState:
    c = make_c(z, h_prev.c)
    return LSTMState(make_h(z, c), c)


def activate_vjp(
    make_c_vjp: Callable,
    make_h_vjp: Callable,
    z: Gates,
    h_prev: LSTMState,
    h: LSTMState,
    dh: LSTMState,
) -> tuple[Gates, LSTMState]:
    d_output, dc = make_h_vjp(z, h.c, dh.h)
    d_update, dc_prev = make_c_vjp(z, h_prev.c, dh.c + dc)
    dz = Gates(**d_update, **d_output, kept=z.kept)
    return dz, LSTMState(jnp.zeros_like(h_prev.h), dc_prev)


def readout(params: PyTree, h: LSTMState) -> jax.Array:
    return h.h
