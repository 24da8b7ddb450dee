"""Rows are counted by the bins of the profile: all of them, each once, whatever way they came."""

from __future__ import annotations

import json
import math
import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.unit.serving import leases, models
from tests.unit.serving.server import REVISION, Server, claim, request, until, write_bundle

from holdfast_bundle.manifest import Tensor
from holdfast_serving.drift import Drift
from holdfast_serving.profile import Feature, Prediction, Profile, Ranges, Values
from holdfast_serving.signature import Signature

LABELS = {"model": "m", "revision": "r"}
EDGES = (-1.0, 0.25, 2.0)


def ranges(*edges: float) -> Ranges:
    return Ranges(edges, (1 / (len(edges) + 1),) * (len(edges) + 1), 0.0)


def values(*names: str | int) -> Values:
    return Values(names, (0.5,) * len(names), 0.0, 0.0)


def counted(drift: Drift) -> dict[tuple[str, ...], float]:
    """Counts by what is counted and its labels beside the model's."""
    found = {}
    for family in drift.collect():
        for sample in family.samples:
            if sample.name.endswith("_bin_total"):
                what = sample.name.removeprefix("holdfast_model_").removesuffix("_bin_total")
                own = [sample.labels[name] for name in ("feature", "bin") if name in sample.labels]
                found[(what, *own)] = sample.value
    return found


def expected(what: str, name: str | None, edges: tuple[float, ...], numbers: Any) -> dict[tuple[str, ...], float]:
    """As the contract has it, number by number."""
    bins = Counter("missing" if math.isnan(x) else str(bisect_left(edges, x)) for x in map(float, numbers))
    names = [*map(str, range(len(edges) + 1)), "missing"]
    return {(what, *([name] if name else []), bin_): float(bins[bin_]) for bin_ in names}


def awkward(random: np.random.Generator, count: int, dtype: type = np.float32) -> np.ndarray[Any, Any]:
    """Numbers on, above and below edges, and none."""
    special = np.array([*EDGES, *np.nextafter(np.float32(EDGES), np.float32(9)), np.nan, np.inf, -np.inf, 0.0, 1e38])
    return np.where(random.random(count) < 0.5, random.choice(special, count), random.normal(0, 2, count)).astype(dtype)


@pytest.mark.parametrize("alike", [True, False], ids=["one number of rows", "inputs of different lengths"])
def test_counts_are_those_of_a_loop_over_all_numbers(alike: bool) -> None:
    random = np.random.default_rng(5)
    signature = Signature(
        (Tensor("a", "FP32", (-1, 1)), Tensor("X", "FP64", (-1, 3)), Tensor("n", "INT64", (-1,))),
        (Tensor("prediction", "FP32", (-1,)),),
    )
    features = (
        Feature("a", "a", 0, ranges(*EDGES)),
        Feature("last", "X", 2, ranges(0.0)),
        Feature("first", "X", 0, ranges()),
        Feature("n", "n", 0, ranges(*EDGES)),
    )
    drift = Drift(Profile(10, features, Prediction(0, ranges(*EDGES)), None, ()), signature, LABELS)
    seen: dict[str, list[Any]] = {name: [] for name in ("a", "last", "first", "n", "prediction")}
    for _ in range(40):
        rows, more = (int(random.integers(1, 60)) for _ in range(2))
        more = rows if alike else more
        a, table = awkward(random, rows), awkward(random, 3 * more, np.float64).reshape(more, 3)
        n, prediction = random.integers(-3, 4, rows), awkward(random, rows)
        drift.record({"a": a.reshape(-1, 1), "X": table, "n": n}, [prediction])
        for name, numbers in (("a", a), ("last", table[:, 2]), ("first", table[:, 0]), ("n", n)):
            seen[name] += numbers.tolist()
        seen["prediction"] += prediction.tolist()
    wanted = expected("prediction", None, EDGES, seen["prediction"])
    for feature in features:
        assert isinstance(feature.bins, Ranges)
        wanted |= expected("feature", feature.name, feature.bins.edges, seen[feature.name])
    assert counted(drift) == wanted


def test_columns_of_outputs_are_counted_as_those_of_inputs_are() -> None:
    random = np.random.default_rng(7)
    signature = Signature(
        (Tensor("picture", "FP32", (-1, 3, 8, 8)),),
        (Tensor("prediction", "FP32", (-1,)), Tensor("embedding", "FP32", (-1, 3)), Tensor("kind", "BYTES", (-1,))),
    )
    features = (
        Feature("embedding-2", "", 2, ranges(*EDGES), 1),
        Feature("kind", "", 0, values("a", "b"), 2),
    )
    drift = Drift(Profile(10, features, Prediction(0, ranges(0.0)), None, ()), signature, LABELS)
    seen: list[float] = []
    for rows in (1, 40, 7):
        embedding = awkward(random, 3 * rows).reshape(rows, 3)
        outputs = [np.zeros(rows, np.float32), embedding, np.array(["a"] * rows, object)]
        drift.record({"picture": np.zeros((rows, 3, 8, 8), np.float32)}, outputs)
        seen += embedding[:, 2].tolist()
    wanted = expected("feature", "embedding-2", EDGES, seen) | expected("prediction", None, (0.0,), [0.0] * 48)
    for bin_, count in {"0": 48, "1": 0, "other": 0, "missing": 0}.items():
        wanted["feature", "kind", bin_] = count
    assert counted(drift) == wanted


def test_values_are_counted_by_their_place_and_the_empty_text_is_missing() -> None:
    signature = Signature((Tensor("c", "BYTES", (-1, 1)),), (Tensor("label", "BYTES", (-1,)),))
    profile = Profile(9, (Feature("c", "c", 0, values("red", "été")),), Prediction(0, values("no", "yes")), None, ())
    drift = Drift(profile, signature, LABELS)
    for texts in (["red", "", "blue", "red"], ["été", "Red"]):
        given = np.array(texts, object).reshape(-1, 1)
        drift.record({"c": given}, [np.array(["yes"] * len(texts), object)])
    assert counted(drift) == {
        ("feature", "c", "0"): 2, ("feature", "c", "1"): 1,
        ("feature", "c", "other"): 2, ("feature", "c", "missing"): 1,
        ("prediction", "0"): 0, ("prediction", "1"): 6, ("prediction", "other"): 0, ("prediction", "missing"): 0,
    }  # fmt: skip


def test_large_runs_are_counted_in_pieces() -> None:
    signature = Signature((Tensor("a", "FP32", (-1, 1)),), ())
    drift = Drift(Profile(9, (Feature("a", "a", 0, ranges(*EDGES)),), None, None, ()), signature, LABELS)
    numbers = awkward(np.random.default_rng(1), 3_000_000)
    assert drift.record({"a": numbers.reshape(-1, 1)}, [])
    assert drift.is_large
    drift.count(drift.take())
    assert not drift.is_large
    found = counted(drift)
    assert sum(found.values()) == 3_000_000
    assert found["feature", "a", "missing"] == np.isnan(numbers).sum()
    assert found["feature", "a", "0"] == (numbers <= -1).sum()


def test_what_is_kept_until_it_is_counted_is_bounded() -> None:
    signature = Signature((Tensor("a", "FP32", (-1, 1)), Tensor("picture", "UINT8", (-1, 1 << 20))), ())
    drift = Drift(Profile(9, (Feature("a", "a", 0, ranges(*EDGES)),), None, None, ()), signature, LABELS)
    one = np.zeros((1, 1), np.float32)
    assert drift.record({"a": one, "picture": np.zeros((1, 1 << 20), np.uint8)}, [])  # both can be one block
    drift.count(drift.take())
    for _ in range(5000):
        if drift.record({"a": one, "picture": np.zeros((1, 0), np.uint8)}, []):
            break
    else:
        pytest.fail("runs are kept without end")


def test_counting_in_threads_loses_nothing() -> None:
    signature = Signature((Tensor("a", "FP32", (-1, 1)),), ())
    drift = Drift(Profile(9, (Feature("a", "a", 0, ranges(*EDGES)),), None, None, ()), signature, LABELS)
    with ThreadPoolExecutor(4) as threads:
        for number in range(3000):
            drift.record({"a": np.zeros((7, 1), np.float32)}, [])
            if number % 10 == 0:
                threads.submit(drift.count, drift.take())
    assert counted(drift)["feature", "a", "1"] == 21_000


def test_what_cannot_be_counted_ends_the_counting_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    signature = Signature((Tensor("a", "FP32", (-1, 1)),), ())
    drift = Drift(Profile(9, (Feature("a", "a", 0, ranges(*EDGES)),), None, None, ()), signature, LABELS)
    for _ in range(2):
        drift.record({"a": np.array([["text"]], object)}, [])
        drift.count(drift.take())
    assert caplog.text.count("rows are not counted any more") == 1


# In a server.

IRIS_PROFILE: dict[str, Any] = {
    "rows": 50,
    "features": {
        name: {
            "kind": "numeric", "edges": [2.0, 4.0], "ratios": [0.5, 0.25, 0.25], "missingRatio": 0.0, "input": "X",
            "column": column, "excess": [0.0, -0.25, column / 8],
        }
        for column, name in enumerate(("sepal length", "sepal width", "petal length", "petal width"))
    },
    "prediction": {"labels": [0, 1, 2], "ratios": [0.2, 0.3, 0.5]},
    "confidence": {"edges": [0.5, 0.9], "ratios": [0.1, 0.2, 0.7], "accuracy": [None, 0.8, 0.96]},
}  # fmt: skip


@contextmanager
def bundled(folder: Path, document: Any, content: bytes | None = None, **changes: Any) -> Iterator[Server]:
    """A ready server of a bundle with a profile; `changes` of the manifest, and environment variables."""
    variables = {name: changes.pop(name) for name in list(changes) if name.startswith("HOLDFAST_")}
    folder.mkdir(exist_ok=True)
    place = claim(folder) / "bundle"
    place.mkdir()
    (place / "profile.json").write_text(document if isinstance(document, str) else json.dumps(document))
    digest = write_bundle(place, content or models.iris(), **changes)
    with Server(folder, "pvc://models/bundle", digest, **variables) as server:
        until(server.ready, "readiness")
        yield server


def scraped(server: Server) -> dict[str, dict[tuple[str, ...], float]]:
    """Samples by name without prefix, and by the labels beside the model's."""
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(server.manage("/metrics").text):
        for sample in family.samples:
            if sample.labels.items() >= {("model", "wine"), ("revision", REVISION)}:
                own = tuple(sample.labels[name] for name in ("feature", "bin") if name in sample.labels)
                found.setdefault(sample.name.removeprefix("holdfast_model_"), {})[own] = sample.value
    return found


def test_every_row_is_counted_once_over_every_way_in(tmp_path: Path) -> None:
    random = np.random.default_rng(2)
    rows = random.uniform(0, 8, (1200, 4)).astype(np.float32)
    rows[::7, 1] = [2.0 if number % 2 else 4.0 for number in range(len(rows[::7]))]
    with bundled(tmp_path, IRIS_PROFILE) as server:
        before = scraped(server)
        answers: list[int] = []
        largest: list[float] = []

        def ask(mine: np.ndarray[Any, Any]) -> None:
            with httpx.Client(timeout=60) as client:
                at = 0
                while at < len(mine):
                    part = mine[at : at + 1 + at % 5]
                    at += len(part)
                    answer = client.post(
                        server.url + server.infer_path,
                        json=request(X=("FP32", [*part.shape], part.ravel().tolist())) | {"id": "x"},
                    ).json()
                    by_name = {output["name"]: output["data"] for output in answer["outputs"]}
                    answers.extend(by_name["label"])
                    largest.extend(np.reshape(by_name["probabilities"], (-1, 3)).max(axis=1).tolist())

        threads = [threading.Thread(target=ask, args=(part,)) for part in np.array_split(rows[:1000], 4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        tensor = {"name": "X", "datatype": "FP32", "shape": [200, 4], "parameters": {"binary_data_size": 3200}}
        head = json.dumps({"inputs": [tensor]}).encode()
        raw = httpx.post(
            server.url + server.infer_path,
            content=head + rows[1000:].tobytes(),
            headers={"Inference-Header-Content-Length": str(len(head))},
            timeout=60,
        )
        assert raw.status_code == 200, raw.text
        for output in raw.json()["outputs"]:
            if output["name"] == "label":
                answers.extend(output["data"])
            else:
                largest.extend(np.reshape(output["data"], (-1, 3)).max(axis=1).tolist())
        assert server.infer({"inputs": []}).status_code == 400
        after = scraped(server)

    names = IRIS_PROFILE["features"]
    assert set(before["feature_bin_total"].values()) == {0.0}
    assert before["feature_bin_total"].keys() == {(name, bin_) for name in names for bin_ in ("0", "1", "2", "missing")}
    wanted = {}
    for column, name in enumerate(names):
        wanted |= expected("", name, (2.0, 4.0), rows[:, column])
    assert after["feature_bin_total"] == {key[1:]: count for key, count in wanted.items()}
    labels = Counter(answers)
    assert after["prediction_bin_total"] == {
        ("0",): labels[0], ("1",): labels[1], ("2",): labels[2], ("other",): 0, ("missing",): 0
    }  # fmt: skip
    wanted = expected("", None, (0.5, 0.9), largest)
    assert after["confidence_bin_total"] == {key[1:]: count for key, count in wanted.items()}
    for time in (before, after):
        assert time["feature_reference_ratio"]["petal width", "0"] == 0.5
        assert time["feature_reference_count"]["petal width",] == 50
        assert time["prediction_reference_ratio"]["2",] == 0.5
        assert time["feature_reference_excess"] == {
            (name, str(bin_)): excess
            for column, name in enumerate(names)
            for bin_, excess in enumerate([0.0, -0.25, column / 8])
        }
        assert time["confidence_reference_accuracy"] == {("1",): 0.8, ("2",): 0.96}


def test_rows_that_the_model_failed_on_are_not_counted(tmp_path: Path) -> None:
    profile = {"rows": 9, "features": {"i": {"kind": "numeric", "edges": [3], "ratios": [0.5, 0.5]}}}
    tensors = {"inputs": [Tensor("i", "INT64", (-1,))], "outputs": [Tensor("y", "FP32", (-1, 2))]}
    with bundled(tmp_path, profile, models.lookup(), **tensors) as server:
        for number in (1, 99, 5, -50, 2):
            server.infer(request(i=("INT64", [1], [number])))
        assert scraped(server)["feature_bin_total"] == {("i", "0"): 2, ("i", "1"): 1, ("i", "missing"): 0}


def test_features_with_inputs_of_their_own_are_counted_with_strings(tmp_path: Path) -> None:
    profile = {
        "rows": 60,
        "features": {
            "colour": {"kind": "categorical", "categories": ["red", "blue"], "ratios": [0.5, 0.5]},
            "size": {"kind": "numeric", "edges": [3], "ratios": [0.5, 0.5]},
        },
    }
    inputs = [Tensor("colour", "BYTES", (-1, 1)), Tensor("size", "FP32", (-1, 1))]
    outputs = [Tensor("label", "BYTES", (-1,)), Tensor("probabilities", "FP32", (-1, 6))]
    with bundled(tmp_path, profile, models.colours(), inputs=inputs, outputs=outputs) as server:
        for colours, sizes in ((["red", "green"], [1.0, None]), (["", "blue"], [9.0, 3.0])):
            answer = server.infer(request(colour=("BYTES", [2, 1], colours), size=("FP32", [2, 1], sizes)))
            assert answer.status_code == 200, answer.text
        assert scraped(server)["feature_bin_total"] == {
            ("colour", "0"): 1, ("colour", "1"): 1, ("colour", "other"): 1, ("colour", "missing"): 1,
            ("size", "0"): 2, ("size", "1"): 1, ("size", "missing"): 1,
        }  # fmt: skip


@pytest.mark.parametrize(
    ("document", "state", "said"),
    [
        (IRIS_PROFILE, "complete", ""),
        (IRIS_PROFILE | {"prediction": {}}, "partial", "profile: prediction belongs to no output of the model"),
        ("rubbish", "unusable", "profile: profile.json is not JSON"),
    ],
    ids=["complete", "partial", "unusable"],
)
def test_a_model_is_served_whatever_its_profile_is_and_that_is_said(
    tmp_path: Path, document: Any, state: str, said: str
) -> None:
    changes: dict[str, Any] = {}
    if state == "partial":
        changes = {
            "outputs": [Tensor("label", "INT64", (-1,)), Tensor("probabilities", "FP32", (-1, 3))],
        }
    with bundled(tmp_path, document, **changes) as server:
        assert server.infer(request(X=("FP32", [1, 4], [5.1, 3.5, 1.4, 0.2]))).status_code == 200
        assert server.metric("holdfast_model_info", profile=state) == 1
        assert said in server.log
        assert ("feature_bin_total" in scraped(server)) == (state != "unusable")


def test_rows_that_another_revision_answered_are_counted_there_and_not_here(tmp_path: Path) -> None:
    keys = {"HOLDFAST_ROUTER_PUBLIC_KEYS": leases.public(leases.KEY)}
    with (
        bundled(tmp_path / "there", IRIS_PROFILE, HOLDFAST_REVISION=leases.TARGET) as there,
        bundled(tmp_path / "here", IRIS_PROFILE, **keys) as here,
    ):
        operator = leases.Operator(here, f"127.0.0.1:{there.port}")

        def rows(server: Server) -> float:
            return sum(
                server.metric("holdfast_model_prediction_bin_total", bin=bin_)
                for bin_ in ("0", "1", "2", "other", "missing")
            )

        body = request(X=("FP32", [2, 4], [5.1, 3.5, 1.4, 0.2] * 2))
        operator.grant(weight=1)
        for _ in range(5):
            assert here.infer(body).json()["model_version"] == leases.TARGET
        assert (rows(here), rows(there)) == (0, 10)
        operator.grant(weight=0)
        for _ in range(5):
            assert here.infer(body).json()["model_version"] == REVISION
        assert (rows(here), rows(there)) == (10, 10)
