"""What speaks against a candidate without a test of its failures: pods that fail, and answers that are others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from holdfast.api.modeldeployment import ModelDeploymentReason as Reason
from holdfast.api.modeldeployment import Rejection
from holdfast.plan import trouble, verdict
from holdfast.plan.attempt import Attempt, or_promote
from holdfast.plan.course import hangs, silent
from holdfast.plan.view import REASONS
from holdfast.stats import paired
from holdfast.stats.divergence import DisagreementTest

GROSS = paired.TOLERATED
"""Share of the golden answers. A candidate that differs from stable in more of them is shown to a person."""

FEWEST_COMPARED = 5

CANDIDATES_FAULT = frozenset({Reason.CRASH_LOOP, Reason.OUT_OF_MEMORY})

RESTARTS = 3
"""Of a pod that has never been ready, until its revision is given up."""


def hard_failure(attempt: Attempt) -> tuple[Rejection, str] | None:
    """What needs no statistics."""
    view, candidate = attempt.view, attempt.candidate
    name = candidate.name
    stage = attempt.progress.stage
    # A person may say promote before any pod is ready.
    starting = stage == "Starting" or (
        stage == "Promoting" and not attempt.progress.step and not candidate.ready_replicas
    )
    if candidate.child is None and starting:
        return None
    wrong = verdict.trouble_of(view, candidate)
    restarts = restarts_of(attempt)
    if wrong and wrong.reason in CANDIDATES_FAULT and restarts >= (RESTARTS if starting else 1):
        return Rejection(wrong.reason), f"{name}: {wrong.message}"
    if starting and (wrong is None or wrong.reason in CANDIDATES_FAULT) and attempt.since >= view.deadline:
        seconds = view.spec.rollout.progress_deadline_seconds
        ready = f"{candidate.ready_replicas} of {attempt.pods} pods ready after {seconds} s"
        return Rejection.PROGRESS_DEADLINE_EXCEEDED, f"{name}: {wrong.message if wrong else ready}"
    if starting or attempt.immediate:
        return None
    if restarts:
        return Rejection.CRASH_LOOP, f"{name}: a pod of it has restarted while it was tried"
    if silent(view, candidate, attempt.memory):
        return Rejection.HARD_FAILURE, f"{name}: none of its pods answered, three times in a row, while stable's did"
    if hangs(view, candidate):
        return Rejection.HARD_FAILURE, f"{name} hangs: a request has been in it for longer than requests may take"
    if view.spec.rollout.strategy == "Canary" and (changed := _signatures_differ(attempt)):
        return Rejection.SIGNATURE_CHANGED, changed
    return None


def restarts_of(attempt: Attempt) -> int:
    """Of a pod, at most, since the candidate had become ready; those do not count that something else was behind."""
    pods = [pod for pod in attempt.view.pods_of(attempt.candidate) if trouble.report(pod).get("reason") not in REASONS]
    return max((pod.restarts for pod in pods), default=0) - attempt.progress.restarts


def _signatures_differ(attempt: Attempt) -> str | None:
    view = attempt.view
    mine = {report.signature for _, report in view.reports(attempt.stable) if report.signature}
    its = {report.signature for _, report in view.reports(attempt.candidate) if report.signature}
    if len(mine) != 1 or len(its) != 1 or mine == its:
        return None
    return (
        f"{attempt.candidate.name} has other inputs or outputs than {attempt.stable.name}, and two signatures cannot"
        " share an endpoint: use strategy Immediate or Manual, or a second ModelDeployment"
    )


def predictions_differ(attempt: Attempt) -> str | None:
    """Whether the candidate predicts otherwise than stable on requests drawn from the same traffic."""
    if agreed(attempt):
        return None
    name = attempt.candidate.name
    reports = [report for _, report in attempt.view.reports(attempt.stable) if report.target == name]
    local = _added(report.steady_local.predictions for report in reports)
    target = _added(report.steady_target.predictions for report in reports)
    requests = sum(report.steady_target.outcomes.get("ok", 0) for report in reports)
    # Rows of one request are alike: together they tell as much as one.
    test = DisagreementTest.of(local, target, effect=max(1.0, target.total() / requests) if requests else 1.0)
    if not test.exceeds:
        return None
    return (
        f"{name} predicts otherwise than {attempt.stable.name}: PSI {test.psi:.3g} over {test.limit:.3g} in {test.rows}"
        f" rows; {or_promote(attempt.candidate)}, or abort it"
    )


def _added(counts: Iterable[Mapping[str, int] | None]) -> Counter[str]:
    total: Counter[str] = Counter()
    for each in counts:
        total.update(each or {})
    return total


def agreed(attempt: Attempt) -> bool:
    """Whether a person has looked at how the candidate differs, and wants it all the same."""
    return attempt.candidate.standing.reason == Rejection.REQUESTED_BY_USER
