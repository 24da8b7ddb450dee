"""Tests by betting: what bets against a hypothesis have won.

A bet multiplies what is staked on it by a factor whose expectation is at most 1 as long as the hypothesis holds. So
whoever begins with 1 and never adds to it holds 20 or more, ever, with probability 1/20 at most (Ville), however
often one looks. Wealth is kept as logarithms: one for each bet, and the last for cash.

Cash is there for what happens late. A bet that has lost for an hour is worth nothing when the hour is over; so some
cash is put on every bet before each block of data, and the rest is never lost. A block gets the cube of the cash, by
which cash falls with the square root of the number of blocks: a change after 100 blocks is found, and after 10,000.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from holdfast.stats import numbers

Logs = tuple[float, ...]


def opened(bets: int, each: float, cash: float) -> Logs:
    """The wealth at the start: `each` on every bet."""
    return (*[math.log(each)] * bets, math.log(cash))


def staked(logs: Logs, share: float) -> Logs:
    """The wealth when the stakes for one more block are set: every bet gets `share` of what cash gives."""
    *bets, cash = logs
    stake = 3 * cash
    more = stake + math.log(share)
    return (*(log_sum((bet, more)) for bet in bets), cash + math.log1p(-math.exp(stake - cash)))


def log_sum(logs: Iterable[float]) -> float:
    """Logarithm of the sum of what these are the logarithms of."""
    terms = tuple(logs)
    most = max(terms)
    return most + math.log(math.fsum(math.exp(term - most) for term in terms))


def parse(document: object, bets: int) -> Logs:
    """Raises ValueError unless these are the logarithms of so many bets, and of cash."""
    logs = numbers.finite(document)
    if len(logs) != bets + 1:
        raise ValueError(f"{len(logs)} logarithms where {bets + 1} should be")
    if logs[-1] >= 0:
        raise ValueError("more cash than there was at the start")
    return logs
