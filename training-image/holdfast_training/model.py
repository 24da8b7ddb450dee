"""The trained model as scikit-learn answers: preprocessing and estimator, and what they say about rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from holdfast_training import estimators
from holdfast_training.calibration import Calibration
from holdfast_training.columns import Columns, Frame
from holdfast_training.directions import Directions
from holdfast_training.errors import TrainingError
from holdfast_training.estimators import Estimator
from holdfast_training.preprocessing import Preprocessor
from holdfast_training.spec import Task

_PROBABILITY_ERROR = 1e-2  # rows of a one-versus-one AdaBoost sum to 1 only roughly


@dataclass(frozen=True, slots=True)
class Answers:
    """What the model says about some rows.

    Attributes:
        values: labels (int64 or str objects), or predictions (float64).
        probabilities: rows x classes, float64; None for regressors and for classifiers that have none.
        margins: how far each label is from the next best, on the scale of `tolerance`; None for regressors.
    """

    values: npt.NDArray[Any]
    probabilities: npt.NDArray[np.float64] | None = None
    margins: npt.NDArray[np.float64] | None = None

    def take(self, rows: npt.NDArray[np.intp]) -> Answers:
        """Those about these rows."""
        probabilities = None if self.probabilities is None else self.probabilities[rows]
        return Answers(self.values[rows], probabilities, None if self.margins is None else self.margins[rows])


@dataclass(frozen=True, slots=True)
class Model:
    """A fitted model. `classes` are those of the estimator, in the order of its probabilities; empty for regressors.

    Attributes:
        directions: of each embedding.
    """

    task: Task
    columns: Columns
    preprocessor: Preprocessor
    estimator: Estimator
    calibration: Calibration | None = None
    directions: tuple[Directions, ...] = ()

    @property
    def classes(self) -> npt.NDArray[Any]:
        return np.asarray(getattr(self.estimator, "classes_", ()))

    @property
    def has_probabilities(self) -> bool:
        """SVC, LinearSVC, RidgeClassifier and some losses of SGDClassifier have none unless they are calibrated."""
        return self.calibration is not None or hasattr(self.estimator, "predict_proba")

    def answer(self, frame: Frame) -> Answers:
        """What scikit-learn says.

        Raises:
            TrainingError: `ParametersInvalid` when it cannot answer, or not with finite numbers.
        """
        estimator: Any = self.estimator
        features = self.preprocessor.transform(frame)
        try:
            if self.calibration is not None:
                calibrated = self.calibration.probabilities(estimator, features)
                return Answers(self.classes[calibrated.argmax(axis=1)], calibrated, _lead(calibrated))
            values = estimator.predict(features)
            if self.task == "Regression":
                return Answers(self._finite(values).ravel())
            if self.has_probabilities:
                probabilities = self._summing_to_1(self._finite(estimator.predict_proba(features)))
                return Answers(values, probabilities, _lead(probabilities))
            scores = self._finite(estimator.decision_function(features))
        except ValueError as error:  # such as: more neighbours asked for than rows there are
            raise estimators.refused(estimator, error) from error
        margins = np.abs(scores) if scores.ndim == 1 else _lead(scores)
        return Answers(values, None, margins / max(1.0, float(np.abs(scores).max(initial=0))))

    @property
    def monitored(self) -> tuple[str, ...]:
        """Names of what `monitor` gives."""
        vectors = zip(self.columns.vectors, self.directions, strict=False)
        return (
            *getattr(self.estimator, "monitored_", ()),
            *(name for each, fitted in vectors for name in fitted.names(each)),
        )

    def monitor(self, frame: Frame) -> npt.NDArray[np.float32]:
        """Numbers to be watched in use: rows x `monitored`."""
        estimator: Any = self.estimator
        places = self.columns.vectors.values()
        seen = [fitted.numbers(frame.numeric[:, place]) for place, fitted in zip(places, self.directions, strict=False)]
        if hasattr(estimator, "monitored_"):
            seen.insert(0, estimator.monitor(self.preprocessor.transform(frame)))
        return np.concatenate(seen, axis=1)

    def _finite(self, numbers: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        if not np.all(np.abs(numbers) <= np.finfo(np.float32).max):
            message = (
                f"{type(self.estimator).__name__} diverged: its answers are not numbers of FP32; scale the features"
            )
            raise TrainingError("ParametersInvalid", message)
        return numbers.astype(np.float64)

    def _summing_to_1(self, probabilities: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        sums = probabilities.sum(axis=1)
        if probabilities.min() < 0 or np.abs(sums - 1).max() > _PROBABILITY_ERROR:
            message = (
                f"{type(self.estimator).__name__} gives scores that are no probabilities; choose another objective"
            )
            raise TrainingError("ParametersInvalid", message)
        return probabilities


def _lead(scores: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    best = np.sort(scores, axis=1)[:, -2:]
    lead: npt.NDArray[np.float64] = best[:, 1] - best[:, 0]
    return lead
