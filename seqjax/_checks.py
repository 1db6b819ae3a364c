"""Argument checks at public boundaries, with error messages worded in one place.

Array-likes are accepted as they are understood by JAX (`jax.Array`, `numpy.ndarray`); shapes
and dtypes must fit exactly, since nothing is broadcast or cast behind the caller's back.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seqjax._messages import (
    ARRAYS,
    describe,
    describe_non_array,
    difference,
    dtype_name,
    mismatch,
)
from seqjax._tree import is_traced
from seqjax._types import PyTree

BATCHED = "; for a batch, use jax.vmap"


def size(name: str, value: Any, *, at_least: int = 1) -> int:
    """An integer, not a bool."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        # A traced integer is one too, but no shape can depend on it.
        expected = "a Python integer" if isinstance(value, ARRAYS) else "an integer"
        raise TypeError(mismatch(name, expected, describe(value)))
    if value < at_least:
        raise ValueError(mismatch(name, f"an integer of at least {at_least}", value))
    return int(value)


def number(
    name: str, value: Any, *, above: float | None = None, at_least: float | None = None
) -> float:
    """A finite real number known now (not traced)."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(mismatch(name, "a number", describe(value)))
    try:
        finite = math.isfinite(value)
    except OverflowError:  # an integer beyond all floats
        finite = False
    if not finite:
        raise ValueError(mismatch(name, "a finite number", value))
    if above is not None and not value > above:
        raise ValueError(mismatch(name, f"a number above {above:g}", value))
    if at_least is not None and not value >= at_least:
        raise ValueError(mismatch(name, f"a number of at least {at_least:g}", value))
    return float(value)


def rate(name: str, value: Any, *, below_one: bool = True) -> float:
    """A number from 0 to 1, or below that."""
    value = number(name, value, at_least=0)
    if value > 1 or (below_one and value == 1):
        interval = "[0, 1)" if below_one else "[0, 1]"
        raise ValueError(mismatch(name, f"a number in {interval}", value))
    return value


def flag(name: str, value: Any) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(mismatch(name, "True or False", describe(value)))
    return bool(value)


def choice(name: str, value: Any, choices: tuple[str, ...]) -> str:
    expected = "one of " + ", ".join(map(repr, choices))
    if not isinstance(value, str):  # an array would be compared element by element
        raise TypeError(mismatch(name, expected, describe(value)))
    if value not in choices:
        raise ValueError(mismatch(name, expected, repr(value)))
    return value


def function(name: str, value: Any, *, optional: bool = False) -> Any:
    if not callable(value) and not (optional and value is None):
        raise TypeError(mismatch(name, "a function", describe(value)))
    return value


def part(name: str, value: Any, *, optional: bool = False) -> Any:
    """A function that a model is made of: hashable, since models are compared by their parts."""
    return hashable(name, function(name, value, optional=optional), "wrap it in a function")


def hashable(name: str, value: Any, remedy: str) -> Any:
    try:
        hash(value)
    except TypeError:
        given = f"{describe(value)}, which has no hash: {remedy}"
        raise TypeError(mismatch(name, "something hashable", given)) from None
    return value


def instance(name: str, value: Any, kind: type | tuple[type, ...], expected: str) -> Any:
    if not isinstance(value, kind):
        raise TypeError(mismatch(name, expected, describe(value)))
    return value


def spec(name: str, value: Any) -> Any:
    expected = "a jax.ShapeDtypeStruct or None"
    return value if value is None else instance(name, value, jax.ShapeDtypeStruct, expected)


def float_dtype(name: str, value: Any, default: Any = None) -> np.dtype:
    """A floating dtype; JAX's default float where neither it nor a default is given."""
    if value is None:
        return jnp.dtype(jnp.result_type(float)) if default is None else default
    is_array = hasattr(value, "shape") and not isinstance(value, (type, np.dtype))
    try:
        dtype = None if is_array else jnp.dtype(value)  # NumPy would take the dtype of an array
    except (TypeError, ValueError):
        dtype = None
    if dtype is None:
        raise TypeError(mismatch(name, "a floating dtype", describe(value)))
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(mismatch(name, "a floating dtype", dtype.name))
    if jax.dtypes.canonicalize_dtype(dtype) != dtype:
        raise ValueError(
            mismatch(name, "a dtype that is enabled", f"{dtype.name}: set jax_enable_x64 for it")
        )
    return dtype


def as_array(name: str, value: Any) -> Any:
    """An array as JAX holds it; Python numbers and lists have no dtype to check."""
    if isinstance(value, jax.ShapeDtypeStruct):  # what jax.eval_shape knows of an array
        return value
    try:
        if isinstance(value, ARRAYS):
            return jnp.asarray(value)
    except (TypeError, ValueError):  # of strings or objects, or with a mask
        pass
    raise TypeError(mismatch(name, "a JAX or NumPy array", describe_non_array(value)))


def arrays(name: str, value: PyTree) -> PyTree:
    """A pytree of arrays, of any structure: what a user's function returns."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: as_array(name + jax.tree_util.keystr(path), leaf), value
    )


A_KEY = "a JAX random key such as jax.random.key(0)"


def key(name: str, value: Any, number: int | None = None) -> Any:
    """One typed random key; the words of an old one are wrapped, as JAX does.

    With a number, that many keys are accepted as well.
    """
    if not isinstance(value, ARRAYS):
        raise TypeError(mismatch(name, A_KEY, describe(value)))
    typed: Any = value
    if not jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        try:
            typed = jax.random.wrap_key_data(jnp.asarray(value))
        except TypeError:
            raise TypeError(mismatch(name, A_KEY, describe(value))) from None
    if typed.ndim and typed.shape != (number,):
        expected = "one JAX random key" + ("" if number is None else f", or {number} of them")
        raise ValueError(mismatch(name, expected, describe(value) + BATCHED))
    return typed


def keys(value: Any, number: int) -> Any:
    """That many random keys of its own kind, out of the argument `key` of an `init`."""
    key("key", value)
    return jax.random.split(value, number)


def array(name: str, value: Any, shape: tuple, dtype: Any) -> Any:
    """An array of exactly this shape and dtype; a size given as a string is free."""
    value = as_array(name, value)
    expected = f"{dtype_name(dtype)}[{', '.join(map(str, shape))}]"

    def fits(given: tuple) -> bool:
        return len(given) == len(shape) and all(
            isinstance(want, str) or want == got for want, got in zip(shape, given, strict=True)
        )

    if not fits(value.shape):
        # "The state that …": what a function returned, and nothing that the caller could batch.
        batched = BATCHED if fits(value.shape[1:]) and not name.startswith("the ") else ""
        raise ValueError(mismatch(name, expected, describe(value) + batched))
    if value.dtype != dtype:
        raise TypeError(
            mismatch(name, expected, f"{describe(value)}; seqjax casts nothing: use .astype")
        )
    return value


def tree(name: str, value: PyTree, spec: PyTree) -> PyTree:
    """A pytree with structure, shapes and dtypes of `spec`; an error names the mismatched leaf."""
    try:
        structure: Any = jax.tree.structure(value)
    except (TypeError, ValueError):
        given = f"{describe(value)}, which JAX cannot flatten"
        raise TypeError(mismatch(name, "a pytree of arrays", given)) from None
    if structure != jax.tree.structure(spec):
        raise ValueError(mismatch(*difference(name, spec, value)))
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf, want: array(
            name + jax.tree_util.keystr(path), leaf, want.shape, want.dtype
        ),
        value,
        spec,
    )


def traceable(name: str, value: PyTree) -> None:
    """A pytree of what `jax.jit` takes: arrays and Python numbers."""
    known = (*ARRAYS, bool, int, float, complex)
    for path, leaf in jax.tree_util.tree_leaves_with_path(value):
        if not (isinstance(leaf, known) or hasattr(leaf, "__jax_array__")):
            given = describe_non_array(leaf)
            raise TypeError(mismatch(name + jax.tree_util.keystr(path), "an array", given))


def pair(name: str, value: Any, expected: str) -> tuple[Any, Any]:
    """What a user's function returned, if it is the pair that it must be."""
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise TypeError(mismatch(name, f"a function that returns {expected}", describe(value)))
    return value[0], value[1]


def step_result(value: Any) -> tuple[PyTree, PyTree]:
    """What a user's `step` returned: (state, y); a Python number in y is an array, as in a scan."""
    state, y = pair("step", value, "(state, y)")
    numbers = (bool, int, float, complex)
    y = jax.tree.map(lambda leaf: jnp.asarray(leaf) if isinstance(leaf, numbers) else leaf, y)
    return state, arrays("the y that step returns", y)


def one(name: str, value: PyTree, spec: Any) -> PyTree:
    """One input of `spec`; any pytree of arrays if `spec` is None."""
    if spec is None:
        return arrays(name, value)
    return array(name, value, spec.shape, dtype_of_input(name, value, spec.dtype))


def dtype_of_input(name: str, value: Any, dtype: Any) -> Any:
    """What an input's dtype must be: an integer is the same number in any integer dtype."""
    given = as_array(name, value).dtype
    integers = all(jnp.issubdtype(d, jnp.integer) for d in (given, dtype))
    return given if integers else dtype


def series(name: str, value: PyTree, spec: Any) -> tuple[PyTree, int]:
    """A series of `spec` (None: of any pytree) along a leading time axis, and its length."""
    if spec is not None:
        dtype = dtype_of_input(name, value, spec.dtype)
        value = array(name, value, ("T", *spec.shape), dtype)
        return value, value.shape[0]
    leaves = jax.tree_util.tree_leaves_with_path(value)
    if not leaves:
        raise ValueError(mismatch(name, "at least one array [T, …]", describe(value)))
    lengths: dict[Any, str] = {}
    for path, leaf in leaves:
        leaf_name = name + jax.tree_util.keystr(path)
        if not as_array(leaf_name, leaf).ndim:
            raise ValueError(mismatch(leaf_name, "an array [T, …]", describe(leaf)))
        lengths.setdefault(leaf.shape[0], leaf_name)
    if len(lengths) != 1:
        given = ", ".join(f"{time} in {leaf_name}" for time, leaf_name in lengths.items())
        raise ValueError(mismatch(name, "one length T for every array", given))
    return jax.tree.map(jnp.asarray, value), next(iter(lengths))


def length(value: Any, steps: int) -> jax.Array:
    """An integer scalar, unsigned, since a count from 0 on can be compared with any of them.

    Its range is checked where it is known; else a negative one counts as 0. At least 32 bits wide,
    so that it can hold any number of steps: int32, made of uint32 without x64, would be negative.
    """
    known = isinstance(value, (int, *ARRAYS))
    if not known or not jnp.issubdtype(jnp.result_type(value), jnp.integer):
        raise TypeError(mismatch("length", "an integer scalar", describe(value)))
    if jnp.ndim(value):
        raise ValueError(mismatch("length", "an integer scalar", describe(value) + BATCHED))
    if not is_traced(value) and not 0 <= int(value) <= steps:
        raise ValueError(mismatch("length", f"a number of steps in [0, {steps}]", int(value)))
    value = jnp.asarray(value)
    unsigned = jnp.uint64 if value.dtype.itemsize == 8 else jnp.uint32
    return jnp.maximum(value, 0).astype(unsigned)
