"""Multi-layer perceptrons behind scikit-learn's interface, whatever library learns their weights.

A library's module (`networks`, `keras_networks`) gives them `_learn` and `_scores`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils._param_validation import Interval, StrOptions

from holdfast_training.graph import Graph

Floats = npt.NDArray[np.float64]
Singles = npt.NDArray[np.float32]

ONNX_ACTIVATIONS = {"relu": "Relu", "tanh": "Tanh", "logistic": "Sigmoid"}
"""scikit-learn's name → ONNX's operator."""

_POSITIVE = [Interval(Integral, 1, None, closed="left")]


class Perceptron(BaseEstimator):  # type: ignore[misc]
    """Parameters are scikit-learn's, of MLPClassifier; `alpha` is AdamW's weight decay, and `dropout` is new.

    A part of the rows is never learned from: the weights kept are those of the epoch that was best on it.

    Attributes:
        coefs_, intercepts_: of each layer, inputs x outputs and outputs, FP32.
        n_iter_: epochs that were made.
    """

    coefs_: list[Singles]
    intercepts_: list[Singles]
    n_iter_: int

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "hidden_layer_sizes": ["array-like", *_POSITIVE],
        "activation": [StrOptions(set(ONNX_ACTIVATIONS))],
        "dropout": [Interval(Real, 0, 1, closed="left")],
        "alpha": [Interval(Real, 0, None, closed="left")],
        "learning_rate_init": [Interval(Real, 0, None, closed="neither")],
        "batch_size": _POSITIVE,
        "max_iter": _POSITIVE,
        "n_iter_no_change": _POSITIVE,
        "tol": [Interval(Real, 0, None, closed="left")],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
    }

    def __init__(
        self,
        hidden_layer_sizes: int | Sequence[int] = (100,),
        activation: str = "relu",
        dropout: float = 0.0,
        alpha: float = 0.01,
        learning_rate_init: float = 0.001,
        batch_size: int = 64,
        max_iter: int = 200,
        n_iter_no_change: int = 10,
        tol: float = 1e-4,
        validation_fraction: float = 0.1,
        random_state: int = 0,
    ) -> None:
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.dropout = dropout
        self.alpha = alpha
        self.learning_rate_init = learning_rate_init
        self.batch_size = batch_size
        self.max_iter = max_iter
        self.n_iter_no_change = n_iter_no_change
        self.tol = tol
        self.validation_fraction = validation_fraction
        self.random_state = random_state

    @abstractmethod
    def _learn(self, features: Floats, target: npt.NDArray[Any], outputs: int) -> None:
        """Leave what is learned in the attributes. target: codes of classes, or rows x 1 in FP32.

        Raises ValueError for what cannot be learned with.
        """

    @abstractmethod
    def _scores(self, features: Floats) -> Singles:
        """Rows x outputs, as the library computes them."""

    def _hidden(self) -> list[int]:
        """Neurons of each hidden layer. Raises ValueError."""
        given = self.hidden_layer_sizes
        hidden = [given] if isinstance(given, int) else list(given)
        if not all(isinstance(size, int) and size > 0 for size in hidden):
            raise ValueError("hidden_layer_sizes must be whole numbers greater than 0")
        return hidden

    def _scores_to_onnx(self, graph: Graph, features: str) -> str:
        values = features
        for layer, (weights, offsets) in enumerate(zip(self.coefs_, self.intercepts_, strict=True)):
            values = graph.node(ONNX_ACTIVATIONS[self.activation], values) if layer else values
            values = graph.node("Gemm", values, graph.constant(weights), graph.constant(offsets))
        return values


class PerceptronClassifier(ClassifierMixin, Perceptron):  # type: ignore[misc]
    """One output per class; cross-entropy."""

    def fit(self, X: Floats, y: npt.NDArray[Any]) -> PerceptronClassifier:  # noqa: N803
        """Raises ValueError for what cannot be learned with."""
        self.classes_, codes = np.unique(y, return_inverse=True)
        self._learn(X, codes.astype(np.int64), len(self.classes_))
        return self

    def predict(self, X: Floats) -> npt.NDArray[Any]:  # noqa: N803
        """Labels."""
        labels: npt.NDArray[Any] = self.classes_[self._scores(X).argmax(axis=1)]
        return labels

    def predict_proba(self, X: Floats) -> Singles:  # noqa: N803
        """Rows x classes."""
        probabilities: Singles = softmax(self._scores(X), axis=1)
        return probabilities

    def to_onnx(self, graph: Graph, features: str) -> tuple[str, ...]:
        """Names of labels and probabilities. features: name of rows x features, FP32."""
        scores = self._scores_to_onnx(graph, features)
        best = graph.node("ArgMax", scores, axis=1, keepdims=0)
        return graph.node("Gather", graph.constant(self.classes_), best), graph.node("Softmax", scores, axis=1)


class PerceptronRegressor(RegressorMixin, Perceptron):  # type: ignore[misc]
    """One output; squared error. The target is scaled while it is learned, and the last layer scales back."""

    def fit(self, X: Floats, y: npt.NDArray[Any]) -> PerceptronRegressor:  # noqa: N803
        """Raises ValueError for what cannot be learned with."""
        middle, width = float(np.mean(y)), float(np.std(y)) or 1.0
        self._learn(X, ((y - middle) / width).astype(np.float32).reshape(-1, 1), 1)
        self.coefs_[-1] = (self.coefs_[-1] * np.float64(width)).astype(np.float32)
        self.intercepts_[-1] = (self.intercepts_[-1] * np.float64(width) + middle).astype(np.float32)
        return self

    def predict(self, X: Floats) -> Singles:  # noqa: N803
        """One number a row."""
        return self._scores(X).ravel()

    def to_onnx(self, graph: Graph, features: str) -> tuple[str, ...]:
        """The name of the predictions. features: name of rows x features, FP32."""
        return (self._scores_to_onnx(graph, features),)
