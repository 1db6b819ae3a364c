"""The simplified structured state-space model, S5."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from seqjax import _checks
from seqjax._static import static_partial
from seqjax._types import Key, PyTree
from seqjax.models import _state_space
from seqjax.models._affine import affine_cell, widen
from seqjax.models._initial import Initializers, PerGate, check_initializers, redraw, shown
from seqjax.models.cell import Cell

__all__ = ["s5"]


def s5(
    input_size: int,
    hidden_size: int,
    output_size: int,
    *,
    blocks: int = 1,
    dt_min: float = 0.001,
    dt_max: float = 0.1,
    timesteps: bool = False,
    kernel_init: PerGate = None,
    dtype: Any = None,
    param_dtype: Any = None,
) -> Cell:
    """The simplified structured state-space model: an affine cell, complex.

        dh/dt = Λ h + B x,  held at x(t) for Δ(t) = Δ δ(t):
        h(t) = a(t) h(t-1) + Λ⁻¹ (a(t) - 1) B x(t),  a(t) = exp(Λ Δ(t))
        y(t) = 2 Re(C h(t)) + D x(t)

    Λ is diagonal, with one eigenvalue of each conjugate pair: those of HiPPO's normal matrix at
    first. It is linear in x; what is not stands around it (a norm, a GLU, a residual connection).

    Args:
      input_size: I, the size of x(t).
      hidden_size: H, the size of h(t): half of the order of the real system.
      output_size: O, the size of y(t).
      blocks: the number of HiPPO matrices, of order 2H/blocks, whose eigenvalues Λ starts from.
      dt_min, dt_max: Δ is drawn between these, uniformly in its logarithm.
      timesteps: whether the last feature of x(t), one more than I, is δ(t), the time that has
        passed since x(t-1), not negative: for series that are not sampled evenly. Else δ(t) = 1.
      kernel_init: what the real B [I, 2H], C [2H, O] and D [I, O] start from, a function
        `(key, shape, dtype) -> array` as `jax.nn.initializers` makes; the default if None. Λ and Δ
        have no initializer: HiPPO's eigenvalues and `dt_min`, `dt_max` are what the model is. There
        is no bias.
      dtype: of inputs and outputs; JAX's default float if None.
      param_dtype: of the parameters; `dtype` if None.

    Returns:
      A cell with params {"log_decay", "frequency": [H], Λ = -exp(log_decay) + i frequency, and
      "log_timestep": [H], log Δ, all of which are not cast to `dtype`; "input_kernel_real",
      "input_kernel_imag": [I, H]; "output_kernel_real", "output_kernel_imag": [H, O];
      "feedthrough_kernel": [I, O]}. Of a random real B, N(0, 1/I), and C, N(0, 1/H), the kernels
      are what they are among the eigenvectors. The state is h, complex [H], complex64 at least,
      zero at first.

    Raises:
      ValueError: `hidden_size` is not a multiple of `blocks`; or not 0 < dt_min < dt_max. From
        `init`: the dtype of the parameters, float16, does not hold the largest frequency.

    References:
      Smith et al. 2023, Simplified state space layers for sequence modeling, arXiv:2208.04933
      (there D is diagonal); Λ in the left half plane by its logarithm: Gu et al. 2022,
      arXiv:2206.11893.

    >>> import jax, jax.numpy as jnp, seqjax as sj
    >>> cell = sj.s5(3, 8, 2)
    >>> h, ys = sj.unroll(cell, cell.init(jax.random.key(0)), jnp.ones((10, 3)))
    >>> h.shape, ys.shape
    ((8,), (10, 2))
    """
    input_size, hidden_size = (
        _checks.size("input_size", input_size),
        _checks.size("hidden_size", hidden_size),
    )
    blocks = _checks.size("blocks", blocks)
    if hidden_size % blocks:
        expected = f"a divisor of the hidden size {hidden_size}"
        raise ValueError(_checks.mismatch("blocks", expected, blocks))
    dt_min, dt_max = _checks.number("dt_min", dt_min, above=0), _checks.number("dt_max", dt_max)
    if not dt_min < dt_max:
        raise ValueError(_checks.mismatch("dt_max", f"a number above dt_min = {dt_min:g}", dt_max))
    timesteps = _checks.flag("timesteps", timesteps)
    sizes = {"input_size": input_size, "hidden_size": hidden_size, "output_size": output_size}
    inits = check_initializers(kernel_init=kernel_init)
    options = {"blocks": blocks, "dt_min": dt_min, "dt_max": dt_max, "timesteps": timesteps}
    return affine_cell(
        s5,
        sizes,
        hidden_size,
        init=static_partial(init, blocks, dt_min, dt_max, inits),
        options=options | shown(inits),
        dtype=dtype,
        param_dtype=param_dtype,
        complex_state=True,
        input_size=input_size + timesteps,
        project=static_partial(project, timesteps),
        coefficients=_state_space.diagonal,
        readout=readout,
        feedthrough=static_partial(feedthrough, timesteps),
        uncast=("log_decay", "frequency", "log_timestep"),
    )


@functools.cache
def hippo(order: int) -> tuple[np.ndarray, np.ndarray]:
    """The eigenvalues of HiPPO's normal matrix above the real axis, and their eigenvectors.

    HiPPO-LegS is A = -P Pᵀ + a normal matrix, with P_n = √(n + 1/2): -1/2 plus a skew one.
    """
    p = np.sqrt(np.arange(order) + 0.5)
    skew = np.tril(np.outer(p, p), -1)
    frequencies, vectors = np.linalg.eigh(1j * (skew - skew.T))
    upper = np.argsort(frequencies)[order // 2 :]
    return frequencies[upper], vectors[:, upper]


def init(
    blocks: int,
    dt_min: float,
    dt_max: float,
    inits: Initializers,
    input_size: int,
    hidden_size: int,
    output_size: int,
    key: Key,
    *,
    dtype: Any,
) -> dict:
    for_b, for_c, for_d, for_dt = _checks.keys(key, 4)
    frequencies, vectors = hippo(2 * hidden_size // blocks)
    if frequencies.max() > float(jnp.finfo(dtype).max):
        expected = f"a dtype that holds the frequencies, up to {frequencies.max():.0f}"
        raise ValueError(_checks.mismatch("param_dtype", expected, jnp.dtype(dtype).name))
    basis = jnp.asarray(np.kron(np.eye(blocks), vectors))

    def drawn(key: Key, rows: int, columns: int) -> jax.Array:
        default = jax.random.normal(key, (rows, columns)) * rows**-0.5
        return redraw(key, default, inits.kernel_init, "kernel_init")

    b, c = drawn(for_b, input_size, 2 * hidden_size), drawn(for_c, 2 * hidden_size, output_size)
    b, c = b.astype(basis.dtype) @ basis.conj(), basis.T @ c.astype(basis.dtype)
    params = {
        "log_decay": jnp.full(hidden_size, np.log(0.5)),
        "frequency": jnp.tile(jnp.asarray(frequencies), blocks),
        "log_timestep": jax.random.uniform(
            for_dt, (hidden_size,), minval=np.log(dt_min), maxval=np.log(dt_max)
        ),
        "input_kernel_real": b.real,
        "input_kernel_imag": b.imag,
        "output_kernel_real": c.real,
        "output_kernel_imag": c.imag,
        "feedthrough_kernel": drawn(for_d, input_size, output_size),
    }
    return {name: value.astype(dtype) for name, value in params.items()}


def project(timesteps: bool, params: PyTree, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(a(t), Λ⁻¹ (a(t) - 1) B x(t))."""
    recurrent = [params["log_decay"], params["frequency"], params["log_timestep"]]
    log_decay, frequency, log_timestep = widen(recurrent)
    timestep = jnp.exp(log_timestep)
    if timesteps:
        x, elapsed = x[:-1], widen(x[-1])
        timestep = timestep * elapsed.astype(timestep.dtype)
    eigenvalues = lax.complex(-jnp.exp(log_decay), frequency)
    b = _state_space.inputs(params, x)
    exponent = eigenvalues * timestep.astype(eigenvalues.dtype)
    held = (jnp.expm1(exponent) / eigenvalues).astype(b.dtype)
    return jnp.exp(exponent).astype(b.dtype), held * b


def readout(params: PyTree, h: jax.Array) -> jax.Array:
    return 2 * _state_space.readout(params, h)


def feedthrough(timesteps: bool, params: PyTree, x: jax.Array) -> jax.Array:
    return _state_space.feedthrough(params, x[:-1] if timesteps else x)
