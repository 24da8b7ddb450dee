"""What the router of a pod says it has done: one look at both of its arms at one instant.

All counts are since the pod's process began, or since the first lease for its present target; only differences between
two looks mean anything, and only while `Report.instance` and `Report.target` stay what they were.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

Mode = Literal["share", "all", "shadow", "golden"]
"""Some requests go to the other revision; all do; it gets copies; it gets the pod's golden requests, once."""

_GOOD = ("ok", "client_error")


@dataclass(frozen=True, slots=True)
class Arm:
    """Requests that were drawn for one arm, in one phase."""

    drawn: int = 0
    outcomes: Mapping[str, int] = field(default_factory=dict)
    """Of those that have ended: ok, client_error, rejected, failed, timeout, connect, reset, invalid …"""
    durations: tuple[int, ...] = ()
    """Answered requests by time in the server that answered: up to each edge (not cumulative), and above the last."""
    predictions: Mapping[str, int] | None = None
    """Rows by bin of the pod's own profile; None without one."""

    @property
    def ended(self) -> int:
        """Requests that have an outcome."""
        return sum(self.outcomes.values())

    @property
    def failed(self) -> int:
        """Of them, those that count against their revision."""
        return self.ended - sum(self.outcomes.get(outcome, 0) for outcome in _GOOD)

    def slower_than(self, seconds: float, edges: Sequence[float]) -> int:
        """Answers that took longer. Between two edges: those that took longer than the next one."""
        return sum(self.durations[bisect_left(edges, seconds) + 1 :])


@dataclass(frozen=True, slots=True)
class LeaseState:
    """The lease that a pod follows."""

    sequence: int
    mode: Mode
    target: str
    """A revision."""
    weight: float
    seconds_left: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """Rows of copies that both revisions have answered."""

    rows: int = 0
    disagreeing: int = 0


@dataclass(frozen=True, slots=True)
class Golden:
    """The pod's golden requests as another revision answered them. Each is put once."""

    target: str
    asked: int
    answered: int
    failed: int
    """No answer, or none that fits the question."""
    disagreeing: int
    """Of `rows`, those that the target has answered in another way than this pod."""
    rows: int
    """In the answers."""
    done: bool
    """All of them have ended. A pod that keeps none is done with 0 asked."""


@dataclass(frozen=True, slots=True)
class Report:
    """A pod's router and what it has counted."""

    instance: str
    """Of one process: another one has begun to count again."""
    revision: str
    ready: bool
    signature: str | None
    """SHA-256 of names, datatypes and shapes of all inputs and outputs, in order; None until the model is loaded."""
    takes_leases: bool
    """Whether it has a key to check them with."""
    sequence: int
    """Of the last lease that it took; 0 before any."""
    lease: LeaseState | None
    target: str | None
    """The revision that was counted against, which outlasts the lease; None before any."""
    steady_local: Arm
    steady_target: Arm
    warming_local: Arm
    warming_target: Arm
    """What was drawn before the target had been ready for 30 s."""
    comparison: Comparison
    golden: Golden | None
    """Of the last target that was to be put to the test; None before any."""
    golden_kept: int
    """Golden requests that the pod has to put."""
    synthetic: int
    """Of the requests drawn, steady and warming, in both arms: golden requests of the pod's own."""
    in_flight_local: int
    oldest_local_seconds: float
    """Age of the oldest request in the pod's own model; 0 when there is none."""
    oldest_target_seconds: float
    """Age of the oldest request at the target, given up or not; 0 when there is none."""
    started_seconds: float
    """Age of the process."""
    edges: tuple[float, ...]
    """Of durations; seconds."""
