"""The rules for Prometheus beside a ModelDeployment that is watched: one object, of the kind that the cluster has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from holdfast.api.modeldeployment import ModelDeploymentCondition
from holdfast.build import names
from holdfast.build.rules import rules
from holdfast.plan import drift, monitoring, slo
from holdfast.plan.observed import Apply, Delete, Write
from holdfast.plan.view import View
from holdfast.plan.wish import name_conflict


def writes(view: View) -> Iterable[Write]:
    """Last of all: nothing else waits for them."""
    metadata, objectives = view.metadata, slo.objectives(view.observed.spec)
    conditions = frozenset(_alerted(view.observed.spec))
    wanted = bool(objectives or conditions)
    resource = view.observed.settings.prometheus_rules
    kind, name = ("PrometheusRule", metadata.name) if resource else ("ConfigMap", names.rules_config_map(metadata.name))
    if wanted and name_conflict(view, kind, name) is None:
        yield Apply(
            rules(
                metadata.name,
                metadata.namespace,
                metadata.uid,
                objectives.all if objectives else (),
                slo.alarms(objectives.window_days) if objectives else (),
                objectives.window_days if objectives else 0,
                conditions=conditions,
                custom_resource=resource,
            )
        )
    for child in view.observed.children:
        unneeded = child.kind in {"PrometheusRule", "ConfigMap"} and (child.kind != kind or not wanted)
        if unneeded and not child.deleting:
            yield Delete(child.kind, child.name, child.uid)


def _alerted(spec: Mapping[str, Any]) -> Iterable[str]:
    """Conditions that there are only because somebody asked for them."""
    wish = drift.wish(spec)
    if wish and wish.drift:
        yield monitoring.DATA_STABLE
    if wish and wish.max_drop is not None:
        yield monitoring.PERFORMANCE_STABLE
    if spec.get("retraining"):
        yield ModelDeploymentCondition.RETRAINING
