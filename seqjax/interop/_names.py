"""Arrays by name, of whatever holds them: mappings, nested or flat, modules, files."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seqjax import _checks
from seqjax._tree import is_traced

__all__ = ["as_numpy", "below", "is_array", "listed", "named", "nested", "plain", "under"]


def named(arrays: Any, separator: str) -> dict[str, Any]:
    """The leaves of nested mappings, sequences and pytrees by their path, none of them read yet."""
    found: dict[str, Any] = {}
    for name, leaf in _leaves(arrays, ()):
        path = separator.join(name)
        if path in found:
            raise ValueError(_checks.mismatch("arrays", "each name once", f"{path!r} twice"))
        found[path] = leaf
    if not found or "" in found:
        expected = "arrays by name: a mapping, nested or not, or a pytree"
        raise TypeError(_checks.mismatch("arrays", expected, _checks.describe(arrays)))
    return found


def _leaves(tree: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    children: Iterable[tuple[Any, Any]]
    if isinstance(tree, Mapping):  # an h5py group too, or a state of Flax
        children = tree.items()
    elif isinstance(tree, (list, tuple)):
        children = enumerate(tree)
    else:
        leaves = [((), tree)]
        if not is_array(tree):  # a module that JAX knows as a pytree
            leaves = jax.tree_util.tree_leaves_with_path(tree)
        for keys, leaf in leaves:
            yield (*path, *map(_key_name, keys)), leaf
        return
    for key, child in children:
        yield from _leaves(child, (*path, str(key)))


def _key_name(key: Any) -> str:
    """Of an attribute, an index or a key."""
    (name,) = (getattr(key, kind) for kind in ("name", "idx", "key") if hasattr(key, kind))
    return str(name)


def is_array(value: Any) -> bool:
    return hasattr(value, "shape") and hasattr(value, "dtype")


def under(arrays: dict[str, Any], prefix: str, separator: str) -> dict[str, Any]:
    """Those whose names begin with the prefix, by their whole names."""
    start = below(prefix, separator)
    return {name: array for name, array in arrays.items() if name.startswith(start)}


def below(prefix: str, separator: str) -> str:
    """What the names of what a module holds begin with."""
    return prefix if not prefix or prefix.endswith(separator) else prefix + separator


def nested(arrays: Mapping[str, Any], separator: str) -> dict[str, Any]:
    """The tree of dicts whose paths are the names."""
    tree: dict[str, Any] = {}
    for name, array in arrays.items():
        *path, last = name.split(separator)
        node = tree
        for key in path:
            node = node.setdefault(key, {})
        node[last] = array
    return tree


def as_numpy(name: str, value: Any) -> np.ndarray:
    """The same floating numbers, bit for bit, in NumPy."""
    array = plain(name, value)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(_checks.mismatch(name, "a floating array", _checks.describe(value)))
    return array


def plain(name: str, value: Any) -> np.ndarray:
    """The same in NumPy: of arrays of JAX, PyTorch, Keras, Flax, h5py, …"""
    if is_traced(value):
        raise TypeError(_checks.mismatch(name, "an array with a value", "a traced one"))
    if not is_array(value):
        raise TypeError(_checks.mismatch(name, "an array", _checks.describe_non_array(value)))
    try:
        array = np.asarray(_of_torch(value) if _is_torch(value) else value)
    except Exception as error:  # whatever the library of the array says
        given = f"{_checks.describe(value)}, which NumPy cannot read: {error}"
        raise TypeError(_checks.mismatch(name, "an array", given)) from None
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _is_torch(value: Any) -> bool:
    return type(value).__module__.split(".")[0] == "torch"


def _of_torch(tensor: Any) -> np.ndarray:
    tensor = tensor.detach().cpu()
    if str(tensor.dtype) == "torch.bfloat16":  # which NumPy gets from JAX alone
        return tensor.float().numpy().astype(jnp.bfloat16)
    return tensor.numpy()


def listed(names: Iterable[str], at_most: int = 8) -> str:
    names = sorted(names)
    more = f" and {len(names) - at_most} more" if len(names) > at_most else ""
    return ", ".join(names[:at_most]) + more
