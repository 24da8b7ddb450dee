"""The CRDs on a real kube-apiserver."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from tests.api.server import Server, model_deployment

from holdfast.api.crd import KINDS
from holdfast.api.meta import GROUP
from holdfast_devcluster import ControlPlane

FOLDER = Path(__file__).parents[2] / "crds"


@pytest.fixture(scope="session")
def established(control_plane: ControlPlane) -> ControlPlane:
    """The control plane, once it serves our kinds."""
    control_plane.kubectl("apply", "--server-side", "-k", str(FOLDER))
    crds = (f"crd/{kind.plural}.{GROUP}" for kind in KINDS)
    control_plane.kubectl("wait", "--for=condition=Established", "--timeout=150s", *crds)
    return control_plane


@pytest.fixture(scope="module")
def server(established: ControlPlane, request: pytest.FixtureRequest) -> Iterator[Server]:
    """A namespace of the module's own."""
    namespace = request.module.__name__.rpartition(".")[2].removeprefix("test_").replace("_", "-")
    server = Server(established, f"api-{namespace}")
    server.create_namespace()
    yield server
    server.delete_namespace()


@pytest.fixture(scope="session", autouse=True)
def autoscaled(established: ControlPlane) -> Iterator[Server]:
    """A ModelDeployment under a real HorizontalPodAutoscaler that wants 2 to 10 pods.

    That controller takes half a minute to act for the first time, so it begins before the first test.
    """
    server = Server(established, "api-autoscaled")
    server.create_namespace()
    server.kubectl("apply", "-f", "-", input=yaml.safe_dump(model_deployment("autoscaled")))
    target = {"apiVersion": "holdfast.dev/v1alpha1", "kind": "ModelDeployment", "name": "autoscaled"}
    cpu = {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 70}}
    autoscaler = {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "autoscaled"},
        "spec": {
            "scaleTargetRef": target,
            "minReplicas": 2,
            "maxReplicas": 10,
            "metrics": [{"type": "Resource", "resource": cpu}],
        },
    }
    server.kubectl("apply", "-f", "-", input=json.dumps(autoscaler))
    yield server
    server.delete_namespace()
