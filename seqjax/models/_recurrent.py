"""What the factories of the gated and ungated cells share: arguments, parameters, h(-1)."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from seqjax import _checks
from seqjax._bind import bind
from seqjax._dtypes import cast
from seqjax.models.cell import Cell


def recurrent_cell(
    name: str,
    input_size: int,
    hidden_size: int,
    *,
    gates: int,
    adjust: Callable | None,
    zero_state: Callable,
    learn_initial_state: bool,
    dtype: Any,
    param_dtype: Any,
    **functions: Callable | None,
) -> Cell:
    """A cell with a kernel [I, G·H], a recurrent kernel [H, G·H] and a bias [G·H].

    `adjust(key, params, bound) -> params` changes the initial parameters, and
    `zero_state(hidden_size, dtype)` makes the state of zeros.
    """
    input_size = _checks.size("input_size", input_size)
    hidden_size = _checks.size("hidden_size", hidden_size)
    learn = _checks.flag("learn_initial_state", learn_initial_state)
    dtype = _checks.float_dtype("dtype", dtype)
    param_dtype = _checks.float_dtype("param_dtype", param_dtype, default=dtype)
    zeros = bind(zero_state, hidden_size)
    return Cell(
        init=bind(
            _init,
            input_size,
            hidden_size,
            gates,
            adjust,
            zeros if learn else None,
            dtype=param_dtype,
        ),
        initial_state=bind(_initial_state, zeros, learn, dtype=dtype),
        input=jax.ShapeDtypeStruct((input_size,), dtype),
        dtype=dtype,
        name=f"{name}({input_size}, {hidden_size})",
        **functions,  # type: ignore[arg-type]
    )


def _init(input_size, hidden_size, gates, adjust, zeros, key, *, dtype):
    """U(±1/√H), as PyTorch; a learned h(-1) begins at zero."""
    bound = hidden_size**-0.5
    shapes = {
        "kernel": (input_size, gates * hidden_size),
        "recurrent_kernel": (hidden_size, gates * hidden_size),
        "bias": (gates * hidden_size,),
    }
    *keys, key_adjust = _checks.keys(key, len(shapes) + 1)
    params = {
        name: jax.random.uniform(k, shape, dtype, -bound, bound)
        for k, (name, shape) in zip(keys, shapes.items(), strict=True)
    }
    if adjust is not None:
        params = adjust(key_adjust, params, bound)
    if zeros is not None:
        params["initial_state"] = zeros(dtype)
    return params


def _initial_state(zeros, learn, params, *, dtype):
    if not learn:
        return zeros(dtype)
    if not isinstance(params, Mapping) or "initial_state" not in params:
        expected = "a dict that has 'initial_state'"
        raise TypeError(_checks.mismatch("params", expected, _checks.describe(params)))
    return cast(params["initial_state"], dtype)


def zero_vector(size: int, dtype) -> jax.Array:
    return jnp.zeros(size, dtype)
