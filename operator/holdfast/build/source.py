"""Where a pod gets its model from: what it mounts and is told for that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from holdfast.build import pod

SECRET = f"{pod.SECRETS}/storage"


@dataclass(frozen=True, slots=True)
class Source:
    """A model's URI, and who the pod is where it lies.

    Attributes:
        secret: mounted as files; empty for none.
        service_account: the pod's; empty for the namespace's default.
        cache: claim that keeps models by digest, for all that does not lie on a claim itself; empty for none.
    """

    uri: str
    secret: str = ""
    service_account: str = ""
    cache: str = ""

    @property
    def claims(self) -> list[str]:
        """The claims that the pod mounts."""
        claim = pod.claim_of(self.uri) or self.cache
        return [claim] if claim else []

    def variables(self) -> dict[str, str]:
        told = {"HOLDFAST_MODEL_URI": pod.literal(self.uri)}
        if self._asks and self.secret:
            told["HOLDFAST_STORAGE_SECRET"] = self.secret
        if self._asks and self.service_account:
            told["HOLDFAST_SERVICE_ACCOUNT"] = self.service_account
        if self._asks and self.cache:
            told["HOLDFAST_CACHE_CLAIM"] = self.cache
        return told

    def mounts(self) -> list[dict[str, Any]]:
        mounts = pod.claim_mounts(self.claims, writable=self.cache if self._asks else None)
        if self._asks and self.secret:
            mounts.append({"name": "storage", "mountPath": SECRET, "readOnly": True})
        return mounts

    def complete(self, spec: Mapping[str, Any]) -> dict[str, Any]:
        """A pod's spec with the volumes and the ServiceAccount that this needs."""
        made = dict(spec)
        if self._asks and self.secret:
            made["volumes"] = [*spec["volumes"], pod.secret_volume("storage", self.secret)]
        if self.service_account:
            made["serviceAccountName"] = self.service_account
        return made

    @property
    def _asks(self) -> bool:
        """Whether somebody is asked who wants to know who asks. A claim is the pod's own."""
        return pod.claim_of(self.uri) is None
