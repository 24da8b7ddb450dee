"""What goes into the bundle beside the model: golden requests, and statistics of the held-out rows.

Held-out, because a model is surer of rows it was trained on: a reference made from those would call every live row
drifted.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from holdfast_bundle.manifest import Tensor
from holdfast_training.columns import MONITOR, Frame
from holdfast_training.conversion import Tolerance, feeds, tolerance_for
from holdfast_training.model import Answers, Model

GOLDEN_ROWS = 8
GOLDEN_PIXELS = 1 << 18
"""Of all images: JSON takes much room for each."""

BINS = 10
CONFIDENCE_BINS = 20
TOP_CATEGORIES = 30
_CONFIDENCE_EDGES = np.arange(1, CONFIDENCE_BINS) / CONFIDENCE_BINS

_DECIMALS = 5
"""Of what is watched: it is on the scale of 1, in FP32."""
ERRORS_FROM, ERRORS_TO, BINS_PER_OCTAVE = -3, 4, 4
"""Errors are told apart from an eighth of the mean one, in powers of two, to sixteen times as much."""


def golden(
    model: Model, inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...], held_out: Frame, truth: npt.NDArray[Any]
) -> dict[str, Any]:
    """A few held-out rows, each as one request with scikit-learn's answers.

    Missing numbers are imputed first (JSON has no NaN); ties are left out, and classes take turns.
    """
    rows = model.preprocessor.impute(held_out)
    answers = model.answer(rows)
    tolerance = tolerance_for(answers)
    groups = truth if model.task == "Classification" else np.zeros(len(truth))
    images = model.columns.images
    most = GOLDEN_ROWS if images is None else min(GOLDEN_ROWS, max(1, GOLDEN_PIXELS // math.prod(images.shape)))
    chosen = np.array(_taking_turns(groups, _clear(answers, tolerance), most), np.intp)
    asked, said = rows.take(chosen), _by_output(answers, chosen)
    if model.monitored:
        said[MONITOR] = model.monitor(asked)
    fed = feeds(model.columns, asked)
    return {
        "requests": [
            {
                "inputs": [_tensor(tensor, fed[tensor.name][place]) for tensor in inputs],
                "outputs": [_tensor(tensor, said[tensor.name][place]) for tensor in outputs],
            }
            for place in range(len(chosen))
        ],
        "tolerance": {"relative": tolerance.relative, "absolute": tolerance.absolute},
    }


def _clear(answers: Answers, tolerance: Tolerance) -> npt.NDArray[np.bool_]:
    if answers.margins is None:
        return np.ones(len(answers.values), bool)
    clear: npt.NDArray[np.bool_] = answers.margins > 10 * tolerance.absolute
    return clear


def _taking_turns(groups: npt.NDArray[Any], usable: npt.NDArray[np.bool_], most: int) -> list[int]:
    rows = np.flatnonzero(usable)
    turn = np.zeros(len(rows), int)
    for group in np.unique(groups[rows]):
        members = groups[rows] == group
        turn[members] = np.arange(members.sum())
    return sorted(int(row) for row in rows[np.argsort(turn, kind="stable")][:most])


def _by_output(answers: Answers, rows: npt.NDArray[np.intp]) -> dict[str, npt.NDArray[Any]]:
    said: dict[str, npt.NDArray[Any]] = {"label": answers.values[rows], "prediction": answers.values[rows]}
    if answers.probabilities is not None:
        said["probabilities"] = answers.probabilities[rows]
    return said


def _tensor(tensor: Tensor, values: Any) -> dict[str, Any]:
    """One row of a tensor as the Open Inference Protocol writes it, flat."""
    flat = np.atleast_1d(values).ravel().tolist()
    data = [_short(number) for number in flat] if tensor.datatype == "FP32" else flat
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": [1, *tensor.shape[1:]], "data": data}


def _short(number: float) -> float:
    """The number with the fewest digits that is read as the same FP32 number: 14.23, not 14.229999542236328."""
    exact = np.float32(number)
    short = float(str(exact))
    return short if np.float32(short) == exact else float(exact)


def profile(model: Model, held_out: Frame, truth: npt.NDArray[Any], answers: Answers) -> dict[str, Any]:
    """Reference statistics for drift and for performance without labels.

    All ratios are shares of `rows`. A number x is in bin `bisect_left(edges, x)`, so each edge belongs to the bin
    below it; a category that is not listed is `other`. Confidence is the largest probability, in bins of equal width,
    the last of them closed; `accuracy` is null where no held-out row fell. The `excess` of a column says by how much
    more often predictions were right in each of its bins than others of their confidence. Absolute errors are in bins
    that grow with them; a model without any error has none. Of images and embeddings, features are columns of the
    output `monitor`; of an embedding also its first element, which is missing where the whole is.
    """
    numeric = {name: _numeric(held_out.numeric[:, index]) for index, name in enumerate(model.columns.single)}
    for vector, place in model.columns.vectors.items():
        first = model.columns.numeric[place.start]
        numeric[first] = {**_numeric(held_out.numeric[:, place.start]), "input": vector, "column": 0}
    texts = {name: _category(held_out.categorical[:, index]) for index, name in enumerate(model.columns.categorical)}
    document: dict[str, Any] = {"rows": len(held_out), "features": numeric | texts | _monitored(model, held_out)}
    if model.task == "Regression":
        document["prediction"] = _bins(answers.values)
        errors = np.abs(answers.values.astype(np.float64) - truth.astype(np.float64))
        return document | ({"absoluteError": _errors(errors)} if errors.any() else {})
    counts = [(answers.values == label).sum() for label in model.classes]
    document["prediction"] = {"labels": model.classes.tolist(), "ratios": _ratios(np.array(counts), len(held_out))}
    if answers.probabilities is not None:
        confidence, correct = answers.probabilities.max(axis=1), answers.values == truth
        document["confidence"] = described = _confidence(confidence, correct)
        surprise = correct - np.array(described["accuracy"], np.float64)[_confidence_bins(confidence)]
        for index, name in enumerate(model.columns.single):
            numeric[name]["excess"] = _excess(_numeric_bins(numeric[name], held_out.numeric[:, index]), surprise)
        for index, name in enumerate(model.columns.categorical):
            texts[name]["excess"] = _excess(_category_bins(texts[name], held_out.categorical[:, index]), surprise)
    return document


def _monitored(model: Model, held_out: Frame) -> dict[str, Any]:
    """Another runtime computes the last bits otherwise, so edges lie between what can be told apart without them."""
    if not model.monitored:
        return {}
    seen = model.monitor(held_out).round(_DECIMALS)
    found = {}
    for column, name in enumerate(model.monitored):
        bins = _numeric(seen[:, column])
        edges = [round(edge + 0.5 * 10**-_DECIMALS, _DECIMALS + 1) for edge in bins["edges"]]
        found[name] = {**bins, "edges": edges, "output": MONITOR, "column": column}
    return found


def _numeric(values: npt.NDArray[np.float32]) -> dict[str, Any]:
    missing = np.isnan(values)
    rows = len(values)
    return {"kind": "numeric", **_bins(values[~missing], rows), "missingRatio": _ratio(missing.sum(), rows)}


def _bins(values: npt.NDArray[Any], rows: int | None = None) -> dict[str, Any]:
    """Bins of about equal share; fewer where many values are equal."""
    if not len(values):
        return {"edges": [], "ratios": [0.0]}
    # An observed value and not a mean of two: a value that never occurs makes bins that hang on the last bit.
    quantiles = np.quantile(values, np.arange(1, BINS) / BINS, method="inverted_cdf")
    edges = np.unique(quantiles[quantiles < values.max()].astype(np.float32))
    counts = np.bincount(np.searchsorted(edges, values.astype(np.float32), side="left"), minlength=len(edges) + 1)
    return {"edges": [float(edge) for edge in edges], "ratios": _ratios(counts, rows or len(values))}


def _category(values: npt.NDArray[np.object_]) -> dict[str, Any]:
    present = values[values != ""]
    names, counts = np.unique(present.astype(str), return_counts=True)
    order = np.lexsort((names, -counts))[:TOP_CATEGORIES]
    rows = len(values)
    return {
        "kind": "categorical",
        "categories": names[order].tolist(),
        "ratios": _ratios(counts[order], rows),
        "otherRatio": _ratio(len(present) - counts[order].sum(), rows),
        "missingRatio": _ratio(rows - len(present), rows),
    }


def _confidence(confidence: npt.NDArray[np.float64], correct: npt.NDArray[np.bool_]) -> dict[str, Any]:
    bins = _confidence_bins(confidence)
    counts = np.bincount(bins, minlength=CONFIDENCE_BINS)
    right = np.bincount(bins[correct], minlength=CONFIDENCE_BINS)
    accuracy = [_ratio(hits, total) if total else None for hits, total in zip(right, counts, strict=True)]
    return {"edges": _CONFIDENCE_EDGES.tolist(), "ratios": _ratios(counts, len(confidence)), "accuracy": accuracy}


def _confidence_bins(confidence: npt.NDArray[np.float64]) -> npt.NDArray[np.intp]:
    return np.searchsorted(_CONFIDENCE_EDGES, confidence, side="left")


def _numeric_bins(described: dict[str, Any], values: npt.NDArray[np.float32]) -> list[npt.NDArray[np.intp]]:
    """By bin, the rows in it."""
    bins = np.where(np.isnan(values), -1, np.searchsorted(np.array(described["edges"], np.float32), values))
    return [np.flatnonzero(bins == bin_) for bin_ in range(len(described["ratios"]))]


def _category_bins(described: dict[str, Any], values: npt.NDArray[np.object_]) -> list[npt.NDArray[np.intp]]:
    return [np.flatnonzero(values == category) for category in described["categories"]]


def _excess(bins: list[npt.NDArray[np.intp]], surprise: npt.NDArray[np.float64]) -> list[float]:
    return [round(float(surprise[rows].mean()), 9) if len(rows) else 0.0 for rows in bins]


def _errors(errors: npt.NDArray[np.float64]) -> dict[str, Any]:
    """Bins of absolute errors with their means; where no held-out row fell, what is in the middle of the bin."""
    powers = np.arange(ERRORS_FROM * BINS_PER_OCTAVE, ERRORS_TO * BINS_PER_OCTAVE + 1) / BINS_PER_OCTAVE
    edges = errors.mean() * 2.0**powers
    bins = np.searchsorted(edges, errors, side="left")
    counts = np.bincount(bins, minlength=len(edges) + 1)
    sums = np.bincount(bins, errors, minlength=len(edges) + 1)
    middles = [edges[0] / 2, *np.sqrt(edges[1:] * edges[:-1]), edges[-1]]
    means = [float(sums[bin_] / count if count else middles[bin_]) for bin_, count in enumerate(counts)]
    return {"edges": edges.tolist(), "ratios": _ratios(counts, len(errors)), "means": means}


def _ratios(counts: npt.NDArray[Any], rows: int) -> list[float]:
    return [_ratio(count, rows) for count in counts]


def _ratio(count: Any, rows: int) -> float:
    return round(int(count) / rows, 9)
