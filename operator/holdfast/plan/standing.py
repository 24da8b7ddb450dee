"""What is known of a revision: kept in annotations of its ControllerRevision, and written before it is acted on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Literal, cast, get_args

from holdfast.build import labels
from holdfast.build.hashing import canonical_json
from holdfast.plan.conditions import rfc3339, shortened

Verdict = Literal["Unproven", "Promoted", "Rejected"]
Stage = Literal["Starting", "SmokeTesting", "Shadowing", "CanaryStep", "Promoting"]
"""How far a candidate is, in this order."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Where the rollout of a candidate stands."""

    stage: Stage
    step: int
    """Of a Canary, from 1 on; else 0."""
    started: datetime
    since: datetime
    """When the stage, or the step, began."""
    restarts: int = 0
    """Of a pod of it, at most, when it had become ready."""


@dataclass(frozen=True, slots=True)
class Alarm:
    """What the guard has found since the promotion."""

    woken: datetime | None = None
    """When the previous revision was started, or kept, to be compared with."""
    ineffective: bool = False
    """It was no better: a rollback would not help."""
    notified: datetime | None = None
    """When a breach was told of that is not acted on, and why."""
    reason: str = ""
    message: str = ""
    evidence: str = ""


QUIET = Alarm()


@dataclass(frozen=True, slots=True)
class Standing:
    """A verdict with its grounds, and the way to one."""

    verdict: Verdict = "Unproven"
    reason: str = ""
    message: str = ""
    evidence: str = ""
    time: datetime | None = None
    """Of the verdict."""
    promoted_at: datetime | None = None
    """The last time that it took over; outlasts a rejection."""
    replaced: str = ""
    """The revision that it took over from then."""
    rolled_back: bool = False
    """Whether that was a rollback."""
    progress: Progress | None = None
    alarm: Alarm = QUIET
    counted: Mapping[str, Any] = field(default_factory=dict)
    """What `plan.evidence` wants to be reminded of after a crash."""
    gate: Mapping[str, Any] = field(default_factory=dict)
    """Of a challenger: how it compared (`plan.challenger`)."""

    def rejected(self, reason: str, message: str, evidence: str, now: datetime) -> Standing:
        """Never before it took over: that may be on record a second ahead, so that takeovers can be told apart."""
        time = max(now, self.promoted_at or now)
        return replace(
            self, verdict="Rejected", reason=reason, message=message, evidence=evidence, time=time, progress=None
        )

    def promoted(self, reason: str, message: str, evidence: str, replaced: str, now: datetime) -> Standing:
        """It has taken over, and is counted anew from here."""
        return Standing("Promoted", reason, message, evidence, now, now, replaced, gate=self.gate)

    def cleared(self) -> Standing:
        """As if it had never been tried."""
        return UNPROVEN

    def starting(self, now: datetime) -> Standing:
        """At the beginning of its road, whatever was thought of it before."""
        return replace(self, reason="", message="", evidence="", progress=Progress("Starting", 0, now, now), counted={})

    def at(self, stage: Stage, step: int, now: datetime, restarts: int | None = None) -> Standing:
        """In another stage, or step, of the road that it is on."""
        before = self.progress
        assert before is not None
        kept = before.restarts if restarts is None else restarts
        return replace(self, progress=Progress(stage, step, before.started, now, kept))


UNPROVEN = Standing()


def read(annotations: Mapping[str, str]) -> Standing:
    """What annotations say; what somebody has garbled counts as unsaid, and unsaid is unproven."""
    verdict = annotations.get(labels.VERDICT)
    return Standing(
        verdict=cast(Verdict, verdict) if verdict in get_args(Verdict) else "Unproven",
        reason=annotations.get(labels.VERDICT_REASON, "")[:64],
        message=annotations.get(labels.VERDICT_MESSAGE, ""),
        evidence=annotations.get(labels.VERDICT_EVIDENCE, ""),
        time=_time(annotations.get(labels.VERDICT_TIME)),
        promoted_at=_time(annotations.get(labels.PROMOTED_AT)),
        replaced=annotations.get(labels.REPLACED, "")[:10],
        rolled_back=labels.ROLLED_BACK in annotations,
        progress=_progress(annotations.get(labels.PROGRESS)),
        alarm=_alarm(annotations.get(labels.GUARD)),
        counted=_json(annotations.get(labels.EVIDENCE)),
        gate=_json(annotations.get(labels.GATE)),
    )


def noted(standing: Standing) -> dict[str, str]:
    """To be read again."""
    said = {
        labels.VERDICT: standing.verdict,
        labels.VERDICT_REASON: standing.reason,
        labels.VERDICT_MESSAGE: shortened(standing.message),
        labels.VERDICT_EVIDENCE: shortened(standing.evidence),
        labels.VERDICT_TIME: rfc3339(standing.time) if standing.time else "",
        labels.PROMOTED_AT: rfc3339(standing.promoted_at) if standing.promoted_at else "",
        labels.REPLACED: standing.replaced,
        labels.ROLLED_BACK: "true" if standing.rolled_back else "",
        labels.PROGRESS: _progress_text(standing.progress) if standing.progress else "",
        labels.GUARD: _alarm_text(standing.alarm) if standing.alarm != QUIET else "",
        labels.EVIDENCE: canonical_json(standing.counted) if standing.counted else "",
        labels.GATE: canonical_json(standing.gate) if standing.gate else "",
    }
    return {name: text for name, text in said.items() if text}


def _alarm_text(alarm: Alarm) -> str:
    said = {
        "woken": rfc3339(alarm.woken) if alarm.woken else None,
        "ineffective": alarm.ineffective or None,
        "notified": rfc3339(alarm.notified) if alarm.notified else None,
        "reason": alarm.reason or None,
        "message": shortened(alarm.message) or None,
        "evidence": shortened(alarm.evidence) or None,
    }
    return canonical_json({name: value for name, value in said.items() if value is not None})


def _alarm(text: str | None) -> Alarm:
    said = _json(text)
    return Alarm(
        woken=_time(said.get("woken")),
        ineffective=said.get("ineffective") is True,
        notified=_time(said.get("notified")),
        reason=str(said.get("reason", ""))[:64],
        message=str(said.get("message", "")),
        evidence=str(said.get("evidence", "")),
    )


def _progress_text(progress: Progress) -> str:
    return canonical_json(
        {
            "stage": progress.stage,
            "step": progress.step,
            "started": rfc3339(progress.started),
            "since": rfc3339(progress.since),
            "restarts": progress.restarts,
        }
    )


def _progress(text: str | None) -> Progress | None:
    said = _json(text)
    started, since = _time(said.get("started")), _time(said.get("since"))
    stage, step, restarts = said.get("stage"), said.get("step"), said.get("restarts", 0)
    if stage not in get_args(Stage) or started is None or since is None:
        return None
    if type(step) is not int or type(restarts) is not int or step < 0:
        return None
    return Progress(cast(Stage, stage), step, started, since, restarts)


def _time(text: Any) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        return None
    return moment if moment.tzinfo else None


def _json(text: str | None) -> Mapping[str, Any]:
    try:
        said = json.loads(text or "{}")
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}
