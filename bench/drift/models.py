"""A model as our trainer makes it of a stream, and what the serving runtime counts of its rows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from bench.drift.rows import Array, Episode, Rows, Scenario

from holdfast_bundle import manifest
from holdfast_serving import profile, session
from holdfast_serving.drift import Drift
from holdfast_training import spec
from holdfast_training.output import output_at
from holdfast_training.train import train

_CHUNK = 4096
_LABELS = {"model": "stream", "revision": "r"}

Part: TypeAlias = tuple[str, str]
"""What is counted: `feature` and its name, or `prediction` or `confidence` and nothing."""


@dataclass(frozen=True, slots=True)
class Reference:
    """What a scrape shows of a part's held-out rows: their shares by bin, and how many they are."""

    shares: dict[str, float]
    rows: float


@dataclass(frozen=True, slots=True)
class Counted:
    """What scrapes would have shown.

    Attributes:
        totals: of each part, by tick and bin, what its counters have counted since the beginning.
        bins: their names.
        accuracy: of held-out rows, by bin of confidence.
        excess: of features, by bin: how much more often held-out predictions were right than their confidence says.
    """

    totals: dict[Part, Array]
    bins: dict[Part, list[str]]
    references: dict[Part, Reference]
    accuracy: dict[str, float]
    excess: dict[Part, dict[str, float]]

    def between(self, part: Part, first: int, last: int) -> dict[str, float]:
        """Rows by bin of the ticks from `first` on, before `last`; a counter that was not there yet counts from 0."""
        totals = self.totals[part]
        counts = totals[max(last, 0)] - totals[max(first, 0)]
        return dict(zip(self.bins[part], counts.tolist(), strict=True))


class Trained:
    """A bundle of our trainer's, loaded as the server loads it."""

    def __init__(self, folder: Path) -> None:
        self._model = session.load(folder / manifest.MODEL, 1)
        self._signature = self._model.signature
        found = profile.read(folder, self._signature)
        assert found is not None
        self._profile = found
        self._outputs = [tensor.name for tensor in self._signature.outputs]

    @classmethod
    def of(cls, scenario: Scenario, episode: Episode, seed: int, folder: Path) -> Trained:
        """Train one, in an empty folder."""
        claim = "stream"
        (folder / claim).mkdir()
        table = pa.table({**episode.given.columns, "truth": episode.given.truth})
        pyarrow.parquet.write_table(table, folder / claim / "rows.parquet")
        document = {
            "data": {"uri": f"pvc://{claim}/rows.parquet"},
            "target": "truth",
            "task": "Classification",
            "split": {"testPercent": episode.held_out_percent},
            "estimators": [dict(scenario.estimator)],
            "output": {"uri": f"pvc://{claim}", "folder": "bundle"},
            "seed": seed,
        }
        run = spec.parse(json.dumps(document))
        output = output_at(run.output_uri, run.output_folder, claims=folder)
        train(run, output, scratch=folder, threads=1, claims=folder)
        return cls(folder / claim / "bundle")

    @property
    def reference_rows(self) -> int:
        return self._profile.rows

    def say(self, rows: Rows) -> tuple[Array, Array]:
        """(labels, probabilities)."""
        given = dict(zip(self._outputs, self._run(rows), strict=True))
        return given["label"], given["probabilities"]

    def count(self, episode: Episode) -> Counted:
        """Bin all live rows, and look at the counters after each tick."""
        drift = Drift(self._profile, self._signature, _LABELS)
        rows = episode.live
        feeds, outputs = _feeds(rows), self._run(rows)
        begin = 0
        scrapes = [_scraped(drift, "_bin_total")]
        for end in episode.ends.tolist():
            if end > begin:
                run = slice(begin, end)
                drift.record({name: values[run] for name, values in feeds.items()}, [each[run] for each in outputs])
            scrapes.append(_scraped(drift, "_bin_total"))
            begin = end
        last = scrapes[-1]
        ratios, sizes = _scraped(drift, "_reference_ratio"), _scraped(drift, "_reference_count")
        accuracy = _scraped(drift, "_reference_accuracy")[("confidence", "")]
        return Counted(
            totals={part: np.array([list(scrape[part].values()) for scrape in scrapes]) for part in last},
            bins={part: list(counts) for part, counts in last.items()},
            references={part: Reference(ratios[part], sizes[part][""]) for part in last},
            accuracy=accuracy,
            excess=_scraped(drift, "_reference_excess"),
        )

    def _run(self, rows: Rows) -> list[Array]:
        feeds = _feeds(rows)
        runs = [
            self._model.run({name: values[first : first + _CHUNK] for name, values in feeds.items()})
            for first in range(0, len(rows), _CHUNK)
        ]
        return [np.concatenate(parts) for parts in zip(*runs, strict=True)]


def _feeds(rows: Rows) -> dict[str, Array]:
    return {name: values.reshape(-1, 1) for name, values in rows.columns.items()}


def _scraped(drift: Drift, ending: str) -> dict[Part, dict[str, float]]:
    """Samples whose names end so, by what they are of and by bin."""
    found: dict[Part, dict[str, float]] = {}
    for name, labels, value in _samples(drift):
        if name.endswith(ending):
            kind = name.removeprefix("holdfast_model_").removesuffix(ending)
            found.setdefault((kind, labels.get("feature", "")), {})[labels.get("bin", "")] = value
    return found


def _samples(drift: Drift) -> Iterator[tuple[str, dict[str, str], float]]:
    for family in drift.collect():
        for sample in family.samples:
            yield sample.name, sample.labels, sample.value
