"""What to do for a ModelDeployment: read this file to understand how a model comes to be served.

    wanted model ─▶ wanted revision ─▶ its road beside the one that serves (rollout) ─▶ Service moved ─▶ guard

The Service is the register of who is stable. A revision takes its place only when all pods that the spec asks for are
ready, and nothing speaks against it; one that never gets there leaves everything as it was, and status says why.

`wish` finds the wanted revision or what stands in its way, `rollout` leads it to the traffic, `guard` watches it from
then on and leads the traffic back, `retraining` trains the next one, `verdict` and `status` say how far things are,
`view` reads what was observed.
Nothing is remembered but in the cluster: whatever part of a plan was carried out, the next plan goes on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from holdfast.api.modeldeployment import Action
from holdfast.api.modeldeployment import ModelDeploymentReason as Reason
from holdfast.build import names
from holdfast.plan import children, conditions, decisions, guard, jobs, monitoring, retraining, rollout, rules, verdict
from holdfast.plan.course import Course, held, remembered
from holdfast.plan.decisions import Decision
from holdfast.plan.hearing import Heard, heard
from holdfast.plan.observed import Delete, Needs, Observed, Plan, Write
from holdfast.plan.obstacle import Obstacle
from holdfast.plan.revisions import Revision, claims_of
from holdfast.plan.standing import Progress
from holdfast.plan.status import events, status
from holdfast.plan.verdict import Verdict
from holdfast.plan.view import PATIENCE, View
from holdfast.plan.wish import (
    any_conflict,
    config_map_keys,
    resolving_job,
    unneeded_helpers,
    wanted_revision,
)

LONGEST_POLL = timedelta(seconds=30)
"""Pods that are not ready are asked again, ever more rarely: to watch them all would set our memory."""
SHOWN_EVERY = timedelta(seconds=10)
SOONEST = 0.2
"""Seconds until the next look, where something was decided that has to be seen first."""
HISTORY = 10
"""Records that are kept beside those that are still needed."""


def needs(observed: Observed) -> Needs:
    """What has to be read before planning: little while all is well, the pods' own words when it is not."""
    view = View(observed)
    name = resolving_job(view)
    helper = view.job(name) if name else None
    hanging = [r for r in view.revisions if r.child and r.ready_replicas < r.replicas and r.present_replicas]
    waited = (helper is not None or bool(hanging)) and view.waited()
    asked = [revision.child for revision in hanging if revision.child] + ([helper] if helper else [])
    routers = _routers(view)
    loop = retraining.needs(view)
    return Needs(
        pods=waited
        or loop.pods
        or bool(routers)
        or _is_starting(view)
        or (helper is not None and (jobs.finished(helper) or "failed" in helper.status)),
        claims=frozenset(claim for child in asked for claim in claims_of(child)) if waited else frozenset(),
        config_maps=frozenset(config_map_keys(view).values()),
        refusals=frozenset({helper.uid} if waited and helper and jobs.has_no_pods(helper) else ()),
        routers=routers,
        running_trainings=loop.running_trainings,
    )


def _routers(view: View) -> frozenset[str]:
    """Revisions that send each other requests, or may."""
    stable = view.stable
    if stable is None or not view.has_served or view.spec.suspend:
        return frozenset()
    others = [
        revision.name
        for revision in view.revisions
        if revision.child and revision.replicas and revision.name != stable.name and _has_met_routers(revision)
    ]
    return frozenset({stable.name, *others}) if others else frozenset()


def _is_starting(view: View) -> bool:
    """Whether a candidate starts that is to be tried: what its pods went through until then is not held against it."""
    trying = view.spec.rollout.strategy != "Immediate" and not view.spec.suspend
    return trying and any(r.child and r.standing.progress for r in view.revisions)


def _has_met_routers(revision: Revision) -> bool:
    standing = revision.standing
    tried = standing.progress is not None and standing.progress.stage != "Starting"
    return tried or bool(standing.counted) or standing.promoted_at is not None


def plan(observed: Observed) -> Plan:
    """All that is to be done now."""
    view = View(observed)
    found = wanted_revision(view)
    wanted = None if isinstance(found, Obstacle) else found
    said = Heard(handled=view.orders.noted) if view.spec.suspend else heard(view, wanted)
    course = _suspended(view, found) if view.spec.suspend else _course(view, found, said)
    judged = monitoring.judged(observed)
    loop = retraining.retraining(view, found, judged)
    taken = (*said.decisions, *_superseded(view, found), *monitoring.notices(view, judged), *loop.decisions)
    news, told = decisions.ring(view, course, taken)
    shown, memory = _shown(view, course, status(view, course, wanted, news, said.handled, judged, loop))
    beside: tuple[Write, ...] = ()
    if not view.spec.suspend:
        unneeded = (Delete("Job", job.name, job.uid) for job in unneeded_helpers(view))
        beside = (*unneeded, *rules.writes(view), *loop.writes)
    return Plan(
        status=shown,
        writes=course.writes + beside,
        events=(*events(view, course.ready or course.verdict), *told, *said.events),
        requeue_after=min([each for each in (_requeue(view, course), loop.poll) if each is not None], default=None),
        memory=memory,
    )


def _shown(view: View, course: Course, said: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(status, memory). Counts of requests alone are shown anew only now and then."""
    before, memory = view.observed.memory.get("shown"), course.memory.to_json()
    recently = before and view.now - datetime.fromisoformat(before) < SHOWN_EVERY
    if recently and "rollout" in said and _skeleton(said) == _skeleton(view.status):
        return dict(view.status), memory | {"shown": before}
    return said, memory | {"shown": conditions.rfc3339(view.now)}


def _skeleton(said: Mapping[str, Any]) -> Any:
    """A status without what changes with every request."""
    found = [(c["type"], c["status"], c["reason"]) for c in said.get("conditions", ())]
    rollout_ = said.get("rollout") or {}
    fixed = {name: rollout_.get(name) for name in ("step", "weightPercent", "startTime", "stepStartTime")}
    return {**said, "conditions": found, "rollout": fixed}


# --- Where things stand ---------------------------------------------------------------------------------------------


def _course(view: View, found: Revision | Obstacle, said: Heard) -> Course:
    """The one thing that is going on, and what has to be kept up beside it."""
    stable = view.stable
    if said.writes:  # first that is on record; the next look acts on it
        return Course(_standing_verdict(view, found), said.writes, remembered(view), poll=0.0)
    if stable is None or not view.has_served:
        return _first(view, found, said)
    course, keep = _going_on(view, stable, found)
    record_name = names.revision_deployment(view.metadata.name, stable.name)
    confirmed = None if view.foreign("ControllerRevision", record_name) else guard.confirmation(view, stable)
    # Until it is on record when stable took over, nothing tells for how long others have to keep their pods.
    left, poll = ([], 0.0) if confirmed else guard.left_over(view, stable, keep)
    before: list[Write] = [children.record(view, stable, confirmed)] if confirmed else []
    moves = any(_moves(write, view) for write in course.writes)
    if not moves:
        before += _keep(view, stable, said.handled)
    soon = 0.0 if said.decisions or any(_superseded(view, found)) else None
    polls = [each for each in (course.poll, poll, soon) if each is not None]
    housekeeping = _history(view, found, stable)
    writes = (*before, *course.writes, *left, *housekeeping)
    return replace(course, writes=writes, poll=min(polls, default=None), confirmed=confirmed)


def _going_on(view: View, stable: Revision, found: Revision | Obstacle) -> tuple[Course, tuple[str, ...]]:
    """(the course, revisions whose pods it takes care of)."""
    previous = (view.previous.name,) if view.previous else ()
    if stable.standing.verdict == "Rejected" and (target := guard.return_to(view, stable)):
        return guard.roll_back(view, stable, target), (target.name,)
    if isinstance(found, Obstacle):
        judged = verdict.of_obstacle(view, found)
        course = guard.watch(view, stable, judged)
        tried = view.status.get("candidateRevision", "")
        return replace(course, writes=course.writes + found.writes), (*previous, tried)
    if found.name == stable.name:
        return guard.watch(view, stable, verdict.of_stable(view, found)), previous
    if found.standing.verdict == "Rejected":
        return guard.watch(view, stable, verdict.of_rejected(view, stable, found)), previous
    if any_conflict(view, found) or _others_live(view, stable, found):
        return guard.watch(view, stable, verdict.of_start(view, found, view.asked(found.name))), previous
    if view.previous and found.name != view.previous.name and rollout.receives(view, stable, view.previous):
        start = verdict.of_start(view, found, view.asked(found.name))
        return guard.dismiss(view, stable, view.previous, start), previous
    course = rollout.advance(view, stable, found)
    if found.model.wish == stable.model.wish and found.model.source == "Retraining":  # nobody asked for it by name
        course = replace(course, ready=verdict.of_serving(view, stable))
    return course, (found.name,)


def _others_live(view: View, stable: Revision, candidate: Revision) -> bool:
    """Whether an older candidate still has pods: there are never two."""
    previous = view.previous.name if view.previous else ""
    others = [r for r in view.revisions if r.child and r.name not in {stable.name, candidate.name, previous}]
    return any(revision.standing.promoted_at is None for revision in others)


def _first(view: View, found: Revision | Obstacle, said: Heard) -> Course:
    """Nothing serves yet: there is nothing to be compared with, and nothing to lose."""
    if isinstance(found, Obstacle):
        keep = _keep(view, view.stable, said.handled) if view.stable else []
        return Course(verdict.of_obstacle(view, found), (*keep, *found.writes))
    judged = verdict.of_stable(view, found)
    if any_conflict(view, found):
        return Course(judged, tuple(_keep(view, view.stable, said.handled)) if view.stable else ())
    register, pods = children.register(view, found, said.handled), children.deployment(view, found, view.replicas)
    if view.register != found.name:
        return Course(judged, (*pods, *register))  # the rest waits until it was seen
    others = [revision for revision in view.revisions if revision.name != found.name]
    cleared = [write for other in others for write in children.delete(other)]
    # What goes may hold the room, or the quota, for what comes.
    return Course(judged, (*register, *cleared, *pods, *children.budget(view, found)))


def _keep(view: View, stable: Revision, handled: Mapping[str, str]) -> list[Write]:
    """What serves goes on serving, at the scale that is asked."""
    return [
        *children.deployment(view, stable, view.replicas),
        *children.register(view, stable, handled),
        *children.budget(view, stable),
    ]


def _moves(write: Write, view: View) -> bool:
    """Whether it is a write of Service X."""
    manifest = getattr(write, "manifest", {})
    return manifest.get("kind") == "Service" and manifest["metadata"]["name"] == view.metadata.name


def _suspended(view: View, found: Revision | Obstacle) -> Course:
    """Nothing moves; status tells the truth all the same."""
    stable = view.stable
    if isinstance(found, Revision) and stable and found.name == stable.name:
        judged = verdict.of_stable(view, found)
        if judged.status == "True":
            words = f"{judged.message}; suspended: nothing is repaired or guarded"
            return Course(replace(judged, message=words), memory=remembered(view))
    message = "spec.suspend is true: nothing is changed until it is false"
    return Course(held(Reason.SUSPENDED, message), memory=remembered(view))


def _standing_verdict(view: View, found: Revision | Obstacle) -> Verdict:
    """As it was said last: what a person has just said is not carried out yet."""
    ready, progressing = conditions.find(view.status, "Ready"), conditions.find(view.status, "Progressing")
    if ready is None or progressing is None:
        return verdict.of_obstacle(view, found) if isinstance(found, Obstacle) else verdict.of_stable(view, found)
    return Verdict(
        ready["status"],
        ready["reason"],
        ready["message"],
        stalled=conditions.find(view.status, conditions.STALLED) is not None,
        held=progressing["status"] == "Unknown",
    )


# --- Housekeeping ---------------------------------------------------------------------------------------------------


def _history(view: View, found: Revision | Obstacle, stable: Revision) -> Iterable[Write]:
    """Records that are no longer true, and those that nobody needs any more."""
    if isinstance(found, Obstacle):
        return
    for revision in view.revisions:
        standing = revision.standing
        if revision.record is None or revision.name in {found.name, stable.name}:
            continue
        dropped = revision.model.source == "Retraining"  # nobody wishes for it, so nobody comes back to it
        unwanted = revision.intent != found.intent and not dropped
        if standing.verdict == "Rejected" and unwanted and revision.child is None:
            yield children.record(view, revision, standing.cleared())  # coming back to it will be a new wish
        elif standing.progress and revision.child is None and _is_told(view, revision, standing.progress):
            yield children.record(view, revision, replace(standing, progress=None, counted={}))
    needed = {found.name, stable.name, view.previous.name if view.previous else ""}
    spare = [r for r in view.revisions if r.record and r.child is None and r.name not in needed]
    for revision in spare[HISTORY:]:
        if revision.record and not (revision.standing.verdict == "Rejected" and revision.intent == found.intent):
            yield Delete("ControllerRevision", revision.record.name, revision.record.uid)


def _superseded(view: View, found: Revision | Obstacle) -> Iterable[Decision]:
    """Candidates that another wish has taken the place of: told before their records forget that they were tried."""
    if isinstance(found, Obstacle) or view.spec.suspend:
        return
    for revision in view.revisions:
        progress = revision.standing.progress
        if progress is None or revision.child or not revision.record or revision in (found, view.stable):
            continue
        if not _is_told(view, revision, progress):
            message = f"{revision.name} was on its way and is not wanted any more"
            yield decisions.decision(
                view, Action.SUPERSEDED, "AnotherRevisionWanted", message, source=revision.name, target=found.name
            )


def _is_told(view: View, revision: Revision, progress: Progress) -> bool:
    return decisions.told(view, Action.SUPERSEDED, revision.name, progress.started)


def _requeue(view: View, course: Course) -> float | None:
    """Pods and ConfigMaps are not watched, and no event tells that time has passed."""
    if course.poll is not None:
        return max(course.poll, SOONEST)
    if course.verdict.status == "True":
        return None
    return max(PATIENCE, min(LONGEST_POLL, view.waited_for() / 2)).total_seconds()
