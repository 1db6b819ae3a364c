"""What the factories of the gated and ungated cells share: arguments, parameters, h(-1)."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from seqjax import _checks
from seqjax._static import call_text, static_partial
from seqjax._tree import cast
from seqjax._types import Key, PyTree
from seqjax.models._uniform import uniform
from seqjax.models.cell import Cell


def recurrent_cell(
    factory: Callable[..., Cell],
    input_size: int,
    hidden_size: int,
    *,
    gates: int,
    zero_state: Callable[[int, Any], PyTree],
    options: dict[str, Any],
    dtype: Any,
    param_dtype: Any,
    learn_initial_state: bool = False,
    extra_params: Callable[[Key, dict, float], dict] | None = None,
    **functions: Callable | None,
) -> Cell:
    """A cell with a kernel [I, G·H], a recurrent kernel [H, G·H] and a bias [G·H].

    Args:
      factory: the public function that makes it, and names it.
      input_size, hidden_size: I and H.
      gates: G.
      zero_state: `zero_state(hidden_size, dtype)`, the state of zeros.
      options: those of `factory` beside sizes and dtypes, as they are shown.
      dtype, param_dtype, learn_initial_state: of `factory`.
      extra_params: `extra_params(key, params, bound) -> params`, on the initial parameters.
      **functions: those of `Cell`.
    """
    input_size = _checks.size("input_size", input_size)
    hidden_size = _checks.size("hidden_size", hidden_size)
    learn = _checks.flag("learn_initial_state", learn_initial_state)
    options = options | ({"learn_initial_state": True} if learn else {})
    dtype = _checks.float_dtype("dtype", dtype)
    param_dtype = _checks.float_dtype("param_dtype", param_dtype, default=dtype)
    zeros = static_partial(zero_state, hidden_size)
    return Cell(
        init=static_partial(
            _init,
            input_size,
            hidden_size,
            gates,
            extra_params,
            zeros if learn else None,
            dtype=param_dtype,
        ),
        initial_state=static_partial(_initial_state, zeros, learn, dtype=dtype),
        input_spec=jax.ShapeDtypeStruct((input_size,), dtype),
        dtype=dtype,
        name=call_text(factory, input_size, hidden_size, **options),
        **functions,  # type: ignore[arg-type]  # each factory passes what it names
    )


def _init(
    input_size: int,
    hidden_size: int,
    gates: int,
    extra_params: Callable | None,
    zeros: Callable | None,
    key: Key,
    *,
    dtype: Any,
) -> dict:
    """U(±1/√H), as PyTorch; a learned h(-1) begins at zero."""
    bound = hidden_size**-0.5
    shapes = {
        "kernel": ((input_size, gates * hidden_size), bound),
        "recurrent_kernel": ((hidden_size, gates * hidden_size), bound),
        "bias": ((gates * hidden_size,), bound),
    }
    *keys, key_extra = _checks.keys(key, len(shapes) + 1)
    params = uniform(keys, shapes, dtype)
    if extra_params is not None:
        params = extra_params(key_extra, params, bound)
    if zeros is not None:
        params["initial_state"] = zeros(dtype)
    return params


def _initial_state(zeros: Callable, learn: bool, params: PyTree, *, dtype: Any) -> PyTree:
    if not learn:
        return zeros(dtype)
    if not isinstance(params, Mapping) or "initial_state" not in params:
        expected = "a dict that has 'initial_state'"
        raise TypeError(_checks.mismatch("params", expected, _checks.describe(params)))
    return cast(params["initial_state"], dtype)


def zero_vector(size: int, dtype: Any) -> jax.Array:
    return jnp.zeros(size, dtype)
