"""What runs have in common, whatever they do: one Job, waited for; an end that is final; and no Job for ever."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from holdfast.plan import conditions, jobs
from holdfast.plan.conditions import RECONCILING, STALLED, Condition, Status
from holdfast.plan.observed import Amend, Child, Event, Observed, Pod, Write

PATIENCE = timedelta(seconds=5)
POLL_SECONDS = 10.0
SOON_SECONDS = 1.0
TOO_LONG = "it took longer than activeDeadlineSeconds"

_QUIET = frozenset({"Pending"})
_GOOD = frozenset({"Running", "Suspended"})


@dataclass(frozen=True)
class Verdict:
    """How a run stands, and what it leaves behind."""

    status: Status
    reason: str
    message: str
    results: Mapping[str, Any] = field(default_factory=dict)
    writes: tuple[Write, ...] = ()

    @property
    def final(self) -> bool:
        return self.status != "Unknown"


def judge(
    observed: Observed,
    job: Child | None,
    *,
    not_created: Callable[[Observed], Verdict],
    under_way: Callable[[Observed, Child, list[Pod]], Verdict],
    succeeded: Callable[[Observed, Child, list[Pod]], Verdict],
    failed: Callable[[Observed, Mapping[str, Any], list[Pod]], Verdict],
) -> Verdict:
    """How the run stands: by the kind's own words for each part of a Job's life, with its pods, newest first."""
    suspended = observed.spec.get("suspend", False)
    if job is None:
        return _suspended() if suspended else not_created(observed)
    pods = sorted((p for p in observed.pods if p.owner_uid == job.uid), key=lambda p: p.created, reverse=True)
    if jobs.succeeded(job):
        return succeeded(observed, job, pods)
    if condition := jobs.condition(job, "Failed"):
        return failed(observed, condition, pods)
    if suspended:
        return _suspended(job)
    if job.spec.get("suspend"):
        writes = (Amend(job.name, {"suspend": False}),)
        return Verdict("Unknown", "Pending", f"Job {job.name} is about to go on", writes=writes)
    return under_way(observed, job, pods)


def _suspended(job: Child | None = None) -> Verdict:
    """Nothing runs, or is about to. A run that was never begun has no Job."""
    writes = (Amend(job.name, {"suspend": True}),) if job and not job.spec.get("suspend") else ()
    return Verdict("Unknown", "Suspended", "spec.suspend is true: set it to false to go on", writes=writes)


def job_of(observed: Observed, name: str) -> Child | None:
    """The run's Job, unless it is going away."""
    found = (c for c in observed.children if c.kind == "Job" and c.name == name and not c.deleting)
    return next(found, None)


def status(observed: Observed, verdict: Verdict, job_name: str) -> dict[str, Any]:
    """What the status of every run begins with."""
    metadata = observed.metadata
    found = [Condition("Succeeded", verdict.status, verdict.reason, verdict.message)]
    if verdict.status != "True" and verdict.reason != "Suspended":
        kind = STALLED if verdict.final else RECONCILING
        found.append(Condition(kind, "True", verdict.reason, verdict.message))
    return {
        "observedGeneration": metadata.generation,
        "conditions": conditions.rendered(found, observed.status, metadata.generation, observed.now),
        "jobName": job_name,
    }


def is_final(observed: Observed) -> bool:
    """Whether it has ended: then it is never begun again."""
    before = conditions.find(observed.status, "Succeeded")
    return before is not None and before["status"] != "Unknown"


def waited(observed: Observed) -> bool:
    """Whether it takes so long that somebody should look why."""
    return conditions.lasts(observed.status, RECONCILING, "True", observed.now, PATIENCE)


def requeue(observed: Observed, job: Child | None, reason: str, *, final: bool) -> float | None:
    """Seconds until it is to be looked at again though nothing was seen to change."""
    if final:
        return SOON_SECONDS if expiry(observed, job) else None
    if reason == "Suspended":
        return None
    return POLL_SECONDS if waited(observed) else PATIENCE.total_seconds()


def expiry(observed: Observed, job: Child | None) -> tuple[Write, ...]:
    """Lets the Job, which is at its end, go when its time has come.

    Not before the end is on record: what its pods said would be lost otherwise, and the run begin again.
    """
    seconds = observed.spec.get("ttlSecondsAfterFinished")
    if job is None or not jobs.finished(job) or job.spec.get("ttlSecondsAfterFinished") == seconds:
        return ()
    return (Amend(job.name, {"ttlSecondsAfterFinished": seconds}),)


def seen(observed: Observed) -> Mapping[str, Any]:
    """The status of an ended run, whose suspend and ttlSecondsAfterFinished may have changed since."""
    generation = observed.metadata.generation
    if observed.status["observedGeneration"] == generation:
        return observed.status
    found = [{**condition, "observedGeneration": generation} for condition in observed.status["conditions"]]
    return {**observed.status, "observedGeneration": generation, "conditions": found}


def times(observed: Observed, job: Child | None, *, final: bool) -> dict[str, Any]:
    """When it began and ended, as in the status."""
    found: dict[str, Any] = {}
    if started := observed.status.get("startTime") or (job and job.status.get("startTime")):
        found["startTime"] = started  # of the first Job, before any suspension
    if job and final:
        ended = jobs.condition(job, "Failed") or {}
        found["completionTime"] = (
            job.status.get("completionTime") or ended.get("lastTransitionTime") or conditions.rfc3339(observed.now)
        )
    return found


def duration(job: Child) -> str:
    """How long the Job took, to be put behind a sentence; empty when it does not say."""
    begun, ended = job.status.get("startTime"), job.status.get("completionTime")
    if not begun or not ended:
        return ""
    return f", {(datetime.fromisoformat(ended) - datetime.fromisoformat(begun)).total_seconds():.0f} s"


def events(observed: Observed, status: str, reason: str, message: str) -> tuple[Event, ...]:
    """The one of a transition."""
    before: Mapping[str, Any] = conditions.find(observed.status, "Succeeded") or {}
    if before.get("reason") == reason or reason in _QUIET:
        return ()
    good = status == "True" or reason in _GOOD
    return (Event("Normal" if good else "Warning", reason, conditions.shortened(message)),)
