"""What the bias of the gate that keeps the state starts from, in the LSTM and in the GRU."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from seqjax import _checks
from seqjax._static import static_partial
from seqjax._tree import wide_dtype
from seqjax._types import Key

__all__ = ["check_forget_bias", "forget_bias_params"]


def check_forget_bias(
    forget_bias: Any, chrono: Any, use_bias: Any
) -> tuple[float | None, float | None]:
    """The two options as numbers; one of them at most, and none without a bias."""
    use_bias = _checks.flag("use_bias", use_bias)
    given = {"forget_bias": forget_bias, "chrono": chrono}
    if forget_bias is not None:
        forget_bias = _checks.number("forget_bias", forget_bias)
    if chrono is not None:
        chrono = _checks.number("chrono", chrono, above=2)
        if forget_bias is not None:
            raise ValueError(_checks.mismatch("chrono", "None where forget_bias is given", chrono))
    for name, value in given.items():
        if value is not None and not use_bias:
            raise ValueError(_checks.mismatch(name, "None with use_bias=False", value))
    return forget_bias, chrono


def forget_bias_params(
    forget_bias: float | None, chrono: float | None, gates: int, keep: int, opposed: int | None
) -> tuple[Callable, ...]:
    """What `recurrent_cell` does to the initial parameters: nothing if neither is given.

    Args:
      forget_bias, chrono: as checked.
      gates: G.
      keep: the number of the gate that keeps the state.
      opposed: the number of the gate that takes in what is new, where it is another one.
    """
    if chrono is not None:
        return (static_partial(set_chrono, chrono, gates, keep, opposed),)
    if forget_bias is not None:
        return (static_partial(set_constant, forget_bias, gates, keep),)
    return ()


def set_constant(
    forget_bias: float, gates: int, keep: int, key: Key, params: dict, bound: float
) -> dict:
    biases = jnp.split(params["bias"], gates)
    biases[keep] = jnp.full_like(biases[keep], forget_bias)
    return params | {"bias": jnp.concatenate(biases)}


def set_chrono(
    chrono: float, gates: int, keep: int, opposed: int | None, key: Key, params: dict, bound: float
) -> dict:
    """Draws b ~ log U(1, T_max - 1): the gate σ(b) = 1 - 1/τ forgets in τ ~ U(2, T_max) steps."""
    biases = jnp.split(params["bias"], gates)
    dtype = biases[keep].dtype
    span = jax.random.uniform(key, biases[keep].shape, wide_dtype(dtype), 1, chrono - 1)
    biases[keep] = jnp.log(span).astype(dtype)
    if opposed is not None:
        biases[opposed] = -biases[keep]
    return params | {"bias": jnp.concatenate(biases)}
