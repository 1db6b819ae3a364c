"""Weights of other frameworks, read and written."""

from seqjax.interop import equinox, flax, haiku, keras, onnx, torch
from seqjax.interop._check import check

__all__ = ["check", "equinox", "flax", "haiku", "keras", "onnx", "torch"]
