"""What is said of arrays that are those of no layer: the names, or the shape, that do not fit."""

from collections.abc import Collection, Mapping
from typing import Any

from seqjax import _checks
from seqjax.interop._format import Format
from seqjax.interop._layout import ROWS, Block, Layout, common_home
from seqjax.interop._names import listed

__all__ = ["unfit"]

# What the sizes of a layer without gates are called; of the others H is the size of the state.
SIZES = {
    "dense": {"H": "O"},
    "embed": {"I": "V", "H": "F"},
    "layer_norm": {"H": "F"},
    "rms_norm": {"H": "F"},
}


def unfit(form: Format, layouts: list[Layout], arrays: Mapping[str, Any]) -> ValueError:
    """What is wrong with names, or with shapes, of a layer that nothing fits."""
    if not layouts:
        return ValueError(
            _checks.mismatch("arrays", f"a layer that {form.title} has", listed(arrays))
        )
    by_name = [layout for layout in layouts if layout.home(arrays, form.separator) is not None]
    if by_name:
        shapes = "; ".join(dict.fromkeys(_shapes(x, len(by_name) == 1) for x in by_name))
        expected = f"shapes of {form.title}: {shapes}"
        return ValueError(_checks.mismatch("arrays", expected, _shown(arrays, arrays)))
    missing, unknown = min(
        (layout.differences(arrays, form.separator) for layout in layouts),
        key=lambda pair: len(pair[0]) + len(pair[1]),
    )
    home = common_home(arrays, form.separator)
    several = _modules(form, home, arrays) if len(unknown) == len(arrays) else []
    if several:
        prefix = home.removesuffix(form.separator)
        names = ", ".join(map(repr, several))
        call = f"prefix={prefix!r}, layers=({names})" if prefix else f"layers=({names})"
        expected = f"one module of {form.title}; of several, their names as applied: {call}"
        return ValueError(_checks.mismatch("arrays", expected, _shown(arrays, arrays)))
    parts = [f"without {listed(missing)}"] if missing else []
    if unknown:
        named = {name.removeprefix(home): array for name, array in arrays.items()}
        parts.append(f"with {_shown(named, unknown)}, which it does not have")
    expected = f"the names of one module of {form.title}"
    return ValueError(_checks.mismatch("arrays", expected, f"one {' and '.join(parts)}"))


def _shown(arrays: Mapping[str, Any], names: Collection[str], at_most: int = 4) -> str:
    shown = [f"{name} {_checks.describe(arrays[name])}" for name in arrays if name in names]
    more = f" and {len(shown) - at_most} more" if len(shown) > at_most else ""
    return ", ".join(shown[:at_most]) + more


def _modules(form: Format, home: str, arrays: Collection[str]) -> list[str]:
    """The modules side by side that all of the arrays are in, if there are several."""
    inside = [name.removeprefix(home).partition(form.separator) for name in arrays]
    modules = [*dict.fromkeys(module for module, _, rest in inside if rest)]
    return modules if len(modules) > 1 and all(rest for _, _, rest in inside) else []


def _shapes(layout: Layout, biases: bool) -> str:
    blocks = [b for b in layout.blocks if biases or b.name not in layout.bias_names]
    return f"{layout.kind} with " + ", ".join(f"{b.name} {_shape(layout, b)}" for b in blocks)


def _shape(layout: Layout, block: Block) -> str:
    """The shape of an array by its sizes, as [4H, I]."""
    projected = any("projection" in b.parts for b in layout.blocks)
    names = {"I": "I", "H": "H", "R": "R" if projected else "H", **SIZES.get(layout.kind, {})}
    many = len(block.gates) if len(block.gates) > 1 else ""
    columns = f"{many}{names['H' if block.gates else 'R']}"
    rows = " + ".join(names[ROWS[part]] for part in block.parts if part in ROWS)
    if not rows and len(block.parts) > 1:
        rows = str(len(block.parts))
    shape = [rows, columns] if rows else [columns]
    return f"[{', '.join(shape[::-1] if block.transposed else shape)}]"
