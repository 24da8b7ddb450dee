"""What asks for a run: a person, a loss of performance, drift, new data, the clock."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from holdfast.api.retraining import ScheduleTrigger, Trigger
from holdfast.plan.conditions import rfc3339
from holdfast.plan.monitoring import Judged
from holdfast.plan.trainings import Run
from holdfast.plan.view import View

DROPS = frozenset({"EstimatedDrop", "MeasuredDrop"})
DRIFTS = frozenset({"FeatureDrift", "PredictionDrift", "DriftPersistent"})
FAR = timedelta(days=366 * 8)
"""Nothing is looked for beyond: the 29th of February comes within 8 years."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A trigger that holds."""

    trigger: Trigger
    action: str
    why: str
    due: datetime | None = None
    """Of a schedule."""
    by_rows: bool = False
    """Because rows look different, and not because anybody has seen wrong answers, or other data to learn from."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """The clock's word."""

    due: datetime | None = None
    """The last time that it struck, if no run has come of that."""
    next: datetime | None = None
    problem: str = ""


def manual(view: View, found: list[Run]) -> str | None:
    """What a person said that no run was started for."""
    said = view.orders.retrain
    if said is None or said == view.status.get("lastHandledRetrain") or handled(found, said):
        return None
    return said


def handled(found: list[Run], said: str) -> bool:
    """Whether a run was started for that word."""
    return any((run.trigger, run.cause.key) == (Trigger.MANUAL, said) for run in found)


def holding(view: View, judged: Judged | None, new_version: str | None, schedule: Schedule) -> Iterator[Asked]:
    """All that hold now, the most telling first; a person's word is none of them.

    new_version: of data that nobody has learned from, if there are such.
    """
    triggers = view.spec.retraining.triggers if view.spec.retraining else None
    if triggers is None:
        return
    performance, data = (judged.performance, judged.data) if judged else (None, None)
    if triggers.performance and performance and performance.reason in DROPS:
        estimated = performance.reason == "EstimatedDrop"
        yield Asked(Trigger.PERFORMANCE, triggers.performance.action, performance.message, by_rows=estimated)
    if triggers.drift and data and data.reason in DRIFTS:
        yield Asked(Trigger.DRIFT, triggers.drift.action, data.message, by_rows=True)
    if triggers.new_data and new_version:
        yield Asked(Trigger.NEW_DATA, triggers.new_data.action, f"the data are of version {new_version[:19]}…")
    if triggers.schedule and schedule.due:
        why = f"the schedule struck at {rfc3339(schedule.due)}"
        yield Asked(Trigger.SCHEDULE, triggers.schedule.action, why, schedule.due)


def clock(view: View, given: ScheduleTrigger, since: datetime) -> Schedule:
    """What of a schedule is due since then, and when it strikes next. Times that were missed count once."""
    try:
        zone = ZoneInfo(given.time_zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return Schedule(problem=f"schedule.timeZone {given.time_zone!r} is not in the time zone database")
    now = view.now.astimezone(zone)
    try:
        following = _first(CronSim(given.cron, now))
        last = _first(CronSim(given.cron, now + timedelta(seconds=1), reverse=True))
    except CronSimError as error:
        return Schedule(problem=f"schedule.cron {given.cron!r} cannot be read: {error}")
    due = last if last and since < last <= view.now else None
    return Schedule(due, following if following and following - view.now < FAR else None)


def _first(times: CronSim) -> datetime | None:
    moment = next(times, None)
    return moment.astimezone(UTC) if moment else None
