"""How much longer one model takes than another, on a machine that has other things to do as well.

Both are asked in turns, row by row, so that whatever slows this pod down slows both. The 95th percentiles of each
round are compared with each other, and of the rounds the median counts: a disturbance of some rounds changes nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

ROUNDS = 21
CALLS = 40
SECONDS = 30.0
"""When this much is spent, no further round begins; 3 there are at least."""

WARM_UP = 20

Call = Callable[[int], object]
"""Ask a model for one row; the number says which."""


@dataclass(frozen=True, slots=True)
class Latency:
    """Seconds that the champion's 95th percentile is, and how many times that is the challenger's."""

    champion: float
    ratio: float

    @property
    def challenger(self) -> float:
        return self.champion * self.ratio


def compare(champion: Call, challenger: Call, *, seconds: float = SECONDS) -> Latency:
    """Take the time of both."""
    began = time.monotonic()
    for number in range(WARM_UP):
        champion(number)
        challenger(number)
        if time.monotonic() - began > seconds / 10:
            break
    percentiles: list[tuple[float, float]] = []
    for round_ in range(ROUNDS):
        percentiles.append(_round(champion, challenger, round_ * CALLS))
        if round_ >= 2 and time.monotonic() - began > seconds:
            break
    ratio = median(theirs / ours for ours, theirs in percentiles)
    return Latency(median(ours for ours, _ in percentiles), ratio)


def _round(champion: Call, challenger: Call, first: int) -> tuple[float, float]:
    ours: list[float] = []
    theirs: list[float] = []
    for number in range(first, first + CALLS):
        # Whoever comes second may find the caches warm: they take turns.
        order = ((champion, ours), (challenger, theirs))
        for call, times in order if number % 2 else reversed(order):
            began = time.perf_counter()
            call(number)
            times.append(time.perf_counter() - began)
    return _percentile(ours), _percentile(theirs)


def _percentile(times: list[float]) -> float:
    return sorted(times)[int(0.95 * (len(times) - 1))]
