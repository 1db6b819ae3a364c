"""Sampling: drawing symbols from logits, and generating them autoregressively."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from seqjax import _checks
from seqjax._tokens import check_symbols
from seqjax._tree import is_traced, wide_dtype
from seqjax._types import Array, Key, PyTree
from seqjax.engine.model import Model, check_params, check_state
from seqjax.engine.per_model import compiled
from seqjax.engine.unroll import unroll

__all__ = ["generate", "sample"]

UNDEFINED = -1
INT32 = range(-(2**31), 2**31)
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
    logits = _checks.as_array("logits", logits)
    if logits.ndim != 1 or not logits.size:
        batched = _checks.BATCHED if logits.ndim > 1 else ""
        got = _checks.describe(logits) + batched
        raise ValueError(_checks.mismatch("logits", "[V] with V ≥ 1", got))
    _checks.float_dtype("logits", logits.dtype)
    temperature, top_p, defined = _options(temperature, top_k, top_p)

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


def generate(
    model: Model,
    params: PyTree,
    prompt: Array,
    length: int,
    *,
    key: jax.Array,
    state: PyTree = None,
    temperature: float | jax.Array = 1.0,
    top_k: int | None = None,
    top_p: float | jax.Array | None = None,
    encode: Callable[[jax.Array], PyTree] | None = None,
) -> tuple[PyTree, jax.Array]:
    """Generates symbols autoregressively: each one that is drawn is the next input.

    Args:
      model: a model whose y(t) are the logits [V] of the next symbol.
      params: its parameters.
      prompt: int [P], P ≥ 1, the symbols to begin with.
      length: how many symbols to generate, at least 1.
      key: a JAX random key.
      state: h(-1), before the prompt; the model's initial state if None.
      temperature, top_k, top_p: see `sample`.
      encode: `encode(symbol) -> x` of an int32 symbol. If None, a model that reads tokens
        (`embed`) gets the symbol itself, one that reads vectors its one-hot vector.

    Returns:
      (state, int32 [length]): the symbols generated, and the state after reading all but the
      last of them. `generate(..., prompt=symbols[-1:], state=state)` continues from there.

      A symbol that is undefined (-1, see `sample`) makes all that follow -1: `encode` is given
      -1 then, and the state is meaningless. A traced prompt with symbols that the model does not
      read has the same effect.

    >>> import jax, jax.numpy as jnp, seqjax as sj
    >>> model = sj.stack(sj.lstm(5, 8), sj.dense(8, 5))
    >>> params = model.init(jax.random.key(0))
    >>> state, symbols = sj.generate(model, params, jnp.array([3]), 20, key=jax.random.key(1))
    >>> symbols.shape
    (20,)
    """
    _checks.instance("model", model, Model, "a seqjax model")
    length = _checks.size("length", length)
    key = _checks.key("key", key)
    temperature, top_p, _ = _options(temperature, top_k, top_p)
    _checks.part("encode", encode, optional=True)
    prompt, defined = _symbols(prompt, _symbols_of(model) if encode is None else INT32)
    params = check_params(model, params)
    state = check_state(model, params, state)
    operands = params, prompt, defined, key, state, temperature, top_p
    run = compiled(_generate, model, ("length", "top_k", "encode"), operands)
    return run(*operands, length=length, top_k=top_k, encode=encode)


def _generate(
    model: Model,
    params: PyTree,
    prompt: jax.Array,
    defined: bool | jax.Array,
    key: Key,
    state: PyTree,
    temperature: float | jax.Array,
    top_p: float | jax.Array | None,
    *,
    length: int,
    top_k: int | None,
    encode: Callable[[jax.Array], PyTree] | None,
) -> tuple[PyTree, jax.Array]:
    def to_input(symbol: jax.Array) -> PyTree:
        if encode is not None:
            return _checks.one("the x that encode returns", encode(symbol), model.input_spec)
        assert model.input_spec is not None  # see `_symbols_of`
        if _reads_tokens(model.input_spec):
            return symbol
        return jax.nn.one_hot(symbol, model.input_spec.shape[0], dtype=model.input_spec.dtype)

    def draw(key: Key, logits: jax.Array, defined: bool | jax.Array) -> jax.Array:
        symbol = sample(key, logits, temperature=temperature, top_k=top_k, top_p=top_p)
        return jnp.where(defined, symbol, UNDEFINED)

    def write(carry: Any, key: Key) -> tuple[Any, jax.Array]:
        state, symbol = carry
        state, logits = model.step(params, state, to_input(symbol))
        symbol = draw(key, logits, symbol != UNDEFINED)
        return (state, symbol), symbol

    keys = jax.random.split(key, length)
    state, logits = unroll(model, params, jax.vmap(to_input)(prompt), state)
    first = draw(keys[0], logits[-1], defined)
    (state, _), rest = lax.scan(write, (state, first), keys[1:])
    return state, jnp.concatenate([first[None], rest])


def _options(temperature: Any, top_k: Any, top_p: Any) -> tuple[Any, Any, bool | jax.Array]:
    """Temperature and top_p, and whether they are in range, which is an array if traced."""
    if top_k is not None:
        _checks.size("top_k", top_k)
    temperature = _scalar("temperature", temperature)
    defined: bool | jax.Array = True
    if is_traced(temperature):
        defined = (temperature >= 0) & (temperature < jnp.inf)
    else:
        temperature = min(_checks.number("temperature", temperature, at_least=0), LARGEST)
    if top_p is not None:
        top_p = _scalar("top_p", top_p)
        if is_traced(top_p):
            defined = defined & (top_p > 0) & (top_p <= 1)
        else:
            top_p = _checks.number("top_p", top_p)
            if not 0 < top_p <= 1:
                raise ValueError(_checks.mismatch("top_p", "a probability in (0, 1]", top_p))
            top_p = max(top_p, TINY)
    return temperature, top_p, defined


def _scalar(name: str, value: Any) -> Any:
    """A scalar array that is known as a number, one that is traced as a float."""
    if not isinstance(value, _checks.ARRAYS):
        return value
    if not any(jnp.issubdtype(value.dtype, kind) for kind in (jnp.floating, jnp.integer)):
        raise TypeError(_checks.mismatch(name, "a number", _checks.describe(value)))
    if value.ndim:
        got = _checks.describe(value) + _checks.BATCHED
        raise ValueError(_checks.mismatch(name, "a scalar", got))
    traced = is_traced(value)
    return jnp.asarray(value, jnp.result_type(float)) if traced else value.item()


def _symbols(prompt: Any, symbols: range) -> tuple[jax.Array, bool | jax.Array]:
    """The prompt as int32, and whether its symbols are among these, an array if traced."""
    array = _checks.as_array("prompt", prompt)
    if array.ndim != 1 or not array.size:
        got = _checks.describe(array) + (_checks.BATCHED if array.ndim > 1 else "")
        raise ValueError(_checks.mismatch("prompt", "int[P] with P ≥ 1", got))
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise TypeError(_checks.mismatch("prompt", "integers", _checks.describe(array)))
    if is_traced(prompt):
        least = max(symbols.start, jnp.iinfo(array.dtype).min)
        most = min(symbols.stop - 1, jnp.iinfo(array.dtype).max)
        return array.astype(jnp.int32), jnp.all((array >= least) & (array <= most))
    known = np.asarray(prompt)  # and not `array`, which may have lost the upper bits
    check_symbols("prompt", known, symbols)
    return jnp.asarray(known.astype(np.int32)), True


def _reads_tokens(spec: jax.ShapeDtypeStruct) -> bool:
    """Whether x(t) is an integer scalar, a symbol itself."""
    return spec.shape == () and jnp.issubdtype(spec.dtype, jnp.integer)


def _symbols_of(model: Model) -> range:
    """The symbols that a model reads: tokens, or those that have a one-hot vector."""
    spec = model.input_spec
    if spec is None or not (_reads_tokens(spec) or len(spec.shape) == 1):
        expected = "a function symbol -> x, since the model takes neither a vector nor a token"
        raise ValueError(_checks.mismatch("encode", expected, "None"))
    known = model.vocabulary_size if _reads_tokens(spec) else spec.shape[0]
    logits = getattr(model.output_spec, "shape", None)
    if logits is None or len(logits) != 1 or known not in (None, *logits):
        number = "" if known is None else f", {known}"
        expected = f"a model that outputs one logit per symbol of its input{number}"
        raise ValueError(_checks.mismatch("model", expected, _checks.describe(model.output_spec)))
    return range(logits[0])
