"""How a framework lays out the parameters of one layer: as data, and the two ways to use it.

Between a file and seqjax's params stands a neutral form: each parameter gate by gate, as
`pieces[parameter, gate]`. `decode` and `encode` pass through it in the two directions, and read
the same description of the file. That they are inverses follows.
"""

import itertools
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from seqjax import _checks

__all__ = [
    "GATES",
    "RECURRENT",
    "ROWS",
    "Block",
    "Layout",
    "Sizes",
    "common_home",
    "decode",
    "encode",
]

Pieces = dict[tuple[str, str], np.ndarray]
Sizes = dict[str, int]

# The gates of each kind, in the order of seqjax; "y" is the output of a layer without gates.
GATES = {
    "lstm": "ifgo",
    "gru": "rzn",
    "rnn": "h",
    "dense": "y",
    "embed": "y",
    "layer_norm": "y",
    "rms_norm": "y",
}
RECURRENT = ("lstm", "gru", "rnn")
BIASES = ("bias", "recurrent_bias")
# What the first axis of a parameter is: I, or R, the size of what is read of h(t-1).
ROWS = {"kernel": "I", "recurrent_kernel": "R", "projection": "H"}


@dataclass(frozen=True)
class Block:
    """One array of a file.

    Attributes:
      name: its name, below that of the layer.
      parts: the parameters in it: kernels one below the other, biases as rows.
      gates: whose columns stand in it, side by side; none of a parameter without gates.
      transposed: whether it is applied as `array @ x`.
    """

    name: str
    parts: tuple[str, ...]
    gates: str
    transposed: bool = False


@dataclass(frozen=True, eq=False)
class Layout:
    """One kind of layer in a framework.

    Attributes:
      kind: "lstm", "gru", "rnn", "dense", "embed", "layer_norm" or "rms_norm".
      blocks: the arrays of it.
      options: what the factory of the kind is called with.
      asks: options that the arrays do not tell, so that the caller must.
      decides: names of `options` that another layout of such arrays has otherwise.
      free: options that the framework has as well, at seqjax's default if nothing is told.
      with_bias: whether the layer always has its biases.
      opposite: gates whose sign is the other one.
      forget_offset: what is added to f at run time.
      transposed_gates: parameters of which each gate's block is transposed.
      usual, possible: patterns of the module's own name, where other layers have such arrays too.
    """

    kind: str
    blocks: tuple[Block, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    asks: tuple[str, ...] = ()
    decides: tuple[str, ...] = ()
    free: tuple[str, ...] = ()
    with_bias: bool = False
    opposite: str = ""
    forget_offset: float = 0.0
    transposed_gates: tuple[str, ...] = ()
    usual: str | None = None
    possible: str | None = None

    @property
    def bias_names(self) -> set[str]:
        return {block.name for block in self.blocks if block.parts[0] in BIASES}

    def name_sets(self) -> list[set[str]]:
        """What the layer's arrays may be called: with biases, and without where it may be so."""
        every = {block.name for block in self.blocks}
        bare = every - self.bias_names
        return [every] if self.with_bias or bare == every else [every, bare]

    def has(self, options: Mapping[str, Any]) -> bool:
        """Whether it is that of a layer with these options."""
        open_ones = (*self.asks, *self.free)
        theirs, ours = (
            {name: value for name, value in named.items() if name not in open_ones}
            for named in (self.options, options)
        )
        return theirs == ours

    @property
    def told(self) -> tuple[str, ...]:
        """Options that a reader may be told; a dense layer is read without its activation."""
        return (*self.asks, *(self.free if self.kind in RECURRENT else ()))

    def home(self, names: Collection[str], separator: str) -> str | None:
        """What stands before the names of the layer's arrays, if that is what the names are."""
        for wanted in self.name_sets():
            first = next(iter(wanted))
            homes = {name.removesuffix(first) for name in names if name.endswith(first)}
            for home in homes:
                if (not home or home.endswith(separator)) and {*names} == {
                    home + n for n in wanted
                }:
                    return home
        return None

    def differences(self, names: Collection[str], separator: str) -> tuple[set[str], set[str]]:
        """The names that this layout misses, and those that it does not know."""
        short = {name.removeprefix(common_home(names, separator)) for name in names}
        wanted = min(self.name_sets(), key=lambda w: len(w ^ short))
        return wanted - short, short - wanted

    def likelihood(self, home: str, separator: str) -> int:
        """Of being what a module of this name holds: 2 if it is a usual name, 0 if it can't be."""
        name = home.removesuffix(separator)
        if self.possible is not None and not re.search(self.possible, name):
            return 0
        return 2 if self.usual is not None and re.search(self.usual, name) else 1

    def of_gates(self, part: str) -> str:
        """Whose blocks a parameter of seqjax holds, in its order."""
        if part == "recurrent_bias":  # all others are added to `bias`
            return "n" if self.kind == "gru" and self.options.get("reset_after", True) else ""
        gates = GATES[self.kind].replace("i", "" if self.options.get("coupled") else "i")
        return {"projection": "", "peepholes": gates.replace("g", "")}.get(part, gates)

    def sizes(self, shapes: Mapping[str, tuple[int, ...]]) -> Sizes | None:
        """I, H and R of arrays of these shapes, None where they do not fit this kind of layer."""
        found: Sizes = {}
        present = [block for block in self.blocks if block.name in shapes]
        measured = [_measure(block, shapes[block.name], found) for block in present]
        if not all(measured) or not all(size > 0 for size in found.values()):
            return None
        if not any("projection" in block.parts for block in present):
            found.setdefault("R", found["H"])
            if found["R"] != found["H"]:
                return None
        square = all(found.get(ROWS[part]) == found["H"] for part in self.transposed_gates)
        return found if square else None


def common_home(names: Collection[str], separator: str) -> str:
    """The longest path of modules that all of the names begin with."""
    steps = zip(*(name.split(separator)[:-1] for name in names), strict=False)
    shared = itertools.takewhile(lambda step: len({*step}) == 1, steps)
    return "".join(step[0] + separator for step in shared)


def _measure(block: Block, shape: tuple[int, ...], found: Sizes) -> bool:
    """Adds the sizes that one array shows; whether it has such a shape, and agrees with others."""
    shape = shape[::-1] if block.transposed else shape
    stacked = len(block.parts) > 1
    if len(shape) != (1 if block.parts[0] not in ROWS and not stacked else 2):
        return False
    *rows, columns = shape
    width, rest = divmod(columns, max(len(block.gates), 1))
    seen = {"H" if block.gates else "R": width}
    if rows and block.parts[0] in ROWS:
        seen[ROWS[block.parts[0]]] = rows[0] - (width if stacked else 0)
    elif rows and rows[0] != len(block.parts):
        return False
    if stacked and block.parts[0] in ROWS:
        seen["R"] = width
    agree = all(found.setdefault(size, value) == value for size, value in seen.items())
    return agree and not rest


def decode(layout: Layout, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Our params, of the arrays of a file, whose memory they do not share."""
    pieces: Pieces = {}
    for block in layout.blocks:
        if block.name in arrays:
            array = arrays[block.name]
            array = array.T if block.transposed else array
            for part, rows in zip(block.parts, _split_rows(block, array), strict=True):
                pieces |= _split_gates(part, block.gates, rows)
    pieces = {key: _turned(layout, key, piece, +1) for key, piece in pieces.items()}
    kept = layout.of_gates("recurrent_bias")
    for part, gate in [key for key in pieces if key[0] == "recurrent_bias" and key[1] not in kept]:
        recurrent = pieces.pop((part, gate))
        pieces["bias", gate] = pieces["bias", gate] + recurrent
    for gate in kept if any(part == "bias" for part, _ in pieces) else "":
        pieces.setdefault(("recurrent_bias", gate), np.zeros_like(pieces["bias", gate]))
    if layout.kind == "layer_norm":
        pieces.setdefault(("bias", "y"), np.zeros_like(pieces["scale", "y"]))
    parts = dict.fromkeys(part for part, _ in pieces)
    return {part: _join_gates(pieces, part, layout.of_gates(part)) for part in parts}


def encode(title: str, layout: Layout, params: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays of a file, of our params: biases of zeros if we have none and the layer has."""
    with_bias = layout.with_bias or "bias" in params
    pieces: Pieces = {}
    for part, array in params.items():
        pieces |= _split_gates(part, layout.of_gates(part), array)
    held = {(part, g) for b in layout.blocks for part in b.parts for g in (b.gates or " ")}
    for key in [key for key in pieces if key not in held]:
        if np.any(pieces.pop(key)):
            expected = f"a recurrent bias of zeros, since the {layout.kind} of {title} has none"
            raise ValueError(_checks.mismatch(f"params[{key[0]!r}]", expected, "other values"))
    some = next(iter(pieces.values()))
    width = some.shape[-1]
    arrays = {}
    for block in layout.blocks:
        if block.parts[0] in BIASES and not with_bias:
            continue
        rows = []
        for part in block.parts:
            if part in BIASES:
                for gate in block.gates:
                    pieces.setdefault((part, gate), np.zeros(width, some.dtype))
            turned = {
                key: _turned(layout, key, piece, -1)
                for key, piece in pieces.items()
                if key[0] == part
            }
            rows.append(_join_gates(turned, part, block.gates))
        array = rows[0] if len(rows) == 1 else _join_rows(block, rows)
        arrays[block.name] = array.T if block.transposed else array
    return arrays


def _split_rows(block: Block, array: np.ndarray) -> list[np.ndarray]:
    if len(block.parts) == 1:
        return [array]
    if block.parts[0] in BIASES:
        return list(array)
    width = array.shape[1] // len(block.gates)
    return np.split(array, [array.shape[0] - width])


def _join_rows(block: Block, rows: list[np.ndarray]) -> np.ndarray:
    return np.stack(rows) if block.parts[0] in BIASES else np.concatenate(rows)


def _split_gates(part: str, gates: str, array: np.ndarray) -> Pieces:
    pieces = np.split(array, max(len(gates), 1), axis=-1)
    return {(part, gate): piece for gate, piece in zip(gates or " ", pieces, strict=True)}


def _join_gates(pieces: Pieces, part: str, gates: str) -> np.ndarray:
    return np.concatenate([pieces[part, gate] for gate in gates or " "], axis=-1)


def _turned(layout: Layout, key: tuple[str, str], piece: np.ndarray, sign: int) -> np.ndarray:
    """One piece, from the file's convention to ours (sign 1) or back (-1)."""
    part, gate = key
    if part in layout.transposed_gates:
        piece = piece.T
    if gate in layout.opposite:
        piece = -piece
    if key == ("bias", "f") and layout.forget_offset:
        piece = piece + piece.dtype.type(sign * layout.forget_offset)
    return piece
