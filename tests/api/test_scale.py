"""Replicas belong to whoever scales; a manifest that leaves them out does not take them back."""

import time
from collections.abc import Callable

import pytest
import yaml
from tests.api.server import Server, model_deployment

from holdfast_devcluster import ClusterError


def replicas(server: Server, name: str) -> int:
    count: int = server.get("ModelDeployment", name)["spec"]["serving"]["replicas"]
    return count


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def test_scale_shows_the_wish_the_pods_and_their_selector(server: Server) -> None:
    server.create(model_deployment("shown"))
    scale = server.get("ModelDeployment", "shown", "scale")
    assert (scale["spec"], scale["status"]) == ({"replicas": 1}, {"replicas": 0})
    status = {"replicas": 3, "selector": "holdfast.dev/revision=5f3a9c0d1e"}
    server.merge("ModelDeployment", "shown", {"status": status}, "status")
    assert server.get("ModelDeployment", "shown", "scale")["status"] == status


def test_kubectl_scale_works(server: Server) -> None:
    server.create(model_deployment("scaled"))
    server.kubectl("scale", "mdep/scaled", "--replicas=3")
    assert replicas(server, "scaled") == 3


def test_kubectl_scale_cannot_leave_the_bounds(server: Server) -> None:
    server.create(model_deployment("bounded"))
    with pytest.raises(ClusterError, match="less than or equal to 1000"):
        server.kubectl("scale", "mdep/bounded", "--replicas=1001")
    assert replicas(server, "bounded") == 1


def test_scaling_changes_the_generation_and_nothing_else_of_the_spec(server: Server) -> None:
    before = server.create(model_deployment("alone", serving={"env": [{"name": "A", "value": "x"}]}))
    server.merge("ModelDeployment", "alone", {"spec": {"replicas": 4}}, "scale")
    after = server.get("ModelDeployment", "alone")
    assert after["metadata"]["generation"] == 2
    before["spec"]["serving"]["replicas"] = 4
    assert after["spec"] == before["spec"]


def test_a_raise_survives_kubectl_apply_of_a_manifest_without_replicas(server: Server) -> None:
    manifest = yaml.safe_dump(model_deployment("applied"))
    server.kubectl("apply", "-f", "-", input=manifest)
    server.kubectl("scale", "mdep/applied", "--replicas=5")
    server.kubectl("apply", "-f", "-", input=manifest)
    assert replicas(server, "applied") == 5


def test_a_raise_survives_server_side_apply_of_a_manifest_without_replicas(server: Server) -> None:
    manifest = model_deployment("server-side", serving={"resources": {"requests": {"cpu": "500m"}}})
    server.apply(manifest, manager="git")
    server.kubectl("scale", "mdep/server-side", "--replicas=5")
    server.apply(manifest, manager="git")
    assert replicas(server, "server-side") == 5


def test_a_manifest_with_replicas_takes_them_back(server: Server) -> None:
    manifest = model_deployment("taken-back", serving={"replicas": 2})
    server.apply(manifest, manager="git")
    server.kubectl("scale", "mdep/taken-back", "--replicas=5")
    server.apply(manifest, manager="git")
    assert replicas(server, "taken-back") == 2


def test_a_real_autoscalers_raise_survives_another_apply_of_the_manifest(autoscaled: Server) -> None:
    assert wait_until(lambda: replicas(autoscaled, "autoscaled") == 2, 300)
    autoscaled.kubectl("apply", "-f", "-", input=yaml.safe_dump(model_deployment("autoscaled")))
    assert replicas(autoscaled, "autoscaled") == 2
