"""`make bench-drift`: how often drift and losses of accuracy are called wrongly, how soon rightly, and how well
accuracy is estimated without labels.

Streams with a known change: river's generators (SEA, Agrawal, STAGGER, ConceptDriftStream), digits with the shifts of
"Failing Loudly", and streams as services see them, with sessions, cycles and small references. Others in which nothing
ever happens. Of each, our trainer trains a model; the serving runtime's own code bins the rows; the operator's own
plans decide, four times a day, about windows of a day. Beside it Evidently and NannyML at their defaults.

* An **alarm** is DataStable or PerformanceStable becoming False where nothing has changed: somebody is told. An
  **action** is PerformanceStable becoming False there: by default the model is trained again. Per year of traffic.
* **Precision and recall** are about the question whether accuracy has fallen by 3 points or more, one week before and
  one after the change each counting once; `monitoring.performance.maxDropPerMille` is 30. The **delay**, of those
  found, is in rows since the change.
* The **error of the estimate** is the mean distance between what it is for the 2,400 rows of a day and the share of
  right answers in all days before the change, or in all days after it, where only inputs change, at once.

The last line on standard output is one JSON object. `others` says the same of peers; a peer that cannot be installed is
null there, and `notes` says why, and which has not come to all streams in its time.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # a process for each core is enough

import numpy as np
from bench.drift import digits, others, service, synthetic, watching
from bench.drift.models import Trained
from bench.drift.others import Days
from bench.drift.rows import DAY, WARM, Array, Episode, Scenario
from bench.drift.scores import Rate, Verdicts, mean_error
from bench.drift.watching import Look
from bench.serving.findings import say

SEED = 20261126
LOST = 0.03
"""The question: has accuracy fallen by so much?"""
QUIET_DAYS = 23
"""Judged ones of each stream in which nothing happens; sixteen of them are a year."""
LAST = 2 * DAY
"""At the end of a stream a gradual change is over."""


@dataclass(frozen=True, slots=True)
class Watched:
    """An episode and what the operator said of it.

    Attributes:
        before, after: share of right answers until the change, and since then.
        fell: what accuracy has lost by the end of the stream.
        file: what peers are given.
    """

    scenario: str
    covariate: bool
    change: int | None
    ends: Array
    looks: tuple[Look, ...]
    before: float
    after: float
    fell: float
    file: Path

    @property
    def days(self) -> float:
        """Judged ones."""
        return (len(self.ends) - WARM) / DAY

    def rows_since_change(self, tick: int) -> float:
        assert self.change is not None
        return float(self.ends[tick - 1] - self.ends[self.change - 1])


def watched(scenario: Scenario, seed: int, folder: Path) -> Watched:
    """Make a stream and a model, and let the operator look."""
    episode = scenario.make(np.random.default_rng([SEED, seed, *scenario.name.encode()]))
    place = Path(tempfile.mkdtemp(dir=folder))
    model = Trained.of(scenario, episode, seed, place)
    said = model.say(episode.live)
    right = said[0] == episode.live.truth
    known = np.random.default_rng([seed, 1]).random(len(right)) < episode.labelled
    counted = model.count(episode)
    tolerated = None if scenario.nothing_changes else round(1000 * LOST)
    looks = tuple(watching.looks(counted, watching.told(episode, right, known), WARM, max_drop_per_mille=tolerated))
    last = len(episode.ends)
    change = last if episode.change is None else episode.change
    file = place / "episode.npz"
    others.store(file, episode, said, known, model.reference_rows, seed)
    return Watched(
        scenario=scenario.name,
        covariate=scenario.covariate,
        change=episode.change,
        ends=episode.ends,
        looks=looks,
        before=_share(episode, right, 0, change),
        after=_share(episode, right, change, last) if change < last else math.nan,
        fell=_share(episode, right, 0, change) - _share(episode, right, last - LAST, last) if change < last else 0.0,
        file=file,
    )


def _share(episode: Episode, right: Array, first: int, last: int) -> float:
    return float(right[episode.between(first, last)].mean())


# --- What is made of it -----------------------------------------------------------------------------------------------


def ours(streams: Iterable[Watched]) -> dict[str, Any]:
    """The figures, and the same by scenario."""
    alarms, actions, verdicts = Rate(), Rate(), Verdicts()
    pairs: list[tuple[float, float]] = []
    by_scenario: dict[str, list[Watched]] = defaultdict(list)
    for stream in streams:
        by_scenario[stream.scenario].append(stream)
        if stream.change is None:
            alarms.add([bool(look.data or look.performance) for look in stream.looks], stream.days)
            actions.add([bool(look.performance) for look in stream.looks], stream.days)
            continue
        alarming = [(look.tick, bool(look.performance)) for look in stream.looks]
        _add(verdicts, stream, alarming)
        if stream.covariate:
            pairs += _pairs(stream, _estimates(stream))
    return {
        **_figures(alarms, actions, verdicts, pairs),
        "scenarios": {name: _scenario(each) for name, each in by_scenario.items()},
    }


def peer(streams: Iterable[Watched], said: dict[Path, Days]) -> dict[str, Any]:
    """The same figures. Its alarms are its verdict on the data, and any of some column; its actions what it says of
    accuracy. Where it cannot estimate that, its verdict on the data stands for it."""
    alarms, any_alarms, actions, verdicts = Rate(), Rate(), Rate(), Verdicts()
    pairs: list[tuple[float, float]] = []
    count = 0
    for stream in streams:
        if (days := said.get(stream.file)) is None:
            continue
        count += 1
        acting = (
            days.performance if days.estimated else [a or b for a, b in zip(days.performance, days.drift, strict=True)]
        )
        if stream.change is None:
            alarms.add([a or b for a, b in zip(days.drift, acting, strict=True)], stream.days)
            any_alarms.add([a or b for a, b in zip(days.any, acting, strict=True)], stream.days)
            actions.add(acting, stream.days)
            continue
        ticks = range(WARM + DAY, len(stream.ends) + 1, DAY)
        _add(verdicts, stream, list(zip(ticks, acting, strict=True)))
        if stream.covariate and days.estimated:
            pairs += _pairs(stream, zip(ticks, days.estimated, strict=True))
    return {
        **_figures(alarms, actions, verdicts, pairs),
        "alarms_of_any_column_per_year": any_alarms.per_year,
        "streams": count,
    }


def _figures(alarms: Rate, actions: Rate, verdicts: Verdicts, pairs: list[tuple[float, float]]) -> dict[str, Any]:
    return {
        "false_actions_per_year": actions.per_year,
        "false_alarms_per_year": alarms.per_year,
        "precision": verdicts.precision,
        "recall": verdicts.recall,
        "delay_rows_p50": verdicts.delay_p50,
        "estimated_accuracy_mae": mean_error(pairs),
    }


def _add(verdicts: Verdicts, stream: Watched, alarming: Sequence[tuple[int, bool]]) -> None:
    assert stream.change is not None
    before = any(alarm for tick, alarm in alarming if tick <= stream.change)
    verdicts.add(False, 0.0 if before else None)
    since = next((tick for tick, alarm in alarming if alarm and tick > stream.change), None)
    verdicts.add(stream.fell >= LOST, None if since is None else stream.rows_since_change(since))


def _pairs(stream: Watched, estimates: Iterable[tuple[int, float | None]]) -> list[tuple[float, float]]:
    """Estimates by the tick at which a day ends, each with the share of right answers."""
    change = len(stream.ends) if stream.change is None else stream.change
    return [
        (estimated, stream.before if tick <= change else stream.after)
        for tick, estimated in estimates
        if estimated is not None and tick % DAY == 0
    ]


def _estimates(stream: Watched) -> list[tuple[int, float | None]]:
    return [(look.tick, look.estimated) for look in stream.looks]


def _scenario(streams: list[Watched]) -> dict[str, Any]:
    def begun(which: str, *, after: bool) -> int:
        return sum(
            any(
                getattr(look, which)
                for look in each.looks
                if (each.change is not None and look.tick > each.change) is after
            )
            for each in streams
        )

    return {
        "streams": len(streams),
        "fell": round(float(np.mean([each.fell for each in streams])), 4),
        "data_alarms_before": begun("data", after=False),
        "data_alarms_after": begun("data", after=True),
        "accuracy_alarms_before": begun("performance", after=False),
        "accuracy_alarms_after": begun("performance", after=True),
        "estimated_accuracy_mae": mean_error(pair for each in streams for pair in _pairs(each, _estimates(each))),
    }


# --- The run ----------------------------------------------------------------------------------------------------------


def all_watched(scenarios: Sequence[tuple[Scenario, int]], folder: Path, processes: int) -> list[Watched]:
    """Scenarios with the number of their streams."""
    asked = [(scenario, seed) for scenario, seeds in scenarios for seed in range(seeds)]
    with ProcessPoolExecutor(processes) as pool:
        futures = {pool.submit(watched, scenario, seed, folder): (scenario.name, seed) for scenario, seed in asked}
        found = {}
        for future in as_completed(futures):
            stream = found[futures[future]] = future.result()
            alarms = sorted({look.data for look in stream.looks} | {look.performance for look in stream.looks} - {""})
            say(
                f"{stream.scenario}: accuracy fell by {stream.fell:.3f}; {', '.join(filter(None, alarms)) or 'nothing'}"
            )
    return [found[scenario.name, seed] for scenario, seed in asked]


def peers(streams: Sequence[Watched], seconds: float) -> tuple[dict[str, Any], dict[str, str]]:
    """(figures, notes) by peer, of one stream of each scenario, at the same time."""
    firsts = list({stream.scenario: stream for stream in reversed(streams)}.values())[::-1]
    files = [stream.file for stream in firsts]
    found: dict[str, Any] = dict.fromkeys(others.PEERS)
    notes: dict[str, str] = {}
    with ThreadPoolExecutor(len(others.PEERS)) as pool:
        futures = {name: pool.submit(partial(others.days, name, files, seconds)) for name in others.PEERS}
        for name, future in futures.items():
            try:
                said = future.result()
                if len(said) < len(files):
                    notes[name] = f"{len(said)} of {len(files)} streams in {seconds:g} s"
                found[name] = peer(firsts, said)
            except (others.OtherError, subprocess.CalledProcessError) as error:
                notes[name] = str(error)
            say(f"{name}: {found[name]} {notes.get(name, '')}")
    return found, notes


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench-drift", description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3, help="streams of each kind with a change")
    parser.add_argument("--quiet", type=int, default=8, help="streams of each kind without one")
    parser.add_argument("--peer-seconds", type=float, default=420, help="that peers may take; 0: none are asked")
    options = parser.parse_args()
    wanted = [(each, options.seeds) for each in (*service.changing(), *synthetic.changing())]
    wanted += [(each, options.quiet) for each in service.unchanging(QUIET_DAYS)]
    wanted += [(each, options.seeds) for each in digits.changing()]  # last: they have most columns
    with tempfile.TemporaryDirectory(prefix="bench-drift-") as scratch:
        streams = all_watched(wanted, Path(scratch), os.cpu_count() or 1)
        figures = ours(streams)
        say(f"holdfast: {json.dumps(figures)}")
        said, notes = peers(streams, options.peer_seconds) if options.peer_seconds else ({}, {})
    print(json.dumps({**figures, "others": said, "notes": notes}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
