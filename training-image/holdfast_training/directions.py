"""A few numbers about a vector, to be counted in use.

An element of an embedding means nothing by itself, and hundreds of them would hide the drift of all. What is counted is
where a vector lies along the directions in which those of the training rows differ most, and how far it is from their
middle: rows of a kind that was not there before lie farther away.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto
from sklearn.decomposition import PCA

from holdfast_training.graph import Graph

MOST = 8
"""Directions of a vector."""

_LEAST_SHARE = 1e-9
"""Of all variance. Along a direction with less there is nothing but rounding."""

_LARGEST = 1e30
"""Numbers are cut there: JSON has no infinity."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Directions:
    """Fitted to vectors. A missing element counts as their mean, in both senses: it tells nothing.

    Attributes:
        middle: their mean.
        along: elements x directions; along each the vectors' standard deviation is 1.
    """

    middle: Floats
    along: Floats

    def names(self, vector: str) -> tuple[str, ...]:
        """What the numbers are called."""
        return (*(f"{vector}.direction_{place}" for place in range(self.along.shape[1])), f"{vector}.distance")

    def numbers(self, vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Rows x `names`; in FP64, so that the same vector gives the same number wherever it is computed."""
        away = np.clip(vectors.astype(np.float64) - self.middle, -_LARGEST, _LARGEST)
        away[np.isnan(away)] = 0
        found: Floats = np.column_stack([away @ self.along, np.sqrt((away * away).sum(axis=1))])
        return found.clip(-_LARGEST, _LARGEST).astype(np.float32)

    def to_onnx(self, graph: Graph, vectors: str) -> str:
        """The name of these numbers, FP64. vectors: name of rows x elements, FP32."""
        bounds = [graph.constant(np.array(bound)) for bound in (-_LARGEST, _LARGEST)]
        exact = graph.node("Cast", vectors, to=TensorProto.DOUBLE)
        away = graph.node("Clip", graph.node("Sub", exact, graph.constant(self.middle[None])), *bounds)
        away = graph.node("Where", graph.node("IsNaN", exact), graph.constant(np.array(0.0)), away)
        squared = graph.node("ReduceSum", graph.node("Mul", away, away), graph.constant(np.array([1])), keepdims=1)
        along = graph.node("MatMul", away, graph.constant(self.along))
        return graph.node("Clip", graph.node("Concat", along, graph.node("Sqrt", squared), axis=1), *bounds)


def fit(vectors: npt.NDArray[np.float32]) -> Directions:
    """To the training rows, each element of which is there in some row."""
    middle: Floats = np.asarray(np.nanmean(vectors, axis=0, dtype=np.float64))
    exact = np.where(np.isnan(vectors), middle, vectors.astype(np.float64))
    with np.errstate(invalid="ignore"):  # of vectors that are all alike
        found: Any = PCA(min(MOST, *exact.shape), svd_solver="covariance_eigh").fit(exact)
    kept = found.explained_variance_ > _LEAST_SHARE * exact.var(axis=0).sum()
    along = found.components_[kept] / np.sqrt(found.explained_variance_[kept])[:, None]
    return Directions(middle, np.ascontiguousarray(along.T))
