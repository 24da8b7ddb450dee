"""Perceptrons of Keras, from CSV to a bundle whose ONNX model answers like TensorFlow."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.unit.training.test_estimators import replay

from holdfast_bundle import manifest, verify
from holdfast_training import epochs, estimators
from holdfast_training.fitting import Course

FEW = {"hidden_layer_sizes": "[16, 8]", "max_iter": "60", "learning_rate_init": "0.01"}


def network(name: str = "KerasMLPClassifier", seed: int = 0, **parameters: str) -> Any:
    return estimators.build(name, parameters, seed=seed, threads=1)


@pytest.fixture(scope="module")
def wine(shipped: Any) -> tuple[Any, Any]:
    """Scaled features and labels."""
    table = np.loadtxt(shipped / "wine.csv", delimiter=",", skiprows=1)
    features = table[:, :-1]
    return (features - features.mean(axis=0)) / features.std(axis=0), table[:, -1].astype(np.int64)


@pytest.mark.parametrize("dataset", ["wine", "breast-cancer"])
def test_a_classifier_is_trained_converted_and_checked(claim: Any, mixed: Any, dataset: str) -> None:
    uri = claim.rows("data.csv", *mixed(dataset))
    target = {"wine": "cultivar", "breast-cancer": "diagnosis"}[dataset]
    report = claim.train(claim.spec(uri, target, "Classification", "KerasMLPClassifier", parameters=FEW))
    assert float(report["metrics"][0]["value"]) > 0.85  # a constant answer reaches 0.4 and 0.63
    assert {"keras", "tensorflow"} <= {package["name"] for package in report["packages"]}
    assert verify.verify(claim.last, report["model"]["digest"]) == report["model"]["digest"]
    bundle = manifest.read(claim.last)
    label, probabilities = bundle.outputs
    assert label.datatype == ("INT64" if dataset == "wine" else "BYTES")
    assert len(probabilities.labels) == (3 if dataset == "wine" else 2)
    assert bundle.framework == "Keras"
    assert replay(claim.last) == 8


def test_a_regressor_is_trained_converted_and_checked(claim: Any, mixed: Any) -> None:
    uri = claim.rows("data.csv", *mixed("diabetes"))
    document = claim.spec(uri, "progression", "Regression", "KerasMLPRegressor", parameters=FEW)
    measured = {metric["name"]: float(metric["value"]) for metric in claim.train(document)["metrics"]}
    assert measured["R2"] > 0.1  # a constant answer reaches 0
    assert replay(claim.last) == 8


@pytest.mark.parametrize("activation", ["relu", "tanh", "logistic"])
def test_the_weights_are_a_keras_model_s(wine: Any, activation: str) -> None:
    import keras

    features, labels = wine
    fitted = network(hidden_layer_sizes="[6, 5]", activation=activation, max_iter="5")
    estimators.fit(fitted, features, labels)
    dense = {"relu": "relu", "tanh": "tanh", "logistic": "sigmoid"}[activation]
    layers = [keras.layers.Dense(6, dense), keras.layers.Dense(5, dense), keras.layers.Dense(3, "softmax")]
    model = keras.Sequential([keras.Input((13,)), *layers])
    model.set_weights([array for pair in zip(fitted.coefs_, fitted.intercepts_, strict=True) for array in pair])
    answers = model(features.astype(np.float32)).numpy()
    assert fitted.predict_proba(features) == pytest.approx(answers, abs=1e-6)


def test_every_parameter_reaches_the_network(wine: Any) -> None:
    def learned(**parameters: str) -> bytes:
        fitted = network(**{**FEW, "max_iter": "8", **parameters})
        estimators.fit(fitted, *wine)
        return b"".join(array.tobytes() for array in (*fitted.coefs_, *fitted.intercepts_))

    changes = [
        {"hidden_layer_sizes": "4"},
        {"activation": "tanh"},
        {"activation": "logistic"},
        {"dropout": "0.5"},
        {"alpha": "1"},
        {"learning_rate_init": "0.02"},
        {"batch_size": "16"},
        {"max_iter": "3"},
        {"n_iter_no_change": "1", "tol": "9"},
        {"validation_fraction": "0.5"},
    ]
    results = {learned(), *(learned(**change) for change in changes)}
    assert len(results) == 1 + len(changes)


def test_the_same_run_gives_the_same_bytes_in_any_process_and_another_seed_others(claim: Any, mixed: Any) -> None:
    uri = claim.rows("data.csv", *mixed("breast-cancer"))
    parameters = {**FEW, "max_iter": "15", "dropout": "0.2"}
    documents = [
        claim.spec(uri, "diagnosis", "Classification", "KerasMLPClassifier", parameters=parameters, seed=seed)
        for seed in (5, 5, 6)
    ]
    digests = [claim.train(document)["model"]["digest"] for document in documents]
    assert digests[0] == digests[1] != digests[2]
    program = (
        "import sys, json; sys.path = json.loads(sys.argv[1]);"
        "from holdfast_training import cpu; cpu.limit_libraries(1);"
        "from pathlib import Path; from tests.unit.training.conftest import Claim;"
        "claim = Claim(Path(sys.argv[2]));"
        "print(claim.train(json.loads(sys.argv[3]))['model']['digest'])"
    )
    documents[0]["output"]["folder"] = "again"
    command = [sys.executable, "-W", "ignore", "-c", program, json.dumps(sys.path), str(claim.claims)]
    done = subprocess.run([*command, json.dumps(documents[0])], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == digests[0]


def test_a_search_may_choose_between_a_network_and_a_forest_and_calibrate_it(claim: Any, shipped: Any) -> None:
    uri = claim.text("data.csv", (shipped / "wine.csv").read_bytes())
    document = claim.spec(
        uri,
        "cultivar",
        "Classification",
        "KerasMLPClassifier",
        parameters={"max_iter": "20", "learning_rate_init": "0.01"},
        calibration="Sigmoid",
        tuning={"trials": 3, "folds": 2},
    )
    document["estimators"][0]["search"] = [{"parameter": "dropout", "low": "0.0", "high": "0.5"}]
    document["estimators"].append({"name": "DecisionTreeClassifier", "parameters": {"max_depth": "1"}})
    report = claim.train(document)
    assert report["model"]["estimator"] == "KerasMLPClassifier"
    assert replay(claim.last) == 8


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"activation": "swish"}, "activation"),
        ({"hidden_layer_sizes": "[8, 0]"}, "whole numbers greater than 0"),
        ({"dropout": "1"}, "dropout"),
        ({"validation_fraction": "0.999"}, "leaves no row to learn from"),
        ({"learning_rate_init": "1e30", "max_iter": "3"}, "the loss is not a number"),
        ({"random_state": "3"}, "spec.seed sets it"),
        ({"lr": "1"}, "has no parameter lr"),
    ],
)
def test_what_cannot_be_learned_with_is_refused_in_words(
    claim: Any, shipped: Any, parameters: dict[str, str], words: str
) -> None:
    uri = claim.text("data.csv", (shipped / "wine.csv").read_bytes())
    error = claim.failure(claim.spec(uri, "cultivar", "Classification", "KerasMLPClassifier", parameters=parameters))
    assert error.reason == "ParametersInvalid"
    assert error.message.startswith("KerasMLPClassifier")
    assert words in error.message


def test_a_network_that_did_not_converge_says_so(wine: Any) -> None:
    assert [finding.rule for finding in estimators.fit(network(max_iter="1"), *wine)] == ["NotConverged"]
    assert not estimators.fit(network(max_iter="50", n_iter_no_change="1", tol="9"), *wine)


def test_a_network_is_its_best_epoch_not_its_last() -> None:
    random = np.random.default_rng(0)
    rows, noise = random.normal(size=(120, 20)), random.integers(0, 2, 120)  # nothing to learn but by heart
    fitted = {}
    for patience in (1, 60):
        given = {"n_iter_no_change": str(patience), "max_iter": "60", "learning_rate_init": "0.01", "tol": "0"}
        fitted[patience] = network(**given)
        estimators.fit(fitted[patience], rows, noise)
    assert fitted[1].n_iter_ < fitted[60].n_iter_ == 60
    assert all(np.array_equal(*pair) for pair in zip(fitted[1].coefs_, fitted[60].coefs_, strict=True))


def test_a_fit_goes_on_from_its_last_epoch_as_if_it_had_not_been_interrupted(
    wine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Evicted(Exception):
        pass

    def fitted(folder: Path | None, until: int = 99) -> tuple[Any, list[str]]:
        told: list[str] = []

        def say(message: str) -> None:
            if message.startswith(f"epoch {until} "):
                raise Evicted
            told.append(message)

        made = network(hidden_layer_sizes="[8]", dropout="0.3", max_iter="12", learning_rate_init="0.01")
        made.course = Course(folder, say)
        estimators.fit(made, *wine)
        return made, told

    monkeypatch.setattr(epochs, "KEEP_SECONDS", 0)
    whole, _ = fitted(None)
    with pytest.raises(Evicted):
        fitted(tmp_path, until=8)
    fitted(None)  # by the same learner, meanwhile
    resumed, told = fitted(tmp_path)
    assert told[0] == "epoch 8 of at most 12"
    assert all(np.array_equal(*pair) for pair in zip(whole.coefs_, resumed.coefs_, strict=True))
    [file] = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:100])
    again, told = fitted(tmp_path)
    assert told[0] == "epoch 1 of at most 12"
    assert all(np.array_equal(*pair) for pair in zip(whole.coefs_, again.coefs_, strict=True))


def test_the_fits_of_a_trial_share_their_graphs(wine: Any) -> None:
    from holdfast_training import keras_networks

    made = keras_networks._learner.cache_info().misses
    for rate in ("0.01", "0.02"):
        estimators.fit(network(learning_rate_init=rate, max_iter="2", alpha="0.123"), *wine)
    assert keras_networks._learner.cache_info().misses == made + 1
