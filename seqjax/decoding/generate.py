"""Generation: each symbol that is drawn is the next input."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from seqjax import _checks
from seqjax._tree import at_step, where
from seqjax._types import Array, Key, PyTree
from seqjax.decoding._symbols import (
    UNDEFINED,
    Encode,
    Process,
    Writer,
    check_operands,
    check_writer,
)
from seqjax.decoding.sample import check_options, sample
from seqjax.engine.model import Model
from seqjax.engine.per_model import compiled

__all__ = ["generate"]


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
    stop: int | None = None,
    process_logits: Process | None = None,
    encode: Encode | None = None,
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
      stop: a symbol in [0, V) that ends the text: once it is generated, it is repeated up to
        `length`, and the state stays as it is. In the prompt it ends nothing.
      process_logits: `process_logits(logits, symbols, t) -> logits`, called before each draw,
        to penalize repetition, to ban symbols, to ask for a minimum length, to obey a grammar.
        logits: [V], float32 at least, and so is what it returns; symbols: int32 [P + length], the
        prompt and what was generated, and from t on, an int32 scalar, V, which is no symbol
        (`at[symbols].set` and `jax.nn.one_hot` leave it out). What was read before `state` is not
        among them.
      encode: `encode(symbol) -> x` of an int32 symbol. If None, a model that reads tokens
        (`embed`) gets the symbol itself, one that reads vectors its one-hot vector.

    Returns:
      (state, int32 [length]): the symbols generated, and the state after reading all but the
      last of them (all before the first `stop`). `generate(..., prompt=symbols[-1:], state=state)`
      continues from there, behind a `stop` too.

      Behind `stop` stands `stop`, and not -1, which says that something was wrong: every symbol
      can be looked up, and `jnp.cumsum(symbols == stop) == 0` masks those before it.

      A symbol that is undefined (-1, see `sample`) makes all that follow -1: `encode` is given
      -1 then, and the state is meaningless. A traced prompt with symbols that the model does not
      read has the same effect.

    References:
      Keskar et al. 2019, CTRL: a conditional transformer language model for controllable
      generation, arXiv:1909.05858, section 4.1: the repetition penalty θ of the example, where
      negative logits are multiplied by θ, lest they grow.

    >>> import jax, jax.numpy as jnp, seqjax as sj
    >>> model = sj.stack(sj.lstm(5, 8), sj.dense(8, 5))
    >>> params, key = model.init(jax.random.key(0)), jax.random.key(1)
    >>> state, symbols = sj.generate(model, params, jnp.array([3]), 20, key=key, stop=0)
    >>> symbols.shape
    (20,)
    >>> def penalize(logits, symbols, t):
    ...     seen = jnp.zeros(logits.shape, bool).at[symbols].set(True)
    ...     penalized = jnp.where(logits > 0, logits / 1.2, logits * 1.2)  # θ = 1.2
    ...     return jnp.where(seen, penalized, logits).at[4].set(-jnp.inf)  # and never a 4
    >>> prompt = jnp.array([3])
    >>> state, symbols = sj.generate(model, params, prompt, 20, key=key, process_logits=penalize)
    >>> bool((symbols == 4).any())
    False
    """
    key = _checks.key("key", key)
    temperature, top_p, _ = check_options(temperature, top_k, top_p)
    writer = check_writer(length, stop, process_logits, encode)
    params, prompt, defined, state = check_operands(model, params, prompt, state, writer)
    operands = params, prompt, defined, key, state, temperature, top_p
    run = compiled(_generate, model, ("writer", "top_k"), operands)
    return run(*operands, writer=writer, top_k=top_k)


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
    writer: Writer,
    top_k: int | None,
) -> tuple[PyTree, jax.Array]:
    def draw(logits: jax.Array, written: Any, at: Any, defined: bool | jax.Array) -> jax.Array:
        key, t = at
        logits = writer.process(logits, written, t)
        symbol = sample(key, logits, temperature=temperature, top_k=top_k, top_p=top_p)
        return jnp.where(defined, symbol, UNDEFINED)

    def record(written: Any, at: Any, symbol: jax.Array) -> Any:
        return None if written is None else written.at[at[1]].set(symbol)

    def write(carry: Any, at: Any) -> tuple[Any, jax.Array]:
        before, last, written = carry
        state, logits = model.step(params, before, writer.to_input(model, last))
        symbol = draw(logits, written, at, last != UNDEFINED)
        if writer.stop is not None:
            state, symbol = where(last == writer.stop, (before, last), (state, symbol))
        return (state, symbol, record(written, at, symbol)), symbol

    keys = jax.random.split(key, writer.length)
    state, logits = writer.read(model, params, prompt, state)
    written = places = None  # the text and the places in it, which `process_logits` alone reads
    if writer.process_logits is not None:
        written = jnp.pad(prompt, (0, writer.length), constant_values=logits.size)
        places = prompt.size + jnp.arange(writer.length, dtype=jnp.int32)
    draws = keys, places
    first = draw(logits, written, at_step(draws, 0), defined)
    carry: Any = state, first, record(written, at_step(draws, 0), first)
    (state, *_), rest = lax.scan(write, carry, jax.tree.map(lambda a: a[1:], draws))
    return state, jnp.concatenate([first[None], rest])
