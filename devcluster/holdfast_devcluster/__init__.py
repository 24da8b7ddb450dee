"""A real Kubernetes on one machine, for Holdfast's demo and tests."""

from holdfast_devcluster.controlplane import ControlPlane, control_plane
from holdfast_devcluster.errors import ClusterError

__all__ = ["ClusterError", "ControlPlane", "control_plane"]
