"""Perceptrons of PyTorch behind scikit-learn's interface, as the rest of this package expects an estimator to be.

Loaded only when a run asks for one of them: the standard image has no PyTorch. What was learned is kept in arrays.
They go to PyTorch and back by DLPack, so that its version need not suit NumPy's.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils._param_validation import Interval, StrOptions

from holdfast_training.graph import Graph

Floats = npt.NDArray[np.float64]
Singles = npt.NDArray[np.float32]

_ACTIVATIONS = {
    "relu": ("Relu", torch.nn.ReLU),
    "tanh": ("Tanh", torch.nn.Tanh),
    "logistic": ("Sigmoid", torch.nn.Sigmoid),
}
"""By scikit-learn's name: ONNX's operator, and PyTorch's module."""

_POSITIVE = [Interval(Integral, 1, None, closed="left")]


class _Perceptron(BaseEstimator):  # type: ignore[misc]
    """Parameters are scikit-learn's, of MLPClassifier; `alpha` is AdamW's weight decay, and `dropout` is new.

    A part of the rows is never learned from: the weights kept are those of the epoch that was best on it.

    Attributes:
        coefs_, intercepts_: of each layer, inputs x outputs and outputs.
        n_iter_: epochs that were made.
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "hidden_layer_sizes": ["array-like", *_POSITIVE],
        "activation": [StrOptions(set(_ACTIVATIONS))],
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

    def _learn(self, features: Floats, target: npt.NDArray[Any], outputs: int, loss: Callable[..., Any]) -> None:
        """Raises ValueError for what cannot be learned with."""
        self._validate_params()
        self.n_features_in_ = features.shape[1]
        # The seed is for this network alone, and PyTorch adds up in another order on more threads.
        with torch.random.fork_rng(devices=[]), _one_thread():
            torch.manual_seed(self.random_state)
            network = self._network(outputs)
            self._descend(network, _tensor(features.astype(np.float32)), _tensor(target), loss)
        layers = [part for part in network if isinstance(part, torch.nn.Linear)]
        self.coefs_ = [_array(layer.weight.detach().t()) for layer in layers]
        self.intercepts_ = [_array(layer.bias.detach()) for layer in layers]

    def _network(self, outputs: int) -> Any:
        given = self.hidden_layer_sizes
        hidden = [given] if isinstance(given, int) else list(given)
        if not all(isinstance(size, int) and size > 0 for size in hidden):
            raise ValueError("hidden_layer_sizes must be whole numbers greater than 0")
        parts: list[Any] = []
        inputs = self.n_features_in_
        for size in hidden:
            parts += [torch.nn.Linear(inputs, size), _ACTIVATIONS[self.activation][1]()]
            parts += [torch.nn.Dropout(self.dropout)] if self.dropout else []
            inputs = size
        return torch.nn.Sequential(*parts, torch.nn.Linear(inputs, outputs))

    def _descend(self, network: Any, inputs: Any, target: Any, loss: Callable[..., Any]) -> None:
        order = torch.randperm(len(inputs))
        held = order[: math.ceil(len(order) * self.validation_fraction)]
        learned = order[len(held) :]
        if not len(learned):
            raise ValueError("validation_fraction leaves no row to learn from")
        optimizer = torch.optim.AdamW(network.parameters(), lr=self.learning_rate_init, weight_decay=self.alpha)
        best, goal, waited, kept = math.inf, math.inf, 0, None
        for epoch in range(1, self.max_iter + 1):
            self.n_iter_ = epoch
            network.train()
            for place in torch.randperm(len(learned)).split(self.batch_size):
                rows = learned[place]
                optimizer.zero_grad()
                loss(network(inputs[rows]), target[rows]).backward()
                optimizer.step()
            network.eval()
            with torch.no_grad():
                reached = loss(network(inputs[held]), target[held]).item()
            if reached < best:
                best, kept = reached, {name: value.clone() for name, value in network.state_dict().items()}
            goal, waited = (reached, 0) if reached < goal - self.tol else (goal, waited + 1)
            if waited >= self.n_iter_no_change:
                break
        else:
            warnings.warn(f"max_iter ({self.max_iter}) reached", ConvergenceWarning, stacklevel=2)
        if kept is None:
            raise ValueError("the loss is not a number; scale the features or lower learning_rate_init")
        network.load_state_dict(kept)

    def _scores(self, features: Floats) -> Any:
        """Rows x outputs, PyTorch's."""
        activation = _ACTIVATIONS[self.activation][1]()
        with torch.no_grad(), _one_thread():
            values = _tensor(features.astype(np.float32))
            for layer, (weights, offsets) in enumerate(zip(self.coefs_, self.intercepts_, strict=True)):
                values = torch.addmm(_tensor(offsets), activation(values) if layer else values, _tensor(weights))
        return values

    def _scores_to_onnx(self, graph: Graph, features: str) -> str:
        values = features
        for layer, (weights, offsets) in enumerate(zip(self.coefs_, self.intercepts_, strict=True)):
            values = graph.node(_ACTIVATIONS[self.activation][0], values) if layer else values
            values = graph.node("Gemm", values, graph.constant(weights), graph.constant(offsets))
        return values


class TorchMLPClassifier(ClassifierMixin, _Perceptron):  # type: ignore[misc]
    """One output per class; cross-entropy."""

    def fit(self, X: Floats, y: npt.NDArray[Any]) -> TorchMLPClassifier:  # noqa: N803
        """Raises ValueError for what cannot be learned with."""
        self.classes_, codes = np.unique(y, return_inverse=True)
        self._learn(X, codes.astype(np.int64), len(self.classes_), torch.nn.CrossEntropyLoss())
        return self

    def predict(self, X: Floats) -> npt.NDArray[Any]:  # noqa: N803
        """Labels."""
        labels: npt.NDArray[Any] = self.classes_[_array(self._scores(X)).argmax(axis=1)]
        return labels

    def predict_proba(self, X: Floats) -> Singles:  # noqa: N803
        """Rows x classes."""
        return _array(torch.softmax(self._scores(X), 1))

    def to_onnx(self, graph: Graph, features: str) -> tuple[str, ...]:
        """Names of labels and probabilities. features: name of rows x features, FP32."""
        scores = self._scores_to_onnx(graph, features)
        best = graph.node("ArgMax", scores, axis=1, keepdims=0)
        return graph.node("Gather", graph.constant(self.classes_), best), graph.node("Softmax", scores, axis=1)


class TorchMLPRegressor(RegressorMixin, _Perceptron):  # type: ignore[misc]
    """One output; squared error. The target is scaled while it is learned, and the last layer scales back."""

    def fit(self, X: Floats, y: npt.NDArray[Any]) -> TorchMLPRegressor:  # noqa: N803
        """Raises ValueError for what cannot be learned with."""
        middle, width = float(np.mean(y)), float(np.std(y)) or 1.0
        scaled = ((y - middle) / width).astype(np.float32).reshape(-1, 1)
        self._learn(X, scaled, 1, torch.nn.MSELoss())
        self.coefs_[-1] = (self.coefs_[-1] * np.float64(width)).astype(np.float32)
        self.intercepts_[-1] = (self.intercepts_[-1] * np.float64(width) + middle).astype(np.float32)
        return self

    def predict(self, X: Floats) -> Singles:  # noqa: N803
        """One number a row."""
        return _array(self._scores(X)).ravel()

    def to_onnx(self, graph: Graph, features: str) -> tuple[str, ...]:
        """The name of the predictions. features: name of rows x features, FP32."""
        return (self._scores_to_onnx(graph, features),)


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _tensor(array: npt.NDArray[Any]) -> Any:
    return torch.from_dlpack(array)


def _array(tensor: Any) -> Singles:
    """A copy, in rows: what comes from PyTorch cannot be written to."""
    return np.array(np.from_dlpack(tensor.contiguous()), order="C")
