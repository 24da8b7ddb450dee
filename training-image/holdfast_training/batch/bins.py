"""How the rows of a run are spread over the bins of the bundle's profile, and how far that is from its reference.

Counts only: no value leaves the pod. A feature whose entry in the profile cannot be used is left out.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from holdfast_training.contender import Array

MAX_FEATURES = 50
MAX_BINS = 100

Counts = Mapping[str, Sequence[int]]
"""By name of the feature or the output; the last bins are the missing ones."""


class Bins:
    """The bins of one feature, or of what the model says."""

    def __init__(self, entry: Mapping[str, Any], values: Sequence[Any] | None) -> None:
        """`values`: the texts or labels that have a bin each; None for bins between edges. Raises ValueError."""
        self._places: dict[Any, int] | None = None
        shares = [float(share) for share in entry["ratios"]]
        missing = float(entry.get("missingRatio", 0.0))
        if values is None:
            self._edges = np.array(entry["edges"], float)
            if not np.isfinite(self._edges).all() or any(one >= other for one, other in pairwise(self._edges)):
                raise ValueError("edges do not rise")
            bins = len(self._edges) + 1
            self.reference = [*shares, missing]
        else:
            self._places = {value: place for place, value in enumerate(values)}
            bins = len(self._places)
            self.reference = [*shares, float(entry.get("otherRatio", 0.0)), missing]
        if len(shares) != bins or bins > MAX_BINS or not all(0 <= share <= 1 for share in self.reference):
            raise ValueError("ratios do not fit")

    def counts(self, values: Array) -> list[int]:
        """Of rows of shape [n]."""
        counts = [0] * len(self.reference)
        if self._places is None:
            numbers = values.astype(np.float64)
            known = numbers[~np.isnan(numbers)]
            found = np.bincount(np.searchsorted(self._edges, known, side="left"), minlength=len(counts) - 1)
            return [*found.tolist(), len(numbers) - len(known)]
        for value, rows in Counter(values.tolist()).items():
            counts[self._places.get(value, -1 if value == "" else -2)] += rows
        return counts


class Tally:
    """Counts of all features and of the predictions, over many chunks of rows."""

    def __init__(self, profile: Mapping[str, Any]) -> None:
        self.rows = _whole(profile.get("rows"))
        """Of the reference; 0 without one."""
        self._features = dict(_features(profile)) if self.rows else {}
        self._prediction = _prediction(profile) if self.rows else None
        self.counts: dict[str, list[int]] = {name: [0] * len(each.reference) for name, each in self.bins().items()}

    def bins(self) -> dict[str, Bins]:
        """By name, features first."""
        found = {name: bins for name, (*_, bins) in self._features.items()}
        return found | ({self._prediction[0]: self._prediction[1]} if self._prediction else {})

    def add(self, feeds: Mapping[str, Array], answers: Mapping[str, Array]) -> None:
        """Count what the model was fed, and what it said. Arrays begin with a row."""
        for name, (is_said, source, place, bins) in self._features.items():
            if (array := (answers if is_said else feeds).get(source)) is not None:
                table = array.reshape(len(array), -1)
                if place < table.shape[1]:
                    self._add(name, bins.counts(table[:, place]))
        if self._prediction and (said := answers.get(self._prediction[0])) is not None:
            self._add(self._prediction[0], self._prediction[1].counts(said.reshape(-1)))

    def _add(self, name: str, counts: Sequence[int]) -> None:
        self.counts[name] = [one + other for one, other in zip(self.counts[name], counts, strict=True)]


def differences(bins: Mapping[str, Bins], reference_rows: int, counts: Counts) -> list[dict[str, Any]]:
    """Per feature its PSI against the reference in thousandths, and how many bins it was taken over; worst first."""
    found = []
    for name, each in bins.items():
        if sum(counts.get(name, ())):
            expected = [share * reference_rows for share in each.reference]
            value = psi(expected, counts[name])
            found.append({"name": name[:128], "psiPerMille": round(1000 * value), "bins": len(expected)})
    return sorted(found, key=lambda entry: (-entry["psiPerMille"], entry["name"]))


def psi(one: Sequence[float], other: Sequence[float]) -> float:
    """Population stability index of two lists of rows by bin; infinite nowhere, since half a row is added to each."""
    return sum((q - p) * math.log(q / p) for p, q in zip(_shares(one), _shares(other), strict=True))


def _shares(rows: Sequence[float]) -> list[float]:
    total = sum(rows) + 0.5 * len(rows)
    return [(each + 0.5) / total for each in rows]


def _features(profile: Mapping[str, Any]) -> Iterator[tuple[str, tuple[bool, str, int, Bins]]]:
    """By name: whether it belongs to an output, of which name, and in which column; and its bins."""
    listed = profile.get("features")
    if not isinstance(listed, dict):
        return
    for name in sorted(listed)[:MAX_FEATURES]:
        entry = listed[name]
        try:
            values = entry["categories"] if entry["kind"] == "categorical" else None
            is_said = "output" in entry
            source = str(entry["output"] if is_said else entry.get("input", name))
            yield name, (is_said, source, _whole(entry.get("column", 0)), Bins(entry, values))
        except (KeyError, TypeError, ValueError, AttributeError):
            continue


def _prediction(profile: Mapping[str, Any]) -> tuple[str, Bins] | None:
    entry = profile.get("prediction")
    if not isinstance(entry, dict):
        return None
    usual = "label" if "labels" in entry else "prediction"
    try:
        return str(entry.get("output", usual)), Bins(entry, entry.get("labels"))
    except (KeyError, TypeError, ValueError):
        return None


def _whole(value: Any) -> int:
    return value if type(value) is int and value >= 0 else 0
