"""The classical streams: river's generators, run in an environment of its own."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from bench.drift.rows import AFTER, BEFORE, DAY, PER_DAY, WARM, Array, Episode, Rows, Scenario, even, joined
from bench.drift.service import BOOSTED
from numpy.random import Generator
from tests.unit.serving import environments

GIVEN, HELD_OUT_PERCENT = 8000, 25
SUDDEN, GRADUAL = 300, 2 * PER_DAY
"""Rows that a change takes."""
_SPARE = 4
_CATEGORIES = {"elevel", "car", "zipcode", "size", "color", "shape"}
_MAKER = Path(__file__).with_name("river_rows.py")

Generated = dict[str, Any]
"""Name and arguments of a generator."""


@dataclass(frozen=True, slots=True)
class _Change:
    """From one generator to another. `keep`: of the second one's rows only those whose column is above a number."""

    before: Generated
    after: Generated
    width: int = SUDDEN
    keep: tuple[str, float] | None = None


def _generated(random: Generator, generator: Generated, count: int) -> Rows:
    return _asked({"generator": generator, "count": count, "seed": int(random.integers(1 << 31))})


def _drifting(random: Generator, change: _Change, first: int, count: int) -> Rows:
    """river's ConceptDriftStream."""
    seed = int(random.integers(1 << 31))
    drift = {"after": change.after, "position": first, "width": change.width}
    return _asked({"generator": change.before, **drift, "count": first + count, "seed": seed})


def _asked(question: dict[str, Any]) -> Rows:
    python = environments.python("bench-river")
    done = subprocess.run([python, _MAKER, json.dumps(question)], capture_output=True, check=True, timeout=120)
    table = np.frombuffer(done.stdout.partition(b"\n")[2], np.float32)
    names = json.loads(done.stdout.partition(b"\n")[0])
    table = table.reshape(-1, len(names) + 1)
    columns = {name: _column(name, table[:, place]) for place, name in enumerate(names)}
    return Rows(columns, table[:, -1].astype(np.int64))


def _column(name: str, values: Array) -> Array:
    """Categories as texts that no one takes for numbers."""
    if name not in _CATEGORIES:
        return values.copy()
    return np.array([f"{name} {value:.0f}" for value in values], object)


def _episode(random: Generator, *, change: _Change, labelled: float) -> Episode:
    given = _generated(random, change.before, GIVEN)
    first, count = (WARM + BEFORE) * PER_DAY // DAY, AFTER * PER_DAY // DAY
    if change.keep:
        column, above = change.keep
        before = _generated(random, change.before, first)
        after = _generated(random, change.after, count * _SPARE)
        live = joined(before, after[after.columns[column] > above][:count])
    else:
        live = _drifting(random, change, first, count)
    return Episode(given, HELD_OUT_PERCENT, live, even(WARM + BEFORE + AFTER), WARM + BEFORE, labelled)


def changing() -> tuple[Scenario, ...]:
    """What rows mean changes, suddenly or within two days; in two of them only their inputs."""

    def sea(variant: int) -> Generated:
        return {"name": "SEA", "variant": variant, "noise": 0.05}

    def agrawal(function: int) -> Generated:
        return {"name": "Agrawal", "classification_function": function, "perturbation": 0.05}

    def stagger(function: int) -> Generated:
        return {"name": "STAGGER", "classification_function": function}

    def scenario(name: str, change: _Change, *, labelled: float = 0.2, covariate: bool = False) -> Scenario:
        return Scenario(f"river: {name}", partial(_episode, change=change, labelled=labelled), BOOSTED, covariate)

    return (
        scenario("SEA, sudden", _Change(sea(0), sea(2))),
        scenario("SEA, the largest change, gradual", _Change(sea(2), sea(3), GRADUAL)),
        scenario("SEA, its input that means nothing moves", _Change(sea(0), sea(0), keep=("x2", 4.0)), covariate=True),
        scenario("Agrawal, sudden", _Change(agrawal(0), agrawal(1))),
        scenario("Agrawal, gradual", _Change(agrawal(3), agrawal(4), GRADUAL)),
        scenario("Agrawal, other ages", _Change(agrawal(1), agrawal(1), keep=("age", 45.0)), labelled=0.0,
                 covariate=True),
        scenario("STAGGER, sudden", _Change(stagger(0), stagger(1))),
    )  # fmt: skip
