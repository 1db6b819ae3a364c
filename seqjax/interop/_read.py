"""Reading by the table of a framework: from names and shapes to a model and its params."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seqjax import _checks
from seqjax._types import PyTree
from seqjax.compose.bidirectional import bidirectional
from seqjax.compose.stack import stack
from seqjax.engine.model import Model
from seqjax.engine.per_model import params_spec
from seqjax.interop._convention import check_convention, check_met, with_convention
from seqjax.interop._format import (
    Format,
    Layers,
    by_place,
    check_layers,
    check_used,
    of_layer,
    select,
)
from seqjax.interop._kinds import DEFAULTS, make
from seqjax.interop._layout import GATES, Layout, Sizes, decode
from seqjax.interop._names import as_numpy, listed
from seqjax.interop._unfit import unfit
from seqjax.models.function import as_model

__all__ = ["as_params", "dtype_of", "fits", "read", "stacked", "without_params"]

# Checks of what the caller may say of a layer.
GIVEN: dict[str, Callable[[str, Any], Any]] = {
    "activation": _checks.part,
    "gate_activation": _checks.part,
    "reset_after": _checks.flag,
    "eps": partial(_checks.number, above=0),
}
Pair = tuple[Model, PyTree]
Fit = tuple[Layout, str, Sizes]  # a layout, what stands before its names, the sizes


@dataclass(frozen=True)
class Reader:
    """What the caller says of the arrays.

    Attributes:
      form: the framework.
      given: options of the layers, None where the caller leaves them open.
      convention: what is done otherwise than in the framework.
      dtype: of the model; that of the arrays if None.
      merge: how two directions become one.
      met: the kinds of the layers that were read, and which of the options they asked for.
    """

    form: Format
    given: Mapping[str, Any]
    convention: Mapping[str, Any]
    dtype: Any
    merge: Any
    met: set[str] = field(default_factory=set)

    def module(self, arrays: Mapping[str, Any], kind: str | None) -> Pair:
        """A module: one layer in one direction or both, or several of them."""
        places = by_place(self.form, arrays)
        cells = {place: self.cell(some, kind) for place, some in places.items()}
        layers = []
        for number in range(1 + max(layer for layer, _ in places)):
            model, params = cells[number, False]
            if (number, True) in cells:
                back, params_back = cells[number, True]
                model = bidirectional(model, back, merge=self.merge)
                params = {"forward": params, "backward": params_back}
            layers.append((model, params))
        return layers[0] if len(layers) == 1 else stacked(layers)

    def cell(self, arrays: Mapping[str, Any], kind: str | None) -> Pair:
        """One layer in one direction."""
        of_kind = [layout for layout in self.form.layouts if kind in (None, layout.kind)]
        admitted = [layout for layout in of_kind if not self.contradicted(layout)]
        layouts = [with_convention(layout, self.convention) for layout in admitted]
        found = fits(self.form, layouts, arrays)
        if len(found) > 1 and kind is None:
            found = _by_name(self.form, found)
        if not found:
            raise self.contradiction(of_kind, arrays) or unfit(self.form, layouts, arrays)
        if len(found) > 1:
            raise _ambiguous(self.form, [layout for layout, _, _ in found], arrays)
        layout, home, sizes = found[0]
        self.met.update((layout.kind, *layout.decides, *layout.told))
        params = as_params(layout, home, arrays, self.dtype)
        model = make(layout.kind, sizes, self.options(layout), "bias" in params, dtype_of(params))
        return model, params

    def contradicted(self, layout: Layout) -> list[str]:
        """The names of options that the caller says to be others than those of this layout."""
        told = {name: self.given.get(name) for name in layout.decides}
        return [n for n, v in told.items() if v not in (None, layout.options.get(n, DEFAULTS[n]))]

    def contradiction(self, layouts: list[Layout], arrays: Mapping[str, Any]) -> ValueError | None:
        """What to say if the arrays would fit, but for an option that the caller says."""
        others = [layout for layout in layouts if self.contradicted(layout)]
        refused = [layout for layout, _, _ in fits(self.form, others, arrays)]
        if not refused:
            return None
        (name, *_) = self.contradicted(refused[0])
        expected = f"{_values(refused, name)}, by {listed(arrays)}"
        return ValueError(_checks.mismatch(name, expected, repr(self.given[name])))

    def options(self, layout: Layout) -> dict[str, Any]:
        options = dict(layout.options)
        for name in layout.told:
            value = self.given.get(name)
            if name in options:  # by a convention
                continue
            if value is not None:
                options[name] = value
            elif name in layout.asks:
                expected = f"that of the {layout.kind}, which {self.form.title} does not save"
                raise ValueError(_checks.mismatch(name, expected, "None"))
        return options


def read(
    form: Format,
    arrays: Any,
    prefix: str,
    *,
    layers: Layers,
    kinds: str | Mapping[str, str] | None,
    given: Mapping[str, Any],
    convention: Mapping[str, Any] | None,
    dtype: Any,
    merge: Any = "concat",
) -> Pair:
    """The model that the arrays below a prefix are of, and its params."""
    dtype = None if dtype is None else _checks.float_dtype("dtype", dtype)
    for name, value in given.items():
        if value is not None:
            GIVEN[name](name, value)
    reader = Reader(form, given, check_convention(convention), dtype, merge)
    inside = select(form, arrays, prefix)
    kind_of_layer = _check_kinds(kinds, layers)
    if layers is None:
        pair = reader.module(inside, kind_of_layer)
    else:
        pairs, unused = [], {*inside}
        for layer in check_layers(layers):
            if isinstance(layer, str):
                some = of_layer(form, inside, prefix, layer)
                unused -= {*some}
                pairs.append(reader.module(some, kind_of_layer.get(layer)))
            else:
                pairs.append(without_params(layer))
        check_used(layers, unused)
        pair = stacked(pairs, layers)
    for name in given:
        if given[name] is not None and name not in reader.met:
            raise ValueError(_checks.mismatch(name, f"None for {pair[0]!r}", repr(given[name])))
    check_met(reader.convention, reader.met, pair[0])
    return pair


def without_params(layer: Any) -> Pair:
    """A function between the modules, or a model that has no parameters."""
    model = as_model("layers", layer)
    params = params_spec(model)
    if jax.tree.leaves(params):
        raise ValueError(_checks.mismatch("layers", "a name of what has parameters", repr(model)))
    return model, params


def stacked(pairs: list[Pair], layers: Layers = None) -> Pair:
    """Their stack, in the order that the caller gave, if the file does not tell it."""
    models, params = zip(*pairs, strict=True)
    try:
        return stack(*models), params
    except ValueError as error:
        if layers is None:
            raise
        expected = "layers in the order in which they are applied"
        given = f"{tuple(layers)!r}: {error}"
        raise ValueError(_checks.mismatch("layers", expected, given)) from None


def fits(form: Format, layouts: list[Layout], arrays: Mapping[str, Any]) -> list[Fit]:
    """The layouts that have such names and shapes."""
    found = []
    for layout in layouts:
        home = layout.home(arrays, form.separator)
        if home is not None:
            shapes = {name.removeprefix(home): tuple(a.shape) for name, a in arrays.items()}
            sizes = layout.sizes(shapes)
            if sizes is not None:
                found.append((layout, home, sizes))
    return found


def _by_name(form: Format, found: list[Fit]) -> list[Fit]:
    """Those that the name of the module makes most likely, if it tells anything."""
    likely = {layout: layout.likelihood(home, form.separator) for layout, home, _ in found}
    best = max(likely.values())
    return [fit for fit in found if likely[fit[0]] == best]


def as_params(layout: Layout, home: str, arrays: Mapping[str, Any], dtype: Any) -> PyTree:
    """Our params, of their own memory, in the dtype of the arrays if there is no other."""
    read = {name.removeprefix(home): as_numpy(name, array) for name, array in arrays.items()}
    if dtype is not None:
        read = {name: array.astype(dtype) for name, array in read.items()}
    dtypes = {_checks.float_dtype(f"dtype of {home}{n}", a.dtype) for n, a in read.items()}
    if len(dtypes) > 1:
        given = " and ".join(sorted(d.name for d in dtypes)) + "; dtype= casts them"
        raise TypeError(_checks.mismatch("arrays", "one dtype in each layer", given))
    return {name: jnp.asarray(array) for name, array in decode(layout, read).items()}


def dtype_of(params: Mapping[str, Any]) -> np.dtype:
    return next(iter(params.values())).dtype


def _ambiguous(form: Format, layouts: list[Layout], arrays: Mapping[str, Any]) -> ValueError:
    kinds = [*dict.fromkeys(layout.kind for layout in layouts)]
    if len(kinds) > 1:
        expected = f"one of {', '.join(map(repr, kinds))} for {listed(arrays)}"
        return ValueError(_checks.mismatch("kinds", f"{expected}, which tell no more", "None"))
    name = layouts[0].decides[0]
    expected = f"{_values(layouts, name)}, which {listed(arrays)} do not tell"
    return ValueError(_checks.mismatch(name, expected, "None"))


def _values(layouts: list[Layout], name: str) -> str:
    values = [layout.options.get(name, DEFAULTS[name]) for layout in layouts]
    return " or ".join(getattr(value, "__name__", repr(value)) for value in values)


def _check_kinds(kinds: Any, layers: Any) -> Any:
    """A kind, or the kinds of modules by their names in `layers`."""
    if layers is None:
        return kinds if kinds is None else _checks.choice("kinds", kinds, tuple(GATES))
    kinds = {} if kinds is None else kinds
    _checks.instance("kinds", kinds, Mapping, "kinds of modules by their names in layers")
    for name, kind in kinds.items():
        _checks.choice(f"kinds[{name!r}]", kind, tuple(GATES))
        if name not in layers:
            raise ValueError(_checks.mismatch("kinds", f"names of {layers!r}", repr(name)))
    return kinds
