"""What is counted of an arm, and what counts against its revision."""

from __future__ import annotations

import pytest

from holdfast.plan.traffic import Arm

EDGES = (0.1, 0.25, 0.5)


def test_all_that_is_not_good_and_not_the_clients_fault_counts_against_a_revision() -> None:
    arm = Arm(drawn=20, outcomes={"ok": 9, "client_error": 3, "failed": 1, "timeout": 2, "a later outcome": 1})
    assert (arm.ended, arm.failed) == (16, 4)


@pytest.mark.parametrize(
    ("seconds", "slower"), [(0.05, 7 + 11 + 13), (0.1, 7 + 11 + 13), (0.2, 11 + 13), (0.25, 11 + 13), (0.5, 13), (9, 0)]
)
def test_an_answer_is_slow_only_if_it_is_known_to_be(seconds: float, slower: int) -> None:
    assert Arm(durations=(5, 7, 11, 13)).slower_than(seconds, EDGES) == slower


def test_an_arm_that_nothing_was_drawn_for_has_nothing_against_it() -> None:
    assert (Arm().ended, Arm().failed, Arm().slower_than(0.1, EDGES)) == (0, 0, 0)
