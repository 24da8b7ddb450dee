"""What a pod of ours is doing, in its own words: its management port is asked while it is not ready, or trains.

The address is the kubelet's word, not a user's; nothing but the question is sent, and the answer is text for a message,
or the progress of a run.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping
from typing import Any

import aiohttp

from holdfast.build.deployment import MANAGEMENT_PORT
from holdfast.plan.observed import Pod
from holdfast.signals.routers import management_url

SECONDS = 0.5
"""For all pods together: who does not answer at once has nothing to say."""
MAX_PODS = 3
"""Pods of one model do the same."""
_MAX_CHARACTERS = 120
_MAX_PROGRESS_BYTES = 4096


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
    return _line(text) or None


async def progress(pods: Iterable[Pod]) -> Mapping[str, Any] | None:
    """What the oldest training pod that answers says of the run; not checked but for being a JSON object."""
    works = (pod for pod in pods if (pod.phase == "Running" or pod.step) and pod.address)
    running = sorted(works, key=lambda pod: pod.created)
    if not running:
        return None
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=SECONDS)) as session:
        said = await asyncio.gather(*(ask_progress(session, pod.address) for pod in running[:MAX_PODS]))
    return next((answer for answer in said if answer is not None), None)


async def ask_progress(
    session: aiohttp.ClientSession, address: str, port: int = MANAGEMENT_PORT
) -> Mapping[str, Any] | None:
    """The JSON object that the pod at an address gives, its texts as single lines; None when it gives none."""
    body = b""
    try:
        async with session.get(management_url(address, port) + "/progress", allow_redirects=False) as answer:
            async for part in answer.content.iter_any():
                body += part
                if answer.status != 200 or len(body) > _MAX_PROGRESS_BYTES:
                    return None
        said = json.loads(body)
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError, RecursionError):
        return None
    if not isinstance(said, dict):
        return None
    return {name: _line(value) if isinstance(value, str) else value for name, value in said.items()}


def _line(text: str) -> str:
    """A short text without control characters."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:_MAX_CHARACTERS]


def _works(pod: Mapping[str, Any]) -> bool:
    status = pod.get("status") or {}
    labels = pod["metadata"].get("labels") or {}
    if status.get("phase") != "Running" or not status.get("podIP"):
        return False
    ready = any(c["type"] == "Ready" and c["status"] == "True" for c in status.get("conditions") or ())
    component = labels.get("app.kubernetes.io/component")
    # A helper has no probe, so that it counts as ready as soon as it runs.
    return component == "helper" or (component == "serving" and not ready)
