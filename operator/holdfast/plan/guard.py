"""After promotion: the previous revision stays warm, answers a control group, and takes over again if it must.

A revision that was replaced sends on what still reaches it, and has every client close its connection. While it is
warm, routers of stable draw a few requests for it: that "the new one is worse" can be told from "everything is worse".
Later it rests without pods, and at last only its record is left.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta

from holdfast.api.modeldeployment import ModelDeploymentReason as Reason
from holdfast.api.modeldeployment import Rejection
from holdfast.build import labels
from holdfast.plan import children, slo, verdict
from holdfast.plan.conditions import rfc3339
from holdfast.plan.course import SAVE_EVERY, Course, Memory, hangs, look, next_look, remembered, silent, trial_of
from holdfast.plan.evidence import Trial
from holdfast.plan.failures import CANDIDATES_FAULT
from holdfast.plan.observed import Write
from holdfast.plan.revisions import Revision
from holdfast.plan.rollout import receives
from holdfast.plan.slo import SloSignal
from holdfast.plan.standing import Alarm, Standing
from holdfast.plan.verdict import Verdict
from holdfast.plan.view import View

LEASE = timedelta(seconds=15)
"""A lease that nobody renews has ended by then."""
IDLE_POLL = 10.0
"""Seconds between two looks where no statistics are kept: leases have to be renewed."""
SUSPICIOUS = 3.0
"""From this e-value on the control group is larger: what is being looked at may depend on what was seen before."""
RAISED, MOST_CONTROL = 10, 50
COMPARED_FOR = timedelta(minutes=10)
"""After an alarm: if the previous revision has not shown itself better by then, it is not."""
PATIENCE = timedelta(seconds=30)
"""For all pods of the revision that a rollback leads to; then one has to do."""
AT_ONCE = frozenset({Rejection.HARD_FAILURE, Rejection.CRASH_LOOP, Rejection.OUT_OF_MEMORY})
"""Pods of such a revision have nothing left to hand over."""


# --- Who is stable --------------------------------------------------------------------------------------------------


def confirmation(view: View, stable: Revision) -> Standing | None:
    """The standing of a revision that the register names and that is not yet on record as promoted."""
    if view.register != stable.name or stable.standing.verdict == "Rejected":
        return None
    if stable.record is None and not stable.has_ready(view.replicas):
        return None  # the first one has nothing to lose yet
    replaced = _last_promoted(view, stable)
    promoted_at = stable.standing.promoted_at
    is_newest = promoted_at and not (replaced and replaced.standing.promoted_at > promoted_at)  # type: ignore[operator]
    if stable.standing.verdict == "Promoted" and is_newest:
        return None
    name = replaced.name if replaced else ""
    now = view.now
    if replaced and replaced.standing.promoted_at:  # records know seconds, and tell by them who came last
        now = max(now, replaced.standing.promoted_at + timedelta(seconds=1))
    if replaced and replaced.standing.verdict == "Rejected":
        lost = replaced.standing
        words = f"took over again from {name}"
        standing = stable.standing.promoted(lost.reason, words, lost.evidence, name, now)
        return replace(standing, rolled_back=True)
    reason = stable.standing.reason or _grounds(stable)
    words = f"took over from {name}" if name else "the first to serve"
    return stable.standing.promoted(reason, words, _evidence(view, stable, name), name, now)


def _grounds(stable: Revision) -> str:
    progress = stable.standing.progress
    return "NoWorse" if progress and progress.step else "Ready"


def _evidence(view: View, stable: Revision, replaced: str) -> str:
    progress = stable.standing.progress
    if progress is None or not progress.step:
        return ""
    return trial_of(stable, "canary", progress.started, remembered(view)).words(stable.name, replaced)


def _last_promoted(view: View, stable: Revision) -> Revision | None:
    others = [r for r in view.revisions if r.name != stable.name and r.standing.promoted_at]
    return max(others, key=lambda r: rfc3339(r.standing.promoted_at), default=None)  # type: ignore[arg-type]


# --- The watch ------------------------------------------------------------------------------------------------------


def watch(view: View, stable: Revision, serving: Verdict) -> Course:
    """Keep the previous revision as warm as it should be, and compare stable with it."""
    previous, alarm = view.previous, stable.standing.alarm
    burning = _burning(view, stable)
    if previous is None:
        if burning and stable.standing.promoted_at and not alarm.notified:
            message = f"{stable.name} burns its error budget, and there is no revision to return to: {burning}"
            return _notify(view, stable, serving, Reason.FAST_BURN, message, "")
        return Course(serving)
    memory = look(view, stable, previous, remembered(view))
    if broken := _hard_failure(view, stable, previous, memory):
        return _breach(view, stable, previous, serving, Rejection.HARD_FAILURE, broken, "")
    warm = view.within(view.spec.guard.warm_seconds)
    comparable = view.spec.slo is not None and view.spec.guard.control_percent > 0
    if burning and alarm.woken is None and comparable:
        return _alarmed(view, stable, serving, replace(alarm, woken=view.now))
    if burning and not comparable and not alarm.notified:
        message = f"{stable.name} burns its error budget, and without a control group nothing tells why: {burning}"
        return _notify(view, stable, serving, Reason.FAST_BURN, message, "")
    awake = alarm.woken is not None and not alarm.ineffective and comparable
    if not warm and not awake:
        if previous.replicas and receives(view, stable, previous):
            return dismiss(view, stable, previous, serving)
        end = _until(view, view.spec.guard.rollback_window_seconds)
        return Course(serving, tuple(_at_rest(view, previous)), memory, poll=end)
    writes = [*children.deployment(view, previous, max(1, view.replicas)), *_send_on(view, stable, previous)]
    percent = view.spec.guard.control_percent
    if not comparable or not previous.ready_replicas:
        return Course(serving, tuple(writes), memory, poll=next_look(memory, IDLE_POLL))
    trial = _compared(view, stable, previous, memory)
    if trial.worse.e_value > SUSPICIOUS:
        percent = min(MOST_CONTROL, RAISED * percent)
    writes += children.candidate_register(view, previous)
    writes += children.route(view, stable, previous, view.candidate_service, "share", weight=percent / 100)
    if trial.is_worse(view.tolerance):
        words = trial.words(stable.name, previous.name)
        message = f"{stable.name} answers worse than {previous.name}, by a control group of {percent} %"
        return _breach(view, stable, previous, serving, Rejection.SLO_BREACH, message, words).after(writes)
    if awake and alarm.woken and view.now - alarm.woken >= COMPARED_FOR:
        if not burning:  # it is over
            return _alarmed(view, stable, serving, replace(alarm, woken=None))
        words = trial.words(stable.name, previous.name)
        message = f"{previous.name} answers no better than {stable.name}: look at the node, the data or the callers"
        ended = replace(alarm, ineffective=True)
        return _notify(view, stable, serving, Reason.ROLLBACK_INEFFECTIVE, message, words, ended)
    document = trial.to_json()
    memory = replace(memory, trial=document, saved=memory.saved or stable.standing.promoted_at)
    if memory.saved is None or view.now - memory.saved >= SAVE_EVERY:
        memory = replace(memory, saved=view.now)
        writes.append(children.record(view, stable, replace(stable.standing, counted=document)))
    return Course(serving, tuple(writes), memory, poll=next_look(memory, view.poll_seconds))


def _burning(view: View, stable: Revision) -> str:
    """Which objectives stable burns fast, in words; empty if none."""
    wanted, answer = slo.objectives(view.observed.spec), view.observed.slo
    if wanted is None or not isinstance(answer, SloSignal) or stable.name not in answer.revisions:
        return ""
    fast = slo.judged(wanted, answer.revisions[stable.name]).fast
    return ", ".join(sorted({objective.name for objective, _ in fast}))


def _compared(view: View, stable: Revision, previous: Revision, memory: Memory) -> Trial:
    """Stable against its control group, since the promotion."""
    reports = [report for _, report in view.reports(stable)]
    trial = trial_of(stable, "guard", stable.standing.promoted_at, memory)
    return trial.looked(reports, previous.name, children.limit_seconds(view), local_is_treated=True)


def _hard_failure(view: View, stable: Revision, previous: Revision, memory: Memory) -> str | None:
    """What needs no statistics: only where the previous revision shows that it is not everything that fails."""
    name = stable.name
    if view.replicas and not stable.ready_replicas:
        wrong = verdict.trouble_of(view, stable)
        if wrong and wrong.reason in CANDIDATES_FAULT:
            return f"{name}: {wrong.message}"
    if not previous.ready_replicas:
        return None
    if silent(view, stable, memory) and view.reports(previous):
        return f"{name}: none of its pods answered, three times in a row, while those of {previous.name} did"
    if hangs(view, stable) and view.reports(previous) and not hangs(view, previous):
        return f"{name} hangs: in every pod a request has been in the model for longer than requests may take"
    return None


def _breach(
    view: View, stable: Revision, previous: Revision, serving: Verdict, reason: Rejection, message: str, evidence: str
) -> Course:
    """Stable alone is at fault: the verdict, and in the same pass the traffic."""
    if view.spec.guard.action == "Notify":
        return _notify(view, stable, serving, reason, message, evidence)
    rejected = replace(stable, standing=stable.standing.rejected(reason, message, evidence, view.now))
    course = replace(roll_back(view, rejected, previous), rejected=rejected)
    return course.after([children.record(view, rejected)])


def _notify(
    view: View, stable: Revision, serving: Verdict, reason: str, message: str, evidence: str, alarm: Alarm | None = None
) -> Course:
    """Tell of it, once."""
    before = alarm or stable.standing.alarm
    if before.notified:
        return Course(serving, memory=remembered(view), poll=IDLE_POLL)
    noted = replace(before, notified=view.now, reason=reason, message=message, evidence=evidence)
    return _alarmed(view, stable, serving, noted)


def _alarmed(view: View, stable: Revision, serving: Verdict, alarm: Alarm) -> Course:
    standing = replace(stable.standing, alarm=alarm)
    return Course(serving, (children.record(view, stable, standing),), remembered(view), poll=0.0)


def _send_on(view: View, stable: Revision, replaced: Revision) -> Iterable[Write]:
    """What still reaches the pods of a revision that was replaced goes to stable."""
    return children.route(view, replaced, stable, view.service, "all", close=True)


def _at_rest(view: View, previous: Revision) -> Iterable[Write]:
    if previous.replicas:
        return children.deployment(view, previous, 0)
    return ()


def dismiss(view: View, stable: Revision, previous: Revision, serving: Verdict) -> Course:
    """The control group ends before its pods, or the address that leads to them, are taken away."""
    writes = tuple(children.withdrawal(view, stable, previous))
    return Course(serving, writes, remembered(view), poll=view.poll_seconds)


def _until(view: View, seconds: float) -> float | None:
    since = view.since_promotion
    return max(1.0, seconds - since.total_seconds()) if since else None


# --- Rolling back ---------------------------------------------------------------------------------------------------


def return_to(view: View, stable: Revision) -> Revision | None:
    """Where a rollback leads: to the revision that a person names, else to the last one that was promoted before."""
    order = view.orders.order
    if order and order.verb == "rollback" and view.orders.rollout:
        named = view.revision(order.revision)
        if named and named.record and named.name != stable.name and named.standing.verdict != "Rejected":
            return named
    others = [r for r in view.revisions if r.name != stable.name and r.standing.verdict == "Promoted" and r.record]
    return max(others, key=lambda r: rfc3339(r.standing.promoted_at) if r.standing.promoted_at else "", default=None)


def roll_back(view: View, stable: Revision, target: Revision) -> Course:
    """Traffic from a rejected stable revision to another: routers first, which reaches established connections."""
    writes = [*children.deployment(view, target, max(1, view.replicas))]
    words = f"{stable.name} is rejected ({stable.standing.reason}: {stable.standing.message})"
    poll = view.poll_seconds
    late = stable.standing.time is not None and view.now - stable.standing.time >= PATIENCE
    enough = target.ready_replicas if late or not stable.ready_replicas else target.has_ready(max(1, view.replicas))
    if view.replicas and not enough:
        verdict_ = Verdict("Unknown", Reason.ROLLING_BACK, f"{words}; {target.name} is being started")
        return Course(verdict_, tuple(writes), poll=poll)
    writes += children.candidate_register(view, target)
    if receives(view, target, stable):  # since the promotion
        writes += children.withdrawal(view, target, stable)
    writes += children.route(view, stable, target, view.candidate_service, "all", close=True)
    noted = view.orders.noted
    if view.orders.rollout and view.orders.order and view.orders.order.verb == "rollback":
        noted = noted | {labels.HANDLED_ROLLOUT: view.orders.rollout}
    writes += children.register(view, target, noted)
    return Course(
        Verdict("Unknown", Reason.ROLLING_BACK, f"{words}; {target.name} takes over"), tuple(writes), poll=poll
    )


# --- What is left over ----------------------------------------------------------------------------------------------


def left_over(view: View, stable: Revision, keep: Iterable[str]) -> tuple[list[Write], float | None]:
    """Pods of revisions that are neither stable, on their way nor warm: drained, then removed."""
    writes: list[Write] = []
    poll: float | None = None
    kept = set(keep)
    for revision in view.revisions:
        if revision.child is None or revision.name == stable.name or revision.name in kept:
            continue
        rests = view.previous is not None and revision.name == view.previous.name
        removed = _at_rest(view, revision) if rests else children.delete(revision)
        receiving = receives(view, stable, revision)
        if receiving:
            writes += children.withdrawal(view, stable, revision)
        if revision.standing.promoted_at is not None:
            at_once = revision.standing.reason in AT_ONCE or not revision.ready_replicas
            draining = _since(view, revision) < view.drain and not at_once
            if draining:
                writes += _send_on(view, stable, revision)
            busy = draining or receiving
        else:  # routers that cannot be asked may hold leases to it
            unknown = bool(revision.standing.counted) and not view.reports(stable)
            busy = receiving or (unknown and _since(view, revision) < LEASE)
        if busy:
            poll = view.poll_seconds
        else:
            writes += removed
    return writes, poll


def _since(view: View, revision: Revision) -> timedelta:
    """Since it lost its traffic."""
    moments = [revision.standing.time if revision.standing.verdict == "Rejected" else None]
    if view.stable and view.stable.name != revision.name and revision.standing.promoted_at:
        moments.append(view.stable.standing.promoted_at)
    known = [moment for moment in moments if moment]
    return view.now - max(known) if known else timedelta(days=1)
