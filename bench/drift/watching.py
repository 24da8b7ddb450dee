"""The operator's own decisions on what scrapes of a stream would have shown: a ModelDeployment, looked at by the clock.

From counters on, nothing here decides: signals are made as `holdfast.signals.drift` asks Prometheus for them, and
`plan.drift.found` and `plan.modeldeployment.plan` do the rest, pass by pass, with the status that the last one wrote.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import numpy as np
from bench.drift.models import Counted, Part
from bench.drift.rows import DAY, LABEL_DELAY, TICK_SECONDS, Array, Episode
from tests.unit.plan import worlds
from tests.unit.plan.world import World

from holdfast.plan import conditions, drift, modeldeployment
from holdfast.plan.drift import Labels, Signal
from holdfast.stats.drift import WINDOWS, Reference, Season, Series, design_effect

WINDOW = DAY
"""Ticks; the default of HOLDFAST_DRIFT_WINDOW_SECONDS."""
STEP = drift.step(WINDOW * TICK_SECONDS) // TICK_SECONDS
_LONG_AGO = timedelta(days=400)


@dataclass(frozen=True, slots=True)
class Look:
    """What a ModelDeployment says after a look.

    Attributes:
        tick: of the look.
        data, performance: reasons of DataStable and PerformanceStable where these are False; else empty.
        estimated: accuracy in the newest window, as the model's confidence lets expect.
    """

    tick: int
    data: str
    performance: str
    estimated: float | None


def told(episode: Episode, right: Array, known: Array) -> tuple[Array, Array]:
    """(right, wrong) predictions whose truth has come back by the end of each tick, since the beginning.

    known: whose truth comes back at all.
    """
    ends = np.concatenate([np.zeros(LABEL_DELAY + 1, int), episode.ends])[: len(episode.ends) + 1]
    found = [np.concatenate([[0], np.cumsum(known & each)])[ends] for each in (right, ~right)]
    return found[0], found[1]


def looks(
    counted: Counted, told: tuple[Array, Array], begin: int, *, max_drop_per_mille: int | None = None
) -> Iterator[Look]:
    """Look from tick `begin` on, as often as the operator does.

    Args:
        told: right and wrong predictions that are known to be so, by tick.
        max_drop_per_mille: of `monitoring.performance`; None: the default.
    """
    world = worlds.serving()
    world.wait(_LONG_AGO.total_seconds())
    quality = {} if max_drop_per_mille is None else {"maxDropPerMille": max_drop_per_mille}
    world.change(monitoring={"drift": {}, "performance": quality})
    world.converge()
    wanted = drift.wish(world.spec)
    assert wanted is not None
    for tick in range(begin, len(told[0]), STEP):
        world.wait(STEP * TICK_SECONDS)
        signal = _signal(counted, told, tick, world.status["stableRevision"])
        findings = drift.found(wanted, signal)
        _pass(world, findings)
        estimated = findings.estimated[0] if findings.estimated else None
        yield Look(tick, _false(world, "DataStable"), _false(world, "PerformanceStable"),
                   estimated.value if estimated else None)  # fmt: skip


def _pass(world: World, findings: drift.Findings) -> None:
    observed = replace(world.observe(), monitoring=findings)
    world.status = modeldeployment.plan(observed).status


def _false(world: World, type_: str) -> str:
    found: Any = conditions.find(world.status, type_)
    return found["reason"] if found["status"] == "False" else ""


def _signal(counted: Counted, told: tuple[Array, Array], tick: int, revision: str) -> Signal:
    ends = [tick - index * WINDOW for index in range(WINDOWS)]
    parts = {part: _series(counted, part, ends) for part in counted.totals}
    right, wrong = ([float(known[max(end, 0)] - known[max(end - WINDOW, 0)]) for end in ends] for known in told)
    return Signal(
        revision=revision,
        window_seconds=WINDOW * TICK_SECONDS,
        profile="complete",
        features={name: series for (kind, name), series in parts.items() if kind == "feature"},
        prediction=parts.get(("prediction", "")),
        confidence=parts.get(("confidence", "")),
        accuracy=counted.accuracy,
        labels=tuple(map(Labels, right, wrong)),
    )


def _series(counted: Counted, part: Part, ends: list[int]) -> Series:
    def window(end: int) -> dict[str, float]:
        return counted.between(part, end - WINDOW, end)

    reference = counted.references[part]
    seasons = []
    for seconds in drift.seasons(WINDOW * TICK_SECONDS):
        cycle = seconds // TICK_SECONDS
        before = tuple(window(end - cycle) for end in ends)
        seasons.append(Season(before, counted.between(part, ends[0] - cycle, ends[0])))
    windows = tuple(window(end) for end in ends)
    return Series(
        Reference(reference.shares, reference.rows),
        windows,
        tuple(seasons),
        design_effect(windows[0], _spread(counted, part, ends[0])),
        counted.excess.get(part, {}),
    )


def _spread(counted: Counted, part: Part, end: int) -> dict[str, float]:
    """What `design_effect` wants: how much shares of neighbouring ticks differ."""
    counts = np.diff(counted.totals[part][max(end - WINDOW, 0) : end + 1], axis=0)
    counts = counts[counts.sum(axis=1) > 0] if (counts.sum(axis=1) > 0).any() else counts[:0]
    if len(counts) < 2:
        return {}
    rows = counts.sum(axis=1, keepdims=True)
    differences = np.diff(counts / rows, axis=0) ** 2 / (1 / rows[1:] + 1 / rows[:-1])
    return dict(zip(counted.bins[part], differences.mean(axis=0).tolist(), strict=True))
