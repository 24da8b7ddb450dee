"""Writes to the children of a ModelDeployment, each as a small function of what was observed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

from holdfast.build import labels, names
from holdfast.build.poddisruptionbudget import pod_disruption_budget
from holdfast.build.service import candidate_service, service
from holdfast.plan import revisions
from holdfast.plan.observed import Apply, Child, Delete, Route, Scale, Write
from holdfast.plan.revisions import Revision
from holdfast.plan.standing import Standing
from holdfast.plan.traffic import Mode
from holdfast.plan.view import View
from holdfast.plan.wish import name_conflict

HEDGE_SHARE = 0.4
"""Of the time that a request may take: a router gives a target no more of it (holdfast_serving.router)."""
HEDGE_MILLISECONDS = 1000
"""Without an objective for latency."""
HEDGES_PER_THRESHOLD = 4
"""With one: an answer that is already too late is still waited for, but not for long."""
EDGES_MILLISECONDS = (50, 100, 150, 200, 300, 500, 750, 1000, 1500, 2000, 3000, 5000, 10000, 30000, 60000)
"""Hedges are edges of the histogram: what took the local model longer can then be counted."""


# --- Objects --------------------------------------------------------------------------------------------------------


def record(view: View, revision: Revision, standing: Standing | None = None) -> Write:
    """The revision's ControllerRevision, with another standing."""
    changed = replace(revision, standing=standing) if standing else revision
    return Apply(revisions.record_of(view.metadata, changed, view.next_ordinal, view.now))


def deployment(view: View, revision: Revision, replicas: int) -> Iterable[Write]:
    """Pods of the revision, by the template that was kept with it."""
    manifest = revisions.deployment_of(view.metadata, revision, replicas)
    rendered = manifest["metadata"]["annotations"][labels.DESIRED_HASH]
    if revision.child is None or revision.child.annotations.get(labels.DESIRED_HASH) == rendered:
        yield Apply(manifest)
    elif revision.replicas != replicas:  # written by an earlier operator: a template that is let be restarts nothing
        yield Scale(revision.child.name, replicas)


def delete(revision: Revision) -> Iterable[Write]:
    """No pods of the revision any more."""
    if revision.child:
        yield Delete("Deployment", revision.child.name, revision.child.uid)


def register(view: View, stable: Revision, handled: Mapping[str, str]) -> Iterable[Write]:
    """Service X to this revision: the traffic is moved, and it is on record that it was."""
    metadata = view.metadata
    if name_conflict(view, "Service", metadata.name) is None:
        manifest = service(
            metadata.name, metadata.namespace, metadata.uid, stable.name, tls=stable.tls, handled=handled
        )
        yield Apply(manifest)


def candidate_register(view: View, other: Revision) -> Iterable[Write]:
    """Service X-candidate to the one other live revision."""
    metadata = view.metadata
    if name_conflict(view, "Service", names.candidate_service(metadata.name)) is None:
        yield Apply(candidate_service(metadata.name, metadata.namespace, metadata.uid, other.name, tls=other.tls))


def budget(view: View, stable: Revision) -> Iterable[Write]:
    """Of stable alone: a candidate that crashes must not stand in the way of draining a node."""
    metadata = view.metadata
    if view.replicas >= 2:
        if name_conflict(view, "PodDisruptionBudget", metadata.name) is None:
            yield Apply(pod_disruption_budget(metadata.name, metadata.namespace, metadata.uid, stable.name))
    elif view.budget:
        yield Delete("PodDisruptionBudget", view.budget.name, view.budget.uid)


# --- Leases ---------------------------------------------------------------------------------------------------------


def route(view: View, at: Revision, target: Revision, via: Child | None, mode: Mode, **more: Any) -> Iterable[Route]:
    """Leases for the pods of `at` that answered, towards `target` by the Service `via` if that leads there."""
    if address := _address(via, target):
        yield from _leases(view, at, target, address, mode, **more)


def withdrawal(view: View, at: Revision, target: Revision) -> Iterable[Route]:
    """No request from the pods of `at` to `target` from now on, wherever that may be found."""
    vias = [via for via in (view.candidate_service, view.service) if via]
    addresses = [*filter(None, (_address(via, target) for via in vias)), *filter(None, map(_address_of, vias))]
    for address in addresses[:1]:
        yield from _leases(view, at, target, address, "share", weight=0.0)


def _leases(view: View, at: Revision, target: Revision, address: str, mode: Mode, **more: Any) -> Iterable[Route]:
    pods = tuple(pod.uid for pod, report in view.reports(at) if report.takes_leases)
    if not pods:
        return
    name = f"{view.metadata.name}.{view.metadata.namespace}.svc"
    yield Route(
        revision=at.name,
        pods=more.pop("pods", pods),
        target=target.name,
        address=address,
        tls_name=name if target.tls else None,
        ready_seconds=ready_for(view, target).total_seconds(),
        mode=mode,
        hedge_milliseconds=hedge_milliseconds(view),
        **more,
    )


def ready_for(view: View, revision: Revision) -> timedelta:
    """For how long its youngest pod that is ready has been so."""
    since = [pod.ready_since for pod in view.pods_of(revision) if pod.ready and pod.ready_since and not pod.deleting]
    return max(timedelta(0), view.now - max(since)) if since else timedelta(0)


def hedge_milliseconds(view: View) -> int:
    """How long a router waits for another revision before the local model answers."""
    slo = view.spec.slo
    latency = slo.latency if slo else None
    wished = HEDGES_PER_THRESHOLD * latency.threshold_milliseconds if latency else HEDGE_MILLISECONDS
    most = HEDGE_SHARE * view.spec.serving.request_timeout_milliseconds
    usable = [edge for edge in EDGES_MILLISECONDS if edge <= most]
    return next((edge for edge in usable if edge >= wished), usable[-1] if usable else max(1, int(most)))


def limit_seconds(view: View) -> float:
    """From which on an answer counts as bad, whoever gave it."""
    slo = view.spec.slo
    latency = slo.latency if slo else None
    return (latency.threshold_milliseconds if latency else hedge_milliseconds(view)) / 1000


def share_of(replicas: int, percent: int) -> int:
    """Pods for a share of the traffic that `replicas` pods answer."""
    return max(1, math.ceil(replicas * percent / 100))


def _address(via: Child | None, target: Revision) -> str | None:
    if via is None or via.spec.get("selector", {}).get(labels.REVISION) != target.name:
        return None
    return _address_of(via)


def _address_of(service: Child) -> str | None:
    host = service.spec.get("clusterIP")
    if not host or host == "None":
        return None
    port = next((port["port"] for port in service.spec.get("ports", ()) if port.get("name") in {"http", "https"}), 80)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
