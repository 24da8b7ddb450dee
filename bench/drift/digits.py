"""scikit-learn's digits under the shifts of "Failing Loudly" (Rabanser et al., 2019).

There are 1,797 pictures: 1,250 for the trainer, who holds 1,000 of them out, and the rest to draw live rows from.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from bench.drift.rows import AFTER, BEFORE, DAY, PER_DAY, WARM, Array, Episode, Rows, Scenario, even, joined
from numpy.random import Generator
from sklearn.datasets import load_digits

GIVEN, HELD_OUT_PERCENT = 1250, 80
LABELLED = 0.1
LOGISTIC = {"name": "LogisticRegression", "parameters": {"C": "0.1", "max_iter": "300"}}
_SIDE = 8

Shift = Callable[[Generator, Rows], Rows]


def _drawn(random: Generator, pool: Rows, count: int, weights: Array | None = None) -> Rows:
    return pool[random.choice(len(pool), count, p=None if weights is None else weights / weights.sum())]


def _pictures(rows: Rows, pictures: Array) -> Rows:
    flat = pictures.reshape(len(pictures), -1).astype(np.float32)
    return Rows({name: flat[:, place] for place, name in enumerate(rows.columns)}, rows.truth)


def _stacked(rows: Rows) -> Array:
    return np.column_stack(list(rows.columns.values())).reshape(-1, _SIDE, _SIDE)


def _noise(random: Generator, rows: Rows, *, deviation: float, share: float) -> Rows:
    pictures = _stacked(rows)
    hit = random.random((len(rows), 1, 1)) < share
    return _pictures(rows, np.clip(pictures + hit * random.normal(0, deviation, pictures.shape), 0, 16))


def _moved(random: Generator, rows: Rows, *, share: float) -> Rows:
    """By one pixel, to the left or to the right, up or down."""
    pictures = _stacked(rows)
    ways = [np.roll(pictures, step, axis) for axis in (1, 2) for step in (-1, 1)]
    way = np.where(random.random(len(rows)) < share, random.integers(0, 4, len(rows)), 4)
    return _pictures(rows, np.stack([*ways, pictures])[way, np.arange(len(rows))])


def _without_zero(classes: Array) -> Array:
    return (classes != 0).astype(float)


def _three_times_the_first(classes: Array) -> Array:
    return np.where(classes < 3, 3.0, 1.0)


def _episode(random: Generator, *, shift: Shift | None, weights: Callable[[Array], Array] | None = None) -> Episode:
    values, truth = load_digits(return_X_y=True)
    order = random.permutation(len(truth))
    names = [f"pixel{place:02d}" for place in range(values.shape[1])]
    all_rows = Rows({name: values[order, place].astype(np.float32) for place, name in enumerate(names)}, truth[order])
    pool = all_rows[GIVEN:]
    change, ticks = WARM + BEFORE, WARM + BEFORE + AFTER
    before = _drawn(random, pool, change * PER_DAY // DAY)
    after = _drawn(random, pool, AFTER * PER_DAY // DAY, weights(pool.truth) if weights else None)
    live = joined(before, shift(random, after) if shift else after)
    return Episode(all_rows[:GIVEN], HELD_OUT_PERCENT, live, even(ticks), change, LABELLED)


def changing() -> tuple[Scenario, ...]:
    """Inputs are spoilt, or classes come in other shares."""

    def scenario(name: str, shift: Shift | None = None, weights: Callable[[Array], Array] | None = None) -> Scenario:
        return Scenario(f"digits: {name}", partial(_episode, shift=shift, weights=weights), LOGISTIC)

    return (
        scenario("small noise", partial(_noise, deviation=1.0, share=1.0)),
        scenario("medium noise", partial(_noise, deviation=4.0, share=1.0)),
        scenario("large noise on half", partial(_noise, deviation=10.0, share=0.5)),
        scenario("half moved by a pixel", partial(_moved, share=0.5)),
        scenario("a class knocked out", weights=_without_zero),
        scenario("classes out of balance", weights=_three_times_the_first),
    )
