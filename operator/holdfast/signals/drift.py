"""Rows by bin, of many models at once: what drift and accuracy are judged by.

Windows end at whole steps of Prometheus' clock, so everybody who looks sees the same ones, and nothing has to be
remembered between two looks. A model is asked about once for each step, together with others.
"""

from __future__ import annotations

import asyncio
import math
from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from holdfast.build.promql import one_of, selector
from holdfast.plan import drift
from holdfast.plan.drift import Labels, Signal
from holdfast.signals.prometheus import Fault, Sample, Session
from holdfast.signals.slo import STALE_SECONDS, Model
from holdfast.stats.drift import WINDOWS, Counts, Reference, Season, Series, design_effect

BATCH = 8
"""Models that are asked about together. With 50 features of 100 bins each an answer has 8 MiB."""
INTERVALS = 96
"""So many a window is divided into, to see how rows come together,"""
SHORTEST_INTERVAL = 120
"""if they are not shorter than this, in seconds: Prometheus scrapes once a minute or more often."""
FEWEST_INTERVALS = 8
_PAIRS = 20
"""Of neighbouring intervals that are looked at, about; more cost Prometheus much and tell little."""

PARTS = 24
"""Of a window, in which Prometheus is to have scraped,"""
SHORTEST_PART = 150
"""if they are not shorter than this, in seconds."""
FEWEST_PARTS = 8

_INFO = "holdfast_model_info"
_FEEDBACK = "holdfast_feedback_rows_total"
_ACCURACY = "holdfast_model_confidence_reference_accuracy"
_MEAN_ERROR = "holdfast_model_absolute_error_reference_mean"
_KINDS = ("feature", "prediction", "confidence", "absolute_error")
_KNOWN = (_ACCURACY, _MEAN_ERROR)
"""Of the held-out rows of a bin."""
_OF = "namespace, model, revision"


class Asked(NamedTuple):
    """A revision of a ModelDeployment."""

    model: Model
    revision: str


class Part(NamedTuple):
    """What is counted of a revision: a feature, or what it predicts. Kinds are those of metrics' names."""

    kind: str
    name: str
    """Of the feature; else empty."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What Prometheus has fresh samples of.

    Attributes:
        profiles: of each revision.
        end: when the newest windows end, in seconds of Prometheus' clock.
    """

    profiles: Mapping[Asked, str]
    end: int


class DriftReader:
    """Asks about windows of one length."""

    def __init__(self, window_seconds: int, namespaces: Collection[str] = ()) -> None:
        """`namespaces`: those of interest; empty: all."""
        self._window = window_seconds
        self._step = drift.step(window_seconds)
        self._seasons = drift.seasons(window_seconds)
        self._matchers = [one_of("namespace", namespaces)] if namespaces else []
        self._time = 0.0

    async def seen(self, session: Session) -> Seen:
        """Raises Fault."""
        series = selector(_INFO, *self._matchers)
        answer = await session.ask(f"time() - max by ({_OF}, profile) (timestamp({series}))")
        if answer.samples and answer.time == self._time:
            raise Fault("stale", "Prometheus gives the same answer as before")
        self._time = answer.time
        profiles = {
            _asked(sample): sample.labels.get("profile", "")
            for sample in answer.samples
            if sample.value is not None and abs(sample.value) <= STALE_SECONDS
        }
        return Seen(profiles, int(answer.time // self._step) * self._step)

    async def read(
        self, session: Session, wanted: Sequence[Asked], seen: Seen, ends: float = math.inf
    ) -> AsyncIterator[tuple[Asked, Signal | None]]:
        """What is known of each revision; None: a number of it is none. Raises Fault.

        ends: of the event loop's clock. After that no batch is begun but the first: however slow Prometheus is, and
            however much there is to be asked, some are told about.
        """
        for start in range(0, len(wanted), BATCH):
            if start and asyncio.get_running_loop().time() > ends:
                return
            batch = wanted[start : start + BATCH]
            counted = await self._ask(session, batch, seen.end)
            for asked in batch:
                profile = seen.profiles.get(asked, "")
                yield asked, None if asked in counted.doubtful else self._signal(counted, asked, profile)

    async def _ask(self, session: Session, batch: Sequence[Asked], end: int) -> _Counted:
        matchers = (
            one_of("namespace", {asked.model.namespace for asked in batch}),
            one_of("model", {asked.model.name for asked in batch}),
        )
        own = (*matchers, one_of("revision", {asked.revision for asked in batch}))
        counted = _Counted(frozenset(batch), await self._watched(session, end))
        ratios = " or ".join(_kept(kind, "reference_ratio", own, ", bin") for kind in _KINDS)
        counted.take("ratio", (await session.ask(ratios)).samples)
        rows = " or ".join(_kept(kind, "reference_count", own) for kind in _KINDS)
        counted.take("rows", (await session.ask(rows)).samples)
        known = " or ".join(_named(gauge, f"max by ({_OF}, bin) ({selector(gauge, *own)})") for gauge in _KNOWN)
        counted.take("known", (await session.ask(known)).samples)
        excess = _kept("feature", "reference_excess", own, ", bin")
        counted.take("excess", (await session.ask(excess)).samples, least=-1.0)
        for key, length, before in self._spans():
            query = " or ".join(_increased(kind, own, length, end - before, self._window) for kind in _KINDS)
            counted.take(key, (await session.ask(query)).samples)
        for index in range(WINDOWS):
            query = _labelled(matchers, self._window, end - index * self._window)
            counted.take(f"labels {index}", (await session.ask(query)).samples)
            if counted.parts_watched:
                query = _failed(own, self._window, self._part, end - index * self._window)
                counted.take(f"failed {index}", (await session.ask(query)).samples)
        if (interval := max(SHORTEST_INTERVAL, self._window // INTERVALS)) * FEWEST_INTERVALS <= self._window:
            query = " or ".join(_spread(kind, own, self._window, interval, end) for kind in _KINDS)
            counted.take("spread", (await session.ask(query)).samples)
        return counted

    @property
    def _part(self) -> int:
        """Seconds."""
        return max(SHORTEST_PART, self._window // PARTS)

    async def _watched(self, session: Session, end: int) -> tuple[float, ...]:
        """By window, in how many of its parts Prometheus scraped anything; empty: windows are too short to ask."""
        if self._part * FEWEST_PARTS > self._window:
            return ()
        found = []
        for index in range(WINDOWS):
            query = f"count(present_over_time(up[{self._part}s]))"
            answer = await session.ask(_over_parts(query, self._window, self._part, end - index * self._window))
            found.append(sum(sample.value or 0.0 for sample in answer.samples))
        return tuple(found)

    def _watched_share(self, counted: _Counted, asked: Asked, index: int) -> float:
        if not counted.parts_watched:
            return 1.0
        parts = counted.parts_watched[index] - counted.one(f"failed {index}", asked, Part("", ""))
        return min(1.0, parts / (self._window // self._part))

    def _spans(self) -> Iterator[tuple[str, int, int]]:
        """(name, seconds, seconds from its end to the newest window's) of all that rows are counted in."""
        for index in range(WINDOWS):
            yield f"window {index}", self._window, index * self._window
        for cycle in self._seasons:
            yield f"whole {cycle}", cycle, 0
            for index in range(WINDOWS):
                yield f"window {index} before {cycle}", self._window, cycle + index * self._window

    def _signal(self, counted: _Counted, asked: Asked, profile: str) -> Signal:
        def series(part: Part) -> Series:
            def counts(key: str) -> Counts:
                return counted.bins(key, asked, part)

            windows = tuple(counts(f"window {index}") for index in range(WINDOWS))
            seasons = tuple(
                Season(
                    tuple(counts(f"window {index} before {cycle}") for index in range(WINDOWS)),
                    counts(f"whole {cycle}"),
                )
                for cycle in self._seasons
            )
            reference = Reference(counts("ratio"), counted.one("rows", asked, part))
            effect = design_effect(windows[0], counts("spread"))
            return Series(reference, windows, seasons, effect, counts("excess"))

        parts = {part: series(part) for part in counted.parts(asked)}
        return Signal(
            revision=asked.revision,
            window_seconds=self._window,
            profile=profile,
            features={part.name: found for part, found in parts.items() if part.kind == "feature"},
            prediction=parts.get(Part("prediction", "")),
            confidence=parts.get(Part("confidence", "")),
            accuracy=counted.bins("known", asked, Part(_ACCURACY, "")),
            labels=tuple(
                Labels(
                    counted.one(f"labels {index}", asked, Part("", "correct")),
                    counted.one(f"labels {index}", asked, Part("", "wrong")),
                )
                for index in range(WINDOWS)
            ),
            watched=tuple(self._watched_share(counted, asked, index) for index in range(WINDOWS)),
            errors=parts.get(Part("absolute_error", "")),
            mean_errors=counted.bins("known", asked, Part(_MEAN_ERROR, "")),
        )


class _Counted:
    """Numbers of some revisions, by what was asked for, the part and the bin."""

    def __init__(self, wanted: frozenset[Asked], parts_watched: tuple[float, ...]) -> None:
        self._wanted = wanted
        self.parts_watched = parts_watched
        self._numbers: defaultdict[tuple[str, Asked, Part], dict[str, float]] = defaultdict(dict)
        self.doubtful: set[Asked] = set()
        """Those of which some number is none."""

    def take(self, key: str, samples: Iterable[Sample], least: float = 0.0) -> None:
        for sample in samples:
            asked = _asked(sample)
            if asked not in self._wanted:
                continue
            labels = sample.labels
            if sample.value is None or sample.value < least:
                self.doubtful.add(asked)
                continue
            part = Part(labels.get("kind", ""), labels.get("feature", "") or labels.get("outcome", ""))
            self._numbers[key, asked, part][labels.get("bin", "")] = sample.value

    def parts(self, asked: Asked) -> list[Part]:
        """Those with a reference."""
        return sorted(part for key, about, part in self._numbers if key == "rows" and about == asked)

    def bins(self, key: str, asked: Asked, part: Part) -> Counts:
        return self._numbers.get((key, asked, part), {})

    def one(self, key: str, asked: Asked, part: Part) -> float:
        return self._numbers.get((key, asked, part), {}).get("", 0.0)


def _asked(sample: Sample) -> Asked:
    labels = sample.labels
    return Asked(Model(labels.get("namespace", ""), labels.get("model", "")), labels.get("revision", ""))


# --- Queries ----------------------------------------------------------------------------------------------------------


def _named(kind: str, query: str) -> str:
    """The same series with a label that says their kind: metrics lose their names when they are added up."""
    return f'label_replace({query}, "kind", "{kind}", "", "")'


def _by(kind: str) -> str:
    return f"{_OF}, feature" if kind == "feature" else _OF


def _kept(kind: str, gauge: str, matchers: Iterable[str], more: str = "") -> str:
    """A gauge that all pods of a revision say the same of."""
    return _named(kind, f"max by ({_by(kind)}{more}) ({selector(f'holdfast_model_{kind}_{gauge}', *matchers)})")


def _increased(kind: str, matchers: Iterable[str], seconds: int, end: int, window: int) -> str:
    """Rows by bin. What is longer than a window is read in quarters of one: it is there to be compared roughly."""
    length = f"{seconds}s" if seconds == window else f"{seconds}s:{drift.step(window)}s"
    series = selector(f"holdfast_model_{kind}_bin_total", *matchers)
    return _named(kind, f"sum by ({_by(kind)}, bin) (increase({series}[{length}] @ {end}))")


def _labelled(matchers: Iterable[str], seconds: int, end: int) -> str:
    """Labels by the revision that they are about: any pod may be told. Its own word on that is `counted_revision`."""
    series = selector(_FEEDBACK, *matchers, 'counted_revision!=""')
    moved = f'label_replace(increase({series}[{seconds}s] @ {end}), "revision", "$1", "counted_revision", "(.*)")'
    return f"sum by ({_OF}, outcome) ({moved})"


def _failed(matchers: Iterable[str], seconds: int, part: int, end: int) -> str:
    """Parts of a window in which no pod could be scraped, though there were some."""
    return _over_parts(f"max by ({_OF}) ({selector('up', *matchers)}) == 0", seconds, part, end)


def _over_parts(query: str, seconds: int, part: int, end: int) -> str:
    """How many parts of a window have such a series."""
    return f"count_over_time(({query})[{seconds - 1}s:{part}s] @ {end})"


def _spread(kind: str, matchers: Iterable[str], seconds: int, interval: int, end: int) -> str:
    """How much neighbouring intervals differ, by bin: see `stats.drift.design_effect`."""
    every = seconds // interval // _PAIRS | 1  # an odd number, so that it is not always the same quarter of an hour
    series, by = selector(f"holdfast_model_{kind}_bin_total", *matchers), _by(kind)

    def rows(labels: str, offset: str) -> str:
        return f"sum by ({labels}) (increase({series}[{interval}s]{offset}))"

    def share(offset: str) -> str:
        return f"{rows(f'{by}, bin', offset)} / on ({by}) group_left () ({rows(by, offset)} > 0)"

    before = f" offset {interval}s"
    noise = f"1 / ({rows(by, '')} > 0) + 1 / ({rows(by, before)} > 0)"
    differences = f"(({share('')}) - ({share(before)})) ^ 2 / on ({by}) group_left () ({noise})"
    return _named(kind, f"avg_over_time(({differences})[{seconds - interval}s:{every * interval}s] @ {end})")
