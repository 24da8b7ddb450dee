"""Where pipelines say that there are new data: CloudEvents by POST, on a port of their own.

An event only has somebody look sooner: it starts no run by itself, and one that is lost costs a poll's interval. Every
replica takes events; those that do not lead pass them on to the one that does.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta

import aiohttp
from aiohttp import web

from holdfast.kube import metrics
from holdfast.kube.kinds import MODEL_DEPLOYMENT, Key
from holdfast.signals import cloudevents
from holdfast.signals.cloudevents import Refused
from holdfast.signals.senders import Senders

SIGNATURE = "Holdfast-Signature"
RELAYED = "Holdfast-Relayed"
"""Header of an event that another replica passes on: it goes no further."""

MAX_BYTES = 64 << 10
MAX_AT_ONCE = 64
SECONDS = 10.0
"""For one request to come whole and be answered."""

QUIET = timedelta(seconds=60)
"""Events that come sooner after another of the same model count together, at the end of this time."""

Now = Callable[[], datetime]
log = logging.getLogger(__name__)


def _now() -> datetime:
    return datetime.now(UTC)


class DataEvents:
    """When somebody said last of a model that it has new data. In memory only: a poll finds out anyway."""

    def __init__(self) -> None:
        self._counted: dict[Key, datetime] = {}
        self._waiting: dict[Key, datetime] = {}

    def note(self, key: Key, now: datetime) -> float:
        """Seconds until it counts."""
        last = self.last(key, now)
        self._counted = {key: time for key, time in self._counted.items() if now - time < 60 * QUIET}
        if last is None or now - last >= QUIET:
            self._counted[key] = now
            return 0.0
        due = self._waiting[key] = last + QUIET
        return (due - now).total_seconds()

    def last(self, key: Key, now: datetime) -> datetime | None:
        """None: not within the last hour."""
        due = self._waiting.get(key)
        if due is not None and due <= now:
            self._counted[key] = self._waiting.pop(key)
        return self._counted.get(key)


class Webhook:
    """Takes events.

    Args:
        take: is told the model of a genuine event; raises Refused for one that has no use for it.
        leads: whether this replica does.
        peers: addresses of all replicas.
    """

    def __init__(
        self,
        port: int,
        senders: Senders,
        take: Callable[[Key], None],
        leads: Callable[[], bool],
        peers: Callable[[], Awaitable[Sequence[str]]],
        now: Now = _now,
    ) -> None:
        self._port = port
        self._senders = senders
        self._take = take
        self._leads = leads
        self._peers = peers
        self._now = now
        self._runner: web.AppRunner | None = None
        self._session: aiohttp.ClientSession | None = None
        self._at_once = 0

    async def start(self) -> None:
        """Raises OSError when the port is taken."""
        app = web.Application(client_max_size=MAX_BYTES)
        app.add_routes([web.post("/", self._post)])
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=SECONDS / 2), trust_env=False)
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=0.5)
        await self._runner.setup()
        await web.TCPSite(self._runner, port=self._port).start()

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
        if self._session is not None:
            await self._session.close()

    async def _post(self, request: web.Request) -> web.Response:
        if self._at_once >= MAX_AT_ONCE:
            return _answer(503, "too many events at once")
        self._at_once += 1
        try:
            async with asyncio.timeout(SECONDS):
                status, words = await self._judge(request)
        except Refused as refused:
            status, words = refused.status, refused.message
        except web.HTTPRequestEntityTooLarge:
            status, words = 413, f"an event has at most {MAX_BYTES >> 10} KiB"
        except TimeoutError:
            status, words = 408, "the event took too long to come"
        finally:
            self._at_once -= 1
        metrics.DATA_EVENTS.labels(str(status)).inc()
        return _answer(status, words)

    async def _judge(self, request: web.Request) -> tuple[int, str]:
        body = await request.read()
        headers = {name.lower(): value for name, value in request.headers.items()}
        if len(headers) < len(request.headers):
            twice = [name for name in headers if len(request.headers.getall(name)) > 1]
            if any(name.startswith(cloudevents.PREFIX) or name == SIGNATURE.lower() for name in twice):
                raise Refused(400, "a header of the event is there twice")
        event = cloudevents.read(headers, body)
        content = cloudevents.signed(headers, body)
        namespace, name = self._senders.genuine(event, content, headers.get(SIGNATURE.lower(), ""), self._now())
        if not self._leads():
            return await self._relay(request, body)
        now = self._now()
        if not self._senders.is_new(namespace, event, now):
            return 200, "this event has come before"
        self._take(Key(MODEL_DEPLOYMENT.name, namespace, name))
        self._senders.remember(namespace, event, now)
        return 202, "somebody will look at the data"

    async def _relay(self, request: web.Request, body: bytes) -> tuple[int, str]:
        """To the replica that leads, which judges for itself."""
        if RELAYED in request.headers:
            raise Refused(503, "this replica does not lead")
        assert self._session
        passed = ("content-type", SIGNATURE.lower())
        headers = {
            name: value
            for name, value in request.headers.items()
            if name.lower() in passed or name.lower().startswith(cloudevents.PREFIX)
        }
        for address in await self._peers():
            try:
                async with self._session.post(
                    address, data=body, headers={**headers, RELAYED: "1"}, allow_redirects=False
                ) as answer:
                    if answer.status != 503:
                        return answer.status, json.loads(await answer.content.read(MAX_BYTES))["message"]
            except (aiohttp.ClientError, OSError, TimeoutError, ValueError, KeyError) as error:
                log.debug("an event could not be passed on to %s: %s", address, error)
        raise Refused(503, "no replica leads just now: send the event again in some seconds")


def _answer(status: int, words: str) -> web.Response:
    retry = {"Retry-After": "5"} if status in (429, 503) else {}
    return web.json_response({"message": words}, status=status, headers=retry)


def peers(host: str, port: int) -> Callable[[], Awaitable[Sequence[str]]]:
    """Addresses of the pods behind a headless Service; none when its name is unknown."""

    async def find() -> Sequence[str]:
        try:
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError:
            return ()
        hosts = dict.fromkeys(str(address[0]) for *_, address in found)
        return [f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/" for host in hosts]

    return find
