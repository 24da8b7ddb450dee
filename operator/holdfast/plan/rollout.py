"""The road of a candidate: Starting ─▶ SmokeTesting ─▶ Shadowing ─▶ CanaryStep … ─▶ Promoting.

Where it stands is in its ControllerRevision: each stage is written there before it begins, and does the same again
whenever it is looked at. What speaks against the candidate is looked for at every stage; nothing is decided for or
against it while there are no numbers. `Immediate` goes from Starting to Promoting and asks no router.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

from holdfast.api.modeldeployment import ModelDeploymentReason as Reason
from holdfast.api.modeldeployment import Rejection
from holdfast.plan import children, verdict
from holdfast.plan.attempt import Attempt, advance_to, go_on, keep_up, looked, or_promote, pods, remembered_trial
from holdfast.plan.course import Course, held, look, remembered
from holdfast.plan.evidence import Trial
from holdfast.plan.failures import FEWEST_COMPARED, GROSS, agreed, hard_failure, predictions_differ, restarts_of
from holdfast.plan.revisions import Revision
from holdfast.plan.standing import Stage
from holdfast.plan.verdict import Verdict
from holdfast.plan.view import View
from holdfast.stats import paired

WARMING = timedelta(seconds=30)
"""Routers count apart what they draw in this time after a pod became ready."""
ENDPOINTS = timedelta(seconds=5)
"""After a pod became ready: until every node knows where it is."""
HANDOVER = timedelta(seconds=10)
"""Pods of stable are given so long to take the lease by which they send everything on."""
TOLERATED_RELATIVE, TOLERATED_ABSOLUTE = 0.2, 0.001
"""Between the numbers of two models that are both right. Where answers have labels, these are compared alone."""
SYNTHETIC_PER_SECOND = 20.0


def advance(view: View, stable: Revision, candidate: Revision) -> Course:
    """One look at the candidate, and what follows from it."""
    progress = candidate.standing.progress
    if progress is None or candidate.record is None:
        begun = replace(candidate, standing=candidate.standing.starting(view.now))
        assert begun.standing.progress
        attempt = Attempt(view, stable, begun, begun.standing.progress, remembered(view))
        return _starting(attempt).after([children.record(view, begun)])
    memory = look(view, stable, candidate, remembered(view))
    attempt = Attempt(view, stable, candidate, progress, memory)
    if rejection := hard_failure(attempt):
        return reject(view, stable, candidate, *rejection)
    return STAGES[progress.stage](attempt)


def reject(
    view: View, stable: Revision, candidate: Revision, reason: Rejection, message: str, evidence: str = ""
) -> Course:
    """The verdict first, then the traffic. The pods go when no router has a lease to them any more."""
    rejected = replace(candidate, standing=candidate.standing.rejected(reason, message, evidence, view.now))
    writes = (children.record(view, rejected), *children.withdrawal(view, stable, candidate))
    return Course(verdict.of_rejected(view, stable, rejected), writes, poll=view.poll_seconds, rejected=rejected)


def receives(view: View, stable: Revision, candidate: Revision) -> bool:
    """Whether a router may send the candidate anything, by what routers say. Leases that nobody renews end soon."""
    leases = [report.lease for _, report in view.reports(stable)]
    return any(lease and lease.target == candidate.name and lease.weight > 0 for lease in leases)


# --- Stages ---------------------------------------------------------------------------------------------------------


def _starting(attempt: Attempt) -> Course:
    view, candidate = attempt.view, attempt.candidate
    writes = [*pods(attempt)]
    if not attempt.immediate:
        writes += children.candidate_register(view, candidate)
    if candidate.has_ready(attempt.pods):
        if not attempt.immediate:
            return advance_to(attempt, "SmokeTesting", 0, restarts=restarts_of(attempt))
        words = Verdict("Unknown", Reason.PROMOTING, f"{candidate.name} is ready and takes over")
        return Course(words, (*writes, *children.register(view, candidate, view.orders.noted)), attempt.memory)
    return Course(verdict.of_start(view, candidate, attempt.pods), tuple(writes), attempt.memory)


def _smoke_testing(attempt: Attempt) -> Course:
    """Stable's golden requests, answered by the candidate; and the time in which routers would not count."""
    view, stable, candidate = attempt.view, attempt.stable, attempt.candidate
    upkeep = keep_up(attempt)
    ready = children.ready_for(view, candidate)
    if view.replicas == 0:
        return _after_smoke_test(attempt)
    if blind := _blind(attempt):
        return go_on(attempt, blind, upkeep)
    asked = [(pod, report) for pod, report in view.reports(stable) if report.takes_leases]
    if not asked:
        words = f"pods of {stable.name} take no leases, as they were made without the operator's key"
        return go_on(attempt, held(Reason.METRICS_UNAVAILABLE, f"{words}; {or_promote(candidate)}"), upkeep)
    pod, report = next((each for each in asked if each[1].golden and each[1].golden.target == candidate.name), asked[0])
    golden = report.golden if report.golden and report.golden.target == candidate.name else None
    words = f"{candidate.name} answers the golden requests of {stable.name}"
    if golden is None or not golden.done:
        if ready >= ENDPOINTS:
            service = view.candidate_service
            upkeep += children.route(
                view,
                stable,
                candidate,
                service,
                "golden",
                pods=(pod.uid,),
                relative=TOLERATED_RELATIVE,
                absolute=TOLERATED_ABSOLUTE,
            )
        said = f": {golden.answered + golden.failed} of {golden.asked}" if golden else ""
        return go_on(attempt, Verdict("Unknown", Reason.SMOKE_TESTING, words + said), upkeep)
    if golden.failed:
        failed = f"{golden.failed} of {golden.asked} golden requests of {stable.name}"
        message = f"{candidate.name} did not answer {failed} in time"
        return reject(view, stable, candidate, Rejection.SMOKE_TEST_FAILED, message)
    disagrees = golden.disagreeing > GROSS * golden.rows and golden.rows >= FEWEST_COMPARED
    if disagrees and not agreed(attempt):
        message = (
            f"{candidate.name} answers {golden.disagreeing} of {golden.rows} golden rows of {stable.name} otherwise;"
            f" {or_promote(candidate)}, or abort it"
        )
        return go_on(attempt, held(Reason.AWAITING_PROMOTION, message), upkeep)
    if ready < WARMING:
        rest = (WARMING - ready).total_seconds()
        verdict_ = Verdict("Unknown", Reason.SMOKE_TESTING, f"{words}; warming for {rest:.0f} s more")
        return go_on(attempt, verdict_, upkeep)
    return _after_smoke_test(attempt)


def _after_smoke_test(attempt: Attempt) -> Course:
    if attempt.view.replicas == 0 and attempt.view.spec.rollout.strategy == "Manual":
        return _after_shadow(attempt)
    if attempt.view.replicas == 0 or _is_fast(attempt):  # no pod of stable draws anything; or it was tried before
        return advance_to(attempt, "Promoting", 0)
    if attempt.view.spec.rollout.shadow:
        return advance_to(attempt, "Shadowing", 0)
    return _after_shadow(attempt)


def _shadowing(attempt: Attempt) -> Course:
    view, stable, candidate = attempt.view, attempt.stable, attempt.candidate
    shadow = view.spec.rollout.shadow
    if shadow is None:  # taken out of the spec meanwhile
        return _after_shadow(attempt)
    upkeep = keep_up(attempt)
    if blind := _blind(attempt):
        return go_on(attempt, blind, upkeep, remembered_trial(attempt, "shadow"))
    upkeep += children.route(
        view, stable, candidate, view.candidate_service, "shadow", weight=shadow.percent / 100,
        relative=TOLERATED_RELATIVE, absolute=TOLERATED_ABSOLUTE,
    )  # fmt: skip
    trial = looked(attempt, "shadow")
    if trial.is_worse(attempt.view.tolerance):
        words = trial.words(candidate.name, stable.name)
        return reject(
            view, stable, candidate, Rejection.SHADOW_FAILED, f"{candidate.name} answered copies worse", words
        )
    compared = [report.comparison for _, report in view.reports(stable) if report.target == candidate.name]
    rows, differing = sum(c.rows for c in compared), sum(c.disagreeing for c in compared)
    needed = _needed(attempt, trial)
    seen = f"{trial.treated.requests} of {needed} copies answered, {trial.treated.bad} badly"
    effect = max(1.0, rows / trial.treated.requests) if trial.treated.requests else 1.0
    if paired.Comparison(rows, min(rows, differing)).exceeds(effect=effect) and not agreed(attempt):
        message = f"{candidate.name} answers {differing} of {rows} copied rows otherwise; {or_promote(candidate)}"
        return go_on(attempt, held(Reason.AWAITING_PROMOTION, message), upkeep, trial)
    if attempt.since >= timedelta(seconds=shadow.min_seconds):
        if trial.is_no_worse(attempt.view.tolerance):
            return _after_shadow(attempt)
        return go_on(attempt, _too_few(attempt, seen), upkeep, trial)
    return go_on(attempt, Verdict("Unknown", Reason.SHADOWING, f"{candidate.name}: {seen}"), upkeep, trial)


def _after_shadow(attempt: Attempt) -> Course:
    if attempt.view.spec.rollout.strategy != "Manual":
        return advance_to(attempt, "CanaryStep", 1)
    message = f"{attempt.candidate.name} is ready; {or_promote(attempt.candidate)}"
    return go_on(attempt, held(Reason.AWAITING_PROMOTION, message), keep_up(attempt))


def _canary_step(attempt: Attempt) -> Course:
    view, stable, candidate = attempt.view, attempt.stable, attempt.candidate
    number, step = attempt.progress.step, attempt.step
    upkeep = keep_up(attempt)
    if blind := _blind(attempt):
        return go_on(attempt, blind, upkeep, remembered_trial(attempt, "canary"), step.weight_percent)
    trial = looked(attempt, "canary")
    if rejected := _is_worse(attempt, trial):
        return rejected
    weight = step.weight_percent
    if not candidate.has_ready(attempt.pods):  # no pod gets more than it would have with all of them
        weight = attempt.steps[number - 2].weight_percent if number > 1 else min(weight, 1)
    seen = f"{trial.treated.requests} of {_needed(attempt, trial)} requests seen, {trial.treated.bad} failed"
    where = f"step {number} of {len(attempt.steps)}: {weight} % of traffic to {candidate.name}; {seen}"
    enough = trial.is_no_worse(attempt.view.tolerance)
    late = attempt.since >= timedelta(seconds=step.min_seconds) and weight == step.weight_percent
    synthetic = SYNTHETIC_PER_SECOND if late and not enough and _is_synthetic(view) else 0.0
    upkeep += children.route(
        view, stable, candidate, view.candidate_service, "share", weight=weight / 100, synthetic_per_second=synthetic
    )
    if attempt.paused():
        words = f"{where}; remove the annotation holdfast.dev/rollout to go on"
        return go_on(attempt, held(Reason.PAUSED, words), upkeep, trial, weight)
    if late and not enough:
        return go_on(attempt, _too_few(attempt, where), upkeep, trial, weight)
    if late:
        if differs := predictions_differ(attempt):
            return go_on(attempt, held(Reason.AWAITING_PROMOTION, differs), upkeep, trial, weight)
        if number < len(attempt.steps):
            return advance_to(attempt, "CanaryStep", number + 1, trial)
        return advance_to(attempt, "Promoting", number, trial)
    return go_on(attempt, Verdict("Unknown", Reason.CANARY_STEP, where), upkeep, trial, weight)


def _promoting(attempt: Attempt) -> Course:
    """As many pods as stable has; everything to them by the routers; then Service X, which is the promotion."""
    view, stable, candidate = attempt.view, attempt.stable, attempt.candidate
    writes = [*pods(attempt)]
    trial = looked(attempt, "canary") if attempt.progress.step else None
    if trial and (rejected := _is_worse(attempt, trial)):
        return rejected
    words = Verdict("Unknown", Reason.PROMOTING, f"{candidate.name} is ready and takes over")
    if not candidate.has_ready(attempt.pods) or attempt.paused():
        weight = attempt.step.weight_percent if attempt.progress.step else 0
        if weight:
            writes += children.route(view, stable, candidate, view.candidate_service, "share", weight=weight / 100)
        if attempt.paused():
            text = f"{candidate.name} is held before it takes over; remove the annotation holdfast.dev/rollout to go on"
            return go_on(attempt, held(Reason.PAUSED, text), writes, trial, weight)
        started = verdict.of_start(view, candidate, attempt.pods)
        waits = replace(started, reason=Reason.PROMOTING) if started.status == "Unknown" else started
        return replace(go_on(attempt, waits, writes, trial, weight), poll=view.poll_seconds)
    routed = list(children.route(view, stable, candidate, view.candidate_service, "all", close=True))
    leases = [report.lease for _, report in view.reports(stable) if report.takes_leases]
    handed_over = all(lease and lease.mode == "all" and lease.target == candidate.name for lease in leases)
    moved = (
        children.register(view, candidate, view.orders.noted)
        if handed_over or not routed or attempt.since >= HANDOVER
        else ()
    )
    return replace(go_on(attempt, words, [*writes, *routed, *moved], trial, 100), poll=0.5)


STAGES: dict[Stage, Callable[[Attempt], Course]] = {
    "Starting": _starting,
    "SmokeTesting": _smoke_testing,
    "Shadowing": _shadowing,
    "CanaryStep": _canary_step,
    "Promoting": _promoting,
}


# --- Below ----------------------------------------------------------------------------------------------------------


def _is_worse(attempt: Attempt, trial: Trial) -> Course | None:
    candidate, stable = attempt.candidate, attempt.stable
    if not trial.is_worse(attempt.view.tolerance):
        return None
    message = f"{candidate.name} answered worse than {stable.name}"
    return reject(
        attempt.view, stable, candidate, Rejection.MORE_FAILURES, message, trial.words(candidate.name, stable.name)
    )


def _blind(attempt: Attempt) -> Verdict | None:
    """No numbers: nothing is decided, whatever is going on."""
    if attempt.memory.blind < 2:
        return None
    message = f"pods of {attempt.stable.name} cannot be asked for their counters; the weight is frozen"
    return held(Reason.METRICS_UNAVAILABLE, f"{message}; {or_promote(attempt.candidate)}")


def _too_few(attempt: Attempt, seen: str) -> Verdict:
    helps = "golden requests are asked" if _is_synthetic(attempt.view) else "send traffic, set Synthetic"
    return held(Reason.INSUFFICIENT_TRAFFIC, f"{seen}; {helps}, or {or_promote(attempt.candidate)}")


def _needed(attempt: Attempt, trial: Trial) -> int:
    """Requests of the candidate in all, until it is shown to be no worse if it goes on as stable does."""
    return trial.treated.requests + trial.missing(attempt.view.tolerance)


def _is_fast(attempt: Attempt) -> bool:
    """Whether it is the revision that stable took over from, and has stood the test before."""
    previous = attempt.view.previous
    return previous is not None and previous.name == attempt.candidate.name


def _is_synthetic(view: View) -> bool:
    return view.spec.rollout.on_insufficient_traffic == "Synthetic"
