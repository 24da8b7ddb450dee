"""Looking at the data: a helper Job reads what a listing tells, and reports a version when it has settled."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from holdfast.build import names
from holdfast.build.job import poll_job
from holdfast.plan import jobs, trouble
from holdfast.plan.conditions import rfc3339
from holdfast.plan.observed import Child, Create, Write
from holdfast.plan.view import View, newest_first

EVERY = 300
"""Seconds, where the spec says nothing."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What the last look at the data came to."""

    version: str | None
    """None: nobody has seen the data yet."""
    time: datetime | None
    """When the look ended."""
    problem: str = ""
    """Why the last look came to nothing."""
    writes: tuple[Write, ...] = ()
    pending: str = ""
    """What is being waited for; empty when the reading is of now."""
    next: datetime | None = None
    """When it will be old."""


def unread(view: View) -> Child | None:
    """A finished helper whose report is still to be taken in."""
    before = _time((view.status.get("retraining") or {}).get("lastPollTime"))
    done = [job for job in view.helpers("poll") if jobs.finished(job) and (before is None or ended(job) > before)]
    return max(done, key=ended, default=None)


def reading(view: View, wanted: bool) -> Reading:
    """The data as they were seen last; `wanted`: look again when that is long ago."""
    said = view.status.get("retraining") or {}
    version, time, problem = said.get("lastDataVersion"), _time(said.get("lastPollTime")), said.get("dataProblem", "")
    if helper := unread(view):
        pods = newest_first(pod for pod in view.observed.pods if pod.owner_uid == helper.uid)
        told = next((report for report in map(trouble.report, pods) if report), {})
        time = ended(helper)
        if isinstance(told.get("version"), str):
            version, problem = told["version"], ""
        else:
            words = f"{told['reason']}: {told.get('message', '')}" if "reason" in told else "it left no report"
            problem = f"Job {helper.name}: {words}"[:256]
    every = timedelta(seconds=_every(view))
    start = datetime.fromtimestamp(view.now.timestamp() // every.total_seconds() * every.total_seconds(), UTC)
    due = max(start, view.observed.data_event or start)
    current = Reading(version, time, problem, next=start + every)
    if not wanted or (time and time >= due):
        return current
    running = next((job for job in view.helpers("poll") if not jobs.finished(job)), None)
    if running:
        pods = newest_first(pod for pod in view.observed.pods if pod.owner_uid == running.uid)
        return Reading(version, time, problem, (), f"Job {running.name} looks at the data{trouble.doing(pods)}", None)
    create = _question(view, due)
    name = create.manifest["metadata"]["name"]
    if view.job(name):  # of this very moment, and taken in
        return current
    if refused := view.observed.create_errors.get(("Job", name)):
        return Reading(version, time, f"QuotaExceeded: {refused}"[:256], (create,), refused, None)
    return Reading(version, time, problem, (create,), f"Job {name} looks at the data", None)


def _question(view: View, due: datetime) -> Create:
    metadata, settings = view.metadata, view.observed.settings
    assert view.spec.retraining
    return Create(
        poll_job(
            names.helper_job(metadata.name, metadata.uid, "poll", rfc3339(due)),
            metadata.name,
            metadata.namespace,
            metadata.uid,
            view.spec.retraining.template.spec,
            settings.training_image,
            settings.image_pull_policy,
            settings.settle_seconds,
        )
    )


def _every(view: View) -> int:
    triggers = view.spec.retraining.triggers if view.spec.retraining else None
    return triggers.new_data.poll_seconds if triggers and triggers.new_data else EVERY


def ended(job: Child) -> datetime:
    """When a finished Job came to its end."""
    failed: Any = jobs.condition(job, "Failed") or {}
    text = job.status.get("completionTime") or failed.get("lastTransitionTime")
    return _time(text) or datetime.fromtimestamp(0, UTC)


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
