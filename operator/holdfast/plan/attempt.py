"""One look at a candidate beside the stable revision: what is known, and how the look ends."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import timedelta

from holdfast.api.modeldeployment import ModelDeploymentReason as Reason
from holdfast.api.modeldeployment import Step
from holdfast.plan import children
from holdfast.plan.course import SAVE_EVERY, Course, Memory, held, next_look, trial_of
from holdfast.plan.evidence import Trial
from holdfast.plan.observed import Write
from holdfast.plan.revisions import Revision
from holdfast.plan.standing import Progress, Stage
from holdfast.plan.verdict import Verdict
from holdfast.plan.view import View

DEFAULT_STEPS = (Step(weight_percent=10, min_seconds=60), Step(weight_percent=50, min_seconds=60))


@dataclass(frozen=True, slots=True)
class Attempt:
    """One look at a candidate beside the stable revision."""

    view: View
    stable: Revision
    candidate: Revision
    progress: Progress
    memory: Memory

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


def advance_to(
    attempt: Attempt, stage: Stage, step: int, trial: Trial | None = None, restarts: int | None = None
) -> Course:
    """On to another stage: written down, and begun at the next look. Unless a person says pause."""
    view, candidate = attempt.view, attempt.candidate
    if attempt.paused():
        text = f"{candidate.name} is held before {stage}; remove the annotation holdfast.dev/rollout to go on"
        return go_on(attempt, held(Reason.PAUSED, text), keep_up(attempt), trial)
    standing = candidate.standing.at(stage, step, view.now, restarts)
    memory = attempt.memory
    if trial:
        document = trial.to_json()
        standing = replace(standing, counted=document)
        memory = replace(memory, trial=document, saved=view.now)
    words = Verdict("Unknown", Reason(stage), f"{candidate.name} goes on")
    weight = attempt.step.weight_percent if attempt.progress.stage == "CanaryStep" else 0
    return Course(words, (children.record(view, candidate, standing),), memory, 0.0, trial, weight=weight)


def go_on(
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
    return Course(verdict_, (*writes, *saved), memory, next_look(memory, view.poll_seconds), trial, weight=weight)


def keep_up(attempt: Attempt) -> list[Write]:
    return [*pods(attempt), *children.candidate_register(attempt.view, attempt.candidate)]


def pods(attempt: Attempt) -> Iterable[Write]:
    return children.deployment(attempt.view, attempt.candidate, attempt.pods)


def remembered_trial(attempt: Attempt, kind: str) -> Trial:
    """As it was after the last look."""
    candidate = attempt.candidate
    return trial_of(candidate, kind, attempt.progress.started, attempt.memory)


def looked(attempt: Attempt, kind: str) -> Trial:
    candidate, trial = attempt.candidate, remembered_trial(attempt, kind)
    reports = [report for _, report in attempt.view.reports(attempt.stable)]
    limit = children.limit_seconds(attempt.view)
    return trial.looked(reports, candidate.name, limit, copies=kind == "shadow")


def or_promote(candidate: Revision) -> str:
    """What a person can say who knows better."""
    return f'annotate holdfast.dev/rollout="promote {candidate.name}"'
