"""How fast a service spends its error budget, over several windows at once.

The budget is the share of bad requests that the objective allows. A burn rate of 1 spends it exactly by the end of the
period; one of 14.4 spends 2 % of 30 days' in an hour. A pair of windows fires when both burn faster than its factor:
the long one says that it matters, the short one that it has not ended (Beyer et al., The Site Reliability Workbook,
chapter 5). The pairs and shares are the workbook's; a shorter period has smaller factors, but none below 1, since who
burns slower than that has budget left at the end.

With little traffic one bad request is a high rate. So one is never an alarm, and beside that one the long window must
have more than chance makes of a rate as high as the factor allows, but once in a thousand (Clopper and Pearson's
bound, one-sided).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from holdfast.stats import special

HOUR, DAY = 3_600, 86_400

CHANCE = 0.001
"""An alarm is looked for every few seconds, for years."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two windows, in seconds, and the share of the budget that the long one may spend."""

    short: int
    long: int
    share: float
    fast: bool
    """Somebody has to act now; the others can wait for the morning."""

    def factor(self, window_days: int) -> float:
        """The burn rate that it fires above, for a period of so many days."""
        return max(1.0, self.share * window_days * DAY / self.long)


PAIRS = (
    Pair(300, HOUR, 0.02, fast=True),
    Pair(1_800, 6 * HOUR, 0.05, fast=True),
    Pair(2 * HOUR, DAY, 0.1, fast=False),
    Pair(6 * HOUR, 3 * DAY, 0.1, fast=False),
)


@dataclass(frozen=True, slots=True)
class Ratio:
    """Requests of one window. No whole numbers: Prometheus extrapolates to the window's ends."""

    bad: float
    total: float

    @property
    def rate(self) -> float:
        """Share of bad ones; 0 where there are none at all."""
        return self.bad / self.total if self.total > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Burn:
    """How fast both windows of a pair burn, and whether that is too fast."""

    pair: Pair
    factor: float
    short: float
    long: float
    certain: bool
    """The long window has more bad requests than one, and than chance makes of a rate as high as the factor."""

    @property
    def fires(self) -> bool:
        return self.certain and min(self.short, self.long) > self.factor


def burns(windows: Mapping[int, Ratio], allowed: float, window_days: int) -> tuple[Burn, ...]:
    """Of every pair whose windows are both known.

    Args:
        windows: by their seconds.
        allowed: share of requests that may be bad: 0.001 for an objective of 99.9 %.
        window_days: of the objective.
    """
    found = []
    for pair in PAIRS:
        if pair.short in windows and pair.long in windows:
            short, long, factor = windows[pair.short], windows[pair.long], pair.factor(window_days)
            certain = exceeds(long, factor * allowed)
            found.append(Burn(pair, factor, short.rate / allowed, long.rate / allowed, certain))
    return tuple(found)


def exceeds(ratio: Ratio, rate: float) -> bool:
    """Whether more are bad than one, and than chance makes of this rate."""
    bad, total = min(ratio.bad, ratio.total) - 1, ratio.total - 1
    return bad > 0 and bad > rate * total and special.binomial_tail(bad, total, rate) < CHANCE


def budget_left(period: Ratio, allowed: float) -> float:
    """Share of the period's budget that is left; below 0 when it is overspent."""
    return 1 - period.rate / allowed
