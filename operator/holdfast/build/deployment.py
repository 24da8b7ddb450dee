"""The Deployment of one revision of a ModelDeployment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from holdfast.build import labels, names, pod, service
from holdfast.build.hashing import with_desired_hash
from holdfast.build.source import Source

HTTP_PORT = 8080
GRPC_PORT = 9000
MANAGEMENT_PORT = 8081
TLS = "/mnt/tls"
FEEDBACK = "/mnt/feedback"
PROGRESS_DEADLINE_SECONDS = 600


@dataclass(frozen=True, slots=True)
class Tls:
    """The Secret with the server's certificate, and whether clients need one: `None` or `Required`."""

    secret: str
    client_auth: str


@dataclass(frozen=True, slots=True)
class Feedback:
    """The Secret with the key for receipts, and what differs from the server's defaults."""

    secret: str
    client_auth: str | None = None
    rows_per_minute: int | None = None

    def variables(self) -> dict[str, str]:
        """For the server."""
        made = {"HOLDFAST_FEEDBACK_SECRET": self.secret}
        if self.client_auth:
            made["HOLDFAST_FEEDBACK_CLIENT_AUTH"] = self.client_auth
        if self.rows_per_minute:
            made["HOLDFAST_FEEDBACK_ROWS_PER_MINUTE"] = str(self.rows_per_minute)
        return made


@dataclass(frozen=True, slots=True)
class RevisionManifest:
    """All that shapes the pods of a revision."""

    name: str
    revision: str
    source: Source
    model_digest: str
    image: str
    pull_policy: str
    env: Mapping[str, str]
    """The user's variables, with the values of ConfigMap keys read."""
    resources: Mapping[str, Any] | None
    node_selector: Mapping[str, str] | None
    tolerations: Sequence[Mapping[str, Any]] | None
    tls: Tls | None = None
    feedback: Feedback | None = None
    request_timeout_milliseconds: int | None = None
    """None for the server's own default: variables that say nothing new would change every pod there is."""
    max_batch_rows: int | None = None
    router_public_key: str = ""
    """Whose leases the pods take."""

    def template(self) -> dict[str, Any]:
        """Of its pods."""
        own = {**labels.serving(self.name), labels.REVISION: self.revision}
        return {"metadata": {"labels": own}, "spec": self._pod()}

    def _pod(self) -> dict[str, Any]:
        variables = {
            **self.env,
            **self.source.variables(),
            "HOLDFAST_MODEL_NAME": self.name,
            "HOLDFAST_MODEL_DIGEST": self.model_digest,
            "HOLDFAST_REVISION": self.revision,
        }
        if self.request_timeout_milliseconds is not None:
            variables["HOLDFAST_REQUEST_TIMEOUT_MILLISECONDS"] = str(self.request_timeout_milliseconds)
        if self.max_batch_rows is not None:
            variables["HOLDFAST_MAX_BATCH_ROWS"] = str(self.max_batch_rows)
        if self.router_public_key:
            variables["HOLDFAST_ROUTER_PUBLIC_KEYS"] = self.router_public_key
        mounts, volumes = self.source.mounts(), []
        if self.tls:
            variables |= {"HOLDFAST_TLS_SECRET": self.tls.secret, "HOLDFAST_TLS_CLIENT_AUTH": self.tls.client_auth}
            mounts.append({"name": "tls", "mountPath": f"{TLS}/{self.tls.secret}", "readOnly": True})
            volumes.append(pod.secret_volume("tls", self.tls.secret))
        if self.feedback:
            variables |= self.feedback.variables()
            mounts.append({"name": "feedback", "mountPath": f"{FEEDBACK}/{self.feedback.secret}", "readOnly": True})
            volumes.append(pod.secret_volume("feedback", self.feedback.secret))
        server = pod.container("server", self.image, self.pull_policy, ["serve"], variables, mounts, self.resources)
        server["ports"] = [
            {"name": service.port_name(self.tls is not None), "containerPort": HTTP_PORT, "protocol": "TCP"},
            {"name": service.grpc_port_name(self.tls is not None), "containerPort": GRPC_PORT, "protocol": "TCP"},
            {"name": "management", "containerPort": MANAGEMENT_PORT, "protocol": "TCP"},
        ]
        # Fetching and loading may take long, and a pod that is ready a second earlier takes over a second earlier.
        server["startupProbe"] = _probe("/readyz", periodSeconds=1, failureThreshold=PROGRESS_DEADLINE_SECONDS)
        server["readinessProbe"] = _probe("/readyz", periodSeconds=5, failureThreshold=2)
        server["livenessProbe"] = _probe("/livez", periodSeconds=10, failureThreshold=3)
        spec = pod.pod_spec([server], self.source.claims, self.node_selector, self.tolerations)
        spec = self.source.complete(spec)
        spec["volumes"] += volumes
        # The server needs no preStop: it takes connections for a while after SIGTERM, and tells clients to move.
        # The last request may come late in that while, and have all of its time.
        spec["terminationGracePeriodSeconds"] = max(60, 40 + (self.request_timeout_milliseconds or 0) // 1000)
        return spec


def deployment(
    name: str,
    namespace: str,
    uid: str,
    revision: str,
    intent: str,
    model_annotation: str,
    template: Mapping[str, Any],
    replicas: int,
) -> dict[str, Any]:
    """The manifest for server-side apply. Its hash leaves `replicas` out: it tells whether the template is this one."""
    manifest: dict[str, Any] = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": names.revision_deployment(name, revision),
            "namespace": namespace,
            "labels": {**labels.serving(name), labels.REVISION: revision},
            "annotations": {labels.INTENT: intent, labels.MODEL: model_annotation},
            "ownerReferences": [labels.owner("ModelDeployment", name, uid)],
        },
        "spec": {
            "replicas": replicas,
            # A revision's template never changes, so there is nothing to go back to inside one Deployment.
            "revisionHistoryLimit": 0,
            "progressDeadlineSeconds": PROGRESS_DEADLINE_SECONDS,
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
            "selector": {"matchLabels": labels.serving_selector(name, revision)},
            "template": dict(template),
        },
    }
    return with_desired_hash(manifest, without_replicas=True)


def _probe(path: str, **timing: int) -> dict[str, Any]:
    return {"httpGet": {"path": path, "port": "management", "scheme": "HTTP"}, "timeoutSeconds": 2, **timing}
