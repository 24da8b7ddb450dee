"""Is the treated arm worse than its control? Evidence that may be looked at as often as one likes.

In a block (what one pod answered between two looks) each request was drawn for one arm or the other, whatever it
was. If the arms do not differ, the bad requests of the block fall on them like balls drawn from an urn:
hypergeometrically, whatever made them bad and however they came together. If the odds of a bad answer are k times
as high in the treated arm, by Fisher's noncentral hypergeometric law. The ratio of the two,

    k^x / E[k^X],  x of the block's bad requests in the treated arm, X hypergeometric,

has expectation 1 if the arms do not differ and less if the treated one is better: an e-value. So the product over all
blocks is at least 1/alpha, ever, with probability alpha at most. An outage of both arms, a burst, a bad client, a
shift of the rate from block to block are no evidence: the law above holds for each block as it is.

This is the safe logrank test (ter Schure, Perez-Ortiz, Ly, Grünwald, arXiv:2011.06931) with looks for event times, a
conditional form of the two-sample e-process of Turner, Ly and Grünwald (arXiv:2106.02693). One bet for each k.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from holdfast.stats import arms, wealth
from holdfast.stats.arms import Arm

__all__ = ["Arm", "Evidence", "is_worse"]

ODDS = (1.5, 3.0, 10.0, 50.0, 200.0)
"""Odds ratios that are bet on: from half as many failures again to nothing but failures."""

CASH = 0.2
"""Of the wealth at the start. More finds late changes sooner, and early ones later."""

_LOG_ODDS = tuple(map(math.log, ODDS))
_MOST_LOG = 700.0  # exp of it is a float


@dataclass(frozen=True, slots=True)
class Evidence:
    """What all blocks until now say.

    `control` and `treated` are totals. `recent` holds both arms since the evidence last spoke against a difference
    (e-value 1 or less): of a defect that began today it does not count the months before.
    """

    logs: tuple[float, ...]
    control: Arm
    treated: Arm
    recent: tuple[Arm, Arm] = (arms.NONE, arms.NONE)

    @classmethod
    def none(cls) -> Evidence:
        return cls(wealth.opened(len(ODDS), (1 - CASH) / len(ODDS), CASH), arms.NONE, arms.NONE)

    def observed(self, control: Arm, treated: Arm) -> Evidence:
        """The evidence with one block more, in which the share of the draw was the same throughout."""
        logs = self.logs
        if (control.bad or treated.bad) and control.requests and treated.requests:  # else it says nothing
            bets = wealth.staked(logs, 1 / len(ODDS))
            logs = (*(bet + won for bet, won in zip(bets[:-1], _won(control, treated), strict=True)), bets[-1])
        before = self.recent if self.log_e > 0 else (arms.NONE, arms.NONE)
        recent = (before[0] + control, before[1] + treated)
        return Evidence(logs, self.control + control, self.treated + treated, recent)

    @property
    def log_e(self) -> float:
        return wealth.log_sum(self.logs)

    @property
    def e_value(self) -> float:
        """A finite number, always: at most e^700."""
        return math.exp(min(self.log_e, _MOST_LOG))

    @property
    def excess(self) -> float:
        """How much higher the rate of the treated arm is, of late."""
        control, treated = self.recent
        return treated.rate - control.rate

    def to_json(self) -> dict[str, object]:
        return {
            "logs": list(self.logs),
            "control": self.control.to_json(),
            "treated": self.treated.to_json(),
            "recent": [arm.to_json() for arm in self.recent],
        }

    @classmethod
    def parse(cls, document: object) -> Evidence:
        """Raises ValueError unless this is what `to_json` makes."""
        match document:
            case {"logs": logs, "control": control, "treated": treated, "recent": [*recent], **rest} if not rest:
                if len(recent) == 2:
                    since = (Arm.parse(recent[0]), Arm.parse(recent[1]))
                    return cls(wealth.parse(logs, len(ODDS)), Arm.parse(control), Arm.parse(treated), since)
        raise ValueError("evidence has the members logs, control, treated and recent")


def is_worse(evidence: Evidence, alpha: float, minimum_excess: float) -> bool:
    """Whether the treated arm fails more often, and by enough to matter.

    Says so of an arm that is no worse with probability `alpha` at most, however often it is asked.
    """
    return evidence.log_e >= -math.log(alpha) and evidence.excess >= minimum_excess


def _won(control: Arm, treated: Arm) -> list[float]:
    """Logarithm of each bet's factor."""
    bad = control.bad + treated.bad
    fewest = max(0, bad - control.requests)
    weights = [0.0]  # logarithms of the urn's law up to a constant; position j is `fewest + j` treated ones
    for j in range(fewest, min(bad, treated.requests)):
        ratio = (treated.requests - j) * (bad - j) / ((j + 1) * (control.requests - bad + j + 1))
        weights.append(weights[-1] + math.log(ratio))
    total = wealth.log_sum(weights)
    return [
        (treated.bad - fewest) * log_k - wealth.log_sum(w + j * log_k for j, w in enumerate(weights)) + total
        for log_k in _LOG_ODDS
    ]
