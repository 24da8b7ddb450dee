"""Alerts about what the operator says of a model: its condition, as a gauge of the operator's own.

An alert goes on for a while after the gauge has gone, so that a new leader does not end it and begin it anew.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from holdfast.build.promql import equals, one_of, selector

CONDITION = "holdfast_model_condition"
KEPT = "10m"
EVERY = "30s"


@dataclass(frozen=True, slots=True)
class _Alert:
    """It fires while the condition is False for one of the reasons."""

    name: str
    severity: str
    condition: str
    reasons: tuple[str, ...]
    summary: str


_ALERTS = (
    _Alert(
        "HoldfastUpstreamFault",
        "page",
        "DataStable",
        ("UpstreamFault",),
        "values of a feature have gone missing, or were never seen before: look at who sends them. "
        "Nothing is trained meanwhile",
    ),
    _Alert(
        "HoldfastDrift",
        "ticket",
        "DataStable",
        ("FeatureDrift", "PredictionDrift", "DriftPersistent"),
        "rows or predictions are not as the held-out ones any more; status.drift has the features",
    ),
    _Alert(
        "HoldfastAccuracyDrop",
        "ticket",
        "PerformanceStable",
        ("EstimatedDrop", "MeasuredDrop"),
        "the model is right less often, or errs by more, than is tolerated; status.performance has the numbers",
    ),
    _Alert(
        "HoldfastRetrainingFailed",
        "ticket",
        "Retraining",
        ("TrainingFailed", "BreakerOpen"),
        "no new model came of it, and until somebody looks at the last runs none may",
    ),
)


def group(name: str, namespace: str, conditions: Collection[str]) -> dict[str, Any] | None:
    """The group of rules about these conditions of a ModelDeployment; None without any."""
    alerts = [_rule(each, name, namespace) for each in _ALERTS if each.condition in conditions]
    if not alerts:
        return None
    return {"name": f"holdfast/{namespace}/{name}/conditions", "interval": EVERY, "rules": alerts}


def _rule(alert: _Alert, name: str, namespace: str) -> dict[str, Any]:
    return {
        "alert": alert.name,
        "expr": f"max by (namespace, model, reason) ({_series(alert, name, namespace)}) == 1",
        "keep_firing_for": KEPT,
        "labels": {"severity": alert.severity},
        "annotations": {"summary": f"{{{{ $labels.namespace }}}}/{{{{ $labels.model }}}}: {alert.summary}"},
    }


def _series(alert: _Alert, name: str, namespace: str) -> str:
    matchers: Iterable[str] = (
        equals("namespace", namespace),
        equals("model", name),
        equals("type", alert.condition),
        equals("status", "False"),
        one_of("reason", alert.reasons),
    )
    return selector(CONDITION, *matchers)
