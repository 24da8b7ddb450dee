"""Accuracy in use: as a model's own confidence lets expect, and as labels say."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from holdfast.stats import performance
from holdfast.stats.drift import Reference, Series
from holdfast.stats.performance import Accuracy, Calibration

RANDOM = 20261126
BINS = 20
Floats = npt.NDArray[np.float64]
TRUE = np.linspace(0.5, 0.99, BINS)
"""Probability of being right, by bin of confidence."""


def spread(sure: float) -> Floats:
    """Shares of rows by bin: the surer the model, the fuller the last ones."""
    shares = np.exp(sure * np.linspace(-1, 1, BINS))
    spread: Floats = shares / shares.sum()
    return spread


def counted(rows: npt.NDArray[np.generic]) -> dict[str, float]:
    return {str(place): float(count) for place, count in enumerate(rows)}


def held_out(random: np.random.Generator, rows: int, sure: float = 2.0) -> tuple[Calibration, float]:
    """(what a trainer's profile says, share of right predictions among its rows)."""
    counts = random.multinomial(rows, spread(sure))
    right = random.binomial(counts, TRUE)
    accuracy = {str(place): right[place] / count for place, count in enumerate(counts) if count}
    found = performance.calibrated(Reference(counted(counts / rows), rows), accuracy)
    assert found
    return found, right.sum() / rows


def test_the_baseline_is_the_accuracy_of_the_held_out_rows() -> None:
    calibration, accuracy = held_out(np.random.default_rng(RANDOM), 300)
    assert calibration.baseline == pytest.approx(accuracy)


@pytest.mark.parametrize("sure", [3.0, 2.0, 1.0, 0.0])
def test_the_estimate_is_within_a_point_of_the_truth_under_covariate_shift(sure: float) -> None:
    """2,000 live rows, 10,000 held-out ones; the mean over many pairs of both."""
    random = np.random.default_rng(RANDOM)
    errors = []
    for _ in range(60):
        calibration, _ = held_out(random, 10_000)
        counts = random.multinomial(2000, spread(sure))
        found = performance.estimated(calibration, counted(counts), 1.0)
        assert found
        errors.append(found.value - random.binomial(counts, TRUE).sum() / 2000)
    assert np.abs(errors).mean() < 0.01
    assert abs(np.mean(errors)) < 0.004


def test_the_error_of_a_drop_is_as_large_as_it_says() -> None:
    random = np.random.default_rng(RANDOM)
    live = spread(0.0)
    truth = float(TRUE @ spread(2.0) - TRUE @ live)
    deviations = []
    for _ in range(400):
        calibration, _ = held_out(random, 2000)
        found = performance.estimated(calibration, counted(random.multinomial(1000, live)), 1.0)
        assert found
        deviations.append((found.drop - truth) / found.error)
    assert 0.8 < np.std(deviations) < 1.2
    assert abs(np.mean(deviations)) < 0.5


def test_rows_that_have_not_moved_have_not_fallen_whatever_the_accuracy() -> None:
    random = np.random.default_rng(RANDOM)
    fell = 0
    for _ in range(300):
        calibration, _ = held_out(random, 1000, 0.0)
        found = performance.estimated(calibration, counted(random.multinomial(600, spread(0.0))), 1.0)
        assert found
        assert not found.fell(0.01)
        fell += found.fell(0.0)
    assert fell <= 3  # 0.13 % are none


def test_bins_that_contradict_each_other_share_what_they_know() -> None:
    reference = Reference({"0": 0.5, "1": 0.25, "2": 0.25, "missing": 0.0}, 400)
    found = performance.calibrated(reference, {"0": 0.6, "1": 0.9, "2": 0.8})
    assert found
    assert found.blocks == {"0": (0.6, 200), "1": (pytest.approx(0.85), 200), "2": (pytest.approx(0.85), 200)}


def test_a_bin_without_held_out_rows_is_as_its_neighbours_and_nobody_is_certain_of_it() -> None:
    reference = Reference({"0": 0.5, "1": 0.0, "2": 0.5, "3": 0.0}, 2000)
    found = performance.calibrated(reference, {"0": 0.6, "2": 0.8})
    assert found
    assert found.blocks["1"] == (pytest.approx(0.7), 1.0)
    assert found.blocks["3"] == (0.8, 1.0)
    known, unknown = ({"0": 1000.0, "2": 1000.0}, {"1": 2000.0})
    certain, uncertain = (performance.estimated(found, counts, 1.0) for counts in (known, unknown))
    assert certain
    assert uncertain
    assert uncertain.error > 10 * certain.error


def clear_cases(random: np.random.Generator, rows: int, clear: float) -> tuple[Floats, Floats, Floats]:
    """(bin of a feature, bin of confidence, right or not): the model is as sure of unclear cases, and less often right.

    clear: mean of the feature, in deviations.
    """
    feature = random.normal(clear, 1, rows)
    place = random.choice(BINS, rows, p=spread(2.0))
    right = random.random(rows) < np.clip(TRUE[place] + 0.04 * np.clip(feature, -3, 3) - 0.04, 0, 1)
    return np.digitize(feature, np.linspace(-1.3, 1.3, 9)), place, right


def truth_of(random: np.random.Generator, clear: float) -> float:
    return float(clear_cases(random, 500_000, clear)[2].mean())


def judged(random: np.random.Generator, held_out_rows: int, rows: int, clear: float) -> tuple[Accuracy, Accuracy]:
    """(the estimate, the same without the feature) after the feature has moved."""
    feature, place, right = clear_cases(random, held_out_rows, 0.0)
    counts = np.bincount(place, minlength=BINS)
    accuracy = np.bincount(place, right, BINS) / np.maximum(counts, 1)
    calibration = performance.calibrated(
        Reference(counted(counts / held_out_rows), held_out_rows),
        {str(bin_): float(accuracy[bin_]) for bin_ in range(BINS) if counts[bin_]},
    )
    assert calibration
    of_bins = np.bincount(feature, minlength=10)
    excess = np.bincount(feature, right - accuracy[place], 10) / np.maximum(of_bins, 1)
    series = Series(Reference(counted(of_bins / held_out_rows), held_out_rows), (), excess=counted(excess))
    live_feature, live_place, _ = clear_cases(random, rows, clear)
    moved = series, counted(np.bincount(live_feature, minlength=10))
    live = counted(np.bincount(live_place, minlength=BINS))
    found, without = (performance.estimated(calibration, live, 1.0, each) for each in (moved, None))
    assert found
    assert without
    return found, without


@pytest.mark.parametrize("clear", [-1.0, 1.0])
def test_a_feature_that_says_how_clear_a_case_is_corrects_the_estimate(clear: float) -> None:
    random = np.random.default_rng(RANDOM)
    truth, errors = truth_of(random, clear), []
    for _ in range(40):
        found, without = judged(random, 2400, 2000, clear)
        errors.append((found.value - truth, without.value - truth))
    ours, others = np.abs(errors).mean(axis=0)
    assert others > 0.03
    assert ours < 0.4 * others


def test_the_error_of_a_corrected_drop_is_as_large_as_it_says() -> None:
    random = np.random.default_rng(RANDOM)
    drop = truth_of(random, 0.0) - truth_of(random, -1.0)
    deviations = []
    for _ in range(150):
        found, _ = judged(random, 2400, 2000, -1.0)
        deviations.append((found.drop - drop) / found.error)
    assert 0.8 < np.std(deviations) < 1.2
    assert abs(np.mean(deviations)) < 0.7


def test_bins_that_hardly_any_held_out_row_was_in_correct_nothing() -> None:
    calibration, _ = held_out(np.random.default_rng(RANDOM), 2400)
    counts = counted(2000 * spread(2.0))
    excess = {"0": 0.1, "1": -0.4}
    for few, corrected in ((0.01, False), (0.4, True)):
        series = Series(Reference({"0": 1 - few, "1": few}, 2400), (), excess=excess)
        found, without = (
            performance.estimated(calibration, counts, 1.0, each) for each in ((series, {"1": 2000.0}), None)
        )
        assert found
        assert without
        assert (found != without) == corrected
        assert (found.error > without.error) == corrected


def test_without_rows_nothing_is_estimated() -> None:
    assert performance.calibrated(Reference({"0": 0.0}, 0), {}) is None
    calibration, _ = held_out(np.random.default_rng(RANDOM), 2000)
    assert performance.estimated(calibration, {}, 1.0) is None


def test_rows_that_come_together_make_the_error_larger() -> None:
    calibration, _ = held_out(np.random.default_rng(RANDOM), 1_000_000)
    counts = counted(spread(0.0) * 1000)
    one, ten = (performance.estimated(calibration, counts, effect) for effect in (1.0, 10.0))
    assert one
    assert ten
    assert ten.error / one.error == pytest.approx(10**0.5, rel=0.02)


def test_labels_measure_when_there_are_enough_of_them() -> None:
    calibration, _ = held_out(np.random.default_rng(RANDOM), 5000)
    assert performance.measured(calibration, 50, 49, 1.0) is None
    assert performance.measured(calibration, 150, 149, 3.0) is None
    found = performance.measured(calibration, 600, 400, 1.0)
    assert found
    assert found.value == 0.6
    assert found.fell(0.1)
    assert not found.fell(calibration.baseline - 0.6 + 0.001)


def test_measured_drops_are_seldom_found_where_there_are_none() -> None:
    random = np.random.default_rng(RANDOM)
    truth = float(TRUE @ spread(2.0))
    fell = 0
    for _ in range(2000):
        calibration, _ = held_out(random, 2000)
        right = random.binomial(200, truth)
        found = performance.measured(calibration, right, 200 - right, 1.0)
        fell += found is not None and found.fell(0.0)
    assert fell <= 12  # 0.13 % of 2,000 are 3


def test_labels_contradict_an_estimate_only_when_both_are_certain() -> None:
    assert Accuracy(0.95, 0.95, 0.01, 500).contradicts(Accuracy(0.85, 0.95, 0.01, 2000))
    assert not Accuracy(0.95, 0.95, 0.05, 100).contradicts(Accuracy(0.85, 0.95, 0.01, 2000))
    assert not Accuracy(0.80, 0.95, 0.01, 500).contradicts(Accuracy(0.85, 0.95, 0.01, 2000))
