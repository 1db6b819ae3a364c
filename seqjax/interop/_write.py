"""Writing by the table of a framework, and filling a given model: the model says what is what."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from seqjax import _checks
from seqjax._types import PyTree
from seqjax.compose.bidirectional import Bidirectional
from seqjax.compose.stack import Stack
from seqjax.engine.model import Model, check_params
from seqjax.engine.per_model import params_spec
from seqjax.interop._format import (
    Format,
    Layers,
    Place,
    by_place,
    check_layers,
    check_used,
    of_layer,
    select,
)
from seqjax.interop._kinds import kind_of
from seqjax.interop._layout import Layout, encode
from seqjax.interop._names import as_numpy, listed
from seqjax.interop._read import as_params, fits, without_params
from seqjax.interop._unfit import unfit

__all__ = ["into", "layouts_of", "visit_layer", "write"]


class Layer(NamedTuple):
    """One layer in one direction, and its place in a module."""

    model: Model
    params: PyTree
    number: int
    backward: bool
    both: bool


Visit = Callable[[Layer], PyTree]


def write(
    form: Format, model: Model, params: PyTree, prefix: str, *, layers: Layers
) -> dict[str, np.ndarray]:
    """The arrays of a model, by the names that they have in the framework."""
    _checks.instance("model", model, Model, "a seqjax model")
    _checks.instance("prefix", prefix, str, "a string")
    params = check_params(model, params)
    arrays: dict[str, np.ndarray] = {}
    for name, module, values in _modules(form, model, params, layers):
        path = [part.removesuffix(form.separator) for part in (prefix, name) if part]
        for place, array in _write_module(form, module, values).items():
            arrays[form.separator.join([*path, place])] = array
    return arrays


def _write_module(form: Format, module: Model, params: PyTree) -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {}
    alike: list[tuple] = []

    def visit(layer: Layer) -> None:
        kind, (layout, *_) = layouts_of(form, layer.model)
        params = {part: as_numpy(f"params[{part!r}]", a) for part, a in layer.params.items()}
        encoded = encode(form.title, layout, params)
        for name, array in encoded.items():
            place = Place(layer.number, layer.backward, name)
            arrays[form.join(kind, place, layer.both)] = np.ascontiguousarray(array)  # safetensors
        shapes = {part: array.shape for part, array in params.items() if part != "kernel"}
        alike.append((layout, layer.both, shapes, {*encoded}))

    _visit_layers(form, module, params, visit)
    if form.layered and any(other != alike[0] for other in alike):
        expected = f"layers of one module of {form.title}, which are alike"
        raise ValueError(_checks.mismatch("model", expected, repr(module)))
    return arrays


def into(form: Format, model: Model, arrays: Any, prefix: str, *, layers: Layers) -> PyTree:
    """The params of a model that the user made, of the arrays below a prefix."""
    _checks.instance("model", model, Model, "a seqjax model")
    inside = select(form, arrays, prefix)
    unused, filled = {*inside}, []
    for name, module, spec in _modules(form, model, params_spec(model), layers):
        some = of_layer(form, inside, prefix, name) if name else inside
        unused -= {*some}
        filled.append(_fill_module(form, module, spec, some))
    check_used(layers, unused)
    if layers is None:
        return check_params(model, filled[0])
    modules = iter(filled)
    params = tuple(next(modules) if isinstance(x, str) else without_params(x)[1] for x in layers)
    return check_params(model, params)


def _fill_module(form: Format, module: Model, spec: PyTree, arrays: Mapping[str, Any]) -> PyTree:
    places = by_place(form, arrays)

    def visit(layer: Layer) -> PyTree:
        of_layer = places.pop((layer.number, layer.backward), None)
        _, layouts = layouts_of(form, layer.model)
        if of_layer is None:
            raise _misplaced(module, arrays)
        found = fits(form, layouts, of_layer)
        if not found:
            raise unfit(form, layouts, of_layer)
        layout, home, _ = found[0]
        has_bias = any(home + name in of_layer for name in layout.bias_names)
        if has_bias != ("bias" in layer.params) and not layout.with_bias:
            expected = f"{'no ' if has_bias else ''}biases, as {layer.model!r} has"
            raise ValueError(_checks.mismatch("arrays", expected, listed(of_layer)))
        return as_params(layout, home, of_layer, None)

    filled = _visit_layers(form, module, spec, visit)
    if places:
        raise _misplaced(module, arrays)
    return filled


def _misplaced(module: Model, names: Any) -> ValueError:
    expected = f"the layers and directions of {module!r}"
    return ValueError(_checks.mismatch("arrays", expected, listed(names)))


def _modules(
    form: Format, model: Model, params: PyTree, layers: Layers
) -> list[tuple[str, Model, PyTree]]:
    """The modules that a model is made of, by the names that the caller gives them."""
    if layers is None:
        if isinstance(model, Stack) and not (
            form.layered and all(jax.tree.leaves(p) for p in params)
        ):
            expected = f"a name for each of {model!r}"
            raise ValueError(_checks.mismatch("layers", expected, "None"))
        return [("", model, params)]
    layers = check_layers(layers)
    if not isinstance(model, Stack) or len(layers) != len(model.models):
        expected = f"one for each of {model!r}: a name, or itself if it has no parameters"
        raise ValueError(_checks.mismatch("layers", expected, repr(layers)))
    modules = []
    for number, (layer, part, values) in enumerate(zip(layers, model.models, params, strict=True)):
        if isinstance(layer, str):
            modules.append((layer, part, values))
        elif without_params(layer)[0] != part:
            expected = f"a name of {part!r}" if jax.tree.leaves(values) else repr(part)
            raise ValueError(_checks.mismatch(f"layers[{number}]", expected, repr(layer)))
    return modules


def _visit_layers(form: Format, module: Model, params: PyTree, visit: Visit) -> PyTree:
    """What `visit` returns of each layer and direction of a module, in the place of its params."""
    if not form.layered or not isinstance(module, Stack):
        return visit_layer(form, module, params, 0, visit)
    return tuple(
        visit_layer(form, model, values, number, visit)
        for number, (model, values) in enumerate(zip(module.models, params, strict=True))
    )


def visit_layer(form: Format, model: Model, params: PyTree, number: int, visit: Visit) -> PyTree:
    if not isinstance(model, Bidirectional):
        return visit(Layer(model, params, number, False, False))
    if model.merge not in form.merges:
        reason = f"merge={model.merge!r}" if form.merges else "no layer in two directions"
        expected = f"a model that {form.title} has: it has {' or '.join(form.merges) or reason}"
        raise ValueError(_checks.mismatch("model", expected, repr(model)))
    return {
        name: visit(Layer(part, params[name], number, name == "backward", True))
        for name, part in model.parts.items()
    }


def layouts_of(form: Format, model: Model) -> tuple[str, list[Layout]]:
    """The kind of a layer, and what it is in the framework; it may be nothing there."""
    kind, options = kind_of(model) or (None, {})
    of_kind = [layout for layout in form.layouts if layout.kind == kind]
    layouts = [layout for layout in of_kind if layout.has(options)]
    if kind is None or not layouts:
        given = f"{model!r}: {_reason(form, model, kind, options, of_kind)}"
        raise ValueError(_checks.mismatch("model", f"what {form.title} has", given))
    return kind, layouts


def _reason(
    form: Format, model: Model, kind: str | None, options: dict, of_kind: list[Layout]
) -> str:
    """Why a framework does not have a layer."""
    if repr(model).startswith("elman("):
        return "no gradient passes through its copied state, which no framework expresses"
    if options.get("learn_initial_state"):
        return "a learned initial state is no weight of the layer"
    if kind == "gru":
        theirs = {layout.options.get("reset_after", True) for layout in of_kind}
        if options.get("reset_after", True) not in theirs:
            where = {True: "after", False: "before"}
            ours = options.get("reset_after", True)
            return f"its reset gate acts {where[ours]} the matmul, theirs {where[not ours]} it"
    if of_kind:
        named = (
            name if value is True else f"{name}={getattr(value, '__name__', value)}"
            for name, value in options.items()
        )
        return f"the {kind} of {form.title} has no {', '.join(named)}"
    return "it has no layer of this kind"
