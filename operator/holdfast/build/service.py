"""Service X: where a ModelDeployment answers, and the register of which revision is stable."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from holdfast.build import labels, names
from holdfast.build.hashing import with_desired_hash

GRPC_PORT = 9000


def port_name(tls: bool) -> str:
    """Of the port where a revision answers, on pods and Service: a Service never leads to a port of the other kind."""
    return "https" if tls else "http"


def grpc_port_name(tls: bool) -> str:
    """The same for gRPC."""
    return "grpcs" if tls else "grpc"


def service(
    name: str,
    namespace: str,
    uid: str,
    stable_revision: str,
    *,
    tls: bool = False,
    handled: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The manifest for server-side apply. One write of it moves the traffic and records that it was moved.

    tls: whether the stable revision speaks TLS. handled: annotations that say which of people's words were acted on.
    """
    noted = {labels.STABLE_REVISION: stable_revision, **(handled or {})}
    return _service(name, name, namespace, uid, stable_revision, noted, tls)


def candidate_service(name: str, namespace: str, uid: str, revision: str, *, tls: bool = False) -> dict[str, Any]:
    """Service X-candidate, where routers find the one other live revision of the ModelDeployment `name`."""
    return _service(names.candidate_service(name), name, namespace, uid, revision, {}, tls)


def _service(
    own_name: str, name: str, namespace: str, uid: str, revision: str, annotations: Mapping[str, str], tls: bool
) -> dict[str, Any]:
    http, grpc = port_name(tls), grpc_port_name(tls)
    return with_desired_hash(
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {
                "name": own_name,
                "namespace": namespace,
                "labels": labels.serving(name),
                "annotations": dict(annotations),
                "ownerReferences": [labels.owner("ModelDeployment", name, uid)],
            },
            "spec": {
                "selector": labels.serving_selector(name, revision),
                "ports": [
                    _port(http, 443 if tls else 80, http),
                    _port(grpc, GRPC_PORT, "https" if tls else "kubernetes.io/h2c"),
                ],
            },
        }
    )


def _port(name: str, number: int, protocol: str) -> dict[str, Any]:
    return {"name": name, "port": number, "targetPort": name, "protocol": "TCP", "appProtocol": protocol}
