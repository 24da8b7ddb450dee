"""Two models on the same rows: how much better or worse, and what chance alone could make of it.

Labels: only rows on which exactly one of the two is right tell them apart. Whether one is better is asked by McNemar's
test in its exact form (Psychometrika 1947; the binomial of Edwards 1948), whether a loss can be ruled out by Tango's
score test (Statistics in Medicine 1998), which holds its level for few rows and rare differences too. Numbers: both
are asked by the t-test of paired squared errors, which is the test of Diebold and Mariano (1995) for rows without
an order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt
from scipy import stats

from holdfast_training.spec import Task

LEVEL = 0.05
"""Of every test: how often chance may be taken for a difference."""

METRICS: Mapping[Task, str] = {"Classification": "Accuracy", "Regression": "RMSE"}

Mask = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]


class Paired(Protocol):
    """Champion and challenger on some rows. A loss is positive when the challenger is worse."""

    @property
    def metric(self) -> str: ...
    @property
    def rows(self) -> int: ...
    @property
    def champion(self) -> float: ...
    @property
    def challenger(self) -> float: ...
    @property
    def loss(self) -> float: ...
    def take(self, rows: Mask) -> Self: ...
    def limit(self, loss: float) -> float:
        """The metric of a challenger that has lost just so much."""
        ...

    def p_loss(self, loss: float) -> float:
        """How likely rows like these are, at most, when it loses so much or more."""
        ...

    def p_better(self) -> float:
        """How likely rows like these are, at most, when it is no better."""
        ...

    def p_worse(self) -> float:
        """How likely rows like these are, at most, when it is no worse."""
        ...


def within(pair: Paired, loss: float) -> bool:
    """Whether the challenger lost no more than that on these rows."""
    return pair.loss <= loss + 1e-9


def largest_loss(pair: Paired) -> float:
    """The largest loss that these rows do not rule out at `LEVEL`."""
    return _last(lambda loss: pair.p_loss(loss) >= LEVEL, -1.0, 1.0 if pair.metric == "Accuracy" else 10.0)


@dataclass(frozen=True, slots=True)
class Labels:
    """Which rows each of the two got right. The metric is accuracy, a loss is a difference: 0.01 is one point."""

    champion_right: Mask
    challenger_right: Mask

    @property
    def metric(self) -> str:
        return METRICS["Classification"]

    @property
    def rows(self) -> int:
        return len(self.champion_right)

    @property
    def champion(self) -> float:
        return float(self.champion_right.mean())

    @property
    def challenger(self) -> float:
        return float(self.challenger_right.mean())

    @property
    def loss(self) -> float:
        return (self.lost - self.won) / self.rows

    @property
    def won(self) -> int:
        """Rows that only the challenger got right."""
        return int((self.challenger_right & ~self.champion_right).sum())

    @property
    def lost(self) -> int:
        """Rows that only the champion got right."""
        return int((self.champion_right & ~self.challenger_right).sum())

    def take(self, rows: Mask) -> Labels:
        return Labels(self.champion_right[rows], self.challenger_right[rows])

    def limit(self, loss: float) -> float:
        return self.champion - loss

    def p_loss(self, loss: float) -> float:
        n, won, lost, difference = self.rows, self.won, self.lost, -loss
        if not -1 < difference < 1:
            return 0.0 if difference <= -1 else 1.0
        # The likeliest share of rows lost, were the difference exactly this.
        a, b = 2 * n, -(won + lost + (won - lost - 2 * n) * difference)
        c = -lost * difference * (1 - difference)
        share = (math.sqrt(max(b * b - 4 * a * c, 0.0)) - b) / (2 * a)
        variance = n * (2 * share + difference - difference * difference)
        excess = won - lost - n * difference
        if variance <= 0:
            return 0.0 if excess > 0 else 1.0
        return math.erfc(excess / math.sqrt(2 * variance)) / 2

    def p_better(self) -> float:
        return _binomial(self.won, self.lost)

    def p_worse(self) -> float:
        return _binomial(self.lost, self.won)


@dataclass(frozen=True, slots=True)
class Numbers:
    """Squared errors of both. The metric is RMSE, a loss is a share of the champion's: 0.01 is 1 % more."""

    champion_errors: Floats
    challenger_errors: Floats

    @property
    def metric(self) -> str:
        return METRICS["Regression"]

    @property
    def rows(self) -> int:
        return len(self.champion_errors)

    @property
    def champion(self) -> float:
        return math.sqrt(self.champion_errors.mean())

    @property
    def challenger(self) -> float:
        return math.sqrt(self.challenger_errors.mean())

    @property
    def loss(self) -> float:
        if not self.champion:
            return math.inf if self.challenger else 0.0
        return self.challenger / self.champion - 1

    def take(self, rows: Mask) -> Numbers:
        return Numbers(self.champion_errors[rows], self.challenger_errors[rows])

    def limit(self, loss: float) -> float:
        return self.champion * (1 + loss)

    def p_loss(self, loss: float) -> float:
        if not self.challenger_errors.any():
            return 0.0
        return _p_smaller(self.challenger_errors - (1 + loss) ** 2 * self.champion_errors)

    def p_better(self) -> float:
        return _p_smaller(self.challenger_errors - self.champion_errors)

    def p_worse(self) -> float:
        return _p_smaller(self.champion_errors - self.challenger_errors)


def labels(truth: npt.NDArray[Any], champion: npt.NDArray[Any], challenger: npt.NDArray[Any]) -> Labels:
    """The pair of two models' labels."""
    return Labels(np.asarray(champion == truth, bool), np.asarray(challenger == truth, bool))


def numbers(truth: Floats, champion: Floats, challenger: Floats) -> Numbers:
    """The pair of two models' predictions."""
    return Numbers((champion - truth) ** 2, (challenger - truth) ** 2)


def _binomial(more: int, less: int) -> float:
    """How likely so many or more of all are, when both sides are equally likely."""
    return float(stats.binom.sf(more - 1, more + less, 0.5))


def _p_smaller(differences: Floats) -> float:
    """One-sided, for a mean of zero or more."""
    count, mean, deviation = len(differences), float(differences.mean()), float(differences.std(ddof=1))
    if deviation == 0:
        return 0.0 if mean < 0 else 1.0
    return float(stats.t.cdf(mean / (deviation / math.sqrt(count)), count - 1))


def _last(holds: Callable[[float], bool], low: float, high: float) -> float:
    """The largest number for which this holds, when it holds up to some number and not from there on."""
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return high
