"""A model and its parameters in one file, and back."""

import hashlib
import importlib
import json
import math
import os
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from seqjax import _checks
from seqjax._types import PyTree
from seqjax.engine.model import Model, check_params
from seqjax.engine.per_model import params_spec
from seqjax.storage.model_json import STATES, model_of, public, state_fields, tree_of

__all__ = ["Saved", "load", "save"]

FORMAT = 1  # what this version writes; it reads all up to that
EXTRA = "needs safetensors: pip install 'seqjax[save]'"
# What a safetensors file calls the dtypes, but for the complex ones, which are kept as pairs.
DTYPES = {
    **{f"F{bits}": f"float{bits}" for bits in (16, 32, 64)},
    **{f"I{bits}": f"int{bits}" for bits in (8, 16, 32, 64)},
    **{f"U{bits}": f"uint{bits}" for bits in (8, 16, 32, 64)},
    **{"BOOL": "bool", "BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2"},
}
Arrays = dict[str, np.ndarray]


class Saved(NamedTuple):
    """What `load` returns.

    Attributes:
      model: the model.
      params: its parameters.
      trees: what was saved beside them, by name.
    """

    model: Model
    params: PyTree
    trees: dict[str, PyTree]


def save(
    path: str | os.PathLike,
    model: Model,
    params: PyTree,
    *,
    functions: Mapping[str, Callable] | None = None,
    **trees: PyTree,
) -> None:
    """Saves a model and its parameters, and whatever else is given, as one safetensors file.

    The model is in the header of the file, as JSON: the calls of the factories that make it. No
    code is in the file, and none runs when it is loaded. The file is written beside its place and
    then moved there, so that at any time the old one or the new one is whole. The state of a
    training (an optimizer's, a step counter) is better kept by Orbax, as `examples/char_rnn.py`
    does.

    Args:
      path: the file, which is replaced if there is one.
      model: what the factories of seqjax make. Functions in it are those of `jax.nn`, or common
        ones of `jax.numpy`; any others are named in `functions`.
      params: its parameters, of the shapes and dtypes of `model.init`.
      functions: functions of your own in the model, by names: `load` needs them again.
      **trees: what belongs to it: states, a mean and a deviation, a vocabulary; dicts, lists,
        tuples and states of arrays, numbers and strings.

    Raises:
      ValueError, TypeError: a function that is neither known nor named; a model of which parts
        were replaced, or of no factory; params that are not the model's; what cannot be stored.
      ImportError: safetensors is not installed: `pip install 'seqjax[save]'`.

    >>> import jax, seqjax as sj
    >>> model = sj.stack(sj.embed(4, 8), sj.gru(8, 16), sj.dense(16, 4))
    >>> params = model.init(jax.random.key(0))
    >>> sj.save("model.safetensors", model, params, vocabulary=list("abc "))  # doctest: +SKIP
    >>> model, params, trees = sj.load("model.safetensors")                   # doctest: +SKIP
    """
    path = _check_path(path)
    _checks.instance("model", model, Model, "a seqjax model")
    check_params(model, params)
    safetensors = _import("save")
    arrays = {name: _as_numpy(name, leaf) for name, leaf in _named(params).items()}
    stored = {name: _pack(name, tree, arrays) for name, tree in trees.items()}
    pairs = [name for name, array in arrays.items() if np.iscomplexobj(array)]
    arrays |= {name: np.stack([np.real(arrays[name]), np.imag(arrays[name])], -1) for name in pairs}
    parts = {
        "model": json.dumps(tree_of(model, _check_functions(functions))),
        "trees": json.dumps(stored),
        "complex": json.dumps(pairs),
        "seqjax": public("__version__"),
        "format": str(FORMAT),
    }
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with open(beside, "xb") as file:
            file.write(safetensors.save(arrays, parts | {"sha256": _digest(parts, arrays)}))
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def load(path: str | os.PathLike, *, functions: Mapping[str, Callable] | None = None) -> Saved:
    """Loads what `save` wrote: the same model, and the same arrays to the bit.

    Args:
      path: the file.
      functions: those that were given to `save`.

    Returns:
      (model, params, trees), the arrays of `params` on JAX's default device. Of the trees, those
      that were NumPy's are NumPy's again.

    Raises:
      ValueError: not a file of `save`, or not a whole one: some of it is missing or was changed;
        one of a later version of seqjax; functions are missing; dtypes that are not enabled.
      ImportError: safetensors is not installed: `pip install 'seqjax[save]'`.
    """
    path, functions = _check_path(path), _check_functions(functions)
    header, stored = _read(path)
    pairs = json.loads(header["complex"])
    arrays = {name: _as_read(array, name in pairs) for name, array in stored.items()}
    model = model_of(json.loads(header["model"]), functions)
    trees = json.loads(header["trees"])
    spec = params_spec(model)
    names = _named(spec)
    if missing := [name for name in names if name not in arrays]:
        raise ValueError(_checks.mismatch("path", f"arrays of {model!r}", f"none of {missing}"))
    leaves = [_as_jax(name, arrays[name]) for name in names]
    params = jax.tree.unflatten(jax.tree.structure(spec), leaves)
    unpacked = {name: _unpack(tree, arrays) for name, tree in trees.items()}
    return Saved(model, check_params(model, params), unpacked)


def _import(verb: str) -> Any:
    try:
        return importlib.import_module("safetensors.numpy")
    except ImportError as error:
        raise ImportError(f"{verb}: {EXTRA}") from error


def _check_path(path: Any) -> Path:
    path = Path(_checks.instance("path", path, (str, os.PathLike), "a path"))
    if not path.parent.is_dir():
        raise ValueError(_checks.mismatch("path", "a file in a folder that exists", f"{path}"))
    return path


def _check_functions(functions: Any) -> Mapping[str, Callable]:
    if functions is None:
        return {}
    _checks.instance("functions", functions, Mapping, "functions by names")
    for name, function in functions.items():
        _checks.function(f"functions[{name!r}]", function)
    return functions


def _named(params: PyTree) -> dict[str, Any]:
    """The leaves by their places, `params/0/kernel`."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    text = lambda path: jax.tree_util.keystr(path, simple=True, separator="/")
    named = {f"params/{text(path)}": leaf for path, leaf in leaves}
    if len(named) < len(leaves):
        expected = "names that tell all arrays apart"
        raise ValueError(_checks.mismatch("params", expected, ", ".join(named)))
    return named


def _as_numpy(name: str, leaf: Any) -> np.ndarray:
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        given = f"{_checks.describe(leaf)}; jax.random.key_data makes numbers of it"
        raise TypeError(_checks.mismatch(name, "an array of numbers", given))
    array = np.asarray(leaf, order="C")
    real = np.real(array).dtype.name
    if real not in DTYPES.values():
        raise TypeError(_checks.mismatch(name, f"one of {', '.join(DTYPES.values())}", real))
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _as_read(array: np.ndarray, is_pair: bool) -> np.ndarray:
    """An array that may be written to, complex again if it was."""
    if is_pair:
        array = array.view(f"complex{16 * array.itemsize}")[..., 0]
    return array if array.flags.writeable else array.copy()


def _as_jax(name: str, array: np.ndarray) -> jax.Array:
    if jax.dtypes.canonicalize_dtype(array.dtype) != array.dtype:
        given = f"{array.dtype.name} in {name}: set jax_enable_x64 for it"
        raise ValueError(_checks.mismatch("path", "dtypes that are enabled", given))
    return jnp.asarray(array)


def _pack(where: str, tree: PyTree, arrays: Arrays) -> Any:
    """The structure of a tree as JSON, its arrays into `arrays`."""

    def inner(key: str | int, part: PyTree) -> Any:
        escaped = str(key).replace("~", "~0").replace("/", "~1")  # as in a JSON pointer
        return _pack(f"{where}/{escaped}", part, arrays)

    if tree is None or isinstance(tree, (bool, int, str)):
        return tree
    if isinstance(tree, float) and math.isfinite(tree):
        return tree
    if isinstance(tree, (jax.Array, np.ndarray, np.generic)):
        arrays[where] = _as_numpy(where, tree)
        return {"array" if isinstance(tree, jax.Array) else "numpy": where}
    kind = type(tree).__name__
    if (fields := state_fields(tree)) is not None:
        return {"state": kind, "fields": {key: inner(key, part) for key, part in fields.items()}}
    if type(tree) is list or type(tree) is tuple:
        return {kind: [inner(number, part) for number, part in enumerate(tree)]}
    if type(tree) is dict and all(isinstance(key, str) for key in tree):
        return {"dict": {key: inner(key, part) for key, part in tree.items()}}
    expected = "a dict, list, tuple or state of seqjax, with arrays, numbers and strings"
    raise TypeError(_checks.mismatch(where, expected, _checks.describe(tree)))


def _unpack(tree: Any, arrays: Arrays) -> PyTree:
    inner = lambda part: _unpack(part, arrays)
    match tree:
        case {"array": str(name)}:
            return _as_jax(name, arrays[name])
        case {"numpy": str(name)}:
            return arrays[name]
        case {"state": str(name), "fields": fields} if name in STATES:
            return public(name)(**{key: inner(part) for key, part in fields.items()})
        case {"list": parts}:
            return [*map(inner, parts)]
        case {"tuple": parts}:
            return tuple(map(inner, parts))
        case {"dict": items}:
            return {key: inner(part) for key, part in items.items()}
    return tree


def _read(path: Path) -> tuple[dict[str, str], Arrays]:
    """The header and the arrays of a file, whole and unchanged."""
    _import("load")
    safetensors: Any = importlib.import_module("safetensors")
    data = path.read_bytes()
    try:
        found = dict(safetensors.deserialize(data))
    except safetensors.SafetensorError as error:
        raise ValueError(
            _checks.mismatch("path", "a whole safetensors file", f"{path}: {error}")
        ) from error
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size]).get("__metadata__", {})
    if "format" not in header or "seqjax" not in header:
        expected = "a file that sj.save wrote (sj.interop reads those of other frameworks)"
        raise ValueError(_checks.mismatch("path", expected, f"{path}, by another program"))
    if header["format"].isdecimal() and int(header["format"]) > FORMAT:
        expected = f"a file of a version that is not later than this one (format {FORMAT})"
        given = f"{path}, of seqjax {header['seqjax']} (format {header['format']})"
        raise ValueError(_checks.mismatch("path", expected, given))
    arrays = {}
    for name, of_file in found.items():
        if of_file["dtype"] not in DTYPES:
            expected = f"arrays of {', '.join(DTYPES.values())}"
            raise ValueError(_checks.mismatch("path", expected, f"{name}, {of_file['dtype']}"))
        dtype = jnp.dtype(DTYPES[of_file["dtype"]])
        arrays[name] = np.frombuffer(of_file["data"], dtype).reshape(of_file["shape"])
    stated = header.pop("sha256", None)
    if stated != _digest(header, arrays):
        expected = "a file as sj.save wrote it"
        raise ValueError(
            _checks.mismatch("path", expected, f"{path}, which was changed after that")
        )
    return header, arrays


def _digest(header: Mapping[str, str], arrays: Arrays) -> str:
    """A checksum of all that the file says: against accidents, not against forgery."""
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype.name} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
