"""The checks at every public boundary: what was expected and what came, worded once.

Array-likes are accepted as they are understood by JAX (`jax.Array`, `numpy.ndarray`); shapes
and dtypes must fit exactly, since nothing is broadcast or cast behind the caller's back.
"""

import math
from collections.abc import Collection
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Tree = Any
ARRAYS = (jax.Array, np.ndarray, np.generic)
BATCHED = "; for a batch, use jax.vmap"


def describe(value: Any) -> str:
    """`float32[3, 4]` for anything with a shape and a dtype, the type's name otherwise."""
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{dtype_name(value.dtype)}[{', '.join(map(str, value.shape))}]"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    return f"{type(value).__name__} {value!r}" if _is_scalar(value) else type(value).__name__


def dtype_name(dtype: Any) -> str:
    return dtype.name if hasattr(dtype, "name") else np.dtype(dtype).name


def mismatch(name: str, expected: str, given: Any) -> str:
    return f"{name}: expected {expected}, got {given}"


def _is_scalar(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float, complex, str))


def size(name: str, value: Any, *, at_least: int = 1) -> int:
    """A whole number, not a bool."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        # A traced integer is one too, but no shape can depend on it.
        expected = "a Python integer" if isinstance(value, ARRAYS) else "a whole number"
        raise TypeError(mismatch(name, expected, describe(value)))
    if value < at_least:
        raise ValueError(mismatch(name, f"a whole number of at least {at_least}", value))
    return int(value)


def number(name: str, value: Any, *, above: float | None = None, at_least: float | None = None):
    """A finite real number known now (not traced)."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(mismatch(name, "a number", describe(value)))
    if not math.isfinite(value):
        raise ValueError(mismatch(name, "a finite number", value))
    if above is not None and not value > above:
        raise ValueError(mismatch(name, f"a number above {above:g}", value))
    if at_least is not None and not value >= at_least:
        raise ValueError(mismatch(name, f"a number of at least {at_least:g}", value))
    return float(value)


def flag(name: str, value: Any) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(mismatch(name, "True or False", describe(value)))
    return bool(value)


def choice(name: str, value: Any, choices: tuple[str, ...]) -> str:
    if value not in choices:
        raise ValueError(mismatch(name, "one of " + ", ".join(map(repr, choices)), repr(value)))
    return value


def function(name: str, value: Any, *, optional: bool = False) -> Any:
    if not callable(value) and not (optional and value is None):
        raise TypeError(mismatch(name, "a function", describe(value)))
    return value


def instance(name: str, value: Any, kind: type, expected: str) -> Any:
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
    try:
        dtype = jnp.dtype(value)
    except TypeError:
        raise TypeError(mismatch(name, "a floating dtype", repr(value))) from None
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(mismatch(name, "a floating dtype", dtype.name))
    if jax.dtypes.canonicalize_dtype(dtype) != dtype:
        raise ValueError(
            mismatch(name, "a dtype that is enabled", f"{dtype.name}: set jax_enable_x64 for it")
        )
    return dtype


def as_array(name: str, value: Any) -> Any:
    """An array as JAX holds it; Python numbers and lists have no dtype to check."""
    if isinstance(value, ARRAYS):
        return jnp.asarray(value)
    if isinstance(value, jax.ShapeDtypeStruct):  # what jax.eval_shape knows of an array
        return value
    raise TypeError(mismatch(name, "a JAX or NumPy array", describe(value)))


def array(name: str, value: Any, shape: tuple, dtype: Any) -> Any:
    """An array of exactly this shape and dtype; a size given as a string is free."""
    value = as_array(name, value)
    expected = f"{dtype_name(dtype)}[{', '.join(map(str, shape))}]"

    def fits(given):
        return len(given) == len(shape) and all(
            isinstance(want, str) or want == got for want, got in zip(shape, given, strict=True)
        )

    if not fits(value.shape):
        batched = BATCHED if fits(value.shape[1:]) else ""
        raise ValueError(mismatch(name, expected, describe(value) + batched))
    if value.dtype != dtype:
        raise TypeError(
            mismatch(name, expected, f"{describe(value)}; seqjax casts nothing: use .astype")
        )
    return value


def tree(name: str, value: Tree, spec: Tree) -> Tree:
    """A pytree with the structure, shapes and dtypes of `spec`; names the leaf that is off."""
    structure: Any = jax.tree.structure(value)
    if structure != jax.tree.structure(spec):
        expected, got = _outlines(spec, value)
        raise ValueError(mismatch(name, f"the structure {expected}", got))
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf, want: array(
            name + jax.tree_util.keystr(path), leaf, want.shape, want.dtype
        ),
        value,
        spec,
    )


def _leaves(value: Tree) -> list[str]:
    return [
        f"{jax.tree_util.keystr(path) or 'one array'}: {describe(leaf)}"
        for path, leaf in jax.tree_util.tree_leaves_with_path(value)
    ]


def _outline(value: Tree, known: Collection[str] = ()) -> str:
    """The leaves of a pytree; a "…" for those that are known."""
    leaves = _leaves(value)
    told = [leaf for leaf in leaves if leaf not in known]
    told += ["…"] if len(told) < len(leaves) else []
    return "{" + ", ".join(told) + "}" if leaves else f"an empty {type(value).__name__}"


def _outlines(spec: Tree, value: Tree) -> tuple[str, str]:
    """Two pytrees of different structure, without the leaves that they share."""
    wanted, found = set(_leaves(spec)), set(_leaves(value))
    if wanted == found:  # in other containers
        return str(jax.tree.structure(spec)), str(jax.tree.structure(value))
    return _outline(spec, found), _outline(value, wanted)


def series(name: str, value: Tree, spec: Any) -> tuple[Tree, int]:
    """A series of `spec` (None: of any pytree) along a leading time axis, and its length."""
    if spec is not None:
        value = array(name, value, ("T", *spec.shape), spec.dtype)
        return value, value.shape[0]
    leaves = jax.tree_util.tree_leaves_with_path(value)
    if not leaves:
        raise ValueError(mismatch(name, "at least one array [T, …]", _outline(value)))
    lengths = {}
    for path, leaf in leaves:
        leaf_name = name + jax.tree_util.keystr(path)
        if not as_array(leaf_name, leaf).ndim:
            raise ValueError(mismatch(leaf_name, "an array [T, …]", describe(leaf)))
        lengths[leaf_name] = leaf.shape[0]
    if len(set(lengths.values())) != 1:
        raise ValueError(mismatch(name, "one length T for every array", lengths))
    return jax.tree.map(jnp.asarray, value), next(iter(lengths.values()))


def length(value: Any, steps: int) -> jax.Array:
    """A whole-number scalar; its range is checked where it is known."""
    known = isinstance(value, (int, *ARRAYS))
    if not known or not jnp.issubdtype(jnp.result_type(value), jnp.integer):
        raise TypeError(mismatch("length", "a whole-number scalar", describe(value)))
    if jnp.ndim(value):
        raise ValueError(mismatch("length", "a whole-number scalar", describe(value) + BATCHED))
    if not isinstance(value, jax.core.Tracer) and not 0 <= int(value) <= steps:
        raise ValueError(mismatch("length", f"a number of steps in [0, {steps}]", int(value)))
    return jnp.asarray(value)


def matmul_operands(x: Any, kernel: Any, bias: Any) -> None:
    x, kernel = as_array("x", x), as_array("kernel", kernel)
    if kernel.ndim != 2:
        raise ValueError(mismatch("kernel", "[I, O]", describe(kernel)))
    if x.ndim not in (1, 2) or x.shape[-1] != kernel.shape[0]:
        expected = f"[{kernel.shape[0]}] or [rows, {kernel.shape[0]}]"
        raise ValueError(mismatch("x", expected, describe(x)))
    if x.dtype != kernel.dtype:
        raise TypeError(mismatch("x", f"the kernel's dtype {kernel.dtype.name}", describe(x)))
    if bias is not None:
        array("bias", bias, kernel.shape[1:], kernel.dtype)
