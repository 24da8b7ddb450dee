"""From a table to a served model, by real pods."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator

import pytest
from tests.e2e.kube import JsonObject, Kube, condition
from tests.e2e.models import ModelServer

CLAIM: JsonObject = {
    "apiVersion": "v1",
    "kind": "PersistentVolumeClaim",
    "metadata": {"name": "models"},
    "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
}


def run(name: str, uri: str = "http://models:8000/wine.csv", **spec: object) -> JsonObject:
    return {
        "apiVersion": "holdfast.dev/v1alpha1",
        "kind": "TrainingJob",
        "metadata": {"name": name},
        "spec": {
            "data": {"uri": uri},
            "target": "cultivar",
            "task": "Classification",
            "estimators": [{"name": "DecisionTreeClassifier", "parameters": {"max_depth": "4"}}],
            "output": {"uri": "pvc://models/wine"},
            "backoffLimit": 0,
            **spec,
        },
    }


WRONG_DIGEST = "sha256:" + "0" * 64
BAD: dict[str, tuple[JsonObject, str, tuple[str, ...]]] = {
    "data-not-there": (run("data-not-there", "http://models:8000/absent.csv"), "DataNotFound", ("404",)),
    "other-data": (
        run("other-data", data={"uri": "http://models:8000/wine.csv", "digest": WRONG_DIGEST}),
        "ChecksumMismatch",
        (WRONG_DIGEST,),
    ),
    "no-such-target": (run("no-such-target", target="quality"), "ColumnNotFound", ("quality", "alcohol", "cultivar")),
    "no-such-feature": (
        run("no-such-feature", features={"numeric": ["alcohol", "sugar"]}),
        "ColumnNotFound",
        ("sugar", "alcohol"),
    ),
    "text-in-numbers": (
        run("text-in-numbers", "http://models:8000/text.csv", features={"numeric": ["alcohol", "ash"]}),
        "DataInvalid",
        ("alcohol",),
    ),
    "no-rows": (run("no-rows", "http://models:8000/empty.csv"), "DataInvalid", ("no rows",)),
    "one-class": (run("one-class", "http://models:8000/one-class.csv"), "DataInvalid", ("class",)),
    "not-good-enough": (
        run("not-good-enough", evaluation={"requirements": [{"metric": "Accuracy", "minimum": "0.9999"}]}),
        "RequirementNotMet",
        ("Accuracy", "0.9999"),
    ),
    "no-such-claim": (run("no-such-claim", output={"uri": "pvc://absent/wine"}), "ClaimNotFound", ("absent",)),
}


@pytest.fixture(scope="module")
def trained(kube: Kube, models: ModelServer) -> Iterator[Kube]:
    """All runs at once: two that are equal but for their names, and those that must fail."""
    twins = (run("first"), run("second"))
    waiting: JsonObject = {
        "apiVersion": "holdfast.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": "waiting"},
        "spec": {"model": {"trainingJobRef": {"name": "first"}}},
    }
    hopeless = {
        **waiting,
        "metadata": {"name": "hopeless"},
        "spec": {"model": {"trainingJobRef": {"name": "one-class"}}},
    }
    kube.apply(CLAIM, waiting, hopeless, *twins, *(manifest for manifest, _, _ in BAD.values()))
    return kube


@pytest.mark.parametrize("name", BAD)
def test_a_run_that_cannot_succeed_says_why(trained: Kube, name: str) -> None:
    _, reason, words = BAD[name]
    succeeded = trained.wait_reason("tjob", name, "Succeeded", reason, seconds=480)
    for word in words:
        assert word in succeeded["message"]
    assert "model" not in trained.get("tjob", name)["status"]


def test_the_same_spec_data_and_image_give_the_same_model(trained: Kube, models: ModelServer) -> None:
    for name in ("first", "second"):
        trained.wait_reason("tjob", name, "Succeeded", "Completed", seconds=480)
    first, second = (trained.get("tjob", name)["status"] for name in ("first", "second"))
    assert first["model"]["digest"] == second["model"]["digest"]
    assert first["model"]["uri"] != second["model"]["uri"]
    assert first["data"]["digest"] == "sha256:" + hashlib.sha256(models.files["wine.csv"]).hexdigest()
    assert first["data"]["rows"] == 178
    assert first["image"]
    assert float(first["metrics"][0]["value"]) > 0.8
    assert "scikit-learn" in {package["name"] for package in first["packages"]}


def test_the_output_of_a_run_is_served_as_soon_as_it_is_there(trained: Kube) -> None:
    served = trained.wait_ready("waiting", seconds=480)["status"]["model"]
    made = trained.get("tjob", "first")["status"]["model"]
    assert (served["uri"], served["digest"]) == (made["uri"], made["digest"])
    assert served["source"] == "TrainingJob"
    assert served["trainingJobName"] == "first"


def test_a_run_that_failed_is_not_served_and_says_so(trained: Kube) -> None:
    stalled = trained.wait_reason("mdep", "hopeless", "Stalled", "TrainingJobFailed", seconds=480)
    assert "one-class" in stalled["message"]
    assert condition(trained.get("mdep", "hopeless"), "Available")["status"] == "False"


def test_training_pods_have_no_token_and_no_rights(trained: Kube) -> None:
    name = trained.get("tjob", "first")["status"]["jobName"]
    pod = trained.list("pods", f"batch.kubernetes.io/job-name={name}")[0]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert "kube-api-access" not in json.dumps(pod)
    assert pod["containers"][0]["securityContext"]["readOnlyRootFilesystem"] is True
