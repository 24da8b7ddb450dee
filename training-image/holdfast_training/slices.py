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
from holdfast_training.errors import Finding, TrainingError, count, listed
from holdfast_training.model import Answers, Model
from holdfast_training.spec import SliceRequirement

MIN_ROWS = 10
"""With fewer, a metric says more about chance than about the model."""

_LONGEST_NAME = 128
_MOST_NAMED = 8


@dataclass(frozen=True, slots=True)
class Slice:
    """Rows that have something in common.

    Attributes:
        index: of the category among those of the training rows in sorted order, or of the quarter.
        text: the category, or the range of the numbers; for the bundle, never for a status.
        metrics: none with fewer than `MIN_ROWS` rows, and none that says nothing about them.
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
    known = columns.numeric + columns.categorical
    if missing := [name for name in names if name not in known]:
        these = f"these are: {listed(known)}" if known else "there are none beside the images"
        message = f"evaluation.slices: not among the features: {listed(missing)}; {these}"
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


def headlines(slices: Sequence[Slice], metric: str) -> list[dict[str, str]]:
    """This metric of each slice that has it, for a status."""
    return [
        {"name": metric, "value": evaluation.formatted(each.metrics[metric]), "slice": each.name}
        for each in slices
        if metric in each.metrics
    ]


def hold(
    requirements: Sequence[SliceRequirement], names: Sequence[str], slices: Sequence[Slice]
) -> tuple[Finding, ...]:
    """Hold each slice of these columns to what is required of it; returns which could not be held to it.

    Raises:
        TrainingError: `RequirementNotMet` with every slice that misses a bound, the worst ones first. A column of which
            no slice could be judged misses it, too: nothing would have been asked of the model.
    """
    missed = [finding for requirement in requirements for finding in _missed(requirement, names, slices)]
    if missed:
        shown = "; ".join(finding.message for finding in missed[:_MOST_NAMED])
        more = f"; and {len(missed) - _MOST_NAMED} more, see findings" if len(missed) > _MOST_NAMED else ""
        raise TrainingError("RequirementNotMet", f"{shown}{more}. Nothing was published", missed)
    unjudged = [finding for requirement in requirements for finding in _unjudged(requirement, names, slices)]
    return tuple(unjudged)


def _missed(requirement: SliceRequirement, names: Sequence[str], slices: Sequence[Slice]) -> list[Finding]:
    metric, found = requirement.metric, dict[Finding, float]()
    limit = float(requirement.minimum or requirement.maximum or 0)
    for each in (each for each in slices if _is_judged(each, requirement)):
        if words := evaluation.beyond(requirement, each.metrics[metric]):
            message = f"{metric} of slice {each.name} ({count(each.rows, 'row')}) is {words}"
            finding = Finding("RequirementNotMet", message, each.column, each.rows)
            found[finding] = abs(each.metrics[metric] - limit)
    for name in names:
        own = [each for each in slices if each.column == name]
        if not any(_is_judged(each, requirement) for each in own):
            message = (
                f"{metric} is required of each slice of {name}, but none has {requirement.min_rows:,} held-out rows "
                "and a value"
            )
            found[Finding("RequirementNotMet", message, name)] = float("inf")
    return sorted(found, key=lambda finding: -found[finding])


def _unjudged(requirement: SliceRequirement, names: Sequence[str], slices: Sequence[Slice]) -> Iterator[Finding]:
    for name in names:
        left = [each for each in slices if each.column == name and not _is_judged(each, requirement)]
        if left:
            message = (
                f"{requirement.metric} is not required of {listed([each.name for each in left], _MOST_NAMED)}: fewer "
                f"than {requirement.min_rows:,} held-out rows, or no value"
            )
            yield Finding("SliceNotJudged", message, name, sum(each.rows for each in left))


def _is_judged(each: Slice, requirement: SliceRequirement) -> bool:
    return each.rows >= requirement.min_rows and requirement.metric in each.metrics


def _metrics(model: Model, answers: Answers, truth: npt.NDArray[Any], rows: evaluation.Rows) -> dict[str, float]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of classes that this part has not
        measured = evaluation.measure(model, answers.take(rows), truth[rows])
    void = _void(model, truth[rows])
    return {name: value for name, value in measured.items() if np.isfinite(value) and name not in void}


def _void(model: Model, truth: npt.NDArray[Any]) -> tuple[str, ...]:
    """Metrics that would be 0 by convention, because what they are about does not occur."""
    if model.task == "Regression":
        return ("R2",) if np.all(truth == truth[0]) else ()
    return () if len(model.classes) > 2 or np.any(truth == model.classes[1]) else ("F1", "Precision", "Recall")
