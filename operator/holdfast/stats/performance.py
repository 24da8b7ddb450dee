"""How accurate is a classifier in use? Estimated from its own confidence, and measured where labels come back.

Estimated: of held-out rows it is known how many predictions of each bin of confidence were right, so live rows by bin
say how many are to be expected now (confidence-based performance estimation, NannyML's CBPE, on bins). It holds as far
as the model is right as often as it was at the same confidence: where inputs move (covariate shift), but not where
their meaning does (concept drift). Only labels tell of that.

Where one feature has moved, rows of the same confidence may well be right more or less often than they were: the model
has learned too little of what that feature says. How much so was seen of the held-out rows, by the feature's bins, and
is added (control by residuals, as of doubly robust estimates), unless rows have moved to where hardly any held-out ones
were. Of one feature, the one that has moved most: what several say of the same rows cannot be added.

Held-out rows are few in some bins, so what is known of a bin is not its own share of right predictions but the best
one that never falls with confidence (isotonic regression): bins that contradict each other share what they know.

What is decided about is the drop from the held-out accuracy. Both are made of the same held-out rows, so their errors
are taken together: of a model whose rows have not moved at all the drop is 0, whatever its accuracy is.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from holdfast.stats.drift import ENOUGH_ROWS, Counts, Reference, Series

ENOUGH_LABELS = 100
"""Labels, each counted as one, without which nothing is measured."""
DEVIATIONS = 3.0
"""Standard errors by which a drop has to be certain."""


@dataclass(frozen=True, slots=True)
class Quality(ABC):
    """Of one window, or of some.

    Attributes:
        value: what was found.
        baseline: the same of the held-out rows.
        error: standard error of the drop from the one to the other.
        rows: rows, or labels, that it is from.
    """

    value: float
    baseline: float
    error: float
    rows: float

    @property
    @abstractmethod
    def drop(self) -> float:
        """By how much it is worse."""

    def fell(self, tolerated: float) -> bool:
        """Whether it is certainly worse by more than is tolerated."""
        return self.drop - DEVIATIONS * self.error > tolerated


@dataclass(frozen=True, slots=True)
class Accuracy(Quality):
    """Share of right predictions."""

    @property
    def drop(self) -> float:
        return self.baseline - self.value

    def contradicts(self, other: Accuracy) -> bool:
        """Whether it is certainly higher than the other one."""
        return self.value - other.value > DEVIATIONS * math.hypot(self.error, other.error)


@dataclass(slots=True)
class _Block:
    """Bins of confidence, one beside the other, that share what they know."""

    names: list[str]
    right: float
    rows: float

    @property
    def accuracy(self) -> float:
        return self.right / self.rows


@dataclass(frozen=True, slots=True)
class Calibration:
    """How often a model was right by its confidence, on held-out rows."""

    reference: Reference
    blocks: Mapping[str, tuple[float, float]]
    """By bin: the accuracy of its block, and the held-out rows of that."""
    shares: Mapping[str, float]
    """Of the held-out rows that are known of, by bin."""

    @property
    def baseline(self) -> float:
        """Accuracy of the held-out rows."""
        return sum(self.shares[name] * self.blocks[name][0] for name in self.shares)


def calibrated(reference: Reference, accuracy: Counts) -> Calibration | None:
    """None without any held-out row.

    Args:
        reference: of confidence. Bins of numbers are called 0, 1, …, from the lowest on.
        accuracy: share of right predictions by bin; absent where there were no rows.
    """
    bins = sorted((name for name in reference.shares if name.isdigit()), key=int)
    rows = {name: reference.shares[name] * reference.rows for name in bins}
    known = [name for name in bins if rows[name] > 0 and name in accuracy]
    if not known:
        return None
    blocks = _isotonic([_Block([name], accuracy[name] * rows[name], rows[name]) for name in known])
    of = {name: (block.accuracy, block.rows) for block in blocks for name in block.names}
    total = sum(rows[name] for name in known)
    found = {name: of[name] if name in of else _between(name, known, of) for name in bins}
    return Calibration(reference, found, {name: rows[name] / total for name in known})


def estimated(
    calibration: Calibration, counts: Counts, effect: float, moved: tuple[Series, Counts] | None = None
) -> Accuracy | None:
    """The accuracy that these rows, by bin of confidence, let expect; None without any.

    Args:
        effect: how many rows count as one.
        moved: the feature that has moved most, if one has, and these rows by its bins.
    """
    rows = sum(counts.get(name, 0.0) for name in calibration.blocks)
    if rows <= 0:
        return None
    live = {name: counts.get(name, 0.0) / rows for name in calibration.blocks}
    value, of_live = _moments(live, calibration)
    baseline, of_held_out = _moments(calibration.shares, calibration)
    grown: dict[tuple[float, float], float] = {}
    for name, block in calibration.blocks.items():
        grown[block] = grown.get(block, 0.0) + live[name] - calibration.shares.get(name, 0.0)
    variance = sum(by**2 * _binomial(*block) for block, by in grown.items())
    variance += effect * of_live / rows + of_held_out / calibration.reference.rows
    excess, known_from = _excess(*moved) if moved else (0.0, math.inf)
    if known_from >= ENOUGH_ROWS:
        value = min(max(value + excess, 0.0), 1.0)
        variance += max(value * (1 - value), baseline * (1 - baseline)) / known_from
    return Accuracy(value, baseline, math.sqrt(variance), rows)


def measured(calibration: Calibration, right: float, wrong: float, effect: float) -> Accuracy | None:
    """The accuracy by labels; None where there are too few.

    Args:
        effect: how many rows count as one.
    """
    labels = right + wrong
    if labels / effect < ENOUGH_LABELS:
        return None
    baseline = calibration.baseline
    variance = effect * _binomial(right / labels, labels) + _binomial(baseline, calibration.reference.rows)
    return Accuracy(right / labels, baseline, math.sqrt(variance), labels)


def _excess(feature: Series, counts: Counts) -> tuple[float, float]:
    """(what to add to the accuracy, of how many held-out rows' mean it is as certain)."""
    reference, rows = feature.reference, sum(counts.values())
    excess = variance = 0.0
    for name, share in reference.shares.items():
        by = counts.get(name, 0.0) / rows - share
        excess += by * feature.excess.get(name, 0.0)
        variance += by**2 / max(share * reference.rows, 1.0)
    return excess, 1 / variance if variance else math.inf


def _isotonic(blocks: Sequence[_Block]) -> list[_Block]:
    """Pool neighbours until accuracy rises from block to block."""
    pooled: list[_Block] = []
    for block in blocks:
        pooled.append(block)
        while len(pooled) > 1 and pooled[-2].accuracy >= pooled[-1].accuracy:
            last = pooled.pop()
            before = pooled.pop()
            pooled.append(_Block(before.names + last.names, before.right + last.right, before.rows + last.rows))
    return pooled


def _between(name: str, known: Sequence[str], of: Mapping[str, tuple[float, float]]) -> tuple[float, float]:
    """What neighbours say of a bin of which nothing is known; one row's worth."""
    lower = [each for each in known if int(each) < int(name)]
    higher = [each for each in known if int(each) > int(name)]
    if lower and higher:
        return (of[lower[-1]][0] + of[higher[0]][0]) / 2, 1.0
    return of[lower[-1] if lower else higher[0]][0], 1.0


def _moments(shares: Mapping[str, float], calibration: Calibration) -> tuple[float, float]:
    """Mean and variance of the accuracy of a row's bin."""
    mean = sum(share * calibration.blocks[name][0] for name, share in shares.items())
    return mean, sum(share * (calibration.blocks[name][0] - mean) ** 2 for name, share in shares.items())


def _binomial(share: float, rows: float) -> float:
    """Variance of a share of so many rows; of a share of 0 or 1, too, of which nobody can be certain."""
    smoothed = (share * rows + 0.5) / (rows + 1)
    return smoothed * (1 - smoothed) / rows
