"""Whether rows still spread as the held-out ones: seldom denied of traffic that does, soon of what does not."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pytest

from holdfast.stats import drift
from holdfast.stats.drift import Finding, Reference, Season, Series, Shift

RANDOM = 20261126
BINS = 10
DAY = 86_400
ALPHA = drift.alpha(DAY, 22)
Floats = npt.NDArray[np.float64]


def counted(rows: npt.NDArray[np.generic]) -> dict[str, float]:
    return {str(place): float(count) for place, count in enumerate(rows)}


def reference(shares: Floats, rows: float = 5000) -> Reference:
    return Reference(counted(shares), rows)


def tilted(by: float) -> Floats:
    """Ten bins, the higher ones fuller."""
    shares = np.exp(by * np.linspace(-1, 1, BINS))
    tilt: Floats = shares / shares.sum()
    return tilt


EVEN = tilted(0.0)
FAR = tilted(1.0)
"""A PSI of 0.37."""


def judged(*windows: Mapping[str, float], effect: float = 1.0, seasons: tuple[Season, ...] = ()) -> Finding:
    return drift.found(Series(reference(EVEN), windows, seasons, effect), 0.1, ALPHA)


def exactly(shares: Floats, rows: float = 2000) -> dict[str, float]:
    return counted(shares * rows)


def test_two_windows_of_three_make_a_drift_and_one_makes_none() -> None:
    assert not judged(exactly(FAR), exactly(EVEN), exactly(EVEN)).drifts()
    assert judged(exactly(FAR), exactly(FAR), exactly(EVEN)).drifts()
    assert judged(exactly(EVEN), exactly(FAR), exactly(FAR)).drifts()


def test_what_has_drifted_goes_on_until_it_is_well_below_its_limit() -> None:
    limit = judged(exactly(EVEN)).newest.limit
    between = next(tilted(by) for by in np.linspace(0, 1, 400) if _psi(tilted(by)) > 0.9 * limit)
    below = next(tilted(by) for by in np.linspace(0, 1, 400) if _psi(tilted(by)) > 0.7 * limit)
    finding = judged(*[exactly(between)] * 3)
    assert finding.drifts(drifted=True)
    assert not finding.drifts()
    assert not judged(*[exactly(below)] * 3).drifts(drifted=True)


def _psi(shares: Floats) -> float:
    return judged(exactly(shares)).newest.psi


def test_few_rows_tell_nothing() -> None:
    few = judged(*[exactly(FAR, 499)] * 3)
    assert not few.newest.enough
    assert not few.drifts()
    assert judged(*[exactly(FAR, 501)] * 3).drifts()
    alike = judged(*[exactly(FAR, 2000)] * 3, effect=21)
    assert not alike.newest.enough
    assert not alike.drifts()


def sessions(random: np.random.Generator, count: int, length: int) -> npt.NDArray[np.int64]:
    """Rows by bin of so many sessions, each of which stays in one bin."""
    return random.multinomial(count, EVEN) * length


def neighbours(intervals: npt.NDArray[np.int64]) -> dict[str, float]:
    """What Prometheus is asked for: how much shares of neighbouring intervals differ, over the noise."""
    rows = intervals.sum(axis=1)
    shares = intervals / rows[:, None]
    noise = 1 / rows[1:] + 1 / rows[:-1]
    return counted((np.diff(shares, axis=0) ** 2 / noise[:, None]).mean(axis=0))


@pytest.mark.parametrize("length", [1, 4, 10])
def test_rows_of_a_session_count_as_one(length: int) -> None:
    random = np.random.default_rng(RANDOM)
    intervals = np.array([sessions(random, 40, length) for _ in range(96)])
    effect = drift.design_effect(counted(intervals.sum(axis=0)), neighbours(intervals))
    assert effect == pytest.approx(length, rel=0.15)


def test_neither_a_daily_cycle_nor_a_drift_is_called_noise() -> None:
    random = np.random.default_rng(RANDOM)
    hours = np.sin(np.linspace(0, 2 * np.pi, 96))
    cycle = np.array([random.multinomial(100, tilted(1.5 * at)) for at in hours])
    step = np.array([random.multinomial(100, EVEN if at < 48 else FAR) for at in range(96)])
    for intervals in (cycle, step):
        assert drift.design_effect(counted(intervals.sum(axis=0)), neighbours(intervals)) < 1.4


def test_sessions_raise_no_false_alarms() -> None:
    """600 windows of 60 sessions of ten rows: taken for 600 independent rows they would be beyond many times."""
    random = np.random.default_rng(RANDOM)
    windows = [counted(sessions(random, 120, 10)) for _ in range(600)]
    naive = sum(judged(window).newest.beyond() for window in windows)
    careful = sum(judged(window, effect=10.0).newest.beyond() for window in windows)
    assert careful == 0
    assert naive >= 5


@pytest.mark.parametrize("rows", [500, 2000])
def test_a_true_shift_that_is_tolerated_is_beyond_as_seldom_as_promised(rows: int) -> None:
    random = np.random.default_rng(RANDOM)
    at = next(tilted(by) for by in np.linspace(0, 1, 2001) if _psi_of(tilted(by)) >= 0.1)
    beyond = 0
    for _ in range(2000):
        held_out = Reference(counted(random.multinomial(2000, EVEN) / 2000), 2000)
        finding = drift.found(Series(held_out, (counted(random.multinomial(rows, at)),)), 0.1, 0.01)
        beyond += finding.newest.beyond()
    assert beyond <= 38  # 1 % of 2,000, and four standard deviations


def _psi_of(shares: Floats) -> float:
    return float(((shares - EVEN) * np.log(shares / EVEN)).sum())


def test_one_alarm_in_a_year_is_shared_by_all_series_and_windows() -> None:
    assert drift.alpha(DAY, 10) * 10 * 365.25 == pytest.approx(1.0)
    assert drift.alpha(3600, 22) == pytest.approx(5.2e-6, rel=0.01)
    assert drift.alpha(7 * DAY, 1) == 0.001


def week(normal: Floats, at_weekends: Floats) -> Season:
    """Saturday, Sunday and the Friday before are the last three days."""
    whole = (5 * normal + 2 * at_weekends) * 2000
    return Season((exactly(at_weekends), exactly(at_weekends), exactly(normal)), counted(whole))


def test_a_weekend_like_the_last_one_is_no_drift() -> None:
    weekend = exactly(FAR)
    alone = judged(weekend, weekend, exactly(EVEN))
    assert alone.drifts()
    explained = judged(weekend, weekend, exactly(EVEN), seasons=(week(EVEN, FAR),))
    assert explained.newest.seasonal
    assert not explained.drifts()
    assert not explained.drifts(drifted=True)


def test_a_weekend_unlike_the_last_one_is_one() -> None:
    weekend = exactly(tilted(-1.0))
    assert judged(weekend, weekend, exactly(EVEN), seasons=(week(EVEN, FAR),)).drifts()


def test_a_drift_that_came_to_stay_is_not_explained_by_itself() -> None:
    """A week later the same days of the week before have drifted, too, but so has all of the week."""
    season = Season((exactly(FAR),) * 3, exactly(FAR, 14_000))
    finding = judged(*[exactly(FAR)] * 3, seasons=(season,))
    assert not finding.newest.seasonal
    assert finding.drifts()


def test_a_season_without_rows_explains_nothing() -> None:
    assert judged(*[exactly(FAR)] * 3, seasons=(Season(({}, {}, {}), exactly(EVEN)),)).drifts()


@pytest.mark.parametrize("bin_", drift.FAULTS)
def test_values_that_are_suddenly_missing_or_unknown_are_a_fault_and_no_drift(bin_: str) -> None:
    held_out = Reference(counted(EVEN * 0.99) | {"missing": 0.01, "other": 0.0}, 5000)
    broken = {**counted(EVEN * 1200), bin_: 800.0}
    finding = drift.found(Series(held_out, (broken, broken, broken)), 0.1, ALPHA)
    assert finding.newest.fault == bin_
    assert finding.newest.psi > finding.newest.limit
    assert not finding.drifts()
    assert not finding.drifts(drifted=True)


@pytest.mark.parametrize("share", [0.0, 0.02, 0.055])
def test_some_more_missing_values_are_no_fault(share: float) -> None:
    held_out = Reference(counted(EVEN * 0.99) | {"missing": 0.01}, 5000)
    counts = {**counted(EVEN * 2000 * (1 - share)), "missing": 2000 * share}
    assert drift.found(Series(held_out, (counts,)), 0.1, ALPHA).newest.fault == ""


def test_a_window_with_a_fault_is_no_evidence_beside_others() -> None:
    held_out = Reference(counted(EVEN) | {"missing": 0.0}, 5000)
    broken, moved = {**counted(FAR * 1000), "missing": 1000.0}, {**exactly(FAR), "missing": 0.0}
    assert not drift.found(Series(held_out, (moved, broken, broken)), 0.1, ALPHA).drifts()
    assert drift.found(Series(held_out, (moved, moved, broken)), 0.1, ALPHA).drifts()


def test_bins_that_are_empty_on_both_sides_change_nothing() -> None:
    plain = judged(exactly(FAR)).newest
    more = drift.found(
        Series(Reference(counted(EVEN) | {"other": 0.0}, 5000), (exactly(FAR) | {"other": 0.0},)), 0.1, ALPHA
    )
    assert more.newest == plain


def test_no_rows_at_all_are_no_shift() -> None:
    assert judged({}, {}, {}).newest == Shift(0.0, float("inf"), 0.0, enough=False)
    nothing = drift.found(Series(Reference({}, 0.0), (exactly(FAR),)), 0.1, ALPHA)
    assert not nothing.newest.enough
