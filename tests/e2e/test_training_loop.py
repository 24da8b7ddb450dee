"""Runs that lose a pod, and trainers of one's own in several pods, on real nodes."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest
from tests.e2e.kube import JsonObject, Kube
from tests.e2e.models import TRAINING_IMAGE, ModelServer
from tests.e2e.test_training import CLAIM, run

TRIALS = 40
SEARCH = [
    {"parameter": "n_estimators", "low": "60", "high": "120"},
    {"parameter": "max_features", "low": "0.1", "high": "1.0"},
]
PAGE = Path(__file__).parents[2] / "docs/own-trainer.md"
PROGRAM = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)[0]
MEET = """
import os, socket, time
place = (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
end = time.monotonic() + 120
if os.environ["RANK"] == "0":
    with socket.create_server(("", place[1]), backlog=1) as server:
        server.settimeout(120)
        assert server.accept()[0].recv(100) == b"rank 1 of 2"
else:
    while True:
        try:
            with socket.create_connection(place, 5) as peer:
                peer.sendall(f"rank {os.environ['RANK']} of {os.environ['WORLD_SIZE']}".encode())
            break
        except OSError:
            assert time.monotonic() < end
            time.sleep(0.5)
"""


@pytest.fixture(scope="module")
def runs(kube: Kube, models: ModelServer) -> Kube:
    """Both at once: a long search, and a trainer of one's own in two pods that have to meet."""
    estimators = [{"name": "ExtraTreesClassifier", "search": SEARCH}]
    search = run("interrupted", estimators=estimators, tuning={"trials": TRIALS, "folds": 3})
    own = run("own", distributed={"workers": 2}, backoffLimit=2)
    del own["spec"]["estimators"]
    own["spec"]["container"] = {"image": TRAINING_IMAGE, "command": ["python", "-c"], "args": [MEET + PROGRAM]}
    kube.apply(CLAIM, search, own)
    return kube


def pods_of(kube: Kube, name: str) -> list[JsonObject]:
    return kube.list("pods", f"holdfast.dev/training-job={name}")


def trials(kube: Kube, pod: str) -> int:
    """That a pod has carried out, by its log."""
    lines = kube("logs", pod, check=False).splitlines()
    return sum('"event": "trial"' in line for line in lines)


def evict(kube: Kube, pod: str) -> None:
    about = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": kube.namespace}}
    kube(
        "create",
        "--raw",
        f"/api/v1/namespaces/{kube.namespace}/pods/{pod}/eviction",
        "-f",
        "-",
        stdin=json.dumps(about),
    )


def test_a_run_whose_pod_is_evicted_goes_on_with_the_trials_that_were_done(runs: Kube) -> None:
    deadline = time.monotonic() + 480
    while not (pods := pods_of(runs, "interrupted")) or trials(runs, pods[0]["metadata"]["name"]) < 2:
        assert time.monotonic() < deadline, runs("describe", "tjob", "interrupted")
        time.sleep(0.5)
    [first] = pods
    evict(runs, first["metadata"]["name"])
    runs.wait_reason("tjob", "interrupted", "Succeeded", "Completed", seconds=480)
    status = runs.get("tjob", "interrupted")["status"]
    again = [pod for pod in pods_of(runs, "interrupted") if pod["metadata"]["uid"] != first["metadata"]["uid"]]
    assert again, "the run ended before its pod was evicted"
    assert 0 < trials(runs, again[0]["metadata"]["name"]) <= TRIALS - 2
    job = runs.get("job", status["jobName"])
    assert job["spec"]["backoffLimit"] == 0
    assert float(status["metrics"][0]["value"]) > 0.8


def test_a_trainer_of_ones_own_meets_itself_in_other_pods_and_is_published(runs: Kube) -> None:
    runs.wait_reason("tjob", "own", "Succeeded", "Completed", seconds=480)
    status = runs.get("tjob", "own")["status"]
    assert float(status["metrics"][0]["value"]) > 0.8
    assert status["model"]["uri"] == f"pvc://models/wine/{status['jobName']}"
    assert runs.get("service", status["jobName"])["spec"]["clusterIP"] == "None"


def test_a_trainer_of_ones_own_can_reach_neither_claims_nor_the_api(runs: Kube) -> None:
    for pod in pods_of(runs, "own"):
        assert "kube-api-access" not in json.dumps(pod["spec"])
        [own] = [container for container in pod["spec"]["initContainers"] if container["name"] == "train"]
        assert not [mount for mount in own["volumeMounts"] if mount["mountPath"].startswith("/mnt/claims")]
