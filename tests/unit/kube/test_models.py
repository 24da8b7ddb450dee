"""Statuses as gauges."""

from __future__ import annotations

import math
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from holdfast.kube.models import ModelCollector
from holdfast.kube.store import Store

ROLLOUT = {
    "step": 1, "weightPercent": 10, "startTime": "2026-11-23T14:00:00Z", "stepStartTime": "2026-11-23T14:00:30Z",
    "candidate": {"requests": 212, "failed": 3}, "stable": {"requests": 1904, "failed": 1},
    "requiredRequests": 600, "eValue": "0.4", "abortAt": "1000",
}  # fmt: skip
STATUS = {
    "conditions": [
        {"type": "Ready", "status": "Unknown", "reason": "CanaryStep", "message": "step 1 of 2"},
        {"type": "SLOHealthy", "status": "True", "reason": "WithinBudget", "message": ""},
        {"type": "DataStable", "status": "False", "reason": "FeatureDrift", "message": ""},
    ],
    "stableRevision": "5f3a9c0d1e",
    "candidateRevision": "c41d7e0a92",
    "rollout": ROLLOUT,
    "slo": {"availabilityBudgetPercent": 83, "latencyBudgetPercent": -20},
    "drift": {
        "rows": 2140,
        "windowSeconds": 86400,
        "features": [{"name": "alcohol", "psiPerMille": 412, "limitPerMille": 186}],
        "prediction": {"psiPerMille": 31},
    },
    "retraining": {"runsInLastDay": 2, "consecutiveFailures": 1},
    "performance": {"metric": "Accuracy", "rows": 2140, "baselinePerMille": 951, "estimatedPerMille": 902},
}


def model(name: str, status: dict[str, Any], version: int = 1) -> dict[str, Any]:
    metadata = {"namespace": "shop", "name": name, "uid": name, "resourceVersion": str(version), "generation": 1}
    return {"kind": "ModelDeployment", "metadata": metadata, "spec": {"model": {}}, "status": status}


def scraped(store: Store) -> dict[tuple[str, ...], float]:
    """(metric, its labels' values in the order of their names) → value."""
    registry = CollectorRegistry()
    registry.register(ModelCollector(store))
    families = text_string_to_metric_families(generate_latest(registry).decode())
    return {
        (sample.name, *(sample.labels[name] for name in sorted(sample.labels) if name not in ("namespace", "model"))):
        sample.value for family in families for sample in family.samples
    }  # fmt: skip


def test_a_status_is_shown_whole() -> None:
    store = Store()
    store.put(model("wine", STATUS))
    assert scraped(store) == {
        ("holdfast_model_condition", "CanaryStep", "Unknown", "Ready"): 1,
        ("holdfast_model_condition", "WithinBudget", "True", "SLOHealthy"): 1,
        ("holdfast_model_condition", "FeatureDrift", "False", "DataStable"): 1,
        ("holdfast_model_revision", "5f3a9c0d1e", "stable"): 1,
        ("holdfast_model_revision", "c41d7e0a92", "candidate"): 1,
        ("holdfast_rollout_weight_ratio", "c41d7e0a92"): 0.1,
        ("holdfast_rollout_requests", "candidate", "c41d7e0a92"): 212,
        ("holdfast_rollout_requests", "stable", "5f3a9c0d1e"): 1904,
        ("holdfast_rollout_bad_requests", "candidate", "c41d7e0a92"): 3,
        ("holdfast_rollout_bad_requests", "stable", "5f3a9c0d1e"): 1,
        ("holdfast_rollout_required_requests", "c41d7e0a92"): 600,
        ("holdfast_rollout_e_value", "c41d7e0a92"): 0.4,
        ("holdfast_rollout_abort_e_value", "c41d7e0a92"): 1000,
        ("holdfast_slo_budget_left_ratio", "availability"): 0.83,
        ("holdfast_slo_budget_left_ratio", "latency"): -0.2,
        ("holdfast_model_drift_psi", "alcohol", "feature"): 0.412,
        ("holdfast_model_drift_limit", "alcohol", "feature"): 0.186,
        ("holdfast_model_drift_psi", "", "prediction"): 0.031,
        ("holdfast_retraining_runs",): 2,
        ("holdfast_retraining_failures",): 1,
        ("holdfast_model_accuracy_ratio", "held-out"): 0.951,
        ("holdfast_model_accuracy_ratio", "estimated"): 0.902,
    }


def test_mean_errors_are_numbers_again() -> None:
    store = Store()
    store.put(model("wine", {"performance": {"metric": "MAE", "rows": 1, "baseline": "10.13", "measured": "1.2e+05"}}))
    name = "holdfast_model_mean_absolute_error"
    assert scraped(store) == {(name, "held-out"): 10.13, (name, "measured"): 120_000}


def test_what_is_over_or_gone_is_not_shown_any_more() -> None:
    store = Store()
    store.put(model("wine", STATUS))
    store.put(model("wine", {"stableRevision": "c41d7e0a92"}, version=2))
    assert scraped(store) == {("holdfast_model_revision", "c41d7e0a92", "stable"): 1}
    store.put(model("wine", {}, version=3))
    assert scraped(store) == {}


def test_every_series_tells_its_namespace_and_model() -> None:
    store = Store()
    store.put(model("wine", STATUS))
    store.put(model("iris", STATUS))
    for metric in ModelCollector(store).collect():
        for sample in metric.samples:
            assert sample.labels["namespace"] == "shop"
            assert sample.labels["model"] in ("wine", "iris")


def test_an_e_value_that_is_no_number_is_shown_as_none() -> None:
    store = Store()
    store.put(model("wine", {**STATUS, "rollout": {**ROLLOUT, "eValue": "many"}}))
    assert math.isnan(scraped(store)["holdfast_rollout_e_value", "c41d7e0a92"])
