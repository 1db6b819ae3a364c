"""The gated recurrent unit."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.nn import sigmoid

from seqjax import _checks
from seqjax._static import static_partial
from seqjax._types import Key, PyTree
from seqjax.models._forget_bias import check_forget_bias, forget_bias_params
from seqjax.models._initial import Array, PerGate, draw
from seqjax.models._recurrent import recurrent_cell, zero_vector
from seqjax.models.cell import Cell
from seqjax.ops.matmul import add_bias, matmul

__all__ = ["gru"]


class Gates(NamedTuple):
    """Pre-activations: reset, update, candidate."""

    r: jax.Array
    z: jax.Array
    n: jax.Array


class GatesAfter(NamedTuple):
    """Pre-activations where the reset gate comes after the matmul: it acts on m alone."""

    r: jax.Array
    z: jax.Array
    n: jax.Array
    m: jax.Array


def gru(
    input_size: int,
    hidden_size: int,
    *,
    reset_after: bool = True,
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

    Args:
      input_size: I, the size of x(t).
      hidden_size: H, the size of h(t).
      reset_after: where the reset gate acts: after the matmul (PyTorch, cuDNN, Flax), or
        before it (Cho et al. 2014; Haiku).
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
      and "initial_state": [H], zero at first, if it is learned. The state is h, [H].

    References:
      Cho et al. 2014, arXiv:1406.1078; Tallec & Ollivier 2018, arXiv:1804.11188 (chrono); notes,
      section 3.

    >>> import jax, jax.numpy as jnp, seqjax as sj
    >>> cell = sj.gru(3, 4)
    >>> h, ys = sj.unroll(cell, cell.init(jax.random.key(0)), jnp.ones((10, 3)))
    >>> h.shape, ys.shape
    ((4,), (10, 4))
    """
    reset_after = _checks.flag("reset_after", reset_after)
    forget_bias, chrono = check_forget_bias(forget_bias, chrono, use_bias)
    extra_params = forget_bias_params(forget_bias, chrono, gates=3, keep=1, opposed=None)
    if reset_after and use_bias:
        extra_params = (static_partial(add_recurrent_bias, bias_init), *extra_params)
    return recurrent_cell(
        gru,
        input_size,
        hidden_size,
        gates=3,
        zero_state=zero_vector,
        options={"reset_after": reset_after, "forget_bias": forget_bias, "chrono": chrono},
        kernel_init=kernel_init,
        recurrent_init=recurrent_init,
        bias_init=bias_init,
        use_bias=use_bias,
        extra_params=extra_params,
        learn_initial_state=learn_initial_state,
        dtype=dtype,
        param_dtype=param_dtype,
        project=project,
        **(RESET_AFTER if reset_after else RESET_BEFORE),
    )


def project(params: PyTree, x: jax.Array) -> Gates:
    return Gates(*jnp.split(matmul(x, params["kernel"], params.get("bias")), 3, axis=-1))


# Reset after the matmul.
def add_recurrent_bias(bias_init: PerGate, key: Key, params: dict, bound: float) -> dict:
    init = bias_init[2] if isinstance(bias_init, tuple) else bias_init
    kernel = params["recurrent_kernel"]
    array = Array(kernel.shape[:1], bound, "bias_init")
    return params | {"recurrent_bias": draw(key, array, init, kernel.dtype)}


def preactivate_after(params: PyTree, h_prev: jax.Array, u: Gates) -> GatesAfter:
    r, z, m = jnp.split(matmul(h_prev, params["recurrent_kernel"]), 3, axis=-1)
    return GatesAfter(u.r + r, u.z + z, u.n, add_bias(m, params.get("recurrent_bias")))


def preactivate_after_vjp(
    params: PyTree, h_prev: jax.Array, u: Gates, z: GatesAfter, dz: GatesAfter
) -> jax.Array:
    return matmul(jnp.concatenate([dz.r, dz.z, dz.m], axis=-1), params["recurrent_kernel"].T)


def activate_after(z: GatesAfter, h_prev: jax.Array) -> jax.Array:
    n = jnp.tanh(z.n + sigmoid(z.r) * z.m)
    return n + sigmoid(z.z) * (h_prev - n)


def activate_after_vjp(
    z: GatesAfter, h_prev: jax.Array, h: jax.Array, dh: jax.Array
) -> tuple[GatesAfter, jax.Array]:
    r, update = sigmoid(z.r), sigmoid(z.z)
    n = jnp.tanh(z.n + r * z.m)
    to_n = (1 - update) * (1 - n * n)
    dz = GatesAfter(
        r=dh * (to_n * (z.m * (r * (1 - r)))),
        z=dh * ((h_prev - n) * (update * (1 - update))),
        n=dh * to_n,
        m=dh * (to_n * r),
    )
    return dz, dh * update


# Reset before the matmul: r acts inside `preactivate`, which is then not linear in h(t-1).
def preactivate_before(params: PyTree, h_prev: jax.Array, u: Gates) -> Gates:
    to_gates, to_candidate = _split_kernel(params, h_prev.size)
    r, z = jnp.split(matmul(h_prev, to_gates), 2, axis=-1)
    r = u.r + r
    return Gates(r, u.z + z, u.n + matmul(sigmoid(r) * h_prev, to_candidate))


def preactivate_before_vjp(
    params: PyTree, h_prev: jax.Array, u: Gates, z: Gates, dz: Gates
) -> jax.Array:
    to_gates, to_candidate = _split_kernel(params, h_prev.size)
    r = sigmoid(z.r)
    d_gated = matmul(dz.n, to_candidate.T)
    dr = dz.r + d_gated * (h_prev * (r * (1 - r)))
    return d_gated * r + matmul(jnp.concatenate([dr, dz.z], axis=-1), to_gates.T)


def activate_before(z: Gates, h_prev: jax.Array) -> jax.Array:
    n = jnp.tanh(z.n)
    return n + sigmoid(z.z) * (h_prev - n)


def activate_before_vjp(
    z: Gates, h_prev: jax.Array, h: jax.Array, dh: jax.Array
) -> tuple[Gates, jax.Array]:
    update, n = sigmoid(z.z), jnp.tanh(z.n)
    dz = Gates(
        r=jnp.zeros_like(dh),
        z=dh * ((h_prev - n) * (update * (1 - update))),
        n=dh * ((1 - update) * (1 - n * n)),
    )
    return dz, dh * update


def _split_kernel(params: PyTree, hidden_size: int) -> list[jax.Array]:
    return jnp.split(params["recurrent_kernel"], [2 * hidden_size], axis=1)


RESET_AFTER: dict[str, Any] = {
    "preactivate": preactivate_after,
    "preactivate_vjp": preactivate_after_vjp,
    "activate": activate_after,
    "activate_vjp": activate_after_vjp,
}
RESET_BEFORE: dict[str, Any] = {
    "preactivate": preactivate_before,
    "preactivate_vjp": preactivate_before_vjp,
    "activate": activate_before,
    "activate_vjp": activate_before_vjp,
}
