"""The key that leases are signed with: a Secret in the operator's own namespace, made at the first start.

Whoever can read it can send a model's requests elsewhere inside the cluster. The operator reads this one by name and
has no right on any other.
"""

from __future__ import annotations

import base64
import binascii
import logging
import os
from typing import Any

from holdfast.kube import errors
from holdfast.kube.client import Client
from holdfast.kube.kinds import SECRET
from holdfast.signals.leases import SEED_BYTES

NAME = "holdfast-router-key"
CURRENT, PREVIOUS = "current", "previous"
"""Keys of the Secret: the seed in use and, while keys are changed, the one before."""

log = logging.getLogger(__name__)


class Unusable(Exception):
    """The Secret does not hold what it should; the text says what to do, without values."""


async def router_seeds(client: Client, namespace: str) -> tuple[bytes, ...]:
    """The seed in use and, where there is one, the one before. Raises errors.ApiError, or Unusable."""
    try:
        secret = await client.get(SECRET, namespace, NAME)
    except errors.NotFound:
        secret = await _made(client, namespace)
    data = secret.get("data") or {}
    names = (CURRENT, PREVIOUS) if PREVIOUS in data else (CURRENT,)
    return tuple(_seed(data, name) for name in names)


async def _made(client: Client, namespace: str) -> dict[str, Any]:
    manifest = {
        "apiVersion": SECRET.api_version,
        "kind": SECRET.name,
        "metadata": {"name": NAME, "namespace": namespace, "labels": {"app.kubernetes.io/name": "holdfast-operator"}},
        "type": "Opaque",
        "data": {CURRENT: base64.b64encode(os.urandom(SEED_BYTES)).decode()},
    }
    try:
        made = await client.create(SECRET, manifest)
    except errors.AlreadyExists:  # another operator was faster
        return await client.get(SECRET, namespace, NAME)
    log.info("made the key for leases", extra={"fields": {"secret": f"{namespace}/{NAME}"}})
    return made


def _seed(data: dict[str, str], name: str) -> bytes:
    try:
        seed = base64.b64decode(data.get(name, ""), validate=True)
    except binascii.Error:
        seed = b""
    if len(seed) != SEED_BYTES:
        raise Unusable(
            f"{name!r} in Secret {NAME} is not {SEED_BYTES} bytes; delete the Secret to have a new one made (pods that "
            "are there take no leases then until they are replaced)"
        )
    return seed
