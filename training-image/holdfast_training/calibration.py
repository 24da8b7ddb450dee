"""Probabilities that hold what they say: of the answers given with 80 %, four in five are right.

scikit-learn's calibrators are fitted on answers about rows that the estimator had not learned from, fold by fold within
the training rows, and said again in ONNX. The label becomes the class with the largest calibrated probability.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.isotonic import IsotonicRegression

from holdfast_training.columns import Frame
from holdfast_training.errors import Finding, TrainingError, data_invalid
from holdfast_training.graph import Graph
from holdfast_training.spec import Method

if TYPE_CHECKING:
    from holdfast_training.model import Model

Floats = npt.NDArray[np.float64]

FOLDS = 5

_CLOSEST = 1e-4
"""Probabilities are cut this far from 0 and 1: closer, the last bits of FP32 would decide about the answer."""

_STEPS = 64
"""Isotonic regression sees probabilities in so many steps: a slope between neighbours would make much of those bits."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """Fitted calibrators, one per class (of two classes: of the second).

    Attributes:
        by_margin: whether they take the estimator's decision function, because it has no probabilities.
    """

    method: Method
    by_margin: bool
    classifier: CalibratedClassifierCV

    def probabilities(self, estimator: Any, features: Floats) -> Floats:
        """Rows x classes."""
        calibrated: Floats = self.classifier.predict_proba(_scores(self.method, estimator, features))
        return calibrated

    def to_onnx(self, graph: Graph, estimator: Any, answers: str, labels: npt.NDArray[Any]) -> tuple[str, str]:
        """Names of label and probabilities, from the second output of the converted estimator."""
        scores = graph.node("Cast", answers, to=TensorProto.DOUBLE)
        if len(labels) == 2:
            # That of the second class is the only one or the last, but for SVC, which gives it first.
            column = graph.constant(np.array([0 if self.by_margin and type(estimator).__name__ == "SVC" else -1]))
            scores = graph.node("Gather", scores, column, axis=1)
        if not self.by_margin:
            bounds = [graph.constant(np.array(bound)) for bound in (_CLOSEST, 1 - _CLOSEST)]
            scores = graph.node("Clip", scores, *bounds)
            if self.method == "Sigmoid":
                others = graph.node("Sub", graph.constant(np.array(1.0)), scores)
                scores = graph.node("Log", graph.node("Div", scores, others))
        parts = [calibrator for fitted in self.classifier.calibrated_classifiers_ for calibrator in fitted.calibrators]
        if self.method == "Sigmoid":
            slopes, offsets = (np.array([[getattr(part, field) for part in parts]]) for field in ("a_", "b_"))
            line = graph.node("Add", graph.node("Mul", scores, graph.constant(-slopes)), graph.constant(-offsets))
            calibrated = graph.node("Sigmoid", line)
        else:
            columns = [_isotonic(graph, scores, part, place) for place, part in enumerate(parts)]
            calibrated = graph.node("Concat", *columns, axis=1)
        calibrated = _both(graph, calibrated) if len(labels) == 2 else _summing_to_1(graph, calibrated, len(labels))
        best = graph.node("ArgMax", calibrated, axis=1, keepdims=0)
        return graph.node("Gather", graph.constant(labels), best), calibrated


def fit(
    method: Method, folded: Iterable[tuple[Model, npt.NDArray[np.intp]]], features: Frame, target: npt.NDArray[Any]
) -> Calibration:
    """Calibrators from what models say about rows that they did not learn from; each row is in one pair at most.

    Raises:
        TrainingError: `ParametersInvalid` when the method needs probabilities and the estimator has none; `DataInvalid`
            when a class is in no pair.
    """
    parts, rows, by_margin = [], [], False
    for model, judged in folded:
        by_margin = not model.has_probabilities
        if by_margin and method == "Isotonic":
            name = type(model.estimator).__name__
            raise TrainingError("ParametersInvalid", f"{name} gives no probabilities: calibration must be Sigmoid")
        parts.append(_scores(method, model.estimator, model.preprocessor.transform(features.take(judged))))
        rows.append(judged)
    asked = np.concatenate(rows)
    place = np.argsort(asked)
    scores, truth = np.concatenate(parts)[place], target[asked[place]]
    classes = len(np.unique(target))
    if absent := classes - len(np.unique(truth)):
        have = "has" if absent == 1 else "have"
        message = f"{absent} of {classes} classes {have} no training row after the first fold by split.orderColumn"
        raise data_invalid([Finding("TooFewRows", f"{message}, so nothing to calibrate by")])
    if method == "Isotonic":
        scores = np.round(scores * _STEPS) / _STEPS
    everything = np.arange(len(truth))
    classifier = CalibratedClassifierCV(_Scores(), method=method.lower(), cv=[(everything, everything)], ensemble=False)
    return Calibration(method, by_margin, classifier.fit(scores, truth))


def _scores(method: Method, estimator: Any, features: Floats) -> Floats:
    """Rows x classes (of two: x 1, the second's): log-odds for Sigmoid, probabilities for Isotonic, else margins."""
    if not hasattr(estimator, "predict_proba"):
        margins: Floats = estimator.decision_function(features).astype(np.float64)
        return margins.reshape(-1, 1) if margins.ndim == 1 else margins
    probabilities = estimator.predict_proba(features).astype(np.float64)
    near = np.clip(probabilities[:, 1:] if probabilities.shape[1] == 2 else probabilities, _CLOSEST, 1 - _CLOSEST)
    scores: Floats = np.log(near / (1 - near)) if method == "Sigmoid" else near
    return scores


def _isotonic(graph: Graph, scores: str, fitted: IsotonicRegression, place: int) -> str:
    """One column: straight lines between the points of the regression, level beyond them."""
    at, to = fitted.X_thresholds_, fitted.y_thresholds_
    if len(at) == 1:
        at, to = np.array([at[0], at[0] + 1]), np.array([to[0], to[0]])
    score = graph.node("Gather", scores, graph.constant(np.array([place])), axis=1)
    passed = graph.node("GreaterOrEqual", score, graph.constant(at[np.newaxis, 1:-1]))
    counted = graph.node("Cast", passed, to=TensorProto.INT64)
    line = graph.node("ReduceSum", counted, graph.constant(np.array([1])), keepdims=1)
    start, width = graph.constant(at[:-1]), graph.constant(np.diff(at))
    base, rise = graph.constant(to[:-1]), graph.constant(np.diff(to))
    way = graph.node("Sub", score, graph.node("Gather", start, line))
    share = graph.node("Div", way, graph.node("Gather", width, line))
    bounded = graph.node("Clip", share, *(graph.constant(np.array(bound)) for bound in (0.0, 1.0)))
    return graph.node(
        "Add", graph.node("Gather", base, line), graph.node("Mul", bounded, graph.node("Gather", rise, line))
    )


def _both(graph: Graph, second: str) -> str:
    first = graph.node("Sub", graph.constant(np.array(1.0)), second)
    return graph.node("Concat", first, second, axis=1)


def _summing_to_1(graph: Graph, calibrated: str, classes: int) -> str:
    """Where every class got nothing, they get the same."""
    total = graph.node("ReduceSum", calibrated, graph.constant(np.array([1])), keepdims=1)
    nothing = graph.node("Equal", total, graph.constant(np.array(0.0)))
    share = graph.node("Div", calibrated, graph.node("Where", nothing, graph.constant(np.array(1.0)), total))
    return graph.node("Where", nothing, graph.constant(np.array(1.0 / classes)), share)


class _Scores(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A classifier whose features are its scores: so scikit-learn fits calibrators to scores that are there already."""

    def fit(self, X: Floats, y: npt.NDArray[Any]) -> _Scores:  # noqa: N803
        self.classes_ = np.unique(y)
        return self

    def decision_function(self, X: Floats) -> Floats:  # noqa: N803
        return X[:, 0] if len(self.classes_) == 2 else X

    def predict(self, X: Floats) -> npt.NDArray[Any]:  # noqa: N803
        best = (X[:, 0] > 0).astype(int) if len(self.classes_) == 2 else X.argmax(axis=1)
        labels: npt.NDArray[Any] = self.classes_[best]
        return labels
