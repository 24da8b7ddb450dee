"""Perceptrons of PyTorch.

Loaded only when a run asks for one of them: the standard image has no PyTorch. What was learned is kept in arrays.
They go to PyTorch and back by DLPack, so that its version need not suit NumPy's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch

from holdfast_training.descent import descend
from holdfast_training.fitting import Course
from holdfast_training.perceptrons import Floats, Perceptron, PerceptronClassifier, PerceptronRegressor, Singles

ACTIVATIONS = {"relu": torch.nn.ReLU, "tanh": torch.nn.Tanh, "logistic": torch.nn.Sigmoid}


class _Torch(Perceptron):
    """Learns with PyTorch, on one thread, in as many processes as there are in its default group."""

    course: Course = Course()
    _loss: ClassVar[Any]
    """Of a batch, summed over its rows."""

    def _learn(self, features: Floats, target: npt.NDArray[Any], outputs: int) -> None:
        self._validate_params()
        self.n_features_in_ = features.shape[1]
        # The seed is for this network alone, and PyTorch adds up in another order on more threads.
        with torch.random.fork_rng(devices=[]), one_thread():
            torch.manual_seed(self.random_state)
            network = self._network(outputs)
            inputs = tensor(features.astype(np.float32))
            self.n_iter_ = descend(network, inputs, tensor(target), self._loss, self, self.course)
        layers = [part for part in network if isinstance(part, torch.nn.Linear)]
        self.coefs_ = [array(layer.weight.detach().t()) for layer in layers]
        self.intercepts_ = [array(layer.bias.detach()) for layer in layers]

    def _network(self, outputs: int) -> Any:
        parts: list[Any] = []
        inputs = self.n_features_in_
        for size in self._hidden():
            parts += [torch.nn.Linear(inputs, size), ACTIVATIONS[self.activation]()]
            parts += [torch.nn.Dropout(self.dropout)] if self.dropout else []
            inputs = size
        return torch.nn.Sequential(*parts, torch.nn.Linear(inputs, outputs))

    def _scores(self, features: Floats) -> Singles:
        activation = ACTIVATIONS[self.activation]()
        with torch.no_grad(), one_thread():
            values = tensor(features.astype(np.float32))
            for layer, (weights, offsets) in enumerate(zip(self.coefs_, self.intercepts_, strict=True)):
                values = torch.addmm(tensor(offsets), activation(values) if layer else values, tensor(weights))
        return array(values)


class TorchMLPClassifier(PerceptronClassifier, _Torch):
    """A classifier of PyTorch."""

    _loss = torch.nn.CrossEntropyLoss(reduction="sum")


class TorchMLPRegressor(PerceptronRegressor, _Torch):
    """A regressor of PyTorch."""

    _loss = torch.nn.MSELoss(reduction="sum")


@contextmanager
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def tensor(array: npt.NDArray[Any]) -> Any:
    return torch.from_dlpack(array)


def array(tensor: Any) -> Singles:
    """A copy, in rows: what comes from PyTorch cannot be written to."""
    return np.array(np.from_dlpack(tensor.contiguous()), order="C")
