"""What the affine cells share: sizes, dtypes, and a state that is float32 at least."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from seqjax import _checks
from seqjax._static import call_of, static_partial
from seqjax._tree import cast, wide_dtype
from seqjax._types import Key, PyTree
from seqjax.models._recurrent import learned_state
from seqjax.models.cell import Cell

__all__ = ["affine_cell", "readout", "widen"]


def affine_cell(
    factory: Callable[..., Cell],
    sizes: dict[str, int],
    state_size: int,
    *,
    init: Callable[..., dict],
    options: dict[str, Any],
    dtype: Any,
    param_dtype: Any,
    learn_initial_state: bool = False,
    complex_state: bool = False,
    input_size: int | None = None,
    **functions: Any,
) -> Cell:
    """A cell with `coefficients`, whose state is one vector.

    Args:
      factory: the public function that makes it, and names it.
      sizes: its first arguments by name; the input size is the first of them.
      state_size: of the state.
      init: `init(*sizes, key, dtype=) -> params`.
      options: those of `factory` beside sizes and dtypes, as they are shown.
      dtype, param_dtype, learn_initial_state: of `factory`.
      complex_state: whether the state is complex.
      input_size: the size of x(t), if it is not the first of `sizes`.
      **functions: those of `Cell`.
    """
    sizes = {name: _checks.size(name, value) for name, value in sizes.items()}
    learn = _checks.flag("learn_initial_state", learn_initial_state)
    options = options | ({"learn_initial_state": True} if learn else {})
    dtype = _checks.float_dtype("dtype", dtype)
    param_dtype = _checks.float_dtype("param_dtype", param_dtype, default=dtype)
    init = static_partial(init, *sizes.values())
    learned = state_size if learn else None
    return Cell(
        init=static_partial(_init, init, learned, dtype=param_dtype),
        initial_state=static_partial(zero_state, state_size, complex_state, learn, dtype=dtype),
        input_spec=jax.ShapeDtypeStruct((input_size or next(iter(sizes.values())),), dtype),
        dtype=dtype,
        name=call_of(factory, *sizes.values(), **options),
        **functions,
    )


def _init(init: Callable, learned: int | None, key: Key, *, dtype: Any) -> dict:
    params = init(key, dtype=dtype)
    return params if learned is None else params | {"initial_state": jnp.zeros(learned, dtype)}


def zero_state(size: int, is_complex: bool, learn: bool, params: PyTree, *, dtype: Any) -> PyTree:
    """h(-1), in float32 at least: a(t) close to 1 has no place among 8 bits."""
    wide = wide_dtype(dtype)
    zeros = jnp.zeros(size, jnp.complex64 if is_complex else wide)
    return cast(learned_state(params) if learn else zeros, wide)


def widen(z: PyTree) -> PyTree:
    """Half precision as float32."""
    return jax.tree.map(lambda a: a.astype(wide_dtype(a.dtype)), z)


def readout(params: PyTree, h: jax.Array) -> jax.Array:
    """y(t) = h(t), in the dtype that the kernel has been cast to."""
    return h.astype(params["kernel"].dtype)
