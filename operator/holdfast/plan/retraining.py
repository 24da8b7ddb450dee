"""The loop: what asks for a run, what keeps it back, the run, its gate, and the way of its model to the traffic.

One run at a time. Idle ─▶ CheckingData ─▶ Queued ─▶ Training ─▶ Evaluating ─▶ RollingOut ─▶ Idle, each found again
from what is in the cluster: `trainings` reads the TrainingJobs, `challenger` the records of their models, `polling` the
helper that looks at the data. Nothing is started for a cause that a run was started for, on data that a run has learned
from, or on data that an upstream fault has spoilt.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from holdfast.api.modeldeployment import Action
from holdfast.api.modeldeployment import ModelDeploymentReason as Reason
from holdfast.api.retraining import Trigger
from holdfast.plan import challenger, conditions, decisions, jobs, polling, trainings, triggers, wish
from holdfast.plan.brakes import Brakes, brakes
from holdfast.plan.conditions import Condition, rfc3339
from holdfast.plan.decisions import Decision
from holdfast.plan.monitoring import Judged
from holdfast.plan.observed import Delete, Needs, Write
from holdfast.plan.obstacle import Obstacle
from holdfast.plan.polling import Reading
from holdfast.plan.revisions import Revision
from holdfast.plan.trainings import Outcome, Run
from holdfast.plan.triggers import Asked, Schedule
from holdfast.plan.view import View

WAITING = frozenset(
    {
        Reason.COOLING_DOWN,
        Reason.BUDGET_SPENT,
        Reason.NO_NEW_DATA,
        Reason.BREAKER_OPEN,
        Reason.UPSTREAM_FAULT,
        Reason.DRIFT_PERSISTENT,
    }
)
"""Reasons for which a trigger that holds starts nothing."""
LOOK = 30.0
"""Seconds until the next look while something is waited for that no event tells of."""
LOOK_AT_CONFLICT = 10.0
"""The same while somebody is asked to make room."""


@dataclass(frozen=True)
class Loop:
    """What one look comes to."""

    condition: Condition | None = None
    status: Mapping[str, Any] | None = None
    """`status.retraining`."""
    handled: str | None = None
    """The annotation `retrain` that was acted on last."""
    writes: tuple[Write, ...] = ()
    decisions: tuple[Decision, ...] = ()
    poll: float | None = None
    """Seconds until the next look."""


@dataclass(frozen=True)
class _Step:
    """Where the loop is, and what that asks for."""

    status: conditions.Status
    reason: str
    message: str
    writes: tuple[Write, ...] = ()
    run: Run | None = None
    """On its way."""
    dealt_with: datetime | None = None
    """Times of the schedule up to this one are."""
    poll: float | None = None
    told: tuple[Decision, ...] = ()


@dataclass(frozen=True)
class _Seen:
    """All that a look is made from."""

    view: View
    past: list[Run]
    """Newest first."""
    judged: Judged | None
    braked: Brakes
    schedule: Schedule
    reading: Reading
    learned: str | None
    """The version of the data that is not new."""


def needs(view: View) -> Needs:
    """Reports of helpers that have ended, and how many runs there are where one more may be started."""
    if view.spec.retraining is None:
        return Needs()
    gates = any(jobs.finished(job) or "failed" in job.status for job in view.helpers("gate"))
    started = view.orders.retrain is not None or view.spec.retraining.triggers is not None
    return Needs(pods=gates or polling.unread(view) is not None, running_trainings=started)


def retraining(view: View, found: Revision | Obstacle, judged: Judged | None) -> Loop:
    """One look at the loop, and what follows. `found`: the revision that is wanted now; `judged`: its rows."""
    given = view.spec.retraining
    if given is None:
        return Loop()
    past = trainings.of(view)
    braked = brakes(view, past, given.limits)
    schedule = _schedule(view, past)
    reading = polling.reading(view, _polls(view, past, braked, judged, schedule))
    seen = _Seen(view, past, judged, braked, schedule, reading, _learned(view, past, reading))
    step = _step(seen, found)
    helpers = challenger.unneeded_helpers(view, step.run if step.reason == Reason.EVALUATING else None)
    return Loop(
        condition=Condition("Retraining", step.status, step.reason, step.message),
        status=_status(seen, step),
        handled=_handled(view, past),
        writes=() if view.spec.suspend else (
            *step.writes, *trainings.superfluous(view, past), *(Delete("Job", job.name, job.uid) for job in helpers)
        ),
        decisions=(*_told(view, past), *step.told, *_skipped(view, step)),
        poll=_poll(seen, step),
    )  # fmt: skip


# --- Steps ----------------------------------------------------------------------------------------------------------


def _step(seen: _Seen, found: Revision | Obstacle) -> _Step:
    view = seen.view
    newest = seen.past[0] if seen.past else None
    came_to = trainings.outcome(view, newest) if newest else None
    if view.spec.suspend:
        return _Step("False", Reason.SUSPENDED, "spec.suspend is true: no run is started")
    if newest and came_to == "Running":
        return _Step("True", Reason.TRAINING, f"{newest.name} ({newest.trigger}): {newest.message}", run=newest)
    if isinstance(found, Obstacle) and found.reason == Reason.TRAINING:
        return _Step("True", Reason.TRAINING, found.message)
    if isinstance(found, Obstacle) or view.stable is None or not view.has_served:
        return _Step("False", Reason.IDLE, "nothing is started before a model serves")
    if newest and came_to == "Evaluating" and found.name == view.stable.name:
        return _evaluating(view, newest)
    if found.name != view.stable.name:
        return _rolling_out(view, found, newest)
    return _idle(seen)


def _evaluating(view: View, run: Run) -> _Step:
    env = wish.environment(view)
    if isinstance(env, Obstacle):
        return _Step("True", Reason.EVALUATING, env.message, run=run, poll=LOOK)
    judged = challenger.evaluate(view, run, env)
    return _Step("True", Reason.EVALUATING, judged.message, judged.writes, run, poll=LOOK if judged.problem else None)


def _rolling_out(view: View, found: Revision, newest: Run | None) -> _Step:
    assert view.stable
    if newest and trainings.serves(found, newest) and found.model.wish == view.stable.model.wish:
        gate = found.standing.gate.get("message") or "it passed the gate"
        message = f"{newest.name}: {gate}; revision {found.name} is on its way"
        return _Step("True", Reason.ROLLING_OUT, message, run=newest)
    return _Step("False", Reason.IDLE, f"revision {found.name} is on its way; no run is started meanwhile")


def _idle(seen: _Seen) -> _Step:
    view, reading, schedule = seen.view, seen.reading, seen.schedule
    rest = _rest(seen)
    if said := triggers.manual(view, seen.past):
        return _start(seen, Asked(Trigger.MANUAL, "TrainAndRollout", "a person said retrain"), said, "")
    if schedule.problem:
        rest = _Step("False", Reason.SCHEDULE_INVALID, schedule.problem)
    fresh = reading.version if reading.version and reading.version != seen.learned else None
    asked = list(triggers.holding(view, seen.judged, fresh, schedule))
    told = tuple(_notified(view, each) for each in asked if each.action == "Notify" and _is_news(view, each, fresh))
    dealt_with = next((each.due for each in asked if each.due and each.action == "Notify"), None)
    acting = [each for each in asked if each.action != "Notify"]
    data = seen.judged.data if seen.judged else None
    persists = data is not None and data.reason == Reason.DRIFT_PERSISTENT
    usable = next((each for each in acting if not (persists and each.by_rows)), None)
    if usable:
        return replace(_act(seen, usable), told=told)
    if data and acting:
        rest = _Step("False", Reason.DRIFT_PERSISTENT, data.message)
    return replace(rest, writes=reading.writes, told=told, dealt_with=dealt_with)


def _act(seen: _Seen, asked: Asked) -> _Step:
    """A trigger holds: what keeps it back, or its run."""
    view, past, judged, braked, reading = seen.view, seen.past, seen.judged, seen.braked, seen.reading
    if judged and judged.broken:
        message = f"{judged.broken}; nothing is learned from such data"
        return _Step("False", Reason.UPSTREAM_FAULT, message, reading.writes)
    if braked.next_allowed:
        return _Step("False", braked.reason, f"{asked.trigger}: {braked.message}", reading.writes)
    if reading.pending:
        return _Step("True", Reason.CHECKING_DATA, f"{asked.trigger}: {reading.pending}", reading.writes, poll=LOOK)
    if reading.problem or reading.version is None:
        words = reading.problem or "nobody has seen the data yet"
        return _Step(
            "False", Reason.IDLE, f"{asked.trigger}, but the data cannot be looked at: {words}", reading.writes
        )
    last = next((run.data_version for run in past if run.data_version), "")
    if reading.version == _learned_by_runs(past):
        message = f"{asked.trigger}: the data are those of the last run (version {reading.version[:19]}…)"
        return _Step("False", Reason.NO_NEW_DATA, message, reading.writes, dealt_with=asked.due)
    if braked.breaker_open and reading.version == last:
        message = f"{braked.failures} runs in a row came to nothing; give new data, or annotate holdfast.dev/retrain"
        return _Step("False", Reason.BREAKER_OPEN, message, reading.writes)
    assert view.stable
    key = rfc3339(asked.due) if asked.due else f"{view.stable.name}\0{reading.version}"
    return _start(seen, asked, key, reading.version)


def _start(seen: _Seen, asked: Asked, key: str, version: str) -> _Step:
    view, past = seen.view, seen.past
    assert view.stable
    running, most = view.observed.running_trainings, view.observed.settings.max_trainings
    if running >= most:
        message = f"{asked.trigger}: {running} runs are on their way, {most} at a time (HOLDFAST_MAX_TRAININGS)"
        return _Step("True", Reason.QUEUED, message, poll=LOOK)
    asked_for = view.stable.model.asked or view.stable.model
    cause = trainings.Cause(asked_for, key, view.stable.name, version)
    name = trainings.name_of(view, past if asked.trigger is not Trigger.MANUAL else [], asked.trigger, key)
    write = trainings.start(view, name, asked.trigger, asked.action, cause)
    if refused := trainings.refused(view, name):
        reason, words = refused
        if reason == Reason.NAME_CONFLICT:
            return _Step("False", reason, f"{asked.trigger}: {words}", poll=LOOK_AT_CONFLICT)
        return _Step("True", Reason.QUEUED, f"{asked.trigger}: {words}; it is tried again", (write,), poll=LOOK)
    message = f"{asked.trigger}: {name} is started, since {asked.why}"
    return _Step("True", Reason.TRAINING, message, (write,), dealt_with=asked.due)


def _rest(seen: _Seen) -> _Step:
    """Nothing asks for a run: how the last one ended."""
    view, past, judged, schedule = seen.view, seen.past, seen.judged, seen.schedule
    next_ = f"next run {rfc3339(schedule.next)} (schedule)" if schedule.next else ""
    if not past:
        return _Step("False", Reason.IDLE, next_ or "no run yet")
    newest, came_to = past[0], trainings.outcome(view, past[0])
    words = {
        "Failed": f"failed: {newest.message}",
        "GateFailed": f"did not pass the gate: {_verdict(view, newest)}",
        "Rejected": f"was rejected: {_verdict(view, newest)}",
        "Promoted": "was promoted",
        "Kept": "passed the gate and is kept, as its trigger's action is Train",
        "Same": "made the model that serves, or was overtaken by another word in the spec",
    }
    reasons: Mapping[Outcome, Reason] = {
        "Failed": Reason.TRAINING_FAILED, "GateFailed": Reason.GATE_FAILED, "Rejected": Reason.ROLLOUT_REJECTED,
    }  # fmt: skip
    settles = came_to == "Promoted" and judged and judged.data and judged.data.reason == Reason.SETTLING
    reason = Reason.SETTLING if settles else reasons.get(came_to, Reason.IDLE)
    last = f"last {newest.name} ({newest.trigger}) {words.get(came_to, 'ended')}"
    return _Step("False", reason, "; ".join(filter(None, (next_, last))))


def _verdict(view: View, run: Run) -> str:
    found = (
        r.standing.message for r in view.revisions if trainings.serves(r, run) and r.standing.verdict == "Rejected"
    )
    return next(found, "its record is gone")


# --- What they ask --------------------------------------------------------------------------------------------------


def _polls(view: View, past: list[Run], braked: Brakes, judged: Judged | None, schedule: Schedule) -> bool:
    """Whether somebody wants to know about the data now."""
    if view.stable is None or not view.has_served or view.spec.suspend:
        return False
    if past and trainings.outcome(view, past[0]) in ("Running", "Evaluating", "RollingOut"):
        return False
    given = view.spec.retraining.triggers if view.spec.retraining else None
    if given is None:
        return False
    if given.new_data:
        return True
    held = triggers.holding(view, judged, None, schedule)
    return braked.next_allowed is None and any(each.action != "Notify" for each in held)


def _learned_by_runs(past: list[Run]) -> str | None:
    """The version of the data that the last run learned from. One that did not succeed has learned nothing."""
    return next((run.data_version for run in past if run.state == "Succeeded" and run.data_version), None)


def _learned(view: View, past: list[Run], reading: Reading) -> str | None:
    """The version that is not new: what a run has learned from, or else the first that was seen."""
    before = (view.status.get("retraining") or {}).get("learnedDataVersion")
    return _learned_by_runs(past) or before or reading.version


def _schedule(view: View, past: list[Run]) -> Schedule:
    given = view.spec.retraining.triggers if view.spec.retraining else None
    if given is None or given.schedule is None:
        return Schedule()
    said = (view.status.get("retraining") or {}).get("lastScheduleTime")
    by_runs = [run.created for run in past if run.trigger == Trigger.SCHEDULE]
    since = max([datetime.fromisoformat(said) if said else view.now, *by_runs[:1]])
    return triggers.clock(view, given.schedule, since)


def _is_news(view: View, asked: Asked, fresh: str | None) -> bool:
    """Drift and performance are told of by those who judge them."""
    if asked.trigger is Trigger.NEW_DATA:
        return fresh != (view.status.get("retraining") or {}).get("lastDataVersion")
    return asked.trigger is Trigger.SCHEDULE


def _notified(view: View, asked: Asked) -> Decision:
    stable = view.stable.name if view.stable else ""
    return decisions.decision(view, Action.NOTIFIED, asked.trigger, asked.why, source=stable)


def _told(view: View, past: list[Run]) -> Iterable[Decision]:
    """Runs that were started and gates that were passed, from what is on record."""
    for run in past:
        data = f", data {run.cause.data_version[:19]}…" if run.cause.data_version else ""
        yield decisions.at(
            run.created, Action.TRAINING_STARTED, run.trigger, f"{run.name} ({run.trigger}{data})", run.cause.stable
        )
    for revision in view.revisions:
        gate = revision.standing.gate
        if gate.get("passed") is True and "time" in gate:
            yield decisions.at(
                datetime.fromisoformat(gate["time"]), Action.GATE_PASSED, "GatePassed",
                f"{revision.model.training_job_name}: {gate.get('message', '')}", "", revision.name,
                challenger.summary(tuple(gate.get("rows") or ())),
            )  # fmt: skip


def _skipped(view: View, step: _Step) -> Iterable[Decision]:
    """A trigger that holds and starts nothing is told of once, until another reason comes or a run is started."""
    if step.reason not in WAITING:
        return
    told = (each for each in view.status.get("decisions") or () if each["action"] in _STARTS)
    last: Mapping[str, Any] = next(told, {})
    if (last.get("action"), last.get("reason")) != (Action.TRAINING_SKIPPED, step.reason):
        stable = view.stable.name if view.stable else ""
        yield decisions.decision(view, Action.TRAINING_SKIPPED, step.reason, step.message, source=stable)


_STARTS = frozenset({Action.TRAINING_STARTED, Action.TRAINING_SKIPPED})


def _handled(view: View, past: list[Run]) -> str | None:
    said = view.orders.retrain
    if said and triggers.handled(past, said):
        return said
    before = view.status.get("lastHandledRetrain")
    return str(before) if before else None


# --- Status ---------------------------------------------------------------------------------------------------------


def _status(seen: _Seen, step: _Step) -> dict[str, Any]:
    view, past, braked, reading = seen.view, seen.past, seen.braked, seen.reading
    newest = past[0] if past else None
    before = (view.status.get("retraining") or {}).get("lastScheduleTime")
    clocked = view.spec.retraining and view.spec.retraining.triggers and view.spec.retraining.triggers.schedule
    dealt_with = rfc3339(step.dealt_with) if step.dealt_with else before or (rfc3339(view.now) if clocked else None)
    said = {
        "trainingJobName": step.run.name if step.run else None,
        "lastTrainingJobName": newest.name if newest else None,
        "lastTrigger": newest.trigger if newest else None,
        "lastDataVersion": reading.version,
        "learnedDataVersion": seen.learned,
        "lastPollTime": rfc3339(reading.time) if reading.time else None,
        "dataProblem": reading.problem or None,
        "lastScheduleTime": dealt_with if clocked else None,
        "runsInLastDay": braked.runs_in_day,
        "consecutiveFailures": braked.failures,
        "nextAllowedTime": rfc3339(braked.next_allowed) if braked.next_allowed else None,
        "nextScheduleTime": rfc3339(seen.schedule.next) if seen.schedule.next else None,
        "gate": _gate(view, newest) if newest else None,
    }
    return {name: value for name, value in said.items() if value is not None}


def _gate(view: View, run: Run) -> list[Mapping[str, Any]] | None:
    recorded = (r.standing.gate.get("rows") for r in view.revisions if trainings.serves(r, run) and r.standing.gate)
    return next(recorded, None)


def _poll(seen: _Seen, step: _Step) -> float | None:
    """No event tells that time has passed."""
    view, braked, reading = seen.view, seen.braked, seen.reading
    if view.spec.suspend:
        return None
    wanted = view.spec.retraining and view.spec.retraining.triggers
    moments = [moment for moment in (braked.next_allowed, seen.schedule.next) if moment and wanted]
    if wanted and wanted.new_data and reading.next:
        moments.append(reading.next)
    waits = [max(0.0, (moment - view.now).total_seconds()) + 1.0 for moment in moments]
    return min([*waits, *([step.poll] if step.poll is not None else [])], default=None)
