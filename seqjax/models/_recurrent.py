"""What the factories of the gated and ungated cells share: arguments, parameters, h(-1)."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from seqjax import _checks
from seqjax._static import call_of, static_partial
from seqjax._tree import cast
from seqjax._types import Key, PyTree
from seqjax.models._initial import (
    Array,
    Initializers,
    check_initializers,
    draw_all,
    shown,
)
from seqjax.models.cell import Cell


def recurrent_cell(
    factory: Callable[..., Cell],
    input_size: int,
    hidden_size: int,
    *,
    gates: int,
    read_size: int | None = None,
    zero_state: Callable[[int, Any], PyTree],
    options: dict[str, Any],
    dtype: Any,
    param_dtype: Any,
    learn_initial_state: bool = False,
    kernel_init: Any = None,
    recurrent_init: Any = None,
    bias_init: Any = None,
    use_bias: bool = True,
    extra_params: Sequence[Callable[[Key, dict, float], dict]] = (),
    **functions: Callable | None,
) -> Cell:
    """A cell with a kernel [I, G·H], a recurrent kernel [R, G·H] and a bias [G·H].

    Args:
      factory: the public function that makes it, and names it.
      input_size, hidden_size: I and H.
      gates: G.
      read_size: R, the size of what is read of h(t-1); H if None.
      zero_state: `zero_state(hidden_size, dtype)`, the state of zeros.
      options: those of `factory` beside the ones below, as they are shown.
      dtype, param_dtype, learn_initial_state: of `factory`.
      kernel_init, recurrent_init, bias_init, use_bias: of `factory`.
      extra_params: `(key, params, bound) -> params`, on the initial parameters, one after another.
      **functions: those of `Cell`.
    """
    input_size = _checks.size("input_size", input_size)
    hidden_size = _checks.size("hidden_size", hidden_size)
    learn = _checks.flag("learn_initial_state", learn_initial_state)
    inits = check_initializers(
        gates,
        kernel_init=kernel_init,
        recurrent_init=recurrent_init,
        bias_init=bias_init,
        use_bias=use_bias,
    )
    options = options | shown(inits) | ({"learn_initial_state": True} if learn else {})
    dtype = _checks.float_dtype("dtype", dtype)
    param_dtype = _checks.float_dtype("param_dtype", param_dtype, default=dtype)
    zeros = static_partial(zero_state, hidden_size)
    return Cell(
        init=static_partial(
            _init,
            input_size,
            hidden_size,
            hidden_size if read_size is None else read_size,
            gates,
            inits,
            tuple(extra_params),
            zeros if learn else None,
            dtype=param_dtype,
        ),
        initial_state=static_partial(_initial_state, zeros, learn, dtype=dtype),
        input_spec=jax.ShapeDtypeStruct((input_size,), dtype),
        dtype=dtype,
        name=call_of(factory, input_size, hidden_size, **options),
        **functions,  # type: ignore[arg-type]  # each factory passes what it names
    )


def _init(
    input_size: int,
    hidden_size: int,
    read_size: int,
    gates: int,
    inits: Initializers,
    extra_params: tuple[Callable, ...],
    zeros: Callable | None,
    key: Key,
    *,
    dtype: Any,
) -> dict:
    """U(±1/√H), as PyTorch, where there is no initializer; a learned h(-1) begins at zero."""
    bound, width = hidden_size**-0.5, gates * hidden_size
    arrays = {
        "kernel": Array((input_size, width), bound, "kernel_init", gates),
        "recurrent_kernel": Array((read_size, width), bound, "recurrent_init", gates),
        "bias": Array((width,), bound, "bias_init", gates),
    }
    *keys, key_extra = _checks.keys(key, len(arrays) + 1)
    params = draw_all(keys, arrays, inits, dtype)
    for number, extra in enumerate(extra_params):
        of_extra = jax.random.fold_in(key_extra, number) if number else key_extra
        params = extra(of_extra, params, bound)
    if zeros is not None:
        params["initial_state"] = zeros(dtype)
    return params


def _initial_state(zeros: Callable, learn: bool, params: PyTree, *, dtype: Any) -> PyTree:
    return cast(learned_state(params), dtype) if learn else zeros(dtype)


def learned_state(params: PyTree) -> PyTree:
    """The parameter that h(-1) is."""
    if not isinstance(params, Mapping) or "initial_state" not in params:
        expected = "a dict that has 'initial_state'"
        raise TypeError(_checks.mismatch("params", expected, _checks.describe(params)))
    return params["initial_state"]


def zero_vector(size: int, dtype: Any) -> jax.Array:
    return jnp.zeros(size, dtype)
