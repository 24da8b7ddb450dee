"""The rules for Prometheus beside a ModelDeployment with objectives: one object, of the kind that the cluster has."""

from __future__ import annotations

from collections.abc import Iterable

from holdfast.build import names
from holdfast.build.rules import rules
from holdfast.plan import slo
from holdfast.plan.observed import Apply, Delete, Write
from holdfast.plan.view import View
from holdfast.plan.wish import name_conflict


def writes(view: View) -> Iterable[Write]:
    """Last of all: nothing else waits for them."""
    metadata, wanted = view.metadata, slo.objectives(view.observed.spec)
    resource = view.observed.settings.prometheus_rules
    kind, name = ("PrometheusRule", metadata.name) if resource else ("ConfigMap", names.rules_config_map(metadata.name))
    if wanted and name_conflict(view, kind, name) is None:
        yield Apply(
            rules(
                metadata.name,
                metadata.namespace,
                metadata.uid,
                wanted.all,
                slo.alarms(wanted.window_days),
                wanted.window_days,
                custom_resource=resource,
            )
        )
    for child in view.observed.children:
        unneeded = child.kind in {"PrometheusRule", "ConfigMap"} and (child.kind != kind or not wanted)
        if unneeded and not child.deleting:
            yield Delete(child.kind, child.name, child.uid)
