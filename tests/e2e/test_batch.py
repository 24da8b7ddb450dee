"""From a trained and served model to a scored table, by real pods; one of them is killed on the way."""

from __future__ import annotations

import json
import textwrap
from typing import Any

import pytest
from tests.e2e.kube import JsonObject, Kube
from tests.e2e.models import RESTRICTED_CONTAINER, RESTRICTED_POD, TRAINING_IMAGE

COPIES = 1000
ROWS = 178 * COPIES
CLAIM: JsonObject = {
    "apiVersion": "v1",
    "kind": "PersistentVolumeClaim",
    "metadata": {"name": "models"},
    "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
}
MAKE = f"""
from pathlib import Path
from holdfast_training import datasets
folder = Path("/mnt/claims/models")
datasets.write("wine", folder / "wine.csv")
header, *rows = (folder / "wine.csv").read_text().splitlines()
lines = [f"{{number}},{{row}}" for number, row in enumerate(rows * {COPIES})]
(folder / "many.csv").write_text("\\n".join([f"id,{{header}}", *lines]) + "\\n")
"""
READ = """
import json, sys
import pyarrow.dataset
found = pyarrow.dataset.dataset(sys.argv[1], format="parquet").to_table()
right = sum(label == int(truth) for label, truth in zip(found["label"].to_pylist(), found["cultivar"].to_pylist()))
ids = [int(number) for number in found["id"].to_pylist()]
print(json.dumps({"rows": len(ids), "right": right, "in order": ids == list(range(len(ids)))}))
"""


def custom(kind: str, **spec: Any) -> JsonObject:
    return {"apiVersion": "holdfast.dev/v1alpha1", "kind": kind, "metadata": {"name": "wine"}, "spec": spec}


def program(kube: Kube, name: str, code: str, *arguments: str) -> str:
    """Run Python on the claim; what it prints."""
    container = {
        "name": "python",
        "image": TRAINING_IMAGE,
        "command": ["python", "-c", textwrap.dedent(code), *arguments],
        "securityContext": RESTRICTED_CONTAINER,
        "volumeMounts": [{"name": "models", "mountPath": "/mnt/claims/models"}, {"name": "tmp", "mountPath": "/tmp"}],
    }
    volumes = [{"name": "models", "persistentVolumeClaim": {"claimName": "models"}}, {"name": "tmp", "emptyDir": {}}]
    spec = {**RESTRICTED_POD, "restartPolicy": "Never", "containers": [container], "volumes": volumes}
    kube.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec})
    ended = kube.wait("pod", name, lambda pod: pod["status"].get("phase") in ("Succeeded", "Failed"), "it has ended")
    printed = kube("logs", name)
    assert ended["status"]["phase"] == "Succeeded", printed
    return printed


def events(kube: Kube, pod: str) -> list[str]:
    """What the pod has logged by now."""
    lines = kube("logs", pod, check=False).splitlines()
    return [json.loads(line)["event"] for line in lines if line.startswith("{")]


@pytest.fixture(scope="module")
def scored(kube: Kube) -> tuple[Kube, list[str]]:
    """A finished run of one pod that was killed after its first shard, and what the second pod logged."""
    kube.apply(CLAIM)
    program(kube, "data", MAKE)
    kube.apply(
        custom("BatchInference", model={"modelDeploymentRef": {"name": "wine"}}, input={"uri": "pvc://models/many.csv"},
               output={"uri": "pvc://models/scored"}, keepColumns=["id", "cultivar"], batchRows=1),
        custom("ModelDeployment", model={"trainingJobRef": {"name": "wine"}}),
        custom("TrainingJob", data={"uri": "pvc://models/wine.csv"}, target="cultivar", task="Classification",
               estimators=[{"name": "LogisticRegression"}], output={"uri": "pvc://models/wine"}),
    )  # fmt: skip
    label = "holdfast.dev/batch-inference=wine"
    kube.wait("binf", "wine", lambda _: any("scored" in events(kube, name(pod)) for pod in kube.list("pods", label)),
              "a shard is scored", 480)  # fmt: skip
    [first] = kube.list("pods", label)
    kube("delete", "pod", name(first), "--grace-period=0", "--force")
    kube.wait_reason("binf", "wine", "Succeeded", "Completed", seconds=480)
    [second] = [pod for pod in kube.list("pods", label) if name(pod) != name(first)]
    return kube, events(kube, name(second))


def name(found: JsonObject) -> str:
    return str(found["metadata"]["name"])


def test_the_stable_revision_scores_every_row_and_the_status_says_so(scored: tuple[Kube, list[str]]) -> None:
    kube, _ = scored
    status, served = kube.get("binf", "wine")["status"], kube.get("mdep", "wine")["status"]
    assert (status["rowsRead"], status["rowsWritten"], status["rowsBad"]) == (ROWS, ROWS, 0)
    assert (status["shards"], status["shardsSucceeded"]) == (4, 4)
    assert status["model"]["revision"] == served["stableRevision"]
    assert status["model"]["digest"] == served["model"]["digest"]
    assert status["outputURI"] == f"pvc://models/scored/{status['jobName']}"


def test_the_pod_that_was_killed_is_replaced_by_one_that_goes_on_where_it_was(scored: tuple[Kube, list[str]]) -> None:
    _, logged = scored
    assert logged.count("skipped") >= 1
    assert logged.count("skipped") + logged.count("scored") == 4
    assert logged[-1] == "Completed"


def test_the_answers_are_beside_the_columns_that_were_kept_in_the_order_of_the_input(
    scored: tuple[Kube, list[str]],
) -> None:
    kube, _ = scored
    folder = kube.get("binf", "wine")["status"]["outputURI"].replace("pvc:/", "/mnt/claims")
    found = json.loads(program(kube, "reader", READ, folder))
    assert found["rows"] == ROWS
    assert found["in order"]
    assert found["right"] > 0.9 * ROWS


def test_the_pods_have_no_token(scored: tuple[Kube, list[str]]) -> None:
    kube, _ = scored
    for pod in kube.list("pods", "holdfast.dev/batch-inference=wine"):
        assert pod["spec"]["automountServiceAccountToken"] is False
        assert "kube-api-access" not in json.dumps(pod)
