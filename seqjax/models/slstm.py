"""The scalar LSTM of xLSTM: exponential gates, normalized and stabilized, in heads."""

from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jax import export
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
from seqjax.models.lstm import readout
from seqjax.ops.matmul import matmul

__all__ = ["SLSTMState", "slstm"]

ForgetGate = Literal["sigmoid", "exp"]


class SLSTMState(NamedTuple):
    """The state of `slstm`: output h, cell state c, normalizer n and stabilizer m, [H] each."""

    h: jax.Array
    c: jax.Array
    n: jax.Array
    m: jax.Array


export.register_namedtuple_serialization(SLSTMState, serialized_name="seqjax.SLSTMState")


class Gates(NamedTuple):
    """Pre-activations, an array each, as in lstm.py."""

    i: jax.Array
    f: jax.Array
    g: jax.Array
    o: jax.Array


def slstm(
    input_size: int,
    hidden_size: int,
    *,
    heads: int = 1,
    forget_gate: ForgetGate = "sigmoid",
    forget_bias: float | None = None,
    kernel_init: PerGate = None,
    recurrent_init: PerGate = None,
    bias_init: PerGate = None,
    use_bias: bool = True,
    dtype: Any = None,
    param_dtype: Any = None,
) -> Cell:
    """The sLSTM of xLSTM: an LSTM whose input gate is an exponential.

        i, f, g, o = W1 x(t) + W11 h(t-1) + b               W11: a block for every head
        log f(t) = log σ(f), or f
        m(t) = max(log f(t) + m(t-1), i)                    from m(-1) = -∞
        f'(t) = exp(log f(t) + m(t-1) - m(t)),  i'(t) = exp(i - m(t))
        c(t) = f'(t) c(t-1) + i'(t) tanh(g)                 from c(-1) = 0
        n(t) = f'(t) n(t-1) + i'(t)                         from n(-1) = 0
        h(t) = σ(o) c(t) / n(t),  y(t) = h(t)

    c / n is a weighted mean of all tanh(g) so far, and a step may outweigh all before it: the cell
    can revise what it has stored. m(t) cancels in it, and only keeps the exponentials finite: one
    of i'(t) and f'(t) is 1, so that n(t) ≥ 1 from the first step on.

    This is the paper's c / n. FlashRNN's n = max(n, 1) is another function: where the stabilized n
    is below 1, as it can be if m does not start from -∞, its h is smaller and depends on m.

    Args:
      input_size: I, the size of x(t).
      hidden_size: H, the size of h(t), c(t), n(t) and m(t).
      heads: a divisor of H: how many groups the units are in; the recurrent kernel leads from a
        unit to those of its own group alone. 1 is a full one; the paper has 4.
      forget_gate: "sigmoid", the gate of the authors' own networks: no step adds to the weight of
        those before it, and m(t) is at most the largest i so far. Or "exp", the paper's other
        choice.
      forget_bias: what the bias of f starts from; drawn like the rest if None.
      kernel_init, recurrent_init, bias_init: what the parameters start from, each a function
        `(key, shape, dtype) -> array` as `jax.nn.initializers` makes, called for each gate, for
        the recurrent kernel of each head; or a tuple of four, of i, f, g and o, with None for the
        default.
      use_bias: whether there is a b.
      dtype: of inputs, states and outputs; JAX's default float if None.
      param_dtype: of the parameters; `dtype` if None.

    Returns:
      A cell with params {"kernel": [I, 4H], "recurrent_kernel": [heads, H/heads, 4H/heads],
      "bias": [4H]}, all drawn from U(±1/√H), the recurrent kernel from U(±1/√(H/heads)), by
      default. The state is SLSTMState(h, c, n, m), at first (0, 0, 0, -∞). It cannot be learned:
      where m is -∞, c and n have no gradient.

    Raises:
      ValueError: `heads` does not divide `hidden_size`.

    References:
      Beck et al. 2024, xLSTM: extended long short-term memory, arXiv:2405.04517, section 2.2;
      Pöppel et al. 2024, FlashRNN, arXiv:2412.07752.

    >>> import jax, jax.numpy as jnp, seqjax as sj
    >>> cell = sj.slstm(3, 8, heads=2)
    >>> state, ys = sj.unroll(cell, cell.init(jax.random.key(0)), jnp.ones((10, 3)))
    >>> ys.shape, cell.init(jax.random.key(0))["recurrent_kernel"].shape
    ((10, 8), (2, 4, 16))
    """
    input_size = _checks.size("input_size", input_size)
    hidden_size = _checks.size("hidden_size", hidden_size)
    heads = _checks.size("heads", heads)
    if hidden_size % heads:
        expected = f"a divisor of hidden_size, {hidden_size}"
        raise ValueError(_checks.mismatch("heads", expected, heads))
    _checks.choice("forget_gate", forget_gate, get_args(ForgetGate))
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
    options = {"heads": heads, "forget_gate": forget_gate, "forget_bias": forget_bias}
    sizes = input_size, hidden_size
    return Cell(
        init=static_partial(init, *sizes, heads, forget_bias, inits, dtype=param_dtype),
        initial_state=static_partial(initial_state, hidden_size, dtype=dtype),
        project=project,
        preactivate=preactivate,
        preactivate_vjp=preactivate_vjp,
        activate=static_partial(activate, forget_gate),
        activate_vjp=static_partial(activate_vjp, forget_gate),
        readout=readout,
        input_spec=jax.ShapeDtypeStruct((input_size,), dtype),
        dtype=dtype,
        name=call_of(slstm, *sizes, **options, **shown(inits)),
    )


def init(
    input_size: int,
    hidden_size: int,
    heads: int,
    forget_bias: float | None,
    inits: Initializers,
    key: Key,
    *,
    dtype: Any,
) -> dict[str, jax.Array]:
    size, bound = hidden_size // heads, hidden_size**-0.5
    arrays = {
        "kernel": Array((input_size, 4 * hidden_size), bound, "kernel_init", 4),
        "recurrent_kernel": Array(
            (heads, size, 4 * size), size**-0.5, "recurrent_init", 4, heads=True
        ),
        "bias": Array((4 * hidden_size,), bound, "bias_init", 4),
    }
    params = draw_all(_checks.keys(key, len(arrays)), arrays, inits, dtype)
    return params if forget_bias is None else set_constant(forget_bias, 4, 1, key, params, bound)


def initial_state(hidden_size: int, params: PyTree, *, dtype: Any) -> SLSTMState:
    zero = jnp.zeros(hidden_size, dtype)
    return SLSTMState(zero, zero, zero, jnp.full(hidden_size, -jnp.inf, dtype))


def project(params: PyTree, x: jax.Array) -> Gates:
    return Gates(*jnp.split(matmul(x, params["kernel"], params.get("bias")), 4, axis=-1))


# A matmul for every head, since each is pooled over time and batch: see `seqjax.ops.matmul`.
def preactivate(params: PyTree, h_prev: SLSTMState, u: Gates) -> Gates:
    blocks = params["recurrent_kernel"]
    recurrent = [
        jnp.split(matmul(h, block), 4, axis=-1)
        for h, block in zip(jnp.split(h_prev.h, len(blocks)), blocks, strict=True)
    ]
    of_gates = (jnp.concatenate(gate) for gate in zip(*recurrent, strict=True))
    return Gates(*(a + b for a, b in zip(u, of_gates, strict=True)))


def preactivate_vjp(
    params: PyTree, h_prev: SLSTMState, u: Gates, z: Gates, dz: Gates
) -> SLSTMState:
    blocks, zero = params["recurrent_kernel"], jnp.zeros_like(h_prev.c)
    of_heads = zip(*(jnp.split(gate, len(blocks)) for gate in dz), strict=True)
    dh = [matmul(jnp.concatenate(d), block.T) for d, block in zip(of_heads, blocks, strict=True)]
    return SLSTMState(jnp.concatenate(dh), zero, zero, zero)


def weights(lead: jax.Array) -> tuple[jax.Array, jax.Array]:
    """f'(t) and i'(t), of which one is 1, from log f(t) + m(t-1) - i.

    Not from a rounded m(t), so that n(t) ≥ 1 holds in any precision.
    """
    return jnp.exp(-jax.nn.relu(-lead)), jnp.exp(-jax.nn.relu(lead))


def activate(forget_gate: ForgetGate, z: Gates, h_prev: SLSTMState) -> SLSTMState:
    past = log_forget(forget_gate, z.f) + h_prev.m
    f, i = weights(past - z.i)
    c = f * h_prev.c + i * jnp.tanh(z.g)
    n = f * h_prev.n + i
    return SLSTMState(sigmoid(z.o) * (c / n), c, n, jnp.maximum(past, z.i))


def activate_vjp(
    forget_gate: ForgetGate, z: Gates, h_prev: SLSTMState, h: SLSTMState, dh: SLSTMState
) -> tuple[Gates, SLSTMState]:
    lead = log_forget(forget_gate, z.f) + h_prev.m - z.i
    f, i = weights(lead)
    g, o = jnp.tanh(z.g), sigmoid(z.o)
    dc = dh.c + dh.h * (o / h.n)
    dn = dh.n - dh.h * (h.h / h.n)
    # By the lead: f' is 1 from 0 on and i' up to there. Of m(t), at 0, half goes each way.
    df, di = jnp.where(lead < 0, f, 0), jnp.where(lead > 0, i, 0)
    d_lead = dc * (df * h_prev.c - di * g) + dn * (df * h_prev.n - di)
    share = jnp.heaviside(lead, 0.5)
    d_past = dh.m * share + d_lead
    dz = Gates(
        i=dh.m * (1 - share) - d_lead,
        f=d_past * log_forget_slope(forget_gate, z.f),
        g=dc * (i * (1 - g * g)),
        o=dh.h * (h.h * (1 - o)),
    )
    return dz, SLSTMState(jnp.zeros_like(h_prev.h), dc * f, dn * f, d_past)


def log_forget(forget_gate: ForgetGate, f: jax.Array) -> jax.Array:
    return jax.nn.log_sigmoid(f) if forget_gate == "sigmoid" else f


def log_forget_slope(forget_gate: ForgetGate, f: jax.Array) -> jax.Array:
    return sigmoid(-f) if forget_gate == "sigmoid" else jnp.ones_like(f)
