"""What to do for a ModelDeployment: read this file to understand how a model comes to be served.

    wanted model ─▶ wanted revision ─▶ its Deployment beside the one that serves ─▶ Service moved ─▶ old one deleted

The Service is the register of who is stable. A revision takes its place only when all pods that the spec asks for are
ready; one that never gets there leaves everything as it was, and status says why.

`wish` finds the wanted revision or what stands in its way, `verdict` says how far things are, `view` reads what was
observed. Nothing is remembered but in the cluster: whatever part of a plan was carried out, the next plan goes on.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

from holdfast.build import labels
from holdfast.build.poddisruptionbudget import pod_disruption_budget
from holdfast.build.service import service
from holdfast.plan import jobs, verdict
from holdfast.plan.observed import Apply, Delete, Needs, Observed, Plan, Scale, Write
from holdfast.plan.revisions import Revision, claims_of
from holdfast.plan.verdict import Verdict
from holdfast.plan.view import PATIENCE, View
from holdfast.plan.wish import (
    Obstacle,
    Wanted,
    any_conflict,
    config_map_keys,
    name_conflict,
    resolving_job,
    unneeded_helpers,
    wanted_revision,
)

LONGEST_POLL = timedelta(seconds=30)
"""Pods that are not ready are asked again, ever more rarely: to watch them all would set our memory."""


def needs(observed: Observed) -> Needs:
    """What has to be read before planning: little while all is well, the pods' own words when it is not."""
    view = View(observed)
    name = resolving_job(view)
    helper = view.job(name) if name else None
    hanging = [r for r in view.revisions if r.ready_replicas < r.replicas and r.child.status.get("replicas")]
    waited = (helper is not None or bool(hanging)) and view.waited()
    children = [revision.child for revision in hanging] + ([helper] if helper else [])
    return Needs(
        pods=waited or (helper is not None and (jobs.finished(helper) or "failed" in helper.status)),
        claims=frozenset(claim for child in children for claim in claims_of(child)) if waited else frozenset(),
        config_maps=frozenset(config_map_keys(view).values()),
        refusals=frozenset({helper.uid} if waited and helper and jobs.has_no_pods(helper) else ()),
    )


def plan(observed: Observed) -> Plan:
    """All that is to be done now."""
    view = View(observed)
    found = wanted_revision(view)
    writes: tuple[Write, ...]
    if isinstance(found, Obstacle):
        wanted = None
        writes = (*keep_stable(view), *found.writes)
        judged = verdict.of_obstacle(view, found)
    else:
        wanted = found
        writes = tuple(keep_stable(view) if any_conflict(view, wanted) else towards(view, wanted))
        judged = verdict.of_wanted(view, wanted)
    unneeded = tuple(Delete("Job", helper.name, helper.uid) for helper in unneeded_helpers(view))
    return Plan(
        status=verdict.status(view, judged, wanted),
        writes=writes + unneeded,
        events=tuple(verdict.events(view, judged)),
        requeue_after=_requeue(view, judged),
    )


def towards(view: View, wanted: Wanted) -> Iterable[Write]:
    """The writes that lead to `wanted`, in an order in which any prefix is safe."""
    target = _target(view, wanted)
    moved = view.register == target  # the Service was seen to point there
    if view.stable and view.stable.name != wanted.name:
        yield from _scaled(view.stable, view.replicas)
    tls = wanted.manifest.tls is not None if target == wanted.name or view.stable is None else view.stable.tls
    if moved:
        yield _service(view, target, tls)
        for revision in view.revisions:  # before anything is made: they may hold the room, or the quota, for it
            if revision.name not in {target, wanted.name}:
                yield Delete("Deployment", revision.child.name, revision.child.uid)
    yield from _deployment(wanted, view.asked(wanted.name))
    if moved:
        yield from _budget(view, target)
    else:
        yield _service(view, target, tls)  # the rest waits until it was seen


def keep_stable(view: View) -> Iterable[Write]:
    """Nothing new: what serves goes on serving, at the scale that is asked."""
    if view.stable is None:
        return
    yield from _scaled(view.stable, view.replicas)
    if name_conflict(view, "Service", view.metadata.name) is None:
        yield _service(view, view.stable.name, view.stable.tls)
    yield from _budget(view, view.stable.name)


def _target(view: View, wanted: Wanted) -> str:
    """The revision that the Service is to select: the wanted one as soon as nothing is lost by it."""
    ready = wanted.existing is not None and wanted.existing.has_ready(view.asked(wanted.name))
    if view.stable is None or ready or not view.has_served:
        return wanted.name
    return view.stable.name


def _deployment(wanted: Wanted, replicas: int) -> Iterable[Write]:
    manifest = wanted.manifest.render(replicas)
    existing = wanted.existing
    rendered = manifest["metadata"]["annotations"][labels.DESIRED_HASH]
    if existing is None or existing.child.annotations.get(labels.DESIRED_HASH) == rendered:
        yield Apply(manifest)
    else:  # rendered by an earlier operator: its template stays, or an upgrade would restart every model
        yield from _scaled(existing, replicas)


def _scaled(revision: Revision, replicas: int) -> Iterable[Write]:
    if revision.replicas != replicas:
        yield Scale(revision.child.name, replicas)


def _service(view: View, revision: str, tls: bool) -> Write:
    return Apply(service(view.metadata.name, view.metadata.namespace, view.metadata.uid, revision, tls=tls))


def _budget(view: View, revision: str) -> Iterable[Write]:
    metadata = view.metadata
    if view.replicas >= 2:
        if name_conflict(view, "PodDisruptionBudget", metadata.name) is None:
            yield Apply(pod_disruption_budget(metadata.name, metadata.namespace, metadata.uid, revision))
    elif view.budget:
        yield Delete("PodDisruptionBudget", view.budget.name, view.budget.uid)


def _requeue(view: View, judged: Verdict) -> float | None:
    """Pods and ConfigMaps are not watched, and no event tells that time has passed."""
    if judged.status == "True":
        return None
    return max(PATIENCE, min(LONGEST_POLL, view.waited_for() / 2)).total_seconds()
