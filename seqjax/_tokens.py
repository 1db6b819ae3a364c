"""Tokens, integers in [0, V): refused where their values are known to be others."""

from typing import Any

import numpy as np

from seqjax._messages import mismatch
from seqjax._tree import is_traced

__all__ = ["check_symbols", "check_tokens"]


def check_tokens(name: str, value: Any, vocabulary_size: int | None, valid: Any = None) -> None:
    """Tokens in [0, V) at valid steps, where both are known; nothing to check if V is None.

    Of `value` as the caller gave it: as JAX holds it, it may have lost the upper bits.
    """
    if vocabulary_size is None or is_traced(value) or is_traced(valid):
        return
    known = np.asarray(value)
    known = known if valid is None else known[np.asarray(valid)]
    check_symbols(name, known, range(vocabulary_size))


def check_symbols(name: str, known: np.ndarray, allowed: range) -> None:
    """Integers in a range; the message has the least and the largest one."""
    if not known.size:
        return
    least, most = int(known.min()), int(known.max())
    if least not in allowed or most not in allowed:
        expected = f"symbols in [{allowed.start}, {allowed.stop})"
        raise ValueError(
            mismatch(name, expected, str(least) if least == most else f"{least} to {most}")
        )
