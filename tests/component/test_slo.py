"""Objectives, from a real Prometheus to the status."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.component.world import Operator, Place, mutations, operator, stop
from tests.unit.signals.metrics_server import history, prometheus
from tests.unit.signals.test_slo import requests, steady
from tests.unit.stores.servers import free_port

from holdfast.signals.slo import Model
from holdfast_devcluster import ControlPlane

SLO = {"availability": "99.9", "windowDays": 7}
SECONDS = 2
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
            settled(running)
            message = place.condition("ModelDeployment", "bad", "SLOHealthy")["message"]
            assert "availability" in message
            assert "14.4" not in message  # the factors are those of seven days
            budgets = {name: (place.get("ModelDeployment", name) or {})["status"]["slo"] for name in ("bad", "good")}
            assert budgets["bad"]["availabilityBudgetPercent"] < 0 < budgets["good"]["availabilityBudgetPercent"]
        before = writes(plane, place)
        unknown = ("Unknown", "MetricsUnavailable")
        running.until("neither is known", lambda: healthy(place, "bad") == healthy(place, "good") == unknown)
        running.until_idle()
        told = writes(plane, place)
        assert set(told[len(before) :]) == {f"modeldeployments/status {name}" for name in ("bad", "good")}
        rounds(running, "unreachable", 2)
        running.until_idle()
        assert writes(plane, place) == told  # it is said once
        for name, left in budgets.items():
            assert (place.get("ModelDeployment", name) or {})["status"]["slo"] == left
        with prometheus(tmp_path, data, port=port):
            running.until("one is known again", lambda: healthy(place, "bad") == ("False", "FastBurn"))
            running.until("and the other", lambda: healthy(place, "good") == ("True", "WithinBudget"))
        assert stop(running) == 0


def rounds(running: Operator, outcome: str, more: int) -> None:
    """So many more rounds have gone by, with that outcome."""

    def gone_by() -> float:
        return running.metric("holdfast_prometheus_rounds_total", outcome=outcome)

    before = gone_by()
    running.until(f"{more} rounds are {outcome}", lambda: gone_by() >= before + more)


def settled(running: Operator) -> None:
    """Nothing is left to be done, and the last of the questions has been answered."""
    rounds(running, "ok", 2)
    running.until_idle()


def writes(plane: ControlPlane, place: Place) -> list[str]:
    """Of the operator, here: models of earlier tests go on elsewhere. Events may come later than what they tell of."""
    found = [event["objectRef"] for event in mutations(plane, "slo")]
    return [
        "/".join(part for part in (about["resource"], about.get("subresource")) if part) + f" {about['name']}"
        for about in found
        if about["namespace"] == place.namespace and about["resource"] != "events"
    ]
