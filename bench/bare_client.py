"""A client that does nothing but send requests: what the operator's figures are compared with."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import aiohttp

JsonObject = dict[str, Any]
Item = TypeVar("Item")
PATHS = {
    "ModelDeployment": "/apis/holdfast.dev/v1alpha1/namespaces/{}/modeldeployments",
    "Deployment": "/apis/apps/v1/namespaces/{}/deployments",
    "Service": "/api/v1/namespaces/{}/services",
}


class BareClient:
    """JSON over HTTPS to a kube-apiserver, authenticated by a client certificate."""

    def __init__(self, server: str, authority: Path, certificate: Path, key: Path) -> None:
        self._server = server
        self._tls = ssl.create_default_context(cafile=str(authority))
        self._tls.load_cert_chain(certificate, key)

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=self._tls, limit=0), timeout=aiohttp.ClientTimeout(total=60)
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def request(
        self, method: str, path: str, body: JsonObject | None = None, content: str = "application/json"
    ) -> JsonObject:
        """The decoded answer. Raises RuntimeError on any status from 400 on."""
        data = None if body is None else json.dumps(body).encode()
        async with self._session.request(
            method, self._server + path, data=data, headers={"Content-Type": content}
        ) as response:
            text = await response.read()
            if response.status >= 400:
                raise RuntimeError(f"{method} {path}: {response.status} {text[:300]!r}")
            answer: JsonObject = json.loads(text) if text else {}
            return answer

    async def create(self, manifest: JsonObject) -> JsonObject:
        path = PATHS[manifest["kind"]].format(manifest["metadata"]["namespace"])
        return await self.request("POST", path, manifest)

    async def apply(self, manifest: JsonObject) -> JsonObject:
        path = PATHS[manifest["kind"]].format(manifest["metadata"]["namespace"])
        return await self.request(
            "PATCH",
            f"{path}/{manifest['metadata']['name']}?fieldManager=bare&force=true",
            manifest,
            "application/apply-patch+yaml",
        )

    async def merge(self, path: str, patch: JsonObject) -> JsonObject:
        return await self.request("PATCH", path, patch, "application/merge-patch+json")

    async def watch(self, path: str) -> AsyncIterator[JsonObject]:
        """Watch events from now on, beginning with the objects that exist."""
        async with self._session.get(
            f"{self._server}{path}?watch=true", timeout=aiohttp.ClientTimeout(total=None)
        ) as response:
            response.raise_for_status()
            buffer = b""
            async for chunk in response.content.iter_any():
                *lines, buffer = (buffer + chunk).split(b"\n")
                for line in lines:
                    if line:
                        yield json.loads(line)


async def in_flight(items: Iterable[Item], action: Callable[[Item], Awaitable[Any]], limit: int = 16) -> None:
    """Do `action` for every item, at most `limit` at a time."""
    pending = iter(items)

    async def worker() -> None:
        for item in pending:
            await action(item)

    await asyncio.gather(*(worker() for _ in range(limit)))
