"""Perceptrons of PyTorch, from CSV to a bundle whose ONNX model answers like PyTorch."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.training.perceptrons import FEW, Perceptrons, refusal


class TestPyTorch(Perceptrons):
    classifier, regressor = "TorchMLPClassifier", "TorchMLPRegressor"
    framework, packages = "PyTorch", frozenset({"torch"})
    few_epochs = "60"


@pytest.mark.parametrize(
    "parameters",
    [
        {"hidden_layer_sizes": "4"},
        {"activation": "tanh"},
        {"activation": "logistic"},
        {"dropout": "0.5"},
        {"alpha": "1"},
        {"batch_size": "16"},
        {"max_iter": "2"},
        {"tol": "0.5"},
        {"validation_fraction": "0.5"},
    ],
    ids=str,
)
def test_every_parameter_reaches_the_network_and_its_model_holds(claim: Any, shipped: Any, parameters: Any) -> None:
    uri = claim.text("data.csv", (shipped / "wine.csv").read_bytes())
    digests = set()
    for given in (FEW, {**FEW, **parameters}):
        document = claim.spec(uri, "cultivar", "Classification", "TorchMLPClassifier", parameters=given)
        claim.train(document)
        digests.add((claim.last / "model.onnx").read_bytes())
    assert len(digests) == 2


def test_a_loss_that_is_no_number_is_refused_in_words(claim: Any, shipped: Any) -> None:
    message = refusal(claim, shipped, "TorchMLPClassifier", {"learning_rate_init": "1e30"})
    assert any(word in message for word in ("the loss is not a number", "diverged")), message


def test_a_network_that_did_not_converge_says_so(claim: Any, shipped: Any) -> None:
    uri = claim.text("data.csv", (shipped / "wine.csv").read_bytes())
    parameters = {"max_iter": "1"}
    report = claim.train(claim.spec(uri, "cultivar", "Classification", "TorchMLPClassifier", parameters=parameters))
    assert "NotConverged" in {finding["rule"] for finding in report["findings"]}
