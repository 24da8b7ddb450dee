"""Embeddings: read as vectors, served as one input each, and watched by a few numbers instead of all elements."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet
import pytest
from tests.unit.serving.server import Server, until
from tests.unit.serving.server import claim as serving_claim
from tests.unit.serving.test_drift import scraped
from tests.unit.training.test_estimators import replay
from tests.unit.training.test_gate import Bench

from holdfast.stats import drift
from holdfast_bundle import manifest
from holdfast_bundle.manifest import Tensor
from holdfast_training import directions
from holdfast_training.again import verify_run
from holdfast_training.batch import inputs
from holdfast_training.errors import TrainingError

WIDTH = 12
WATCHED = [*(f"text.direction_{place}" for place in range(8)), "text.distance", "text_0"]

Floats = npt.NDArray[np.float32]


def vectors(count: int, seed: int = 0) -> Floats:
    """A few directions carry most of what differs, as in real embeddings."""
    random = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).normal(size=(WIDTH, WIDTH)) / np.arange(1, WIDTH + 1)[:, None]
    made: Floats = (random.normal(size=(count, WIDTH)) @ mixing).astype(np.float32)
    return made


def label(given: Floats) -> npt.NDArray[np.int64]:
    found: npt.NDArray[np.int64] = (given[:, 0] + given[:, 1] > 0).astype(np.int64)
    return found


def arrays(claim: Any, given: Floats, **columns: Any) -> str:
    np.savez(claim.root / "data.npz", text=given, y=label(given), **columns)
    return "pvc://models/data.npz"


def document(claim: Any, uri: str, estimator: str = "LogisticRegression", **more: Any) -> dict[str, Any]:
    made: dict[str, Any] = claim.spec(
        uri, "y", "Classification", estimator, **{"features": {"embeddings": ["text"]}, **more}
    )
    return made


def profile(claim: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((claim.last / "profile.json").read_text())
    return found


def test_a_vector_is_one_input_and_a_few_numbers_about_it_are_an_output(claim: Any) -> None:
    report = claim.train(document(claim, arrays(claim, vectors(400))))
    assert float(report["metrics"][0]["value"]) > 0.9
    sealed = manifest.read(claim.last)
    assert [(tensor.name, tensor.shape) for tensor in sealed.inputs] == [("text", (-1, WIDTH))]
    assert [(tensor.name, tensor.shape) for tensor in sealed.outputs][-1] == ("monitor", (-1, 9))
    assert sorted(profile(claim)["features"]) == WATCHED
    assert [each["name"] for each in json.loads((claim.last / "explanation.json").read_text())["features"]] == ["text"]
    assert replay(claim.last) == 8


@pytest.mark.parametrize("estimator", ["RandomForestRegressor", "LinearSVC", "LGBMClassifier"])
def test_columns_may_stand_beside_vectors_and_every_kind_of_model_gives_the_numbers(claim: Any, estimator: str) -> None:
    given = vectors(300)
    picture = vectors(300, 1)[:, :2]
    uri = arrays(claim, given, size=np.arange(300), kind=np.array(["a", "b", "c"] * 100), picture=picture)
    task = "Regression" if estimator.endswith("Regressor") else "Classification"
    parameters = {} if estimator == "LinearSVC" else {"n_estimators": "5"}
    features = {"excluded": ["size"], "embeddings": ["picture", "text"]}
    run = document(claim, uri, estimator, features=features, parameters=parameters)
    claim.train({**run, "task": task})
    sealed = manifest.read(claim.last)
    assert [tensor.name for tensor in sealed.inputs] == ["picture", "text", "kind"]
    assert sealed.outputs[-1].shape == (-1, 3 + 9)
    found = profile(claim)["features"]
    assert {"kind", "picture.distance", "text.distance", "picture_0", "text_0"} <= set(found)
    assert found["text.distance"]["output"] == "monitor"
    assert found["text.distance"]["column"] == 11
    explained = json.loads((claim.last / "explanation.json").read_text())["features"]
    assert {each["name"] for each in explained} == {"picture", "text", "kind"}
    if estimator == "LGBMClassifier":
        assert explained[0]["name"] == max(explained, key=lambda each: each["shap"])["name"] == "text"
    assert replay(claim.last) == 8


def test_lists_arrays_and_numbered_columns_are_the_same_vector(claim: Any) -> None:
    given = vectors(200)
    numbered = [f"text_{place}" for place in range(WIDTH)]
    rows = [[*map(repr, map(float, row)), y] for row, y in zip(given, label(given), strict=True)]
    lists = pa.table({"y": label(given), "text": pa.FixedSizeListArray.from_arrays(pa.array(given.ravel()), WIDTH)})
    pyarrow.parquet.write_table(lists, claim.root / "data.parquet")
    models = set()
    for uri in (claim.rows("data.csv", [*numbered, "y"], rows), arrays(claim, given), "pvc://models/data.parquet"):
        claim.train(document(claim, uri))
        models.add(manifest.read(claim.last).files["model.onnx"].sha256)
    assert len(models) == 1


def test_a_run_with_vectors_is_verified(claim: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    report = claim.train(document(claim, arrays(claim, vectors(100))))
    said = verify_run(report["model"]["uri"], scratch=tmp_path_factory.mktemp("scratch"), claims=claim.claims)
    assert said["result"] == "Same"


@pytest.mark.parametrize("ending", ["npz", "parquet"])
def test_the_gate_compares_models_of_vectors(claim: Any, ending: str) -> None:
    given = vectors(1500)
    uri = arrays(claim, given)
    if ending == "parquet":
        pyarrow.parquet.write_table(pa.table({"text": given.tolist(), "y": label(given)}), claim.root / "data.parquet")
        uri = "pvc://models/data.parquet"
    bench = Bench(claim, "y", "Classification")
    for name, estimator in (("old", "GaussianNB"), ("new", "LogisticRegression")):
        bench.train(name, uri, estimator, features={"embeddings": ["text"]})
    report = bench.judge("old", "new")
    assert report["passed"] is True, report["message"]
    assert report["rows"] > 300


def test_batch_inference_finds_the_elements_of_a_vector() -> None:
    text, size = Tensor("text", "FP32", (-1, 2)), Tensor("size", "FP32", (-1, 1))
    table = pa.table({"text_1": [3.0, 4.0], "size": [7.0, 8.0], "text_0": [1.0, 2.0]})
    read = inputs.read(table, inputs.assigned([text, size], table.column_names, ()))
    assert read.arrays["text"].tolist() == [[1, 3], [2, 4]]
    with pytest.raises(TrainingError, match="the model takes text"):
        inputs.assigned([text, size], ["text_0", "text_1", "text_2", "size"], ())


def broken(claim: Any, columns: dict[str, Any], **features: Any) -> TrainingError:
    table = pa.table({"y": ["a", "b"] * 20, **columns})
    pyarrow.parquet.write_table(table, claim.root / "data.parquet")
    error: TrainingError = claim.failure(
        document(claim, "pvc://models/data.parquet", features={"embeddings": ["text"], **features})
    )
    return error


PAIRS = [[float(i), float(i * i % 7)] for i in range(40)]


@pytest.mark.parametrize(
    ("columns", "features", "words"),
    [
        ({"a": range(40)}, {}, "column text not in the data; the columns there are: y, a; an embedding is a column of"),
        (
            {"text": range(40)},
            {},
            "its type int64 is no list; an embedding is a column of lists, or the",
        ),
        ({"text": [*PAIRS[:39], [1.0]]}, {}, "1 row of another length than the first one's 2, the first at row 40"),
        ({"text": [*PAIRS[:39], None]}, {}, "1 row of another length than the first one's 2, the first at row 40"),
        ({"text": [[1.0]] * 40}, {}, "its rows have 1 element; an embedding has 2 to 4,096"),
        (
            {"text": PAIRS, "text_0": range(40)},
            {"excluded": ["z"]},
            "have columns of its elements, too: text_0",
        ),
        (
            {"text_0": range(40), "text_1": range(40)},
            {"numeric": ["text_1"]},
            "it is an element of the embedding text; it cannot be anything else beside",
        ),
        ({"text_0": ["x"] * 40, "text_1": range(40)}, {}, "40 rows hold text in a numeric column"),
    ],
)
def test_what_is_no_vector_is_refused_in_words(claim: Any, columns: Any, features: Any, words: str) -> None:
    columns = {name: list(cells) for name, cells in columns.items()}
    if "excluded" in features:
        columns["z"] = [0] * 40
    assert words in broken(claim, columns, **features).message


def test_directions_of_nothing_but_rounding_are_left_out_and_equal_vectors_have_equal_numbers() -> None:
    few = vectors(5)
    given = few[np.random.default_rng(0).integers(5, size=300)]
    fitted = directions.fit(given)
    assert fitted.along.shape == (WIDTH, 4)
    assert len(np.unique(fitted.numbers(given), axis=0)) == 5
    same = directions.fit(np.ones((30, 3), np.float32))
    assert same.names("v") == ("v.distance",)
    assert same.numbers(np.array([[1, 1, 1], [np.nan, 3, 1]], np.float32)).tolist() == [[0], [2]]


def asked(server: Server, given: Floats) -> None:
    for start in range(0, len(given), 150):
        part = given[start : start + 150]
        data = [None if np.isnan(number) else float(number) for number in part.ravel()]
        said = server.ask(text=("FP32", [*part.shape], data))
        assert np.isfinite(np.array(said["monitor"]["data"])).all()


def window(server: Server, before: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Rows since then, by feature and bin."""
    found: dict[str, dict[str, float]] = {}
    for (feature, bin_), count in scraped(server)["feature_bin_total"].items():
        found.setdefault(feature, {})[bin_] = count - before["feature_bin_total"][feature, bin_]
    return found


def judged(server: Server, windows: list[dict[str, dict[str, float]]]) -> dict[str, drift.Finding]:
    """What the operator's rule makes of these windows."""
    samples = scraped(server)
    alpha = drift.alpha(86_400, len(windows[0]))
    found = {}
    for feature in windows[0]:
        shares = {bin_: share for (name, bin_), share in samples["feature_reference_ratio"].items() if name == feature}
        reference = drift.Reference(shares, samples["feature_reference_count"][(feature,)])
        series = drift.Series(reference, tuple(each[feature] for each in windows))
        found[feature] = drift.found(series, 0.1, alpha)
    return found


def test_served_vectors_are_counted_and_the_operator_tells_those_that_moved(claim: Any) -> None:
    report = claim.train(document(claim, arrays(claim, vectors(2500)), split={"testPercent": 50}))
    served = serving_claim(claim.claims / "served") / "bundle"
    shutil.copytree(claim.last, served)
    with Server(claim.claims / "served", "pvc://models/bundle", report["model"]["digest"]) as server:
        until(server.ready, "readiness")
        assert 'profile="complete"' in server.manage("/metrics").text
        before = scraped(server)
        asked(server, vectors(900, seed=5))
        usual = window(server, before)
        assert {feature: sum(bins.values()) for feature, bins in usual.items()} == dict.fromkeys(WATCHED, 900)
        assert not any(each.drifts() for each in judged(server, [usual] * 3).values())

        before = scraped(server)
        moved = vectors(900, seed=6)
        moved[:, 4:8] += 3 * moved[:, 4:8].std(axis=0)  # elements that are neither watched nor learned from
        asked(server, moved)
        drifted = window(server, before)
        found = judged(server, [drifted] * 3)
        assert found["text.distance"].drifts()
        assert any(each.drifts() for name, each in found.items() if name.startswith("text.direction"))
        assert not found["text_0"].drifts()

        before = scraped(server)
        asked(server, np.where(np.arange(900)[:, None] % 5 == 0, np.float32(np.nan), vectors(900, seed=7)))
        lost = window(server, before)
        assert lost["text_0"]["missing"] == 180
        assert judged(server, [lost] * 3)["text_0"].newest.fault == "missing"
