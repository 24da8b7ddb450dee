"""The hash by which a child tells what was wanted when it was written last."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from holdfast.build import labels


def canonical_json(value: Any) -> str:
    """One text for one value: sorted keys, no blanks."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def with_desired_hash(manifest: dict[str, Any], *, without_replicas: bool = False) -> dict[str, Any]:
    """The manifest with its own hash as an annotation (16 hexadecimal digits).

    `without_replicas` leaves `spec.replicas` out of the hash: it then tells whether the *template* is the one that
    would be rendered now.
    """
    hashed: Mapping[str, Any] = manifest
    if without_replicas:
        spec = {key: value for key, value in manifest["spec"].items() if key != "replicas"}
        hashed = {**manifest, "spec": spec}
    value = hashlib.sha256(canonical_json(hashed).encode()).hexdigest()[:16]
    metadata = manifest["metadata"]
    annotations = {**metadata.get("annotations", {}), labels.DESIRED_HASH: value}
    return {**manifest, "metadata": {**metadata, "annotations": annotations}}
