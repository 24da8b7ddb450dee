"""Kubernetes Events: what happened to a custom resource, for `kubectl describe`."""

from __future__ import annotations

import logging
import time
from datetime import UTC, datetime

from holdfast.kube import errors
from holdfast.kube.client import Client
from holdfast.kube.kinds import EVENT, OWNERS
from holdfast.kube.store import Resource
from holdfast.plan.observed import Event

COMPONENT = "holdfast"
MAX_MESSAGE = 1024
log = logging.getLogger(__name__)


class Recorder:
    """Posts Events. One that cannot be posted is only logged: the status says the same."""

    def __init__(self, client: Client, instance: str) -> None:
        self._client = client
        self._instance = instance

    async def post(self, about: Resource, event: Event) -> None:
        key = about.key
        log.info(event.message, extra={"fields": {"object": str(key), "type": event.type, "reason": event.reason}})
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        manifest = {
            "apiVersion": EVENT.api_version,
            "kind": EVENT.name,
            "metadata": {"name": f"{key.name}.{time.time_ns():x}", "namespace": key.namespace},
            "involvedObject": {
                "apiVersion": OWNERS[key.kind].api_version,
                "kind": key.kind,
                "namespace": key.namespace,
                "name": key.name,
                "uid": about.uid,
            },
            "type": event.type,
            "reason": event.reason,
            "message": event.message[:MAX_MESSAGE],
            "source": {"component": COMPONENT},
            "reportingComponent": COMPONENT,
            "reportingInstance": self._instance,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }
        try:
            await self._client.create(EVENT, manifest)
        except errors.ApiError as error:
            log.warning("an Event about %s could not be posted: %s", key, error)
