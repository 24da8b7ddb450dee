"""What holds of perceptrons whichever library learns them. The suite of each library says of which."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from tests.unit.training.test_estimators import replay

from holdfast_bundle import manifest, verify
from holdfast_training import estimators

FEW = {"hidden_layer_sizes": "[16, 8]", "max_iter": "60", "learning_rate_init": "0.01"}


def refusal(claim: Any, shipped: Any, estimator: str, parameters: dict[str, str]) -> str:
    """Why a run with these parameters is refused."""
    uri = claim.text("data.csv", (shipped / "wine.csv").read_bytes())
    error = claim.failure(claim.spec(uri, "cultivar", "Classification", estimator, parameters=parameters))
    assert error.reason == "ParametersInvalid"
    assert error.message.startswith(estimator)
    return str(error.message)


class Perceptrons:
    """A subclass names the two estimators, what the manifest calls the library, and its packages."""

    classifier: str
    regressor: str
    framework: str
    packages: frozenset[str]
    few_epochs: str
    """So many tell one run from another."""

    @pytest.mark.parametrize("dataset", ["wine", "breast-cancer"])
    def test_a_classifier_is_trained_converted_and_checked(self, claim: Any, mixed: Any, dataset: str) -> None:
        uri = claim.rows("data.csv", *mixed(dataset))
        target = {"wine": "cultivar", "breast-cancer": "diagnosis"}[dataset]
        report = claim.train(claim.spec(uri, target, "Classification", self.classifier, parameters=FEW))
        assert float(report["metrics"][0]["value"]) > 0.85  # a constant answer reaches 0.4 and 0.63
        assert self.packages <= {package["name"] for package in report["packages"]}
        assert verify.verify(claim.last, report["model"]["digest"]) == report["model"]["digest"]
        bundle = manifest.read(claim.last)
        label, probabilities = bundle.outputs
        assert label.datatype == ("INT64" if dataset == "wine" else "BYTES")
        assert len(probabilities.labels) == (3 if dataset == "wine" else 2)
        assert bundle.framework == self.framework
        assert replay(claim.last) == 8

    def test_a_regressor_is_trained_converted_and_checked(self, claim: Any, mixed: Any) -> None:
        uri = claim.rows("data.csv", *mixed("diabetes"))
        document = claim.spec(uri, "progression", "Regression", self.regressor, parameters=FEW)
        measured = {metric["name"]: float(metric["value"]) for metric in claim.train(document)["metrics"]}
        assert measured["R2"] > 0.1  # a constant answer reaches 0
        assert replay(claim.last) == 8

    def test_the_same_run_gives_the_same_bytes_in_any_process_and_another_seed_others(
        self, claim: Any, mixed: Any
    ) -> None:
        uri = claim.rows("data.csv", *mixed("breast-cancer"))
        parameters = {**FEW, "max_iter": self.few_epochs, "dropout": "0.2"}
        documents = [
            claim.spec(uri, "diagnosis", "Classification", self.classifier, parameters=parameters, seed=seed)
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

    def test_a_search_may_choose_between_a_network_and_a_forest_and_calibrate_it(
        self, claim: Any, shipped: Any
    ) -> None:
        uri = claim.text("data.csv", (shipped / "wine.csv").read_bytes())
        document = claim.spec(
            uri,
            "cultivar",
            "Classification",
            self.classifier,
            parameters={"max_iter": "20", "learning_rate_init": "0.01"},
            calibration="Sigmoid",
            tuning={"trials": 3, "folds": 2},
        )
        document["estimators"][0]["search"] = [{"parameter": "dropout", "low": "0.0", "high": "0.5"}]
        document["estimators"].append({"name": "DecisionTreeClassifier", "parameters": {"max_depth": "1"}})
        report = claim.train(document)
        assert report["model"]["estimator"] == self.classifier
        assert replay(claim.last) == 8

    @pytest.mark.parametrize(
        ("parameters", "words"),
        [
            ({"activation": "swish"}, "activation"),
            ({"hidden_layer_sizes": "[8, 0]"}, "whole numbers greater than 0"),
            ({"hidden_layer_sizes": '["8"]'}, "whole numbers greater than 0"),
            ({"dropout": "1"}, "dropout"),
            ({"validation_fraction": "0.999"}, "leaves no row to learn from"),
            ({"random_state": "3"}, "spec.seed sets it"),
            ({"lr": "1"}, "has no parameter lr"),
        ],
    )
    def test_what_cannot_be_learned_with_is_refused_in_words(
        self, claim: Any, shipped: Any, parameters: dict[str, str], words: str
    ) -> None:
        assert words in refusal(claim, shipped, self.classifier, parameters)

    def test_a_network_is_its_best_epoch_not_its_last(self) -> None:
        random = np.random.default_rng(0)
        rows, noise = random.normal(size=(120, 20)), random.integers(0, 2, 120)  # nothing to learn but by heart
        fitted = {}
        for patience in (1, 60):
            given = {"n_iter_no_change": str(patience), "max_iter": "60", "learning_rate_init": "0.01", "tol": "0"}
            network: Any = estimators.build(self.classifier, given, seed=0, threads=1)
            estimators.fit(network, rows, noise)
            fitted[patience] = network
        assert fitted[1].n_iter_ < fitted[60].n_iter_ == 60
        assert all(np.array_equal(*pair) for pair in zip(fitted[1].coefs_, fitted[60].coefs_, strict=True))
