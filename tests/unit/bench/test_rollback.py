"""The rollback benchmark adds up what its runs found."""

from __future__ import annotations

from typing import Any

from bench.bench_rollback import LANES, p95, summary, versions
from tests.e2e.wine import trained


def result(case: str, **more: Any) -> dict[str, Any]:
    found = {"case": case, "action": "Aborted", "requests": 1000, "failed": 0, "late": 0, "wrong": 0, "decision_s": 4.0}
    return found | more


def test_runs_are_summed_up_by_kind() -> None:
    found = summary(
        [
            *(result("fails", failed=0, decision_s=seconds) for seconds in range(1, 20)),
            result("hangs", failed=3, late=7, decision_s=None),
            result("fails-later", failed=300, bad_window_s=9.5, action="RolledBack"),
            result("wrong+golden", wrong=12, decision_s=None, action="Held"),
            result("wrong-twentieth+golden", wrong=2, action="Promoted"),
            {"case": "slow", "error": "no decision"},
        ]
    )
    assert found | {"cases": None} == {
        "runs": 24,
        "runs_without_a_decision": 1,
        "promoted": 1,
        "failed_p95": 0,
        "late_p95": 0,
        "decision_s_p95": 19,
        "wrong_answers_p95": 12,
        "post_promotion_bad_window_s_p95": 9.5,
        "user_requests_failed_by_rollout": 3,
        "user_requests": 23000,
        "cases": None,
    }
    assert found["cases"]["fails"]["decision_s_max"] == 19
    assert found["cases"]["hangs"]["failed_max"] == 3


def test_the_95th_percentile_is_a_value_that_was_seen() -> None:
    assert p95([]) is None
    assert p95([5]) == 5
    assert p95(list(range(1, 101))) == 95
    assert p95([0] * 19 + [7]) == 0
    assert p95([0] * 18 + [7, 7]) == 7


def test_every_case_has_its_version_and_there_are_twenty_runs_or_more() -> None:
    files, cases = versions(trained()), [case for lane in LANES for case, _ in lane]
    assert len({files[case.file] for case in cases}) == len({case.file for case in cases})
    assert sum(runs for lane in LANES for case, runs in lane if not case.later) >= 20
    assert sum(len(content) for content in files.values()) < 700_000  # they go into one ConfigMap, in base64
