"""The CRDs on a real kube-apiserver."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.api.server import Server

from holdfast_devcluster import ControlPlane

CRDS = Path(__file__).parents[2] / "crds"


@pytest.fixture(scope="session")
def established(control_plane: ControlPlane) -> ControlPlane:
    """The control plane, once it serves our kinds."""
    control_plane.kubectl("apply", "--server-side", "-k", str(CRDS))
    control_plane.kubectl(
        "wait",
        "--for=condition=Established",
        "--timeout=60s",
        "-f",
        str(CRDS / "modeldeployments.yaml"),
        "-f",
        str(CRDS / "trainingjobs.yaml"),
    )
    return control_plane


@pytest.fixture(scope="module")
def server(established: ControlPlane, request: pytest.FixtureRequest) -> Iterator[Server]:
    """A namespace of the module's own."""
    namespace = request.module.__name__.rpartition(".")[2].removeprefix("test_").replace("_", "-")
    server = Server(established, f"api-{namespace}")
    server.create_namespace()
    yield server
    server.delete_namespace()
