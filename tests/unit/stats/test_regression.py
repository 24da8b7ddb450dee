"""Errors of predicted numbers in use, beside those of the held-out rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from holdfast.stats import regression
from holdfast.stats.drift import Reference
from holdfast_training.reference import _errors as profile_of

RANDOM = 20261126
Floats = npt.NDArray[np.float64]
Errors = Callable[[np.random.Generator, int], Floats]
KINDS: Mapping[str, Errors] = {
    "normal": lambda random, rows: random.normal(size=rows),
    "laplace": lambda random, rows: random.laplace(size=rows),
    "uniform": lambda random, rows: random.uniform(-1, 1, rows),
    "heavy tails": lambda random, rows: random.standard_t(3, rows),
    "skewed": lambda random, rows: random.lognormal(0, 1.5, rows),
    "whole numbers": lambda random, rows: np.round(2 * random.normal(size=rows)),
}


def held_out(errors: Floats) -> tuple[regression.HeldOut, Any]:
    """(what is known from a trainer's profile, the profile)."""
    profile = profile_of(np.abs(errors))
    reference = Reference(_by_bin(profile["ratios"]), len(errors))
    found = regression.held_out(reference, _by_bin(profile["means"]))
    assert found
    return found, profile


def counted(profile: Any, errors: Floats) -> dict[str, float]:
    """As the server counts them."""
    bins = np.searchsorted(profile["edges"], np.abs(errors), side="left")
    return _by_bin(np.bincount(bins, minlength=len(profile["ratios"])))


def _by_bin(values: Any) -> dict[str, float]:
    return {str(bin_): float(value) for bin_, value in enumerate(values)} | {"missing": 0.0}


@pytest.mark.parametrize("kind", KINDS)
def test_the_mean_of_the_held_out_rows_is_their_mean_absolute_error(kind: str) -> None:
    errors = KINDS[kind](np.random.default_rng(RANDOM), 3000)
    known, profile = held_out(errors)
    assert known.mean == pytest.approx(np.abs(errors).mean(), rel=1e-6)
    found = regression.measured(known, counted(profile, errors), 1.0)
    assert found
    assert found.value == pytest.approx(found.baseline, rel=1e-6)
    assert found.drop == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("kind", ["normal", "laplace", "uniform", "heavy tails"])
@pytest.mark.parametrize("growth", [1.05, 1.25, 1.5, 2.0])
def test_errors_that_grow_are_measured_within_two_hundredths(kind: str, growth: float) -> None:
    random = np.random.default_rng(RANDOM)
    known, profile = held_out(KINDS[kind](random, 100_000))
    live = growth * KINDS[kind](random, 100_000)
    found = regression.measured(known, counted(profile, live), 1.0)
    assert found
    assert found.value == pytest.approx(np.abs(live).mean(), rel=0.02)


@pytest.mark.parametrize(("rows", "labels"), [(1000, 100), (3000, 400)])
def test_losses_are_seldom_found_where_there_are_none(rows: int, labels: int) -> None:
    """Where nothing is tolerated; 0.13 % of 2,400 are 3."""
    random = np.random.default_rng(RANDOM)
    fell = 0
    for errors in KINDS.values():
        for _ in range(400):
            known, profile = held_out(errors(random, rows))
            found = regression.measured(known, counted(profile, errors(random, labels)), 1.0)
            fell += found is not None and found.fell(0.0)
    assert fell <= 8


def test_the_standard_error_is_as_large_as_it_says() -> None:
    random = np.random.default_rng(RANDOM)
    deviations = []
    for _ in range(400):
        known, profile = held_out(random.normal(size=2000))
        found = regression.measured(known, counted(profile, 1.5 * random.normal(size=400)), 1.0)
        assert found
        deviations.append((found.drop - 0.5) / found.error)
    assert 0.85 < np.std(deviations) < 1.15
    assert abs(np.mean(deviations)) < 0.3


def test_a_loss_is_found_where_there_is_one() -> None:
    random = np.random.default_rng(RANDOM)
    known, profile = held_out(random.normal(size=5000))
    found = regression.measured(known, counted(profile, 1.5 * random.normal(size=400)), 1.0)
    assert found
    assert found.fell(0.1)
    assert not found.fell(0.5)


def test_labels_that_come_together_count_less() -> None:
    random = np.random.default_rng(RANDOM)
    known, profile = held_out(random.normal(size=1_000_000))
    labels = counted(profile, 1.2 * random.normal(size=1000))
    one, ten = (regression.measured(known, labels, effect) for effect in (1.0, 10.0))
    assert one
    assert ten
    assert ten.error / one.error == pytest.approx(10**0.5, rel=0.02)
    assert regression.measured(known, labels, 10.1) is None


def test_a_number_that_somebody_made_up_weighs_no_more_than_the_largest_errors() -> None:
    random = np.random.default_rng(RANDOM)
    known, profile = held_out(random.normal(size=5000))
    honest = random.normal(size=500)
    forged = np.append(honest, [1e299])
    found, spoilt = (regression.measured(known, counted(profile, errors), 1.0) for errors in (honest, forged))
    assert found
    assert spoilt
    assert spoilt.value - found.value < 16 * known.mean / 500
    assert not spoilt.fell(0.0)


def test_without_labels_or_held_out_errors_nothing_is_measured() -> None:
    assert regression.held_out(Reference({"0": 0.0}, 0), {"0": 1.0}) is None
    assert regression.held_out(Reference({"0": 1.0}, 50), {"0": 0.0}) is None
    known, _ = held_out(np.random.default_rng(RANDOM).normal(size=2000))
    assert regression.measured(known, {}, 1.0) is None
    assert regression.measured(known, {"3": 99.0}, 1.0) is None
