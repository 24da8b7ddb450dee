"""Tests of two models on the same rows keep the level that they promise."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, stats

from holdfast_training import comparison, paired

DRAWS = 2000
ABOVE = 3 * (0.05 * 0.95 / DRAWS) ** 0.5
"""How far a share of draws may lie above 5 % by chance."""


def labels(won: int, lost: int, rows: int) -> paired.Labels:
    challenger, champion = np.zeros(rows, bool), np.zeros(rows, bool)
    challenger[:won] = True
    champion[won : won + lost] = True
    champion[won + lost :] = challenger[won + lost :] = True
    return paired.Labels(champion, challenger)


def drawn(rows: int, disagreeing: float, loss: float, draws: int = DRAWS) -> Any:
    """Pairs of models of which the challenger loses so much in truth."""
    shares = [(disagreeing - loss) / 2, (disagreeing + loss) / 2, 1 - disagreeing]
    for won, lost, _ in np.random.default_rng(5).multinomial(rows, shares, draws):
        yield labels(won, lost, rows)


@pytest.mark.parametrize(("rows", "disagreeing"), [(50, 0.1), (100, 0.3), (300, 0.08), (2000, 0.15)])
def test_a_loss_that_is_there_is_ruled_out_in_five_of_a_hundred_cases_at_most(rows: int, disagreeing: float) -> None:
    ruled_out = sum(pair.p_loss(0.06) < paired.LEVEL for pair in drawn(rows, disagreeing, 0.06))
    assert ruled_out / DRAWS <= paired.LEVEL + ABOVE


@pytest.mark.parametrize(("rows", "disagreeing"), [(50, 0.1), (300, 0.05), (2000, 0.1)])
def test_equal_models_are_taken_for_better_or_worse_in_five_of_a_hundred_cases_at_most(
    rows: int, disagreeing: float
) -> None:
    pairs = list(drawn(rows, disagreeing, 0))
    assert sum(pair.p_better() < paired.LEVEL for pair in pairs) / DRAWS <= paired.LEVEL + ABOVE
    assert sum(pair.p_worse() < paired.LEVEL for pair in pairs) / DRAWS <= paired.LEVEL + ABOVE


@pytest.mark.parametrize("alike", [0.5, 0.95])
def test_losses_of_numbers_are_ruled_out_in_five_of_a_hundred_cases_at_most(alike: float) -> None:
    random = np.random.default_rng(6)
    common, own, others = random.normal(size=(3, DRAWS, 200))
    champion = alike**0.5 * common + (1 - alike) ** 0.5 * own
    challenger = 1.11 * (alike**0.5 * common + (1 - alike) ** 0.5 * others)
    pairs = [paired.numbers(np.zeros(200), *both) for both in zip(champion, challenger, strict=True)]
    ruled_out = sum(pair.p_loss(0.11) < paired.LEVEL for pair in pairs)
    assert 0 < ruled_out / DRAWS <= paired.LEVEL + ABOVE
    assert sum(pair.p_worse() < paired.LEVEL for pair in pairs) > 0.3 * DRAWS


@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 200), st.floats(0.01, 0.5))
def test_the_loss_of_labels_is_tested_by_the_likeliest_world_in_which_it_is_there(
    won: int, lost: int, same: int, loss: float
) -> None:
    rows = won + lost + same
    if not rows:
        return

    def unlikeliness(share: float) -> float:
        probabilities = (share - loss, share, 1 - 2 * share + loss)
        terms = zip((won, lost, same), probabilities, strict=True)
        return -sum(number * math.log(max(p, 1e-300)) for number, p in terms if number)

    share = optimize.minimize_scalar(unlikeliness, bounds=(loss, (1 + loss) / 2), options={"xatol": 1e-12}).x
    deviation = math.sqrt(rows * (2 * share - loss - loss * loss))
    expected = stats.norm.sf((won - lost + rows * loss) / deviation)
    assert labels(won, lost, rows).p_loss(loss) == pytest.approx(expected, abs=1e-3)


def test_one_model_is_better_by_the_binomial_of_the_rows_that_tell_them_apart() -> None:
    assert labels(9, 1, 50).p_better() == pytest.approx(11 / 1024)
    assert labels(1, 9, 5000).p_worse() == pytest.approx(11 / 1024)
    assert labels(0, 0, 50).p_better() == 1


def test_the_largest_loss_is_where_ruling_out_begins() -> None:
    for pair in (labels(10, 12, 400), paired.numbers(np.zeros(60), np.arange(60.0), np.arange(60.0)[::-1] + 1)):
        largest = paired.largest_loss(pair)
        assert pair.p_loss(largest + 1e-6) < paired.LEVEL <= pair.p_loss(largest - 1e-6)


def test_models_without_any_error_are_equal() -> None:
    pair = paired.numbers(np.ones(60), np.ones(60), np.ones(60))
    assert (pair.loss, pair.p_loss(0), pair.p_better(), pair.p_worse()) == (0, 0, 1, 1)
    assert paired.numbers(np.ones(60), np.ones(60), np.zeros(60)).loss == math.inf


def passes(pair: paired.Paired) -> bool:
    return all(row.result == "Passed" for row in comparison.non_inferior(pair, 0.01))


@pytest.mark.parametrize("rows", [50, 200, 1000])
def test_a_model_that_is_six_points_worse_passes_in_five_of_a_hundred_cases_at_most(rows: int) -> None:
    assert sum(map(passes, drawn(rows, 0.1, 0.06, draws=500))) / 500 <= paired.LEVEL + 2 * ABOVE


def test_equal_models_pass_where_rows_are_many() -> None:
    assert sum(map(passes, drawn(5000, 0.05, 0, draws=500))) / 500 > 0.99


def parts_that_fail(loss: float, seed: int) -> int:
    """In how many of 300 draws a part fails, of ten with 100 rows each, when the first loses so much."""
    random, times = np.random.default_rng(seed), 0
    shares = [[(0.3 - change) / 2, (0.3 + change) / 2, 0.7] for change in (loss, *[0.0] * 9)]
    parts = [(f"Recall y={part}", np.arange(1000) // 100 == part) for part in range(10)]
    for _ in range(300):
        pairs = [
            labels(int(won), int(lost), 100) for won, lost, _ in (random.multinomial(100, each) for each in shares)
        ]
        whole = paired.Labels(
            np.concatenate([pair.champion_right for pair in pairs]),
            np.concatenate([pair.challenger_right for pair in pairs]),
        )
        times += comparison.slices(whole, parts, 0.03)[0].result == "Failed"
    return times


def test_a_part_that_is_lost_fails_and_bad_luck_on_some_part_does_not() -> None:
    assert parts_that_fail(0.0, seed=7) <= 300 * 0.05 + 12
    assert parts_that_fail(0.28, seed=8) > 280


def test_parts_of_few_rows_are_passed_over() -> None:
    pair = labels(0, 19, 100)
    [part] = comparison.slices(pair, [("Recall y=0", np.arange(100) < 19)], 0.03)
    assert part.to_json() == {"name": "Recall y=0", "result": "Skipped"}
