"""What the routers' counters say about two revisions: pods' reports in, the tests' evidence out.

The increments of one pod since the last look at it are one block: it counted both arms itself, in the same minutes.
What has to outlast this pass goes into `Plan.memory`, and now and then into the revision's ControllerRevision.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from holdfast.plan.traffic import Arm as Counter
from holdfast.plan.traffic import Report
from holdfast.stats.arms import Arm
from holdfast.stats.eprocess import Evidence, is_worse
from holdfast.stats.sequence import NonInferiority

ALPHA = 0.001
"""Probability of ever rejecting a revision that is no worse, per rollout."""
ABORT_AT = round(1 / ALPHA)

Counts = tuple[int, int, int, int]
"""Ended and bad requests of the local arm, then of the target's."""


@dataclass(frozen=True, slots=True)
class Trial:
    """Two revisions, compared by what routers drew for them.

    `worse` and `no_worse` are of the revision on trial (`treated`) against the one that it is compared with.
    """

    key: str
    """What is on trial: evidence of anything else is not taken up."""
    counts: Mapping[str, Counts] = field(default_factory=dict)
    """By the process that counted."""
    worse: Evidence = field(default_factory=Evidence.none)
    no_worse: NonInferiority = field(default_factory=NonInferiority.none)
    begun: bool = False
    """Whether there has been a look. What was counted before the first one does not count."""

    def looked(
        self,
        reports: Iterable[Report],
        target: str,
        limit: float,
        *,
        local_is_treated: bool = False,
        copies: bool = False,
    ) -> Trial:
        """The trial after one more look.

        Args:
            target: the revision that the reports' target arms must be of.
            limit: seconds from which on an answer counts as bad.
            local_is_treated: whether the revision on trial is the one that the reporting pods run.
            copies: whether the target got copies, of which a router sends no more than it may.
        """
        counts = dict(self.counts)
        worse, no_worse = self.worse, self.no_worse
        for report in reports:
            if report.target != target:
                continue
            now = _counts(report, limit, copies)
            before = counts.get(report.instance) or ((0, 0, 0, 0) if self.begun else now)
            counts[report.instance] = now
            if any(new < old for new, old in zip(now, before, strict=True)):
                before = (0, 0, 0, 0)  # it has begun to count anew
            more = [new - old for new, old in zip(now, before, strict=True)]
            local, other = Arm(more[0], min(more[0], more[1])), Arm(more[2], min(more[2], more[3]))
            control, treated = (other, local) if local_is_treated else (local, other)
            worse, no_worse = worse.observed(control, treated), no_worse.observed(control, treated)
        return Trial(self.key, counts, worse, no_worse, True)

    @property
    def control(self) -> Arm:
        return self.worse.control

    @property
    def treated(self) -> Arm:
        return self.worse.treated

    def is_worse(self, tolerance: float) -> bool:
        """Whether the one on trial fails more often, by enough to matter."""
        return is_worse(self.worse, ALPHA, tolerance)

    def missing(self, tolerance: float) -> int:
        """Requests of the one on trial that are still needed to show that, if it goes on as the other one does."""
        return self.no_worse.missing(tolerance)

    def is_no_worse(self, tolerance: float) -> bool:
        """Whether it is shown to fail no more often, but for the tolerance."""
        return self.no_worse.is_no_worse(tolerance)

    def words(self, treated: str, control: str) -> str:
        """The numbers, for people."""
        return (
            f"{treated} {self.treated.bad}/{self.treated.requests} failed, "
            f"{control} {self.control.bad}/{self.control.requests}, e={self.e_value} (>= {ABORT_AT} rejects)"
        )

    @property
    def e_value(self) -> str:
        """Short enough for a column."""
        return f"{self.worse.e_value:.3g}"

    def to_json(self) -> dict[str, Any]:
        return {
            "key": self.key,
            "begun": self.begun,
            "counts": {instance: list(counts) for instance, counts in self.counts.items()},
            "worse": self.worse.to_json(),
            "noWorse": self.no_worse.to_json(),
        }


def begin(key: str, *remembered: Mapping[str, Any]) -> Trial:
    """The trial `key` as the first of these remembers it; a new one if none does, or what they hold cannot be read."""
    for document in remembered:
        if document.get("key") == key and (trial := _parsed(document)):
            return trial
    return Trial(key)


def _parsed(document: Mapping[str, Any]) -> Trial | None:
    try:
        counts = {
            str(instance): (int(a), int(b), int(c), int(d)) for instance, (a, b, c, d) in document["counts"].items()
        }
        worse, no_worse = Evidence.parse(document["worse"]), NonInferiority.parse(document["noWorse"])
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
    return Trial(document["key"], counts, worse, no_worse, document.get("begun") is True)


def _counts(report: Report, limit: float, copies: bool) -> Counts:
    local, target = report.steady_local, report.steady_target
    dropped = target.outcomes.get("saturated", 0) if copies else 0
    edges = report.edges
    return (
        _ended(local), _bad(local, limit, edges), _ended(target) - dropped, _bad(target, limit, edges) - dropped
    )  # fmt: skip


def _ended(arm: Counter) -> int:
    """Without those that were the client's own fault."""
    return arm.ended - arm.outcomes.get("client_error", 0)


def _bad(arm: Counter, limit: float, edges: tuple[float, ...]) -> int:
    return arm.failed + arm.slower_than(limit, edges)
