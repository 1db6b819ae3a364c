"""The real-gated linear recurrent unit."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.nn import sigmoid, softplus

from seqjax import _checks
from seqjax._static import static_partial
from seqjax._tree import wide_dtype
from seqjax._types import Key, PyTree
from seqjax.models._affine import affine_cell, readout, widen
from seqjax.models._initial import Initializers, PerGate, check_initializers, redraw, shown
from seqjax.models.cell import Cell
from seqjax.ops.matmul import matmul

__all__ = ["rg_lru"]


class Gated(NamedTuple):
    """log a(t), and the gated input."""

    log_a: jax.Array
    x: jax.Array


def rg_lru(
    size: int,
    *,
    heads: int = 1,
    c: float = 8.0,
    a_min: float = 0.9,
    a_max: float = 0.999,
    kernel_init: PerGate = None,
    bias_init: PerGate = None,
    use_bias: bool = True,
    learn_initial_state: bool = False,
    dtype: Any = None,
    param_dtype: Any = None,
) -> Cell:
    """The real-gated linear recurrent unit of Griffin: an affine cell, real.

        r, i = σ(W1 x(t) + b)
        a(t) = σ(Λ)^(c r)
        h(t) = a(t) h(t-1) + √(1 - a(t)²) (i x(t)),  y(t) = h(t)

    Args:
      size: H, the size of x(t) and of h(t); they are multiplied element by element.
      heads: the number of diagonal blocks that W1 is made of (Griffin's models have several).
      c: how much the gate r can do.
      a_min, a_max: Λ is drawn so that a = σ(Λ)^c is uniform between these, at r = 1. It has no
        initializer.
      kernel_init, bias_init: what the parameters of the gates start from, each a function
        `(key, shape, dtype) -> array` as `jax.nn.initializers` makes, called for each gate of each
        head, [H/heads, H/heads] and [H/heads]; or a tuple of two, of r and i, with None for the
        default.
      use_bias: whether there is a b.
      learn_initial_state: whether h(-1) is a parameter (from zero) instead of zero.
      dtype: of inputs and outputs; JAX's default float if None.
      param_dtype: of the parameters; `dtype` if None.

    Returns:
      A cell with params {"kernel": [heads, H/heads, 2H/heads], drawn from N(0, heads/H) by default;
      "bias": [2H], zero by default; "decay": [H], Λ, which is not cast to `dtype`}; and
      "initial_state": [H], zero at first, if it is learned. The state is h, [H], in float32 where
      `dtype` is narrower.

    The derivative of the square root is infinite at a(t) = 1; as in Griffin, it is not let above
    1000.

    Raises:
      ValueError: `size` is not a multiple of `heads`; or not 0 < a_min < a_max < 1.

    References:
      De et al. 2024, Griffin, arXiv:2402.19427, section 2.4.

    >>> import jax, jax.numpy as jnp, seqjax as sj
    >>> cell = sj.rg_lru(4)
    >>> h, ys = sj.unroll(cell, cell.init(jax.random.key(0)), jnp.ones((10, 4)))
    >>> h.shape, ys.shape
    ((4,), (10, 4))
    """
    size, heads = _checks.size("size", size), _checks.size("heads", heads)
    if size % heads:
        raise ValueError(_checks.mismatch("heads", f"a divisor of the size {size}", heads))
    c = _checks.number("c", c, above=0)
    a_min, a_max = _checks.number("a_min", a_min, above=0), _checks.number("a_max", a_max)
    if not a_min < a_max < 1:
        expected = f"a number between a_min = {a_min:g} and 1"
        raise ValueError(_checks.mismatch("a_max", expected, a_max))
    inits = check_initializers(2, kernel_init=kernel_init, bias_init=bias_init, use_bias=use_bias)
    return affine_cell(
        rg_lru,
        {"size": size},
        size,
        init=static_partial(init, heads, c, a_min, a_max, inits),
        options={"heads": heads, "c": c, "a_min": a_min, "a_max": a_max, **shown(inits)},
        learn_initial_state=learn_initial_state,
        dtype=dtype,
        param_dtype=param_dtype,
        project=static_partial(project, c),
        coefficients=coefficients,
        readout=readout,
        uncast=("decay",),
    )


def init(
    heads: int,
    c: float,
    a_min: float,
    a_max: float,
    inits: Initializers,
    size: int,
    key: Key,
    *,
    dtype: Any,
) -> dict:
    for_kernel, for_decay = _checks.keys(key, 2)
    block = size // heads
    kernel = jax.random.normal(for_kernel, (heads, block, 2 * block), dtype) * block**-0.5
    params = {"kernel": redraw(for_kernel, kernel, inits.kernel_init, "kernel_init", 2, heads=True)}
    if inits.use_bias:
        # A third key, which leaves the two that `split` makes as they are.
        zeros, for_bias = jnp.zeros((heads, 2 * block), dtype), jax.random.fold_in(key, 2)
        bias = redraw(for_bias, zeros, inits.bias_init, "bias_init", 2, heads=True)
        params["bias"] = bias.reshape(-1)
    # In half precision an a near 1 would be 1, whose Λ is infinite.
    a = jax.random.uniform(for_decay, (size,), wide_dtype(dtype), a_min, a_max)
    log_sigmoid = jnp.log(a) / c
    decay = log_sigmoid - jnp.log(-jnp.expm1(log_sigmoid))
    return params | {"decay": decay.astype(dtype)}


def project(c: float, params: PyTree, x: jax.Array) -> Gated:
    kernel, bias = params["kernel"], params.get("bias")
    heads = kernel.shape[0]
    # The columns of a block are those of its r, then those of its i.
    biases = [None] * heads if bias is None else jnp.split(bias, heads)
    parts = zip(jnp.split(x, heads, -1), kernel, biases, strict=True)
    blocks = [jnp.split(matmul(x, k, b), 2, axis=-1) for x, k, b in parts]
    r, i = (sigmoid(widen(jnp.concatenate(gate, -1))) for gate in zip(*blocks, strict=True))
    decay = softplus(-widen(params["decay"])).astype(r.dtype)
    return Gated(-c * decay * r, i * widen(x))


def coefficients(z: Gated) -> tuple[jax.Array, jax.Array]:
    log_a, x = z
    return jnp.exp(log_a), bounded_sqrt(-jnp.expm1(2 * log_a)) * x


@jax.custom_jvp
def bounded_sqrt(x: jax.Array) -> jax.Array:
    """√x, with a derivative of 1000 at most."""
    return jnp.sqrt(x)


@bounded_sqrt.defjvp
def _bounded_sqrt_jvp(primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    (x,), (dx,) = primals, tangents
    return bounded_sqrt(x), dx * (0.5 / jnp.sqrt(jnp.maximum(x, 0.25e-6)))
