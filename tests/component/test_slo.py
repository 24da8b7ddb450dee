"""Objectives, from a real Prometheus to the status."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from tests.component.world import Operator, Place, mutations, operator, stop, until
from tests.unit.signals.metrics_server import history, prometheus
from tests.unit.signals.test_slo import requests, steady
from tests.unit.stores.servers import free_port

from holdfast.signals.slo import Model
from holdfast_devcluster import ControlPlane

SLO = {"availability": "99.9", "windowDays": 7}
SECONDS = 5
"""The shortest interval that there is."""


def series(namespace: str) -> dict[str, Any]:
    """An hour of a model that begins to fail a tenth of its requests twenty minutes ago, and of one that does well."""
    bad, good = Model(namespace, "bad"), Model(namespace, "good")
    return {
        requests(bad, "aaaa", "ok"): steady(100.0, start=7200),
        requests(bad, "aaaa", "failed"): steady(10.0, start=1200),
        requests(good, "aaaa", "ok"): steady(100.0, start=7200),
        requests(good, "aaaa", "failed"): steady(0.01, start=7200),
    }


def healthy(place: Place, name: str) -> tuple[str, str]:
    found = place.condition("ModelDeployment", name, "SLOHealthy")
    return found.get("status", ""), found.get("reason", "")


def test_what_burns_is_said_and_an_outage_of_prometheus_changes_nothing_else(
    plane: ControlPlane, place: Place, tmp_path: Path
) -> None:
    data, port = history(tmp_path, series(place.namespace), 3600), free_port()
    address = {
        "HOLDFAST_PROMETHEUS_URL": f"http://127.0.0.1:{port}",
        "HOLDFAST_PROMETHEUS_SECONDS": str(SECONDS),
    }
    with operator(plane, "slo", **address) as running:
        with prometheus(tmp_path, data, port=port):
            for name in ("bad", "good"):
                place.model(name, slo=SLO)
                place.until_ready(name)
            running.until("the bad one burns", lambda: healthy(place, "bad") == ("False", "FastBurn"))
            running.until("the good one does not", lambda: healthy(place, "good") == ("True", "WithinBudget"))
            message = place.condition("ModelDeployment", "bad", "SLOHealthy")["message"]
            assert "availability" in message
            assert "14.4" not in message  # the factors are those of seven days
            budgets = {name: (place.get("ModelDeployment", name) or {})["status"]["slo"] for name in ("bad", "good")}
            assert budgets["bad"]["availabilityBudgetPercent"] < 0 < budgets["good"]["availabilityBudgetPercent"]
            settled(running, place)
        begin, before = time.monotonic(), len(mutations(plane, "slo"))
        unknown = ("Unknown", "MetricsUnavailable")
        running.until("neither is known", lambda: healthy(place, "bad") == healthy(place, "good") == unknown)
        assert time.monotonic() - begin < 4 * SECONDS
        time.sleep(2 * SECONDS)
        # Events about the burn may come a moment later than its status.
        written = [event for event in mutations(plane, "slo")[before:] if event["objectRef"]["resource"] != "events"]
        assert {event["objectRef"].get("subresource") for event in written} == {"status"}, written
        assert len(written) == 2  # once for each
        for name, left in budgets.items():
            assert (place.get("ModelDeployment", name) or {})["status"]["slo"] == left
        with prometheus(tmp_path, data, port=port):
            running.until("one is known again", lambda: healthy(place, "bad") == ("False", "FastBurn"))
            running.until("and the other", lambda: healthy(place, "good") == ("True", "WithinBudget"))
        assert running.metric("holdfast_prometheus_rounds_total", outcome="unreachable") >= 2
        assert stop(running) == 0


def settled(running: Operator, place: Place) -> None:
    """Nothing is left to be done, and the last of the questions has been answered."""
    rounds = running.metric("holdfast_prometheus_rounds_total", outcome="ok")
    until(
        "another round has gone by",
        lambda: running.metric("holdfast_prometheus_rounds_total", outcome="ok") >= rounds + 2,
    )
    running.until_idle()
