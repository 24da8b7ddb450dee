"""The ONNX graph around the estimator: its names, its ties, its bytes."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from holdfast_bundle import manifest
from holdfast_training import conversion
from holdfast_training.errors import TrainingError
from holdfast_training.model import Answers

ODD_NAMES = ["_features", "__p0", "N", "model", "a b", "od280/od315", "ünïcode", "0", "variable", "_", "output_label"]


@pytest.mark.parametrize("estimator", ["KNeighborsClassifier", "MLPClassifier", "RandomForestClassifier"])
def test_columns_may_have_any_name(claim: Any, estimator: str) -> None:
    random = np.random.default_rng(0)
    rows = [[*random.normal(size=len(ODD_NAMES)).tolist(), "xyz"[i % 3], i % 2] for i in range(60)]
    uri = claim.rows("data.csv", [*ODD_NAMES, "two\nlines, one name", "y"], rows)
    claim.train(claim.spec(uri, "y", "Classification", estimator))
    names = [*ODD_NAMES, "two\nlines, one name"]
    assert [tensor.name for tensor in manifest.read(claim.last).inputs] == names
    session = onnxruntime.InferenceSession(claim.last / "model.onnx", providers=["CPUExecutionProvider"])
    assert [tensor.name for tensor in session.get_inputs()] == names
    assert [tensor.name for tensor in session.get_outputs()] == ["label", "probabilities"]


def test_the_manifest_says_what_the_model_file_says(claim: Any, mixed: Any) -> None:
    uri = claim.rows("data.csv", *mixed("breast-cancer"))
    claim.train(claim.spec(uri, "diagnosis", "Classification", "LogisticRegression"))
    model = onnx.load(claim.last / "model.onnx")
    described = manifest.read(claim.last)
    assert {opset.domain: opset.version for opset in model.opset_import}[""] == described.opset == 21
    types = {onnx.TensorProto.FLOAT: "FP32", onnx.TensorProto.STRING: "BYTES", onnx.TensorProto.INT64: "INT64"}
    for tensors, values in ((described.inputs, model.graph.input), (described.outputs, model.graph.output)):
        assert [(tensor.name, tensor.datatype, list(tensor.shape)) for tensor in tensors] == [
            (
                value.name,
                types[value.type.tensor_type.elem_type],
                [dim.dim_value or -1 for dim in value.type.tensor_type.shape.dim],
            )
            for value in values
        ]
    classes = json.loads((claim.last / "profile.json").read_bytes())["prediction"]["labels"]
    assert [tensor.labels for tensor in described.outputs] == [(), tuple(map(str, classes))]


def test_nothing_in_the_bundle_tells_when_or_by_which_run_it_was_made(claim: Any, shipped: Any) -> None:
    uri = claim.text("data.csv", (shipped / "wine.csv").read_bytes())
    document = claim.spec(uri, "cultivar", "Classification", "DecisionTreeClassifier")
    document["output"]["folder"] = "a-run-of-its-own"
    claim.train(document)
    sealed = [file for file in claim.last.iterdir() if file.name != "_run.json"]  # lies beside the bundle
    assert len(sealed) >= 4
    for file in sealed:
        assert b"a-run-of-its-own" not in file.read_bytes()
        assert b"data.csv" not in file.read_bytes()


@pytest.mark.parametrize("metric", ["euclidean", "manhattan", "minkowski"])
def test_the_bytes_of_a_model_do_not_depend_on_those_converted_before(claim: Any, shipped: Any, metric: str) -> None:
    uri = claim.text("data.csv", (shipped / "wine.csv").read_bytes())
    parameters = {"metric": metric, "p": "3"}
    digests = {
        claim.train(claim.spec(uri, "cultivar", "Classification", "KNeighborsClassifier", parameters=parameters))[
            "model"
        ]["digest"]
        for _ in range(2)
    }
    assert len(digests) == 1


def test_ties_of_a_forest_break_no_parity_and_are_no_golden_rows(claim: Any) -> None:
    # Every row exists with both labels, so leaves are split evenly and FP32 sums decide by their last bit.
    rows = [[i // 2 % 30, i // 2 % 7, "ab"[i % 2]] for i in range(420)]
    rows += [[100 + i, 100, "ab"[i > 10]] for i in range(40)]
    uri = claim.rows("data.csv", ["a", "b", "y"], rows)
    parameters = {"n_estimators": "10", "bootstrap": "false"}
    claim.train(claim.spec(uri, "y", "Classification", "RandomForestClassifier", parameters=parameters))
    golden = json.loads((claim.last / "golden.json").read_text())
    assert golden["requests"]
    for request in golden["requests"]:
        first, second = request["outputs"][1]["data"]
        assert abs(first - second) > 1e-4


def answers(labels: list[int], probabilities: list[list[float]]) -> Answers:
    numbers = np.array(probabilities)
    lead = np.sort(numbers, axis=1)
    return Answers(np.array(labels), numbers, lead[:, -1] - lead[:, -2])


@pytest.mark.parametrize(
    ("labels", "probabilities", "words"),
    [
        ([0, 1], [[0.9, 0.1], [0.2, 0.8]], None),
        ([0, 1], [[0.900005, 0.099995], [0.2, 0.8]], None),
        ([0, 0], [[0.9, 0.1], [0.2, 0.8]], "another label than scikit-learn for 1 of 2 held-out rows"),
        ([0, 1], [[0.9, 0.1], [0.21, 0.79]], "answers differently from scikit-learn for 1 of 2 held-out rows"),
        ([0, 1], [[0.9, 0.1], [np.nan, np.nan]], "answers differently from scikit-learn for 1 of 2 held-out rows"),
    ],
)
def test_labels_must_be_equal_and_probabilities_close(labels: Any, probabilities: Any, words: str | None) -> None:
    expected = answers([0, 1], [[0.9, 0.1], [0.2, 0.8]])
    outputs = [np.array(labels), np.array(probabilities, np.float32)]
    if words is None:
        assert conversion.compare("SVC", expected, outputs) < 1e-5
    else:
        with pytest.raises(TrainingError, match=words) as ended:
            conversion.compare("SVC", expected, outputs)
        assert ended.value.reason == "ParityFailed"


@pytest.mark.parametrize(
    ("name", "framework"),
    [
        ("SVC", "scikit-learn"),
        ("XGBClassifier", "XGBoost"),
        ("LGBMClassifier", "LightGBM"),
        ("TorchMLPClassifier", "PyTorch"),
        ("KerasMLPRegressor", "Keras"),
    ],
)
def test_the_library_that_answered_otherwise_is_called_by_its_name(name: str, framework: str) -> None:
    expected = answers([0, 1], [[0.9, 0.1], [0.2, 0.8]])
    for labels, probability in (([0, 0], 0.8), ([0, 1], 0.7)):
        outputs = [np.array(labels), np.array([[0.9, 0.1], [1 - probability, probability]], np.float32)]
        with pytest.raises(TrainingError, match=f" than {framework} for| from {framework} for"):
            conversion.compare(name, expected, outputs)


def test_a_label_may_differ_only_where_scikit_learn_sees_a_tie() -> None:
    tie = answers([0], [[0.5, 0.5]])
    conversion.compare("SVC", tie, [np.array([1]), np.array([[0.4999999, 0.5000001]], np.float32)])
    near = answers([0], [[0.5001, 0.4999]])
    with pytest.raises(TrainingError, match="another label"):
        conversion.compare("SVC", near, [np.array([1]), np.array([[0.5001, 0.4999]], np.float32)])
