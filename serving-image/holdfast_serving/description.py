"""What a pod says of its model in the words of the V2 extensions, for every protocol."""

from __future__ import annotations

from typing import Any

from holdfast_serving.served import Served

WHO_DECIDES = "this pod serves what its Deployment says"
"""Why nobody can load or unload a model."""


def index(served: Served, *, ready_only: bool) -> list[dict[str, Any]]:
    """The repository: a pod's has one model, whatever state it is in."""
    state, reason = "READY", ""
    if not served.ready:
        if ready_only:
            return []
        loading = served.signature is None
        state, reason = ("LOADING", "") if loading else ("UNAVAILABLE", "the pod is being shut down")
    return [{"name": served.name, "version": served.revision, "state": state, "reason": reason}]
