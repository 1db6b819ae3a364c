"""What writes symbols: its arguments, the inputs made of symbols, the logits of the next one."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seqjax import _checks
from seqjax._tokens import check_symbols
from seqjax._tree import at_step, is_traced, wide_dtype
from seqjax._types import PyTree
from seqjax.engine.model import Model, check_params, check_state
from seqjax.engine.unroll import unroll

__all__ = [
    "UNDEFINED",
    "Encode",
    "Process",
    "Writer",
    "check_logits",
    "check_operands",
    "check_scalar",
    "check_writer",
]

UNDEFINED = -1
INT32 = range(-(2**31), 2**31)
Encode = Callable[[jax.Array], PyTree]
Process = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


@dataclass(frozen=True)
class Writer:
    """How symbols are written, a static value; see the arguments of `generate`."""

    length: int
    stop: int | None
    process_logits: Process | None
    encode: Encode | None

    def to_input(self, model: Model, symbol: jax.Array) -> PyTree:
        spec = model.input_spec
        if self.encode is not None:
            return _checks.one("the x that encode returns", self.encode(symbol), spec)
        assert spec is not None  # see `_symbols_of`
        if _reads_tokens(spec):
            return symbol
        return jax.nn.one_hot(symbol, spec.shape[0], dtype=spec.dtype)

    def read(
        self, model: Model, params: PyTree, prompt: jax.Array, state: PyTree
    ) -> tuple[PyTree, jax.Array]:
        """The state and the logits [V] after the prompt."""
        xs = jax.vmap(lambda symbol: self.to_input(model, symbol))(prompt)
        state, logits = unroll(model, params, xs, state)
        last = check_logits(at_step(logits, -1))
        if self.stop is not None:
            check_symbols("stop", np.asarray(self.stop), range(last.size))
        return state, last

    def process(self, logits: jax.Array, symbols: jax.Array, t: jax.Array) -> jax.Array:
        """What `process_logits` makes of the logits of symbol t."""
        if self.process_logits is None:
            return logits
        logits = logits.astype(wide_dtype(logits.dtype))
        returned = "the logits that process_logits returns"
        return _checks.one(returned, self.process_logits(logits, symbols, t), logits)


def check_writer(length: Any, stop: Any, process_logits: Any, encode: Any) -> Writer:
    return Writer(
        length=_checks.size("length", length),
        stop=None if stop is None else _checks.size("stop", stop, at_least=0),
        process_logits=_checks.part("process_logits", process_logits, optional=True),
        encode=_checks.part("encode", encode, optional=True),
    )


def check_operands(
    model: Any, params: PyTree, prompt: Any, state: PyTree, writer: Writer
) -> tuple[PyTree, jax.Array, bool | jax.Array, PyTree]:
    """Params, prompt, whether its symbols are defined, and state."""
    _checks.instance("model", model, Model, "a seqjax model")
    read = _symbols_of(model) if writer.encode is None else INT32
    prompt, defined = _check_prompt(prompt, read)
    params = check_params(model, params)
    return params, prompt, defined, check_state(model, params, state)


def check_logits(logits: Any) -> Any:
    """[V], floating, of at least one symbol."""
    logits = _checks.as_array("logits", logits)
    if logits.ndim != 1 or not logits.size:
        batched = _checks.BATCHED if logits.ndim > 1 else ""
        got = _checks.describe(logits) + batched
        raise ValueError(_checks.mismatch("logits", "[V] with V ≥ 1", got))
    _checks.float_dtype("logits", logits.dtype)
    return logits


def check_scalar(name: str, value: Any) -> Any:
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


def _check_prompt(prompt: Any, symbols: range) -> tuple[jax.Array, bool | jax.Array]:
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
