"""Requests that failed or were slow, of all models and revisions at once: what an SLO is judged by.

Every window is one question about all models. Increases of counters, never averages of ratios: a minute with one
request weighs as much as that request.
"""

from __future__ import annotations

import asyncio
import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from holdfast.build.promql import one_of, quoted, selector
from holdfast.build.requests import BAD, DURATIONS, REQUESTS, UNCOUNTED, USERS, edge_texts
from holdfast.plan.slo import NOTHING, Counts, Objectives, SloSignal
from holdfast.signals.prometheus import Fault, Sample, Session, Vector
from holdfast.stats.burnrate import Ratio

STALE_SECONDS = 150.0
"""A model whose newest sample is older has no metrics. So it has to be scraped once a minute."""
_NOISE = 1e-9
"""By so much may sums of floats differ that are meant to be the same."""
_REFRESH_SECONDS = 60.0
"""A long window is asked about so often, or, when that takes Prometheus long,"""
_REST = 100.0
"""so many times as rarely as it takes."""


class Model(NamedTuple):
    """Names a ModelDeployment."""

    namespace: str
    name: str


Edges = dict[float, float]
"""Answers by upper edge in seconds, cumulative."""


@dataclass(slots=True)
class _Window:
    """The last answers about one window, by model and revision."""

    asked: float
    took: float
    """Seconds."""
    thresholds: frozenset[int]
    availability: Mapping[Model, Mapping[str, Ratio]]
    buckets: Mapping[Model, Mapping[str, Edges]]
    doubtful: frozenset[Model]
    """Models of which some number is none."""


class SloReader:
    """Asks what is due, and keeps the answers."""

    def __init__(self, namespaces: Collection[str] = ()) -> None:
        """`namespaces`: those of interest; empty: all."""
        self._matchers = [one_of("namespace", namespaces)] if namespaces else []
        self._windows: dict[int, _Window] = {}
        self._time = 0.0

    async def read(self, session: Session, wanted: Mapping[Model, Objectives], now: float) -> dict[Model, SloSignal]:
        """What is known of the wanted models; nothing of those whose metrics are missing, old or no numbers.

        now: seconds on a clock that only goes forward. Raises Fault.
        """
        fresh = await self._fresh(session)
        thresholds = frozenset(each.latency.threshold_milliseconds for each in wanted.values() if each.latency)
        for seconds in sorted(frozenset[int]().union(*(each.windows for each in wanted.values()))):
            known = self._windows.get(seconds)
            if known is None or _is_due(known, seconds, thresholds, now):
                self._windows[seconds] = await self._ask(session, seconds, thresholds, now)
        return {model: signal for model in wanted if model in fresh and (signal := self._signal(model, wanted[model]))}

    async def _fresh(self, session: Session) -> frozenset[Model]:
        series = selector(REQUESTS, *self._matchers)
        answer = await session.ask(f"time() - max by (namespace, model) (timestamp({series}))")
        if answer.samples and answer.time == self._time:
            raise Fault("stale", "Prometheus gives the same answer as before")
        self._time = answer.time
        return frozenset(
            _model(sample)
            for sample in answer.samples
            if sample.value is not None and abs(sample.value) <= STALE_SECONDS
        )

    async def _ask(self, session: Session, seconds: int, thresholds: frozenset[int], now: float) -> _Window:
        begin = asyncio.get_running_loop().time()
        requests = selector(REQUESTS, *self._matchers, USERS, f"outcome!={quoted(UNCOUNTED)}")
        by = "namespace, model, revision"
        outcomes = await session.ask(f"sum by ({by}, outcome) (increase({requests}[{seconds}s]))")
        latencies = Vector(outcomes.time, ())
        if thresholds:
            edges = one_of("le", {"+Inf", *(text for edge in thresholds for text in edge_texts(edge))})
            buckets = selector(DURATIONS, *self._matchers, USERS, edges)
            latencies = await session.ask(f"sum by ({by}, le) (increase({buckets}[{seconds}s]))")
        doubtful = frozenset(
            _model(sample) for sample in (*outcomes.samples, *latencies.samples) if not _counts(sample)
        )
        took = asyncio.get_running_loop().time() - begin
        return _Window(now, took, thresholds, _availability(outcomes), _buckets(latencies), doubtful)

    def _signal(self, model: Model, objectives: Objectives) -> SloSignal | None:
        windows = {seconds: self._windows[seconds] for seconds in objectives.windows}
        if any(model in window.doubtful for window in windows.values()):
            return None
        availability: defaultdict[str, dict[int, Ratio]] = defaultdict(dict)
        latency: defaultdict[str, dict[int, Ratio]] = defaultdict(dict)
        threshold = objectives.latency.threshold_milliseconds / 1000 if objectives.latency else None
        for seconds, window in windows.items():
            for revision, ratio in window.availability.get(model, {}).items():
                availability[revision][seconds] = ratio
            if threshold is None:
                continue
            for revision, edges in window.buckets.get(model, {}).items():
                slow = _slow(edges, threshold)
                if slow is None:
                    return None
                latency[revision][seconds] = slow
        revisions = sorted({*availability, *latency})
        arms = {name: Counts(availability[name], latency[name]) for name in revisions}
        return SloSignal(_together(arms.values()), arms)


def _is_due(known: _Window, seconds: int, thresholds: frozenset[int], now: float) -> bool:
    """Whether a window may have moved by a hundredth of itself, or not all was asked about it."""
    pause = max(min(seconds / 120, _REFRESH_SECONDS), _REST * known.took)
    return now - known.asked >= pause or not thresholds <= known.thresholds


def _model(sample: Sample) -> Model:
    return Model(sample.labels.get("namespace", ""), sample.labels.get("model", ""))


def _counts(sample: Sample) -> bool:
    """Whether it can be the increase of a counter."""
    return sample.value is not None and sample.value >= 0


def _availability(answer: Vector) -> dict[Model, dict[str, Ratio]]:
    found: defaultdict[Model, dict[str, Ratio]] = defaultdict(dict)
    for sample in answer.samples:
        count = sample.value or 0.0
        bad = count if sample.labels.get("outcome") in BAD else 0.0
        ratios, revision = found[_model(sample)], sample.labels.get("revision", "")
        ratios[revision] = _sum(ratios.get(revision, NOTHING), Ratio(bad, count))
    return found


def _buckets(answer: Vector) -> dict[Model, dict[str, Edges]]:
    found: defaultdict[Model, defaultdict[str, Edges]] = defaultdict(lambda: defaultdict(dict))
    for sample in answer.samples:
        edges, edge = found[_model(sample)][sample.labels.get("revision", "")], _edge(sample.labels.get("le", ""))
        edges[edge] = edges.get(edge, 0.0) + (sample.value or 0.0)
    return {model: dict(revisions) for model, revisions in found.items()}


def _edge(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _slow(edges: Edges, threshold: float) -> Ratio | None:
    """None when an edge is missing, or the counts contradict each other."""
    total, quick = edges.get(math.inf), edges.get(threshold)
    if total is None or quick is None or quick > total + _NOISE * total:
        return None
    return Ratio(max(0.0, total - quick), total)


def _together(arms: Iterable[Counts]) -> Counts:
    """The sums by window."""
    availability: dict[int, Ratio] = {}
    latency: dict[int, Ratio] = {}
    for arm in arms:
        for sums, ratios in ((availability, arm.availability), (latency, arm.latency)):
            for seconds, ratio in ratios.items():
                sums[seconds] = _sum(sums.get(seconds, NOTHING), ratio)
    return Counts(availability, latency)


def _sum(one: Ratio, other: Ratio) -> Ratio:
    return Ratio(one.bad + other.bad, one.total + other.total)
