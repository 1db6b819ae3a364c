"""The linear recurrent unit."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from seqjax import _checks
from seqjax._static import static_partial
from seqjax._types import Key, PyTree
from seqjax.models._affine import affine_cell, widen
from seqjax.models._initial import Initializers, PerGate, check_initializers, redraw, shown
from seqjax.models._state_space import diagonal, feedthrough, inputs, readout
from seqjax.models.cell import Cell

__all__ = ["lru"]


def lru(
    input_size: int,
    hidden_size: int,
    output_size: int,
    *,
    r_min: float = 0.0,
    r_max: float = 1.0,
    max_phase: float = 6.283185307179586,
    kernel_init: PerGate = None,
    dtype: Any = None,
    param_dtype: Any = None,
) -> Cell:
    """The linear recurrent unit: an affine cell, complex, with an a that no input changes.

        a = exp(-exp(ν) + i exp(θ))
        h(t) = a h(t-1) + exp(γ) B x(t)
        y(t) = Re(C h(t)) + D x(t)

    It is linear in x; what is not stands around it (a norm, a GLU, a residual connection).

    Args:
      input_size: I, the size of x(t).
      hidden_size: H, the size of h(t).
      output_size: O, the size of y(t).
      r_min, r_max: a is uniform at first on the ring between these radii.
      max_phase: up to this angle, in radians.
      kernel_init: what the real and the imaginary parts of B and C, and D, start from, a function
        `(key, shape, dtype) -> array` as `jax.nn.initializers` makes; the default if None. ν, θ
        and γ have no initializer: what they may be is what the ring says. There is no bias.
      dtype: of inputs and outputs; JAX's default float if None.
      param_dtype: of the parameters; `dtype` if None.

    Returns:
      A cell with params {"nu_log", "theta_log", "gamma_log": [H], ν, θ, γ, which are not cast to
      `dtype`; "input_kernel_real", "input_kernel_imag": [I, H], N(0, 1/2I); "output_kernel_real",
      "output_kernel_imag": [H, O], N(0, 1/H); "feedthrough_kernel": [I, O], N(0, 1/I),
      by default}. exp(γ) is √(1 - |a|²) at first. The state is h, complex [H], complex64 at least,
      zero at first.

    Raises:
      ValueError: not 0 ≤ r_min < r_max ≤ 1, or `max_phase` not above zero.

    References:
      Orvieto et al. 2023, Resurrecting recurrent neural networks for long sequences,
      arXiv:2303.06349 (there D is diagonal in the experiments).

    >>> import jax, jax.numpy as jnp, seqjax as sj
    >>> cell = sj.lru(3, 8, 2, r_min=0.9)
    >>> h, ys = sj.unroll(cell, cell.init(jax.random.key(0)), jnp.ones((10, 3)))
    >>> h.shape, h.dtype.name, ys.shape
    ((8,), 'complex64', (10, 2))
    """
    r_min, r_max = _checks.number("r_min", r_min, at_least=0), _checks.number("r_max", r_max)
    if not r_min < r_max <= 1:
        expected = f"a number above r_min = {r_min:g}, at most 1"
        raise ValueError(_checks.mismatch("r_max", expected, r_max))
    max_phase = _checks.number("max_phase", max_phase, above=0)
    sizes = {"input_size": input_size, "hidden_size": hidden_size, "output_size": output_size}
    inits = check_initializers(kernel_init=kernel_init)
    return affine_cell(
        lru,
        sizes,
        hidden_size,
        init=static_partial(init, r_min, r_max, max_phase, inits),
        options={"r_min": r_min, "r_max": r_max, "max_phase": max_phase, **shown(inits)},
        dtype=dtype,
        param_dtype=param_dtype,
        complex_state=True,
        project=project,
        coefficients=diagonal,
        readout=readout,
        feedthrough=feedthrough,
        uncast=("nu_log", "theta_log", "gamma_log"),
    )


def init(
    r_min: float,
    r_max: float,
    max_phase: float,
    inits: Initializers,
    input_size: int,
    hidden_size: int,
    output_size: int,
    key: Key,
    *,
    dtype: Any,
) -> dict:
    *keys, for_radius, for_phase = _checks.keys(key, 7)
    shapes = {
        "input_kernel_real": ((input_size, hidden_size), 2 * input_size),
        "input_kernel_imag": ((input_size, hidden_size), 2 * input_size),
        "output_kernel_real": ((hidden_size, output_size), hidden_size),
        "output_kernel_imag": ((hidden_size, output_size), hidden_size),
        "feedthrough_kernel": ((input_size, output_size), input_size),
    }
    kernels = {
        name: redraw(
            key,
            jax.random.normal(key, shape, dtype) * count**-0.5,
            inits.kernel_init,
            "kernel_init",
        )
        for key, (name, (shape, count)) in zip(keys, shapes.items(), strict=True)
    }
    # Uniform by area: the square of the radius is uniform. Never 0 or 1, whose logarithms are not
    # finite.
    tiny = 1e-6
    squares = max(r_min**2, tiny), min(r_max**2, 1 - tiny)
    square = jax.random.uniform(for_radius, (hidden_size,), jnp.float32, *squares)
    phase = jax.random.uniform(for_phase, (hidden_size,), jnp.float32, tiny, max_phase)
    unit = {
        "nu_log": jnp.log(-0.5 * jnp.log(square)),
        "theta_log": jnp.log(phase),
        "gamma_log": 0.5 * jnp.log1p(-square),
    }
    return kernels | {name: value.astype(dtype) for name, value in unit.items()}


def project(params: PyTree, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(a, exp(γ) B x(t))."""
    nu, theta, gamma = widen([params["nu_log"], params["theta_log"], params["gamma_log"]])
    b = inputs(params, x)
    a = jnp.exp(lax.complex(-jnp.exp(nu), jnp.exp(theta)))
    return a.astype(b.dtype), jnp.exp(gamma).astype(b.dtype) * b
