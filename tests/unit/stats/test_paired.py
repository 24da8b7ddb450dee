"""Rows that two models have both answered: only a gross disagreement counts, at any look."""

import math

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from holdfast.stats.paired import ALPHA, TOLERATED, Comparison


@settings(deadline=None)
@given(st.integers(0, 200), st.data(), st.floats(0.01, TOLERATED))
def test_no_row_is_expected_to_raise_the_evidence_where_the_disagreement_is_tolerated(
    rows: int, data: st.DataObject, rate: float
) -> None:
    disagreeing = data.draw(st.integers(0, rows))
    now = Comparison(rows, disagreeing).log_e()
    different = math.exp(Comparison(rows + 1, disagreeing + 1).log_e() - now)
    same = math.exp(Comparison(rows + 1, disagreeing).log_e() - now)
    assert rate * different + (1 - rate) * same <= 1 + 1e-6


def test_the_evidence_of_nothing_is_one() -> None:
    assert Comparison(0, 0).log_e() == pytest.approx(0)
    assert Comparison(0, 0).rate == 0


def test_equal_odds_exceed_the_limit_at_some_look_as_seldom_as_promised() -> None:
    """Exactly, by the law of the walk: a disagreement of what is just tolerated, looked at after each of 400 rows."""
    alive, crossed = {0: 1.0}, 0.0
    for rows in range(1, 401):
        after: dict[int, float] = {}
        for disagreeing, share in alive.items():
            for more, chance in ((1, TOLERATED), (0, 1 - TOLERATED)):
                if Comparison(rows, disagreeing + more).exceeds():
                    crossed += share * chance
                else:
                    after[disagreeing + more] = after.get(disagreeing + more, 0.0) + share * chance
        alive = after
    assert 0 < crossed <= ALPHA


@pytest.mark.parametrize(("rows", "disagreeing"), [(7, 7), (10, 9), (30, 18), (100, 45), (1000, 320)])
def test_a_gross_disagreement_is_found_in_few_rows(rows: int, disagreeing: int) -> None:
    assert Comparison(rows, disagreeing).exceeds()


@pytest.mark.parametrize(("rows", "disagreeing"), [(5, 5), (10, 7), (30, 12), (1000, 270), (100_000, 10_000), (9, 0)])
def test_what_two_good_models_disagree_on_is_not_held_against_either(rows: int, disagreeing: int) -> None:
    assert not Comparison(rows, disagreeing).exceeds()


def test_rows_that_come_ten_at_a_time_count_a_tenth() -> None:
    assert Comparison(60, 60).exceeds()
    assert not Comparison(60, 60).exceeds(effect=10)
    assert Comparison(60, 60).log_e(effect=10) == pytest.approx(Comparison(6, 6).log_e())


@settings(deadline=None)
@given(st.integers(0, 10**7), st.data())
def test_any_counts_have_an_answer(rows: int, data: st.DataObject) -> None:
    disagreeing = data.draw(st.integers(0, rows))
    more = min(disagreeing + 1, rows)
    assert Comparison(rows, more).log_e() >= Comparison(rows, disagreeing).log_e() - 1e-6


def test_counts_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError):
        Comparison(3, 4)
    with pytest.raises(ValueError):
        Comparison(3, -1)
