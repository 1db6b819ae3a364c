"""Recurrent dropout: of the candidate alone, which a step adds to the memory."""

from typing import Any

import jax

from seqjax import _checks
from seqjax._static import static_partial
from seqjax._types import Draw, Key, Project, PyTree
from seqjax.models._dropped import scaled

__all__ = ["dropped", "with_dropout"]

Kept = tuple[jax.Array, ...]  # (bool [H],) in training, () in evaluation


def with_dropout(rate: float, size: int, project: Project) -> tuple[Project, Draw | None]:
    """`project`, whose u(t) has an entry `kept`, and what draws that."""
    if not _checks.rate("recurrent_dropout", rate):
        return project, None
    return static_partial(_project, project), static_partial(_draw, rate, size)


def _draw(rate: float, size: int, key: Key | None) -> Kept:
    return () if key is None else (jax.random.bernoulli(key, 1 - rate, (size,)),)


def _project(project: Project, params: PyTree, x: PyTree, kept: Kept) -> PyTree:
    u: Any = project(params, x)
    return u._replace(kept=kept)


def dropped(rate: float, kept: Kept, a: jax.Array) -> jax.Array:
    """The candidate, or what is multiplied with its cotangent, as it is dropped in training."""
    return scaled(rate, kept[0], a) if kept else a
