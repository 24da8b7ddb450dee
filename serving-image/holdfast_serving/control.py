"""The router's end on the management port: leases come in, and what was counted goes out."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import orjson

from holdfast_serving.arms import LOCAL, TARGET
from holdfast_serving.arms import OUTCOMES as REQUEST_OUTCOMES
from holdfast_serving.connection import Connection
from holdfast_serving.lease import ACCEPTED, NOT_READY, OUTCOMES, Lease, Reader, Refused
from holdfast_serving.metrics import Histogram
from holdfast_serving.pod import added
from holdfast_serving.served import Served, loading

if TYPE_CHECKING:  # the router is imported with the first lease
    from prometheus_client.core import Metric

    from holdfast_serving.router import Router
    from holdfast_serving.smoke import Smoke

log = logging.getLogger(__name__)

MAX_LEASE_BYTES = 16 << 10

_QUIET_SECONDS = 10.0


class Control:
    """Takes leases for a pod and shows what its router did. In each of its processes it has the router's counters.

    Attributes:
        instance: the name of this pod's first process, to which leases are made out.
    """

    def __init__(self, served: Served, keys: Sequence[bytes], *, secured: bool) -> None:
        """
        Args:
            keys: public keys that leases may be signed with; without any no lease is taken.
            secured: whether there are certificates to check a target's by.
        """
        self.instance = f"{socket.gethostname()}-{os.urandom(8).hex()}"
        self._served = served
        served.tells["router"] = lambda _: self._document()
        served.tells["lease"] = self.apply
        self._has_keys = bool(keys)
        self._reader = Reader(keys, served.name, served.revision, self.instance, secured=secured)
        self._outcomes = [0] * len(OUTCOMES)
        self._began = time.monotonic()
        self._make_router: Callable[[Lease], Router] | None = None
        self._oldest: Callable[[], float] | None = None
        self._golden_kept = 0
        self._router: Router | None = None
        self._quiet_until = 0.0

    def open(self, make_router: Callable[[Lease], Router], oldest: Callable[[], float], golden_kept: int) -> None:
        """The model is there: leases may come.

        Args:
            make_router: called with the first lease.
            oldest: tells the age of the oldest request in the model, in seconds.
            golden_kept: golden requests that can be put to another revision.
        """
        self._make_router = make_router
        self._oldest = oldest
        self._golden_kept = golden_kept

    def put_lease(self, connection: Connection, body: bytes | bytearray) -> None:
        """Take a lease, and answer as `get` does. Raises Problem."""
        if self._make_router is None:
            self._outcomes[NOT_READY] += 1
            raise loading()
        try:
            lease = self._reader.read(bytes(body), time.time())
        except Refused as problem:
            self._outcomes[problem.outcome] += 1
            self._report(problem)
            raise
        self._outcomes[ACCEPTED] += 1
        self._answer(connection, "lease", lease)

    def get(self, connection: Connection, body: bytes | bytearray) -> None:
        """Everything that was counted, at one instant."""
        self._answer(connection, "router", None)

    def apply(self, lease: Lease) -> dict[str, Any]:
        """Do as a lease says that has been checked; returns what there is to tell after it."""
        if self._router is not None:
            self._router.apply(lease)
        elif self._make_router is not None:
            self._router = self._make_router(lease)
        return self._document()

    def _answer(self, connection: Connection, what: str, argument: Any) -> None:
        def answer(said: list[Any]) -> None:
            connection.respond(200, orjson.dumps(added(said)))

        connection.ask(self._served.gather, what, argument, answer)

    def _document(self) -> dict[str, Any]:
        router = self._router
        lease = router.lease if router is not None else None
        signature = self._served.signature
        return {
            "model": self._served.name,
            "revision": self._served.revision,
            "instance": self.instance,
            "startedSeconds": time.monotonic() - self._began,
            "ready": self._served.ready,
            "signature": signature.digest if signature is not None else None,
            "inFlightLocal": self._served.metrics.in_flight,
            "oldestLocalSeconds": self._oldest() if self._oldest is not None else 0.0,
            "takesLeases": self._has_keys,
            "sequence": self._reader.sequence,
            "leases": dict(zip(OUTCOMES, self._outcomes, strict=True)),
            "lease": None
            if router is None or lease is None
            else {
                "sequence": lease.sequence,
                "mode": lease.mode,
                "target": lease.target.revision,
                "weight": lease.weight,
                "syntheticPerSecond": lease.synthetic,
                "secondsLeft": router.seconds_left,
            },
            "golden": router.smoke.document() if router is not None and router.smoke is not None else None,
            "goldenKept": self._golden_kept,
            "arms": router.arms.document() if router is not None else None,
            "peer": None
            if router is None
            else {
                "connections": len(router.peer.connections),
                "inFlight": router.peer.in_flight,
                "oldestSeconds": router.peer.oldest_seconds,
                "late": router.peer.late,
                "retries": router.peer.retries,
            },
        }

    def _report(self, problem: Refused) -> None:
        now = time.monotonic()
        if now >= self._quiet_until:  # whoever reaches this port shall not fill the log
            self._quiet_until = now + _QUIET_SECONDS
            log.warning("%s (said at most every 10 s)", problem.message)

    def collect(self) -> Iterator[Metric]:
        """For a prometheus_client registry."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        ours = {"model": self._served.name, "revision": self._served.revision}
        leases = CounterMetricFamily(
            "holdfast_router_leases", "Leases by what became of them.", labels=[*ours, "outcome"]
        )
        for outcome, count in zip(OUTCOMES, self._outcomes, strict=True):
            leases.add_metric([*ours.values(), outcome], count)
        yield leases
        router = self._router
        if router is None:
            return
        arms, peer = router.arms, router.peer
        theirs = [self._served.name, arms.revision]
        labels = ["model", "revision", "arm", "phase"]
        drawn = CounterMetricFamily("holdfast_router_drawn", "Requests that were drawn, by arm.", labels=labels)
        requests = CounterMetricFamily(
            "holdfast_router_requests", "Drawn requests by how they ended in their arm.", labels=[*labels, "outcome"]
        )
        duration = HistogramMetricFamily(
            "holdfast_router_duration_seconds", "In the server that answered, answered requests.", labels=labels
        )
        predictions = CounterMetricFamily(
            "holdfast_router_prediction_bin", "Rows by the bins of this revision's profile.", labels=[*labels, "bin"]
        )
        for phase, pair in (("steady", arms.steady), ("warming", arms.warming)):
            for name, revision, arm in (
                (LOCAL, self._served.revision, pair.local),
                (TARGET, arms.revision, pair.target),
            ):
                values = [self._served.name, revision, name, phase]
                drawn.add_metric(values, arm.drawn)
                for outcome, count in zip(REQUEST_OUTCOMES, arm.outcomes, strict=True):
                    requests.add_metric([*values, outcome], count)
                _add(duration, values, arm.duration)
                if arm.predictions is not None:
                    for place, count in arm.predictions.document().items():
                        predictions.add_metric([*values, place], count)
        yield from (drawn, requests, duration, predictions)
        client = HistogramMetricFamily(
            "holdfast_router_client_seconds",
            "From a request's last byte to its answer, of those drawn for the target, whoever answered.",
            labels=labels[:2],
        )
        _add(client, theirs, arms.client)
        yield client
        for name, text, value in (
            ("holdfast_router_weight", "Probability with which a request is drawn; 0 without a lease.",
             router.lease.weight if router.lease is not None else 0.0),
            ("holdfast_router_in_flight", "Requests at the target.", peer.in_flight),
            ("holdfast_router_oldest_seconds", "Since when the oldest of them has been there.", peer.oldest_seconds),
        ):  # fmt: skip
            gauge = GaugeMetricFamily(name, text, labels=labels[:2])
            gauge.add_metric(theirs, value)
            yield gauge
        for name, text, value in (
            ("holdfast_router_late", "Answers of the target that came when nobody waited any more.", peer.late),
            ("holdfast_router_retries", "Requests sent again: an old connection had just been closed.", peer.retries),
            ("holdfast_router_compared_rows", "Rows answered by both revisions.", arms.comparison.rows),
            ("holdfast_router_disagreeing_rows", "Of them, with another answer.", arms.comparison.disagreeing),
            ("holdfast_router_synthetic", "Of the requests drawn, the pod's own golden ones.", arms.synthetic),
        ):
            counter = CounterMetricFamily(name, text, labels=labels[:2])
            counter.add_metric(theirs, value)
            yield counter
        if router.smoke is not None:
            yield from _golden(router.smoke, dict(zip(labels[:2], theirs, strict=True)))
        outputs = CounterMetricFamily(
            "holdfast_router_disagreeing_outputs",
            "Rows with another answer in this output.",
            labels=[*labels[:2], "output"],
        )
        for output, count in zip(arms.comparison.names, arms.comparison.by_output, strict=True):
            outputs.add_metric([*theirs, output], count)
        yield outputs


def _golden(smoke: Smoke, theirs: dict[str, str]) -> Iterator[Metric]:
    from prometheus_client.core import CounterMetricFamily

    requests = CounterMetricFamily(
        "holdfast_router_golden_requests", "Golden requests by how they ended.", labels=[*theirs, "outcome"]
    )
    requests.add_metric([*theirs.values(), "answered"], smoke.answered)
    requests.add_metric([*theirs.values(), "failed"], smoke.failed)
    rows = CounterMetricFamily("holdfast_router_golden_rows", "Rows of their answers.", labels=[*theirs])
    rows.add_metric([*theirs.values()], smoke.comparison.rows)
    disagreeing = CounterMetricFamily(
        "holdfast_router_golden_disagreeing_rows", "Of them, with another answer than ours.", labels=[*theirs]
    )
    disagreeing.add_metric([*theirs.values()], smoke.comparison.disagreeing)
    yield from (requests, rows, disagreeing)


def _add(family: Any, values: list[str], histogram: Histogram) -> None:
    family.add_metric(values, buckets=histogram.buckets(), sum_value=histogram.sum)
