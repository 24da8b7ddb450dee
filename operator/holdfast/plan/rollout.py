"""The road of a candidate: Starting ─▶ SmokeTesting ─▶ Shadowing ─▶ CanaryStep … ─▶ Promoting.

Where it stands is in its ControllerRevision: each stage is written there before it begins, and does the same again
whenever it is looked at. What speaks against the candidate is looked for at every stage; nothing is decided for or
against it while there are no numbers. `Immediate` goes from Starting to Promoting and asks no router.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta

from holdfast.api.modeldeployment import ModelDeploymentReason as Reason
from holdfast.api.modeldeployment import Rejection, Step
from holdfast.build import labels
from holdfast.plan import children, trouble, verdict
from holdfast.plan.conditions import rfc3339
from holdfast.plan.course import (
    SAVE_EVERY,
    Course,
    Memory,
    hangs,
    held,
    look,
    next_look,
    remembered,
    silent,
    trial_of,
)
from holdfast.plan.evidence import Trial
from holdfast.plan.observed import Write
from holdfast.plan.revisions import Revision
from holdfast.plan.standing import Progress, Stage
from holdfast.plan.verdict import Verdict
from holdfast.plan.view import REASONS, View
from holdfast.stats import paired
from holdfast.stats.divergence import DisagreementTest

DEFAULT_STEPS = (Step(weight_percent=10, min_seconds=60), Step(weight_percent=50, min_seconds=60))
WARMING = timedelta(seconds=30)
"""Routers count apart what they draw in this time after a pod became ready."""
ENDPOINTS = timedelta(seconds=5)
"""After a pod became ready: until every node knows where it is."""
HANDOVER = timedelta(seconds=10)
"""Pods of stable are given so long to take the lease by which they send everything on."""
GROSS = paired.TOLERATED
"""Share of the golden answers. A candidate that differs from stable in more of them is shown to a person."""
FEWEST_COMPARED = 5
TOLERATED_RELATIVE, TOLERATED_ABSOLUTE = 0.2, 0.001
"""Between the numbers of two models that are both right. Where answers have labels, these are compared alone."""
SYNTHETIC_PER_SECOND = 20.0
CANDIDATES_FAULT = frozenset({Reason.CRASH_LOOP, Reason.OUT_OF_MEMORY})
RESTARTS = 3
"""Of a pod that has never been ready, until its revision is given up."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One look at a candidate beside the stable revision."""

    view: View
    stable: Revision
    candidate: Revision
    progress: Progress
    memory: Memory
    tolerance: float

    @property
    def immediate(self) -> bool:
        return self.view.spec.rollout.strategy == "Immediate"

    @property
    def steps(self) -> tuple[Step, ...]:
        return self.view.spec.rollout.steps or DEFAULT_STEPS

    @property
    def pods(self) -> int:
        """That the candidate has to have ready in this stage."""
        replicas = max(1, self.view.replicas)
        if self.immediate or self.progress.stage == "Promoting":
            return replicas
        return children.share_of(replicas, self.step.weight_percent)

    @property
    def step(self) -> Step:
        """The present one; before the first, the first."""
        return self.steps[min(max(self.progress.step, 1), len(self.steps)) - 1]

    @property
    def since(self) -> timedelta:
        """Since the stage, or the step, began."""
        return self.view.now - self.progress.since

    def paused(self) -> bool:
        order = self.view.orders.order
        return order is not None and order.verb == "pause" and order.revision == self.candidate.name


def advance(view: View, stable: Revision, candidate: Revision) -> Course:
    """One look at the candidate, and what follows from it."""
    progress = candidate.standing.progress
    if progress is None or candidate.record is None:
        begun = replace(candidate, standing=candidate.standing.starting(view.now))
        assert begun.standing.progress
        attempt = Attempt(view, stable, begun, begun.standing.progress, remembered(view), _tolerance(view))
        return _starting(attempt).after([children.record(view, begun)])
    memory = look(view, stable, candidate, remembered(view))
    attempt = Attempt(view, stable, candidate, progress, memory, _tolerance(view))
    if rejection := _hard_failure(attempt):
        return reject(view, stable, candidate, *rejection)
    return STAGES[progress.stage](attempt)


def reject(
    view: View, stable: Revision, candidate: Revision, reason: Rejection, message: str, evidence: str = ""
) -> Course:
    """The verdict first, then the traffic. The pods go when no router has a lease to them any more."""
    rejected = replace(candidate, standing=candidate.standing.rejected(reason, message, evidence, view.now))
    writes = (children.record(view, rejected), *withdraw(view, stable, candidate))
    return Course(verdict.of_rejected(view, stable, rejected), writes, poll=_poll(view), rejected=rejected)


def withdraw(view: View, stable: Revision, candidate: Revision) -> Iterable[Write]:
    """No traffic to the candidate from now on."""
    return children.route(view, stable, candidate, view.candidate_service, "share", weight=0.0)


def receives(view: View, stable: Revision, candidate: Revision) -> bool:
    """Whether a router may send the candidate anything, by what routers say. Leases that nobody renews end soon."""
    leases = [report.lease for _, report in view.reports(stable)]
    return any(lease and lease.target == candidate.name and lease.weight > 0 for lease in leases)


# --- Against it -----------------------------------------------------------------------------------------------------


def _hard_failure(attempt: Attempt) -> tuple[Rejection, str] | None:
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
    restarts = _restarts(attempt)
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


def _restarts(attempt: Attempt) -> int:
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


# --- Stages ---------------------------------------------------------------------------------------------------------


def _starting(attempt: Attempt) -> Course:
    view, candidate = attempt.view, attempt.candidate
    writes = [*_pods(attempt)]
    if not attempt.immediate:
        writes += children.candidate_register(view, candidate)
    if candidate.has_ready(attempt.pods):
        if not attempt.immediate:
            return _at(attempt, "SmokeTesting", 0, restarts=_restarts(attempt))
        words = Verdict("Unknown", Reason.PROMOTING, f"{candidate.name} is ready and takes over")
        return Course(words, (*writes, *take_over(view, candidate)), attempt.memory)
    return Course(verdict.of_start(view, candidate, attempt.pods), tuple(writes), attempt.memory)


def _smoke_testing(attempt: Attempt) -> Course:
    """Stable's golden requests, answered by the candidate; and the time in which routers would not count."""
    view, stable, candidate = attempt.view, attempt.stable, attempt.candidate
    upkeep = _upkeep(attempt)
    ready = children.ready_for(view, candidate)
    if view.replicas == 0:
        return _after_smoke_test(attempt)
    if blind := _blind(attempt):
        return _hold(attempt, blind, upkeep)
    asked = [(pod, report) for pod, report in view.reports(stable) if report.takes_leases]
    if not asked:
        words = f"pods of {stable.name} take no leases, as they were made without the operator's key"
        return _hold(attempt, held(Reason.METRICS_UNAVAILABLE, f"{words}; {_or_promote(candidate)}"), upkeep)
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
        return _go_on(attempt, Verdict("Unknown", Reason.SMOKE_TESTING, words + said), upkeep)
    if golden.failed:
        message = f"{candidate.name} did not answer {golden.failed} of {golden.asked} golden requests of {stable.name}"
        return reject(view, stable, candidate, Rejection.SMOKE_TEST_FAILED, message)
    disagrees = golden.disagreeing > GROSS * golden.rows and golden.rows >= FEWEST_COMPARED
    if disagrees and not _agreed(attempt):
        message = (
            f"{candidate.name} answers {golden.disagreeing} of {golden.rows} golden rows of {stable.name} otherwise;"
            f" {_or_promote(candidate)}, or abort it"
        )
        return _hold(attempt, held(Reason.AWAITING_PROMOTION, message), upkeep)
    if ready < WARMING:
        rest = (WARMING - ready).total_seconds()
        verdict_ = Verdict("Unknown", Reason.SMOKE_TESTING, f"{words}; warming for {rest:.0f} s more")
        return _go_on(attempt, verdict_, upkeep)
    return _after_smoke_test(attempt)


def _after_smoke_test(attempt: Attempt) -> Course:
    if attempt.view.replicas == 0 and attempt.view.spec.rollout.strategy == "Manual":
        return _after_shadow(attempt)
    if attempt.view.replicas == 0 or _is_fast(attempt):  # no pod of stable draws anything; or it was tried before
        return _at(attempt, "Promoting", 0)
    if attempt.view.spec.rollout.shadow:
        return _at(attempt, "Shadowing", 0)
    return _after_shadow(attempt)


def _shadowing(attempt: Attempt) -> Course:
    view, stable, candidate = attempt.view, attempt.stable, attempt.candidate
    shadow = view.spec.rollout.shadow
    if shadow is None:  # taken out of the spec meanwhile
        return _after_shadow(attempt)
    upkeep = _upkeep(attempt)
    if blind := _blind(attempt):
        return _hold(attempt, blind, upkeep, _trial(attempt, "shadow"))
    upkeep += children.route(
        view, stable, candidate, view.candidate_service, "shadow", weight=shadow.percent / 100,
        relative=TOLERATED_RELATIVE, absolute=TOLERATED_ABSOLUTE,
    )  # fmt: skip
    trial = _looked(attempt, "shadow")
    if trial.is_worse(attempt.tolerance):
        words = trial.words(candidate.name, stable.name)
        return reject(
            view, stable, candidate, Rejection.SHADOW_FAILED, f"{candidate.name} answered copies worse", words
        )
    compared = [report.comparison for _, report in view.reports(stable) if report.target == candidate.name]
    rows, differing = sum(c.rows for c in compared), sum(c.disagreeing for c in compared)
    needed = _needed(attempt, trial)
    seen = f"{trial.treated.requests} of {needed} copies answered, {trial.treated.bad} badly"
    effect = max(1.0, rows / trial.treated.requests) if trial.treated.requests else 1.0
    if paired.Comparison(rows, min(rows, differing)).exceeds(effect=effect) and not _agreed(attempt):
        message = f"{candidate.name} answers {differing} of {rows} copied rows otherwise; {_or_promote(candidate)}"
        return _hold(attempt, held(Reason.AWAITING_PROMOTION, message), upkeep, trial)
    if attempt.since >= timedelta(seconds=shadow.min_seconds):
        if trial.is_no_worse(attempt.tolerance):
            return _after_shadow(attempt)
        return _hold(attempt, _too_few(attempt, seen), upkeep, trial)
    return _go_on(attempt, Verdict("Unknown", Reason.SHADOWING, f"{candidate.name}: {seen}"), upkeep, trial)


def _after_shadow(attempt: Attempt) -> Course:
    if attempt.view.spec.rollout.strategy != "Manual":
        return _at(attempt, "CanaryStep", 1)
    message = f"{attempt.candidate.name} is ready; {_or_promote(attempt.candidate)}"
    return _hold(attempt, held(Reason.AWAITING_PROMOTION, message), _upkeep(attempt))


def _canary_step(attempt: Attempt) -> Course:
    view, stable, candidate = attempt.view, attempt.stable, attempt.candidate
    number, step = attempt.progress.step, attempt.step
    upkeep = _upkeep(attempt)
    if blind := _blind(attempt):
        return _hold(attempt, blind, upkeep, _trial(attempt, "canary"), step.weight_percent)
    trial = _looked(attempt, "canary")
    if rejected := _is_worse(attempt, trial):
        return rejected
    weight = step.weight_percent
    if not candidate.has_ready(attempt.pods):  # no pod gets more than it would have with all of them
        weight = attempt.steps[number - 2].weight_percent if number > 1 else min(weight, 1)
    seen = f"{trial.treated.requests} of {_needed(attempt, trial)} requests seen, {trial.treated.bad} failed"
    where = f"step {number} of {len(attempt.steps)}: {weight} % of traffic to {candidate.name}; {seen}"
    enough = trial.is_no_worse(attempt.tolerance)
    late = attempt.since >= timedelta(seconds=step.min_seconds) and weight == step.weight_percent
    synthetic = SYNTHETIC_PER_SECOND if late and not enough and _is_synthetic(view) else 0.0
    upkeep += children.route(
        view, stable, candidate, view.candidate_service, "share", weight=weight / 100, synthetic_per_second=synthetic
    )
    if attempt.paused():
        words = f"{where}; remove the annotation holdfast.dev/rollout to go on"
        return _hold(attempt, held(Reason.PAUSED, words), upkeep, trial, weight)
    if late and not enough:
        return _hold(attempt, _too_few(attempt, where), upkeep, trial, weight)
    if late:
        if differs := _predictions_differ(attempt):
            return _hold(attempt, held(Reason.AWAITING_PROMOTION, differs), upkeep, trial, weight)
        if number < len(attempt.steps):
            return _at(attempt, "CanaryStep", number + 1, trial)
        return _at(attempt, "Promoting", number, trial)
    return _go_on(attempt, Verdict("Unknown", Reason.CANARY_STEP, where), upkeep, trial, weight)


def _promoting(attempt: Attempt) -> Course:
    """As many pods as stable has; everything to them by the routers; then Service X, which is the promotion."""
    view, stable, candidate = attempt.view, attempt.stable, attempt.candidate
    writes = [*_pods(attempt)]
    trial = _looked(attempt, "canary") if attempt.progress.step else None
    if trial and (rejected := _is_worse(attempt, trial)):
        return rejected
    words = Verdict("Unknown", Reason.PROMOTING, f"{candidate.name} is ready and takes over")
    if not candidate.has_ready(attempt.pods) or attempt.paused():
        weight = attempt.step.weight_percent if attempt.progress.step else 0
        if weight:
            writes += children.route(view, stable, candidate, view.candidate_service, "share", weight=weight / 100)
        if attempt.paused():
            text = f"{candidate.name} is held before it takes over; remove the annotation holdfast.dev/rollout to go on"
            return _hold(attempt, held(Reason.PAUSED, text), writes, trial, weight)
        started = verdict.of_start(view, candidate, attempt.pods)
        waits = replace(started, reason=Reason.PROMOTING) if started.status == "Unknown" else started
        return replace(_go_on(attempt, waits, writes, trial, weight), poll=_poll(view))
    routed = list(children.route(view, stable, candidate, view.candidate_service, "all", close=True))
    leases = [report.lease for _, report in view.reports(stable) if report.takes_leases]
    handed_over = all(lease and lease.mode == "all" and lease.target == candidate.name for lease in leases)
    moved = take_over(view, candidate) if handed_over or not routed or attempt.since >= HANDOVER else ()
    return replace(_go_on(attempt, words, [*writes, *routed, *moved], trial, 100), poll=0.5)


def take_over(view: View, revision: Revision) -> Iterable[Write]:
    """Service X to the revision: it is stable from now on."""
    return children.register(view, revision, handled(view))


def handled(view: View) -> dict[str, str]:
    """What Service X has on record of people's words."""
    said = {labels.HANDLED_ROLLOUT: view.orders.handled_rollout, labels.HANDLED_REFRESH: view.orders.handled_refresh}
    return {name: text for name, text in said.items() if text}


STAGES: dict[Stage, Callable[[Attempt], Course]] = {
    "Starting": _starting,
    "SmokeTesting": _smoke_testing,
    "Shadowing": _shadowing,
    "CanaryStep": _canary_step,
    "Promoting": _promoting,
}


# --- Below ----------------------------------------------------------------------------------------------------------


def _at(attempt: Attempt, stage: Stage, step: int, trial: Trial | None = None, restarts: int | None = None) -> Course:
    """On to another stage: written down, and begun at the next look. Unless a person says pause."""
    view, candidate = attempt.view, attempt.candidate
    if attempt.paused():
        text = f"{candidate.name} is held before {stage}; remove the annotation holdfast.dev/rollout to go on"
        return _hold(attempt, held(Reason.PAUSED, text), _upkeep(attempt), trial)
    standing = candidate.standing.at(stage, step, view.now, restarts)
    memory = attempt.memory
    if trial:
        document = trial.to_json()
        standing = replace(standing, counted=document)
        memory = replace(memory, trial=document, saved=view.now)
    words = Verdict("Unknown", Reason(stage), f"{candidate.name} goes on")
    weight = attempt.step.weight_percent if attempt.progress.stage == "CanaryStep" else 0
    return Course(words, (children.record(view, candidate, standing),), memory, 0.0, trial, weight=weight)


def _go_on(
    attempt: Attempt, verdict_: Verdict, writes: Iterable[Write], trial: Trial | None = None, weight: int = 0
) -> Course:
    """Look again soon; what was counted is written down now and then."""
    view, memory = attempt.view, attempt.memory
    saved: tuple[Write, ...] = ()
    if trial:
        document = trial.to_json()
        memory = replace(memory, trial=document, saved=memory.saved or attempt.progress.since)
        if memory.saved is None or view.now - memory.saved >= SAVE_EVERY or not attempt.candidate.standing.counted:
            memory = replace(memory, saved=view.now)
            saved = (children.record(view, attempt.candidate, replace(attempt.candidate.standing, counted=document)),)
    return Course(verdict_, (*writes, *saved), memory, next_look(memory, _poll(view)), trial, weight=weight)


def _hold(
    attempt: Attempt, verdict_: Verdict, writes: Iterable[Write], trial: Trial | None = None, weight: int = 0
) -> Course:
    return _go_on(attempt, verdict_, writes, trial, weight)


def _upkeep(attempt: Attempt) -> list[Write]:
    return [*_pods(attempt), *children.candidate_register(attempt.view, attempt.candidate)]


def _pods(attempt: Attempt) -> Iterable[Write]:
    return children.deployment(attempt.view, attempt.candidate, attempt.pods)


def _trial(attempt: Attempt, kind: str) -> Trial:
    """As it was after the last look."""
    candidate = attempt.candidate
    return trial_of(f"{candidate.name}/{kind}/{rfc3339(attempt.progress.started)}", candidate, attempt.memory)


def _looked(attempt: Attempt, kind: str) -> Trial:
    candidate, trial = attempt.candidate, _trial(attempt, kind)
    reports = [report for _, report in attempt.view.reports(attempt.stable)]
    limit = children.limit_seconds(attempt.view)
    return trial.looked(reports, candidate.name, limit, copies=kind == "shadow")


def _is_worse(attempt: Attempt, trial: Trial) -> Course | None:
    candidate, stable = attempt.candidate, attempt.stable
    if not trial.is_worse(attempt.tolerance):
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
    return held(Reason.METRICS_UNAVAILABLE, f"{message}; {_or_promote(attempt.candidate)}")


def _too_few(attempt: Attempt, seen: str) -> Verdict:
    helps = "golden requests are asked" if _is_synthetic(attempt.view) else "send traffic, set Synthetic"
    return held(Reason.INSUFFICIENT_TRAFFIC, f"{seen}; {helps}, or {_or_promote(attempt.candidate)}")


def _needed(attempt: Attempt, trial: Trial) -> int:
    """Requests of the candidate in all, until it is shown to be no worse if it goes on as stable does."""
    return trial.treated.requests + trial.missing(attempt.tolerance)


def _predictions_differ(attempt: Attempt) -> str | None:
    """Whether the candidate predicts otherwise than stable on requests drawn from the same traffic."""
    if _agreed(attempt):
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
        f" rows; {_or_promote(attempt.candidate)}, or abort it"
    )


def _added(counts: Iterable[Mapping[str, int] | None]) -> Counter[str]:
    total: Counter[str] = Counter()
    for each in counts:
        total.update(each or {})
    return total


def _agreed(attempt: Attempt) -> bool:
    """Whether a person has looked at how the candidate differs, and wants it all the same."""
    return attempt.candidate.standing.reason == Rejection.REQUESTED_BY_USER


def _is_fast(attempt: Attempt) -> bool:
    """Whether it is the revision that stable took over from, and has stood the test before."""
    previous = attempt.view.previous
    return previous is not None and previous.name == attempt.candidate.name


def _is_synthetic(view: View) -> bool:
    return view.spec.rollout.on_insufficient_traffic == "Synthetic"


def _or_promote(candidate: Revision) -> str:
    return f'annotate holdfast.dev/rollout="promote {candidate.name}"'


def _tolerance(view: View) -> float:
    return view.spec.rollout.tolerance_per_mille / 1000


def _poll(view: View) -> float:
    return view.observed.settings.poll_seconds
