"""Whether two arms answer differently: seldom said of equal ones, soon of different ones."""

import math

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from holdfast.stats.divergence import DisagreementTest, critical, psi

RANDOM = 20261125


def counted(rows: np.ndarray) -> dict[str, int]:
    return {str(place): int(count) for place, count in enumerate(rows)}


def test_the_limits_of_drift_are_those_that_were_designed() -> None:
    """Ten bins, 10,000 rows of reference, a PSI of 0.1 tolerated, at most one false alarm in a year of 22 series."""
    limits = [critical(n, 10_000, 10, 0.1, 5.2e-6) for n in (500, 1000, 2000, 5000)]
    assert limits == pytest.approx([0.290, 0.224, 0.186, 0.157], abs=0.001)


def test_a_difference_that_is_just_tolerated_exceeds_the_limit_as_seldom_as_promised() -> None:
    p = np.full(10, 0.1)
    slope = np.linspace(-1, 1, 10)
    scales = np.linspace(0, 2, 20_001)
    shifted = [p * np.exp(scale * slope) / (p * np.exp(scale * slope)).sum() for scale in scales]
    at = next(q for q in shifted if ((q - p) * np.log(q / p)).sum() >= 0.1)
    random = np.random.default_rng(RANDOM)
    limit = critical(500, 4500, 10, 0.1, 0.01)
    said = sum(
        psi(random.multinomial(4500, p).tolist(), random.multinomial(500, at).tolist()) > limit for _ in range(4000)
    )
    assert 20 <= said <= 64  # 1 % of 4,000, give or take four standard deviations


@pytest.mark.parametrize("shares", [[0.1] * 10, [0.9, 0.1], [0.97, 0.01, 0.01, 0.005, 0.005]])
def test_equal_arms_are_called_different_in_no_rollout(shares: list[float]) -> None:
    """80 rollouts, looked at again and again, a tenth of the rows going to the candidate."""
    random = np.random.default_rng(RANDOM)
    control = random.multinomial(450, shares, (80, 40)).cumsum(axis=1)
    treated = random.multinomial(50, shares, (80, 40)).cumsum(axis=1)
    for rollout in range(80):
        for look in range(1, 40, 6):
            assert not DisagreementTest.of(counted(control[rollout, look]), counted(treated[rollout, look])).exceeds


def test_a_model_with_its_classes_mixed_up_is_found_with_the_first_rows_that_are_enough() -> None:
    test = DisagreementTest.of({"0": 600, "1": 200, "2": 100}, {"0": 10, "1": 25, "2": 65})
    assert test.enough
    assert test.exceeds
    assert test.psi > test.limit


def test_a_small_difference_is_tolerated_however_many_rows_show_it() -> None:
    control, treated = {"0": 500_000, "1": 500_000}, {"0": 550_000, "1": 450_000}
    assert not DisagreementTest.of(control, treated).exceeds
    assert DisagreementTest.of(control, treated, tolerated=0.001).exceeds


def test_too_few_rows_say_nothing() -> None:
    few = DisagreementTest.of({"0": 900, "1": 100}, {"0": 9, "1": 90})
    assert (few.enough, few.exceeds, few.rows) == (False, False, 99)
    assert math.isinf(few.limit)
    assert DisagreementTest.of({}, {}).psi == 0
    assert not DisagreementTest.of({"0": 1000}, {"0": 1000}).enough


def test_rows_that_come_ten_at_a_time_count_a_tenth() -> None:
    control, treated = {"0": 9000, "1": 9000}, {"0": 700, "1": 300}
    alone = DisagreementTest.of(control, treated)
    together = DisagreementTest.of(control, treated, effect=10)
    assert together.psi == alone.psi
    assert together.limit > 2 * alone.limit
    assert not DisagreementTest.of(control, treated, effect=11).enough


def test_bins_that_one_arm_lacks_are_empty() -> None:
    assert DisagreementTest.of({"0": 1000}, {"1": 1000}).exceeds


counts = st.lists(st.integers(0, 10_000), min_size=2, max_size=12)


@settings(deadline=None)
@given(counts, st.data())
def test_the_index_is_the_same_both_ways_and_never_below_nothing(one: list[int], data: st.DataObject) -> None:
    other = data.draw(st.lists(st.integers(0, 10_000), min_size=len(one), max_size=len(one)))
    assert psi(one, other) == pytest.approx(psi(other, one))
    assert psi(one, other) >= 0
    assert psi(one, one) == 0


@settings(deadline=None)
@given(st.floats(100, 1e5), st.floats(100, 1e5), st.integers(2, 30), st.floats(0.001, 1))
def test_more_rows_make_the_limit_tighter_and_it_is_never_below_what_is_tolerated(
    n: float, m: float, bins: int, tolerated: float
) -> None:
    assert tolerated < critical(2 * n, m, bins, tolerated) < critical(n, m, bins, tolerated)
