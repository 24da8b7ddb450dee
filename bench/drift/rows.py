"""Tables of rows with their truth, and what a stream is: four weeks of traffic, in quarters of an hour."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Array = NDArray[Any]

DAY = 96
"""Ticks, of a quarter of an hour each."""
TICK_SECONDS = 86_400 // DAY
WARM, BEFORE, AFTER = 14 * DAY, 7 * DAY, 7 * DAY
"""Ticks that nobody judges and peers learn from; until the change; since then."""
PER_DAY = 2400
"""Rows of a day, where a stream does not say otherwise."""
LABEL_DELAY = DAY
"""Ticks until it is known what was true."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Columns of numbers (float32, NaN is missing) or texts (objects, "" is missing), and the classes."""

    columns: Mapping[str, Array]
    truth: Array

    def __len__(self) -> int:
        return len(self.truth)

    def __getitem__(self, which: slice | Array) -> Rows:
        return Rows({name: values[which] for name, values in self.columns.items()}, self.truth[which])


@dataclass(frozen=True, slots=True)
class Episode:
    """What a model is trained on, and what it then sees.

    Attributes:
        given: what the trainer gets; `held_out_percent` of it becomes the reference.
        ends: rows of `live` until the end of each tick.
        change: the tick in which something changes for good; None: nothing ever does.
        labelled: share of rows whose truth comes back.
    """

    given: Rows
    held_out_percent: int
    live: Rows
    ends: Array
    change: int | None
    labelled: float

    def between(self, first: int, last: int) -> slice:
        """Rows of the ticks from `first` on, before `last`."""
        return slice(int(self.ends[first - 1]) if first > 0 else 0, int(self.ends[last - 1]) if last > 0 else 0)


@dataclass(frozen=True, slots=True)
class Scenario:
    """A kind of stream, of which there are as many episodes as seeds.

    Attributes:
        estimator: with its parameters, as in a TrainingJob.
        covariate: only inputs change, at once, and not what they mean. Estimates without labels promise to follow.
    """

    name: str
    make: Callable[[Generator], Episode]
    estimator: Mapping[str, Any]
    covariate: bool = False
    nothing_changes: bool = False


def joined(*tables: Rows) -> Rows:
    """One after the other."""
    names = tables[0].columns
    columns = {name: np.concatenate([table.columns[name] for table in tables]) for name in names}
    return Rows(columns, np.concatenate([table.truth for table in tables]))


def even(ticks: int, per_day: int = PER_DAY) -> Array:
    """The ends of ticks with equally many rows."""
    return np.arange(1, ticks + 1) * per_day // DAY
