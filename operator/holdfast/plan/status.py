"""A ModelDeployment's status: conditions, revisions, numbers, and the Events that go with a change of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from holdfast.api.modeldeployment import ModelDeploymentReason as Reason
from holdfast.build import labels
from holdfast.plan import conditions, slo
from holdfast.plan.conditions import RECONCILING, STALLED, Condition, rfc3339, shortened
from holdfast.plan.course import Course
from holdfast.plan.evidence import ABORT_AT
from holdfast.plan.monitoring import Judged
from holdfast.plan.observed import Event
from holdfast.plan.retraining import Loop
from holdfast.plan.revisions import Revision
from holdfast.plan.verdict import Verdict, url_of
from holdfast.plan.view import View

MOST_REVISIONS = 16


def status(
    view: View,
    course: Course,
    wanted: Revision | None,
    decisions: list[Mapping[str, Any]],
    handled: Mapping[str, str],
    judged: Judged | None,
    loop: Loop,
) -> dict[str, Any]:
    """The whole status."""
    verdict = course.ready or course.verdict
    stable = view.stable if view.has_served else None
    found = [
        Condition("Ready", verdict.status, verdict.reason, verdict.message),
        _available(view, verdict),
        _progressing(course.verdict),
    ]
    if rolled_back := _rolled_back(view, course):
        found.append(rolled_back)
    wanted_slo = slo.objectives(view.observed.spec)
    if wanted_slo:
        found.append(slo.condition(wanted_slo, view.observed.slo, view.status, view.metadata.generation))
    if judged:
        found += judged.conditions
    if loop.condition:
        found.append(loop.condition)
    if not verdict.complete:
        found.append(Condition(STALLED if verdict.stalled else RECONCILING, "True", verdict.reason, verdict.message))
    observed, metadata = view.observed, view.metadata
    said: dict[str, Any] = {
        "observedGeneration": metadata.generation,
        "conditions": conditions.rendered(found, observed.status, metadata.generation, observed.now),
        "replicas": stable.present_replicas if stable else 0,
        "readyReplicas": stable.ready_replicas if stable else 0,
    }
    if stable:
        selector = labels.serving_selector(metadata.name, stable.name)
        said["selector"] = ",".join(f"{key}={value}" for key, value in selector.items())
        said["stableRevision"] = stable.name
        said["model"] = stable.model.served_by(stable.image)
    candidate = _candidate(view, stable, wanted)
    if candidate:
        said["candidateRevision"] = candidate
    if previous := _previous(view, course):
        said["previousRevision"] = previous
    if view.service or (wanted and not view.foreign("Service", metadata.name)):
        said["url"] = url_of(view)
    if kept := list(_revisions(view, stable, course))[:MOST_REVISIONS]:
        said["revisions"] = kept
    if candidate and (rollout := _rollout(view, course, candidate)):
        said["rollout"] = rollout
    if wanted_slo and (left := slo.budgets(wanted_slo, view.observed.slo, view.status)):
        said["slo"] = left
    if judged:
        parts = {"drift": judged.drift, "performance": judged.measured}
        said |= {name: part for name, part in parts.items() if part}
    if decisions:
        said["decisions"] = decisions
    if loop.status is not None:
        said["retraining"] = dict(loop.status)
    if loop.handled:
        said["lastHandledRetrain"] = loop.handled
    for name, key in (("lastHandledRollout", labels.HANDLED_ROLLOUT), ("lastHandledRefresh", labels.HANDLED_REFRESH)):
        if handled.get(key):
            said[name] = handled[key]
    return said


def _candidate(view: View, stable: Revision | None, wanted: Revision | None) -> str | None:
    """While something stands in its way, the one that was on its way still is. A rejected one is not any more."""
    if wanted and wanted.standing.verdict == "Rejected":
        return None
    name = wanted.name if wanted else view.status.get("candidateRevision")
    if name and (stable is None or stable.name != name) and (wanted or view.revision(name)):
        return str(name)
    return None


def _previous(view: View, course: Course) -> str | None:
    """Where a rollback would lead."""
    if course.confirmed:
        window = view.spec.guard.rollback_window_seconds
        return course.confirmed.replaced if window and not course.confirmed.rolled_back else None
    return view.previous.name if view.previous else None


def _available(view: View, verdict: Verdict) -> Condition:
    stable = view.stable
    if stable and stable.ready_replicas:
        message = f"{min(stable.ready_replicas, stable.replicas)} of {stable.replicas} pods ready"
        return Condition("Available", "True", Reason.SERVING, message)
    if view.replicas == 0 and view.has_served:
        return Condition("Available", "False", Reason.SCALED_TO_ZERO, "serving.replicas is 0, as asked")
    if view.has_served or "stableRevision" in view.status:
        return Condition("Available", "False", Reason.NO_READY_PODS, f"no pod is ready; {verdict.message}")
    return Condition("Available", "False", Reason.NEVER_SERVED, "no revision has been ready yet")


def _progressing(verdict: Verdict) -> Condition:
    if verdict.complete:
        return Condition("Progressing", "False", Reason.COMPLETE, verdict.message)
    if verdict.held:
        return Condition("Progressing", "Unknown", verdict.reason, verdict.message)
    return Condition("Progressing", "False" if verdict.stalled else "True", verdict.reason, verdict.message)


def _rolled_back(view: View, course: Course) -> Condition | None:
    """Until the next promotion."""
    stable = view.stable
    standing = course.confirmed or (stable.standing if stable else None)
    if stable is None or standing is None:
        return None
    if standing.alarm.ineffective:
        return Condition("RolledBack", "True", Reason.ROLLBACK_INEFFECTIVE, standing.alarm.message)
    if not standing.rolled_back:
        return None
    message = f"traffic was taken from {standing.replaced}, which had been promoted; {stable.name} answers again"
    return Condition("RolledBack", "True", standing.reason or Reason.ROLLING_BACK, message)


def _revisions(view: View, stable: Revision | None, course: Course) -> Iterable[dict[str, Any]]:
    """Those with a record, newest first; the record of stable may be written in this very pass."""
    for revision in view.revisions:
        if stable and course.confirmed and revision.name == stable.name:
            made = {"creationTime": rfc3339(view.now)} if revision.record is None else {}
            ordinal = revision.ordinal or view.next_ordinal
            yield made | _revision(replace(revision, standing=course.confirmed, ordinal=ordinal))
        elif course.rejected and revision.name == course.rejected.name:
            yield _revision(course.rejected)
        elif revision.record:
            yield _revision(revision)


def _revision(revision: Revision) -> dict[str, Any]:
    standing = revision.standing
    data = revision.record.spec.get("data") or {} if revision.record else {}
    said = {
        "name": revision.name,
        "ordinal": revision.ordinal,
        "modelDigest": revision.model.digest,
        "source": revision.model.source,
        "verdict": standing.verdict,
        "reason": standing.reason,
        "message": shortened(standing.message),
        "creationTime": data.get("creationTime"),
        "verdictTime": rfc3339(standing.time) if standing.time else None,
    }
    return {name: value for name, value in said.items() if value not in (None, "")}


def _rollout(view: View, course: Course, candidate: str) -> dict[str, Any] | None:
    """How far the candidate is, by the last look at it."""
    revision = view.revision(candidate)
    progress = revision.standing.progress if revision else None
    if progress is None:
        return None
    trial, before = course.trial, view.status.get("rollout") or {}
    if trial is None and before.get("startTime") == rfc3339(progress.started):  # nobody has looked
        kept = ("weightPercent", "candidate", "stable", "requiredRequests", "eValue")
        old = {name: before[name] for name in kept if name in before}
    else:
        old = {}
    required = trial.treated.requests + trial.missing(view.tolerance) if trial else round(3 / view.tolerance)
    return {
        "step": progress.step,
        "weightPercent": course.weight,
        "startTime": rfc3339(progress.started),
        "stepStartTime": rfc3339(progress.since),
        "candidate": {"requests": trial.treated.requests, "failed": trial.treated.bad} if trial else _NONE,
        "stable": {"requests": trial.control.requests, "failed": trial.control.bad} if trial else _NONE,
        "requiredRequests": required,
        "eValue": trial.e_value if trial else "1",
        "abortAt": str(ABORT_AT),
    } | old


_NONE = {"requests": 0, "failed": 0}


def events(view: View, verdict: Verdict) -> Iterable[Event]:
    """Arrivals at an end, good or bad."""
    before: Mapping[str, Any] = conditions.find(view.status, "Ready") or {}
    changed = (before.get("status"), before.get("reason")) != (verdict.status, verdict.reason)
    scaled = verdict.status == "True" and before.get("reason") == Reason.SCALING  # an autoscaler does it all the time
    if changed and not scaled and verdict.status != "Unknown":
        message = conditions.shortened(verdict.message)
        # A TrainingJob and the ModelDeployment of its output are applied together, and either may come first.
        early = verdict.reason == Reason.TRAINING_JOB_NOT_FOUND and not verdict.stalled
        yield Event("Normal" if verdict.status == "True" or early else "Warning", verdict.reason, message)
