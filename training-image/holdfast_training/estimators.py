"""Estimators of scikit-learn, XGBoost, LightGBM, PyTorch and Keras by an allow-list of names, with parameters as text.

A parameter's text is read as JSON if it is JSON, so a value is a number, a text, a truth value, null, or lists and
objects of these: nothing that can be called, imported or opened. Parameters of nested objects (`estimator__…`) and
those that Holdfast sets itself are refused.
"""

from __future__ import annotations

import importlib
import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from sklearn.exceptions import ConvergenceWarning

from holdfast_training.errors import Finding, TrainingError, count, data_invalid

Floats = npt.NDArray[np.float64]


class Estimator(Protocol):
    """What this package uses of a scikit-learn estimator.

    X is rows x features, float64; for those of `OF_IMAGES` the pixels of a `Frame`.
    """

    def fit(self, X: Floats, y: npt.NDArray[Any]) -> Any: ...  # noqa: N803
    def predict(self, X: Floats) -> npt.NDArray[Any]: ...  # noqa: N803
    def get_params(self, deep: bool = ...) -> dict[str, Any]: ...
    def set_params(self, **parameters: Any) -> Any: ...


CLASSIFIERS = {
    "AdaBoostClassifier": "ensemble",
    "DecisionTreeClassifier": "tree",
    "ExtraTreesClassifier": "ensemble",
    "GaussianNB": "naive_bayes",
    "GradientBoostingClassifier": "ensemble",
    "HistGradientBoostingClassifier": "ensemble",
    "KNeighborsClassifier": "neighbors",
    "KerasMLPClassifier": "keras_networks",
    "LGBMClassifier": "boosting",
    "LinearSVC": "svm",
    "LogisticRegression": "linear_model",
    "MLPClassifier": "neural_network",
    "RandomForestClassifier": "ensemble",
    "RidgeClassifier": "linear_model",
    "SGDClassifier": "linear_model",
    "SVC": "svm",
    "TorchImageClassifier": "image_networks",
    "TorchMLPClassifier": "networks",
    "XGBClassifier": "boosting",
}
REGRESSORS = {
    "AdaBoostRegressor": "ensemble",
    "DecisionTreeRegressor": "tree",
    "ElasticNet": "linear_model",
    "ExtraTreesRegressor": "ensemble",
    "GradientBoostingRegressor": "ensemble",
    "HistGradientBoostingRegressor": "ensemble",
    "KNeighborsRegressor": "neighbors",
    "KerasMLPRegressor": "keras_networks",
    "LGBMRegressor": "boosting",
    "Lasso": "linear_model",
    "LinearRegression": "linear_model",
    "LinearSVR": "svm",
    "MLPRegressor": "neural_network",
    "PoissonRegressor": "linear_model",
    "RandomForestRegressor": "ensemble",
    "Ridge": "linear_model",
    "SGDRegressor": "linear_model",
    "SVR": "svm",
    "TorchMLPRegressor": "networks",
    "XGBRegressor": "boosting",
}

OF_IMAGES = frozenset({"TorchImageClassifier"})
"""Estimators that learn from images; the others learn from columns."""

_OURS = ("boosting", "image_networks", "keras_networks", "networks")
"""Modules of this package; the others are scikit-learn's."""


@dataclass(frozen=True, slots=True)
class Library:
    """What only an image of its own has.

    Attributes:
        packages: to import; their versions shape the model.
        setting: the operator's, with the image's name.
    """

    name: str
    packages: tuple[str, ...]
    setting: str


_LIBRARIES = {
    "Keras": Library("Keras", ("tensorflow", "keras"), "HOLDFAST_TRAINING_TENSORFLOW_IMAGE"),
    "Torch": Library("PyTorch", ("torch",), "HOLDFAST_TRAINING_TORCH_IMAGE"),
}
"""By what the names of their estimators begin with."""

_STANDARD = {"LGBM": "LightGBM", "XGB": "XGBoost"}
"""Likewise, of libraries that every image has; all others are scikit-learn's."""

REFUSED = {
    "random_state": "spec.seed sets it",
    "n_jobs": "Holdfast sets it from the CPU limit",
    "verbose": "it only prints",
    "verbosity": "it only prints",
    "warm_start": "a run fits once",
    "categorical_features": "preprocessing.encodeCategorical decides it",
    "enable_categorical": "preprocessing.encodeCategorical decides it",
    "feature_types": "preprocessing.encodeCategorical decides it",
    "missing": "preprocessing.imputeNumeric decides it",
    "booster": "ONNX has no other than gbtree",
    "num_parallel_tree": "ONNX has no boosted forests",
    "callbacks": "they are code",
    "device": "there is no other than the CPU",
    "early_stopping_rounds": "all training rows are learned from, none are left to stop by",
}


def build(name: str, parameters: Mapping[str, str], *, seed: int, threads: int) -> Estimator:
    """An estimator that is ready to fit, seeded.

    Raises:
        TrainingError: `ParametersInvalid` for a name that is not allowed, or a parameter it does not have or that
            may not be set; `TrainerNotInstalled`. Values are checked by the estimator in `fit`.
    """
    module = (CLASSIFIERS | REGRESSORS).get(name)
    if module is None:
        raise TrainingError("ParametersInvalid", f"estimator {name} is not one that can be trained here")
    estimator: Estimator = getattr(_imported(name, module), name)()
    known = set(estimator.get_params(deep=False))
    for parameter in sorted(parameters):
        if parameter in REFUSED and parameter in known:
            raise TrainingError("ParametersInvalid", f"{name}: remove parameter {parameter}: {REFUSED[parameter]}")
        if parameter not in known:
            there = ", ".join(sorted(known - set(REFUSED)))
            raise TrainingError("ParametersInvalid", f"{name} has no parameter {parameter[:64]}; it has: {there}")
    estimator.set_params(**{parameter: _value(text) for parameter, text in parameters.items()})
    if "random_state" in known:
        estimator.set_params(random_state=seed)
    if "n_jobs" in known:
        estimator.set_params(n_jobs=threads)
    return estimator


def library(name: str) -> Library | None:
    """What the estimator of this name needs beside the usual packages."""
    return next((library for prefix, library in _LIBRARIES.items() if name.startswith(prefix)), None)


def framework(name: str) -> str:
    """Whose estimator this is."""
    if (own := library(name)) is not None:
        return own.name
    return next((standard for prefix, standard in _STANDARD.items() if name.startswith(prefix)), "scikit-learn")


def _imported(name: str, module: str) -> Any:
    try:
        return importlib.import_module(f"{'holdfast_training' if module in _OURS else 'sklearn'}.{module}")
    except ModuleNotFoundError as error:
        needed = library(name)
        if needed is None or error.name not in needed.packages:
            raise
        message = f"{name} needs {needed.name}, which this image does not have; is {needed.setting} one with it?"
        raise TrainingError("TrainerNotInstalled", message) from error


def fit(estimator: Estimator, features: Floats, target: npt.NDArray[Any]) -> list[Finding]:
    """Fit in place; what scikit-learn warns of about convergence comes back as findings.

    Raises:
        TrainingError: `ParametersInvalid` with scikit-learn's words when it refuses a value; `DataInvalid` when the
            estimator cannot take this target.
    """
    name = type(estimator).__name__
    _check_target(estimator, name, target)
    _match_class_weights(estimator, name, target)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            estimator.fit(features, target)
        except (ValueError, TypeError, OverflowError) as error:
            raise refused(estimator, error) from error
    if "n_jobs" in estimator.get_params(deep=False):
        # Threads that add up votes in the order in which they finish change the last bit of an answer.
        estimator.set_params(n_jobs=1)
    fitted: Any = estimator
    if type(getattr(fitted, "intercept_", None)) is float:  # without an intercept; skl2onnx wants numpy's float
        fitted.intercept_ = np.float64(0)
    if name.startswith("HistGradientBoosting"):
        _round_thresholds_down(estimator)
    if any(issubclass(warning.category, ConvergenceWarning) for warning in caught):
        return [Finding("NotConverged", f"{name} stopped before it converged; raise max_iter or scale the features")]
    return []


def _round_thresholds_down(estimator: Any) -> None:
    """Thresholds of HistGradientBoosting are FP64, and skl2onnx rounds them to the nearest FP32 number, which can be
    the training value on the other side. Rounded down, every FP32 number keeps its side; in scikit-learn too."""
    for tree in (tree for trees in estimator._predictors for tree in trees):
        exact = tree.nodes["num_threshold"]
        rounded = exact.astype(np.float32)
        above = rounded > exact
        rounded[above] = np.nextafter(rounded[above], np.float32(-np.inf))
        tree.nodes["num_threshold"] = rounded


def _value(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_not_json)
    except (ValueError, RecursionError):
        return text


def _not_json(constant: str) -> None:
    """NaN and Infinity are not JSON, whatever Python thinks of it."""
    raise ValueError(constant)


def _match_class_weights(estimator: Estimator, name: str, target: npt.NDArray[Any]) -> None:
    """Keys of a JSON object are texts, labels may be numbers."""
    weights = estimator.get_params(deep=False).get("class_weight")
    if not isinstance(weights, dict):
        return
    labels = {str(label): label for label in np.unique(target).tolist()}
    if unknown := sorted(set(weights) - set(labels)):
        message = f"{name}: class_weight names a class that the data do not have: {unknown[0][:64]}"
        raise TrainingError("ParametersInvalid", message)
    estimator.set_params(class_weight={labels[key]: weight for key, weight in weights.items()})


def _check_target(estimator: Estimator, name: str, target: npt.NDArray[Any]) -> None:
    parameters = estimator.get_params(deep=False)
    loss = str(parameters.get("loss") or parameters.get("objective")).rpartition(":")[2]
    if name == "PoissonRegressor" or loss in ("poisson", "tweedie"):
        bound, bad = "0 or more", int((target < 0).sum())
    elif loss == "gamma":
        bound, bad = "greater than 0", int((target <= 0).sum())
    else:
        return
    if bad:
        message = f"{name} needs a target of {bound}; {count(bad, 'training row')} with another"
        raise data_invalid([Finding("OutOfRange", message, rows=bad)])


def refused(estimator: Estimator, error: Exception) -> TrainingError:
    """scikit-learn's refusal of a parameter, in its own words."""
    words = " ".join(str(error).split()) or type(error).__name__
    words = words if len(words) <= 500 else words[:499] + "…"
    return TrainingError("ParametersInvalid", f"{type(estimator).__name__}: {words}")
