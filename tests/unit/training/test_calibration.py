"""Probabilities that hold what they say."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from tests.unit.training.test_estimators import replay

from holdfast_bundle import manifest

DATA = {"wine": "cultivar", "breast-cancer": "diagnosis"}


def calibrated(claim: Any, shipped: Any, dataset: str, estimator: str, method: str, **more: Any) -> dict[str, Any]:
    uri = claim.text(f"{dataset}.csv", (shipped / f"{dataset}.csv").read_bytes())
    document: dict[str, Any] = claim.spec(uri, DATA[dataset], "Classification", estimator, calibration=method, **more)
    return document


@pytest.mark.parametrize("dataset", sorted(DATA))
@pytest.mark.parametrize(
    ("estimator", "method"),
    [
        ("GaussianNB", "Isotonic"),
        ("LogisticRegression", "Sigmoid"),
        ("RandomForestClassifier", "Isotonic"),
        ("LGBMClassifier", "Sigmoid"),
        ("XGBClassifier", "Isotonic"),
        *((name, "Sigmoid") for name in ("LinearSVC", "RidgeClassifier", "SVC", "SGDClassifier")),
    ],
)
def test_the_onnx_model_gives_calibrated_probabilities(
    claim: Any, shipped: Any, dataset: str, estimator: str, method: str
) -> None:
    forests = ("RandomForestClassifier", "LGBMClassifier", "XGBClassifier")
    parameters = {"n_estimators": "20"} if estimator in forests else {}
    report = claim.train(calibrated(claim, shipped, dataset, estimator, method, parameters=parameters))
    measured = {metric["name"]: float(metric["value"]) for metric in report["metrics"]}
    assert measured["Accuracy"] > 0.85
    assert measured["ROCAUC"] > 0.9
    sealed = manifest.read(claim.last)
    assert [tensor.name for tensor in sealed.outputs] == ["label", "probabilities"]
    assert sealed.lineage["calibration"] == method
    assert replay(claim.last) == 8


@pytest.mark.parametrize("method", ["Sigmoid", "Isotonic"])
def test_an_overconfident_model_is_made_honest(claim: Any, method: str) -> None:
    # Naive Bayes counts what four copies of a column say four times.
    random = np.random.default_rng(0)
    signal = random.normal(size=3000)
    target = (signal + random.normal(scale=1.5, size=3000) > 0).astype(int)
    rows = [[*[round(number, 3)] * 4, label] for number, label in zip(signal, target, strict=True)]
    uri = claim.rows("data.csv", [*"abcd", "y"], rows)
    losses, gaps = [], []
    for calibration in ("None", method):
        report = claim.train(claim.spec(uri, "y", "Classification", "GaussianNB", calibration=calibration))
        losses.append(float(next(item["value"] for item in report["metrics"] if item["name"] == "LogLoss")))
        confidence = json.loads((claim.last / "profile.json").read_text())["confidence"]
        sure = np.array([*confidence["edges"], 1.0]) - 0.025
        told = [(share, mid - right) for share, mid, right in zip(
            confidence["ratios"], sure, confidence["accuracy"], strict=True) if right is not None]  # fmt: skip
        gaps.append(abs(sum(share * gap for share, gap in told)))
    assert losses[1] < losses[0] - 0.1
    assert gaps[1] < 0.04 < gaps[0]


def test_isotonic_needs_probabilities(claim: Any, shipped: Any) -> None:
    error = claim.failure(calibrated(claim, shipped, "wine", "LinearSVC", "Isotonic"))
    assert (error.reason, error.message) == (
        "ParametersInvalid",
        "LinearSVC gives no probabilities: calibration must be Sigmoid",
    )


def twins(count: int) -> list[list[Any]]:
    """Two rows in a row are alike, and nothing else tells what they are."""
    labels = np.random.default_rng(2).integers(2, size=count // 2)
    return [[t, t // 2, "yes" if labels[t // 2] else "no"] for t in range(count)]


def test_rows_with_an_order_are_calibrated_by_what_comes_later(claim: Any) -> None:
    uri = claim.rows("data.csv", ["t", "a", "y"], twins(600))
    document = claim.spec(uri, "y", "Classification", "KNeighborsClassifier", parameters={"n_neighbors": "1"})
    report = claim.train({**document, "split": {"orderColumn": "t"}, "calibration": "Sigmoid"})
    # A model that has seen the twin of each row would be called sure: 0.9 and more.
    assert float(next(item["value"] for item in report["metrics"] if item["name"] == "LogLoss")) < 0.75


def test_a_class_of_the_first_rows_alone_cannot_be_calibrated(claim: Any) -> None:
    rows = [[t, a, "rare" if t < 4 else y] for t, a, y in twins(200)]
    document = claim.spec(claim.rows("data.csv", ["t", "a", "y"], rows), "y", "Classification", "GaussianNB")
    error = claim.failure({**document, "split": {"orderColumn": "t"}, "calibration": "Sigmoid"})
    assert (error.reason, error.message) == (
        "DataInvalid",
        "1 of 3 classes has no training row after the first fold by split.orderColumn, so nothing to calibrate by",
    )
