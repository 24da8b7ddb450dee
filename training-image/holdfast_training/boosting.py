"""XGBoost and LightGBM behind scikit-learn's interface, as the rest of this package expects an estimator to be.

Loaded only when a run asks for one of them.
"""

from __future__ import annotations

import logging
from typing import Any

import lightgbm
import numpy as np
import numpy.typing as npt
import xgboost

Floats = npt.NDArray[np.float64]

lightgbm.register_logger(logging.getLogger(__name__))  # standard output is for lines of JSON


class _InItsOwnWords:
    """XGBoost's refusals without source files and stacks."""

    def fit(self, X: Floats, y: npt.NDArray[Any]) -> Any:  # noqa: N803
        """As XGBoost does it. Raises ValueError for what it refuses."""
        parent: Any = super()
        try:
            return parent.fit(X, y)
        except xgboost.core.XGBoostError as error:
            words = str(error).partition("Stack trace:")[0].rpartition("Check failed: ")[2]
            raise ValueError(words.strip()) from error


class XGBRegressor(_InItsOwnWords, xgboost.XGBRegressor):
    """XGBoost's regressor."""


class XGBClassifier(_InItsOwnWords, xgboost.XGBClassifier):
    """XGBoost itself takes only the labels 0, 1, 2 and so on; this takes any.

    Attributes:
        labels_: the classes in sorted order; None while XGBoost and its converter shall see codes.
    """

    labels_: npt.NDArray[Any] | None = None

    def fit(self, X: Floats, y: npt.NDArray[Any]) -> XGBClassifier:  # noqa: N803
        """Fit to codes in place of labels."""
        self.labels_ = None
        labels, codes = np.unique(y, return_inverse=True)
        super().fit(X, codes)
        self.labels_ = labels
        return self

    def predict(self, X: Floats) -> npt.NDArray[Any]:  # noqa: N803
        """Labels."""
        codes: npt.NDArray[Any] = super().predict(X)
        return codes if self.labels_ is None else self.labels_[codes]

    @property
    def classes_(self) -> npt.NDArray[Any]:
        """Labels in the order of the probabilities."""
        return np.asarray(super().classes_ if self.labels_ is None else self.labels_)


class _RoundedDown:
    """LightGBM's thresholds are FP64. The graph's are FP32, and rounded to the nearest one a threshold can pass the
    number that it was made from. Rounded down, every FP32 number keeps its side."""

    def fit(self, X: Floats, y: npt.NDArray[Any], **options: Any) -> Any:  # noqa: N803
        """As LightGBM does it, and the same on any number of threads. Raises ValueError for what it refuses."""
        parent: Any = super()
        parent.set_params(verbosity=-1, deterministic=True, force_row_wise=True)
        try:
            fitted = parent.fit(X, y, **options)
        except lightgbm.basic.LightGBMError as error:
            raise ValueError(str(error).partition(" at /")[0]) from error
        lines = fitted.booster_.model_to_string().splitlines()
        # `tree_sizes` counts bytes of trees, which change; without it LightGBM reads one tree after the other.
        text = "\n".join(_rounded(line) for line in lines if not line.startswith("tree_sizes="))
        fitted._Booster = lightgbm.Booster(model_str=text)
        return fitted


class LGBMClassifier(_RoundedDown, lightgbm.LGBMClassifier):  # type: ignore[misc]
    """LightGBM's classifier."""


class LGBMRegressor(_RoundedDown, lightgbm.LGBMRegressor):  # type: ignore[misc]
    """LightGBM's regressor."""


def _rounded(line: str) -> str:
    name, separator, numbers = line.partition("=")
    if name != "threshold" or not separator:
        return line
    exact = np.array(numbers.split(), np.float64)
    rounded = exact.astype(np.float32)
    above = rounded > exact
    rounded[above] = np.nextafter(rounded[above], np.float32(-np.inf))
    return "threshold=" + " ".join(repr(float(number)) for number in rounded)
