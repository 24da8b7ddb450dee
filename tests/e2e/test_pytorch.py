"""Networks of PyTorch, trained by one pod and by two, in the image that has it."""

from __future__ import annotations

import csv
import json
import os
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
from tests.e2e.cluster import devcluster
from tests.e2e.kube import PATIENCE, Kube
from tests.e2e.models import ModelServer
from tests.e2e.test_training import CLAIM, run
from tests.e2e.test_training_loop import evict, pods_of

from holdfast_devcluster.images import OPTIONAL

pytestmark = pytest.mark.skipif(
    "HOLDFAST_CAMPAIGN" not in os.environ, reason="the image with PyTorch is large: make test-torch-e2e builds it"
)
IMAGE = OPTIONAL["training-torch"]
SETTING = "HOLDFAST_TRAINING_TORCH_IMAGE"
LONG = {"max_iter": "400", "n_iter_no_change": "400", "batch_size": "8", "learning_rate_init": "0.0005"}
PROGRESS = "import urllib.request as u; print(u.urlopen('http://localhost:8081/progress', timeout=5).read().decode())"
ASK = """
import sys, urllib.request as u
asked = u.Request(sys.argv[1], sys.stdin.buffer.read(), {"Content-Type": "application/json"})
print(u.urlopen(asked).read().decode())
"""


@pytest.fixture(scope="module")
def runs(cluster: Kube, kube: Kube, models: ModelServer) -> Iterator[Kube]:
    """One network by one pod, and the same by two; the two that train another for long."""
    for step in ("build-image", "load-image"):
        devcluster(step, IMAGE.name)
    cluster("set", "env", "deploy/holdfast-operator", f"{SETTING}={IMAGE.reference}")
    cluster("rollout", "status", "deploy/holdfast-operator", "--timeout=230s")
    network = {"estimators": [{"name": "TorchMLPClassifier", "parameters": {"learning_rate_init": "0.01"}}]}
    together = run("together", **network, distributed={"workers": 2})
    served = {
        "apiVersion": "holdfast.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": "served"},
        "spec": {"model": {"trainingJobRef": {"name": "together"}}},
    }
    kube.apply(CLAIM, run("alone", **network), together, served)
    yield kube
    cluster("set", "env", "deploy/holdfast-operator", f"{SETTING}-")
    cluster("rollout", "status", "deploy/holdfast-operator", "--timeout=230s")


def test_one_pod_and_two_train_the_same_network(runs: Kube) -> None:
    for name in ("alone", "together"):
        runs.wait_reason("tjob", name, "Succeeded", "Completed", seconds=2 * PATIENCE)
    alone, together = (runs.get("tjob", name)["status"] for name in ("alone", "together"))
    one, two = ({metric["name"]: float(metric["value"]) for metric in each["metrics"]} for each in (alone, together))
    assert one == pytest.approx(two, abs=0.001)
    assert one["Accuracy"] > 0.9
    assert alone["model"]["digest"] != together["model"]["digest"]
    assert "torch" in {package["name"] for package in together["packages"]}
    assert runs.get("job", together["jobName"])["spec"]["completions"] == 2
    for pod in pods_of(runs, "together"):
        assert "kube-api-access" not in json.dumps(pod["spec"])


def test_what_two_pods_have_trained_is_served(runs: Kube, models: ModelServer) -> None:
    runs.wait_ready("served", seconds=2 * PATIENCE)
    *features, label = zip(*csv.reader(models.files["wine.csv"].decode().splitlines()), strict=True)
    inputs = [
        {"name": name, "datatype": "FP32", "shape": [len(values), 1], "data": [float(value) for value in values]}
        for name, *values in features
    ]
    url = "http://served/v2/models/served/infer"
    given = ("exec", "-i", "deploy/models", "--", "python", "-c", ASK, url)
    answer: dict[str, Any] = json.loads(runs(*given, stdin=json.dumps({"inputs": inputs})))
    [said] = [output["data"] for output in answer["outputs"] if output["name"] == "label"]
    right = sum(int(truth) == guess for truth, guess in zip(label[1:], said, strict=True))
    assert right > 0.95 * len(said)


def test_an_evicted_worker_uses_up_no_attempt_of_its_own_nor_of_the_other(runs: Kube) -> None:
    network = {"estimators": [{"name": "TorchMLPClassifier", "parameters": LONG}]}
    runs.apply(run("evicted", **network, distributed={"workers": 2}))  # with backoffLimit 0
    deadline = time.monotonic() + 2 * PATIENCE
    while epoch(runs, "evicted") < 20:
        assert time.monotonic() < deadline, runs("describe", "tjob", "evicted")
        time.sleep(0.5)
    [other] = [name for pod in pods_of(runs, "evicted") if "-1-" in (name := pod["metadata"]["name"])]
    evict(runs, other)
    runs.wait_reason("tjob", "evicted", "Succeeded", "Completed", seconds=2 * PATIENCE)
    ends = [
        pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"] for pod in pods_of(runs, "evicted")
    ]
    assert {0, 5} <= set(ends), "the run ended before its pod was evicted"
    assert not runs.get("job", runs.get("tjob", "evicted")["status"]["jobName"])["status"].get("failed")


def epoch(kube: Kube, name: str) -> int:
    """That the second pod of a run is at; 0 while it does not learn."""
    for pod in pods_of(kube, name):
        if pod["metadata"]["labels"]["batch.kubernetes.io/job-completion-index"] == "1":
            said = kube("exec", pod["metadata"]["name"], "--", "python", "-c", PROGRESS, check=False)
            if found := re.search(r"epoch (\d+) of", said):
                return int(found[1])
    return 0
