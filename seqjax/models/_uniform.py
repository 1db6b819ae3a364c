"""Initial parameters from uniform distributions."""

from collections.abc import Sequence
from typing import Any

import jax

from seqjax._types import Key

__all__ = ["uniform"]


def uniform(
    keys: Sequence[Key], shapes: dict[str, tuple[tuple[int, ...], float]], dtype: Any
) -> dict[str, jax.Array]:
    """Parameters drawn from U(±bound), given as name: (shape, bound), with a key for each."""
    return {
        name: jax.random.uniform(key, shape, dtype, -bound, bound)
        for key, (name, (shape, bound)) in zip(keys, shapes.items(), strict=True)
    }
