"""A framework as data, and which arrays belong to which of its modules."""

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from seqjax import _checks
from seqjax.engine.model import Model
from seqjax.interop._layout import Layout
from seqjax.interop._names import below, is_array, listed, named, under

__all__ = [
    "Format",
    "Layers",
    "Place",
    "by_place",
    "check_layers",
    "check_used",
    "of_layer",
    "select",
]

Layers = Sequence[str | Callable | Model] | None


class Place(NamedTuple):
    """Where in a module an array belongs, and its name without that."""

    layer: int
    backward: bool
    name: str


def _split(name: str) -> Place:
    return Place(0, False, name)


def _join(kind: str, place: Place, both: bool) -> str:
    return place.name


@dataclass(frozen=True, eq=False)
class Format:
    """A framework.

    Attributes:
      title: its name.
      separator: what stands between the names of modules and arrays.
      layouts: the layers that it has.
      split: the place of an array, by its whole name.
      join: `join(kind, place, both)`, the name for a place, of a layer in both directions or one.
      layered: whether one module may have several layers.
      merges: how the outputs of two directions become one; none where no module has two.
      ignored: a pattern of names that are no weights: the state of what is random in training.
    """

    title: str
    separator: str
    layouts: tuple[Layout, ...]
    split: Callable[[str], Place] = _split
    join: Callable[[str, Place, bool], str] = _join
    layered: bool = False
    merges: tuple[str, ...] = ()
    ignored: str | None = None


def select(form: Format, arrays: Any, prefix: Any) -> dict[str, Any]:
    """The arrays below a prefix, by their whole names."""
    _checks.instance("prefix", prefix, str, "a string")
    every = named(arrays, form.separator)
    inside = under(every, prefix, form.separator)
    if form.ignored is not None:
        inside = {k: array for k, array in inside.items() if not re.search(form.ignored, k)}
    if not inside:
        expected = f"the beginning of some of the names {listed(every)}"
        raise ValueError(_checks.mismatch("prefix", expected, repr(prefix)))
    for name, array in inside.items():
        if not is_array(array):
            raise TypeError(_checks.mismatch(name, "an array", _checks.describe_non_array(array)))
    return inside


def check_layers(layers: Any) -> tuple[str | Callable | Model, ...]:
    """Names of modules, in the order in which they are applied, and what has no arrays."""
    expected = "names of modules in the order in which they are applied"
    if isinstance(layers, str) or not isinstance(layers, Sequence) or not layers:
        raise TypeError(_checks.mismatch("layers", expected, _checks.describe(layers)))
    for layer in layers:
        if not isinstance(layer, (str, Model)) and not callable(layer):
            raise TypeError(_checks.mismatch("layers", expected, _checks.describe(layer)))
    return tuple(layers)


def of_layer(form: Format, inside: Mapping[str, Any], prefix: str, layer: str) -> dict[str, Any]:
    """The arrays of one of the modules below a prefix."""
    start = below(prefix, form.separator)
    some = under(dict(inside), start + layer, form.separator)
    if not some:
        at = f"{form.separator}{layer}{form.separator}"
        deeper = [name.partition(at)[0] for name in inside if at in name]
        hint = f" (with prefix={deeper[0]!r} it is one)" if deeper else ""
        modules = {name.removeprefix(start).split(form.separator)[0] for name in inside}
        expected = f"a module among {listed(modules)}{hint}"
        raise ValueError(_checks.mismatch("layers", expected, repr(layer)))
    return some


def check_used(layers: Layers, unused: Collection[str]) -> None:
    """Refuses arrays that belong to no layer."""
    if unused:
        expected = f"all modules of the arrays, also of {listed(unused)}"
        raise ValueError(_checks.mismatch("layers", expected, repr(layers)))


def by_place(form: Format, arrays: Mapping[str, Any]) -> dict[tuple[int, bool], dict[str, Any]]:
    """The arrays of a module, for each of its layers and directions."""
    places: dict[tuple[int, bool], dict[str, Any]] = {}
    for name, array in arrays.items():
        layer, backward, rest = form.split(name)
        places.setdefault((layer, backward), {})[rest] = array
    if not form.layered and {*places} == {(0, True)}:  # one of the two directions, on its own
        places = {(0, False): places[0, True]}
    missing = [place for place in _complete(places) if place not in places]
    if missing:
        told = listed(_described(*place) for place in missing)
        raise ValueError(
            _checks.mismatch("arrays", f"all layers of a module, also {told}", listed(arrays))
        )
    return places


def _complete(places: Mapping[tuple[int, bool], Any]) -> Iterator[tuple[int, bool]]:
    both = any(backward for _, backward in places)
    for layer in range(1 + max(layer for layer, _ in places)):
        yield layer, False
        if both:
            yield layer, True


def _described(layer: int, backward: bool) -> str:
    return f"layer {layer}{' backward' if backward else ''}"
