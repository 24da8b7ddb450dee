"""Do the rows that a model sees still spread over the bins of its reference? Decided from counts of windows.

A window is beyond when its population stability index passes the limit of `divergence.critical`: what that many rows,
and that many rows of reference, exceed with probability alpha if the true index is just tolerated. Four things make
false alarms of live traffic that this law knows nothing of:

* Rows come together. The rows of one session are alike, and 10 of them may tell as much as one. The design effect (Rao
  and Scott, 1981) says how many rows count as one. It is taken from how much the shares of neighbouring small
  intervals differ: what the law makes of independent rows is 1. Neighbours, so that neither a daily cycle nor a drift,
  which are between intervals that are far apart, is called noise.
* Days and weeks have cycles. A window that is like the one a day or a week before is no drift, if all that was seen
  since then, a whole cycle, is as the reference. A drift that has come to stay is in that whole, too.
* One looks again and again, at many features. Alpha is shared out among all of them and the windows of a year, and two
  windows of three have to be beyond.
* A producer breaks. Values that are suddenly missing, or that were never seen, are a fault and no drift: a window with
  such a fault tells nothing about its feature.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from statistics import NormalDist

from holdfast.stats import divergence

ENOUGH_ROWS = 500
"""Rows that a window must have to tell anything, and"""
ENOUGH_EFFECTIVE = float(divergence.ENOUGH)
"""so many that count as one."""
ENOUGH_REFERENCE = 1000
"""Held-out rows without which nobody should act: of smaller ones too many are no picture of anything."""
WINDOWS, CONFIRMED = 3, 2
"""So many of the last windows have to be beyond."""
CLEAR = 0.8
"""What was beyond is no more when it is below so much of the limit."""
EXPLODED = 0.05
"""A share of missing or unseen values that has grown by less is no fault."""
FAULTS = ("missing", "other")
"""Bins whose growth is a fault."""
YEAR = 365.25 * 86_400
_EXPECTED = 5.0
"""A bin with fewer rows tells nothing about how they come together."""
_MOST_ALPHA = 0.001

Counts = Mapping[str, float]
"""Rows by bin. No whole numbers: Prometheus extrapolates to a window's ends."""


@dataclass(frozen=True, slots=True)
class Reference:
    """Shares of the held-out rows by bin, and how many rows these were."""

    shares: Counts
    rows: float

    @property
    def counts(self) -> Counts:
        return {name: share * self.rows for name, share in self.shares.items()}


@dataclass(frozen=True, slots=True)
class Season:
    """What was seen a cycle before."""

    windows: tuple[Counts, ...]
    """The same ones, the newest first."""
    whole: Counts
    """From then till now: one whole cycle."""


@dataclass(frozen=True, slots=True)
class Series:
    """All that is counted of one feature, of predictions or of confidence."""

    reference: Reference
    windows: tuple[Counts, ...]
    """The newest first."""
    seasons: tuple[Season, ...] = ()
    effect: float = 1.0
    """So many rows count as one."""
    excess: Counts = field(default_factory=dict)
    """Of a feature, by bin: how much more often held-out predictions were right than others of their confidence."""


@dataclass(frozen=True, slots=True)
class Shift:
    """One window beside the reference."""

    psi: float
    limit: float
    """Infinite when there are not enough rows."""
    rows: float
    enough: bool
    seasonal: bool = False
    """It is beyond, and so it was a cycle before."""
    fault: str = ""
    """The bin, of FAULTS, that has exploded; empty when none has."""

    def beyond(self, factor: float = 1.0) -> bool:
        """Whether it is evidence of drift, at so much of the limit."""
        return self.enough and self.psi > factor * self.limit and not self.seasonal and not self.fault


@dataclass(frozen=True, slots=True)
class Finding:
    """What the last windows say of one series."""

    shifts: tuple[Shift, ...]
    """The newest first."""
    reference_rows: float
    effect: float

    @property
    def newest(self) -> Shift:
        return self.shifts[0]

    def drifts(self, *, drifted: bool = False) -> bool:
        """Whether enough of the windows are beyond; `drifted`: whether it was said so before."""
        return self.beyond(drifted=drifted) >= CONFIRMED

    def beyond(self, *, drifted: bool = False) -> int:
        """How many of the windows are."""
        return sum(shift.beyond(CLEAR if drifted else 1.0) for shift in self.shifts)


def alpha(window_seconds: float, series: int) -> float:
    """Probability of a false alarm in one window of one series, for one of all in a year."""
    return min(_MOST_ALPHA, window_seconds / YEAR / max(series, 1))


def found(series: Series, tolerated: float, alpha: float) -> Finding:
    """What is to be said of one series.

    Args:
        tolerated: true PSI that nobody cares about.
        alpha: probability with which a window may be called beyond that is not.
    """
    shifts = tuple(
        _shift(series, counts, list(_before(series, index)), tolerated, alpha)
        for index, counts in enumerate(series.windows)
    )
    return Finding(shifts, series.reference.rows, series.effect)


def faults(series: Series, alpha: float) -> tuple[str, ...]:
    """By window, the bin, of FAULTS, that has exploded; empty where none has."""
    return tuple(_fault(series, counts, alpha) for counts in series.windows)


def design_effect(counts: Counts, spread: Counts) -> float:
    """How many rows count as one.

    Args:
        counts: rows of the window by bin.
        spread: by bin, the mean over pairs of neighbouring intervals of (r - r')² / (1/n + 1/n'), where r is the bin's
            share of an interval's n rows. Of independent rows it is p (1 - p).
    """
    rows = sum(counts.values())
    shares = {name: count / rows for name, count in counts.items() if count >= _EXPECTED and name in spread}
    expected = sum(1 - share for share in shares.values())
    if expected <= 0:
        return 1.0
    return max(1.0, sum(spread[name] / share for name, share in shares.items()) / expected)


def _before(series: Series, index: int) -> Iterator[tuple[Counts, Counts]]:
    """(the same window, the whole cycle) by season."""
    for season in series.seasons:
        if index < len(season.windows):
            yield season.windows[index], season.whole


def _shift(
    series: Series, counts: Counts, seasons: list[tuple[Counts, Counts]], tolerated: float, alpha: float
) -> Shift:
    reference, effect = series.reference, series.effect
    rows = sum(counts.values())
    enough = _is_enough(rows, effect) and reference.rows > 0
    index, limit = _compared(reference.counts, reference.rows, counts, rows / effect, tolerated, alpha)
    if not enough:
        return Shift(index, math.inf, rows, enough=False)
    fault = _fault(series, counts, alpha)
    # Already that which would keep an alarm going has to be explained.
    seasonal = index > CLEAR * limit and any(
        _explains(series, counts, same, whole, tolerated, alpha) for same, whole in seasons
    )
    return Shift(index, limit, rows, enough, seasonal, fault)


def _explains(series: Series, counts: Counts, same: Counts, whole: Counts, tolerated: float, alpha: float) -> bool:
    """Whether this is what a cycle looks like: as the time before, in a cycle that is as the reference."""
    effect, reference = series.effect, series.reference
    rows, before, all_rows = sum(counts.values()), sum(same.values()), sum(whole.values())
    if not _is_enough(before, effect) or not _is_enough(all_rows, effect):
        return False
    index, limit = _compared(same, before / effect, counts, rows / effect, tolerated, alpha)
    if index > limit:
        return False
    index, limit = _compared(reference.counts, reference.rows, whole, all_rows / effect, tolerated, alpha)
    return index <= limit


def _is_enough(rows: float, effect: float) -> bool:
    return rows >= ENOUGH_ROWS and rows / effect >= ENOUGH_EFFECTIVE


def _compared(
    one: Counts, one_rows: float, other: Counts, other_rows: float, tolerated: float, alpha: float
) -> tuple[float, float]:
    """(PSI, its limit). Rows: each counted as one."""
    names = sorted(name for name in one.keys() | other.keys() if one.get(name) or other.get(name))
    index = divergence.psi([one.get(name, 0.0) for name in names], [other.get(name, 0.0) for name in names])
    if len(names) < 2 or one_rows <= 0 or other_rows <= 0:
        return index, math.inf
    return index, _limit(_floor(one_rows), _floor(other_rows), len(names), tolerated, alpha)


@lru_cache(maxsize=8192)
def _limit(n: float, m: float, bins: int, tolerated: float, alpha: float) -> float:
    return divergence.critical(n, m, bins, tolerated, alpha)


def _floor(rows: float) -> float:
    """Two digits are enough, and few numbers of rows have few limits."""
    unit = 10.0 ** (math.floor(math.log10(rows)) - 1)
    return max(math.floor(rows / unit) * unit, 1.0)


def _fault(series: Series, counts: Counts, alpha: float) -> str:
    reference, effect = series.reference, series.effect
    if not _is_enough(sum(counts.values()), effect) or reference.rows <= 0:
        return ""
    return next((name for name in FAULTS if _has_exploded(reference, counts, name, effect, alpha)), "")


def _has_exploded(reference: Reference, counts: Counts, name: str, effect: float, alpha: float) -> bool:
    """Whether a bin has grown by more than EXPLODED, beyond chance."""
    rows = sum(counts.values())
    now = (counts.get(name, 0.0) + 0.5) / (rows + 1)
    then = (reference.shares.get(name, 0.0) * reference.rows + 0.5) / (reference.rows + 1)
    variance = effect * now * (1 - now) / rows + then * (1 - then) / reference.rows
    return now - then > EXPLODED + _deviations(alpha) * math.sqrt(variance)


@lru_cache(maxsize=64)
def _deviations(alpha: float) -> float:
    return NormalDist().inv_cdf(1 - alpha)
