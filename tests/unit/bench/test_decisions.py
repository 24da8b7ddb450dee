"""A sample of `make bench-decisions`: the rules on rollouts in bad weather, and their twins against the originals."""

from __future__ import annotations

import numpy as np
import pytest
from bench import bench_decisions as bench
from bench.bench_decisions import ARGO, EXACT, FLAGGER, OURS, WARMING, Case, Z
from bench.decisions import streams
from bench.decisions.rules import EXCESS, Bounds, Evidences, Rule, argo, flagger
from bench.decisions.streams import Arms, Block


def case(cases: tuple[Case, ...], name: str) -> Case:
    return next(case for case in cases if case.name == name)


def test_no_weather_is_held_against_a_candidate() -> None:
    found = bench.nulls(100)
    assert sum(shares[OURS] for shares in found.values()) <= 0.02  # 2 of the 1,300
    assert found["rate rises with the weight"][Z] == 1
    assert found["cold start, 20 % bad"][WARMING] == 1
    assert found["0.1 % to 5 % and back"][FLAGGER] > 0.9


def test_a_candidate_worse_by_the_tolerance_is_seldom_promoted() -> None:
    found = bench.promotions(400, bench.PROMOTION[:2])
    for shares in found.values():
        assert 0 < shares[OURS] <= 0.08
        assert shares[EXACT] > 0.15


def test_bad_candidates_are_found_in_seconds() -> None:
    found = bench.detections(100, tuple(case for case in bench.DETECTION if case.name.startswith("50 rps")))
    assert found["50 rps, 10%, 100% bad"]["p95_s"] == 5
    assert (found["50 rps, 10%, 20% bad"]["p95_s"] or 99) <= 15
    assert (found["50 rps, 10%, 5% bad"]["p95_s"] or 99) <= 60
    assert (found["50 rps, 10%, 20% bad, after 30 good minutes"]["p95_s"] or 99) <= 30
    assert (found["50 rps, 10%, 20% bad, after an outage of both"]["p95_s"] or 99) <= 30
    assert found["50 rps, 10%, 100% bad"]["flagger_p50_s"] == 600
    assert found["50 rps, 10%, 100% bad"]["argo_p50_s"] == 1200


def test_a_clean_candidate_is_promoted_after_about_three_over_the_tolerance() -> None:
    clean = case(bench.CLEAN, "never fails")
    outcome = bench.run(clean, 20, {OURS: Bounds(20, EXCESS)})[OURS]
    assert outcome.quantile(0.95, outcome.requests) == pytest.approx(3 / EXCESS, rel=0.15)


class Forgetful(Evidences):
    """A twin that misses every second look."""

    _odd = False

    def look(self, blocks: tuple[Block, ...]) -> np.ndarray:
        self._odd = not self._odd
        return super().look(blocks if self._odd else ())


class Hasty(Bounds):
    def look(self, blocks: tuple[Block, ...]) -> np.ndarray:
        return super().look(blocks + blocks)


@pytest.mark.parametrize("twin", [Forgetful(10), Hasty(10, EXCESS)])
def test_a_twin_that_differs_from_its_original_is_found_out(twin: Rule) -> None:
    weather = Case("short", streams.steady(Arms(), 0.05, looks=10))
    with pytest.raises(AssertionError):
        bench.run(weather, 10, {OURS: twin})


def blocks(bad: list[int], requests: int) -> list[tuple[Block, ...]]:
    none = np.array([0])
    return [(Block(none, none, np.array([requests]), np.array([count])),) for count in bad]


def test_flagger_rolls_back_at_the_tenth_failed_minute_and_forgets_none() -> None:
    rule = flagger(1, 60)
    failed = [2, 0, 0] * 9
    assert not any(rule.look(block)[0] for block in blocks([*failed, 1], 100))
    assert rule.look(*blocks([2], 100))[0]


def test_argo_aborts_at_the_fourth_failed_measurement() -> None:
    rule = argo(1, 300)
    assert [bool(rule.look(block)[0]) for block in blocks([6, 5, 6, 6, 6], 100)] == [False] * 4 + [True]


def test_each_rule_is_asked_about_the_same_requests_every_time() -> None:
    weather = case(bench.NULL, "bursts of fifty")
    one, other = (bench.run(weather, 5, {ARGO: argo(5, 5)})[ARGO] for _ in range(2))
    assert one.requests.tolist() == other.requests.tolist()
