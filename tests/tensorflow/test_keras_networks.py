"""Perceptrons of Keras, from CSV to a bundle whose ONNX model answers like TensorFlow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.unit.training.perceptrons import FEW, Perceptrons, refusal

from holdfast_training import epochs, estimators
from holdfast_training.fitting import Course


def network(name: str = "KerasMLPClassifier", seed: int = 0, **parameters: str) -> Any:
    return estimators.build(name, parameters, seed=seed, threads=1)


@pytest.fixture(scope="module")
def wine(shipped: Any) -> tuple[Any, Any]:
    """Scaled features and labels."""
    table = np.loadtxt(shipped / "wine.csv", delimiter=",", skiprows=1)
    features = table[:, :-1]
    return (features - features.mean(axis=0)) / features.std(axis=0), table[:, -1].astype(np.int64)


class TestKeras(Perceptrons):
    classifier, regressor = "KerasMLPClassifier", "KerasMLPRegressor"
    framework, packages = "Keras", frozenset({"keras", "tensorflow"})
    few_epochs = "15"


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


def test_a_loss_that_is_no_number_is_refused_in_words(claim: Any, shipped: Any) -> None:
    parameters = {"learning_rate_init": "1e30", "max_iter": "3"}
    assert "the loss is not a number" in refusal(claim, shipped, "KerasMLPClassifier", parameters)


def test_a_network_that_did_not_converge_says_so(wine: Any) -> None:
    assert [finding.rule for finding in estimators.fit(network(max_iter="1"), *wine)] == ["NotConverged"]
    assert not estimators.fit(network(max_iter="50", n_iter_no_change="1", tol="9"), *wine)


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
