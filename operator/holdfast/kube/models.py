"""What the status of every ModelDeployment says, as gauges: conditions, revisions, the evidence of a rollout, budgets,
how far the data has moved, accuracy, and runs of retraining.

Made when somebody scrapes, from the store. So there are no series of what is gone, and their number is bounded by that
of ModelDeployments. A process that stands by knows of none.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from prometheus_client.core import GaugeMetricFamily, Metric

from holdfast.kube.kinds import MODEL_DEPLOYMENT
from holdfast.kube.store import Store

_ROLES = (("stable", "stableRevision"), ("candidate", "candidateRevision"), ("previous", "previousRevision"))
_BUDGETS = (("availability", "availabilityBudgetPercent"), ("latency", "latencyBudgetPercent"))
_ACCURACIES = (
    ("held-out", "baselinePerMille"),
    ("estimated", "estimatedPerMille"),
    ("measured", "measuredPerMille"),
)
_MEAN_ERRORS = (("held-out", "baseline"), ("measured", "measured"))
_FAMILIES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "holdfast_model_condition": ("1: a condition as it is.", ("type", "status", "reason")),
    "holdfast_model_revision": ("1: what a revision is to its ModelDeployment.", ("role", "revision")),
    "holdfast_rollout_weight_ratio": ("Share of the traffic that the candidate gets.", ("revision",)),
    "holdfast_rollout_requests": ("Requests that count as evidence, since the rollout began.", ("arm", "revision")),
    "holdfast_rollout_bad_requests": ("Of these, those without a good answer in time.", ("arm", "revision")),
    "holdfast_rollout_required_requests": ("Requests of the candidate that are needed to decide.", ("revision",)),
    "holdfast_rollout_e_value": ("Evidence that the candidate is worse.", ("revision",)),
    "holdfast_rollout_abort_e_value": ("The e-value at which the candidate is rejected.", ("revision",)),
    "holdfast_slo_budget_left_ratio": ("Share of the error budget that is left.", ("slo",)),
    "holdfast_model_drift_psi": ("Population stability index of the newest window.", ("kind", "feature")),
    "holdfast_model_drift_limit": ("What counts as drift with so many rows.", ("kind", "feature")),
    "holdfast_retraining_runs": ("Training runs that were started in the last 24 hours.", ()),
    "holdfast_retraining_failures": ("Training runs in a row that came to nothing.", ()),
    "holdfast_model_accuracy_ratio": ("Share of right predictions, by where it is known from.", ("source",)),
    "holdfast_model_mean_absolute_error": ("Of predicted numbers, by where it is known from.", ("source",)),
}

Sample = tuple[str, tuple[str, ...], float]
"""A family, the values of its own labels, and a number."""


class ModelCollector:
    """For a prometheus_client registry."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def describe(self) -> Iterable[Metric]:
        """None of them: the registry would otherwise collect to find out."""
        return ()

    def collect(self) -> Iterator[Metric]:
        families = {
            name: GaugeMetricFamily(name, text, labels=["namespace", "model", *own])
            for name, (text, own) in _FAMILIES.items()
        }
        for key in self._store.owners():
            resource = self._store.resource(key) if key.kind == MODEL_DEPLOYMENT.name else None
            for name, own, value in _samples(resource.status) if resource else ():
                families[name].add_metric([key.namespace, key.name, *own], value)
        yield from families.values()


def _samples(status: Mapping[str, Any]) -> Iterator[Sample]:
    for condition in status.get("conditions") or ():
        yield "holdfast_model_condition", (condition["type"], condition["status"], condition["reason"]), 1.0
    for role, field in _ROLES:
        if revision := status.get(field):
            yield "holdfast_model_revision", (role, revision), 1.0
    for slo, field in _BUDGETS:
        if (percent := (status.get("slo") or {}).get(field)) is not None:
            yield "holdfast_slo_budget_left_ratio", (slo,), percent / 100
    performance = status.get("performance") or {}
    for source, field in _ACCURACIES:
        if (share := performance.get(field)) is not None:
            yield "holdfast_model_accuracy_ratio", (source,), share / 1000
    for source, field in _MEAN_ERRORS:
        if (error := performance.get(field)) is not None:
            yield "holdfast_model_mean_absolute_error", (source,), _number(error)
    if retraining := status.get("retraining"):
        yield "holdfast_retraining_runs", (), retraining["runsInLastDay"]
        yield "holdfast_retraining_failures", (), retraining["consecutiveFailures"]
    yield from _drift(status.get("drift") or {})
    if rollout := status.get("rollout"):
        yield from _rollout(rollout, status.get("candidateRevision", ""), status.get("stableRevision", ""))


def _drift(drift: Mapping[str, Any]) -> Iterator[Sample]:
    """Of the features that have moved most, as many as a status shows, and of what is said of them."""
    parts = [("feature", each["name"], each) for each in drift.get("features") or ()]
    parts += [(kind, "", drift[kind]) for kind in ("prediction", "confidence") if kind in drift]
    for kind, feature, part in parts:
        yield "holdfast_model_drift_psi", (kind, feature), part["psiPerMille"] / 1000
        if (limit := part.get("limitPerMille")) is not None:
            yield "holdfast_model_drift_limit", (kind, feature), limit / 1000


def _rollout(rollout: Mapping[str, Any], candidate: str, stable: str) -> Iterator[Sample]:
    yield "holdfast_rollout_weight_ratio", (candidate,), rollout["weightPercent"] / 100
    for arm, revision in (("candidate", candidate), ("stable", stable)):
        yield "holdfast_rollout_requests", (arm, revision), rollout[arm]["requests"]
        yield "holdfast_rollout_bad_requests", (arm, revision), rollout[arm]["failed"]
    yield "holdfast_rollout_required_requests", (candidate,), rollout["requiredRequests"]
    yield "holdfast_rollout_e_value", (candidate,), _number(rollout["eValue"])
    yield "holdfast_rollout_abort_e_value", (candidate,), _number(rollout["abortAt"])


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
