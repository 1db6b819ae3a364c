"""Weights of other frameworks, read and written."""

from seqjax.interop import flax, haiku, keras, torch
from seqjax.interop._check import check

__all__ = ["check", "flax", "haiku", "keras", "torch"]
