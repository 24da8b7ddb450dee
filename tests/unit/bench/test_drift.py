"""A sample of `make bench-drift`: streams whose history is known, and what the operator says of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from bench import bench_drift as bench
from bench.bench_drift import Watched
from bench.drift import service
from bench.drift.others import Days
from bench.drift.rows import AFTER, BEFORE, DAY, PER_DAY, WARM
from bench.drift.scores import Rate, Verdicts


@pytest.fixture(scope="module")
def streams(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Watched]:
    """By the scenario."""
    folder = tmp_path_factory.mktemp("streams")
    wanted = {
        "service: unimportant inputs move",
        "service: cases come closer to the line",
        "service: an input means the contrary, labels",
        "service: sessions and cycles, labels",
    }
    scenarios = [each for each in (*service.changing(), *service.unchanging(7)) if each.name in wanted]
    assert len(scenarios) == len(wanted)
    return {each.name.removeprefix("service: "): bench.watched(each, 0, folder) for each in scenarios}


def said(stream: Watched) -> set[str]:
    return {look.data for look in stream.looks} | {look.performance for look in stream.looks}


def test_sessions_days_and_weeks_are_no_news(streams: dict[str, Watched]) -> None:
    quiet = streams["sessions and cycles, labels"]
    assert len(quiet.looks) == 4 * 7 + 1
    assert said(quiet) == {""}
    figures = bench.ours([quiet])
    assert (figures["false_alarms_per_year"], figures["false_actions_per_year"]) == (0, 0)


def test_inputs_that_move_without_a_loss_are_told_and_nothing_more(streams: dict[str, Watched]) -> None:
    stream = streams["unimportant inputs move"]
    assert abs(stream.fell) < 0.02
    assert said(stream) == {"", "FeatureDrift"}
    assert all(look.tick > (stream.change or 0) for look in stream.looks if look.data)
    assert bench.ours([stream])["estimated_accuracy_mae"] < 0.02


def test_a_loss_by_inputs_that_move_is_estimated_without_labels(streams: dict[str, Watched]) -> None:
    stream = streams["cases come closer to the line"]
    assert stream.fell >= bench.LOST
    assert said(stream) == {"", "FeatureDrift", "EstimatedDrop"}
    figures = bench.ours([stream])
    assert figures["estimated_accuracy_mae"] < 0.02
    assert (figures["precision"], figures["recall"]) == (1, 1)
    assert 0 < figures["delay_rows_p50"] <= 4 * PER_DAY


def test_a_loss_by_what_rows_mean_is_measured_by_labels(streams: dict[str, Watched]) -> None:
    stream = streams["an input means the contrary, labels"]
    assert stream.fell > 0.1
    assert said(stream) == {"", "MeasuredDrop"}
    assert bench.ours([stream])["recall"] == 1


def test_alarms_of_a_peer_are_counted_by_the_day(streams: dict[str, Watched]) -> None:
    loss, quiet = streams["an input means the contrary, labels"], streams["sessions and cycles, labels"]
    days = (BEFORE + AFTER) // DAY
    since = [False] * 8 + [True] * (days - 8)
    told = {
        loss.file: Days(drift=since, any=since, performance=since, estimated=[0.9] * days),
        quiet.file: Days(
            drift=[True, False] * 3 + [True], any=[True] * 7, performance=[False] * 7, estimated=[0.9] * 7
        ),
    }
    figures = bench.peer([loss, quiet], told)
    assert (figures["precision"], figures["recall"], figures["streams"]) == (1, 1, 2)
    assert figures["delay_rows_p50"] == pytest.approx(2 * PER_DAY, rel=0.1)
    assert figures["false_alarms_per_year"] == pytest.approx(4 * 365.25 / 7, rel=0.01)
    assert figures["false_actions_per_year"] == 0
    early = {loss.file: replace(told[loss.file], performance=[True] * days)}
    assert bench.peer([loss], early)["precision"] == 0.5


def test_what_a_peer_is_given_is_what_came(streams: dict[str, Watched]) -> None:
    stream = streams["an input means the contrary, labels"]
    stored = np.load(stream.file, allow_pickle=True)
    day = stored["day"]
    assert day.max() == (WARM + BEFORE + AFTER) // DAY - 1
    assert day[stored["reference"]].max() < stored["warm"] == WARM // DAY
    right = stored["prediction"] == stored["truth"]
    since = day >= (stream.change or 0) // DAY
    assert right[~since].mean() - right[since].mean() == pytest.approx(stream.before - stream.after)
    assert 0.15 < stored["known"].mean() < 0.25


def test_only_what_began_counts_as_an_alarm_and_only_what_fell_as_found() -> None:
    rate = Rate()
    rate.add([True, True, False, True], 365.25)
    rate.add([True], 365.25)
    assert rate.per_year == 1.5
    verdicts = Verdicts()
    for fell, delay in ((True, 10.0), (True, 30.0), (True, None), (False, 5.0), (False, None)):
        verdicts.add(fell, delay)
    assert (verdicts.precision, verdicts.recall, verdicts.delay_p50) == (0.667, 0.667, 20)
