"""Beam search: the most likely series of symbols, among those that a few hypotheses reach."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from seqjax import _checks
from seqjax._tree import is_traced, where, wide_dtype
from seqjax._types import Array, PyTree
from seqjax.decoding._symbols import (
    UNDEFINED,
    Encode,
    Process,
    Writer,
    check_operands,
    check_scalar,
    check_writer,
)
from seqjax.engine.model import Model
from seqjax.engine.per_model import compiled
from seqjax.engine.recurrence import vary_with
from seqjax.ops.lookup import rows_at

__all__ = ["beam_search"]


def beam_search(
    model: Model,
    params: PyTree,
    prompt: Array,
    length: int,
    *,
    beams: int,
    state: PyTree = None,
    stop: int | None = None,
    length_penalty: float | jax.Array = 0.0,
    process_logits: Process | None = None,
    encode: Encode | None = None,
) -> tuple[PyTree, jax.Array, jax.Array]:
    """Searches for the most likely symbols to follow a prompt, with `beams` hypotheses at a time.

        score(w) = Σ_i log p(w_i | prompt, w_1 … w_(i-1)) / ((5 + n) / 6)^α

    of a series w of n symbols, p = softmax(logits), α the length penalty. At each step every
    hypothesis is continued by every symbol, and those of the best scores are kept. One that has
    reached `stop` stays as it is, n symbols long with `stop` itself, and goes on competing.

    Args:
      model, params, prompt, state, encode: see `generate`.
      length: of the series, at least 1; those that `stop` ends are shorter.
      beams: K, how many hypotheses are kept, at least 1. 1 is `generate(..., temperature=0)`;
        with all that exist, V^length at most, the search is exhaustive.
      stop: a symbol in [0, V) that ends a series; it is repeated up to `length`.
      length_penalty: α ≥ 0. 0 compares sums, which favors short series; 1 is nearly the mean per
        symbol. It decides nothing without `stop`.
      process_logits: see `generate`; p is the softmax of what it returns, with its -inf left out.

    Returns:
      (state, symbols, scores), each with a leading axis of the K hypotheses, the best one first.
      symbols: int32 [K, length]; scores: [K], float32 at least; state: after reading all but the
      last of the symbols (all before the first `stop`). Among equal scores the continuations of a
      better hypothesis come first, and the smaller symbol.

      Where fewer than K series are possible, because logits are -inf or K is large, the others
      have score -inf, symbols -1, and a state without meaning. If a NaN is among the logits that
      any hypothesis meets, or a traced prompt or length penalty is out of its range, it is not
      defined which is best: all symbols are -1, and all scores NaN.

    References:
      Wu et al. 2016, Google's neural machine translation system, arXiv:1609.08144, section 7.

    >>> import jax, jax.numpy as jnp, seqjax as sj
    >>> model = sj.stack(sj.embed(5, 8), sj.lstm(8, 8), sj.dense(8, 5))
    >>> params, prompt = model.init(jax.random.key(0)), jnp.array([3, 1])
    >>> state, symbols, scores = sj.beam_search(
    ...     model, params, prompt, 12, beams=4, stop=0, length_penalty=0.6)
    >>> symbols.shape, scores.shape, bool((scores[:-1] >= scores[1:]).all())
    ((4, 12), (4,), True)
    """
    beams = _checks.size("beams", beams)
    length_penalty = check_scalar("length_penalty", length_penalty)
    if not is_traced(length_penalty):
        length_penalty = _checks.number("length_penalty", length_penalty, at_least=0)
    writer = check_writer(length, stop, process_logits, encode)
    params, prompt, defined, state = check_operands(model, params, prompt, state, writer)
    operands = params, prompt, defined, state, length_penalty
    run = compiled(_beam_search, model, ("writer", "beams"), operands)
    return run(*operands, writer=writer, beams=beams)


class _Hypothesis(NamedTuple):
    """A series that may be continued.

    Attributes:
      state: after all but the last of its symbols.
      symbols: int32 [length]; V where nothing is written yet.
      log_prob: [], the sum of log p; -inf of no series, NaN if it is undefined which are best.
      size: int32 [], n: how many symbols, `stop` among them and not those behind it.
      stopped: bool [].
    """

    state: PyTree
    symbols: jax.Array
    log_prob: jax.Array
    size: jax.Array
    stopped: jax.Array


def _beam_search(
    model: Model,
    params: PyTree,
    prompt: jax.Array,
    defined: bool | jax.Array,
    state: PyTree,
    length_penalty: float | jax.Array,
    *,
    writer: Writer,
    beams: int,
) -> tuple[PyTree, jax.Array, jax.Array]:
    def score(log_prob: jax.Array, size: jax.Array) -> jax.Array:
        alpha = jnp.asarray(length_penalty, log_prob.dtype)
        normalized = log_prob / ((5 + size.astype(log_prob.dtype)) / 6) ** alpha
        # With a penalty that overflows, too, what is impossible comes last.
        return jnp.where(log_prob == -jnp.inf, -jnp.inf, normalized)

    def step(state: PyTree, symbol: jax.Array) -> tuple[PyTree, jax.Array]:
        return model.step(params, state, writer.to_input(model, symbol))

    def continuations(
        one: _Hypothesis, state: PyTree, logits: jax.Array, i: jax.Array
    ) -> tuple[_Hypothesis, jax.Array, jax.Array]:
        """It with any symbol i, log_prob and score of each; state and logits are after i-1."""
        text = jnp.concatenate([prompt, one.symbols])
        log_p = log_softmax(writer.process(logits, text, prompt.size + i))
        if writer.stop is not None:
            # What has ended goes on with the stop symbol alone, which is certain.
            certain = jnp.full_like(log_p, -jnp.inf).at[writer.stop].set(0)
            state, log_p = where(one.stopped, (one.state, certain), (state, log_p))
        size = one.size + jnp.where(one.stopped, 0, 1).astype(jnp.int32)
        # Whatever the logits of no series are, even NaN, it remains none.
        log_prob = jnp.where(one.log_prob == -jnp.inf, -jnp.inf, one.log_prob + log_p)
        return one._replace(state=state, size=size), log_prob, score(log_prob, size)

    def best(held: _Hypothesis, state: PyTree, logits: jax.Array, i: jax.Array) -> _Hypothesis:
        held, log_prob, scores = jax.vmap(continuations, (0, 0, 0, None))(held, state, logits, i)
        chosen = lax.top_k(scores.ravel(), beams)[1]
        parent, symbol = jnp.divmod(chosen, logits.shape[1])
        held = jax.tree.map(lambda a: rows_at(a, parent), held)
        undefined = jnp.isnan(log_prob).any()
        return held._replace(
            symbols=held.symbols.at[:, i].set(symbol),
            log_prob=jnp.where(undefined, jnp.nan, rows_at(log_prob.ravel(), chosen)),
            stopped=held.stopped if writer.stop is None else held.stopped | (symbol == writer.stop),
        )

    def write(held: _Hypothesis, i: jax.Array) -> tuple[_Hypothesis, None]:
        state, logits = jax.vmap(step)(held.state, held.symbols[:, i - 1])
        return best(held, state, logits, i), None

    state, logits = writer.read(model, params, prompt, state)
    defined = defined & (length_penalty >= 0) & (length_penalty < jnp.inf)
    # As many copies of the prompt alone, of which one exists, lest all be continued alike.
    start = _Hypothesis(
        state=state,
        symbols=jnp.full(writer.length, logits.size, jnp.int32),
        log_prob=jnp.where(defined, 0.0, jnp.nan).astype(wide_dtype(logits.dtype)),
        size=jnp.zeros((), jnp.int32),
        stopped=jnp.zeros((), bool),
    )
    start = vary_with(start, (prompt, logits))
    copies = jax.tree.map(lambda a: jnp.broadcast_to(a, (beams, *a.shape)), (start, state, logits))
    held, states, logits = copies
    held = held._replace(log_prob=held.log_prob.at[1:].set(-jnp.inf))
    places = jnp.arange(writer.length, dtype=jnp.int32)
    held, _ = lax.scan(write, best(held, states, logits, places[0]), places[1:])
    symbols = jnp.where(held.log_prob[:, None] > -jnp.inf, held.symbols, UNDEFINED)
    return held.state, symbols, score(held.log_prob, held.size)


def log_softmax(logits: jax.Array) -> jax.Array:
    """The log p of each symbol; -inf of all if all logits are: no symbol is possible.

    Those at +inf share all the probability.
    """
    logits = logits.astype(wide_dtype(logits.dtype))
    most = jnp.max(logits)
    infinite = jnp.where(logits == most, 0.0, -jnp.inf).astype(logits.dtype)
    log_p = jax.nn.log_softmax(jnp.where(jnp.isinf(most), infinite, logits))
    return jnp.where(most == -jnp.inf, -jnp.inf, log_p)
