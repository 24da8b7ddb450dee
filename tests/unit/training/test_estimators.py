"""Every estimator of the allow-list, from CSV to a bundle whose ONNX model answers like scikit-learn."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any, get_args

import numpy as np
import onnxruntime
import pytest

from holdfast.api import trainingjob as api
from holdfast_bundle import manifest, verify
from holdfast_training.estimators import CLASSIFIERS, REGRESSORS, library

TREES, ITERATIONS = {"n_estimators": "20"}, {"max_iter": "20"}
NET = {"hidden_layer_sizes": "[8]", "max_iter": "2000"}
SMALL = {
    "RandomForestClassifier": TREES,
    "RandomForestRegressor": TREES,
    "ExtraTreesClassifier": TREES,
    "ExtraTreesRegressor": TREES,
    "MLPClassifier": NET,
    "MLPRegressor": NET,
    "HistGradientBoostingClassifier": ITERATIONS,
    "HistGradientBoostingRegressor": ITERATIONS,
    **dict.fromkeys(("LGBMClassifier", "LGBMRegressor", "XGBClassifier", "XGBRegressor"), TREES),
}
OPTIONAL = {name for name in CLASSIFIERS | REGRESSORS if library(name)}  # tests/pytorch, tests/tensorflow
WITHOUT_PROBABILITIES = {"LinearSVC", "RidgeClassifier", "SGDClassifier", "SVC"}


def replay(folder: Any) -> int:
    """Send the golden requests to ONNX Runtime, one row each; returns how many there were."""
    golden = json.loads((folder / "golden.json").read_text())
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    types = {"FP32": np.float32, "UINT8": np.uint8, "BYTES": np.object_}
    for request in golden["requests"]:
        feeds = {
            tensor["name"]: np.array(tensor["data"], types[tensor["datatype"]]).reshape(tensor["shape"])
            for tensor in request["inputs"]
        }
        names = [tensor["name"] for tensor in request["outputs"]]
        for tensor, answer in zip(request["outputs"], session.run(names, feeds), strict=True):
            assert list(answer.shape) == tensor["shape"]
            if tensor["datatype"] == "FP32":
                limit = golden["tolerance"]["absolute"] + golden["tolerance"]["relative"] * np.abs(tensor["data"])
                assert np.all(np.abs(answer.ravel() - tensor["data"]) <= limit)
            else:
                assert answer.ravel().tolist() == tensor["data"]
    return len(golden["requests"])


@pytest.mark.parametrize("estimator", sorted(CLASSIFIERS.keys() - OPTIONAL))
@pytest.mark.parametrize("dataset", ["wine", "breast-cancer"])
def test_every_classifier_is_trained_converted_and_checked(
    claim: Any, mixed: Callable[[str], Any], estimator: str, dataset: str
) -> None:
    uri = claim.rows("data.csv", *mixed(dataset))
    target = {"wine": "cultivar", "breast-cancer": "diagnosis"}[dataset]
    parameters = SMALL.get(estimator, {})
    report = claim.train(claim.spec(uri, target, "Classification", estimator, parameters=parameters))
    measured = {metric["name"]: float(metric["value"]) for metric in report["metrics"]}
    assert report["metrics"][0]["name"] == "Accuracy"
    assert measured["Accuracy"] > 0.6  # a constant answer reaches 0.4 and 0.63
    assert ("LogLoss" in measured) == ("ROCAUC" in measured) == (estimator not in WITHOUT_PROBABILITIES)
    assert verify.verify(claim.last, report["model"]["digest"]) == report["model"]["digest"]
    outputs = {tensor.name: tensor for tensor in manifest.read(claim.last).outputs}
    assert outputs["label"].datatype == ("INT64" if dataset == "wine" else "BYTES")
    assert ("probabilities" in outputs) == (estimator not in WITHOUT_PROBABILITIES)
    assert replay(claim.last) == 8


@pytest.mark.parametrize("estimator", sorted(REGRESSORS.keys() - OPTIONAL))
def test_every_regressor_is_trained_converted_and_checked(
    claim: Any, mixed: Callable[[str], Any], estimator: str
) -> None:
    uri = claim.rows("data.csv", *mixed("diabetes"))
    parameters = SMALL.get(estimator, {})
    report = claim.train(claim.spec(uri, "progression", "Regression", estimator, parameters=parameters))
    assert [metric["name"] for metric in report["metrics"]] == ["RMSE", "MAE", "R2", "MAPE"]
    assert float(report["metrics"][2]["value"]) > -0.5  # a single tree learns this small set by heart; zeros reach -3
    (output,) = manifest.read(claim.last).outputs
    assert (output.name, output.datatype, output.shape) == ("prediction", "FP32", (-1,))
    assert replay(claim.last) == 8


def test_the_api_and_the_trainer_allow_the_same_estimators() -> None:
    assert set(CLASSIFIERS) == set(get_args(api.Classifier))
    assert set(REGRESSORS) == set(get_args(api.Regressor))


@pytest.mark.parametrize("estimator", ["TorchMLPClassifier", "KerasMLPClassifier"])
def test_an_estimator_whose_library_the_image_lacks_says_which_setting_brings_it(
    claim: Any, shipped: Any, monkeypatch: Any, estimator: str
) -> None:
    needed = library(estimator)
    assert needed is not None
    for package in needed.packages:
        monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"holdfast_training.{CLASSIFIERS[estimator]}", raising=False)
    uri = claim.text("data.csv", (shipped / "wine.csv").read_bytes())
    error = claim.failure(claim.spec(uri, "cultivar", "Classification", estimator))
    assert error.reason == "TrainerNotInstalled"
    assert f"needs {needed.name}, which this image does not have; is {needed.setting} one" in error.message


@pytest.mark.parametrize("scale", ["Standard", "MinMax", "Robust", "None"])
@pytest.mark.parametrize(
    "estimator",
    [
        *("DecisionTreeRegressor", "GradientBoostingRegressor", "HistGradientBoostingRegressor", "LGBMRegressor"),
        *("Ridge", "XGBRegressor"),
    ],
)
def test_scaling_moves_no_row_to_another_branch(claim: Any, shipped: Any, estimator: str, scale: str) -> None:
    uri = claim.text("data.csv", (shipped / "diabetes.csv").read_bytes())
    more = {"parameters": SMALL.get(estimator, {}), "preprocessing": {"scaleNumeric": scale}}
    claim.train(claim.spec(uri, "progression", "Regression", estimator, **more))
    assert replay(claim.last) == 8


@pytest.mark.parametrize("estimator", ["HistGradientBoostingClassifier", "LGBMClassifier", "XGBClassifier"])
def test_a_threshold_between_neighbours_in_fp32_parts_them(claim: Any, estimator: str) -> None:
    # No FP32 number lies between two of these, so the nearest one to a threshold is one of them.
    rows = [[2**24 + 2 * (i % 8), "ab"[i % 8 in (1, 2, 5)]] for i in range(400)]
    uri = claim.rows("data.csv", ["a", "y"], rows)
    document = claim.spec(uri, "y", "Classification", estimator, preprocessing={"scaleNumeric": "None"})
    assert claim.train(document)["metrics"][0]["value"] == "1"


@pytest.mark.parametrize("scale", ["Standard", "None"])
def test_variances_near_zero_do_not_break_parity(claim: Any, shipped: Any, scale: str) -> None:
    uri = claim.text("data.csv", (shipped / "digits.csv").read_bytes())
    document = claim.spec(uri, "digit", "Classification", "GaussianNB", preprocessing={"scaleNumeric": scale})
    claim.train(document)
    assert replay(claim.last) == 8


@pytest.mark.parametrize(
    ("estimator", "parameters"),
    [
        ("SVC", {"kernel": "poly", "class_weight": "balanced"}),
        ("SGDClassifier", {"loss": "log_loss"}),
        ("KNeighborsClassifier", {"n_neighbors": "4", "metric": "manhattan"}),
        ("MLPClassifier", {"activation": "tanh", "hidden_layer_sizes": "[6,4]", "early_stopping": "true"}),
        ("LogisticRegression", {"class_weight": '{"0":2,"1":1,"2":1}', "fit_intercept": "false"}),
        ("RandomForestClassifier", {"n_estimators": "10", "max_features": "null", "criterion": "log_loss"}),
        ("GradientBoostingClassifier", {"n_estimators": "20", "subsample": "0.5"}),
        ("DecisionTreeClassifier", {"ccp_alpha": "0.01", "splitter": "random"}),
        ("XGBClassifier", {"n_estimators": "10", "max_depth": "2", "subsample": "0.7"}),
        ("LGBMClassifier", {"n_estimators": "10", "boosting_type": "dart", "class_weight": '{"0":2,"1":1,"2":1}'}),
    ],
)
def test_parameters_reach_the_classifier(
    claim: Any, mixed: Callable[[str], Any], estimator: str, parameters: dict[str, str]
) -> None:
    uri = claim.rows("data.csv", *mixed("wine"))
    base = claim.spec(uri, "cultivar", "Classification", estimator, parameters=parameters)
    report = claim.train(base)
    plain = claim.train(claim.spec(uri, "cultivar", "Classification", estimator))
    assert report["model"]["digest"] != plain["model"]["digest"]
    assert manifest.read(claim.last.parent / "run-1").lineage["parameters"] == parameters
    replay(claim.last.parent / "run-1")


@pytest.mark.parametrize(
    ("estimator", "parameters"),
    [
        ("HistGradientBoostingRegressor", {"loss": "poisson", "max_iter": "20"}),
        ("HistGradientBoostingRegressor", {"loss": "gamma", "max_iter": "20"}),
        ("GradientBoostingRegressor", {"loss": "huber", "n_estimators": "20"}),
        ("Ridge", {"fit_intercept": "false"}),
        ("SVR", {"kernel": "linear", "C": "10"}),
        ("XGBRegressor", {"objective": "count:poisson", "n_estimators": "20"}),
        ("LGBMRegressor", {"objective": "tweedie", "n_estimators": "20"}),
    ],
)
def test_parameters_reach_the_regressor(
    claim: Any, mixed: Callable[[str], Any], estimator: str, parameters: dict[str, str]
) -> None:
    uri = claim.rows("data.csv", *mixed("diabetes"))
    claim.train(claim.spec(uri, "progression", "Regression", estimator, parameters=parameters))
    assert replay(claim.last) == 8


def refused(claim: Any, shipped: Any, estimator: str, parameters: dict[str, str]) -> str:
    uri = claim.text("data.csv", (shipped / "wine.csv").read_bytes())
    error = claim.failure(claim.spec(uri, "cultivar", "Classification", estimator, parameters=parameters))
    assert (error.reason, error.exit_code) == ("ParametersInvalid", 3)
    return str(error.message)


def test_an_unknown_parameter_is_refused_with_those_there_are(claim: Any, shipped: Any) -> None:
    message = refused(claim, shipped, "GaussianNB", {"n_estimators": "200"})
    assert message == "GaussianNB has no parameter n_estimators; it has: priors, var_smoothing"


@pytest.mark.parametrize(
    ("parameter", "why"),
    [
        ("random_state", "spec.seed sets it"),
        ("n_jobs", "Holdfast sets it from the CPU limit"),
        ("verbose", "it only prints"),
        ("warm_start", "a run fits once"),
    ],
)
def test_what_holdfast_sets_cannot_be_set(claim: Any, shipped: Any, parameter: str, why: str) -> None:
    message = refused(claim, shipped, "RandomForestClassifier", {parameter: "1"})
    assert message == f"RandomForestClassifier: remove parameter {parameter}: {why}"


def test_a_parameter_of_a_nested_object_is_refused(claim: Any, shipped: Any) -> None:
    assert "has no parameter estimator__max_depth" in refused(
        claim, shipped, "AdaBoostClassifier", {"estimator__max_depth": "2"}
    )


@pytest.mark.parametrize(
    ("estimator", "parameters"),
    [
        ("AdaBoostClassifier", {"estimator": "__import__('os').system('true')"}),
        ("KNeighborsClassifier", {"weights": "lambda d: d"}),
        ("KNeighborsClassifier", {"metric": "pyfunc"}),
        ("SVC", {"kernel": '"os.system"'}),
        ("GradientBoostingClassifier", {"init": '{"py/object": "os.system"}'}),
        ("RandomForestClassifier", {"n_estimators": "-1"}),
        ("RandomForestClassifier", {"n_estimators": "many"}),
        ("RandomForestClassifier", {"n_estimators": "2.5"}),
        ("RandomForestClassifier", {"max_depth": "NaN"}),
        ("LogisticRegression", {"solver": "newton"}),
        ("LogisticRegression", {"solver": "liblinear"}),
        ("LogisticRegression", {"C": "Infinity"}),
        ("KNeighborsClassifier", {"n_neighbors": "100000"}),
        ("MLPClassifier", {"hidden_layer_sizes": "[[[]]]"}),
    ],
)
def test_a_value_that_scikit_learn_refuses_is_said_in_its_words(
    claim: Any, shipped: Any, estimator: str, parameters: dict[str, str]
) -> None:
    message = refused(claim, shipped, estimator, parameters)
    assert message.startswith(f"{estimator}: ")
    assert len(message) > len(estimator) + 20


@pytest.mark.parametrize(
    ("estimator", "parameters", "words"),
    [
        ("XGBClassifier", {"max_depth": "-3"}, "value -3 for Parameter max_depth should be greater equal to 0"),
        ("LGBMClassifier", {"num_leaves": "1"}, "Check failed: (num_leaves) > (1)"),
        ("LGBMClassifier", {"objective": "multiclassova"}, "gives scores that are no probabilities"),
        ("XGBClassifier", {"booster": "dart"}, "remove parameter booster"),
        ("XGBClassifier", {"device": "cuda"}, "remove parameter device"),
    ],
)
def test_what_boosting_refuses_is_said_without_its_sources_and_stacks(
    claim: Any, shipped: Any, estimator: str, parameters: dict[str, str], words: str
) -> None:
    message = refused(claim, shipped, estimator, parameters)
    assert words in message
    assert "/" not in message
    assert "Stack" not in message


@pytest.mark.parametrize("estimator", ["LGBMClassifier", "XGBClassifier"])
def test_threads_do_not_change_a_boosted_model(claim: Any, shipped: Any, estimator: str) -> None:
    uri = claim.text("data.csv", (shipped / "breast-cancer.csv").read_bytes())
    parameters = {"n_estimators": "10", "subsample": "0.7"}
    document = claim.spec(uri, "diagnosis", "Classification", estimator, parameters=parameters)
    digests = {
        claim.train({**document, "output": {**document["output"], "folder": f"on-{n}"}}, threads=n)["model"]["digest"]
        for n in (1, 3)
    }
    assert len(digests) == 1


def test_a_class_weight_for_a_class_that_is_not_there_is_refused(claim: Any, shipped: Any) -> None:
    message = refused(claim, shipped, "LogisticRegression", {"class_weight": '{"0": 1, "7": 2}'})
    assert message == "LogisticRegression: class_weight names a class that the data do not have: 7"


def test_an_estimator_off_the_list_is_refused(claim: Any, shipped: Any) -> None:
    assert "VotingClassifier is not one that can be trained here" in refused(claim, shipped, "VotingClassifier", {})


def test_a_fit_that_diverges_is_explained(claim: Any) -> None:
    rows = [[10.0**30 * (i % 7), -(10.0**30) * (i % 5), i] for i in range(50)]
    uri = claim.rows("data.csv", ["a", "b", "y"], rows)
    error = claim.failure(claim.spec(uri, "y", "Regression", "SGDRegressor", preprocessing={"scaleNumeric": "None"}))
    assert error.reason == "ParametersInvalid"
    assert "scal" in error.message.lower()


def test_a_fit_that_stops_before_it_converged_is_a_finding_and_no_failure(claim: Any, shipped: Any) -> None:
    uri = claim.text("data.csv", (shipped / "wine.csv").read_bytes())
    report = claim.train(claim.spec(uri, "cultivar", "Classification", "MLPClassifier", parameters={"max_iter": "5"}))
    assert [finding["rule"] for finding in report["findings"]] == ["NotConverged"]


@pytest.mark.parametrize(
    ("estimator", "parameters", "bound"),
    [
        ("PoissonRegressor", {}, "0 or more"),
        ("HistGradientBoostingRegressor", {"loss": "poisson"}, "0 or more"),
        ("HistGradientBoostingRegressor", {"loss": "gamma"}, "greater than 0"),
        ("XGBRegressor", {"objective": "count:poisson"}, "0 or more"),
        ("LGBMRegressor", {"objective": "gamma"}, "greater than 0"),
    ],
)
def test_a_target_that_the_estimator_cannot_take_is_the_datas_fault(
    claim: Any, estimator: str, parameters: dict[str, str], bound: str
) -> None:
    uri = claim.rows("data.csv", ["a", "y"], [[i, i - 30] for i in range(60)])
    error = claim.failure(claim.spec(uri, "y", "Regression", estimator, parameters=parameters))
    assert error.reason == "DataInvalid"
    assert f"{estimator} needs a target of {bound}" in error.message


def test_a_wrong_answer_of_the_onnx_model_ends_the_run(claim: Any, shipped: Any) -> None:
    # skl2onnx 1.20 weighs all neighbours the same here: a real case of a conversion that answers differently.
    uri = claim.text("data.csv", (shipped / "diabetes.csv").read_bytes())
    error = claim.failure(
        claim.spec(uri, "progression", "Regression", "KNeighborsRegressor", parameters={"weights": "distance"})
    )
    assert (error.reason, error.exit_code) == ("ParityFailed", 3)
    assert error.message.startswith("the ONNX model of KNeighborsRegressor answers differently from scikit-learn for 8")
    assert "of 89 held-out rows; the largest difference is " in error.message


def test_an_estimator_that_cannot_be_converted_ends_the_run(
    claim: Any, shipped: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    uri = claim.text("data.csv", (shipped / "diabetes.csv").read_bytes())
    parameters = {"loss": "poisson", "hidden_layer_sizes": "[2]", "max_iter": "10"}
    error = claim.failure(claim.spec(uri, "progression", "Regression", "MLPRegressor", parameters=parameters))
    assert error.reason == "ConversionFailed"
    assert error.message == (
        "MLPRegressor with these parameters cannot be made an ONNX model; the pod's log has the details"
    )
    assert "KeyError" in capfd.readouterr().err
