"""A proxy between an operator and the API server that can lose answers, break watches and fail requests."""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum, auto
from pathlib import Path

import aiohttp
import yaml
from aiohttp import web
from tests.component.world import ACCOUNT, GROUPS, PATIENCE

from holdfast_devcluster import ControlPlane


class Fault(Enum):
    """What is done to a request."""

    LOSE_ANSWER = auto()
    """It is carried out, and the connection is cut instead of an answer."""
    UNAVAILABLE = auto()
    """503, and it is not carried out."""
    GONE = auto()
    """To a watch: its resourceVersion is too old."""
    BROKEN = auto()
    """To a watch: an internal error of the API server."""


@dataclass(frozen=True)
class Asked:
    """A request as a rule sees it."""

    method: str
    path: str
    watch: bool


Rule = Callable[[Asked], Fault | None]


@dataclass
class Proxy:
    """Speaks plain HTTP to the operator, and to the API server with the rights of the operator's ServiceAccount."""

    kubeconfig: Path
    rule: Rule = lambda asked: None
    _watches: list[tuple[str, asyncio.Transport]] = field(default_factory=list)
    _loop: asyncio.AbstractEventLoop | None = None

    def cut_watches(self, part: str) -> None:
        """Break the open watches whose path holds `part`, as a load balancer does that is restarted."""
        assert self._loop is not None
        for path, transport in tuple(self._watches):  # the thread of the loop takes them off meanwhile
            if part in path:
                self._loop.call_soon_threadsafe(transport.abort)


@contextmanager
def proxied(plane: ControlPlane, name: str) -> Iterator[Proxy]:
    """Run a proxy in a thread of its own."""
    proxy = Proxy(plane.folder / f"{name}.proxied.kubeconfig")
    started, end = threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()
    proxy._loop = loop
    thread = threading.Thread(target=loop.run_until_complete, args=(_serve(plane, proxy, started, end),))
    thread.start()
    try:
        assert started.wait(PATIENCE)
        yield proxy
    finally:
        if not loop.is_closed():
            loop.call_soon_threadsafe(end.set)
        thread.join(PATIENCE)
        loop.close()


async def _serve(plane: ControlPlane, proxy: Proxy, started: threading.Event, end: asyncio.Event) -> None:
    tls = ssl.create_default_context(cafile=str(plane.certificate_authority))
    account = plane.settings.authority.issue("user-proxied", ACCOUNT, GROUPS)
    tls.load_cert_chain(account.certificate, account.key)
    connector = aiohttp.TCPConnector(ssl=tls, limit=0)
    async with aiohttp.ClientSession(connector=connector, auto_decompress=False) as upstream:

        async def handle(request: web.Request) -> web.StreamResponse:
            return await _handle(plane, proxy, upstream, request)

        app = web.Application(client_max_size=2**24)
        app.router.add_route("*", "/{path:.*}", handle)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        proxy.kubeconfig.write_text(_kubeconfig(runner.addresses[0][1]))
        started.set()
        await end.wait()
        await runner.cleanup()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)


async def _handle(
    plane: ControlPlane, proxy: Proxy, upstream: aiohttp.ClientSession, request: web.Request
) -> web.StreamResponse:
    asked = Asked(request.method, request.path, "watch" in request.query)
    fault = proxy.rule(asked)
    transport = request.transport
    assert isinstance(transport, asyncio.Transport)
    if fault is Fault.UNAVAILABLE:
        return web.json_response({"kind": "Status", "code": 503, "message": "it is said"}, status=503)
    if fault in {Fault.GONE, Fault.BROKEN}:
        code = 410 if fault is Fault.GONE else 500
        event = {"type": "ERROR", "object": {"kind": "Status", "code": code, "message": "it is said"}}
        return web.Response(text=json.dumps(event) + "\n", content_type="application/json")
    headers = {name: value for name, value in request.headers.items() if name.lower() not in {"host", "connection"}}
    headers["Accept-Encoding"] = "identity"
    body = await request.read()
    async with upstream.request(
        request.method, plane.server + request.path_qs, headers=headers, data=body or None
    ) as answer:
        if fault is Fault.LOSE_ANSWER:
            await answer.read()
            transport.abort()
            return web.Response()  # to nobody
        response = web.StreamResponse(status=answer.status)
        response.content_type = answer.content_type
        await response.prepare(request)
        watch = (asked.path, transport)
        if asked.watch:
            proxy._watches.append(watch)
        try:
            async for chunk in answer.content.iter_any():
                await response.write(chunk)
            await response.write_eof()
        finally:
            if asked.watch:
                proxy._watches.remove(watch)
        return response


def _kubeconfig(port: int) -> str:
    return yaml.safe_dump(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "proxied", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
            "users": [{"name": "proxied", "user": {}}],
            "contexts": [{"name": "proxied", "context": {"cluster": "proxied", "user": "proxied"}}],
            "current-context": "proxied",
        }
    )
