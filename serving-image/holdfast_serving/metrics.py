"""Counters of one model, and how Prometheus sees them.

A request costs a few list items here; labels, names and text exist only while somebody scrapes.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Protocol

from holdfast_serving.statistics import Statistics

if TYPE_CHECKING:
    from prometheus_client.core import Metric

    from holdfast_serving.problems import Problem

PROTOCOLS = ("rest", "grpc", "router")
"""router: REST, asked by the router of another pod, which itself answers what this one does not."""

REST, GRPC, ROUTER = range(len(PROTOCOLS))

OWN = len(PROTOCOLS)
"""In place of a protocol: a request that the pod drew of its own. None of its users' counters has it."""

OUTCOMES = ("ok", "client_error", "rejected", "failed", "abandoned", "timeout", "late")
"""How a request ended: answered in its time; 4xx; 503 before it was tried; 5xx; its client was gone before its turn;
504: its time was up before its turn; its time was up before its answer was there."""

OK, CLIENT_ERROR, REJECTED, FAILED, ABANDONED, TIMEOUT, LATE = range(len(OUTCOMES))

LATENCY_EDGES = tuple(
    milliseconds / 1000
    for milliseconds in (
        1, 2, 3, 5, 7, 10, 15, 20, 25, 30, 40, 50, 75, 100, 150, 200, 250, 300, 400, 500, 750, 1000, 1500, 2000, 3000,
        5000, 7500, 10000, 15000, 30000, 60000,
    )
)  # fmt: skip
"""Seconds. Fixed: an SLO's threshold is one of these, so that changing it restarts nothing."""

_OUTCOMES = {503: REJECTED, 504: TIMEOUT}

BATCH_EDGES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


def outcome_of(problem: Problem) -> int:
    """The index in `OUTCOMES` of a request that was answered with a problem."""
    return _OUTCOMES.get(problem.status, FAILED if problem.status >= 500 else CLIENT_ERROR)


class Collector(Protocol):
    """A part that counts."""

    def collect(self) -> Iterator[Metric]:
        """What it has counted, for a prometheus_client registry."""
        ...


class Histogram:
    """Counts of observations by upper edge, and their sum."""

    __slots__ = ("counts", "edges", "sum")

    def __init__(self, edges: Sequence[float]) -> None:
        self.edges = edges
        self.counts = [0] * (len(edges) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.edges, value)] += 1
        self.sum += value

    def observe_all(self, values: list[float]) -> None:
        """The same for several at once; those of one run mostly lie close together."""
        if not values:
            return
        self.sum += sum(values)
        edges, counts = self.edges, self.counts
        place = bisect_left(edges, min(values))
        if place == bisect_left(edges, max(values)):
            counts[place] += len(values)
        else:
            for value in values:
                counts[bisect_left(edges, value)] += 1

    def buckets(self) -> list[tuple[str, float]]:
        """Cumulative, as Prometheus wants them."""
        names = [*(f"{edge:g}" for edge in self.edges), "+Inf"]
        return list(zip(names, accumulate(self.counts), strict=True))


class Requests:
    """Those that came over one protocol.

    Attributes:
        outcomes: how many, by index in `OUTCOMES`.
        duration: seconds from the last byte of a request to its answer; answered requests only, late ones too.
    """

    __slots__ = ("duration", "outcomes")

    def __init__(self) -> None:
        self.outcomes = [0] * len(OUTCOMES)
        self.duration = Histogram(LATENCY_EDGES)

    def answered(self, seconds: list[float], late: int) -> None:
        """Count answers by the time that they took; `late` of them came after their time."""
        self.outcomes[OK] += len(seconds) - late
        self.outcomes[LATE] += late
        self.duration.observe_all(seconds)


class Metrics:
    """What is counted about a revision of a model.

    Attributes:
        requests: by index in `PROTOCOLS`, and behind them the pod's own.
        queue: seconds that a request waited before the model saw it.
        batch: rows per run of the model.
        statistics: what V2 tells beyond this.
        in_flight: requests that are there and not yet answered.
        load_seconds: from the start of the process until ready; 0 before.
        phases: seconds of each phase of loading; empty before it is over.
        info: labels of the info metric.
    """

    def __init__(self, model: str, revision: str) -> None:
        self.labels = {"model": model, "revision": revision}
        self.requests = tuple([Requests() for _ in range(OWN + 1)])
        self.queue = Histogram(LATENCY_EDGES)
        self.batch = Histogram(BATCH_EDGES)
        self.statistics = Statistics()
        self.in_flight = 0
        self.load_seconds = 0.0
        self.phases: dict[str, float] = {}
        self.info: dict[str, str] = {}

    def collect(self) -> Iterator[Metric]:
        """For a prometheus_client registry."""
        from prometheus_client.core import (
            CounterMetricFamily,
            GaugeMetricFamily,
            HistogramMetricFamily,
            InfoMetricFamily,
        )

        names, values = list(self.labels), list(self.labels.values())
        ended = CounterMetricFamily(
            "holdfast_inference_requests",
            "Inference requests by how they ended.",
            labels=[*names, "protocol", "outcome"],
        )
        duration = HistogramMetricFamily(
            "holdfast_inference_duration_seconds",
            "From a request's last byte to its answer, answered requests.",
            labels=[*names, "protocol"],
        )
        for protocol, requests in zip(PROTOCOLS, self.requests, strict=False):
            for outcome, count in zip(OUTCOMES, requests.outcomes, strict=True):
                ended.add_metric([*values, protocol, outcome], count)
            buckets = requests.duration.buckets()
            duration.add_metric([*values, protocol], buckets=buckets, sum_value=requests.duration.sum)
        yield ended
        yield duration
        for name, text, histogram in (
            ("queue_seconds", "From a request's last byte to its run.", self.queue),
            ("batch_rows", "Rows per run of the model.", self.batch),
        ):
            family = HistogramMetricFamily(f"holdfast_inference_{name}", text, labels=names)
            family.add_metric(values, buckets=histogram.buckets(), sum_value=histogram.sum)
            yield family
        for name, text, value in (
            ("holdfast_inference_in_flight", "Requests being worked on.", float(self.in_flight)),
            (
                "holdfast_model_load_seconds",
                "From the start until the model was ready.",
                self.load_seconds,
            ),
        ):
            gauge = GaugeMetricFamily(name, text, labels=names)
            gauge.add_metric(values, value)
            yield gauge
        phases = GaugeMetricFamily(
            "holdfast_model_load_phase_seconds", "Parts of the load time.", labels=[*names, "phase"]
        )
        for phase, seconds in self.phases.items():
            phases.add_metric([*values, phase], seconds)
        yield phases
        info = InfoMetricFamily("holdfast_model", "What is served.", labels=names)
        info.add_metric(values, self.info)
        yield info


def families(*collectors: Collector) -> list[Metric]:
    """What all of them have counted, with the process's own metrics."""
    from prometheus_client import ProcessCollector

    return [
        *ProcessCollector(registry=None).collect(),
        *[family for collector in collectors for family in collector.collect()],
    ]


def exposition(collector: Collector) -> tuple[bytes, str]:
    """(text, content type) of a scrape."""
    from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    return generate_latest(registry), CONTENT_TYPE_LATEST
