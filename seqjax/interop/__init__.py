"""Weights of other frameworks, read and written."""

from seqjax.interop import flax, keras, torch
from seqjax.interop._check import check

__all__ = ["check", "flax", "keras", "torch"]
