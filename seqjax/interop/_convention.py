"""What a file does otherwise than its framework: the same names and shapes, another meaning."""

import dataclasses
from collections.abc import Callable, Collection, Mapping
from typing import Any

from seqjax import _checks
from seqjax.interop._layout import GATES, RECURRENT, Layout

__all__ = ["CONVENTIONS", "check_convention", "check_met", "kinds_of", "with_convention"]

# What a convention may say, and of which kinds.
CONVENTIONS: dict[str, tuple[str, ...]] = {
    "gates": ("lstm", "gru"),
    "transposed": tuple(GATES),
    "transposed_gates": RECURRENT,
    "opposite": ("gru",),
    "forget_offset": ("lstm",),
    "reset_after": ("gru",),
    "activation": ("rnn",),
}


KERNELS = ("kernel", "recurrent_kernel")
ORDERS = [sorted(GATES[kind]) for kind in CONVENTIONS["gates"]]
SOME = f"a tuple of some of {KERNELS}"
# What each must be: in words, and whether a value is.
VALUES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "gates": (
        "each gate of 'ifgo' or of 'rzn' once",
        lambda value: isinstance(value, str) and sorted(value) in ORDERS,
    ),
    "transposed": (SOME, lambda value: isinstance(value, tuple) and {*value} <= {*KERNELS}),
    "transposed_gates": (SOME, lambda value: isinstance(value, tuple) and {*value} <= {*KERNELS}),
    "opposite": ("'z' or ''", lambda value: isinstance(value, str) and value in ("z", "")),
    "forget_offset": ("a number", lambda value: isinstance(value, (int, float))),
    "reset_after": ("True or False", lambda value: isinstance(value, bool)),
    "activation": ("a function", callable),
}


def kinds_of(name: str, value: Any) -> set[str]:
    """The kinds of layers that a convention is one of."""
    kinds = {*CONVENTIONS[name]}
    return kinds if name != "gates" else {k for k in kinds if sorted(GATES[k]) == sorted(value)}


def with_convention(layout: Layout, convention: Mapping[str, Any]) -> Layout:
    """The layout of a file that does this differently; as it is if the kind has no such thing."""
    told = {k: value for k, value in convention.items() if layout.kind in kinds_of(k, value)}
    gates = told.pop("gates", None)
    if gates is not None:
        if not any(len(block.gates) == len(gates) for block in layout.blocks):
            expected = "none, since each gate has a name of its own"
            raise ValueError(_checks.mismatch("convention['gates']", expected, repr(gates)))
        layout = _with_blocks(
            layout, lambda b: len(b.gates) == len(gates), lambda b: gates, "gates"
        )
    flipped = {*told.pop("transposed", ())}
    layout = _with_blocks(
        layout, lambda b: flipped & {*b.parts}, lambda b: not b.transposed, "transposed"
    )
    options = dict(layout.options)
    for name in ("reset_after", "activation"):
        if name in told:
            options[name] = told.pop(name)
    return dataclasses.replace(layout, options=options, **told)


def _with_blocks(layout: Layout, which: Callable, new: Callable, name: str) -> Layout:
    blocks = tuple(
        dataclasses.replace(block, **{name: new(block)}) if which(block) else block
        for block in layout.blocks
    )
    return dataclasses.replace(layout, blocks=blocks)


def check_convention(convention: Any) -> Mapping[str, Any]:
    convention = {} if convention is None else convention
    expected = f"a dict of some of {', '.join(CONVENTIONS)}"
    _checks.instance("convention", convention, Mapping, expected)
    for name, value in convention.items():
        if name not in CONVENTIONS:
            raise ValueError(_checks.mismatch("convention", expected, repr(name)))
        wanted, is_valid = VALUES[name]
        if not is_valid(value):
            raise ValueError(_checks.mismatch(f"convention[{name!r}]", wanted, repr(value)))
    return convention


def check_met(convention: Mapping[str, Any], kinds: Collection[str], model: Any) -> None:
    """Refuses a convention of a kind of layer that is not among those that were read."""
    for name, value in convention.items():
        if not kinds_of(name, value) & {*kinds}:
            expected = f"one of a layer that is read, {model!r}"
            raise ValueError(_checks.mismatch(f"convention[{name!r}]", expected, repr(value)))
