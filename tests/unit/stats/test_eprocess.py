"""Evidence against the treated arm: valid at every look, found soon, read back as it was written."""

import json
import math
from functools import reduce

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from holdfast.stats.arms import Arm
from holdfast.stats.eprocess import Evidence, is_worse

ALPHA, EXCESS = 0.001, 0.005

Block = tuple[Arm, Arm]


@st.composite
def arms(draw: st.DrawFn, most: int = 40) -> Arm:
    requests = draw(st.integers(0, most))
    return Arm(requests, draw(st.integers(0, requests)))


histories = st.lists(st.tuples(arms(), arms()), max_size=6)
rates = st.floats(0, 1)


def after(blocks: list[Block], start: Evidence | None = None) -> Evidence:
    return reduce(lambda evidence, block: evidence.observed(*block), blocks, start or Evidence.none())


def until_worse(evidence: Evidence, block: Block) -> tuple[Evidence, int]:
    """The same block again and again: the evidence that is enough, and how many it took."""
    blocks = 0
    while not is_worse(evidence, ALPHA, EXCESS):
        evidence, blocks = evidence.observed(*block), blocks + 1
    return evidence, blocks


def binomial(n: int, x: int, rate: float) -> float:
    return math.comb(n, x) * rate**x * (1 - rate) ** (n - x)


@settings(deadline=None)
@given(histories, st.integers(0, 12), st.integers(0, 8), rates, rates)
def test_no_block_is_expected_to_raise_the_evidence_against_an_arm_that_is_no_worse(
    history: list[Block], n_control: int, n_treated: int, one: float, other: float
) -> None:
    evidence = after(history)
    low, high = sorted((one, other))
    expected = sum(
        binomial(n_control, x, high)
        * binomial(n_treated, y, low)
        * math.exp(evidence.observed(Arm(n_control, x), Arm(n_treated, y)).log_e - evidence.log_e)
        for x in range(n_control + 1)
        for y in range(n_treated + 1)
    )
    assert expected <= 1 + 1e-9


@settings(deadline=None)
@given(histories, st.integers(1, 30), st.integers(1, 30), st.data())
def test_whatever_made_requests_bad_the_draw_alone_is_no_evidence(
    history: list[Block], n_control: int, n_treated: int, data: st.DataObject
) -> None:
    """So many bad requests came, in bursts or not; only which arm they fell on is random."""
    evidence = after(history)
    n = n_control + n_treated
    bad = data.draw(st.integers(0, n))
    expected = sum(
        math.comb(n_treated, y)
        * math.comb(n_control, bad - y)
        / math.comb(n, bad)
        * math.exp(evidence.observed(Arm(n_control, bad - y), Arm(n_treated, y)).log_e - evidence.log_e)
        for y in range(max(0, bad - n_control), min(bad, n_treated) + 1)
    )
    assert expected == pytest.approx(1, abs=1e-9)


@settings(deadline=None)
@given(arms(), arms())
def test_a_failure_more_in_the_treated_arm_is_more_evidence(control: Arm, treated: Arm) -> None:
    if not control.bad or treated.bad == treated.requests:
        return
    moved = Evidence.none().observed(Arm(control.requests, control.bad - 1), Arm(treated.requests, treated.bad + 1))
    assert moved.log_e >= Evidence.none().observed(control, treated).log_e - 1e-9


@settings(deadline=None)
@given(histories)
def test_evidence_is_read_back_as_it_was_written(history: list[Block]) -> None:
    evidence = after(history)
    assert Evidence.parse(json.loads(json.dumps(evidence.to_json()))) == evidence


@settings(deadline=None)
@given(histories)
def test_totals_are_those_of_all_blocks(history: list[Block]) -> None:
    evidence = after(history)
    assert evidence.control == sum((control for control, _ in history), Arm(0, 0))
    assert evidence.treated == sum((treated for _, treated in history), Arm(0, 0))


@settings(deadline=None)
@given(arms())
def test_one_arm_alone_says_nothing(arm: Arm) -> None:
    assert Evidence.none().observed(arm, Arm(0, 0)).log_e == 0
    assert Evidence.none().observed(Arm(0, 0), arm).log_e == 0


def test_an_arm_that_always_fails_is_found_after_a_few_requests() -> None:
    evidence, blocks = until_worse(Evidence.none(), (Arm(9, 0), Arm(1, 1)))
    assert blocks == 4
    assert evidence.e_value > 1 / ALPHA


def test_an_outage_of_both_arms_is_no_evidence_and_buries_none() -> None:
    evidence = after([(Arm(90, 54), Arm(10, 6))] * 1000)
    assert evidence.log_e < 0
    _, blocks = until_worse(evidence, (Arm(18, 0), Arm(2, 2)))
    assert blocks <= 6


def test_a_defect_that_begins_after_a_long_time_is_found_as_well() -> None:
    day = [(Arm(90_000, 90), Arm(10_000, 10))] * 500
    evidence = after(day)
    assert not is_worse(evidence, ALPHA, EXCESS)
    evidence, blocks = until_worse(evidence, (Arm(45, 0), Arm(5, 1)))
    assert blocks <= 12
    assert evidence.excess == pytest.approx(0.2, abs=0.01)  # since it began; of the whole day it would be 0.000002


def test_a_difference_too_small_to_matter_is_not_worse_however_certain() -> None:
    evidence = after([(Arm(90_000, 90), Arm(10_000, 30))] * 20)
    assert evidence.e_value > 1e9
    assert not is_worse(evidence, ALPHA, EXCESS)
    assert is_worse(evidence, ALPHA, 0.001)


def test_overwhelming_evidence_is_still_a_number() -> None:
    evidence = after([(Arm(100_000, 0), Arm(100_000, 10_000))] * 3)
    assert evidence.log_e > 1000
    assert math.isfinite(evidence.e_value)
    assert Evidence.parse(json.loads(json.dumps(evidence.to_json()))) == evidence


GOOD = Evidence.none().observed(Arm(9, 0), Arm(1, 1)).to_json()


@pytest.mark.parametrize(
    "change",
    [
        {"logs": [0.0]},
        {"logs": [math.nan] * 6},
        {"logs": [math.inf] * 6},
        {"logs": [10**400] * 6},
        {"logs": ["0"] * 6},
        {"logs": [True] * 6},
        {"logs": [-1.0] * 5 + [2.0]},
        {"logs": None},
        {"control": [1, 2]},
        {"control": [-1, -1]},
        {"control": [2.0, 1]},
        {"control": [True, True]},
        {"treated": 3},
        {"recent": []},
        {"recent": [[1, 0]]},
        {"more": 1},
    ],
)
def test_evidence_that_cannot_be_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        Evidence.parse(GOOD | change)


@pytest.mark.parametrize("document", [None, [], "evidence", {}, {"logs": []}])
def test_what_is_no_evidence_is_refused(document: object) -> None:
    with pytest.raises(ValueError):
        Evidence.parse(document)
