"""What several tiers share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast_devcluster import ControlPlane
from holdfast_devcluster import control_plane as run_control_plane


@pytest.fixture(scope="session")
def control_plane() -> Iterator[ControlPlane]:
    """One real control plane without nodes for the whole run; every test takes a namespace of its own."""
    with run_control_plane() as plane:
        yield plane


@pytest.fixture(scope="session")
def control_plane_kubeconfig(control_plane: ControlPlane) -> Path:
    """The administrator's kubeconfig of `control_plane`."""
    return control_plane.kubeconfig
