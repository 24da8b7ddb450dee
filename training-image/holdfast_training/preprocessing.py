"""Impute, scale and encode with scikit-learn, and say the same in ONNX, to the bit.

Trees ask whether a number is below a threshold, and their thresholds lie between the numbers they were trained on: if
the served model scaled a number to the neighbouring float, it could take another branch. So what scikit-learn fitted
is rounded to FP32, both sides do the same IEEE operations on FP32 (subtract, divide, multiply, add; never a
multiplication by a reciprocal), and the estimator is trained on exactly what the ONNX graph computes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, TensorProto, helper
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import MinMaxScaler, OneHotEncoder, OrdinalEncoder, RobustScaler, StandardScaler

from holdfast_training.columns import Columns, Frame
from holdfast_training.graph import Graph
from holdfast_training.spec import Preprocessing

_IMPUTERS: dict[str, dict[str, Any]] = {
    "Median": {"strategy": "median"},
    "Mean": {"strategy": "mean"},
    "Zero": {"strategy": "constant", "fill_value": 0},
}
_SCALERS = {"Standard": StandardScaler, "MinMax": MinMaxScaler, "Robust": RobustScaler, "None": None}
_STEPS = (("center_", "Sub"), ("mean_", "Sub"), ("scale_", "Div"))
_MIN_MAX_STEPS = (("scale_", "Mul"), ("min_", "Add"))
UNKNOWN = -1
"""Ordinal code of a category that the training rows did not have; its one-hot code is all zeros."""


@dataclass(frozen=True, slots=True)
class Preprocessor:
    """Fitted transformers; None where there is nothing to do. Networks of images scale their pixels themselves."""

    imputer: Any | None
    scaler: Any | None
    encoder: Any | None

    def transform(self, frame: Frame) -> npt.NDArray[Any]:
        """Rows x features: numbers that FP32 can hold, as float64; of images their pixels."""
        if frame.pixels is not None:
            return frame.pixels
        numeric = frame.numeric
        if self.imputer is not None:
            numeric = self.imputer.transform(numeric)
        if self.scaler is not None:
            numeric = self.scaler.transform(numeric)
        parts = [numeric] if self.encoder is None else [numeric, self.encoder.transform(frame.categorical)]
        return np.hstack(parts).astype(np.float64)

    def impute(self, frame: Frame) -> Frame:
        """The same rows with no number missing."""
        numeric = frame.numeric if self.imputer is None else self.imputer.transform(frame.numeric)
        return replace(frame, numeric=numeric)

    def widths(self, columns: Columns) -> list[int]:
        """How many features each column becomes, in the order of `columns.names`."""
        one_hot = isinstance(self.encoder, OneHotEncoder)
        categories = [] if self.encoder is None else self.encoder.categories_
        return [*([1] * len(columns.numeric)), *(len(known) if one_hot else 1 for known in categories)]

    def to_onnx(self, inputs: Columns, output: str, prefix: str) -> tuple[list[NodeProto], list[TensorProto]]:
        """Nodes and constants from one input per column or vector to the FP32 matrix `output`; of images to themselves.

        Every name between begins with `prefix`.
        """
        graph = Graph(prefix)
        if inputs.images is not None:
            graph.nodes.append(helper.make_node("Identity", [inputs.images.name], [output], name=f"{prefix}join"))
            return graph.nodes, graph.constants
        parts = []
        if inputs.numeric:
            numbers = (*inputs.single, *inputs.vectors)
            parts.append(self._numeric_to_onnx(graph, graph.node("Concat", *numbers, axis=1)))
        if inputs.categorical:
            parts += [
                _one_hot(graph, name, categories)
                if isinstance(self.encoder, OneHotEncoder)
                else _ordinal(graph, name, categories)
                for name, categories in zip(inputs.categorical, self.encoder.categories_, strict=True)  # type: ignore[union-attr]
            ]
        graph.nodes.append(helper.make_node("Concat", parts, [output], name=f"{prefix}join", axis=1))
        return graph.nodes, graph.constants

    def _numeric_to_onnx(self, graph: Graph, value: str) -> str:
        if self.imputer is not None:
            missing = graph.node("IsNaN", value)
            value = graph.node("Where", missing, graph.constant(_row(self.imputer.statistics_)), value)
        steps = _MIN_MAX_STEPS if isinstance(self.scaler, MinMaxScaler) else _STEPS
        for attribute, operator in steps:
            if (numbers := getattr(self.scaler, attribute, None)) is not None:
                value = graph.node(operator, value, graph.constant(_row(numbers)))
        return value


def fit(frame: Frame, preprocessing: Preprocessing) -> Preprocessor:
    """Fit on training rows."""
    imputer = scaler = encoder = None
    if frame.numeric.shape[1]:
        imputer = SimpleImputer(keep_empty_features=True, **_IMPUTERS[preprocessing.impute_numeric])
        numeric = imputer.fit(frame.numeric).transform(frame.numeric)
        _round(imputer, "statistics_")
        make_scaler = _SCALERS[preprocessing.scale_numeric]
        if make_scaler is not None:
            scaler = make_scaler().fit(numeric)
            _round(scaler, *(attribute for attribute, _ in _STEPS + _MIN_MAX_STEPS))
    if frame.categorical.shape[1]:
        if preprocessing.encode_categorical == "OneHot":
            encoder = OneHotEncoder(handle_unknown="ignore", sparse_output=False, dtype=np.float32)
        else:
            encoder = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=UNKNOWN, dtype=np.float32)
        encoder.fit(frame.categorical)
    return Preprocessor(imputer, scaler, encoder)


def _round(transformer: Any, *attributes: str) -> None:
    for attribute in attributes:
        if (numbers := getattr(transformer, attribute, None)) is not None:
            rounded = numbers.astype(np.float32)
            if attribute == "scale_":
                rounded[rounded == 0] = 1  # a spread too small for FP32 is no spread
            setattr(transformer, attribute, rounded)


def _row(numbers: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return np.asarray(numbers, np.float32).reshape(1, -1)


def _one_hot(graph: Graph, column: str, categories: npt.NDArray[np.object_]) -> str:
    texts = [str(category) for category in categories]
    coded = graph.node("OneHotEncoder", column, domain="ai.onnx.ml", cats_strings=texts, zeros=1)
    return graph.node("Flatten", coded, axis=1)


def _ordinal(graph: Graph, column: str, categories: npt.NDArray[np.object_]) -> str:
    texts = [str(category) for category in categories]
    codes = {"values_floats": [float(code) for code in range(len(texts))], "default_float": float(UNKNOWN)}
    return graph.node("LabelEncoder", column, domain="ai.onnx.ml", keys_strings=texts, **codes)
