"""Models as users bring them, made here from real frameworks and fixed seeds, with the frameworks' own answers."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

Array = npt.NDArray[Any]

OPSET = 20


@dataclass(frozen=True, slots=True)
class Subject:
    """A model and rows to try it with.

    Attributes:
        rows: per input; the first dimension is the rows.
        answers: per output, what the framework itself says to the rows; empty where the graph was written by hand.
    """

    content: bytes
    rows: dict[str, Array]
    answers: dict[str, Array] = field(default_factory=dict)


# --- scikit-learn ---------------------------------------------------------------------------------------------------


@cache
def logistic_regression() -> Subject:
    """Iris: four numbers to one of three classes."""
    from sklearn.datasets import load_iris
    from sklearn.linear_model import LogisticRegression

    rows, labels = load_iris(return_X_y=True)
    rows = rows.astype(np.float32)
    return _classifier(LogisticRegression(max_iter=500).fit(rows, labels), rows[::5])


@cache
def perceptron() -> Subject:
    """A network of 64-256-256-10 for pictures of digits."""
    from sklearn.datasets import load_digits
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier

    rows, labels = load_digits(return_X_y=True)
    rows = (rows / 16).astype(np.float32)
    with warnings.catch_warnings(category=ConvergenceWarning, action="ignore"):  # good enough, and soon done
        model = MLPClassifier((256, 256), max_iter=5, random_state=0).fit(rows, labels)
    return _classifier(model, rows[::60])


@cache
def gradient_boosting() -> Subject:
    """Thirty measurements to one of two classes by 100 trees."""
    from sklearn.ensemble import GradientBoostingClassifier

    rows, labels = _cells()
    return _classifier(GradientBoostingClassifier(max_depth=6, random_state=0).fit(rows, labels), rows[::20])


@cache
def regression() -> Subject:
    """Ten numbers to one number."""
    from skl2onnx import to_onnx
    from sklearn.datasets import load_diabetes
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rows, target = load_diabetes(return_X_y=True)
    rows = rows.astype(np.float32)
    model = make_pipeline(StandardScaler(), Ridge()).fit(rows, target)
    content = to_onnx(model, rows[:1], target_opset=17).SerializeToString()
    return Subject(content, {"X": rows[::20]}, {"variable": model.predict(rows[::20]).reshape(-1, 1)})


@cache
def mixed_columns() -> Subject:
    """A pipeline over texts and numbers, each column an input; the label is a text."""
    from skl2onnx import to_onnx
    from skl2onnx.common.data_types import FloatTensorType, StringTensorType
    from sklearn.compose import ColumnTransformer
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    random = np.random.default_rng(0)
    table = np.empty((300, 4), object)
    table[:, 0] = random.choice(["rot", "grün", "blau, dunkel"], 300)
    table[:, 1] = random.choice(["", "S", "M", "L"], 300)
    table[:, 2:] = random.normal(50, 20, (300, 2)).astype(np.float32)
    labels = [f"{colour}!" if price < 50 else "größer" for colour, _, price, _ in table]
    columns = ColumnTransformer(
        [
            ("texts", OneHotEncoder(handle_unknown="ignore"), [0, 1]),
            ("numbers", make_pipeline(SimpleImputer(), StandardScaler()), [2, 3]),
        ]
    )
    model = make_pipeline(columns, RandomForestClassifier(20, random_state=0)).fit(table, labels)
    kinds = {"colour": StringTensorType, "size": StringTensorType, "price": FloatTensorType, "weight": FloatTensorType}
    content = to_onnx(
        model,
        initial_types=[(name, kind([None, 1])) for name, kind in kinds.items()],
        options={id(model): {"zipmap": False}},
        target_opset=17,
    ).SerializeToString()
    tried = table[:40]
    rows = {
        name: tried[:, [index]].astype(object if kind is StringTensorType else np.float32)
        for index, (name, kind) in enumerate(kinds.items())
    }
    return Subject(content, rows, {"label": model.predict(tried), "probabilities": model.predict_proba(tried)})


# --- Gradient boosting by onnxmltools -------------------------------------------------------------------------------


@cache
def xgboost() -> Subject:
    """100 trees of XGBoost."""
    from onnxmltools import convert_xgboost
    from onnxmltools.convert.common.data_types import FloatTensorType
    from xgboost import XGBClassifier

    rows, labels = _cells()
    model = XGBClassifier(n_estimators=100, max_depth=6, random_state=0, n_jobs=1).fit(rows, labels)
    converted = convert_xgboost(model, initial_types=[("X", FloatTensorType([None, rows.shape[1]]))])
    return _answered(converted.SerializeToString(), model, rows[::20])


@cache
def lightgbm() -> Subject:
    """100 trees of LightGBM."""
    from lightgbm import LGBMClassifier
    from onnxmltools import convert_lightgbm
    from onnxmltools.convert.common.data_types import FloatTensorType

    rows, labels = _cells()
    model = LGBMClassifier(n_estimators=100, random_state=0, n_jobs=1, verbose=-1).fit(rows, labels)
    shape = FloatTensorType([None, rows.shape[1]])
    converted = convert_lightgbm(model, initial_types=[("X", shape)], zipmap=False)
    return _answered(converted.SerializeToString(), model, rows[::20])


# --- Networks, written as graphs: PyTorch is too large for a test's environment --------------------------------------


class _Graph:
    """Nodes and weights, drawn from one seed, as they are added."""

    def __init__(self) -> None:
        self.random = np.random.default_rng(0)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Add a node; the name of its only output."""
        output = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    def constant(self, values: Any, kind: Any = np.float32) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(values, kind), name))
        return name

    def weight(self, *shape: int, fan_in: int) -> str:
        """Normal, scaled so that activations keep their size."""
        return self.constant(self.random.normal(0, np.sqrt(2 / fan_in), shape))

    def linear(self, x: str, inner: int, outer: int) -> str:
        product = self.add("MatMul", x, self.weight(inner, outer, fan_in=2 * inner))
        return self.add("Add", product, self.constant(np.zeros(outer)))

    def model(
        self,
        inputs: dict[str, tuple[int, Sequence[Any]]],
        outputs: dict[str, tuple[str, Sequence[Any]]],
        kind: int = TensorProto.FLOAT,
    ) -> bytes:
        """The whole as a file; outputs are (value, shape) by name, all of one kind."""
        for name, (value, _) in outputs.items():
            self.nodes.append(helper.make_node("Identity", [value], [name]))
        graph = helper.make_graph(
            self.nodes,
            "g",
            [helper.make_tensor_value_info(n, element, list(shape)) for n, (element, shape) in inputs.items()],
            [helper.make_tensor_value_info(n, kind, list(shape)) for n, (_, shape) in outputs.items()],
            self.weights,
        )
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)
        onnx.checker.check_model(made)
        content: bytes = made.SerializeToString()
        return content


@cache
def convolutions() -> Subject:
    """A residual network for pictures of 3x224x224, with about 0.5 GFLOP; gives scores and features."""
    g = _Graph()

    def convolve(x: str, inner: int, outer: int, size: int, stride: int = 1) -> str:
        weight = g.weight(outer, inner, size, size, fan_in=inner * size * size)
        pad = size // 2
        return g.add("Conv", x, weight, g.constant(np.zeros(outer)), strides=[stride] * 2, pads=[pad] * 4)

    x = g.add("Relu", convolve("image", 3, 32, 7, stride=2))
    x = g.add("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    channels = 32
    for outer in (32, 64, 128):
        stride = 1 if outer == channels else 2
        inside = g.add("Relu", convolve(x, channels, outer, 3, stride))
        inside = convolve(inside, outer, outer, 3)
        beside = x if stride == 1 else convolve(x, channels, outer, 1, stride)
        x = g.add("Relu", g.add("Add", inside, beside))
        channels = outer
    features = g.add("Flatten", g.add("GlobalAveragePool", x))
    scores = g.linear(features, channels, 10)
    content = g.model(
        {"image": (TensorProto.FLOAT, ["n", 3, 224, 224])},
        {"scores": (scores, ["n", 10]), "features": (features, ["n", channels])},
    )
    return Subject(content, {"image": g.random.random((3, 3, 224, 224), np.float32)})


@cache
def transformer(layers: int = 4, width: int = 256, heads: int = 4, length: int = 128, words: int = 1000) -> Subject:
    """An encoder over at most `length` INT64 ids, as many as a request has; gives a score per class and per word."""
    g = _Graph()

    def normal(x: str) -> str:
        return g.add("LayerNormalization", x, g.constant(np.ones(width)), g.constant(np.zeros(width)), axis=-1)

    def split(x: str, order: Sequence[int]) -> str:
        parted = g.add("Reshape", x, g.constant([0, 0, heads, width // heads], np.int64))
        return g.add("Transpose", parted, perm=order)

    table = g.weight(words, width, fan_in=2)
    size = g.add("Gather", g.add("Shape", "ids"), g.constant([1], np.int64))
    places = g.add("Slice", g.weight(length, width, fan_in=2), g.constant([0], np.int64), size)
    x = g.add("Add", g.add("Gather", table, "ids"), places)
    for _ in range(layers):
        y = normal(x)
        query, key, value = (g.linear(y, width, width) for _ in range(3))
        near = g.add("MatMul", split(query, (0, 2, 1, 3)), split(key, (0, 2, 3, 1)))
        share = g.add("Softmax", g.add("Div", near, g.constant(np.sqrt(width / heads))), axis=-1)
        seen = g.add("Transpose", g.add("MatMul", share, split(value, (0, 2, 1, 3))), perm=(0, 2, 1, 3))
        seen = g.linear(g.add("Reshape", seen, g.constant([0, 0, width], np.int64)), width, width)
        x = g.add("Add", x, seen)
        y = g.linear(normal(x), width, 4 * width)
        x = g.add("Add", x, g.linear(g.add("Gelu", y), 4 * width, width))
    x = normal(x)
    pooled = g.add("ReduceMean", x, g.constant([1], np.int64), keepdims=0)
    content = g.model(
        {"ids": (TensorProto.INT64, ["n", "length"])},
        {"classes": (g.linear(pooled, width, 8), ["n", 8]), "words": (g.linear(x, width, 16), ["n", "length", 16])},
    )
    return Subject(content, {"ids": g.random.integers(0, words, (3, length))})


@cache
def half_precision() -> Subject:
    """A network of 64-32-8 in FP16 throughout."""
    g = _Graph()
    inner = g.constant(g.random.normal(0, 0.2, (64, 32)), np.float16)
    outer = g.constant(g.random.normal(0, 0.2, (32, 8)), np.float16)
    y = g.add("MatMul", g.add("Relu", g.add("MatMul", "x", inner)), outer)
    half = TensorProto.FLOAT16
    content = g.model({"x": (half, ["n", 64])}, {"y": (y, ["n", 8])}, half)
    return Subject(content, {"x": g.random.random((5, 64)).astype(np.float16)})


# --- Helpers --------------------------------------------------------------------------------------------------------


@cache
def _cells() -> tuple[Array, Array]:
    from sklearn.datasets import load_breast_cancer

    rows, labels = load_breast_cancer(return_X_y=True)
    return rows.astype(np.float32), labels


def _classifier(model: Any, rows: Array) -> Subject:
    from skl2onnx import to_onnx

    converted = to_onnx(model, rows[:1], options={id(model): {"zipmap": False}}, target_opset=17)
    return _answered(converted.SerializeToString(), model, rows)


def _answered(content: bytes, model: Any, rows: Array) -> Subject:
    """With what the classifier says to the rows."""
    return Subject(content, {"X": rows}, {"label": model.predict(rows), "probabilities": model.predict_proba(rows)})
