"""The bound for promotion: valid at every look, reached by a clean candidate in about 3/tolerance requests."""

import json
import math
from functools import reduce

import hypothesis.strategies as st
import pytest
from hypothesis import assume, given, settings

from holdfast.stats.arms import Arm
from holdfast.stats.sequence import TOLERANCES, NonInferiority

Block = tuple[Arm, Arm]


@st.composite
def arms(draw: st.DrawFn, most: int = 40) -> Arm:
    requests = draw(st.integers(0, most))
    return Arm(requests, draw(st.integers(0, requests)))


histories = st.lists(st.tuples(arms(), arms()), max_size=4)


def after(blocks: list[Block], start: NonInferiority | None = None) -> NonInferiority:
    return reduce(lambda sequence, block: sequence.observed(*block), blocks, start or NonInferiority.none())


def binomial(n: int, x: int, rate: float) -> float:
    return math.comb(n, x) * rate**x * (1 - rate) ** (n - x)


def wealth(sequence: NonInferiority, place: int) -> float:
    return math.exp(sequence.logs[place]) + math.exp(sequence.logs[-1])


@settings(max_examples=40, deadline=None)
@given(
    histories,
    st.integers(0, 8),
    st.integers(0, 6),
    st.integers(0, len(TOLERANCES) - 1),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_no_bet_is_expected_to_win_where_the_excess_is_the_tolerance_or_more(
    history: list[Block], n_control: int, n_treated: int, place: int, control: float, more: float
) -> None:
    tolerance = TOLERANCES[place]
    control *= 1 - tolerance
    treated = control + tolerance + more * (1 - control - tolerance)
    assume(treated <= 1)
    sequence = after(history)
    expected = sum(
        binomial(n_control, x, control)
        * binomial(n_treated, y, treated)
        * wealth(sequence.observed(Arm(n_control, x), Arm(n_treated, y)), place)
        for x in range(n_control + 1)
        for y in range(n_treated + 1)
    )
    assert expected <= wealth(sequence, place) * (1 + 1e-9)


@pytest.mark.parametrize("tolerance", [0.005, 0.01, 0.05])
@pytest.mark.parametrize("treated", [1, 5])
def test_a_clean_candidate_needs_three_over_the_tolerance(tolerance: float, treated: int) -> None:
    sequence, requests = NonInferiority.none(), 0
    promised = sequence.missing(tolerance)
    while not sequence.is_no_worse(tolerance):
        sequence = sequence.observed(Arm(10 - treated, 0), Arm(treated, 0))
        requests += treated
    assert promised == pytest.approx(3 / tolerance, rel=0.02)
    assert requests == pytest.approx(3 / tolerance, rel=0.15)
    assert sequence.missing(tolerance) == 0


def test_failures_of_the_candidate_make_it_take_longer() -> None:
    clean = after([(Arm(90, 0), Arm(10, 0))] * 50)
    failed = clean.observed(Arm(90, 0), Arm(10, 2))
    assert failed.missing(0.005) > clean.missing(0.005) + 200
    assert not after([(Arm(90, 0), Arm(10, 0))] * 30, failed).is_no_worse(0.005)


def test_what_is_missing_is_about_what_it_takes() -> None:
    """At one failure in a hundred in both arms."""
    sequence = after([(Arm(900, 9), Arm(100, 1))] * 5)
    promised = sequence.missing(0.01)
    before = sequence.treated.requests
    while not sequence.is_no_worse(0.01):
        sequence = sequence.observed(Arm(900, 9), Arm(100, 1))
    assert promised == pytest.approx(sequence.treated.requests - before, rel=0.25)


def test_a_candidate_that_is_worse_by_the_tolerance_is_not_let_through() -> None:
    sequence = after([(Arm(900, 1), Arm(100, 1))] * 300)  # 0.1 % and 1 %
    assert sequence.upper > 0.009
    assert not sequence.is_no_worse(0.005)
    assert sequence.missing(0.005) > 0


def test_an_outage_of_both_arms_delays_a_promotion_and_does_not_prevent_it() -> None:
    sequence = after([(Arm(90, 45), Arm(10, 5))] * 60, after([(Arm(90, 0), Arm(10, 0))] * 20))
    assert sequence.upper == 1
    after_outage = sequence.treated.requests
    while not sequence.is_no_worse(0.01):
        sequence = sequence.observed(Arm(90, 0), Arm(10, 0))
    assert sequence.treated.requests - after_outage < 4000


def test_the_bound_of_a_tolerance_between_two_is_that_of_the_smaller() -> None:
    sequence = NonInferiority.none()
    assert sequence.missing(0.0055) == sequence.missing(0.005)
    with pytest.raises(ValueError):
        sequence.missing(TOLERANCES[0] / 2)


def test_control_alone_says_nothing_of_the_treated_arm() -> None:
    assert NonInferiority.none().observed(Arm(1000, 3), Arm(0, 0)).upper == 1


@settings(deadline=None)
@given(histories)
def test_a_sequence_is_read_back_as_it_was_written(history: list[Block]) -> None:
    sequence = after(history)
    assert NonInferiority.parse(json.loads(json.dumps(sequence.to_json()))) == sequence


GOOD = NonInferiority.none().observed(Arm(9, 0), Arm(1, 1)).to_json()


@pytest.mark.parametrize(
    "change",
    [
        {"logs": [0.0]},
        {"logs": [math.nan] * (len(TOLERANCES) + 1)},
        {"control": [1, 2]},
        {"treated": None},
        {"lately": [2.0, 1.0]},
        {"lately": [0.0]},
        {"more": 1},
    ],
)
def test_a_sequence_that_cannot_be_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        NonInferiority.parse(GOOD | change)
