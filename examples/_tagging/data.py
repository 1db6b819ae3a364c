"""The data of `tagging.py`: lines of Python, a tag for every character, a label for every token."""

import itertools
import keyword
import sysconfig
import tokenize
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

LENGTH = 80  # characters of a line, with its end
OTHER = "\N{REPLACEMENT CHARACTER}"
VOCABULARY = "\0" + "".join(map(chr, range(32, 127))) + "↵" + OTHER  # the first one is padding
TAGS = {  # and their colors; the first one is the blank of CTC
    "space": "#585b70", "keyword": "#cba6f7", "defined": "#f9e2af", "called": "#74a8fc",
    "object": "#5eead4", "assigned": "#ff922b", "name": "#f4f4f8", "string": "#a6da6b",
    "number": "#f783ac", "comment": "#8a8fa3", "operator": "#c58b62",
}  # fmt: skip
TAG = {name: number for number, name in enumerate(TAGS)}
OPERATORS = ["", ":", "+", "-", "*", "/", "//", "%", "@", "&", "|", "^", ">>", "<<", "**"]
ASSIGNMENTS = [operator + "=" for operator in OPERATORS]
FOLLOWED_BY = {"(": "called", ".": "object"} | dict.fromkeys(ASSIGNMENTS, "assigned")


class Line(NamedTuple):
    """Of a line of code: symbols, the tag of each character, which character of a name it is from
    1 on, all [T]; and the tags of the tokens, [N].
    """

    symbols: list[int]
    tags: list[int]
    places: list[int]
    labels: list[int]


class Lines(NamedTuple):
    """The same of many lines, padded with zeros: [B, T] and [B, N]."""

    symbols: np.ndarray
    tags: np.ndarray
    places: np.ndarray
    labels: np.ndarray


def tag_of(previous, token, following) -> str | None:
    kind = tokenize.tok_name[token.type].lower()
    if kind != "name":  # since Python 3.12 an f-string comes in pieces
        kind = {"op": "operator"}.get(kind, "string" if "string" in kind else kind)
        return kind if kind in TAGS else None
    if keyword.iskeyword(token.string):
        return "keyword"
    if previous.string in ("def", "class"):
        return "defined"  # the only tag of a name that its past decides
    return FOLLOWED_BY.get(following.string, "name")


def tag_lines(code: str) -> list[Line]:
    """Each line that is not empty and not left out; none if this is no Python."""
    rows = [row + "\n" for row in code.split("\n")]
    numbers = {c: i for i, c in enumerate(VOCABULARY)} | {"\n": VOCABULARY.index("↵")}
    symbols = [[numbers.get(c, numbers[OTHER]) for c in row] for row in rows]
    lines: list[Line | None]
    lines = [Line(row, [0] * len(row), [0] * len(row), []) for row in symbols]
    try:
        tokens = list(tokenize.generate_tokens(iter(rows).__next__))
    except (tokenize.TokenError, SyntaxError):
        return []
    before = None
    for previous, token, following in zip([tokens[-1], *tokens], tokens, tokens[1:], strict=False):
        (row, start), (last, end), tag = token.start, token.end, tag_of(previous, token, following)
        if row != last:
            lines[row - 1 : last] = [None] * (last - row + 1)
        elif tag and (line := lines[row - 1]):
            wide = end - start
            line.tags[start:end] = [TAG[tag]] * wide
            if token.type == tokenize.NAME:
                line.places[start:end] = range(1, wide + 1)
            # Equal ones that touch, as the operators of `())`, count as one token: CTC needs a
            # step between two equal labels.
            if before != (tag, token.start):
                line.labels.append(TAG[tag])
            before = tag, token.end
    return [line for line in lines if line and line.labels and len(line.tags) <= LENGTH]


def read_code(path: str | None, limit: int = 45_000) -> list[Lines]:
    """Lines to train on, to validate and to test, of different files if there are enough."""
    root = Path(sysconfig.get_paths()["stdlib"] if path is None else path)
    skip = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}
    skip |= {"encodings", "pydoc_data", "lib2to3"}
    files = [root] if root.is_file() else root.rglob("*.py")
    files = [f for f in files if path or not skip & set(f.relative_to(root).parts)]
    # In the order of a checksum of their names: mixed, yet the same in every run.
    files.sort(key=lambda f: zlib.crc32(f.relative_to(root).as_posix().encode()))
    groups, count = [], 0
    for file in files:
        if count >= limit:
            break
        try:
            with tokenize.open(file) as opened:  # in the encoding that the file declares
                groups.append(tag_lines(opened.read()))
        except (OSError, SyntaxError, UnicodeDecodeError):
            continue
        count += len(groups[-1])
    if count < 100:
        got = f"{count} in {root}" if root.exists() else f"{root}, which does not exist"
        raise ValueError(f"expected at least 100 lines of Python code, got {got}")
    if len(groups) < 30:
        every = list(itertools.chain(*groups))
        groups = [every[i * count // 10 : (i + 1) * count // 10] for i in range(10)]
    tenth = len(groups) // 10
    parts = groups[2 * tenth :], groups[tenth : 2 * tenth], groups[:tenth]
    pad = lambda row: np.array(row + [0] * (LENGTH - len(row)), np.int32)
    columns = lambda part: zip(*itertools.chain(*part), strict=True)
    return [Lines(*(np.stack([*map(pad, column)]) for column in columns(part))) for part in parts]
