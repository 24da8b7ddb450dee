"""What happens to pods that serve: new revisions, other scales, deletions and evictions."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor

from tests.e2e.kube import JsonObject, Kube
from tests.e2e.models import ModelServer, onnx_digest


def lossless(name: str, models: ModelServer, replicas: int, turn: int) -> JsonObject:
    """A ModelDeployment; another `turn` is another revision."""
    return {
        "apiVersion": "holdfast.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": name},
        "spec": {
            "model": {"uri": models.url("good.onnx"), "digest": onnx_digest(models.files["good.onnx"])},
            "serving": {"replicas": replicas, "env": [{"name": "TURN", "value": str(turn)}]},
            "guard": {"warmSeconds": 0, "rollbackWindowSeconds": 0},  # pods that are counted are those that serve
        },
    }


def roll_out(kube: Kube, name: str, models: ModelServer, replicas: int, turn: int) -> None:
    """Another revision takes over."""
    before = kube.get("mdep", name)["status"]["stableRevision"]
    kube.apply(lossless(name, models, replicas, turn))
    kube.wait_ready(name, revision_not=before)


def scale(kube: Kube, name: str, replicas: int) -> None:
    """By hand, until all pods are ready and those that are too many have gone."""
    kube("scale", f"mdep/{name}", f"--replicas={replicas}")
    kube.wait_ready(name)
    until_only(kube, name, replicas)


def delete_pod(kube: Kube, name: str) -> None:
    """One pod, as `kubectl delete` does; until there is another in its place."""
    kube("delete", "pod", _pods(kube, name)[0], "--wait=false")
    _replaced(kube, name)


def delete_pod_without_room(kube: Kube, name: str, seconds: float) -> None:
    """One pod, while no node takes another for so long."""
    [node] = [node["metadata"]["name"] for node in kube.list("nodes")]
    kube("cordon", node)
    try:
        kube("delete", "pod", _pods(kube, name)[0], "--wait=false")
        time.sleep(seconds)
    finally:
        kube("uncordon", node)
    _replaced(kube, name)


def evict_pod(kube: Kube, name: str) -> None:
    """One pod, as `kubectl drain` does; until there is another in its place."""
    pod = _pods(kube, name)[0]
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod}}
    path = f"/api/v1/namespaces/{kube.namespace}/pods/{pod}/eviction"
    kube("create", "--raw", path, "-f", "-", stdin=json.dumps(eviction))
    _replaced(kube, name)


def drain_node(kube: Kube, name: str, but: str) -> None:
    """Everything that the only node has, as for its maintenance; it takes pods again when the model's first one goes.

    Args:
        but: selects what stays.
    """
    [node] = [node["metadata"]["name"] for node in kube.list("nodes")]
    before = _pods(kube, name)
    options = ("--force", "--ignore-daemonsets", "--delete-emptydir-data", f"--pod-selector={but}", "--timeout=400s")
    with ThreadPoolExecutor(1) as threads:
        draining = threads.submit(kube, "drain", node, *options, timeout=430)
        try:
            deadline = time.monotonic() + 240
            while set(before) <= set(_pods(kube, name)):
                assert time.monotonic() < deadline, "no pod of the model was evicted"
                time.sleep(0.1)
        finally:
            kube("uncordon", node)
        draining.result()
    assert not set(before) & set(_pods(kube, name, going=True))
    _replaced(kube, name)


def until_only(kube: Kube, name: str, pods: int) -> None:
    """Until no more pods are left than these."""
    deadline = time.monotonic() + 240
    while len(found := _pods(kube, name, going=True)) != pods:
        assert time.monotonic() < deadline, f"{found} are not {pods} pods"
        time.sleep(0.25)


def _replaced(kube: Kube, name: str) -> None:
    kube.wait(
        "mdep",
        name,
        lambda o: o["status"]["readyReplicas"] == o["status"]["replicas"] == len(_pods(kube, name)),
        "pods",
    )
    kube.wait_ready(name)


def _pods(kube: Kube, name: str, going: bool = False) -> list[str]:
    """Those of the stable revision; or all that are there, going or of another revision."""
    own = f"holdfast.dev/model-deployment={name},app.kubernetes.io/component=serving"
    found = kube.list("pods", own if going else kube.get("mdep", name)["status"]["selector"])
    return [pod["metadata"]["name"] for pod in found if going or "deletionTimestamp" not in pod["metadata"]]
