"""Sampling: drawing a symbol from logits."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from seqjax import _checks
from seqjax._tree import is_traced, wide_dtype
from seqjax._types import Array
from seqjax.decoding._symbols import UNDEFINED, check_logits, check_scalar

__all__ = ["check_options", "sample"]

# What is known is kept where float32, which it may become, can tell it from 0 and infinity.
TINY, LARGEST = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)


def sample(
    key: jax.Array,
    logits: Array,
    *,
    temperature: float | jax.Array = 1.0,
    top_k: int | None = None,
    top_p: float | jax.Array | None = None,
) -> jax.Array:
    """Draws a symbol from softmax(logits / temperature), restricted to the most likely ones.

    The distribution and the noise are float32 at least, whatever the dtype of the logits. The
    most likely symbol is never excluded.

    Args:
      key: a JAX random key.
      logits: [V], unnormalized log-probabilities, floating. A symbol at -inf is never drawn;
        those at +inf share all the probability.
      temperature: 0 takes the most likely symbol (the first of several); above 1 evens the
        distribution out.
      top_k: draw among this many most likely symbols (Fan et al. 2018); symbols tied with the last
        one are kept.
      top_p: draw from the nucleus: the fewest most likely symbols whose probability, after
        temperature and `top_k`, reaches this much (Holtzman et al. 2020, arXiv:1904.09751);
        1 keeps every symbol.

    Returns:
      int32 [], in [0, V). It is -1 where no distribution is defined: if a logit is NaN, if all
      are -inf, or if a traced `temperature` or `top_p` is out of its range (a negative, infinite
      or NaN temperature; a top_p outside (0, 1]). Test for it before looking a symbol up: -1 is
      the last entry of a Python sequence.

    >>> import jax, jax.numpy as jnp, seqjax as sj
    >>> int(sj.sample(jax.random.key(0), jnp.array([0.1, 2.0, 0.3]), temperature=0))
    1
    >>> int(sj.sample(jax.random.key(0), jnp.array([0.1, jnp.nan, 0.3])))
    -1
    """
    key = _checks.key("key", key)
    logits = check_logits(logits)
    temperature, top_p, defined = check_options(temperature, top_k, top_p)

    dtype = wide_dtype(logits.dtype)
    tiny, largest = jnp.finfo(dtype).tiny, jnp.finfo(dtype).max
    # The largest number stands for +inf, whose difference from itself would be NaN.
    logits = jnp.minimum(logits.astype(dtype), largest)
    most = jnp.max(logits)
    # Subtracted before anything is scaled: no temperature makes the largest logit overflow.
    relative = logits - most
    if top_k is not None:
        kth = lax.top_k(relative, min(top_k, logits.size))[0][-1]
        relative = jnp.where(relative < kth, -jnp.inf, relative)
    temperature = jnp.asarray(temperature, dtype)
    relative = relative / jnp.clip(temperature, tiny, largest)
    if top_p is not None:
        top_p = jnp.asarray(top_p, dtype)
        order = jnp.argsort(-relative)
        probability = jax.nn.softmax(relative[order])
        before = jnp.concatenate([jnp.zeros(1, dtype), jnp.cumsum(probability[:-1])])
        # A symbol is in the nucleus if the more likely ones have not reached top_p yet. Rounded
        # sums may reach 1 too early, and a rounded top_p may be 0.
        inside = (before < jnp.maximum(top_p, tiny)) | (top_p >= 1)
        relative = jnp.where(inside[jnp.argsort(order)], relative, -jnp.inf)
    drawn = jax.random.categorical(key, relative).astype(jnp.int32)
    symbol = jnp.where(temperature < tiny, jnp.argmax(logits).astype(jnp.int32), drawn)
    return jnp.where(defined & (most > -jnp.inf), symbol, UNDEFINED)


def check_options(temperature: Any, top_k: Any, top_p: Any) -> tuple[Any, Any, bool | jax.Array]:
    """Temperature and top_p, and whether they are in range, which is an array if traced."""
    if top_k is not None:
        _checks.size("top_k", top_k)
    temperature = check_scalar("temperature", temperature)
    defined: bool | jax.Array = True
    if is_traced(temperature):
        defined = (temperature >= 0) & (temperature < jnp.inf)
    else:
        temperature = min(_checks.number("temperature", temperature, at_least=0), LARGEST)
    if top_p is not None:
        top_p = check_scalar("top_p", top_p)
        if is_traced(top_p):
            defined = defined & (top_p > 0) & (top_p <= 1)
        else:
            top_p = _checks.number("top_p", top_p)
            if not 0 < top_p <= 1:
                raise ValueError(_checks.mismatch("top_p", "a probability in (0, 1]", top_p))
            top_p = max(top_p, TINY)
    return temperature, top_p, defined
