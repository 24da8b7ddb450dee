"""Prometheus in the cluster: who a sample is about is Kubernetes' word, and the operator can ask it."""

from __future__ import annotations

import http.client
import json
import secrets
import time
from typing import Any

from tests.e2e.client import BODY
from tests.e2e.kube import PATIENCE, Kube, condition
from tests.e2e.models import ModelServer
from tests.e2e.test_bad_models import deployment


def value(cluster: Kube, query: str) -> list[dict[str, Any]]:
    """An answer of Prometheus, by way of the API server."""
    path = "/api/v1/namespaces/holdfast-system/services/prometheus:http/proxy/api/v1/query"
    answer = json.loads(cluster("get", "--raw", f"{path}?query={query}"))
    assert answer["status"] == "success", answer
    result: list[dict[str, Any]] = answer["data"]["result"]
    return result


def until(cluster: Kube, query: str, seconds: float = PATIENCE) -> list[dict[str, Any]]:
    """The answer, once there is one."""
    end = time.monotonic() + seconds
    while not (found := value(cluster, query)):
        assert time.monotonic() < end, query
        time.sleep(1)
    return found


def test_samples_are_about_whom_kubernetes_says(cluster: Kube, kube: Kube, models: ModelServer) -> None:
    kube.apply(deployment("watched", {"uri": models.url("good.onnx")}))
    revision = kube.wait_ready("watched")["status"]["stableRevision"]
    [pod] = kube.list("pods", "holdfast.dev/model-deployment=watched,app.kubernetes.io/component=serving")
    series = f'holdfast_inference_requests_total{{namespace="{kube.namespace}",outcome="ok"}}'
    found = until(cluster, series)
    for sample in found:
        labels = sample["metric"]
        assert labels["model"] == "watched"
        assert labels["revision"] == revision
        assert labels["pod"] == pod["metadata"]["name"]
        assert not [name for name in labels if name.startswith("exported_")]
    lost = value(cluster, 'count({__name__=~"holdfast_.%2B",job="holdfast-models",revision=""})')
    assert lost == []


def test_the_operator_is_scraped_and_may_ask(cluster: Kube) -> None:
    [up] = until(cluster, 'sum(up{job="holdfast-operator"})')
    assert float(up["value"][1]) >= 1
    [leaders] = until(cluster, "max(holdfast_leader)==1")
    assert leaders
    settings = json.loads(cluster("get", "cm", "-o", "json"))["items"]
    [address] = {cm["data"]["HOLDFAST_PROMETHEUS_URL"] for cm in settings if "HOLDFAST_PROMETHEUS_URL" in cm["data"]}
    assert address == "http://prometheus.holdfast-system.svc:9090"


def test_prometheus_may_read_nothing_but_pods(cluster: Kube) -> None:
    account = "--as=system:serviceaccount:holdfast-system:prometheus"
    assert cluster("auth", "can-i", "list", "pods", account, "-A", check=False).strip() == "yes"
    for verb, what in (("get", "secrets"), ("list", "secrets"), ("list", "configmaps"), ("create", "pods"), ("*", "*")):
        assert cluster("auth", "can-i", verb, what, account, "-A", check=False).strip() == "no", f"{verb} {what}"


SLO = {"availability": "99", "latency": {"thresholdMilliseconds": 1000, "objective": "90"}, "windowDays": 7}
"""A hundred requests are enough to say something."""


def ask(kube: Kube, name: str, count: int) -> None:
    """So many requests to the model, which are answered."""
    address = kube.get("svc", name)["spec"]["clusterIP"]
    connection = http.client.HTTPConnection(address, timeout=60)
    for _ in range(count):
        connection.request("POST", f"/v2/models/{name}/infer", BODY)
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 200


def test_objectives_are_judged_and_without_prometheus_they_are_unknown(
    cluster: Kube, kube: Kube, models: ModelServer
) -> None:
    name = f"judged-{secrets.token_hex(3)}"  # Prometheus may remember one of an earlier run
    made = deployment(name, {"uri": models.url("good.onnx")})
    kube.apply({**made, "spec": {**made["spec"], "slo": SLO}})
    revision = kube.wait_ready(name)["status"]["stableRevision"]
    assert kube.wait_reason("mdep", name, "SLOHealthy", "InsufficientTraffic")["status"] == "Unknown"
    begin = time.monotonic()
    while condition(kube.get("mdep", name), "SLOHealthy")["reason"] != "WithinBudget":
        assert time.monotonic() - begin < 400  # the longest windows are asked about once a minute
        ask(kube, name, 300)
        time.sleep(1)
    budgets = kube.get("mdep", name)["status"]["slo"]
    assert budgets == {"availabilityBudgetPercent": 100, "latencyBudgetPercent": 100}
    rules = kube.get("cm", f"{name}-rules")["data"]["rules.yaml"]
    assert "HoldfastFastBurn" in rules
    try:
        cluster("scale", "deploy/prometheus", "--replicas=0")
        kube.wait_reason("mdep", name, "SLOHealthy", "MetricsUnavailable")
        found = kube.wait_ready(name)
        assert found["status"]["stableRevision"] == revision
        assert found["status"]["slo"] == budgets
    finally:
        cluster("scale", "deploy/prometheus", "--replicas=1")
        cluster("rollout", "status", "deploy/prometheus", "--timeout=230s")
    kube.wait_reason("mdep", name, "SLOHealthy", "WithinBudget")
