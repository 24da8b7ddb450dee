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
