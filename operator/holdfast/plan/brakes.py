"""What keeps triggers from starting a run: time since the last, runs in a day, runs in a row that came to nothing."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from holdfast.api.modeldeployment import ModelDeploymentReason as Reason
from holdfast.api.retraining import Limits
from holdfast.plan import trainings
from holdfast.plan.conditions import rfc3339
from holdfast.plan.trainings import Run
from holdfast.plan.view import View

DAY = timedelta(days=1)
LONGEST_COOLDOWN = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class Brakes:
    """How they stand. A person's word passes them."""

    runs_in_day: int
    failures: int
    """In a row."""
    breaker_open: bool
    next_allowed: datetime | None
    """In the future; None: now."""
    reason: str = ""
    message: str = ""
    """Why not now."""


def brakes(view: View, found: list[Run], limits: Limits) -> Brakes:
    """By the runs that there are; each doubles the time to the next one while they come to nothing."""
    failures = trainings.failures(view, found)
    found = [run for run in found if run.trigger not in trainings.UNGATED]  # the first model is no reaction to anything
    recent = [run.created for run in found if view.now - run.created < DAY]
    cooldown = min(timedelta(seconds=limits.cooldown_seconds) * 2 ** min(failures, 20), LONGEST_COOLDOWN)
    cool = found[0].created + cooldown if found else view.now
    spent = recent[limits.max_runs_per_day - 1] + DAY if len(recent) >= limits.max_runs_per_day else view.now
    allowed = max(cool, spent)
    reason = message = ""
    if allowed > view.now and spent > cool:
        reason = Reason.BUDGET_SPENT
        message = f"{len(recent)} of {limits.max_runs_per_day} runs in 24 hours; the next at {rfc3339(allowed)}"
    elif allowed > view.now:
        reason = Reason.COOLING_DOWN
        doubled = f", doubled {failures} times, since so many runs came to nothing" if failures else ""
        message = f"the last run was started at {rfc3339(found[0].created)}; the next at {rfc3339(allowed)}{doubled}"
    return Brakes(
        runs_in_day=len(recent),
        failures=failures,
        breaker_open=failures >= limits.max_consecutive_failures,
        next_allowed=allowed if allowed > view.now else None,
        reason=reason,
        message=message,
    )
