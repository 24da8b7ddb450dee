"""The TrainingJob that a ModelDeployment makes: its template's spec, and what it was made for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from holdfast.api.meta import API_VERSION
from holdfast.build import labels
from holdfast.build.hashing import canonical_json


def training_job(
    job_name: str,
    name: str,
    namespace: str,
    uid: str,
    spec: Mapping[str, Any],
    trigger: str,
    action: str,
    cause: Mapping[str, Any],
) -> dict[str, Any]:
    """A run for the ModelDeployment `name`. `spec` as in its template; `cause` is kept with it, and never changes."""
    return {
        "apiVersion": API_VERSION,
        "kind": "TrainingJob",
        "metadata": {
            "name": job_name,
            "namespace": namespace,
            "labels": labels.made_training(name, trigger, action),
            "annotations": {labels.CAUSE: canonical_json(cause)},
            "ownerReferences": [labels.owner("ModelDeployment", name, uid)],
        },
        "spec": dict(spec),
    }
