"""Streams as services see them: sessions of rows that are alike, days and weeks with cycles, values that are missing.

A row is nine numbers of a standard normal law, from which its columns are made and whether it is good. One of them,
`history`, says how clear the case is: where it falls, every model is less often right, and no row means anything else.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from bench.drift.rows import AFTER, BEFORE, DAY, PER_DAY, WARM, Array, Episode, Rows, Scenario
from numpy.random import Generator

BOOSTED = {"name": "HistGradientBoostingClassifier"}
TRAINING_TICKS = 4 * 7 * DAY
_AMOUNT, _AGE, _LOAD, _COLOUR, _TENURE, _INCOME, _COUNTRY, _DEVICE, _HISTORY = range(9)
_ALIKE = 0.8  # of a row's variance is its session's
_COUNTRIES = np.array([-0.8, 0.0, 0.6, 1.1, 1.6])
_DEVICES = np.array([-0.2, 1.0])


@dataclass(frozen=True, slots=True)
class World:
    """How rows come, and what they are like.

    Attributes:
        session: rows that come together.
        daily, weekly: standard deviations by which a number moves up and down in a day; by which another one is
            higher at weekends.
        moved: standard deviations by which numbers are moved, by their place.
        lost: share of rows whose income is missing.
        reversed: load means the contrary of what it meant.
    """

    session: int = 1
    daily: float = 0.0
    weekly: float = 0.0
    per_day: int = PER_DAY
    moved: tuple[tuple[int, float], ...] = ()
    lost: float = 0.04
    reversed: bool = False

    def ticks(self, random: Generator, first: int, count: int, share: Array | float = 1.0) -> tuple[Rows, Array]:
        """Rows of so many ticks, and their ends. `share`: by tick, of `moved`."""
        rate = self.per_day / DAY * (1 + (0.6 * np.sin(2 * np.pi * np.arange(first, first + count) / DAY)
                                          if self.daily else np.zeros(count)))  # fmt: skip
        sessions = random.poisson(rate / self.session)
        tick = np.repeat(np.arange(count), sessions)
        own = random.normal(size=(len(tick) * self.session, 9))
        if self.session > 1:
            common = np.repeat(random.normal(size=(len(tick), 9)), self.session, axis=0)
            own = np.sqrt(_ALIKE) * common + np.sqrt(1 - _ALIKE) * own
        tick = np.repeat(tick, self.session)
        clock = first + tick
        own[:, _LOAD] += self.daily * np.sin(2 * np.pi * (clock % DAY) / DAY)
        own[:, [_AGE, _COUNTRY]] += self.weekly * (clock // DAY % 7 >= 5)[:, None]
        by = np.broadcast_to(share, count)[tick]
        for place, deviations in self.moved:
            own[:, place] += deviations * by
        return self._rows(random, own), np.cumsum(sessions) * self.session

    def _rows(self, random: Generator, own: Array) -> Rows:
        clear = np.exp(0.6 * own[:, _HISTORY] + 0.4)
        country = np.digitize(own[:, _COUNTRY], _COUNTRIES)
        sign = -1 if self.reversed else 1
        score = 0.8 * own[:, _AMOUNT] + sign * 0.8 * own[:, _LOAD] - 0.6 * own[:, _INCOME] + 0.3 * (country % 3 - 1)
        truth = (random.random(len(own)) < 1 / (1 + np.exp(-1.6 * clear * score))).astype(np.int64)
        income = 2000 * np.exp(0.4 * own[:, _INCOME])
        income[random.random(len(own)) < self.lost] = np.nan
        numbers = {
            "amount": 20 * np.exp(0.5 * own[:, _AMOUNT]),
            "age": np.round(40 + 12 * own[:, _AGE]),
            "load": own[:, _LOAD],
            "colour": own[:, _COLOUR],
            "tenure": np.exp(own[:, _TENURE]),
            "income": income,
            "history": clear,
        }
        texts = {
            "country": np.array(["br", "de", "in", "jp", "us", "za"], object)[country],
            "device": np.array(["phone", "desk", "till"], object)[np.digitize(own[:, _DEVICE], _DEVICES)],
        }
        return Rows({name: column.astype(np.float32) for name, column in numbers.items()} | texts, truth)


STEADY = World()
SESSIONS = World(session=10)
CYCLES = World(session=10, daily=1.0, weekly=0.8)


def _episode(
    random: Generator,
    *,
    world: World,
    then: World | None = None,
    given: int = 12_000,
    held_out_percent: int = 20,
    labelled: float = 0.0,
    days: int = 0,
    creeping: bool = False,
) -> Episode:
    """A model that is trained on what came in four weeks before; `days`: of a stream in which nothing changes."""
    past = replace(world, per_day=given * DAY // TRAINING_TICKS)
    trained, _ = past.ticks(random, 0, TRAINING_TICKS)
    if then is None:
        live, ends = world.ticks(random, TRAINING_TICKS, WARM + days * DAY)
        return Episode(trained, held_out_percent, live, ends, None, labelled)
    change = WARM + BEFORE
    before, ends = world.ticks(random, TRAINING_TICKS, change)
    share = np.linspace(0, 1, AFTER) if creeping else 1.0
    after, later = then.ticks(random, TRAINING_TICKS + change, AFTER, share)
    columns = {name: np.concatenate([before.columns[name], after.columns[name]]) for name in before.columns}
    live = Rows(columns, np.concatenate([before.truth, after.truth]))
    return Episode(trained, held_out_percent, live, np.concatenate([ends, ends[-1] + later]), change, labelled)


def unchanging(days: int) -> tuple[Scenario, ...]:
    """In none of these does anything happen, and labels of a fifth of the rows come back in half of them."""
    worlds = {
        "independent rows": (STEADY, {}),
        "independent rows, labels": (STEADY, {"labelled": 0.2}),
        "sessions of ten": (SESSIONS, {}),
        "daily cycle of one deviation": (replace(STEADY, daily=1.0), {}),
        "weekly cycle, labels": (replace(STEADY, weekly=0.8), {"labelled": 0.2}),
        "sessions and cycles, labels": (CYCLES, {"labelled": 0.2}),
        "sessions and cycles, 1,000 held out": (CYCLES, {"given": 5_000}),
        "sessions and cycles, 300 held out": (CYCLES, {"given": 1_500, "labelled": 0.2}),
        "700 rows a day": (replace(STEADY, per_day=700), {"labelled": 0.2}),
        "sessions, 700 rows a day": (replace(SESSIONS, per_day=700), {}),
    }
    return tuple(
        Scenario(f"service: {name}", partial(_episode, world=world, days=days, **options), BOOSTED,
                 nothing_changes=True)
        for name, (world, options) in worlds.items()
    )  # fmt: skip


def changing() -> tuple[Scenario, ...]:
    """In each of these something changes."""

    def scenario(name: str, world: World, *, covariate: bool = False, creeping: bool = False, labelled: float = 0.0,
                 **change: object) -> Scenario:  # fmt: skip
        then = replace(world, **change)  # type: ignore[arg-type]
        make = partial(_episode, world=world, then=then, creeping=creeping, labelled=labelled)
        return Scenario(f"service: {name}", make, BOOSTED, covariate)

    clear = replace(STEADY, moved=((_AMOUNT, 1.4), (_LOAD, 0.8), (_INCOME, -0.8)))
    close = ((_AMOUNT, 0.4),)
    unclear = ((_HISTORY, -1.0),)
    unimportant = ((_COLOUR, 0.8), (_TENURE, -0.7))
    return (
        scenario("cases are less clear", STEADY, covariate=True, moved=unclear),
        scenario("cases are less clear, sessions and cycles", CYCLES, covariate=True, moved=unclear),
        scenario("cases are less clear, creeping, sessions", SESSIONS, creeping=True, moved=unclear),
        scenario("cases come closer to the line", clear, covariate=True, moved=close),
        scenario("cases come closer to the line, cycles", replace(clear, daily=1.0, weekly=0.8), covariate=True,
                 moved=close),
        scenario("cases are clearer", STEADY, covariate=True, moved=((_HISTORY, 1.0),)),
        scenario("unimportant inputs move", STEADY, covariate=True, moved=unimportant),
        scenario("unimportant inputs move, sessions and cycles, labels", CYCLES, covariate=True, labelled=0.2,
                 moved=unimportant),
        scenario("an input means the contrary, labels", STEADY, labelled=0.2, reversed=True),
        scenario("an input means the contrary, sessions and cycles, labels", CYCLES, labelled=0.2, reversed=True),
        scenario("an input goes missing", STEADY, lost=0.7),
    )  # fmt: skip
