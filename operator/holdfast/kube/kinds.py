"""The kinds that the operator touches, and where the API server keeps them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from holdfast.api.meta import GROUP, VERSION
from holdfast.build import labels

MANAGED_BY = f"{labels.MANAGED_BY}=holdfast"
"""Selects every child, and keeps everybody else's objects out of memory."""


class Key(NamedTuple):
    """Names one object of a kind below."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Kind:
    """A resource of the API."""

    name: str
    group: str
    version: str
    plural: str
    selector: str | None = None
    """Only objects with these labels are watched and listed."""
    owner_label: str | None = None
    """Of a custom resource: the label on its children that holds its name."""

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str | None, name: str | None = None, subresource: str | None = None) -> str:
        """The URL's path of an object, or of all (in one namespace; None: in the cluster)."""
        parts = ["/apis", self.group, self.version] if self.group else ["/api", self.version]
        if namespace is not None:
            parts += ["namespaces", namespace]
        parts.append(self.plural)
        if name is not None:
            parts.append(name)
        if subresource is not None:
            parts.append(subresource)
        return "/".join(parts)


MODEL_DEPLOYMENT = Kind("ModelDeployment", GROUP, VERSION, "modeldeployments", owner_label=labels.MODEL_DEPLOYMENT)
TRAINING_JOB = Kind("TrainingJob", GROUP, VERSION, "trainingjobs", owner_label=labels.TRAINING_JOB)
BATCH_INFERENCE = Kind("BatchInference", GROUP, VERSION, "batchinferences", owner_label=labels.BATCH_INFERENCE)
DEPLOYMENT = Kind("Deployment", "apps", "v1", "deployments", selector=MANAGED_BY)
JOB = Kind("Job", "batch", "v1", "jobs", selector=MANAGED_BY)
SERVICE = Kind("Service", "", "v1", "services", selector=MANAGED_BY)
CONTROLLER_REVISION = Kind("ControllerRevision", "apps", "v1", "controllerrevisions", selector=MANAGED_BY)
POD_DISRUPTION_BUDGET = Kind("PodDisruptionBudget", "policy", "v1", "poddisruptionbudgets", selector=MANAGED_BY)
NAMESPACE = Kind("Namespace", "", "v1", "namespaces", selector=f"{GROUP}/operator=namespaced")
"""Of those, only the ones that a cluster-wide operator leaves alone."""

POD = Kind("Pod", "", "v1", "pods")
CLAIM = Kind("PersistentVolumeClaim", "", "v1", "persistentvolumeclaims")
CONFIG_MAP = Kind("ConfigMap", "", "v1", "configmaps", selector=MANAGED_BY)
"""Those of users are read by name."""
PROMETHEUS_RULE = Kind("PrometheusRule", "monitoring.coreos.com", "v1", "prometheusrules", selector=MANAGED_BY)
"""Of the Prometheus operator. Not every cluster has the kind."""
SECRET = Kind("Secret", "", "v1", "secrets")
EVENT = Kind("Event", "", "v1", "events")
LEASE = Kind("Lease", "coordination.k8s.io", "v1", "leases")

OWNERS: Mapping[str, Kind] = {kind.name: kind for kind in (MODEL_DEPLOYMENT, TRAINING_JOB, BATCH_INFERENCE)}
CHILDREN: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        DEPLOYMENT,
        JOB,
        SERVICE,
        POD_DISRUPTION_BUDGET,
        CONTROLLER_REVISION,
        CONFIG_MAP,
        PROMETHEUS_RULE,
    )
}
WRITTEN: Mapping[str, Kind] = {**CHILDREN, TRAINING_JOB.name: TRAINING_JOB}
"""What the operator creates and deletes: a TrainingJob may be a ModelDeployment's child, too."""


def key_of(manifest: Mapping[str, Any]) -> Key:
    """The key of an object or a manifest that says its kind."""
    metadata = manifest["metadata"]
    return Key(manifest["kind"], metadata.get("namespace", ""), metadata["name"])


def controller_of(metadata: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The ownerReference of the controller, if there is one."""
    references: list[Mapping[str, Any]] = metadata.get("ownerReferences") or []
    return next((reference for reference in references if reference.get("controller")), None)
