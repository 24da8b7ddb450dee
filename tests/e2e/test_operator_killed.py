"""The leading operator is killed, with its last lease just given out, at every stage of a rollout and of a rollback."""

from __future__ import annotations

import json
import time

from tests.e2e.kube import JsonObject, Kube, condition
from tests.e2e.models import ModelServer, onnx_digest, start_model_server
from tests.e2e.rollouts import Users
from tests.e2e.wine import trained

NAME = "wine"
GOOD, BETTER, LATER = "good.onnx", "better.onnx", "later.onnx"


def manifest(models: ModelServer, file: str, strategy: str) -> JsonObject:
    steps = {"steps": [{"weightPercent": 50, "minSeconds": 5}], "tolerancePerMille": 20}
    return {
        "apiVersion": "holdfast.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": NAME},
        "spec": {
            "model": {"uri": models.url(file), "digest": onnx_digest(models.files[file])},
            "serving": {"requestTimeoutMilliseconds": 30_000},
            "rollout": {"strategy": strategy} | (steps if strategy == "Canary" else {}),
            "slo": {"availability": "99.9"},
        },
    }


def kill_leader(cluster: Kube) -> None:
    """Without any time to give anything up."""
    holder = cluster.get("lease", "holdfast-operator")["spec"]["holderIdentity"]
    leader = next(p["metadata"]["name"] for p in cluster.list("pods") if p["metadata"]["name"] in holder)
    cluster("delete", "pod", leader, "--grace-period=0", "--force")


def test_an_operator_that_is_killed_in_a_rollout_and_a_rollback_costs_users_nothing(cluster: Kube, kube: Kube) -> None:
    wine = trained()
    files = {GOOD: wine.model, BETTER: wine.version("none"), LATER: wine.version("fails", later=True, seed=1)}
    models = start_model_server(kube, files | {"questions.json": json.dumps(wine.questions).encode()})
    kube("delete", "mdep", NAME, "--ignore-not-found")  # of a try before
    kube.apply(manifest(models, GOOD, "Canary"))
    first = kube.wait_ready(NAME)["status"]["stableRevision"]
    users = Users(kube, NAME, "--rate=50", "--patience=40")
    began = time.time()

    kube.apply(manifest(models, BETTER, "Canary"))
    for reason in ("SmokeTesting", "CanaryStep"):

        def reached(found: JsonObject, reason: str = reason) -> bool:
            """Or over: a stage of seconds may pass unseen on a machine that halts."""
            return condition(found, "Progressing").get("reason") == reason or found["status"]["stableRevision"] != first

        kube.wait("mdep", NAME, reached, f"it is {reason}")
        time.sleep(2)  # leases are out, or golden requests on their way
        kill_leader(cluster)
    second = kube.wait_ready(NAME, revision_not=first)["status"]["stableRevision"]
    told = users.since(began)
    assert told["failed"] == told["wrong"] == 0, json.dumps(told)

    kube.apply(manifest(models, LATER, "Immediate"))
    third = kube.wait_ready(NAME, revision_not=second)["status"]["stableRevision"]
    time.sleep(10)
    users.drink(strong=True)
    kill_leader(cluster)
    kube.wait_reason("mdep", NAME, "Ready", "RevisionRejected")
    kill_leader(cluster)  # the traffic may have been led back, and the rest not
    status = kube.wait("mdep", NAME, lambda o: "RolledBack" in json.dumps(o["status"]["decisions"]), "told")["status"]
    time.sleep(10)
    after = time.time()
    time.sleep(10)
    told = users.since(after)
    users.stop()
    assert told["requests"] > 0
    assert told["failed"] == 0, json.dumps(told)
    assert status["stableRevision"] == second
    assert [d["fromRevision"] for d in status["decisions"] if d["action"] == "RolledBack"] == [third]
    assert [d["toRevision"] for d in status["decisions"] if d["action"] == "Promoted"] == [third, second]
    kube("delete", "mdep", NAME, "--wait=false")
    cluster("rollout", "status", "deploy/holdfast-operator", "--timeout=230s")
