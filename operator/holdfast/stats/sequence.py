"""Is the treated arm no worse than its control, but for a tolerance? An upper bound that holds at every look.

For each tolerance d of a grid there is a bet against "the treated arm's rate is at least the control's plus d". It
expects both arms at the rate p that the control has had, and divides the likelihood of the block under (p, p) by that
under the pair of the hypothesis nearest to it (q, q + d):

    n_c KL(p | q) + n_t KL(p | q + d)  smallest over q.

As the hypothesis is convex, the ratio's expectation is 1 at most for every pair in it (Turner, Ly, Grünwald,
arXiv:2106.02693; Turner, Grünwald, arXiv:2203.09785), and p may be anything that was known before the block. The
tolerances whose bets have won 1/beta are excluded: the smallest is the bound, and is wrong, ever, with probability beta
at most. Without a failure that takes ln(1/beta)/d requests of the treated arm, three over d.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from holdfast.stats import arms, numbers, wealth
from holdfast.stats.arms import Arm

BETA = 0.05
"""Probability of calling an arm no worse that is worse by the tolerance."""

TOLERANCES = (
    *(0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.003, 0.004, 0.005, 0.006, 0.007, 0.008, 0.009, 0.01),
    *(0.012, 0.015, 0.02, 0.025, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08, 0.1),
)
"""What is bet against. Between two of them the smaller one counts."""

CASH = 0.05
"""Of the wealth at the start. Without it an outage of both arms would cost a rollout all it has shown until then."""

PRIOR = (0.5, 500.0)
"""Bad ones and requests of the control before the first: a rate of 0.1 %."""

HALF_LIFE = 2000
"""Requests of the control after which older ones count half for what is expected of the next."""

_ENOUGH = -math.log(BETA)


@dataclass(frozen=True, slots=True)
class NonInferiority:
    """What all blocks until now say.

    `control` and `treated` are totals. `lately` is what the control did, bad requests and all, old ones faded.
    """

    logs: tuple[float, ...]
    control: Arm
    treated: Arm
    lately: tuple[float, float] = (0.0, 0.0)

    @classmethod
    def none(cls) -> NonInferiority:
        return cls(wealth.opened(len(TOLERANCES), 1 - CASH, CASH), arms.NONE, arms.NONE)

    def observed(self, control: Arm, treated: Arm) -> NonInferiority:
        """With one block more, in which the share of the draw was the same throughout."""
        logs = self.logs
        if treated.requests:
            expected = (self.lately[0] + PRIOR[0]) / (self.lately[1] + PRIOR[1])
            *bets, cash = wealth.staked(logs, 1.0)
            won = (_won(control, treated, expected, tolerance) for tolerance in TOLERANCES)
            logs = (*map(sum, zip(bets, won, strict=True)), cash)
        kept = 2 ** (-control.requests / HALF_LIFE)
        lately = (self.lately[0] * kept + control.bad, self.lately[1] * kept + control.requests)
        return NonInferiority(logs, self.control + control, self.treated + treated, lately)

    @property
    def upper(self) -> float:
        """A bound of the treated arm's rate minus the control's, by 95 %, at all looks together; 1 if none is known."""
        return next((tolerance for tolerance in TOLERANCES if self.log_e(tolerance) >= _ENOUGH), 1.0)

    def is_no_worse(self, tolerance: float) -> bool:
        return self.upper <= tolerance

    def missing(self, tolerance: float) -> int:
        """Requests of the treated arm that are still needed, if it fails as often as the control lately; 0 if none.

        Raises ValueError for a tolerance below the smallest, which no number of requests is enough for.
        """
        if self.is_no_worse(tolerance):
            return 0
        tolerance = max(known for known in TOLERANCES if known <= tolerance)
        bad, requests = self.lately
        rate = min(bad / requests, 1 - tolerance) if bad else 0.0
        share = self.control.requests / self.treated.requests if self.treated.requests else 1.0
        nearest = _nearest(share, 1.0, rate, tolerance)
        growth = share * _divergence(rate, nearest) + _divergence(rate, nearest + tolerance)
        return math.ceil((_ENOUGH - self.log_e(tolerance)) / growth)

    def log_e(self, tolerance: float) -> float:
        """Logarithm of what the bet against one of `TOLERANCES` has won."""
        return wealth.log_sum((self.logs[TOLERANCES.index(tolerance)], self.logs[-1]))

    def to_json(self) -> dict[str, object]:
        return {
            "logs": list(self.logs),
            "control": self.control.to_json(),
            "treated": self.treated.to_json(),
            "lately": list(self.lately),
        }

    @classmethod
    def parse(cls, document: object) -> NonInferiority:
        """Raises ValueError unless this is what `to_json` makes."""
        match document:
            case {"logs": logs, "control": control, "treated": treated, "lately": lately, **rest} if not rest:
                match numbers.finite(lately):
                    case (bad, requests) if 0 <= bad <= requests:
                        bets = wealth.parse(logs, len(TOLERANCES))
                        return cls(bets, Arm.parse(control), Arm.parse(treated), (bad, requests))
        raise ValueError("a sequence has the members logs, control, treated and lately")


def _won(control: Arm, treated: Arm, expected: float, tolerance: float) -> float:
    """Logarithm of the factor of the bet against this tolerance."""
    nearest = _nearest(control.requests, treated.requests, expected, tolerance)
    return _ratio(control, expected, nearest) + _ratio(treated, expected, nearest + tolerance)


def _nearest(control: float, treated: float, rate: float, tolerance: float) -> float:
    """The control's rate in the pair (q, q + tolerance) nearest to (rate, rate) for so many requests."""
    if not control:
        return max(0.0, rate - tolerance)
    low, high = max(0.0, rate - tolerance), min(rate, 1 - tolerance)
    for _ in range(_BISECTIONS):
        q = (low + high) / 2
        p = q + tolerance
        if control * (q - rate) * p * (1 - p) + treated * (p - rate) * q * (1 - q) > 0:
            high = q
        else:
            low = q
    return (low + high) / 2


_BISECTIONS = 40


def _ratio(arm: Arm, rate: float, other: float) -> float:
    """Logarithm of an arm's likelihood at `rate` over that at `other`."""
    bad, good = arm.bad, arm.requests - arm.bad
    return (bad * math.log(rate / other) if bad else 0.0) + (good * math.log((1 - rate) / (1 - other)) if good else 0.0)


def _divergence(p: float, q: float) -> float:
    """Kullback and Leibler's, of two rates."""
    return (p * math.log(p / q) if p else 0.0) + ((1 - p) * math.log((1 - p) / (1 - q)) if p < 1 else 0.0)
