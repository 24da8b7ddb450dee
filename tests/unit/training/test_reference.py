"""golden.json and profile.json: what the server and the drift detection will rely on."""

from __future__ import annotations

import bisect
import json
import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from holdfast_bundle import manifest
from holdfast_serving import profile
from holdfast_serving.signature import Signature
from holdfast_training import reference
from holdfast_training.columns import Columns


def profile_of(claim: Any, mixed: Callable[[str], Any], dataset: str, target: str, task: str, estimator: str) -> Any:
    uri = claim.rows("data.csv", *mixed(dataset))
    report = claim.train(claim.spec(uri, target, task, estimator))
    return json.loads((claim.last / "profile.json").read_text()), report


def test_ratios_of_every_feature_sum_to_one_over_held_out_rows(claim: Any, mixed: Callable[[str], Any]) -> None:
    profile, report = profile_of(claim, mixed, "wine", "cultivar", "Classification", "RandomForestClassifier")
    assert profile["rows"] == report["data"]["testRows"] == 36
    assert len(profile["features"]) == 13
    for feature in profile["features"].values():
        total = sum(feature["ratios"]) + feature["missingRatio"] + feature.get("otherRatio", 0)
        assert math.isclose(total, 1, abs_tol=1e-6)
    assert {feature["kind"] for feature in profile["features"].values()} == {"numeric", "categorical"}
    ratios = profile["features"]["malic_acid"]["ratios"]
    assert ratios == sorted(ratios, reverse=True)
    assert any(feature["missingRatio"] > 0 for feature in profile["features"].values())


def test_confidence_bins_hold_the_accuracy_that_was_measured(claim: Any, mixed: Callable[[str], Any]) -> None:
    profile, report = profile_of(claim, mixed, "wine", "cultivar", "Classification", "LogisticRegression")
    confidence = profile["confidence"]
    assert len(confidence["edges"]) == 19
    assert len(confidence["ratios"]) == len(confidence["accuracy"]) == 20
    estimated = sum(
        ratio * accuracy
        for ratio, accuracy in zip(confidence["ratios"], confidence["accuracy"], strict=True)
        if accuracy is not None
    )
    assert math.isclose(estimated, float(report["metrics"][0]["value"]), abs_tol=1e-4)
    assert [ratio == 0 for ratio in confidence["ratios"]] == [a is None for a in confidence["accuracy"]]
    assert profile["prediction"]["labels"] == [0, 1, 2]
    assert math.isclose(sum(profile["prediction"]["ratios"]), 1, abs_tol=1e-6)


def test_a_feature_tells_where_rows_of_the_same_confidence_were_right_more_often() -> None:
    size = np.array([1.0, 2.0, 3.0, 4.0, np.nan, 1.0, 2.0, 3.0], np.float32)
    kind = np.array(["a", "b", "a", "b", "a", "", "a", "a"], object)
    sure = np.array([0.9, 0.9, 0.9, 0.9, 0.9, 0.6, 0.6, 0.6])
    right = np.array([False, True, True, True, False, False, True, True])
    model = SimpleNamespace(
        task="Classification",
        classes=np.array([0, 1]),
        columns=Columns(("size",), ("kind",)),
        monitored=(),
    )
    held_out = Held(size.reshape(-1, 1), kind.reshape(-1, 1))
    answers = SimpleNamespace(values=right.astype(int), probabilities=np.column_stack([sure, 1 - sure]))
    written = reference.profile(model, held_out, np.ones(8, int), answers)  # type: ignore[arg-type]
    of_size, of_kind = (written["features"][name] for name in ("size", "kind"))
    assert of_size["edges"] == [1.0, 2.0, 3.0]
    # Of those who were sure, three of five were right; of the others, two of three.
    assert of_size["excess"] == pytest.approx([(-0.6 - 2 / 3) / 2, (0.4 + 1 / 3) / 2, (0.4 + 1 / 3) / 2, 0.4])
    assert of_kind["categories"] == ["a", "b"]
    assert of_kind["excess"] == pytest.approx([(-0.6 + 0.4 - 0.6 + 1 / 3 + 1 / 3) / 5, 0.4])


class Held:
    """Rows as a frame has them."""

    def __init__(self, numeric: Any, categorical: Any) -> None:
        self.numeric, self.categorical = numeric, categorical

    def __len__(self) -> int:
        return len(self.numeric)


def test_a_classifier_without_probabilities_has_no_confidence(claim: Any, mixed: Callable[[str], Any]) -> None:
    profile, _ = profile_of(claim, mixed, "breast-cancer", "diagnosis", "Classification", "LinearSVC")
    assert "confidence" not in profile
    assert not any("excess" in feature for feature in profile["features"].values())
    assert profile["prediction"]["labels"] == ["benign", "malignant"]


def test_predictions_of_regression_are_in_bins(claim: Any, mixed: Callable[[str], Any]) -> None:
    profile, _ = profile_of(claim, mixed, "diabetes", "progression", "Regression", "Ridge")
    prediction = profile["prediction"]
    assert len(prediction["edges"]) == 9
    assert prediction["edges"] == sorted(prediction["edges"])
    assert all(0.05 < ratio < 0.15 for ratio in prediction["ratios"])


def test_error_bins_hold_the_mean_absolute_error_that_was_measured(claim: Any, mixed: Callable[[str], Any]) -> None:
    profile, report = profile_of(claim, mixed, "diabetes", "progression", "Regression", "Ridge")
    errors = profile["absoluteError"]
    assert len(errors["edges"]) == 29
    assert len(errors["ratios"]) == len(errors["means"]) == 30
    mean = sum(ratio * mean for ratio, mean in zip(errors["ratios"], errors["means"], strict=True))
    [measured] = [metric["value"] for metric in report["metrics"] if metric["name"] == "MAE"]
    assert mean == pytest.approx(float(measured), rel=1e-4)
    assert errors["edges"][0] == pytest.approx(mean / 8, rel=1e-6)
    assert errors["edges"][-1] == pytest.approx(mean * 16, rel=1e-6)
    for lower, upper, each in zip([0.0, *errors["edges"]], [*errors["edges"], math.inf], errors["means"], strict=True):
        assert lower <= each <= upper


def test_a_regression_without_any_error_has_no_bins_for_errors() -> None:
    model = SimpleNamespace(task="Regression", columns=Columns((), ()), monitored=())
    truth = np.array([1.0, 2.0, 3.0])
    written = reference.profile(model, truth, truth, SimpleNamespace(values=truth))  # type: ignore[arg-type]
    assert written.keys() == {"rows", "features", "prediction"}


numbers = arrays.arrays(
    np.float32, st.integers(1, 60), elements=st.one_of(st.floats(-1e9, 1e9, width=32), st.integers(0, 3).map(float))
)


@given(numbers)
def test_bins_hold_what_bisect_says_and_none_is_empty(values: Any) -> None:
    bins = reference._bins(values)
    counted = [0] * len(bins["ratios"])
    for value in values.tolist():
        counted[bisect.bisect_left(bins["edges"], value)] += 1
    assert bins["ratios"] == [round(number / len(values), 9) for number in counted]
    assert len(bins["edges"]) <= 9
    assert all(counted)


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_short_numbers_are_the_same_fp32_number(value: float) -> None:
    assert np.float32(json.loads(json.dumps(reference._short(value)))) == np.float32(value)


def test_the_most_frequent_categories_are_listed_and_the_rest_is_other() -> None:
    values = np.array([f"c{i:02}" for i in range(40) for _ in range(40 - i)] + [""] * 10, object)
    feature = reference._category(values)
    assert feature["categories"] == [f"c{i:02}" for i in range(30)]
    assert feature["otherRatio"] == pytest.approx(sum(range(1, 11)) / len(values))
    assert feature["missingRatio"] == pytest.approx(10 / len(values))


def test_golden_rows_cover_the_classes_and_miss_no_number(claim: Any, mixed: Callable[[str], Any]) -> None:
    uri = claim.rows("data.csv", *mixed("wine"))
    claim.train(claim.spec(uri, "cultivar", "Classification", "RandomForestClassifier"))
    raw = (claim.last / "golden.json").read_text()
    golden = json.loads(raw, parse_constant=pytest.fail)
    labels = [request["outputs"][0]["data"][0] for request in golden["requests"]]
    assert len(labels) == 8
    assert set(labels) == {0, 1, 2}
    for request in golden["requests"]:
        assert len(request["inputs"]) == 13
        for tensor in request["inputs"]:
            assert tensor["shape"] == [1, 1]
            assert len(tensor["data"]) == 1
        assert [tensor["shape"] for tensor in request["outputs"]] == [[1], [1, 3]]


def test_the_golden_tolerance_of_regression_follows_the_scale_of_its_answers(claim: Any, shipped: Any) -> None:
    uri = claim.text("data.csv", (shipped / "diabetes.csv").read_bytes())
    claim.train(claim.spec(uri, "progression", "Regression", "Ridge"))
    tolerance = json.loads((claim.last / "golden.json").read_text())["tolerance"]
    assert tolerance["relative"] == 1e-4
    assert 1e-3 < tolerance["absolute"] < 1e-2


@pytest.mark.parametrize(
    ("dataset", "target", "task", "estimator"),
    [
        ("wine", "cultivar", "Classification", "LogisticRegression"),
        ("breast-cancer", "diagnosis", "Classification", "LinearSVC"),
        ("diabetes", "progression", "Regression", "Ridge"),
    ],
)
def test_a_server_can_use_all_of_a_profile(
    claim: Any, mixed: Callable[[str], Any], dataset: str, target: str, task: str, estimator: str
) -> None:
    written, _ = profile_of(claim, mixed, dataset, target, task, estimator)
    described = manifest.read(claim.last)
    found = profile.read(claim.last, Signature(described.inputs, described.outputs))
    assert found is not None
    assert (found.state, found.rows) == ("complete", written["rows"])
    assert [feature.name for feature in found.features] == sorted(written["features"])
    assert (found.confidence is not None) == ("confidence" in written)
    assert [len(each.excess) for each in found.features] == [
        len(written["features"][each.name].get("excess", ())) for each in found.features
    ]
    assert any(each.excess for each in found.features) == ("confidence" in written)
    assert (found.absolute_error is not None) == ("absoluteError" in written) == (task == "Regression")
