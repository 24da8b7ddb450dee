"""What the bundle says of the model beside its metrics: parts of the rows, importance of columns, the card."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from holdfast_bundle import manifest, termination, verify
from holdfast_training.__main__ import guarded


def table(rows: int = 400) -> list[list[Any]]:
    """`y` follows `a` much, `b` a little and `noise` not at all; but where `where` is south it is a coin."""
    random = np.random.default_rng(1)
    made: list[list[Any]] = []
    for _ in range(rows):
        a, b, noise = (round(number, 3) for number in random.normal(size=3))
        where = ["north", "south", "west", ""][random.integers(4)]
        made.append([a, b, noise, where, int(3 * a + b > 0) if where != "south" else int(random.integers(2))])
    return made


def document(claim: Any, estimator: str = "RandomForestClassifier", **more: Any) -> dict[str, Any]:
    uri = claim.rows("data.csv", ["a", "b", "noise", "where", "y"], table())
    parameters = more.pop("parameters", {"n_estimators": "30"})
    found: dict[str, Any] = claim.spec(uri, "y", "Classification", estimator, parameters=parameters, **more)
    return found


def read(claim: Any, name: str) -> Any:
    return json.loads((claim.last / name).read_text())


def test_parts_of_the_rows_are_measured_by_themselves(claim: Any) -> None:
    report = claim.train(document(claim, slices=["where", "a"]))
    told = {item["slice"]: float(item["value"]) for item in report["metrics"] if "slice" in item}
    assert {"where=0", "where=1", "where=2", "where=3", "a=0", "a=1", "a=2", "a=3"} == set(told)
    assert told["where=2"] < 0.75 < min(told["where=1"], told["where=3"])
    parts = read(claim, "slices.json")
    assert [(part["column"], part["of"]) for part in parts[:4]] == [
        ("where", "(missing)"), ("where", "north"), ("where", "south"), ("where", "west"),
    ]  # fmt: skip
    assert sum(part["rows"] for part in parts[:4]) == sum(part["rows"] for part in parts[4:]) == 80
    accuracy = sum(part["rows"] * float(part["metrics"]["Accuracy"]) for part in parts[:4]) / 80
    assert accuracy == pytest.approx(float(report["metrics"][0]["value"]), abs=1e-3)
    assert [item["name"] for item in report["metrics"]][:2] == ["Accuracy", "BalancedAccuracy"]
    assert "slice" not in report["metrics"][6]


def test_a_part_with_few_rows_has_no_metric(claim: Any) -> None:
    rows = [[i, "rare" if i % 5 == 0 else "often", i * 2] for i in range(100)]
    uri = claim.rows("data.csv", ["a", "kind", "y"], rows)
    report = claim.train(claim.spec(uri, "y", "Regression", "LinearRegression", slices=["kind"]))
    assert [item["slice"] for item in report["metrics"] if "slice" in item] == ["kind=0"]
    assert {part["of"]: bool(part["metrics"]) for part in read(claim, "slices.json")} == {"often": True, "rare": False}


def test_a_part_by_a_column_that_is_no_feature_is_refused(claim: Any) -> None:
    error = claim.failure(document(claim, slices=["where", "region"]))
    assert error.reason == "ColumnNotFound"
    assert error.message == "evaluation.slices: not among the features: region; these are: a, b, noise, where"


@pytest.mark.parametrize(
    ("estimator", "preprocessing"),
    [
        ("RandomForestClassifier", {}),
        ("XGBClassifier", {}),
        ("LGBMClassifier", {"encodeCategorical": "Ordinal"}),
    ],
)
def test_the_column_that_decides_is_the_first(claim: Any, estimator: str, preprocessing: dict[str, str]) -> None:
    claim.train(document(claim, estimator, preprocessing=preprocessing))
    told = read(claim, "explanation.json")
    assert (told["metric"], told["rows"]) == ("Accuracy", 80)
    importance = {feature["name"]: feature["importance"] for feature in told["features"]}
    assert next(iter(importance)) == "a"
    assert importance["a"] > 0.2 > 0.1 > abs(importance["noise"])
    assert [*importance.values()] == sorted(importance.values(), reverse=True)
    shap = {feature["name"]: feature.get("shap") for feature in told["features"]}
    if estimator == "RandomForestClassifier":
        assert set(shap.values()) == {None}
    else:
        assert max(shap, key=lambda name: shap[name]) == "a"


def test_shap_values_add_up_over_the_categories_of_a_column(claim: Any) -> None:
    rows = [[["red", "green", "blue"][i % 3], i % 7, int(i % 3 == 0)] for i in range(300)]
    uri = claim.rows("data.csv", ["colour", "other", "y"], rows)
    claim.train(claim.spec(uri, "y", "Classification", "XGBClassifier", parameters={"n_estimators": "10"}))
    first, second = read(claim, "explanation.json")["features"]
    assert (first["name"], second["name"]) == ("colour", "other")
    assert first["shap"] > 1 > 0.01 > second["shap"]


def test_the_card_tells_what_a_person_should_know(claim: Any, mixed: Callable[[str], Any]) -> None:
    header, rows = mixed("wine")
    header[0] = "alcohol | *by* volume"
    uri = claim.rows("data.csv", header, rows)
    tuning = {"trials": 2, "folds": 3, "metric": "LogLoss"}
    estimators = [{"name": "GaussianNB"}, {"name": "XGBClassifier", "parameters": {"n_estimators": "10"}}]
    spec = claim.spec(uri, "cultivar", "Classification", "", estimators=estimators, tuning=tuning, slices=[header[1]])
    report = claim.train(spec)
    card = (claim.last / "card.md").read_text()
    sealed = manifest.read(claim.last)
    assert card.startswith(f"# out\n\nA {report['model']['estimator']} that predicts one of 3 classes of cultivar.\n")
    for heading in ("Data", "Metrics on held-out rows", "Parts of the held-out rows", "What it looks at", "Limits"):
        assert f"\n## {heading}\n" in card
    assert sealed.lineage["dataDigest"] in card
    assert "36 of 178 rows were held out, at random, by seed 0" in card
    assert f"| LogLoss | {sealed.metrics['LogLoss']} |" in card
    assert r"| alcohol \| \*by\* volume |" in card
    assert "Best of 2 trials (0 failed, 0 pruned) by LogLoss in 3-fold cross-validation" in card
    assert "mid, lower" in card
    assert f"scikit-learn {sealed.lineage['packages']['scikit-learn']}" in card


def test_what_is_said_of_a_model_is_sealed_and_the_same_every_time(claim: Any) -> None:
    digests = {claim.train(document(claim, "LGBMClassifier", slices=["where"]))["model"]["digest"] for _ in range(2)}
    assert len(digests) == 1
    assert {"card.md", "explanation.json", "slices.json"} <= set(manifest.read(claim.last).files)
    (claim.last / "card.md").write_text("a better card")
    with pytest.raises(Exception, match=r"card\.md"):
        verify.verify(claim.last, None)


def test_many_parts_fit_into_the_termination_message_and_metrics_of_all_rows_stay(claim: Any) -> None:
    names = [f"{i}-{'ü' * 120}" for i in range(8)]
    random = np.random.default_rng(0)
    rows = [[*random.normal(size=8).round(2).tolist(), i % 2] for i in range(400)]
    uri = claim.rows("data.csv", [*names, "y"], rows)
    payload, code = guarded(lambda: claim.train(claim.spec(uri, "y", "Classification", "GaussianNB", slices=names)))
    assert code == 0
    assert len(payload["metrics"]) == 32
    assert all(len(item.get("slice", "")) <= 128 for item in payload["metrics"])
    message = json.loads(termination.encode(payload))
    whole = [item["name"] for item in message["metrics"] if "slice" not in item]
    assert whole == ["Accuracy", "BalancedAccuracy", "F1", "Precision", "Recall", "ROCAUC", "LogLoss"]
