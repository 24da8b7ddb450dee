"""What follows from the words of people: each is acted on once, and put on record only after what it led to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from holdfast.api.modeldeployment import Action, Rejection
from holdfast.api.modeldeployment import ModelDeploymentReason as Reason
from holdfast.build import labels
from holdfast.plan import children, conditions, decisions
from holdfast.plan.decisions import Decision
from holdfast.plan.observed import Event, Write
from holdfast.plan.orders import FORM
from holdfast.plan.revisions import Revision
from holdfast.plan.view import View


@dataclass(frozen=True)
class Heard:
    """What follows from the annotations, before anything else is decided."""

    writes: tuple[Write, ...] = ()
    decisions: tuple[Decision, ...] = ()
    events: tuple[Event, ...] = ()
    handled: Mapping[str, str] = field(default_factory=dict)
    """To be put on record once `writes` are done."""


def heard(view: View, wanted: Revision | None) -> Heard:
    """Each word is acted on once. What it led to is written first, that it was heard afterwards.

    A rejection that is taken back leaves no trace in its record: it is told in status first, and carried out then.
    """
    handled = view.orders.noted
    orders = view.orders
    if orders.refresh and wanted and (wanted.record or wanted.child):
        handled[labels.HANDLED_REFRESH] = orders.refresh
    if orders.rollout is None:
        return Heard(handled=handled)
    noted = handled | {labels.HANDLED_ROLLOUT: orders.rollout}
    order, stable = orders.order, view.stable
    if order is None:
        return _ignored(view, noted, f"{orders.rollout!r} is not understood; {FORM}")
    revision = view.revision(order.revision)
    is_candidate = (
        revision is not None and wanted is not None and revision.name == wanted.name and revision is not stable
    )
    usable = revision is not None and revision.record is not None and revision.standing.verdict != "Rejected"
    match order.verb:
        case "pause" if is_candidate:
            return Heard(handled=noted)
        case "promote" if is_candidate and usable and revision and revision.standing.progress:
            approved = replace(revision.standing, reason=Rejection.REQUESTED_BY_USER)
            standing = approved.at("Promoting", revision.standing.progress.step, view.now)
            return Heard((children.record(view, revision, standing),), handled=noted)
        case "abort" if is_candidate and usable and revision:
            words = "a person said abort"
            standing = revision.standing.rejected(Rejection.REQUESTED_BY_USER, words, "", view.now)
            return Heard((children.record(view, revision, standing),), handled=noted)
        case "retry" if revision and revision.standing.verdict == "Rejected":
            if decisions.told(view, Action.CLEARED, revision.name, revision.standing.time):
                return Heard((children.record(view, revision, revision.standing.cleared()),), handled=noted)
            message = f"{revision.name} may be tried again"
            cleared = decisions.decision(
                view, Action.CLEARED, Rejection.REQUESTED_BY_USER, message, target=revision.name
            )
            return Heard(decisions=(cleared,), handled=handled)
        case "retry" if revision and decisions.last_told(view, revision.name) == Action.CLEARED:
            return Heard(handled=noted)
        case "rollback" if usable and revision and stable and stable.record and revision.name != stable.name:
            if stable.standing.verdict == "Rejected":  # on its way: it counts as heard in the write that moves traffic
                return Heard(handled=handled)
            words = f"a person said rollback to {revision.name}"
            standing = stable.standing.rejected(Rejection.REQUESTED_BY_USER, words, "", view.now)
            return Heard((children.record(view, stable, standing),), handled=handled)
        case _:
            return _ignored(view, noted, _why_ignored(order.verb, order.revision))


def _ignored(view: View, handled: Mapping[str, str], why: str) -> Heard:
    message = conditions.shortened(f"annotation {labels.ROLLOUT}: {why}")
    return Heard(events=(Event("Warning", Reason.ACTION_IGNORED, message),), handled=handled)


def _why_ignored(verb: str, revision: str) -> str:
    what = {
        "retry": "is not a rejected revision",
        "rollback": "is not a kept revision that could take over",
    }.get(verb, "is not the candidate")
    return f'"{verb} {revision}" does nothing, since {revision} {what}'
