"""What the model looks at, on held-out rows.

Permutation importance holds for every estimator: how much worse a metric gets when one column is shuffled. XGBoost and
LightGBM also give exact SHAP values themselves. The package `shap` is not needed for that, and would add a compiler
(numba, llvmlite) to the image for estimates about the others.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from holdfast_training import evaluation
from holdfast_training.columns import Frame
from holdfast_training.model import Answers, Model

REPEATS = 5
MAX_ROWS = 2000
MAX_ANSWERS = 500_000
"""Of the model, for all columns: the slowest estimators give some ten thousand a second."""
MAX_NUMBERS = 1 << 24
"""In the rows that it is asked about at once."""


def explain(model: Model, metric: str, held_out: Frame, truth: npt.NDArray[Any], seed: int) -> dict[str, Any]:
    """The document `explanation.json`: what the metric loses when a column or an embedding is shuffled, most first.

    `importance` is a mean over repeats, on the scale of the metric, positive when the column helps; `deviation` is that
    of the repeats. `shap` is the mean of the absolute contributions to the raw score. Of images there is no such thing,
    which `leftOut` says.
    """
    if model.columns.images is not None:
        return _of_images(model, metric, held_out, truth)
    columns = model.columns
    places = {name: slice(index, index + 1) for index, name in enumerate(columns.single)} | columns.vectors
    places |= {name: slice(index, index + 1) for index, name in enumerate(columns.categorical, len(columns.numeric))}
    random = np.random.RandomState(seed)
    most = min(MAX_ANSWERS // (REPEATS * len(places)), MAX_NUMBERS // (REPEATS * len(columns.names)))
    rows = min(len(held_out), MAX_ROWS, max(100, most))
    chosen = np.sort(random.permutation(len(held_out))[:rows])
    frame, truth = held_out.take(chosen), truth[chosen]
    whole = _value(model, metric, model.answer(frame), truth)
    shap = _shap(model, frame, [place.start for place in places.values()])
    repeated, repeats = frame.take(np.tile(np.arange(rows), REPEATS)), np.split(np.arange(rows * REPEATS), REPEATS)
    sign = -1.0 if metric in evaluation.SMALLER_IS_BETTER else 1.0
    features: list[dict[str, Any]] = []
    for index, (name, place) in enumerate(places.items()):
        order = np.concatenate([random.permutation(rows) for _ in repeats])
        answers = model.answer(_shuffled(repeated, place, order))  # asked once: small questions cost what large ones do
        losses = [sign * (whole - _value(model, metric, answers.take(repeat), truth)) for repeat in repeats]
        told: dict[str, Any] = {
            "name": name,
            "importance": _rounded(np.mean(losses)),
            "deviation": _rounded(np.std(losses)),
        }
        features.append(told if shap is None else {**told, "shap": _rounded(shap[index])})
    features.sort(key=lambda told: -told["importance"])  # of equals the first column first
    return {
        "metric": metric,
        "value": evaluation.formatted(whole),
        "rows": rows,
        "repeats": REPEATS,
        "features": features,
    }


def _of_images(model: Model, metric: str, held_out: Frame, truth: npt.NDArray[Any]) -> dict[str, Any]:
    return {
        "metric": metric,
        "value": evaluation.formatted(_value(model, metric, model.answer(held_out), truth)),
        "rows": len(held_out),
        "repeats": 0,
        "features": [],
        "leftOut": "A pixel by itself means nothing, so shuffling single ones would say nothing about the model.",
    }


def _value(model: Model, metric: str, answers: Answers, truth: npt.NDArray[Any]) -> float:
    worst = evaluation.LARGEST if metric in evaluation.SMALLER_IS_BETTER else -evaluation.LARGEST
    return evaluation.measure(model, answers, truth, (metric,)).get(metric, worst)


def _shuffled(frame: Frame, place: slice, order: npt.NDArray[np.intp]) -> Frame:
    numeric = frame.numeric.shape[1]
    if place.start < numeric:
        numbers = frame.numeric.copy()
        numbers[:, place] = numbers[order, place]
        return replace(frame, numeric=numbers)
    texts = frame.categorical.copy()
    column = place.start - numeric
    texts[:, column] = texts[order, column]
    return replace(frame, categorical=texts)


def _shap(model: Model, frame: Frame, starts: list[int]) -> npt.NDArray[np.float64] | None:
    """One number for each column or embedding that begins at one of `starts`; of several classes the mean over classes.

    None for estimators that do not give them.
    """
    estimator: Any = model.estimator
    features = model.preprocessor.transform(frame)
    name = type(estimator).__name__
    if name.startswith("XGB"):
        import xgboost

        given = estimator.get_booster().predict(xgboost.DMatrix(features), pred_contribs=True)
    elif name.startswith("LGBM"):
        given = estimator.booster_.predict(features, pred_contrib=True)
    else:
        return None
    width = features.shape[1] + 1  # the last is the bias
    contributions = np.asarray(given, np.float64).reshape(len(frame), -1, width)[:, :, :-1]
    groups = model.preprocessor.widths(model.columns)
    begins = np.cumsum([0, *groups])[starts]
    by_column = np.add.reduceat(contributions, begins, axis=2)
    mean: npt.NDArray[np.float64] = np.abs(by_column).mean(axis=(0, 1))
    return mean


def _rounded(value: Any) -> float:
    """To six digits: the last bits of a sum are nobody's business."""
    return float(f"{float(value):.6g}") + 0.0
