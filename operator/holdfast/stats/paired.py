"""Do two models answer the same requests differently? Evidence that may be looked at as often as one likes.

Nobody knows which of the two is right; only a gross difference is worth stopping for. Two models that are each right on
seven rows of eight disagree on a quarter of all rows at most; so this asks whether they disagree on more than that. The
e-value is that of a uniform bet on all larger shares,

    integral over p > p0 of p^d (1 - p)^(n - d) dp / (1 - p0)  over  p0^d (1 - p0)^(n - d),

with d disagreeing rows of n: a test martingale at p0 and a supermartingale below, so that it ever reaches 1/alpha with
probability alpha at most (the method of mixtures: Robbins 1970; Howard et al., arXiv:1810.08240). The totals are enough
to know it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from holdfast.stats import special

TOLERATED = 0.25
ALPHA = 0.001


@dataclass(frozen=True, slots=True)
class Comparison:
    """Rows that both models have answered. Raises ValueError if the counts cannot be."""

    rows: int
    disagreeing: int

    def __post_init__(self) -> None:
        if not 0 <= self.disagreeing <= self.rows:
            raise ValueError(f"{self.disagreeing} disagreeing rows of {self.rows}")

    @property
    def rate(self) -> float:
        return self.disagreeing / self.rows if self.rows else 0.0

    def log_e(self, tolerated: float = TOLERATED, effect: float = 1) -> float:
        """Logarithm of the e-value against "they disagree on no more than is tolerated".

        Args:
            tolerated: share of rows.
            effect: how many rows count as one, since rows of one request are alike.
        """
        different, same = self.disagreeing / effect, (self.rows - self.disagreeing) / effect
        above = special.beta(1 - tolerated, same + 1, different + 1)
        if not above:  # next to nothing disagrees
            return -math.inf
        bet = special.log_beta(different + 1, same + 1) + math.log(above) - math.log1p(-tolerated)
        return bet - different * math.log(tolerated) - same * math.log1p(-tolerated)

    def exceeds(self, tolerated: float = TOLERATED, effect: float = 1) -> bool:
        """Whether they disagree on more than is tolerated: wrongly, ever, with probability 1/1000 at most."""
        return self.log_e(tolerated, effect) >= -math.log(ALPHA)
