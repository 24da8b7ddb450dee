"""Budgets and how fast they burn: no alarm for a bad minute, for what is over, or for a single request."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from holdfast.stats.burnrate import DAY, HOUR, PAIRS, Burn, Ratio, budget_left, burns

SECONDS = sorted({seconds for pair in PAIRS for seconds in (pair.short, pair.long)})


def steady(rate: float, per_second: float, bad_for: float) -> dict[int, Ratio]:
    """Windows at a time when a share of requests has been bad for so many seconds, and none before."""
    return {w: Ratio(rate * min(w, bad_for) * per_second, w * per_second) for w in SECONDS}


def firing(windows: dict[int, Ratio], allowed: float = 0.001, window_days: int = 30) -> list[int]:
    return [burn.pair.long for burn in burns(windows, allowed, window_days) if burn.fires]


def test_the_factors_of_thirty_days_are_the_workbooks() -> None:
    assert [pair.factor(30) for pair in PAIRS] == pytest.approx([14.4, 6, 3, 1])


@pytest.mark.parametrize("days", [7, 28, 90])
def test_a_factor_spends_its_share_of_the_budget_in_its_long_window(days: int) -> None:
    for pair in PAIRS:
        if pair.factor(days) > 1:
            assert pair.factor(days) * pair.long == pytest.approx(pair.share * days * DAY)


def test_no_pair_fires_at_a_rate_that_leaves_budget_at_the_end() -> None:
    assert firing(steady(0.0009, 1000, 7 * DAY), window_days=7) == []
    assert firing(steady(0.0012, 1000, 7 * DAY), window_days=7) == [DAY, 3 * DAY]


@pytest.mark.parametrize(
    ("rate", "seconds", "long"),
    [(1.0, 52, HOUR), (0.1, 519, HOUR), (1.0, 130, 6 * HOUR), (0.01, 13_000, 6 * HOUR), (0.01, 25_950, DAY)],
)
def test_each_pair_fires_when_its_share_is_spent(rate: float, seconds: int, long: int) -> None:
    """At an objective of 99.9 %: 52 s when everything fails, 519 s when a tenth does."""
    assert long not in firing(steady(rate, 10_000, seconds * 0.97))
    assert long in firing(steady(rate, 10_000, seconds * 1.05))


def test_what_is_over_fires_no_more() -> None:
    windows = steady(1.0, 100, 120)
    assert HOUR in firing(windows)
    assert HOUR not in firing(windows | {300: Ratio(0, 30_000)})


@pytest.mark.parametrize("allowed", [0.0001, 0.001, 0.01])
def test_one_bad_request_is_no_alarm_however_few_there_are(allowed: float) -> None:
    assert firing(dict.fromkeys(SECONDS, Ratio(1, 1)), allowed) == []


def test_quiet_services_within_their_objective_page_nobody_in_a_year() -> None:
    """Ten requests an hour, of which one in a thousand is bad, looked at after each of them."""
    bad = (np.random.default_rng(5).random((20, 87_600)) < 0.001).cumsum(axis=1)
    alarms = unguarded = 0
    for year in bad:
        for at in np.flatnonzero(np.diff(year)) + 1:  # no other look can be the first to fire
            hour = Ratio(float(year[at] - year[max(0, at - 10)]), 10.0)
            windows = {300: Ratio(1.0, 1.0), HOUR: hour}
            (burn,) = burns(windows, 0.001, 30)
            unguarded += burn.long > burn.factor and burn.short > burn.factor
            alarms += burn.fires
    assert unguarded > 1000
    assert alarms <= 2


def test_windows_that_nobody_knows_say_nothing() -> None:
    assert burns({}, 0.001, 30) == ()
    known: tuple[Burn, ...] = burns({300: Ratio(9, 9), HOUR: Ratio(9, 9), DAY: Ratio(9, 9)}, 0.001, 30)
    assert [burn.pair.long for burn in known] == [HOUR]


def test_a_budget_is_left_spent_or_overspent() -> None:
    assert budget_left(Ratio(0, 0), 0.001) == 1
    assert budget_left(Ratio(17, 100_000), 0.001) == pytest.approx(0.83)
    assert budget_left(Ratio(100, 100_000), 0.001) == pytest.approx(0)
    assert budget_left(Ratio(300, 100_000), 0.001) == pytest.approx(-2)


@settings(deadline=None)
@given(st.floats(0, 1e6), st.floats(0, 1e6), st.sampled_from([0.5, 0.01, 0.00001]))
def test_any_counts_have_an_answer(bad: float, more: float, allowed: float) -> None:
    """Prometheus extrapolates: counts are no whole numbers."""
    for burn in burns(dict.fromkeys(SECONDS, Ratio(bad, bad + more)), allowed, 30):
        assert burn.fires == (burn.certain and burn.long > burn.factor)
