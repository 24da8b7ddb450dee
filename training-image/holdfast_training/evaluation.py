"""Hold rows out, measure on them, and hold the metrics against what the spec requires."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn import metrics
from sklearn.model_selection import KFold, StratifiedKFold, TimeSeriesSplit, train_test_split

from holdfast_training import rowdigests
from holdfast_training.columns import Examples
from holdfast_training.errors import Finding, TrainingError, count, data_invalid
from holdfast_training.model import Answers, Model
from holdfast_training.spec import Requirement, Run, Task

CLASSIFICATION = ("Accuracy", "BalancedAccuracy", "F1", "Precision", "Recall", "ROCAUC", "LogLoss")
REGRESSION = ("RMSE", "MAE", "R2", "MAPE")
ORDER = CLASSIFICATION + REGRESSION
"""Metrics in the order of `status.metrics`: the first of a task is the one that a model is chosen by."""

SMALLER_IS_BETTER = frozenset({"LogLoss", "RMSE", "MAE", "MAPE"})

MIN_ROWS = 10
LARGEST = 1e12
"""status.metrics takes 12 digits before the point."""

Rows = npt.NDArray[np.intp]


def split(examples: Examples, run: Run) -> tuple[Rows, Rows]:
    """Row numbers for training and for holding out, both in order, as `split` of the run says.

    Raises:
        TrainingError: `DataInvalid` when there are too few rows, in all or of a class.
    """
    rows = len(examples.target)
    if rows < MIN_ROWS:
        raise data_invalid([Finding("TooFewRows", f"the data have {rows} rows, at least {MIN_ROWS} are needed")])
    if examples.order is not None:
        return split_by_order(examples.target, examples.order, run.task, run.test_percent)
    if run.split_method == "RowDigest":
        return split_by_digest(examples, run.task, run.test_percent)
    return split_at_random(examples.target, run.task, run.test_percent, run.seed)


def split_by_digest(examples: Examples, task: Task, test_percent: int) -> tuple[Rows, Rows]:
    """By what each row is, so about this share. A class with few rows may have none that is held out."""
    digests = rowdigests.of(examples.columns, examples.features, examples.target)
    out = rowdigests.held_out(digests, test_percent)
    held_out, training = np.flatnonzero(out), np.flatnonzero(~out)
    findings = [
        Finding("TooFewRows", f"{len(side)} of {len(out)} rows are {words}, at least 2 are needed; add rows")
        for side, words in ((held_out, "held out by digest"), (training, "left to learn from"))
        if len(side) < 2
    ]
    if task == "Classification" and not findings:
        findings = _not_learned(examples.target, training)
    if findings:
        raise data_invalid(findings)
    return training, held_out


def split_by_order(
    target: npt.NDArray[Any], order: npt.NDArray[np.int64], task: Task, test_percent: int
) -> tuple[Rows, Rows]:
    """The last rows are held out, and all that are of the same moment as the first of them."""
    test_rows = max(2, math.ceil(len(order) * test_percent / 100))
    since = np.partition(order, len(order) - test_rows)[len(order) - test_rows]
    held_out, training = np.flatnonzero(order >= since), np.flatnonzero(order < since)
    if len(training) < 2:
        message = (
            f"{len(held_out):,} of {len(order):,} rows are as late as the last {test_percent} %, so that "
            f"{count(len(training), 'row')} would be left to learn from"
        )
        raise data_invalid([Finding("TooFewRows", message)])
    if task == "Classification" and (findings := _not_learned(target, training)):
        raise data_invalid(findings)
    return training, held_out


def _not_learned(target: npt.NDArray[Any], training: Rows, elsewhere: str = "are held out") -> list[Finding]:
    """Nobody can learn a class whose rows are all elsewhere, or know it from one row."""
    classes, first, sizes = np.unique(target, return_index=True, return_counts=True)
    return [
        Finding(
            "TooFewRows",
            f"class {number} of {len(classes)} (in sorted order) has {count(int(size), 'row')}, first at row "
            f"{row + 1:,}" + ("; at least 2 are needed" if learned else f", and all of them {elsewhere}"),
            rows=int(size),
        )
        for number, (name, row, size) in enumerate(zip(classes, first, sizes, strict=True), 1)
        if not (learned := name in target[training]) or size < 2
    ]


def split_at_random(target: npt.NDArray[Any], task: Task, test_percent: int, seed: int) -> tuple[Rows, Rows]:
    """By seed; stratified by class."""
    rows = len(target)
    test_rows = max(2, math.ceil(rows * test_percent / 100))
    stratify = None
    if task == "Classification":
        _check_classes(target, math.ceil(rows / test_rows), test_percent)
        stratify = target
    train, test = train_test_split(np.arange(rows), test_size=test_rows, random_state=seed, stratify=stratify)
    return np.sort(train), np.sort(test)


def _check_classes(target: npt.NDArray[Any], needed: int, test_percent: int) -> None:
    """With fewer rows of a class, none of them might be held out, or none be left to learn from."""
    needed = max(2, needed)
    _, first, sizes = np.unique(target, return_index=True, return_counts=True)
    findings = [
        Finding(
            "TooFewRows",
            f"class {number} of {len(sizes)} (in sorted order) has {size} rows, first at row {row + 1:,}; "
            f"with testPercent {test_percent} each class needs at least {needed}",
            rows=int(size),
        )
        for number, (row, size) in enumerate(zip(first, sizes, strict=True), 1)
        if size < needed
    ]
    if findings:
        raise data_invalid(findings)


def folds(
    target: npt.NDArray[Any], task: Task, number: int, seed: int, order: npt.NDArray[np.int64] | None = None
) -> list[tuple[Rows, Rows]]:
    """Rows to learn from and rows to judge by, `number` times; every row judges once. Stratified by class.

    With an order, the rows to judge by are the next ones after those to learn from, and the first ones never judge.

    Raises:
        TrainingError: `DataInvalid` when a class, or the whole, has fewer rows than folds.
    """
    if order is not None:
        return _folds_by_order(target, task, number, order)
    if task == "Regression":
        if len(target) < 2 * number:
            message = f"{count(len(target), 'training row')}; {number} folds need at least {2 * number}"
            raise data_invalid([Finding("TooFewRows", message)])
        return list(KFold(number, shuffle=True, random_state=seed).split(target))
    _, sizes = np.unique(target, return_counts=True)
    findings = [
        Finding(
            "TooFewRows",
            f"class {place} of {len(sizes)} (in sorted order) has {count(int(size), 'training row')}; "
            f"with {number} folds each class needs at least {number}",
            rows=int(size),
        )
        for place, size in enumerate(sizes, 1)
        if size < number
    ]
    if findings:
        raise data_invalid(findings)
    return list(StratifiedKFold(number, shuffle=True, random_state=seed).split(target, target))


def _folds_by_order(
    target: npt.NDArray[Any], task: Task, number: int, order: npt.NDArray[np.int64]
) -> list[tuple[Rows, Rows]]:
    """Rows of one moment are in one fold, and every class is learned in each."""
    moments = np.unique(order)
    if len(moments) < 2 * (number + 1):
        message = f"the training rows are of {count(len(moments), 'moment')}"
        raise data_invalid([Finding("TooFewRows", f"{message}; {number} folds in order need {2 * (number + 1)}")])
    made = [
        (np.flatnonzero(np.isin(order, moments[before])), np.flatnonzero(np.isin(order, moments[after])))
        for before, after in TimeSeriesSplit(number).split(moments)
    ]
    if task == "Classification" and (findings := _not_learned(target, made[0][0], "come after the first fold")):
        raise data_invalid(findings)
    return made


def measure(
    model: Model, answers: Answers, truth: npt.NDArray[Any], wanted: Collection[str] = ORDER
) -> dict[str, float]:
    """Metrics of what the model answered, those that are wanted and can be computed."""
    if model.task == "Regression":
        return measure_numbers(truth, answers.values, wanted)
    return measure_classes(truth, answers.values, answers.probabilities, model.classes, wanted)


def measure_classes(
    truth: npt.NDArray[Any],
    predicted: npt.NDArray[Any],
    probabilities: npt.NDArray[np.float64] | None,
    classes: npt.NDArray[Any],
    wanted: Collection[str] = CLASSIFICATION,
) -> dict[str, float]:
    """Metrics of Classification.

    F1, Precision and Recall are of the second class in sorted order when there are two, else unweighted means over
    classes; ROCAUC of several classes is the mean of one-versus-rest. Without probabilities ROCAUC and LogLoss are
    left out; so is ROCAUC where a class has no row.
    """
    two = len(classes) == 2
    average: dict[str, Any] = {"average": "binary", "pos_label": classes[1]} if two else {"average": "macro"}
    average["zero_division"] = 0
    known: dict[str, Callable[[], float]] = {
        "Accuracy": lambda: metrics.accuracy_score(truth, predicted),
        "BalancedAccuracy": lambda: metrics.balanced_accuracy_score(truth, predicted),
        "F1": lambda: metrics.f1_score(truth, predicted, **average),
        "Precision": lambda: metrics.precision_score(truth, predicted, **average),
        "Recall": lambda: metrics.recall_score(truth, predicted, **average),
    }
    if probabilities is not None:
        scores = probabilities[:, 1] if two else probabilities
        if np.isin(classes, truth).all():
            known["ROCAUC"] = lambda: metrics.roc_auc_score(truth, scores, multi_class="ovr", labels=classes)
        known["LogLoss"] = lambda: metrics.log_loss(truth, probabilities, labels=classes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # classes without a row; rows of one-versus-one AdaBoost sum to 1 only roughly
        return {name: float(compute()) for name, compute in known.items() if name in wanted}


def measure_numbers(
    truth: npt.NDArray[np.float64], predicted: npt.NDArray[np.float64], wanted: Collection[str] = REGRESSION
) -> dict[str, float]:
    """Metrics of Regression. MAPE is left out where a true value is zero; so is any that is too large to report."""
    known: dict[str, Callable[[], float]] = {
        "RMSE": lambda: metrics.root_mean_squared_error(truth, predicted),
        "MAE": lambda: metrics.mean_absolute_error(truth, predicted),
        "R2": lambda: metrics.r2_score(truth, predicted),
    }
    if np.all(truth != 0):
        known["MAPE"] = lambda: metrics.mean_absolute_percentage_error(truth, predicted)
    values = {name: float(compute()) for name, compute in known.items() if name in wanted}
    return {name: value for name, value in values.items() if abs(value) < LARGEST}


def chosen_by(run: Run, measured: Mapping[str, float]) -> str:
    """The metric that decides: that of the search, or the first of the task."""
    if run.tuning is not None and run.tuning.metric in measured:
        return run.tuning.metric
    return next(name for name in ORDER if name in measured)


def measure_one(metric: str, model: Model, answers: Answers, truth: npt.NDArray[Any]) -> float:
    """This metric alone. Raises TrainingError `ParametersInvalid` when it cannot be computed."""
    measured = measure(model, answers, truth, (metric,))
    if metric not in measured:
        why = _why(metric, measure(model, answers, truth), type(model.estimator).__name__)
        raise TrainingError("ParametersInvalid", f"{metric} cannot be computed: {why}")
    return measured[metric]


def check(requirements: Sequence[Requirement], measured: Mapping[str, float], estimator: str, test_rows: int) -> None:
    """Raises TrainingError `RequirementNotMet` that names every bound that does not hold."""
    missed = [words for requirement in requirements if (words := _missed(requirement, measured, estimator))]
    if missed:
        text = "; ".join(missed)
        raise TrainingError("RequirementNotMet", f"{text} (on {test_rows:,} held-out rows). Nothing was published")


def _missed(requirement: Requirement, measured: Mapping[str, float], estimator: str) -> str | None:
    value = measured.get(requirement.metric)
    if value is None:
        why = _why(requirement.metric, measured, estimator)
        return f"{requirement.metric} is required, but it cannot be computed: {why}"
    words = beyond(requirement, value)
    return f"{requirement.metric} is {words}" if words else None


def beyond(requirement: Requirement, value: float) -> str:
    """A value that misses a bound, with the bound, in words; empty when it holds."""
    text = formatted(value)
    if requirement.minimum is not None and value < float(requirement.minimum):
        limit, word = requirement.minimum, "below the minimum"
    elif requirement.maximum is not None and value > float(requirement.maximum):
        limit, word = requirement.maximum, "above the maximum"
    else:
        return ""
    shown = repr(value) if float(text) == float(limit) else text
    return f"{shown}, {word} of {limit}"


def _why(metric: str, measured: Mapping[str, float], estimator: str) -> str:
    if metric in ("ROCAUC", "LogLoss"):
        return "a class has no held-out row" if "LogLoss" in measured else f"{estimator} gives no probabilities"
    if metric == "MAPE":
        return "a held-out target is zero"
    return "the errors are too large"


def formatted(value: float) -> str:
    """A plain decimal with four significant digits, more before the point: `0.9722`, `53.85`, `12346`."""
    if value == 0 or abs(value) < 5e-10:
        return "0"
    places = min(9, max(0, 3 - math.floor(math.log10(abs(value)))))
    text = f"{Decimal(value):.{places}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
