"""The PodDisruptionBudget of a ModelDeployment with two replicas or more."""

from __future__ import annotations

from typing import Any

from holdfast.build import labels
from holdfast.build.hashing import with_desired_hash


def pod_disruption_budget(name: str, namespace: str, uid: str, stable_revision: str) -> dict[str, Any]:
    """The manifest for server-side apply. It covers the stable revision alone: a candidate that crashes must not block
    the draining of a node."""
    return with_desired_hash(
        {
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": {
                "name": name,
                "namespace": namespace,
                "labels": labels.serving(name),
                "ownerReferences": [labels.owner("ModelDeployment", name, uid)],
            },
            "spec": {
                "maxUnavailable": 1,
                "unhealthyPodEvictionPolicy": "AlwaysAllow",
                "selector": {"matchLabels": labels.serving_selector(name, stable_revision)},
            },
        }
    )
