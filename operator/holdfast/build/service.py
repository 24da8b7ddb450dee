"""Service X: where a ModelDeployment answers, and the register of which revision is stable."""

from __future__ import annotations

from typing import Any

from holdfast.build import labels
from holdfast.build.hashing import with_desired_hash

GRPC_PORT = 9000


def port_name(tls: bool) -> str:
    """Of the port where a revision answers, on pods and Service: a Service never leads to a port of the other kind."""
    return "https" if tls else "http"


def grpc_port_name(tls: bool) -> str:
    """The same for gRPC."""
    return "grpcs" if tls else "grpc"


def service(name: str, namespace: str, uid: str, stable_revision: str, *, tls: bool = False) -> dict[str, Any]:
    """The manifest for server-side apply. One write of it moves the traffic and records that it was moved.

    tls: whether the stable revision speaks TLS.
    """
    http, grpc = port_name(tls), grpc_port_name(tls)
    return with_desired_hash(
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {
                "name": name,
                "namespace": namespace,
                "labels": labels.serving(name),
                "annotations": {labels.STABLE_REVISION: stable_revision},
                "ownerReferences": [labels.owner("ModelDeployment", name, uid)],
            },
            "spec": {
                "selector": labels.serving_selector(name, stable_revision),
                "ports": [
                    _port(http, 443 if tls else 80, http),
                    _port(grpc, GRPC_PORT, "https" if tls else "kubernetes.io/h2c"),
                ],
            },
        }
    )


def _port(name: str, number: int, protocol: str) -> dict[str, Any]:
    return {"name": name, "port": number, "targetPort": name, "protocol": "TCP", "appProtocol": protocol}
