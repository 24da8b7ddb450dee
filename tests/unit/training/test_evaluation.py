"""Splitting by seed, measuring, requiring."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast_training import evaluation
from holdfast_training.errors import TrainingError
from holdfast_training.spec import Requirement


@given(
    sizes=st.lists(st.integers(20, 60), min_size=2, max_size=5),
    percent=st.integers(5, 50),
    seed=st.integers(0, 2**31 - 1),
)
def test_every_class_is_in_both_parts_and_every_row_in_one(sizes: list[int], percent: int, seed: int) -> None:
    target = np.repeat(np.arange(len(sizes)), sizes)
    training, held_out = evaluation.split_at_random(target, "Classification", percent, seed)
    assert sorted([*training, *held_out]) == list(range(len(target)))
    assert set(target[training]) == set(target[held_out]) == set(range(len(sizes)))
    assert len(held_out) == -(-len(target) * percent // 100)


def test_the_seed_and_nothing_else_decides_the_split() -> None:
    target = np.arange(100.0)
    first, again, other = (evaluation.split_at_random(target, "Regression", 20, seed)[1] for seed in (1, 1, 2))
    assert first.tolist() == again.tolist() != other.tolist()


@given(sizes=st.lists(st.integers(1, 12), min_size=2, max_size=4), percent=st.integers(5, 50), seed=st.integers(0, 100))
def test_a_split_either_holds_out_some_of_every_class_or_is_refused(sizes: list[int], percent: int, seed: int) -> None:
    target = np.repeat(np.arange(len(sizes)), sizes)
    try:
        training, held_out = evaluation.split_at_random(target, "Classification", percent, seed)
    except TrainingError as error:
        assert {finding.rule for finding in error.findings} == {"TooFewRows"}  # noqa: PT017
    else:
        assert set(target[training]) == set(target[held_out])


def test_metrics_of_two_classes_are_those_of_the_second() -> None:
    truth = np.array(["no", "no", "no", "yes"], object)
    predicted = np.array(["no", "no", "yes", "yes"], object)
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.4, 0.6], [0.3, 0.7]])
    measured = evaluation.measure_classes(truth, predicted, probabilities, np.array(["no", "yes"], object))
    assert measured["Accuracy"] == 0.75
    assert measured["BalancedAccuracy"] == pytest.approx((2 / 3 + 1) / 2)
    assert measured["Precision"] == 0.5
    assert measured["Recall"] == 1
    assert measured["F1"] == pytest.approx(2 / 3)
    assert measured["ROCAUC"] == 1
    assert measured["LogLoss"] == pytest.approx(-np.log([0.9, 0.8, 0.4, 0.7]).mean())


def test_a_class_without_a_row_leaves_out_the_area_under_the_curve_alone() -> None:
    probabilities = np.array([[0.7, 0.2, 0.1], [0.2, 0.7, 0.1]])
    measured = evaluation.measure_classes(np.array([0, 1]), np.array([0, 1]), probabilities, np.array([0, 1, 2]))
    assert "ROCAUC" not in measured
    assert measured["LogLoss"] == pytest.approx(-np.log(0.7))
    with pytest.raises(TrainingError, match=r"ROCAUC .* cannot be computed: a class has no held-out row"):
        evaluation.check([Requirement("ROCAUC", minimum="0.5")], measured, "GaussianNB", 2)


def test_metrics_of_several_classes_are_unweighted_means() -> None:
    truth, predicted = np.array([0, 0, 0, 0, 1, 2]), np.array([0, 0, 0, 0, 1, 1])
    measured = evaluation.measure_classes(truth, predicted, None, np.array([0, 1, 2]))
    assert measured["Recall"] == pytest.approx((1 + 1 + 0) / 3)
    assert measured["Precision"] == pytest.approx((1 + 0.5 + 0) / 3)
    assert "ROCAUC" not in measured
    assert "LogLoss" not in measured


def test_only_what_is_wanted_is_measured() -> None:
    truth, classes = np.array([0, 1, 1]), np.array([0, 1])
    probabilities = np.array([[0.7, 0.3], [0.6, 0.4], [0.2, 0.8]])
    whole = evaluation.measure_classes(truth, np.array([0, 0, 1]), probabilities, classes)
    for name, value in whole.items():
        assert evaluation.measure_classes(truth, np.array([0, 0, 1]), probabilities, classes, (name,)) == {name: value}
    assert evaluation.measure_numbers(np.array([1.0, 2]), np.array([1.0, 3]), ("MAE",)) == {"MAE": 0.5}


def test_metrics_of_numbers() -> None:
    measured = evaluation.measure_numbers(np.array([1.0, 2, 4]), np.array([1.0, 3, 2]))
    assert measured["RMSE"] == pytest.approx((5 / 3) ** 0.5)
    assert measured["MAE"] == 1
    assert measured["MAPE"] == pytest.approx((0 + 0.5 + 0.5) / 3)
    assert measured["R2"] == pytest.approx(1 - 5 / np.var([1, 2, 4]) / 3)


def test_a_percentage_of_zero_is_no_number() -> None:
    assert "MAPE" not in evaluation.measure_numbers(np.array([0.0, 1]), np.array([1.0, 1]))


@given(st.floats(-(10.0**12) + 1, 10.0**12 - 1))
def test_values_fit_the_schema_and_keep_four_digits(value: float) -> None:
    text = evaluation.formatted(value)
    assert re.fullmatch(r"-?[0-9]{1,12}(\.[0-9]{1,9})?", text)
    assert abs(float(text) - value) <= max(abs(value) * 5e-4, 5e-10)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.972222, "0.9722"), (1.0, "1"), (0, "0"), (-0.0, "0"), (53.8512, "53.85"), (12345.6, "12346"), (1e-12, "0"),
     (0.000123456, "0.0001235"), (-2.5, "-2.5"), (0.99996, "1")],
)  # fmt: skip
def test_values_are_plain_decimals(value: float, text: str) -> None:
    assert evaluation.formatted(value) == text


def missed(measured: dict[str, float], *requirements: Requirement) -> str:
    with pytest.raises(TrainingError) as ended:
        evaluation.check(requirements, measured, "LinearSVC", 36)
    assert (ended.value.reason, ended.value.exit_code) == ("RequirementNotMet", 3)
    return ended.value.message


def test_a_metric_below_its_minimum_is_named_with_both_numbers() -> None:
    assert missed({"Accuracy": 31 / 36}, Requirement("Accuracy", minimum="0.9")) == (
        "Accuracy is 0.8611, below the minimum of 0.9 (on 36 held-out rows). Nothing was published"
    )


def test_a_metric_above_its_maximum_is_named_with_both_numbers() -> None:
    assert "RMSE is 53.85, above the maximum of 50" in missed({"RMSE": 53.851}, Requirement("RMSE", maximum="50"))


def test_all_missed_requirements_are_named() -> None:
    message = missed(
        {"Accuracy": 0.5, "F1": 0.9}, Requirement("Accuracy", minimum="0.9"), Requirement("F1", maximum="0.1")
    )
    assert message.startswith("Accuracy is 0.5, below the minimum of 0.9; F1 is 0.9, above the maximum of 0.1")


def test_rounding_never_makes_a_missed_requirement_look_met() -> None:
    assert "Accuracy is 0.89999, below the minimum of 0.9" in missed(
        {"Accuracy": 0.89999}, Requirement("Accuracy", minimum="0.9")
    )


def test_requirements_that_hold_hold_at_the_bound_too() -> None:
    evaluation.check([Requirement("Accuracy", minimum="0.9")], {"Accuracy": 0.9}, "SVC", 10)
    evaluation.check([Requirement("RMSE", maximum="50")], {"RMSE": 50.0}, "SVR", 10)


@pytest.mark.parametrize(
    ("metric", "why"),
    [("ROCAUC", "LinearSVC gives no probabilities"), ("LogLoss", "LinearSVC gives no probabilities"),
     ("MAPE", "a held-out target is zero")],
)  # fmt: skip
def test_a_metric_that_cannot_be_computed_is_not_met(metric: str, why: str) -> None:
    assert f"{metric} is required, but it cannot be computed: {why}" in missed({}, Requirement(metric, maximum="1"))


def test_a_run_below_its_requirement_publishes_nothing(claim: Any, shipped: Any) -> None:
    uri = claim.text("data.csv", (shipped / "wine.csv").read_bytes())
    document = claim.spec(
        uri,
        "cultivar",
        "Classification",
        "DecisionTreeClassifier",
        parameters={"max_depth": "1"},
        requirements=[{"metric": "Accuracy", "minimum": "0.95"}, {"metric": "LogLoss", "maximum": "9"}],
    )
    error = claim.failure(document)
    assert error.reason == "RequirementNotMet"
    assert error.message.startswith("Accuracy is 0.5556, below the minimum of 0.95 (on 36 held-out rows)")
