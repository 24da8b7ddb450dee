"""The model on parts of the held-out rows: each category of a column, or each quarter of a column of numbers."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from holdfast_training import evaluation
from holdfast_training.columns import Columns, Frame
from holdfast_training.errors import TrainingError, listed
from holdfast_training.model import Answers, Model

MIN_ROWS = 10
"""With fewer, a metric says more about chance than about the model."""

_LONGEST_NAME = 128


@dataclass(frozen=True, slots=True)
class Slice:
    """Rows that have something in common.

    Attributes:
        index: of the category among those of the training rows in sorted order, or of the quarter.
        text: the category, or the range of the numbers; for the bundle, never for a status.
        metrics: none with fewer than `MIN_ROWS` rows.
    """

    column: str
    index: int
    text: str
    rows: int
    metrics: dict[str, float]

    @property
    def name(self) -> str:
        """`column=index`, as in `status.metrics`."""
        room = _LONGEST_NAME - len(f"={self.index}")
        column = self.column if len(self.column) <= room else self.column[: room - 1] + "…"
        return f"{column}={self.index}"

    def to_json(self) -> dict[str, Any]:
        """For the bundle."""
        metrics = {name: evaluation.formatted(value) for name, value in sorted(self.metrics.items())}
        return {"column": self.column, "index": self.index, "of": self.text, "rows": self.rows, "metrics": metrics}


def check(names: Sequence[str], columns: Columns) -> None:
    """Raises TrainingError `ColumnNotFound` when a column is not a feature."""
    if missing := [name for name in names if name not in columns.names]:
        message = f"evaluation.slices: not among the features: {listed(missing)}; these are: {listed(columns.names)}"
        raise TrainingError("ColumnNotFound", message)


def measure(
    names: Sequence[str], model: Model, training: Frame, held_out: Frame, answers: Answers, truth: npt.NDArray[Any]
) -> list[Slice]:
    """Every slice of these columns that has a held-out row. A category that no training row had is in none."""
    found = []
    for name in names:
        for index, text, rows in parts(name, model.columns, training, held_out):
            metrics = _metrics(model, answers, truth, rows) if len(rows) >= MIN_ROWS else {}
            if len(rows):
                found.append(Slice(name, index, text, len(rows), metrics))
    return found


def parts(name: str, columns: Columns, training: Frame, held_out: Frame) -> Iterator[tuple[int, str, evaluation.Rows]]:
    """Index, text and held-out rows of each part that the training rows make of a column; there may be no rows."""
    if name in columns.categorical:
        place = columns.categorical.index(name)
        for index, category in enumerate(np.unique(training.categorical[:, place].astype(str))):
            text = str(category) or "(missing)"
            yield index, text, np.flatnonzero(held_out.categorical[:, place] == category)
        return
    place = columns.numeric.index(name)
    known = training.numeric[:, place]
    known = known[~np.isnan(known)]
    # Observed values and not means of two, which would hang on the last bit.
    bounds = np.unique(np.quantile(known, (0.25, 0.5, 0.75), method="inverted_cdf")) if len(known) else known
    numbers = held_out.numeric[:, place]
    quarters = np.searchsorted(bounds, numbers, side="left")
    ends = ["", *(evaluation.formatted(float(bound)) for bound in bounds), ""]
    for index in range(len(bounds) + 1):
        low, high = ends[index], ends[index + 1]
        text = f"above {low}" + (f" to {high}" if high else "") if low else (f"up to {high}" if high else "all")
        yield index, text, np.flatnonzero((quarters == index) & ~np.isnan(numbers))
    yield len(bounds) + 1, "(missing)", np.flatnonzero(np.isnan(numbers))


def _metrics(model: Model, answers: Answers, truth: npt.NDArray[Any], rows: evaluation.Rows) -> dict[str, float]:
    probabilities = None if answers.probabilities is None else answers.probabilities[rows]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of classes that this part has not
        measured = evaluation.measure(model, Answers(answers.values[rows], probabilities), truth[rows])
    return {name: value for name, value in measured.items() if np.isfinite(value)}
