"""Conditions: what they say, and when they say that it changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from holdfast.api.meta import MAX_MESSAGE

Status = Literal["True", "False", "Unknown"]
RECONCILING = "Reconciling"
STALLED = "Stalled"


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition as wanted now; its transition time follows from what was there before."""

    type: str
    status: Status
    reason: str
    message: str


def find(status: Mapping[str, Any], type_: str) -> Mapping[str, Any] | None:
    """The condition of that type in a status, if it has one."""
    return next((c for c in status.get("conditions", ()) if c["type"] == type_), None)


def lasts(status: Mapping[str, Any], type_: str, value: Status, now: datetime, least: timedelta) -> bool:
    """Whether the condition of that type has had this value for `least` or longer."""
    found = find(status, type_)
    if found is None or found["status"] != value:
        return False
    return now - datetime.fromisoformat(found["lastTransitionTime"]) >= least


def rendered(
    wanted: Iterable[Condition], before: Mapping[str, Any], generation: int, now: datetime
) -> list[dict[str, Any]]:
    """The conditions of the new status. A transition time moves only when the condition's status does."""
    return [_one(condition, find(before, condition.type), generation, now) for condition in wanted]


def rfc3339(moment: datetime) -> str:
    """A time as the API has it, in whole seconds."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _one(condition: Condition, before: Mapping[str, Any] | None, generation: int, now: datetime) -> dict[str, Any]:
    same = before is not None and before["status"] == condition.status
    return {
        "type": condition.type,
        "status": condition.status,
        "observedGeneration": generation,
        "lastTransitionTime": before["lastTransitionTime"] if before and same else rfc3339(now),
        "reason": condition.reason,
        "message": shortened(condition.message),
    }


def shortened(message: str, limit: int = MAX_MESSAGE) -> str:
    """The message on one line, and not longer than the API takes."""
    line = " ".join(message.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"
