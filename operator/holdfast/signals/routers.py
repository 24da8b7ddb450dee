"""The routers of pods at their management ports: what they have counted is read, and leases are written to them.

The addresses are the kubelet's word, not a user's. Pods of one model are asked together, each for a second at most; one
that hangs delays nobody else's answer beyond that.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Iterable

import aiohttp

from holdfast.build import labels
from holdfast.build.deployment import MANAGEMENT_PORT
from holdfast.plan.observed import Pod
from holdfast.plan.traffic import Report
from holdfast.signals import metrics, reports
from holdfast.signals.reports import Unusable

SECONDS = 1.0
"""For one answer."""

MAX_BYTES = 256 << 10
"""Of one answer."""

_MAX_WORDS = 300
_QUIET_SECONDS = 10.0

log = logging.getLogger(__name__)


class NoAnswer(Exception):
    """A pod did not answer, or not as a router does; the text says how."""

    def __init__(self, outcome: str, message: str) -> None:
        super().__init__(message)
        self.outcome = outcome


class Routers:
    """Asks over one pool of connections. To be made inside the event loop."""

    def __init__(self, guard: Callable[[], None] = lambda: None, port: int = MANAGEMENT_PORT) -> None:
        """guard: called right before a lease is sent; raises to hold it back."""
        self._guard = guard
        self._port = port
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),  # pods that hang must not hold up others
            timeout=aiohttp.ClientTimeout(total=SECONDS),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            headers={"Accept-Encoding": "identity"},
        )
        self._quiet_until = 0.0

    async def close(self) -> None:
        await self._session.close()

    async def read(self, pods: Iterable[Pod]) -> dict[str, Report | None]:
        """What the routers of those pods say that run, by uid; None: no answer, or none to be believed."""
        asked = [pod for pod in pods if pod.phase == "Running" and pod.address]
        found = await asyncio.gather(*(self._read(pod) for pod in asked))
        return {pod.uid: report for pod, report in zip(asked, found, strict=True)}

    async def put(self, pod: Pod, envelope: bytes) -> bool:
        """Give a pod its lease; whether it was taken. What `guard` raises is passed on."""
        self._guard()
        try:
            status, body = await self._ask("PUT", pod, "/router/lease", envelope)
        except NoAnswer as problem:
            self._report(pod, str(problem))
            metrics.LEASES.labels("no_answer").inc()
            return False
        if status != 200:
            self._report(pod, f"{status} {_words(body)}")
            metrics.LEASES.labels("refused").inc()
            return False
        metrics.LEASES.labels("taken").inc()
        return True

    async def _read(self, pod: Pod) -> Report | None:
        try:
            status, body = await self._ask("GET", pod, "/router")
            if status != 200:
                raise NoAnswer("status", f"status {status}")
            report = reports.read(
                body, pod.labels.get(labels.MODEL_DEPLOYMENT, ""), pod.labels.get(labels.REVISION, "")
            )
        except NoAnswer as problem:
            outcome, words = problem.outcome, str(problem)
        except Unusable as problem:
            outcome, words = problem.reason, str(problem)
        else:
            metrics.READS.labels("ok").inc()
            return report
        metrics.READS.labels(outcome).inc()
        log.debug("the router of pod %s cannot be read: %s", pod.name, words)
        return None

    async def _ask(self, method: str, pod: Pod, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        """(status, body). Raises NoAnswer."""
        fields = {"Content-Type": "application/json"} if body is not None else {}
        try:
            async with self._session.request(
                method, management_url(pod.address, self._port) + path, data=body, headers=fields, allow_redirects=False
            ) as answer:
                return answer.status, await _bounded(answer)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise NoAnswer("no_answer", type(error).__name__) from error

    def _report(self, pod: Pod, words: str) -> None:
        now = time.monotonic()
        if now >= self._quiet_until:
            self._quiet_until = now + _QUIET_SECONDS
            log.warning(
                "a pod has not taken its lease (said at most every 10 s)",
                extra={"fields": {"pod": pod.name, "answer": words}},
            )


def management_url(address: str, port: int = MANAGEMENT_PORT) -> str:
    """Of the pod at an address."""
    return f"http://[{address}]:{port}" if ":" in address else f"http://{address}:{port}"


async def _bounded(answer: aiohttp.ClientResponse) -> bytes:
    """The body. Raises NoAnswer for one that is too large."""
    body = bytearray()
    async for data in answer.content.iter_any():
        body += data
        if len(body) > MAX_BYTES:
            answer.close()
            raise NoAnswer("too_large", f"more than {MAX_BYTES >> 10} KiB")
    return bytes(body)


def _words(body: bytes) -> str:
    """What an error says, on one line."""
    text = body.decode(errors="replace")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        document = None
    if type(document) is dict and type(document.get("error")) is str:
        text = document["error"]
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:_MAX_WORDS]
