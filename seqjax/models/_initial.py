"""Initial parameters: uniform as in PyTorch, or what initializers of the caller's own return."""

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from seqjax import _checks
from seqjax._tree import wide_dtype
from seqjax._types import Initializer, Key

__all__ = ["Array", "Initializers", "check_initializers", "draw_all", "redraw", "shown"]

# One for all gates or one for each; where None, the parameters are drawn as by default.
PerGate: TypeAlias = Initializer | tuple[Initializer | None, ...] | None


class Initializers(NamedTuple):
    """The options of a factory that say what kernels and biases start from."""

    kernel_init: PerGate = None
    recurrent_init: PerGate = None
    bias_init: PerGate = None
    use_bias: bool = True


class Array(NamedTuple):
    """An array of parameters, [..., G·H]: the blocks of G gates side by side.

    Attributes:
      shape: of the whole array.
      bound: of U(±bound), which it is drawn from by default.
      option: the field of `Initializers` that it is drawn by otherwise.
      gates: G.
      heads: whether the first axis is one of heads, whose blocks are drawn on their own too.
    """

    shape: tuple[int, ...]
    bound: float
    option: str
    gates: int = 1
    heads: bool = False


def check_initializers(gates: int = 1, *, use_bias: Any = True, **inits: Any) -> Initializers:
    """The options as they are used; `inits` by the names that the fields above have."""
    checked = {name: _check_init(name, init, gates) for name, init in inits.items()}
    if not _checks.flag("use_bias", use_bias) and checked["bias_init"] is not None:
        raise ValueError(
            _checks.mismatch("bias_init", "None with use_bias=False", "an initializer")
        )
    return Initializers(use_bias=bool(use_bias), **checked)


def _check_init(name: str, init: Any, gates: int) -> PerGate:
    if not isinstance(init, tuple):
        return _checks.part(name, init, optional=True)
    if len(init) != gates:
        expected = f"an initializer, or a tuple of one per gate, {gates} in all"
        raise ValueError(_checks.mismatch(name, expected, f"a tuple of {len(init)}"))
    return tuple(_checks.part(f"{name}[{n}]", of, optional=True) for n, of in enumerate(init))


def shown(inits: Initializers) -> dict[str, Any]:
    """The options that were given, for the `repr` of a model."""
    defaults = Initializers()
    return {
        name: value for name, value in inits._asdict().items() if value != getattr(defaults, name)
    }


def draw_all(
    keys: Sequence[Key], arrays: dict[str, Array], inits: Initializers, dtype: Any
) -> dict[str, jax.Array]:
    """The parameters by name, with a key for each; no bias if there is to be none."""
    return {
        name: draw(key, array, getattr(inits, array.option), dtype)
        for key, (name, array) in zip(keys, arrays.items(), strict=True)
        if inits.use_bias or array.option != "bias_init"
    }


def draw(key: Key, array: Array, init: PerGate, dtype: Any) -> jax.Array:
    """U(±bound), drawn as a whole; the blocks of gates that have an initializer by that."""
    uniform = jax.random.uniform(key, array.shape, dtype, -array.bound, array.bound)
    return redraw(key, uniform, init, array.option, array.gates, heads=array.heads)


def redraw(
    key: Key, default: jax.Array, init: PerGate, option: str, gates: int = 1, *, heads: bool = False
) -> jax.Array:
    """The default, but for the blocks of gates, and of heads, that have an initializer."""
    if init is None:
        return default
    if heads:
        of_heads = [jax.random.fold_in(key, number) for number in range(len(default))]
        pairs = zip(of_heads, default, strict=True)
        return jnp.stack([redraw(k, head, init, option, gates) for k, head in pairs])
    inits = init if isinstance(init, tuple) else (init,) * gates
    blocks = jnp.split(default, gates, axis=-1)
    for number, of_gate in enumerate(inits):
        if of_gate is not None:
            key_of_gate, shape = jax.random.fold_in(key, number), blocks[number].shape
            blocks[number] = _call(option, of_gate, key_of_gate, shape, default.dtype)
    return jnp.concatenate(blocks, axis=-1)


def _call(option: str, init: Initializer, key: Key, shape: tuple, dtype: Any) -> jax.Array:
    """In float32 where the parameters are narrower: not every initializer has a narrow form."""
    wide = wide_dtype(dtype)
    try:
        block = init(key, shape, wide)
    except ValueError as error:  # of `lecun_normal` and its like, for a vector
        expected = f"an initializer of arrays of shape {shape}"
        raise ValueError(_checks.mismatch(option, expected, f"one that says: {error}")) from error
    block = _checks.array(f"the array that {option} returns", block, shape, wide)
    return block.astype(dtype)
