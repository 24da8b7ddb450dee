"""Rows and labels, from a real Prometheus to the status."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.component.world import Operator, Place, mutations, operator, stop
from tests.unit.signals.metrics_server import history, prometheus
from tests.unit.signals.test_drift import growing, name, predicting, profiled
from tests.unit.stores.servers import free_port

from holdfast.signals.drift import Asked
from holdfast.signals.slo import Model
from holdfast_devcluster import ControlPlane

MONITORING = {"drift": {}, "performance": {"maxDropPerMille": 50}}
WINDOW = 3600
START = 5 * WINDOW
SECONDS = 2
"""The shortest interval that there is."""
EXPECTED = {
    "stable": ("True", "NoDrift"),
    "moved": ("False", "FeatureDrift"),
    "quiet": ("Unknown", "InsufficientData"),
    "broken": ("False", "UpstreamFault"),
    "bare": ("Unknown", "NoProfile"),
    "price": ("True", "NoDrift"),
}
NAMES = sorted(EXPECTED)


def series(namespace: str, revisions: dict[str, str]) -> dict[str, Any]:
    """Five hours of six models."""

    def asked(model: str) -> Asked:
        return Asked(Model(namespace, model), revisions[model])

    def half(_: float) -> float:
        return 0.5

    found: dict[str, Any] = {
        **profiled(asked("stable"), {"0": half, "1": half}, START),
        **profiled(asked("moved"), {"0": lambda _: 0.1, "1": lambda _: 0.9}, START),
        **profiled(asked("broken"), {"0": half, "1": lambda _: 0.1, "missing": lambda _: 0.4}, START),
        name("holdfast_model_info", asked("bare"), profile="none"): lambda _: 1.0,
    }
    numbers = profiled(asked("price"), {"0": half, "1": half}, START)
    found |= {text: value for text, value in numbers.items() if "_confidence_" not in text}
    found |= predicting(asked("price"), {"0": lambda _: 0.05, "1": lambda _: 0.05}, START)
    for text, value in profiled(asked("quiet"), {"0": half}, START).items():
        found[text] = _less(value) if "bin_total" in text else value
    for outcome, rate in (("correct", 0.05), ("wrong", 0.05)):
        labels = {"counted_revision": revisions["stable"], "outcome": outcome}
        found[name("holdfast_feedback_rows_total", asked("stable"), **labels)] = growing(lambda _, r=rate: r, START)
    return found


def _less(value: Any) -> Any:
    """A hundredth of the rows."""
    return lambda before: value(before) / 100


def said(place: Place, model: str, type_: str = "DataStable") -> tuple[str, str]:
    found = place.condition("ModelDeployment", model, type_)
    return found.get("status", ""), found.get("reason", "")


def everything(place: Place) -> dict[str, tuple[str, str]]:
    return {model: said(place, model) for model in NAMES}


def writes(plane: ControlPlane, place: Place) -> list[Any]:
    """To the objects of this test: those of others go on. Events may come a moment later than what they tell of."""
    written = (event["objectRef"] for event in mutations(plane, "drift"))
    return [each for each in written if each.get("namespace") == place.namespace and each["resource"] != "events"]


def rounds(running: Operator, outcome: str) -> float:
    return running.metric("holdfast_prometheus_rounds_total", outcome=outcome)


def test_what_has_moved_is_said_and_an_outage_of_prometheus_changes_nothing(
    plane: ControlPlane, place: Place, tmp_path: Path
) -> None:
    port = free_port()
    settings = {
        "HOLDFAST_PROMETHEUS_URL": f"http://127.0.0.1:{port}",
        "HOLDFAST_PROMETHEUS_SECONDS": str(SECONDS),
        "HOLDFAST_DRIFT_WINDOW_SECONDS": str(WINDOW),
    }
    with operator(plane, "drift", **settings) as running:
        for model in NAMES:
            place.model(model, monitoring=MONITORING)
        revisions = {model: place.until_ready(model)["status"]["stableRevision"] for model in NAMES}
        data = history(tmp_path, series(place.namespace, revisions), START)
        with prometheus(tmp_path, data, port=port):
            running.until("all is known", lambda: everything(place) == EXPECTED)
            moved, stable = (place.get("ModelDeployment", model) or {} for model in ("moved", "stable"))
            message = place.condition("ModelDeployment", "moved", "DataStable")["message"]
            assert message.startswith("alcohol PSI ")
            assert "in 1 h)" in message
            assert [each["name"] for each in moved["status"]["drift"]["features"]] == ["alcohol"]
            decision = moved["status"]["decisions"][0]
            assert (decision["action"], decision["reason"]) == ("Notified", "FeatureDrift")
            assert said(place, "stable", "PerformanceStable") == ("False", "MeasuredDrop")
            assert said(place, "moved", "PerformanceStable") == ("True", "WithinTolerance")
            performance = stable["status"]["performance"]
            assert (performance["baselinePerMille"], performance["measuredPerMille"]) == (775, 500)
            assert said(place, "price", "PerformanceStable") == ("False", "MeasuredDrop")
            grown = place.condition("ModelDeployment", "price", "PerformanceStable")["message"]
            assert grown.startswith("MAE 3 measured, 2 held-out, tolerated 5.0% more (")
            running.until_idle()
        asked = rounds(running, "unreachable")
        running.until("it was asked for in vain", lambda: rounds(running, "unreachable") > asked)
        running.until_idle()  # with what the last answers led to
        written = len(writes(plane, place))
        running.until("and again", lambda: rounds(running, "unreachable") > asked + 2)
        running.until_idle()
        assert everything(place) == EXPECTED
        assert writes(plane, place)[written:] == []
        assert stop(running) == 0
