"""What a pod of ours is doing, in its own words: its management port is asked while it is not ready.

The address is the kubelet's word, not a user's; nothing but the question is sent, and the answer is text for a message.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

import aiohttp

from holdfast.build.deployment import MANAGEMENT_PORT
from holdfast.signals.routers import management_url

SECONDS = 0.5
"""For all pods together: who does not answer at once has nothing to say."""
MAX_PODS = 3
"""Pods of one model do the same."""
_MAX_CHARACTERS = 120


async def words(pods: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """By uid, of those pods that run, are not ready, and answer."""
    asked = {pod["metadata"]["uid"]: pod["status"]["podIP"] for pod in pods if _works(pod)}
    asked = dict(list(asked.items())[:MAX_PODS])
    if not asked:
        return {}
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=SECONDS)) as session:
        said = await asyncio.gather(*(ask(session, address) for address in asked.values()))
    return {uid: text for uid, text in zip(asked, said, strict=True) if text}


async def ask(session: aiohttp.ClientSession, address: str, port: int = MANAGEMENT_PORT) -> str | None:
    """What the pod at an address says; None when it is ready, or says nothing."""
    try:
        async with session.get(management_url(address, port) + "/readyz", allow_redirects=False) as answer:
            if answer.status != 503:
                return None
            text = (await answer.content.read(4 * _MAX_CHARACTERS)).decode(errors="replace")
    except (aiohttp.ClientError, TimeoutError, OSError):
        return None
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line[:_MAX_CHARACTERS] or None


def _works(pod: Mapping[str, Any]) -> bool:
    status = pod.get("status") or {}
    labels = pod["metadata"].get("labels") or {}
    if status.get("phase") != "Running" or not status.get("podIP"):
        return False
    ready = any(c["type"] == "Ready" and c["status"] == "True" for c in status.get("conditions") or ())
    component = labels.get("app.kubernetes.io/component")
    # A helper has no probe, so that it counts as ready as soon as it runs.
    return component == "helper" or (component == "serving" and not ready)
