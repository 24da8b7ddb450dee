"""The operator in the cluster: two replicas, one leads, with no more rights than it uses."""

from __future__ import annotations

import time

from tests.e2e.kube import Kube, condition
from tests.e2e.models import ModelServer
from tests.e2e.test_bad_models import deployment

LEASE = "holdfast-operator"


def test_when_the_leading_pod_is_deleted_the_other_one_goes_on(cluster: Kube, kube: Kube, models: ModelServer) -> None:
    holder = cluster.get("lease", LEASE)["spec"]["holderIdentity"]
    leader = next(p["metadata"]["name"] for p in cluster.list("pods") if p["metadata"]["name"] in holder)
    cluster("delete", "pod", leader, "--wait=false")
    cluster.wait("lease", LEASE, lambda o: o["spec"]["holderIdentity"] not in ("", holder), "another one leads")
    kube.apply(deployment("after", {"uri": models.url("good.onnx")}))
    kube.wait_ready("after")
    cluster("rollout", "status", "deploy/holdfast-operator", "--timeout=230s")


def test_both_operator_pods_are_ready_though_one_only_stands_by(cluster: Kube) -> None:
    ready = cluster.get("deploy", "holdfast-operator")["status"]["readyReplicas"]
    assert ready == 2


def test_the_operator_may_read_no_secret_and_start_no_pod(cluster: Kube) -> None:
    account = "--as=system:serviceaccount:holdfast-system:holdfast-operator"
    for verb, what in (("get", "secrets"), ("list", "secrets"), ("create", "pods"), ("delete", "pods"), ("*", "*")):
        answer = cluster("auth", "can-i", verb, what, account, "-A", check=False)
        assert answer.strip() == "no", f"{verb} {what}"


def test_a_deleted_service_is_back_at_once(kube: Kube, models: ModelServer) -> None:
    kube.apply(deployment("repaired", {"uri": models.url("good.onnx")}))
    kube.wait_ready("repaired")
    uid = kube.get("svc", "repaired")["metadata"]["uid"]
    kube("delete", "svc", "repaired")
    begin = time.monotonic()
    while not (found := kube.list("svc", "holdfast.dev/model-deployment=repaired")):
        assert time.monotonic() - begin < 120  # long before all is listed again by the clock
        time.sleep(0.1)
    assert found[0]["metadata"]["uid"] != uid


def test_an_object_of_somebody_else_is_never_touched(kube: Kube, models: ModelServer) -> None:
    foreign = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "taken"},
        "spec": {"selector": {"app": "other"}, "ports": [{"port": 1234}]},
    }
    kube.apply(foreign)
    before = kube.get("svc", "taken")
    kube.apply(deployment("taken", {"uri": models.url("good.onnx")}))
    stalled = kube.wait_reason("mdep", "taken", "Stalled", "NameConflict")
    assert "Service taken" in stalled["message"]
    assert kube.get("svc", "taken") == before
    kube("delete", "svc", "taken")
    found = kube.wait_ready("taken")
    assert condition(found, "Stalled") == {}
