"""A series on its way through a graph of ONNX: which step and feature each of its elements is."""

import math
from typing import Any, NamedTuple

import numpy as np

from seqjax.interop._onnx_nodes import Layer, refusal

__all__ = ["Series"]


class Series(NamedTuple):
    """The series between two layers.

    Attributes:
      ids: of each element the number of its place, of all places in time and batch, times
        `features`, plus the number of its feature.
      features: how many there are; None of tokens.
      source: the name of the graph's input that it is made of.
      layers: those that it came through.
      placed: whether a layer has fixed which axis is that of the features.
      steps: the places [T, B], once a recurrent layer has fixed which axis is time.
    """

    ids: np.ndarray
    features: int | None
    source: str
    layers: tuple[Layer, ...] = ()
    placed: bool = False
    steps: np.ndarray | None = None

    @property
    def complete(self) -> bool:
        """Whether all steps, series of the batch and features are there, each once."""
        return np.array_equal(np.sort(self.ids, axis=None), np.arange(self.ids.size))

    def by_features(self, node: Any) -> "Series":
        """The series, whose last axis must be that of all its features."""
        ids = self.ids
        if not self.complete or not ids.ndim:
            raise refusal(node, "all steps and features of the series", "some of them, or more")
        if not self.placed:
            ids = np.arange(ids.size).reshape(ids.shape)
            return self._replace(ids=ids, features=[*ids.shape][-1], placed=True)
        first = ids[..., :1]
        whole = ids.shape[-1] == self.features and not np.any(first % self.features)
        if not whole or np.any(ids != first + np.arange(ids.shape[-1])):
            raise refusal(node, "the features in the last axis, in their order", "others")
        return self

    def after(
        self, node: Any, layer: Layer, places: np.ndarray, steps: np.ndarray | None
    ) -> "Series":
        """The outputs of a layer, for all places that it read."""
        size = math.prod(getattr(layer.model.input_spec, "shape", ()))
        if size != self.features:
            raise refusal(node, f"{size} features", f"{self.features}")
        (features,) = layer.model.output_spec.shape
        ids = places[..., None] * features + np.arange(features)
        return Series(ids, features, self.source, (*self.layers, layer), True, steps)
