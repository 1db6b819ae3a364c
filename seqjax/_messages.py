"""Error messages: a brief description of any value, of bounded length."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from seqjax._types import PyTree

LIMIT = 600  # characters of a message, the sum of its three parts
NAME, EXPECTED, GIVEN = 130, 200, 250
ARRAYS = (jax.Array, np.ndarray, np.generic)
SCALARS = (bool, int, float, complex, str, bytes)


def mismatch(name: str, expected: str, given: Any) -> str:
    """The one form of an error: which argument, what it should have been and what it was."""
    return f"{clip(name, NAME)}: expected {clip(expected, EXPECTED)}, got {clip(given, GIVEN)}"


def clip(value: Any, room: int) -> str:
    """`str(value)`; of a long one the beginning and the end."""
    text = value if isinstance(value, str) else _text(str, value)
    head = 2 * room // 3
    return text if len(text) <= room else f"{text[:head]} … {text[len(text) - room + head + 3 :]}"


def describe(value: Any) -> str:
    """`float32[3, 4]` for an array, otherwise its type and what distinguishes it."""
    if value is None:
        return "None"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if isinstance(value, SCALARS) and not isinstance(value, np.generic):
        return f"{type(value).__name__} {clip(_text(repr, value), 60)}"
    shape, dtype = _attribute(value, "shape"), _attribute(value, "dtype")
    if shape is not None and dtype is not None:
        outline = f"{dtype_name(dtype)}[{_shape(shape)}]"
        native = isinstance(value, (*ARRAYS, jax.ShapeDtypeStruct))
        return outline if native else f"{_type_name(value)} {outline}"
    if isinstance(value, tuple) and (fields := getattr(value, "_fields", None)) is not None:
        return f"{type(value).__name__}({', '.join(fields)})"
    if isinstance(value, (tuple, list, dict)):
        kind, many = type(value).__name__, len(value)
        contents = _keys(value) if isinstance(value, dict) else many
        return f"{_article(kind)} {kind} of {contents}" if many else f"an empty {kind}"
    if callable(value) and isinstance(_attribute(value, "__name__"), str):
        return f"the function {value.__name__}"
    return _type_name(value)


def describe_non_array(value: Any) -> str:
    """What came in place of an array, and how to make one of it if it holds numbers."""
    if isinstance(value, (list, tuple, bool, int, float, complex)):
        return f"{describe(value)}; np.asarray makes an array of it"
    foreign = any(_attribute(value, name) is not None for name in ("dtype", "__array__"))
    hint = "; convert it to a NumPy array" if foreign and not isinstance(value, ARRAYS) else ""
    return describe(value) + hint


def dtype_name(dtype: Any) -> str:
    """The name of a dtype, also of another library's."""
    try:
        return str(np.dtype(dtype).name)
    except Exception:  # a key's, or not NumPy's at all, and then it may raise whatever it likes
        name = _attribute(dtype, "name")
        name = name if isinstance(name, str) else _text(str, dtype).rsplit(".", 1)[-1]
        return clip(name, 40)


def difference(name: str, spec: PyTree, value: PyTree) -> tuple[str, str, str]:
    """Where two pytrees of different structure first differ: the parts of a `mismatch`."""
    (path, want, got), *others = _differences(name, spec, value)
    more = len(others)
    told = f"; {more} more difference{'s' if more > 1 else ''}" if more else ""
    return path, describe(want), _describe_beside(want, got) + told


def _differences(path: str, spec: PyTree, value: PyTree) -> Iterator[tuple[str, PyTree, PyTree]]:
    (wanted, structure), (found, given) = _children(spec), _children(value)
    if structure != given:
        yield path, spec, value
    elif not jax.tree_util.treedef_is_leaf(structure):
        for (key, want), (_, got) in zip(wanted, found, strict=True):
            yield from _differences(path + jax.tree_util.keystr(key), want, got)


def _children(tree: PyTree) -> tuple[list, Any]:
    """A pytree, flattened by one level."""
    return jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda node: node is not tree)


def _describe_beside(want: PyTree, got: PyTree) -> str:
    if isinstance(want, dict) and type(want) is type(got):
        lacking = {key: 0 for key in want if key not in got}
        extra = {key: 0 for key in got if key not in want}
        parts = [("without ", lacking), ("with ", extra)]
        return "one " + " and ".join(word + _keys(keys) for word, keys in parts if keys)
    if jax.tree_util.all_leaves([want]):
        return describe_non_array(got)
    given = describe(got)
    if isinstance(want, tuple) and type(got) is list and type(want) is tuple:
        return f"{given}; tuple makes one of it"
    return given if given != describe(want) else f"{given} with other static contents"


def _keys(mapping: dict, at_most: int = 6) -> str:
    told = [clip(_text(repr, key), 40) for key, _ in zip(mapping, range(at_most), strict=False)]
    more = [f"{len(mapping) - at_most} more"] if len(mapping) > at_most else []
    return ", ".join(told + more)


def _article(noun: str) -> str:
    return "an" if noun[0] in "aeiouAEIOU" else "a"


def _type_name(value: Any) -> str:
    """`torch.Tensor`: the class with its library, which may hide it deep inside."""
    library = type(value).__module__.split(".")[0]
    name = type(value).__qualname__
    return name if library in ("builtins", "__main__", "jaxlib") else f"{library}.{name}"


def _shape(shape: Any) -> str:
    return clip(_text(lambda axes: ", ".join(map(str, axes)), shape), 60)


def _attribute(value: Any, name: str) -> Any:
    """None for what is not there, or cannot be read at the moment (a closed file)."""
    try:
        return getattr(value, name, None)
    except Exception:
        return None


def _text(show: Callable[[Any], str], value: Any) -> str:
    try:
        return show(value)
    except Exception:  # an integer of more digits than Python prints, a foreign object's own
        kind = type(value).__name__
        return f"({_article(kind)} {kind} that cannot be shown)"
