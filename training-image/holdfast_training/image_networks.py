"""Convolutional networks of PyTorch for images.

The network takes pixels as the data have them: it scales them itself, by channel. Beside its answers it says a few
numbers about each image, to be watched in use, where pixels themselves could not be counted.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from numbers import Integral
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from sklearn.utils._param_validation import Interval, StrOptions

from holdfast_training.descent import descend
from holdfast_training.fitting import Course
from holdfast_training.graph import Graph
from holdfast_training.images import Pixels, rows_at_once, shape_in_words
from holdfast_training.networks import ACTIVATIONS, array, one_thread, tensor
from holdfast_training.perceptrons import ONNX_ACTIVATIONS, PerceptronClassifier, Singles

MAX_WEIGHTS = 50_000_000
COMPONENTS = 8
"""Directions of the last hidden layer that are watched."""

_CHANNELS = range(1, 5)
"""So many of something at one end of an image are taken for its channels."""

_NO_SPREAD = 1e-6
"""A direction with less of the variance than this, beside the first one, tells nothing."""

Floats = npt.NDArray[np.float64]


class TorchImageClassifier(PerceptronClassifier):
    """Convolutions, each followed by a halving of height and width, and a perceptron on what is left.

    Parameters are the perceptrons', and `filters` and `kernel_size` of the convolutions; `layout` says where the
    channels are.

    Attributes:
        convolutions_: weights (filters x channels x height x width) and offsets of each, FP32.
        halved_: behind which of them the image is halved.
        monitored_: what `monitor` gives: brightness and contrast of the image, and of its place in the last hidden
            layer the distance from the nearest class and the components along the main directions.
    """

    course: Course = Course()
    convolutions_: list[tuple[Singles, Singles]]
    halved_: list[bool]
    monitored_: tuple[str, ...]

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **PerceptronClassifier._parameter_constraints,
        "filters": ["array-like", Interval(Integral, 1, None, closed="left")],
        "kernel_size": [Interval(Integral, 1, 15, closed="both")],
        "layout": [StrOptions({"auto", "NHWC", "NCHW"})],
    }

    def __init__(
        self,
        filters: int | Sequence[int] = (16, 32),
        kernel_size: int = 3,
        layout: str = "auto",
        hidden_layer_sizes: int | Sequence[int] = (64,),
        activation: str = "relu",
        dropout: float = 0.0,
        alpha: float = 0.01,
        learning_rate_init: float = 0.001,
        batch_size: int = 64,
        max_iter: int = 50,
        n_iter_no_change: int = 5,
        tol: float = 1e-4,
        validation_fraction: float = 0.1,
        random_state: int = 0,
    ) -> None:
        self.filters = filters
        self.kernel_size = kernel_size
        self.layout = layout
        super().__init__(
            hidden_layer_sizes,
            activation,
            dropout,
            alpha,
            learning_rate_init,
            batch_size,
            max_iter,
            n_iter_no_change,
            tol,
            validation_fraction,
            random_state,
        )

    def _learn(self, features: Pixels, target: npt.NDArray[Any], outputs: int) -> None:  # type: ignore[override]
        self._validate_params()
        self._order = self._channels_first(features.shape[1:])
        self._mean, self._scale = self._spread(features)
        convolutions, layers = self._sizes(features.shape[1:], outputs)
        with torch.random.fork_rng(devices=[]), one_thread():
            torch.manual_seed(self.random_state)
            network = self._network(convolutions, layers)
            pixels = tensor(np.require(features, requirements=["C", "W"]))
            loss = torch.nn.CrossEntropyLoss(reduction="sum")
            self.n_iter_ = descend(network, pixels, tensor(target), loss, self, self.course)
        learned = [part for part in network if isinstance(part, (torch.nn.Conv2d, torch.nn.Linear))]
        weights = [(array(part.weight.detach()), array(part.bias.detach())) for part in learned]
        self.convolutions_ = weights[: len(convolutions)]
        self.coefs_ = [np.ascontiguousarray(each.T) for each, _ in weights[len(convolutions) :]]
        self.intercepts_ = [offsets for _, offsets in weights[len(convolutions) :]]
        self._watch(features, target)

    def _channels_first(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The axes of channels, height and width in a batch; empty where there are no channels. Raises ValueError."""
        if len(shape) == 2:
            if self.layout != "auto":
                raise ValueError(
                    f"images of {shape_in_words(shape)} have no channels, so they have no layout {self.layout}"
                )
            return ()
        last, first = shape[2] in _CHANNELS, shape[0] in _CHANNELS
        if self.layout == "auto" and last == first:
            many = "both ends may be the" if last else "neither end has 1 to 4"
            raise ValueError(f"of images of {shape_in_words(shape)} {many} channels: set layout to NHWC or NCHW")
        return (3, 1, 2) if self.layout == "NHWC" or (self.layout == "auto" and last) else (1, 2, 3)

    def _sizes(self, shape: tuple[int, ...], outputs: int) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        """Inputs and outputs of each convolution and of each layer behind them. Raises ValueError."""
        filters, hidden = _whole("filters", self.filters), self._hidden()
        if not hidden:
            raise ValueError("hidden_layer_sizes must have one layer at least")
        if self.kernel_size % 2 == 0:
            raise ValueError("kernel_size must be odd")
        channels, height, width = [shape[axis - 1] for axis in self._order] or [1, *shape]
        self.halved_ = []
        for _ in filters:
            self.halved_.append(min(height, width) > 1)
            height, width = (height // 2, width // 2) if self.halved_[-1] else (height, width)
        convolutions = list(zip([channels, *filters], filters, strict=False))
        sizes = [[channels, *filters][-1] * height * width, *hidden, outputs]
        layers = list(itertools.pairwise(sizes))
        weights = sum(one * other for one, other in layers)
        weights += sum(one * other for one, other in convolutions) * self.kernel_size**2
        if weights > MAX_WEIGHTS:
            raise ValueError(
                f"it would have {weights:,} weights, and at most {MAX_WEIGHTS:,} are possible: give it smaller "
                "hidden_layer_sizes, or more filters, each of which halves height and width"
            )
        return convolutions, layers

    def _network(self, convolutions: list[tuple[int, int]], layers: list[tuple[int, int]]) -> Any:
        parts: list[Any] = [_Scaled(self._order, self._mean, self._scale)]
        for (inputs, filters), halves in zip(convolutions, self.halved_, strict=True):
            parts.append(torch.nn.Conv2d(inputs, filters, self.kernel_size, padding=self.kernel_size // 2))
            parts += [ACTIVATIONS[self.activation](), *([torch.nn.MaxPool2d(2)] if halves else [])]
        parts.append(torch.nn.Flatten())
        for inputs, outputs in layers[:-1]:
            parts += [torch.nn.Linear(inputs, outputs), ACTIVATIONS[self.activation]()]
            parts += [torch.nn.Dropout(self.dropout)] if self.dropout else []
        return torch.nn.Sequential(*parts, torch.nn.Linear(*layers[-1]))

    def _spread(self, pixels: Pixels) -> tuple[Singles, Singles]:
        """Mean and deviation of each channel, as they are laid over a batch with channels first."""
        axes = tuple(axis for axis in range(pixels.ndim) if axis not in self._order[:1])
        parts = _parts(pixels)
        totals: Floats = sum(part.sum(axis=axes, keepdims=True, dtype=np.float64) for part in parts)
        mean = totals / (pixels.size / totals.size)
        squares: Floats = sum(np.square(part - mean).sum(axis=axes, keepdims=True) for part in parts)
        scale = np.sqrt(squares / (pixels.size / totals.size)).astype(np.float32)
        scale[scale == 0] = 1
        return mean.astype(np.float32).reshape(1, -1, 1, 1), scale.reshape(1, -1, 1, 1)

    def _scores(self, features: Pixels) -> Singles:  # type: ignore[override]
        weights, offsets = tensor(self.coefs_[-1]), tensor(self.intercepts_[-1])
        return self._said(features, lambda scaled, hidden: torch.addmm(offsets, hidden, weights))

    def monitor(self, pixels: Pixels) -> Singles:
        """Rows x `monitored_`."""
        return self._said(pixels, self._watched)

    def _said(self, pixels: Pixels, say: Callable[[Any, Any], Any]) -> Singles:
        """What is said of scaled images and their place in the last hidden layer."""
        with torch.no_grad(), one_thread():
            return np.concatenate([array(say(*self._seen(part))) for part in _parts(pixels)])

    def _seen(self, pixels: Pixels) -> tuple[Any, Any]:
        activation = ACTIVATIONS[self.activation]()
        scaled = values = _scaled(tensor(np.array(pixels)), self._order, tensor(self._mean), tensor(self._scale))
        for (weights, offsets), halves in zip(self.convolutions_, self.halved_, strict=True):
            values = torch.conv2d(values, tensor(weights), tensor(offsets), padding=self.kernel_size // 2)
            values = activation(values)
            values = torch.max_pool2d(values, 2) if halves else values
        values = values.flatten(1)
        for weights, offsets in zip(self.coefs_[:-1], self.intercepts_[:-1], strict=True):
            values = activation(torch.addmm(tensor(offsets), values, tensor(weights)))
        return scaled, values

    def _watch(self, pixels: Pixels, target: npt.NDArray[Any]) -> None:
        """Find the directions in which the last hidden layer is spread, and the middle of each class."""
        hidden = self._said(pixels, lambda scaled, hidden: hidden).astype(np.float64)
        middle = hidden.mean(axis=0)
        variances, vectors = np.linalg.eigh(np.cov(hidden, rowvar=False, bias=True).reshape(len(middle), -1))
        variances, vectors = np.maximum(variances[::-1], 0), vectors[:, ::-1]
        kept = int(np.count_nonzero(variances[:COMPONENTS] >= _NO_SPREAD * variances[0]))
        vectors = vectors[:, :kept]
        vectors = vectors * np.sign(vectors[np.abs(vectors).argmax(axis=0), range(kept)])  # which of the two is chance
        # On the scale of the layer, not on each direction's own: that would blow the last bits up.
        directions = vectors / (np.sqrt(np.square(hidden).sum(axis=1).mean()) or 1)
        components = (hidden - middle) @ directions
        self._directions = directions.astype(np.float32)
        self._origin = (-middle @ directions).astype(np.float32)
        centres = [components[target == code].mean(axis=0) for code in np.unique(target)]
        self._centres = np.array(centres, np.float32)
        self.monitored_ = (
            "brightness",
            "contrast",
            "distance",
            *(f"component_{place}" for place in range(1, kept + 1)),
        )

    def _watched(self, scaled: Any, hidden: Any) -> Any:
        brightness = _mean(scaled)
        contrast = _mean(torch.square(scaled - brightness)).sqrt()
        components = torch.addmm(tensor(self._origin), hidden, tensor(self._directions))
        ways = torch.square(components.unsqueeze(1) - tensor(self._centres)).sum(2)
        distance = ways.min(1, keepdim=True).values.sqrt()
        return torch.cat([brightness.flatten(1), contrast.flatten(1), distance, components], 1)

    def to_onnx(self, graph: Graph, features: str) -> tuple[str, ...]:
        """Names of labels, probabilities and `monitor`. features: name of the pixels as FP32."""
        activation, side = ONNX_ACTIVATIONS[self.activation], self.kernel_size // 2
        scaled = values = self._scaled_to_onnx(graph, features)
        for (weights, offsets), halves in zip(self.convolutions_, self.halved_, strict=True):
            values = graph.node("Conv", values, graph.constant(weights), graph.constant(offsets), pads=[side] * 4)
            values = graph.node(activation, values)
            values = graph.node("MaxPool", values, kernel_shape=[2, 2], strides=[2, 2]) if halves else values
        values = graph.node("Flatten", values)
        for weights, offsets in zip(self.coefs_[:-1], self.intercepts_[:-1], strict=True):
            values = graph.node("Gemm", values, graph.constant(weights), graph.constant(offsets))
            values = graph.node(activation, values)
        scores = graph.node("Gemm", values, graph.constant(self.coefs_[-1]), graph.constant(self.intercepts_[-1]))
        labels = graph.node("Gather", graph.constant(self.classes_), graph.node("ArgMax", scores, axis=1, keepdims=0))
        return labels, graph.node("Softmax", scores, axis=1), self._watched_to_onnx(graph, scaled, values)

    def _scaled_to_onnx(self, graph: Graph, features: str) -> str:
        if self._order:
            values = graph.node("Transpose", features, perm=[0, *self._order])
        else:
            values = graph.node("Unsqueeze", features, graph.constant(np.array([1])))
        return graph.node("Div", graph.node("Sub", values, graph.constant(self._mean)), graph.constant(self._scale))

    def _watched_to_onnx(self, graph: Graph, scaled: str, hidden: str) -> str:
        brightness = _mean_to_onnx(graph, scaled)
        rest = graph.node("Sub", scaled, brightness)
        contrast = graph.node("Sqrt", _mean_to_onnx(graph, graph.node("Mul", rest, rest)))
        components = graph.node("Gemm", hidden, graph.constant(self._directions), graph.constant(self._origin))
        way = graph.node(
            "Sub", graph.node("Unsqueeze", components, graph.constant(np.array([1]))), graph.constant(self._centres)
        )
        ways = graph.node("ReduceSum", graph.node("Mul", way, way), graph.constant(np.array([2])), keepdims=0)
        nearest = graph.node("ReduceMin", ways, graph.constant(np.array([1])), keepdims=1)
        parts = [graph.node("Flatten", brightness), graph.node("Flatten", contrast), graph.node("Sqrt", nearest)]
        return graph.node("Concat", *parts, components, axis=1)


class _Scaled(torch.nn.Module):  # type: ignore[misc]
    """The first step of a network that learns."""

    def __init__(self, order: tuple[int, ...], mean: Singles, scale: Singles) -> None:
        super().__init__()
        self.order, self.mean, self.scale = order, tensor(mean), tensor(scale)

    def forward(self, pixels: Any) -> Any:
        return _scaled(pixels, self.order, self.mean, self.scale)


def _scaled(pixels: Any, order: tuple[int, ...], mean: Any, scale: Any) -> Any:
    """Rows x channels x height x width."""
    values = pixels.float()
    return ((values.permute(0, *order) if order else values.unsqueeze(1)) - mean) / scale


def _mean(values: Any) -> Any:
    """Of each image. One axis after the other: a sum of few terms keeps its last bits, in whatever order it is made."""
    for axis in (3, 2, 1):
        values = values.mean(axis, keepdim=True)
    return values


def _mean_to_onnx(graph: Graph, values: str) -> str:
    for axis in (3, 2, 1):
        values = graph.node("ReduceMean", values, graph.constant(np.array([axis])), keepdims=1)
    return values


def _parts(pixels: Pixels) -> list[Pixels]:
    step = rows_at_once(pixels.shape[1:])
    return [pixels[start : start + step] for start in range(0, len(pixels), step)]


def _whole(name: str, given: int | Sequence[int]) -> list[int]:
    """Raises ValueError."""
    numbers = [given] if isinstance(given, int) else list(given)
    if not numbers or not all(isinstance(number, int) and number > 0 for number in numbers):
        raise ValueError(f"{name} must be whole numbers greater than 0")
    return numbers
