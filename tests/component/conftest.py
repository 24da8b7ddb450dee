"""One control plane with fake nodes for the whole tier, and the operator's real RBAC on it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.component.world import UNPLAYED, Operator, Place, install, new_place, operator, stop

from holdfast_devcluster import ControlPlane, control_plane


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What is asked about all that the operators did comes after it."""
    items.sort(key=lambda item: item.path.name == "test_rights.py")


@pytest.fixture(scope="session")
def plane() -> Iterator[ControlPlane]:
    """A real control plane whose pods become ready at once, for KWOK plays the kubelets."""
    with control_plane(kwok=True, nodes=2, audit_log=True, report=lambda *_: None) as plane:
        install("base", plane)
        node = {"kind": "Node", "metadata": {"name": UNPLAYED}, "spec": {"unschedulable": True}}
        plane.api.request("POST", "/api/v1/nodes", {"apiVersion": "v1", **node})
        yield plane


@pytest.fixture(scope="module")
def module_leader(plane: ControlPlane, request: pytest.FixtureRequest) -> Iterator[Operator]:
    """An operator that leads during the module. Ended politely, so that the next module need not wait."""
    name = request.module.__name__.rpartition(".")[2].removeprefix("test_").replace("_", "-")
    with operator(plane, name) as running:
        yield running
        if not running.ended:
            assert stop(running) == 0


@pytest.fixture
def leader(module_leader: Operator) -> Operator:
    """The module's, that leads. One that has lost its Lease, on a machine that halted, fails no test but that one."""
    if module_leader.ended:
        module_leader.start()
    module_leader.until_idle()
    return module_leader


@pytest.fixture
def place(plane: ControlPlane, request: pytest.FixtureRequest) -> Place:
    """A namespace of the test's own."""
    return new_place(plane, request.node.name.removeprefix("test_").replace("_", "-")[:60].strip("-"))
