"""Sampling: a model of symbols that reads what it writes."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from seqjax import _checks
from seqjax.engine.unroll import Model, output, unroll

__all__ = ["generate", "sample"]

Tree = Any


def sample(
    key: jax.Array,
    logits: jax.Array,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> jax.Array:
    """Draws a symbol from softmax(logits / temperature), kept to its likeliest symbols.

    Args:
      key: a JAX random key.
      logits: [V], unnormalised log-probabilities, floating.
      temperature: 0 takes the likeliest symbol; above 1 evens the distribution out.
      top_k: draw among this many likeliest symbols (Fan et al. 2018); ties with the last of
        them stay in.
      top_p: draw from the nucleus: the fewest likeliest symbols whose probability, after
        temperature and `top_k`, reaches this much (Holtzman et al. 2020, arXiv:1904.09751).

    Returns:
      int32 [], in [0, V).

    Raises:
      TypeError, ValueError: an argument is not as described.

    >>> import jax, jax.numpy as jnp, seqjax as sj
    >>> int(sj.sample(jax.random.key(0), jnp.array([0.1, 2.0, 0.3]), temperature=0))
    1
    """
    logits = _checks.as_array("logits", logits)
    if logits.ndim != 1 or not logits.size:
        raise ValueError(_checks.mismatch("logits", "[V] with V ≥ 1", _checks.describe(logits)))
    _checks.float_dtype("logits", logits.dtype)
    _check_sampling(temperature, top_k, top_p)
    if temperature == 0:
        return jnp.argmax(logits).astype(jnp.int32)
    logits = logits / jnp.asarray(temperature, logits.dtype)
    if top_k is not None:
        kth = lax.top_k(logits, min(top_k, logits.size))[0][-1]
        logits = jnp.where(logits < kth, -jnp.inf, logits)
    if top_p is not None:
        order = jnp.argsort(-logits)
        probability = jax.nn.softmax(logits[order])
        # A symbol is in the nucleus if the likelier ones have not reached top_p yet.
        inside = jnp.cumsum(probability) - probability < jnp.asarray(top_p, logits.dtype)
        logits = jnp.where(inside[jnp.argsort(order)], logits, -jnp.inf)
    return jax.random.categorical(key, logits).astype(jnp.int32)


def generate(
    model: Model,
    params: Tree,
    prompt: jax.Array,
    length: int,
    *,
    key: jax.Array,
    state: Tree = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    encode: Callable[[jax.Array], Tree] | None = None,
) -> tuple[Tree, jax.Array]:
    """Lets a model of symbols write on: each symbol it draws is its next input.

    Args:
      model: a model whose y(t) are the logits [V] of the next symbol.
      params: its parameters.
      prompt: int [P], P ≥ 1, the symbols to begin with.
      length: how many symbols to write, at least 1.
      key: a JAX random key.
      state: h(-1), before the prompt; the model's initial state if None.
      temperature, top_k, top_p: see `sample`.
      encode: `encode(symbol) -> x`; one-hot of the model's input size if None.

    Returns:
      (state, int32 [length]): the symbols written, and the state that has read all but the
      last of them. `generate(..., prompt=symbols[-1:], state=state)` writes on from there.

    Raises:
      TypeError, ValueError: an argument is not as described.

    >>> import jax, jax.numpy as jnp, seqjax as sj
    >>> model = sj.stack(sj.lstm(5, 8), sj.dense(8, 5))
    >>> params = model.init(jax.random.key(0))
    >>> state, symbols = sj.generate(model, params, jnp.array([3]), 20, key=jax.random.key(1))
    >>> symbols.shape
    (20,)
    """
    _checks.instance("model", model, Model, "a seqjax model")
    prompt = _checks.as_array("prompt", prompt)
    if prompt.ndim != 1 or not prompt.size:
        raise ValueError(_checks.mismatch("prompt", "int[P] with P ≥ 1", _checks.describe(prompt)))
    if not jnp.issubdtype(prompt.dtype, jnp.integer):
        raise TypeError(_checks.mismatch("prompt", "whole numbers", _checks.describe(prompt)))
    length = _checks.size("length", length)
    _check_sampling(temperature, top_k, top_p)
    if encode is None:
        encode = _one_hot_of(model.input)
        _check_symbols(model, prompt)

    def draw(key, logits):
        return sample(key, logits, temperature=temperature, top_k=top_k, top_p=top_p)

    def write(carry, key):
        state, symbol = carry
        state, logits = model.step(params, state, encode(symbol))
        symbol = draw(key, logits)
        return (state, symbol), symbol

    keys = jax.random.split(key, length)
    state, logits = unroll(model, params, jax.vmap(encode)(prompt), state)
    first = draw(keys[0], logits[-1])
    (state, _), rest = lax.scan(write, (state, first), keys[1:])
    return state, jnp.concatenate([first[None], rest])


def _check_sampling(temperature, top_k, top_p):
    _checks.number("temperature", temperature, at_least=0)
    if top_k is not None:
        _checks.size("top_k", top_k)
    if top_p is not None and _checks.number("top_p", top_p, above=0) > 1:
        raise ValueError(_checks.mismatch("top_p", "a probability in (0, 1]", top_p))


def _check_symbols(model, prompt):
    """One-hot vectors of other symbols than [0, V) would be zero, and nobody would know."""
    (size,) = model.input.shape
    if not isinstance(prompt, jax.core.Tracer):
        known = np.asarray(prompt)
        least, most = known.min(), known.max()
        if least < 0 or most >= size:
            expected, given = f"symbols in [0, {size})", f"{least} to {most}"
            raise ValueError(_checks.mismatch("prompt", expected, given))
    logits = jax.eval_shape(output, model)
    if logits.shape != (size,):
        expected = f"a model that puts out as many logits as its input has symbols, {size}"
        raise ValueError(_checks.mismatch("model", expected, _checks.describe(logits)))


def _one_hot_of(spec):
    if spec is None or len(spec.shape) != 1:
        expected = "a function symbol -> x, since the model does not take a vector"
        raise ValueError(_checks.mismatch("encode", expected, "none"))
    return lambda symbol: jax.nn.one_hot(symbol, spec.shape[0], dtype=spec.dtype)
