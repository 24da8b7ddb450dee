"""Rules that decide on what routers count: ours, for many rollouts at once, and those of others.

`Evidences` and `Bounds` are `holdfast.stats`' `Evidence` and `NonInferiority` with an entry per rollout; the bench and
a test replay blocks through both and compare.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import numpy as np
from bench.decisions.streams import Block, Counts
from numpy.typing import NDArray
from scipy import special

from holdfast.stats import eprocess, sequence

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

ALPHA, EXCESS = 0.001, 0.005


class Rule(ABC):
    """Says of each rollout, look by look, whether it would decide."""

    sees_warming = True
    """It counts what a candidate does while it warms up."""

    @abstractmethod
    def look(self, blocks: tuple[Block, ...]) -> Mask:
        """After one more look. The blocks of a look are of different pods."""


class Evidences(Rule):
    """`Evidence` and `is_worse`."""

    def __init__(self, rollouts: int, *, sees_warming: bool = False) -> None:
        self.sees_warming = sees_warming
        self._logs = np.tile(np.array(eprocess.Evidence.none().logs), (rollouts, 1))
        self._recent = _nothing(rollouts)

    @property
    def log_e(self) -> Floats:
        return _log_sum(self._logs)

    @property
    def excess(self) -> Floats:
        recent = self._recent
        return _rate(recent.x_treated, recent.n_treated) - _rate(recent.x_control, recent.n_control)

    def look(self, blocks: tuple[Block, ...]) -> Mask:
        for block in blocks:
            self._observe(block)
        return (self.log_e >= -math.log(ALPHA)) & (self.excess >= EXCESS)

    def _observe(self, block: Block) -> None:
        kept = self.log_e > 0
        before = self._recent
        self._recent = block + Block(
            before.n_control * kept, before.x_control * kept, before.n_treated * kept, before.x_treated * kept
        )
        bad = block.x_control + block.x_treated
        (told,) = np.nonzero((bad > 0) & (block.n_control > 0) & (block.n_treated > 0))
        if not told.size:
            return
        logs = _staked(self._logs[told], 1 / len(eprocess.ODDS))
        n_control, n_treated, x_treated, bad = (
            counts[told] for counts in (block.n_control, block.n_treated, block.x_treated, bad)
        )
        fewest = np.maximum(0, bad - n_control)
        most = np.minimum(bad, n_treated)
        steps = np.arange(int((most - fewest).max()))
        j = fewest[:, None] + steps
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios = (n_treated[:, None] - j) * (bad[:, None] - j) / ((j + 1) * ((n_control - bad)[:, None] + j + 1))
            ratios = np.where(j < most[:, None], np.log(ratios), -np.inf)
        weights = np.concatenate([np.zeros((told.size, 1)), np.cumsum(ratios, axis=1)], axis=1)
        places = np.arange(weights.shape[1])
        total = _log_sum(weights)
        for bet, odds in enumerate(eprocess.ODDS):
            won = (x_treated - fewest) * math.log(odds) - _log_sum(weights + places * math.log(odds)) + total
            logs[:, bet] += won
        self._logs[told] = logs


class Bounds(Rule):
    """`NonInferiority` and `is_no_worse`, for one tolerance."""

    sees_warming = False

    def __init__(self, rollouts: int, tolerance: float) -> None:
        self._tolerance = tolerance
        self._logs = np.tile(np.log([1 - sequence.CASH, sequence.CASH]), (rollouts, 1))
        self._bad, self._requests = np.zeros(rollouts), np.zeros(rollouts)

    @property
    def log_e(self) -> Floats:
        return _log_sum(self._logs)

    def look(self, blocks: tuple[Block, ...]) -> Mask:
        for block in blocks:
            self._observe(block)
        return self.log_e >= -math.log(sequence.BETA)

    def _observe(self, block: Block) -> None:
        prior_bad, prior_requests = sequence.PRIOR
        p = (self._bad + prior_bad) / (self._requests + prior_requests)
        q = self._nearest(block, p)
        treated = q + self._tolerance
        won = _ratio(block.n_control, block.x_control, p, q) + _ratio(block.n_treated, block.x_treated, p, treated)
        told = block.n_treated > 0
        logs = _staked(self._logs[told], 1.0)
        logs[:, 0] += won[told]
        self._logs[told] = logs
        kept = 2 ** (-block.n_control / sequence.HALF_LIFE)
        self._bad = self._bad * kept + block.x_control
        self._requests = self._requests * kept + block.n_control

    def _nearest(self, block: Block, p: Floats) -> Floats:
        low, high = np.maximum(0, p - self._tolerance), np.minimum(p, 1 - self._tolerance)
        high = np.where(block.n_control > 0, high, low)
        for _ in range(40):
            q = (low + high) / 2
            t = q + self._tolerance
            above = block.n_control * (q - p) * t * (1 - t) + block.n_treated * (t - p) * q * (1 - q) > 0
            low, high = np.where(above, low, q), np.where(above, q, high)
        return (low + high) / 2


class Totals(Rule):
    """Rules that look at all requests of both arms until now."""

    def __init__(self, rollouts: int) -> None:
        self._total = _nothing(rollouts)

    def look(self, blocks: tuple[Block, ...]) -> Mask:
        for block in blocks:
            self._total = self._total + block
        with np.errstate(divide="ignore", invalid="ignore"):
            return self.decides(self._total)

    @abstractmethod
    def decides(self, total: Block) -> Mask: ...


class ZTest(Totals):
    """Two proportions by the textbook, once five bad answers are expected in each arm, looked at again and again."""

    def __init__(self, rollouts: int, alpha: float) -> None:
        super().__init__(rollouts)
        self._limit = float(special.ndtri(1 - alpha))

    def decides(self, total: Block) -> Mask:
        n = total.n_control + total.n_treated
        pooled = (total.x_control + total.x_treated) / n
        difference = total.x_treated / total.n_treated - total.x_control / total.n_control
        error = np.sqrt(pooled * (1 - pooled) * (1 / total.n_control + 1 / total.n_treated))
        expected = pooled * np.minimum(total.n_control, total.n_treated)
        decided: Mask = (expected >= 5) & (difference > self._limit * error)
        return decided


class ClopperPearson(Totals):
    """Promotes when the exact bound of the candidate's rate is within the tolerance of the control's."""

    def __init__(self, rollouts: int, tolerance: float) -> None:
        super().__init__(rollouts)
        self._tolerance = tolerance

    def decides(self, total: Block) -> Mask:
        limit = np.minimum(_rate(total.x_control, total.n_control) + self._tolerance, 1)
        decided: Mask = special.bdtr(total.x_treated, total.n_treated, limit) <= sequence.BETA
        return decided


class Wald(Totals):
    """Promotes when the normal bound of the difference is within the tolerance."""

    def __init__(self, rollouts: int, tolerance: float) -> None:
        super().__init__(rollouts)
        self._tolerance = tolerance

    def decides(self, total: Block) -> Mask:
        p, q = _rate(total.x_control, total.n_control), _rate(total.x_treated, total.n_treated)
        error = np.sqrt(p * (1 - p) / total.n_control + q * (1 - q) / total.n_treated)
        bound = q - p + float(special.ndtri(1 - sequence.BETA)) * error
        decided: Mask = (total.n_treated >= 3 / self._tolerance) & (bound <= self._tolerance)
        return decided


class Threshold(Rule):
    """Counts checks that fail: the candidate's share of good answers in the last interval is below a limit."""

    def __init__(self, rollouts: int, looks: int, limit: float, failures: int) -> None:
        """Decides at so many failures; `looks` is the interval."""
        self._looks, self._limit, self._failures = looks, limit, failures
        self._failed = np.zeros(rollouts, np.int64)
        self._interval = _nothing(rollouts)
        self._place = 0

    def look(self, blocks: tuple[Block, ...]) -> Mask:
        for block in blocks:
            self._interval = self._interval + block
        self._place += 1
        if self._place % self._looks == 0:
            n, x = self._interval.n_treated, self._interval.x_treated
            self._failed += (n > 0) & (x > (1 - self._limit) * n)
            self._interval = _nothing(n.size)
        return self._failed >= self._failures


def flagger(rollouts: int, poll_seconds: float) -> Rule:
    """Its documented canary: a minute's success rate of 99 % at least, rolled back at the tenth failed check.

    Failed checks are never forgotten. That an empty answer is a failed check as well is left out.
    """
    return Threshold(rollouts, round(60 / poll_seconds), 0.99, 10)


def argo(rollouts: int, poll_seconds: float) -> Rule:
    """Its documented analysis: five minutes' success rate of 95 % at least, failureLimit 3: aborted at the fourth."""
    return Threshold(rollouts, round(300 / poll_seconds), 0.95, 4)


def _nothing(rollouts: int) -> Block:
    none: Counts = np.zeros(rollouts, np.int64)
    return Block(none, none, none, none)


def _rate(bad: Counts, requests: Counts) -> Floats:
    return bad / np.maximum(requests, 1)


def _ratio(n: Counts, x: Counts, p: Floats, q: Floats) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(x > 0, x * np.log(p / q), 0.0) + np.where(n > x, (n - x) * np.log((1 - p) / (1 - q)), 0.0)


def _staked(logs: Floats, share: float) -> Floats:
    cash = logs[:, -1:]
    stake = 3 * cash
    bets = np.logaddexp(logs[:, :-1], stake + math.log(share))
    return np.concatenate([bets, cash + np.log1p(-np.exp(stake - cash))], axis=1)


def _log_sum(logs: Floats) -> Floats:
    most = logs.max(axis=1)
    summed: Floats = most + np.log(np.exp(logs - most[:, None]).sum(axis=1))
    return summed
