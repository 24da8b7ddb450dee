"""What routers could count: many rollouts side by side, look by look.

A stream yields for each look the blocks that came (one per pod), each with an entry per rollout. Requests are drawn for
their arm one by one, as a router does it; what is common to both arms is decided before the draw.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Counts = NDArray[np.int64]
Rates = float | NDArray[np.float64]

LOOKS = 360
POLL_SECONDS = 5


@dataclass(frozen=True, slots=True)
class Block:
    """Requests and bad ones of both arms, of each rollout."""

    n_control: Counts
    x_control: Counts
    n_treated: Counts
    x_treated: Counts

    def __add__(self, other: Block) -> Block:
        return Block(
            self.n_control + other.n_control,
            self.x_control + other.x_control,
            self.n_treated + other.n_treated,
            self.x_treated + other.x_treated,
        )


@dataclass(frozen=True, slots=True)
class Look:
    """Blocks of one look. `warming`: the candidate's pods are so young that routers count them apart."""

    blocks: tuple[Block, ...]
    warming: bool = False


Stream = Callable[[Generator, int], Iterator[Look]]
"""Of so many rollouts."""


@dataclass(frozen=True, slots=True)
class Arms:
    """Requests a second, the share of the candidate, and how much higher its rate is."""

    per_second: float = 50.0
    weight: float = 0.1
    excess: float = 0.0

    def drawn(self, random: Generator, rollouts: int, rate: Rates, seconds: float = POLL_SECONDS) -> Block:
        """Each request bad with the same probability."""
        n = random.poisson(self.per_second * seconds, rollouts)
        n_treated = random.binomial(n, self.weight)
        x_control = random.binomial(n - n_treated, rate)
        return Block(n - n_treated, x_control, n_treated, random.binomial(n_treated, np.minimum(rate + self.excess, 1)))

    def dealt(self, random: Generator, rollouts: int, bad: Counts) -> Block:
        """So many bad ones, whatever they have in common; only the draw is random."""
        n = np.maximum(random.poisson(self.per_second * POLL_SECONDS, rollouts), bad)
        n_treated = random.binomial(n, self.weight)
        x_treated = random.hypergeometric(bad, n - bad, n_treated)
        return Block(n - n_treated, bad - x_treated, n_treated, x_treated)


def steady(arms: Arms, rate: float, looks: int = LOOKS, seconds: float = POLL_SECONDS) -> Stream:
    def stream(random: Generator, rollouts: int) -> Iterator[Look]:
        for _ in range(looks):
            yield Look((arms.drawn(random, rollouts, rate, seconds),))

    return stream


def varying(arms: Arms, rate_at: Callable[[int], float]) -> Stream:
    """The rate of both arms moves with time."""

    def stream(random: Generator, rollouts: int) -> Iterator[Look]:
        for look in range(LOOKS):
            yield Look((arms.drawn(random, rollouts, rate_at(look)),))

    return stream


def outages(arms: Arms, rate: float, worst: float = 0.6, lasting: int = 60) -> Stream:
    """Five minutes, at a moment of each rollout's own, in which most requests fail in both arms."""

    def stream(random: Generator, rollouts: int) -> Iterator[Look]:
        begins = random.integers(0, LOOKS - lasting, rollouts)
        for look in range(LOOKS):
            out = (begins <= look) & (look < begins + lasting)
            yield Look((arms.drawn(random, rollouts, np.where(out, worst, rate)),))

    return stream


def bursts(arms: Arms, rate: float) -> Stream:
    """Every other minute a second in which nothing works: fifty bad requests at once."""

    def stream(random: Generator, rollouts: int) -> Iterator[Look]:
        mean = arms.per_second * POLL_SECONDS * rate
        for _ in range(LOOKS):
            burst = random.random(rollouts) < POLL_SECONDS / 120
            yield Look((arms.dealt(random, rollouts, random.poisson(mean, rollouts) + 50 * burst),))

    return stream


def sessions(arms: Arms, rate: float, size: int = 10) -> Stream:
    """Bad requests come ten at a time, from one client."""

    def stream(random: Generator, rollouts: int) -> Iterator[Look]:
        mean = arms.per_second * POLL_SECONDS * rate / size
        for _ in range(LOOKS):
            yield Look((arms.dealt(random, rollouts, size * random.poisson(mean, rollouts)),))

    return stream


def defective(arms: Arms, rate: float, size: int) -> Stream:
    """The candidate fails all requests of some clients, each of whom sends so many in one look."""

    def stream(random: Generator, rollouts: int) -> Iterator[Look]:
        for _ in range(LOOKS):
            clients = random.poisson(arms.per_second * POLL_SECONDS / size, rollouts)
            hit = random.binomial(clients, arms.excess)
            failed = random.binomial(hit * size, arms.weight)
            other = random.binomial((clients - hit) * size, arms.weight)
            n_control = clients * size - failed - other
            x_treated = failed + random.binomial(other, rate)
            yield Look((Block(n_control, random.binomial(n_control, rate), failed + other, x_treated),))

    return stream


def pods(rates: tuple[float, ...], per_second: float = 50.0) -> Stream:
    """Several pods of unequal rates and unequal traffic, each a block of its own, each with clients of its own."""

    def stream(random: Generator, rollouts: int) -> Iterator[Look]:
        shares = np.linspace(1, len(rates), len(rates))
        shares /= shares.sum()
        each = [Arms(per_second * share) for share in shares]
        for _ in range(LOOKS):
            pairs = zip(each, rates, strict=True)
            yield Look(tuple(arms.drawn(random, rollouts, rate) for arms, rate in pairs))

    return stream


def steps(*parts: tuple[Arms, float]) -> Stream:
    """A step of the rollout after the other: other weights, other rates of both arms."""

    def stream(random: Generator, rollouts: int) -> Iterator[Look]:
        for arms, rate in parts:
            for _ in range(LOOKS // len(parts)):
                yield Look((arms.drawn(random, rollouts, rate),))

    return stream


def cold(arms: Arms, rate: float, slow: float = 0.2, seconds: float = 30) -> Stream:
    """A candidate that is slow while it is young."""

    def stream(random: Generator, rollouts: int) -> Iterator[Look]:
        young = Arms(arms.per_second, arms.weight, slow)
        for look in range(LOOKS):
            warming = look * POLL_SECONDS < seconds
            yield Look(((young if warming else arms).drawn(random, rollouts, rate),), warming)

    return stream


def after(before: Stream, looks: int, then: Stream) -> Stream:
    """The first looks of one stream, and then another."""

    def stream(random: Generator, rollouts: int) -> Iterator[Look]:
        for place, look in enumerate(before(random, rollouts)):
            if place == looks:
                break
            yield look
        yield from then(random, rollouts)

    return stream
