"""Service level objectives: what a spec asks for, what Prometheus says, and the condition SLOHealthy.

It is about the service, that is all revisions together: users do not know of revisions. Which of them burns is in
`SloSignal.revisions`, for whoever decides about one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

from holdfast.build.rules import Alarm, Objective, span
from holdfast.plan import conditions
from holdfast.plan.conditions import Condition
from holdfast.stats.burnrate import DAY, PAIRS, Burn, Ratio, budget_left, burns

SLO_HEALTHY = "SLOHealthy"
MAX_PERCENT = 1_000_000
"""What is overspent has no bound, a status has."""
NOTHING = Ratio(0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Objectives:
    """`spec.slo`."""

    availability: Objective | None
    latency: Objective | None
    window_days: int

    @property
    def all(self) -> tuple[Objective, ...]:
        return tuple(objective for objective in (self.availability, self.latency) if objective)

    @property
    def windows(self) -> frozenset[int]:
        """Seconds of all windows that a verdict looks at."""
        return frozenset(seconds for pair in PAIRS for seconds in (pair.short, pair.long)) | {self.period}

    @property
    def period(self) -> int:
        """Seconds of the window that has the budget."""
        return self.window_days * DAY


def alarms(window_days: int) -> tuple[Alarm, ...]:
    """The pairs of windows as rules have them."""
    return tuple(Alarm(pair.short, pair.long, pair.factor(window_days), pair.fast) for pair in PAIRS)


def objectives(spec: Mapping[str, Any]) -> Objectives | None:
    """Those of a ModelDeployment's spec as the API server keeps it; None without any."""
    slo = spec.get("slo")
    if not slo:
        return None
    latency = slo.get("latency")
    return Objectives(
        availability=Objective("availability", _allowed(slo["availability"])) if "availability" in slo else None,
        latency=Objective("latency", _allowed(latency["objective"]), int(latency["thresholdMilliseconds"]))
        if latency
        else None,
        window_days=int(slo.get("windowDays", 30)),
    )


@dataclass(frozen=True, slots=True)
class Counts:
    """Requests by the seconds of the window: those that failed, and those that were slow."""

    availability: Mapping[int, Ratio]
    latency: Mapping[int, Ratio]


@dataclass(frozen=True, slots=True)
class SloSignal:
    """What Prometheus says of one ModelDeployment. Windows that it cannot tell are missing."""

    service: Counts
    """Of all revisions together."""
    revisions: Mapping[str, Counts]


@dataclass(frozen=True, slots=True)
class NoSignal:
    """Why Prometheus says nothing of a ModelDeployment."""

    reason: Literal["PrometheusNotConfigured", "MetricsUnavailable", "InsufficientTraffic"]
    message: str


NOT_CONFIGURED = NoSignal("PrometheusNotConfigured", "the operator's setting HOLDFAST_PROMETHEUS_URL is empty")

SCALED_TO_ZERO = NoSignal(
    "InsufficientTraffic", "serving.replicas is 0, as asked: there are no pods to tell of requests"
)

Answer = SloSignal | NoSignal | None
"""None: nobody has been asked yet."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """How the objectives are kept.

    Attributes:
        fast, slow: the objectives' pairs of windows that burn, by the objective.
        budgets: whole percents left of the error budgets, by the objective.
        enough: requests without which one failure would spend a whole budget, where the period has fewer; else 0.
    """

    fast: tuple[tuple[Objective, Burn], ...]
    slow: tuple[tuple[Objective, Burn], ...]
    budgets: Mapping[str, int]
    enough: int

    @property
    def reason(self) -> str:
        if self.fast:
            return "FastBurn"
        if self.slow:
            return "SlowBurn"
        if self.enough:
            return "InsufficientTraffic"
        return "BudgetSpent" if any(left <= 0 for left in self.budgets.values()) else "WithinBudget"

    @property
    def said(self) -> tuple[str, Mapping[str, int]]:
        """What a status shows of it: verdicts of which this is equal need no pass."""
        return self.reason, self.budgets


def judged(wanted: Objectives, counts: Counts) -> Verdict:
    """How the objectives are kept by the service, or by one revision."""
    fast: list[tuple[Objective, Burn]] = []
    slow: list[tuple[Objective, Burn]] = []
    budgets: dict[str, int] = {}
    enough = 0
    for objective, windows in _pairs(wanted, counts):
        for burn in burns(windows, objective.allowed, wanted.window_days):
            if burn.fires:
                (fast if burn.pair.fast else slow).append((objective, burn))
        period = windows.get(wanted.period, NOTHING)
        if period.total * objective.allowed < 1:
            enough = max(enough, math.ceil(1 / objective.allowed))
        if period.total >= 1:
            left = 100 * budget_left(period, objective.allowed)
            budgets[objective.name] = max(-MAX_PERCENT, min(100, int(left // 1)))
    return Verdict(tuple(fast), tuple(slow), budgets, enough)


def condition(wanted: Objectives, answer: Answer, status: Mapping[str, Any], generation: int) -> Condition:
    """SLOHealthy. While it stays as it was, so does its message: numbers of every minute are metrics.

    status: as it was last written.
    """
    before = conditions.find(status, SLO_HEALTHY)
    new = _condition(wanted, answer, before)
    if before and (before["status"], before["reason"], before["observedGeneration"]) == (
        new.status, new.reason, generation,
    ):  # fmt: skip
        return Condition(SLO_HEALTHY, new.status, new.reason, before["message"])
    return new


def budgets(wanted: Objectives, answer: Answer, status: Mapping[str, Any]) -> dict[str, int]:
    """`status.slo`; without an answer what it was.

    Prometheus is asked about the period once a minute at most, so that is how often it changes.
    """
    if not isinstance(answer, SloSignal):
        return dict(status.get("slo") or {})
    left = judged(wanted, answer.service).budgets
    return {f"{name}BudgetPercent": percent for name, percent in left.items()}


def _condition(wanted: Objectives, answer: Answer, before: Mapping[str, Any] | None) -> Condition:
    if answer is None:
        if before:
            return Condition(SLO_HEALTHY, before["status"], before["reason"], before["message"])
        return Condition(SLO_HEALTHY, "Unknown", "MetricsUnavailable", "Prometheus has not been asked yet")
    if isinstance(answer, NoSignal):
        return Condition(SLO_HEALTHY, "Unknown", answer.reason, answer.message)
    verdict = judged(wanted, answer.service)
    days = wanted.window_days
    match verdict.reason:
        case "WithinBudget":
            return Condition(SLO_HEALTHY, "True", "WithinBudget", f"no alarm, and error budget is left of {days} days")
        case "BudgetSpent":
            spent = " and ".join(name for name, percent in verdict.budgets.items() if percent <= 0)
            return Condition(SLO_HEALTHY, "False", "BudgetSpent", f"no error budget is left of {days} days for {spent}")
        case "InsufficientTraffic":
            message = f"one failure would spend the budget: fewer than {verdict.enough:,} requests in {days} days"
            return Condition(SLO_HEALTHY, "Unknown", "InsufficientTraffic", message)
    words = "; ".join(f"{each.name}: {_words(each, burn)}" for each, burn in verdict.fast or verdict.slow)
    return Condition(SLO_HEALTHY, "False", verdict.reason, words)


def _pairs(wanted: Objectives, counts: Counts) -> Iterable[tuple[Objective, Mapping[int, Ratio]]]:
    if wanted.availability:
        yield wanted.availability, counts.availability
    if wanted.latency:
        yield wanted.latency, counts.latency


def _words(objective: Objective, burn: Burn) -> str:
    pair, allowed = burn.pair, objective.allowed
    return (
        f"{_percent(burn.long * allowed)} bad in {span(pair.long)}, {_percent(burn.short * allowed)} in "
        f"{span(pair.short)}; allowed {_percent(allowed)}, alarm above {burn.factor:.3g} times that"
    )


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _allowed(percent: str) -> float:
    return float((100 - Decimal(percent)) / 100)
