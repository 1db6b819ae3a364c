"""A series on its way through a graph of ONNX: which step and feature each of its elements is."""

import math
from typing import Any, NamedTuple

import numpy as np

from seqjax.compose.bidirectional import bidirectional
from seqjax.interop._onnx.nodes import Layer, refusal

__all__ = ["OtherSize", "Series"]


class OtherSize(ValueError):
    """A layer reads another number of features than a series of the graph's input `source` has."""

    def __init__(self, node: Any, series: "Series", size: int):
        super().__init__(*refusal(node, f"{size} features", f"{series.features}").args)
        self.source, self.size = series.source, size


class Series(NamedTuple):
    """The series between two layers.

    Attributes:
      ids: of each element the number of its place, of all places in time and batch, times
        `features`, plus the number of its feature.
      features: how many there are; None of tokens.
      source: the name of the graph's input that it is made of.
      layers: those that it came through.
      steps: the places [T, B], once a recurrent layer has fixed which axis is time.
    """

    ids: np.ndarray
    features: int | None
    source: str
    layers: tuple[Layer, ...] = ()
    steps: np.ndarray | None = None

    @property
    def complete(self) -> bool:
        """Whether all steps, series of the batch and features are there, each once."""
        return np.array_equal(np.sort(self.ids, axis=None), np.arange(self.ids.size))

    @property
    def in_order(self) -> bool:
        """Whether they also are in their order, along whichever axes."""
        rising = (np.all(np.diff(self.ids, axis=axis) > 0) for axis in range(self.ids.ndim))
        return self.complete and all(rising)

    def by_features(self, node: Any) -> "Series":
        """The series, whose last axis must be that of all its features."""
        ids = self.ids
        if not self.complete or not ids.ndim or not ids.size:
            raise refusal(node, "all steps and features of the series", "some of them, or more")
        first = ids[..., :1]
        whole = ids.shape[-1] == self.features and not np.any(first % ids.shape[-1])
        if not whole or np.any(ids != first + np.arange(ids.shape[-1])):
            raise refusal(node, "the features in the last axis, in their order", "others")
        return self

    def after(
        self, node: Any, layer: Layer, places: np.ndarray, steps: np.ndarray | None
    ) -> "Series":
        """The outputs of a layer, for all places that it read."""
        size = math.prod(getattr(layer.model.input_spec, "shape", ()))
        if size != self.features:
            raise OtherSize(node, self, size)
        (features,) = layer.model.output_spec.shape
        ids = places[..., None] * features + np.arange(features)
        return Series(ids, features, self.source, (*self.layers, layer), steps)

    def beside(self, other: "Series", axis: int) -> "Series | None":
        """The outputs of two directions, concatenated; None if these are not what they are."""
        (*before, forward), (*before_other, backward) = self.layers, other.layers
        same = len(before) == len(before_other) and all(
            a is b for a, b in zip(before, before_other, strict=False)
        )
        two = forward.reverse is None and backward.reverse is not None
        if self.steps is None or other.steps is None or not (same and two):
            return None
        if not np.array_equal(self.steps, other.steps):
            return None
        sizes = [series.features or 0 for series in (self, other)]
        ids = [
            series.ids // size * sum(sizes) + series.ids % size + start
            for series, size, start in zip((self, other), sizes, (0, sizes[0]), strict=True)
        ]
        model = bidirectional(forward.model, backward.model)
        layer = Layer(model, {"forward": forward.params, "backward": backward.params})
        layers = (*before, layer)
        return Series(np.concatenate(ids, axis), sum(sizes), self.source, layers, self.steps)
