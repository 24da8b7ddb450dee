"""The hash by which a child tells what was wanted when it was written last."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from holdfast.build import labels


def canonical_json(value: Any) -> str:
    """One text for one value: sorted keys, no blanks."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def with_desired_hash(manifest: dict[str, Any], *, without_replicas: bool = False) -> dict[str, Any]:
    """The manifest with its own hash as an annotation (16 hexadecimal digits).

    The owner is left out: an orphan that is adopted is still what it was. `without_replicas` leaves `spec.replicas` out
    as well: the hash then tells whether the *template* is the one that would be rendered now.
    """
    metadata = dict(manifest["metadata"])
    metadata.pop("ownerReferences", None)
    hashed = {**manifest, "metadata": metadata}
    if without_replicas:
        hashed["spec"] = {name: value for name, value in manifest["spec"].items() if name != "replicas"}
    value = hashlib.sha256(canonical_json(hashed).encode()).hexdigest()[:16]
    annotations = {**metadata.get("annotations", {}), labels.DESIRED_HASH: value}
    return {**manifest, "metadata": {**manifest["metadata"], "annotations": annotations}}
