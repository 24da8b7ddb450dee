"""How large are the errors of a model that predicts numbers? Measured where the true ones come back.

Absolute errors are counted in bins, and an error counts what the held-out ones of its bin are on average. So the mean
of the held-out rows is exactly their mean absolute error, live rows that err as they did have the same mean, and one
made-up number counts no more than the largest held-out errors did. Compared are the means of two samples of scores of
ordered bins (Mantel, 1963), each with its own variance (Welch, 1947), where so many rows count as one (Rao and Scott,
1981). Of errors that grow between two edges of a bin a little is not seen: a bin ends a fifth above where it begins.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from holdfast.stats.drift import Counts, Reference
from holdfast.stats.performance import ENOUGH_LABELS, Quality


@dataclass(frozen=True, slots=True)
class MeanError(Quality):
    """Mean absolute error."""

    @property
    def drop(self) -> float:
        """Growth, as a share of the held-out one."""
        return self.value / self.baseline - 1


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Errors of the held-out rows."""

    reference: Reference
    means: Counts
    """By bin, what an error counts."""
    mean: float
    variance: float


def held_out(reference: Reference, means: Counts) -> HeldOut | None:
    """None without any error.

    Args:
        reference: of absolute errors.
        means: by bin, the mean absolute error.
    """
    mean, variance = _moments(reference.counts, means)
    return HeldOut(reference, means, mean, variance) if mean > 0 else None


def measured(known: HeldOut, counts: Counts, effect: float) -> MeanError | None:
    """The mean absolute error of rows whose true numbers have come back; None where these are too few.

    Args:
        counts: of these rows, by bin of their errors.
        effect: how many rows count as one.
    """
    labels = sum(counts.get(name, 0.0) for name in known.means)
    if labels / effect < ENOUGH_LABELS:
        return None
    value, variance = _moments(counts, known.means)
    growth = value / known.mean
    relative = effect * variance / labels + growth**2 * known.variance / known.reference.rows
    return MeanError(value, known.mean, math.sqrt(relative) / known.mean, labels)


def _moments(counts: Counts, means: Counts) -> tuple[float, float]:
    """Mean and variance of what errors count."""
    rows = sum(counts.get(name, 0.0) for name in means)
    if rows <= 0:
        return 0.0, 0.0
    mean = sum(counts.get(name, 0.0) * each for name, each in means.items()) / rows
    return mean, sum(counts.get(name, 0.0) * (each - mean) ** 2 for name, each in means.items()) / rows
