"""The last decisions, as status shows them. Verdicts come from ControllerRevisions, so that no crash loses one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

from holdfast.api.modeldeployment import Action
from holdfast.plan import conditions, guard
from holdfast.plan.conditions import rfc3339, shortened
from holdfast.plan.course import Course
from holdfast.plan.observed import Event
from holdfast.plan.verdict import Verdict
from holdfast.plan.view import View

MOST = 20
OLD_NEWS = timedelta(minutes=10)
"""What happened before is shown, but nobody is told any more: the status was lost."""
_BAD = frozenset({Action.ABORTED, Action.ROLLED_BACK, Action.HELD, Action.NOTIFIED, Action.TRAINING_SKIPPED})

Decision = Mapping[str, Any]


def decision(
    view: View, action: Action, reason: str, message: str, *, source: str = "", target: str = "", evidence: str = ""
) -> Decision:
    """One that is taken now."""
    return _decision(rfc3339(view.now), action, reason, message, source, target, evidence)


def at(
    time: datetime,
    action: Action,
    reason: str,
    message: str,
    source: str = "",
    target: str = "",
    evidence: str = "",
) -> Decision:
    """One that was taken then, and can be told again from what is on record."""
    return _decision(rfc3339(time), action, reason, message, source, target, evidence)


def ring(view: View, course: Course, taken: Iterable[Decision]) -> tuple[list[Decision], list[Event]]:
    """The newest decisions first, and an Event for each that is new. `taken`: those of this pass."""
    before = [dict(each) for each in view.status.get("decisions") or ()]
    known = {_identity(each) for each in before}
    candidates = [*taken, *_by_verdicts(view, course), *_by_holding(view, course.verdict)]
    fresh = [each for each in candidates if _identity(each) not in known]
    # Of two of the same second always the same one falls out at the end, or it would come and go for ever.
    news = sorted([*fresh, *before], key=_identity, reverse=True)[:MOST]
    recent = rfc3339(view.now - OLD_NEWS)
    return news, [_event(each) for each in fresh if each["time"] >= recent]


def told(view: View, action: Action, revision: str, since: datetime | None) -> bool:
    """Whether status says so, of then or later. What leaves no other trace is told first, so that no crash loses it."""
    return any(
        each["action"] == action and _is_about(each, revision) and each["time"] >= (rfc3339(since) if since else "")
        for each in view.status.get("decisions") or ()
    )


def last_told(view: View, revision: str) -> str | None:
    """The newest action that is about a revision."""
    return next((each["action"] for each in view.status.get("decisions") or () if _is_about(each, revision)), None)


def _is_about(each: Decision, revision: str) -> bool:
    return revision in (each.get("fromRevision"), each.get("toRevision"))


def _by_verdicts(view: View, course: Course) -> Iterable[Decision]:
    stable = view.stable.name if view.stable else ""
    for revision in view.revisions:
        standing = revision.standing
        if course.confirmed and revision.name == stable:
            standing = course.confirmed
        if course.rejected and revision.name == course.rejected.name:
            standing = course.rejected.standing
        if standing.verdict == "Rejected" and standing.time:
            action = Action.ROLLED_BACK if standing.promoted_at else Action.ABORTED
            target = view.stable
            if revision == view.stable:  # it is still to be taken over from
                target = guard.return_to(view, revision)
            yield _decision(
                rfc3339(standing.time), action, standing.reason, standing.message, revision.name,
                target.name if target else "", standing.evidence,
            )  # fmt: skip
        if standing.verdict == "Promoted" and standing.promoted_at and standing.replaced and not standing.rolled_back:
            message = f"{revision.name} {standing.message}"
            yield _decision(
                rfc3339(standing.promoted_at), Action.PROMOTED, standing.reason or "Ready", message,
                standing.replaced, revision.name, standing.evidence,
            )  # fmt: skip
        alarm = standing.alarm
        if alarm.notified:
            yield _decision(
                rfc3339(alarm.notified), Action.NOTIFIED, alarm.reason, alarm.message, revision.name, "", alarm.evidence
            )


def _by_holding(view: View, verdict: Verdict) -> Iterable[Decision]:
    progressing: Mapping[str, Any] = conditions.find(view.status, "Progressing") or {}
    was_held = progressing.get("status") == "Unknown"
    candidate = view.status.get("candidateRevision", "")
    if verdict.held and progressing.get("reason") != verdict.reason:
        yield decision(view, Action.HELD, verdict.reason, verdict.message, source=candidate)
    elif was_held and not verdict.held and not verdict.stalled:
        yield decision(view, Action.RESUMED, verdict.reason, verdict.message, source=candidate)


def _decision(
    time: str, action: Action, reason: str, message: str, source: str, target: str, evidence: str
) -> Decision:
    made = {
        "time": time,
        "action": str(action),
        "reason": reason or "Unknown",
        "fromRevision": source,
        "toRevision": target,
        "message": shortened(message),
        "evidence": shortened(evidence),
    }
    return {name: value for name, value in made.items() if value}


def _identity(each: Decision) -> tuple[Any, ...]:
    return str(each["time"]), str(each["action"]), str(each.get("fromRevision") or each.get("toRevision"))


def _event(each: Decision) -> Event:
    evidence = f" ({each['evidence']})" if "evidence" in each else ""
    return Event(
        "Warning" if each["action"] in _BAD else "Normal",
        each["reason"],
        shortened(f"{each['action']}: {each['message']}{evidence}"),
    )
