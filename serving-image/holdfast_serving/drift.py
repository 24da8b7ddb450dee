"""Counts of the rows that a model saw and of what it said, by the bins of its profile.

Exact and not sampled: every row that the model has run on is counted, hundreds of rows at a time, for which a few
array operations do. Until then the arrays of their runs are kept, within bounds.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from holdfast_serving.errors import Errors
from holdfast_serving.inference import Array
from holdfast_serving.profile import Feature, Profile, Ranges, Values
from holdfast_serving.signature import Signature

if TYPE_CHECKING:
    from prometheus_client.core import Metric

log = logging.getLogger(__name__)

Runs: TypeAlias = "list[tuple[list[Array], list[Array]]]"
"""Inputs and outputs that are counted, per run."""

_ENOUGH_ARRAYS, _ENOUGH_BYTES = 1 << 11, 64 << 10
_LARGE_BYTES = 1 << 20
_CHUNK = 1 << 20  # comparisons at a time


class Drift:
    """Counts of one revision. `count` may be called in any thread, all else in that of the event loop.

    Runs that have been recorded are taken and counted by whoever recorded them; a scrape does it, too.

    Attributes:
        errors: of predicted numbers, for whoever learns the truth; None where the profile has no bins for them.
    """

    def __init__(self, profile: Profile, signature: Signature, labels: Mapping[str, str]) -> None:
        """`labels`: of all metrics."""
        self._profile = profile
        self._labels = dict(labels)
        self._numeric = [feature for feature in profile.features if isinstance(feature.bins, Ranges)]
        self._discrete = [feature for feature in profile.features if isinstance(feature.bins, Values)]
        self._numbers = _Numbers([feature.bins for feature in self._numeric if isinstance(feature.bins, Ranges)])
        self._values = [_Values(feature.bins) for feature in self._discrete if isinstance(feature.bins, Values)]
        self._prediction = tally(profile.prediction.bins) if profile.prediction else None
        self._confidence = _Numbers([profile.confidence.bins]) if profile.confidence else None
        self.errors = Errors(profile.absolute_error.bins) if profile.absolute_error else None
        self._inputs = sorted({feature.input for feature in profile.features if feature.output is None})
        outputs = [feature.output for feature in profile.features]
        outputs += [part.output for part in (profile.prediction, profile.confidence) if part]
        self._outputs = sorted({output for output in outputs if output is not None})
        # Inputs can be views of one block of memory, which is kept with any of them.
        self._all_inputs = len(self._inputs) == len(signature.inputs)
        self._enough = _ENOUGH_ARRAYS // (len(self._inputs) + len(self._outputs) or 1)
        self._runs: Runs = []
        self._bytes = 0
        self._counting = threading.Lock()
        self._broken = False

    def record(self, inputs: Mapping[str, Array], outputs: Sequence[Array]) -> bool:
        """Take note of a run. Returns whether it is time to count."""
        kept = [inputs[name] for name in self._inputs]
        said = [outputs[index] for index in self._outputs]
        self._runs.append((kept, said))
        self._bytes += sum([array.nbytes for array in (kept if self._all_inputs else inputs.values())])
        self._bytes += sum([array.nbytes for array in said])
        return self._bytes > _ENOUGH_BYTES or len(self._runs) >= self._enough

    @property
    def is_large(self) -> bool:
        """Whether counting takes longer than the event loop should wait."""
        return self._bytes > _LARGE_BYTES

    def take(self) -> Runs:
        """What has been noted and not yet been taken."""
        runs, self._runs, self._bytes = self._runs, [], 0
        return runs

    def count(self, runs: Runs) -> None:
        """Count the rows of runs."""
        with self._counting:
            if not runs or self._broken:
                return
            try:
                self._count(runs)
            except Exception:  # whatever it is, requests are worth more than their statistics
                self._broken = True
                log.exception("rows are not counted any more")

    def _count(self, runs: Runs) -> None:
        given = {name: table([kept[index] for kept, _ in runs]) for index, name in enumerate(self._inputs)}
        said = {output: table([outputs[index] for _, outputs in runs]) for index, output in enumerate(self._outputs)}

        def column(feature: Feature) -> Array:
            rows = given[feature.input] if feature.output is None else said[feature.output]
            return rows[:, feature.column]

        columns = [column(feature) for feature in self._numeric]
        if len({len(numbers) for numbers in columns}) == 1:
            self._numbers.add(np.array(columns, np.float64))
        else:
            for index, numbers in enumerate(columns):
                self._numbers.add(numbers[np.newaxis].astype(np.float64), slice(index, index + 1))
        for feature, values in zip(self._discrete, self._values, strict=True):
            values.add(column(feature))
        if self._profile.prediction and self._prediction:
            self._prediction.add(said[self._profile.prediction.output].reshape(1, -1))
        if self._profile.confidence and self._confidence:
            self._confidence.add(said[self._profile.confidence.output].max(axis=1).reshape(1, -1))

    def collect(self) -> Iterator[Metric]:
        """For a prometheus_client registry."""
        self.count(self.take())
        profile = self._profile
        counts = {feature.name: self._numbers.counts(index) for index, feature in enumerate(self._numeric)}
        counts |= {feature.name: tally.counts(0) for feature, tally in zip(self._discrete, self._values, strict=True)}
        features = [([feature.name], feature.bins, counts[feature.name]) for feature in profile.features]
        yield from self._family("feature", ["feature"], features, "Rows by the bins of each feature.")
        if any(feature.excess for feature in profile.features):
            yield self._excess()
        parts: list[_Part]
        if profile.prediction and self._prediction:
            parts = [([], profile.prediction.bins, self._prediction.counts(0))]
            yield from self._family("prediction", [], parts, "Rows by what the model said of them.")
        if profile.confidence and self._confidence:
            parts = [([], profile.confidence.bins, self._confidence.counts(0))]
            yield from self._family("confidence", [], parts, "Rows by their largest probability.")
            accuracy = dict(enumerate(profile.confidence.accuracy))
            known = {bin_: share for bin_, share in accuracy.items() if share is not None}
            text = "Share of right predictions among the held-out rows of the bin; absent without any."
            yield self._by_bin("holdfast_model_confidence_reference_accuracy", text, known)
        if profile.absolute_error and self.errors:
            parts = [([], profile.absolute_error.bins, self.errors.counts())]
            yield from self._family("absolute_error", [], parts, "Rows by how far the truth was from the prediction.")
            means = dict(enumerate(profile.absolute_error.means))
            text = "Mean absolute error of the held-out rows of the bin."
            yield self._by_bin("holdfast_model_absolute_error_reference_mean", text, means)

    def _family(self, what: str, names: list[str], parts: list[_Part], text: str) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        labels, values = [*self._labels, *names], list(self._labels.values())
        prefix = f"holdfast_model_{what}"
        bins = CounterMetricFamily(f"{prefix}_bin", text, labels=[*labels, "bin"])
        ratio = GaugeMetricFamily(
            f"{prefix}_reference_ratio", "The bin's share of the held-out rows.", labels=[*labels, "bin"]
        )
        rows = GaugeMetricFamily(f"{prefix}_reference_count", "Held-out rows behind the ratios.", labels=labels)
        for own, part, counts in parts:
            rows.add_metric([*values, *own], self._profile.rows)
            for name, count, share in zip(part.names, counts, part.shares, strict=True):
                bins.add_metric([*values, *own, name], count)
                ratio.add_metric([*values, *own, name], share)
        yield from (bins, ratio, rows)

    def _excess(self) -> Metric:
        from prometheus_client.core import GaugeMetricFamily

        family = GaugeMetricFamily(
            "holdfast_model_feature_reference_excess",
            "How much more often held-out predictions were right in the bin than others of the same confidence.",
            labels=[*self._labels, "feature", "bin"],
        )
        for feature in self._profile.features:
            for bin_, excess in enumerate(feature.excess):
                family.add_metric([*self._labels.values(), feature.name, str(bin_)], excess)
        return family

    def _by_bin(self, name: str, text: str, values: Mapping[int, float]) -> Metric:
        """A gauge that is known of some bins."""
        from prometheus_client.core import GaugeMetricFamily

        family = GaugeMetricFamily(name, text, labels=[*self._labels, "bin"])
        for bin_, value in values.items():
            family.add_metric([*self._labels.values(), str(bin_)], value)
        return family


_Part: TypeAlias = "tuple[list[str], Ranges | Values, list[int]]"
"""Values of labels of its own, bins, and their counts."""


class _Numbers:
    """Counts of several columns of numbers at once, each with its own bins."""

    def __init__(self, columns: Sequence[Ranges]) -> None:
        self._sizes = [len(bins.ratios) for bins in columns]
        # Bins beyond a column's last one begin at infinity, where no number is.
        self._edges = np.full((len(columns), max(self._sizes, default=1), 1), np.inf)
        for edges, bins in zip(self._edges, columns, strict=True):
            edges[: len(bins.edges), 0] = bins.edges
        self._counts = np.zeros((len(columns), self._edges.shape[1] + 1), np.int64)
        self._missing = np.zeros(len(columns), np.int64)

    def add(self, rows: Array, which: slice = slice(None)) -> None:
        """Count numbers, by column and row; `which` are the columns."""
        edges = self._edges[which]
        step = max(1, _CHUNK // edges.size)
        for start in range(0, rows.shape[1], step):
            chunk = rows[:, start : start + step]
            missing = np.isnan(chunk).sum(axis=1)
            # Numbers above each edge: the first bin has what is not above the first one, and so on.
            above = np.bitwise_count(np.packbits(chunk[:, np.newaxis] > edges, axis=2)).sum(axis=2, dtype=np.int64)
            present = (chunk.shape[1] - missing)[:, np.newaxis]
            self._counts[which] -= np.diff(above, axis=1, prepend=present, append=0)
            self._missing[which] += missing

    def counts(self, column: int) -> list[int]:
        """Of a column's bins, and of what is missing."""
        return [*self._counts[column, : self._sizes[column]].tolist(), int(self._missing[column])]


class _Values:
    """Counts of a column of values."""

    def __init__(self, bins: Values) -> None:
        self._places = {value: place for place, value in enumerate(bins.values)}
        self._other, missing = range(len(bins.values), len(bins.values) + 2)
        self._places[""] = missing
        self._counts = [0] * (missing + 1)

    def add(self, rows: Array) -> None:
        """Count values."""
        for value, count in Counter(rows.ravel().tolist()).items():
            self._counts[self._places.get(value, self._other)] += count

    def counts(self, column: int) -> list[int]:
        """Of the bins, of other values, and of what is missing."""
        return list(self._counts)


def tally(bins: Ranges | Values) -> Any:
    """Counts a column: `add(rows)`, of shape [1, rows], and `counts(0)` in the order of the bins' names."""
    return _Numbers([bins]) if isinstance(bins, Ranges) else _Values(bins)


def table(arrays: Sequence[Array]) -> Array:
    """All rows, one after the other; what is behind the first dimension is made flat."""
    if arrays[0].ndim == 0:
        arrays = [array.reshape(1) for array in arrays]
    joined = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
    return joined.reshape(len(joined), -1)
