"""The ControllerRevision that keeps a revision of a ModelDeployment whole."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from holdfast.build import labels, names
from holdfast.build.hashing import with_desired_hash


def controller_revision(
    name: str,
    namespace: str,
    uid: str,
    revision: str,
    ordinal: int,
    data: Mapping[str, Any],
    annotations: Mapping[str, str],
) -> dict[str, Any]:
    """The manifest for server-side apply. `data` never changes after the first write; `annotations` do."""
    return with_desired_hash(
        {
            "apiVersion": "apps/v1",
            "kind": "ControllerRevision",
            "metadata": {
                "name": names.revision_deployment(name, revision),
                "namespace": namespace,
                "labels": {**labels.serving(name), labels.REVISION: revision},
                "annotations": dict(annotations),
                "ownerReferences": [labels.owner("ModelDeployment", name, uid)],
            },
            "data": dict(data),
            "revision": ordinal,
        }
    )
