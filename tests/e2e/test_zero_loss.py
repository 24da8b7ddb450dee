"""Whatever happens to its pods, a model answers every request. `make bench-rollouts` is the long form of this."""

from __future__ import annotations

import json

from tests.e2e.changes import delete_pod_without_room, drain_node, evict_pod, lossless, roll_out, scale
from tests.e2e.kube import Kube
from tests.e2e.models import ModelServer


def test_no_request_is_lost(kube: Kube, models: ModelServer) -> None:
    kube.apply(lossless("lossless", models, replicas=2, turn=0))
    kube.wait_ready("lossless")
    traffic = models.mixed_traffic(kube, "lossless", seconds=900)
    roll_out(kube, "lossless", models, replicas=2, turn=1)
    evict_pod(kube, "lossless")
    scale(kube, "lossless", 3)
    scale(kube, "lossless", 1)
    delete_pod_without_room(kube, "lossless", 15)  # the only one
    result = traffic.finish()
    assert result["failed"] == 0, json.dumps(result)
    assert len(result["versions"]) == 2
    assert result["requests"] > 2000
    assert result["grpc_requests"] > 1000
    kube("delete", "mdep", "lossless", "--wait=false")


def test_a_drain_of_the_node_with_the_operator_on_it_loses_no_request(kube: Kube, models: ModelServer) -> None:
    kube.apply(lossless("drained", models, replicas=2, turn=0))
    kube.wait_ready("drained")
    traffic = models.mixed_traffic(kube, "drained", seconds=900)
    drain_node(kube, "drained", but="app!=models,k8s-app!=kube-dns")
    result = traffic.finish()
    assert result["failed"] == 0, json.dumps(result)
    assert result["requests"] > 500
    assert result["grpc_requests"] > 200
    kube("delete", "mdep", "drained", "--wait=false")
