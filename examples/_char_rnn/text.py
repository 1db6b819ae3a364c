"""The text of `char_rnn.py`: where it comes from, its characters as numbers, and its parts."""

import sysconfig
import zlib
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
from _char_rnn.options import parser

UNKNOWN = "\N{REPLACEMENT CHARACTER}"  # all characters that are not in the vocabulary


class Data(NamedTuple):
    """A text to train on, of parallel streams, and one to validate, which follows it."""

    name: str
    vocabulary: str
    streams: np.ndarray  # int32 [B, N]
    val: np.ndarray  # int32 [pieces, B', T + 1]: what one state reads, piece after piece
    unseen: str  # the beginning of the validation text
    checksum: int
    summary: str


def read_data(options) -> Data:
    """Parallel streams to train on, others to validate, at most 100,000 characters."""
    text, batch, span = read_text(options.data), options.batch_size, options.seq_length
    cut = len(text) - int(len(text) * options.val_fraction)
    val_batch = min(batch, (len(text) - cut) // (span + 1))
    if cut < batch * (span + 1) or not val_batch:
        parser.error(f"--data: expected at least --batch-size × (--seq-length + 1) = "
                     f"{batch * (span + 1):,} characters to train on and {span + 1:,} to validate, "
                     f"got {cut:,} and {len(text) - cut:,}")  # fmt: skip
    vocabulary = make_vocabulary(text, 256 if options.data else 100)
    symbols = encode(text, vocabulary)
    streams = symbols[: cut // batch * batch].reshape(batch, -1)
    val = symbols[cut:][: (len(text) - cut) // val_batch * val_batch].reshape(val_batch, -1)
    val_pieces = min(val.shape[1] - 1, max(100_000 // val_batch, span)) // span
    val = np.stack([val[:, i * span : (i + 1) * span + 1] for i in range(val_pieces)])

    name = Path(options.data).name if options.data else "Python's standard library"
    summary = (f"text        {name}: {cut:,} characters to train on, {val[:, :, 1:].size:,} of "
               f"{len(text) - cut:,} to validate\n"
               f"vocabulary  {len(vocabulary)} characters")  # fmt: skip
    if UNKNOWN in vocabulary:
        others = np.mean(symbols == vocabulary.index(UNKNOWN))
        summary += f", the last of them {UNKNOWN}: any other one, {others:.4%} of the text"
    unseen, checksum = text[cut:][:20_000], zlib.crc32(text.encode())
    return Data(name, vocabulary, streams, val, unseen, checksum, summary)


def read_text(path: str | None, limit: int = 5_000_000) -> str:
    if path is not None:
        try:
            return Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            parser.error(f"--data: expected a text file in UTF-8, got {path} ({error})")
    root = Path(sysconfig.get_paths()["stdlib"])
    # Without other people's packages, tests, and what is tables or prose rather than code.
    skip = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}
    skip |= {"encodings", "pydoc_data", "lib2to3"}
    files = [f.relative_to(root) for f in root.rglob("*.py")]
    files = [f for f in files if not skip & set(f.parts)]
    # In the order of a checksum of their names: mixed, so that the validation text at the end
    # is like the rest, yet the same in every run.
    files.sort(key=lambda f: zlib.crc32(f.as_posix().encode()))
    return "".join((root / f).read_text("utf-8", errors="replace") for f in files)[:limit]


def make_vocabulary(text: str, largest: int) -> str:
    """All characters; if they are too many, the most frequent ones and UNKNOWN."""
    counts = Counter(text)
    if len(counts) <= largest:
        return "".join(sorted(counts))
    del counts[UNKNOWN]
    return "".join(sorted(c for c, _ in counts.most_common(largest - 1))) + UNKNOWN


def encode(text: str, vocabulary: str) -> np.ndarray:
    """int32 [len(text)]: the number of each character; -1 if there is not even UNKNOWN."""
    numbers = {c: i for i, c in enumerate(vocabulary)}
    return np.array([numbers.get(c, numbers.get(UNKNOWN, -1)) for c in text], np.int32)
