"""What one look at a revision's way comes to, and what is remembered between two looks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from holdfast.api.modeldeployment import ModelDeploymentReason as Reason
from holdfast.plan import evidence
from holdfast.plan.conditions import rfc3339
from holdfast.plan.evidence import Trial
from holdfast.plan.observed import Write
from holdfast.plan.revisions import Revision
from holdfast.plan.standing import Standing
from holdfast.plan.verdict import Verdict
from holdfast.plan.view import View

SAVE_EVERY = timedelta(seconds=30)
"""Evidence is written down so often: a crash loses no more."""
MISSES = 3
"""Reads in a row without an answer: of a revision's pods alone, while others answer, that is a failure."""
DOUBTFUL_POLL = 0.5
"""Seconds between them."""


@dataclass(frozen=True, slots=True)
class Memory:
    """What outlasts a pass but not the process."""

    trial: Mapping[str, Any] = field(default_factory=dict)
    missed: Mapping[str, int] = field(default_factory=dict)
    """Reads in a row that a pod did not answer, by uid."""
    blind: int = 0
    """Looks in a row at which no pod of stable answered."""
    saved: datetime | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "trial": self.trial,
            "missed": dict(self.missed),
            "blind": self.blind,
            "saved": rfc3339(self.saved) if self.saved else None,
        }


@dataclass(frozen=True, slots=True)
class Course:
    """Where things stand, and what that asks for."""

    verdict: Verdict
    writes: tuple[Write, ...] = ()
    memory: Memory = field(default_factory=Memory)
    poll: float | None = None
    """Seconds until the next look."""
    trial: Trial | None = None
    confirmed: Standing | None = None
    """Of stable, written in this pass."""
    rejected: Revision | None = None
    """With its verdict, written in this pass."""
    ready: Verdict | None = None
    """What Ready says, where that is another matter than what goes on; None: what `verdict` says."""
    weight: int = 0
    """Percent of the traffic that the candidate was given."""

    def after(self, writes: Iterable[Write]) -> Course:
        """The same, with these writes before its own."""
        return replace(self, writes=(*writes, *self.writes))


def remembered(view: View) -> Memory:
    """What the last pass left; nothing after a start of the process."""
    given = view.observed.memory
    saved = given.get("saved")
    return Memory(
        trial=given.get("trial") or {},
        missed=given.get("missed") or {},
        blind=int(given.get("blind") or 0),
        saved=datetime.fromisoformat(saved) if saved else None,
    )


def look(view: View, stable: Revision, other: Revision, memory: Memory) -> Memory:
    """Who answered this time."""
    answered = {pod.uid for pod, _ in view.reports(stable)}
    others = {pod.uid for pod, _ in view.reports(other)}
    missed: dict[str, int] = {}
    for revision, reached, witnesses in ((stable, answered, others), (other, others, answered)):
        for pod in view.pods_of(revision):
            if pod.uid in reached or pod.deleting or pod.uid not in view.observed.routers:
                continue
            before = memory.missed.get(pod.uid, 0)
            missed[pod.uid] = before + 1 if witnesses else before  # without a witness it may be the network, or us
    blind = 0 if answered else memory.blind + 1
    return replace(memory, missed=missed, blind=blind)


def silent(view: View, revision: Revision, memory: Memory) -> bool:
    """Whether none of its pods has answered for several looks, at which pods of another revision did."""
    pods = [pod for pod in view.pods_of(revision) if not pod.deleting]
    return bool(pods) and all(memory.missed.get(pod.uid, 0) >= MISSES for pod in pods)


def next_look(memory: Memory, usual: float) -> float:
    """Seconds. Sooner after a pod did not answer: it takes three looks to see that it hangs."""
    doubtful = any(0 < misses < MISSES for misses in memory.missed.values())
    return min(usual, DOUBTFUL_POLL) if doubtful else usual


def hangs(view: View, revision: Revision) -> bool:
    """Whether every pod has had a request in its model for longer than a request may take."""
    limit = view.spec.serving.request_timeout_milliseconds / 1000
    ages = [report.oldest_local_seconds for _, report in view.reports(revision)]
    return bool(ages) and all(age > limit for age in ages)


def trial_of(revision: Revision, kind: str, since: datetime | None, memory: Memory) -> Trial:
    """Its trial of that kind since then: as this process remembers it, or as it was written down last."""
    key = f"{revision.name}/{kind}/{rfc3339(since) if since else ''}"
    return evidence.begin(key, memory.trial, revision.standing.counted)


def held(reason: Reason, message: str) -> Verdict:
    """Nothing is decided now, and the message says what it waits for."""
    return Verdict("Unknown", reason, message, held=True)
