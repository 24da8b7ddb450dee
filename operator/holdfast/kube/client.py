"""A client for the handful of requests that the operator makes: dicts in, dicts out, typed errors.

Built on kubernetes.aio's ApiClient, which brings configuration, TLS and renewed tokens. What is added: a timeout on
every request, a guard in front of every mutation, a count of them, and errors by kind.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import aiohttp
from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.config import load_incluster_config, load_kube_config

from holdfast.kube import errors, metrics
from holdfast.kube.kinds import Key, Kind

Object = dict[str, Any]

FIELD_MANAGER = "holdfast"
READ_SECONDS = 15.0
LIST_SECONDS = 60.0
WRITE_SECONDS = 10.0
PAGE = 100
"""Objects in one answer. With 500, parsing the lists of 1,000 models leaves 40 MiB more resident."""

_JSON = "application/json"
_APPLY = "application/apply-patch+yaml"
_MERGE_PATCH = "application/merge-patch+json"
_JSON_PATCH = "application/json-patch+json"
_METADATA_ONLY = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

Guard = Callable[[], None]
"""Called right before a mutation is sent; raises NotLeading to hold it back."""


async def load_configuration() -> Configuration:
    """How to reach the API server: by $KUBECONFIG, else the pod's service account, else ~/.kube/config.

    Raises kubernetes.aio.config.ConfigException or OSError.
    """
    configuration = Configuration()
    if not os.environ.get("KUBECONFIG") and os.environ.get("KUBERNETES_SERVICE_HOST"):
        load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
    else:
        await load_kube_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
    return configuration


@dataclass(frozen=True, slots=True)
class Page:
    """Part of a list."""

    items: list[Object]
    version: int
    """The resourceVersion at which the list was taken; the same on all pages."""


def guarded(guard: Guard) -> type[aiohttp.ClientRequest]:
    """aiohttp's request, with the guard called once the connection is there.

    Not before: waiting for a connection may take long, and a paused process may be woken in it.
    """

    class GuardedRequest(aiohttp.ClientRequest):
        async def send(self, conn: Any) -> aiohttp.ClientResponse:
            if self.method not in _SAFE_METHODS:
                guard()
            return await super().send(conn)

    return GuardedRequest


class Client:
    """Requests to the API server. Methods raise errors.ApiError, and NotLeading where they mutate."""

    def __init__(self, configuration: Configuration, agent: str, guard: Guard | None = None) -> None:
        """agent: names this process in the API server's audit log."""
        configuration = copy.copy(configuration)
        # trust_env makes aiohttp look for a proxy in a thread, at every request.
        options: dict[str, Any] = {"trust_env": False}
        if guard is not None:
            options["request_class"] = guarded(guard)
        configuration.client_session_kwargs = options
        self._configuration = configuration
        self._agent = agent
        self._api = ApiClient(configuration)

    def session(self, *traces: aiohttp.TraceConfig) -> aiohttp.ClientSession:
        """A session of its own for whoever speaks HTTP to the same API server, renewed tokens included."""

        async def authorize(
            request: aiohttp.ClientRequest, send: Callable[[aiohttp.ClientRequest], Awaitable[aiohttp.ClientResponse]]
        ) -> aiohttp.ClientResponse:
            if authorization := await self._authorization():
                request.headers["Authorization"] = authorization
            return await send(request)

        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=self._api.rest_client.ssl_context),
            headers={"User-Agent": self._agent},
            middlewares=(authorize,),
            trace_configs=list(traces),
        )

    @property
    def host(self) -> str:
        """The API server's URL."""
        return str(self._configuration.host)

    async def _authorization(self) -> str | None:
        return await self._configuration.get_api_key_with_prefix("BearerToken", alias="authorization")

    async def close(self) -> None:
        await self._api.close()  # type: ignore[no-untyped-call]

    # --- Reading ----------------------------------------------------------------------------------------------------

    async def get(self, kind: Kind, namespace: str, name: str) -> Object:
        """One object. Raises NotFound."""
        return await self._request("GET", kind.path(namespace, name))

    async def get_metadata(self, kind: Kind, namespace: str, name: str) -> Mapping[str, Any]:
        """Only an object's metadata, whatever its size. Raises NotFound."""
        answer = await self._request("GET", kind.path(namespace, name), accept=_METADATA_ONLY)
        metadata: Mapping[str, Any] = answer["metadata"]
        return metadata

    async def pages(
        self,
        kind: Kind,
        namespace: str | None,
        *,
        selector: str | None = None,
        fields: str | None = None,
        page: int = PAGE,
    ) -> AsyncGenerator[Page]:
        """A consistent list, `page` objects at a time. Raises Expired when reading it took minutes."""
        query = _present(limit=str(page), labelSelector=selector or kind.selector, fieldSelector=fields)
        while True:
            answer = await self._request("GET", kind.path(namespace), query=query, seconds=LIST_SECONDS)
            metadata = answer["metadata"]
            items: list[Object] = answer.get("items") or []
            for item in items:
                item.setdefault("kind", kind.name)
            yield Page(items, int(metadata["resourceVersion"]))
            token = metadata.get("continue")
            if not token:
                return
            query["continue"] = token

    async def list(
        self, kind: Kind, namespace: str, *, selector: str | None = None, fields: str | None = None
    ) -> list[Object]:
        """All objects of a small list."""
        return [
            item async for page in self.pages(kind, namespace, selector=selector, fields=fields) for item in page.items
        ]

    async def watch_one(
        self, kind: Kind, namespace: str, name: str, version: str, *, seconds: int
    ) -> AsyncGenerator[tuple[str, Object]]:
        """Changes of one object after `version` as (type, object), for at most `seconds`."""
        query = _present(
            watch="true",
            fieldSelector=f"metadata.name={name}",
            resourceVersion=version,
            timeoutSeconds=str(seconds),
        )
        response = await self._open(
            "GET", kind.path(namespace), query=query, timeout=aiohttp.ClientTimeout(total=seconds + 5, sock_connect=5)
        )
        try:
            if response.status >= 400:
                raise errors.from_answer(response.status, await response.read(), response.headers)
            async for line in response.content:
                if line.strip():
                    event = json.loads(line)
                    if event["type"] == "ERROR":
                        raise errors.from_answer(
                            int(event["object"].get("code", 500)), json.dumps(event["object"]).encode(), {}
                        )
                    yield event["type"], event["object"]
        except (aiohttp.ClientError, OSError) as error:  # TimeoutError is an OSError
            raise _no_answer("GET", kind.path(namespace), error) from error
        finally:
            response.close()

    async def resources(self, kind: Kind) -> set[str]:
        """Plural names of what the API server has in the group and version of `kind`; empty if it has none."""
        prefix, _, _ = kind.path(None).rpartition("/")
        try:
            answer = await self._request("GET", prefix)
        except errors.NotFound:
            return set()
        return {resource["name"] for resource in answer["resources"]}

    # --- Writing ----------------------------------------------------------------------------------------------------

    async def apply(self, kind: Kind, manifest: Mapping[str, Any]) -> Object:
        """Server-side apply by force: fields in the manifest become ours, whoever had them.

        A uid in its metadata means: only this object. A resourceVersion that no object has ("1") means: only if there
        is no such object. Raises Conflict (or Invalid with the field metadata.uid) when that does not hold.
        """
        metadata = manifest["metadata"]
        return await self._request(
            "PATCH",
            kind.path(metadata["namespace"], metadata["name"]),
            query={"fieldManager": FIELD_MANAGER, "force": "true"},
            body=manifest,
            content=_APPLY,
            counted=("apply", kind.name),
        )

    async def create(self, kind: Kind, manifest: Mapping[str, Any]) -> Object:
        """Raises AlreadyExists."""
        return await self._request(
            "POST",
            kind.path(manifest["metadata"]["namespace"]),
            query={"fieldManager": FIELD_MANAGER},
            body=manifest,
            counted=("create", kind.name),
        )

    async def replace(self, kind: Kind, manifest: Mapping[str, Any]) -> Object:
        """Raises Conflict when the resourceVersion in the manifest is not the present one."""
        metadata = manifest["metadata"]
        return await self._request(
            "PUT",
            kind.path(metadata["namespace"], metadata["name"]),
            query={"fieldManager": FIELD_MANAGER},
            body=manifest,
            counted=("update", kind.name),
        )

    async def merge(self, kind: Kind, key: Key, uid: str, patch: Mapping[str, Any], *, verb: str) -> Object:
        """Merge patch, of the object with this uid only. verb: what it is counted as."""
        metadata = {**patch.get("metadata", {}), "uid": uid}
        return await self._request(
            "PATCH",
            kind.path(key.namespace, key.name),
            query={"fieldManager": FIELD_MANAGER},
            body={**patch, "metadata": metadata},
            content=_MERGE_PATCH,
            counted=(verb, kind.name),
        )

    async def set_status(self, kind: Kind, key: Key, uid: str, status: Mapping[str, Any]) -> Object:
        """Make `status` the whole status of the object with this uid."""
        return await self._request(
            "PATCH",
            kind.path(key.namespace, key.name, "status"),
            query={"fieldManager": FIELD_MANAGER},
            body=[
                {"op": "test", "path": "/metadata/uid", "value": uid},
                {"op": "add", "path": "/status", "value": status},
            ],
            content=_JSON_PATCH,
            counted=("status", kind.name),
        )

    async def delete(self, kind: Kind, key: Key, uid: str) -> None:
        """Delete the object with this uid, then its dependents. Raises NotFound, or Conflict for another uid."""
        await self._request(
            "DELETE",
            kind.path(key.namespace, key.name),
            body={"preconditions": {"uid": uid}, "propagationPolicy": "Background"},
            counted=("delete", kind.name),
        )

    # --- Below ------------------------------------------------------------------------------------------------------

    async def _request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        content: str = _JSON,
        accept: str = _JSON,
        seconds: float | None = None,
        counted: tuple[str, str] | None = None,
    ) -> Object:
        if seconds is None:
            seconds = READ_SECONDS if method == "GET" else WRITE_SECONDS
        try:
            response = await self._open(
                method,
                path,
                query=query,
                body=body,
                content=content,
                accept=accept,
                timeout=aiohttp.ClientTimeout(total=seconds),
            )
        except errors.NotLeading:
            counted = None
            raise
        finally:
            if counted is not None:
                metrics.WRITES.labels(*counted).inc()
        try:
            data = await response.read()
        except (aiohttp.ClientError, OSError) as error:
            raise _no_answer(method, path, error) from error
        if response.status >= 400:
            metrics.REQUEST_ERRORS.labels(str(response.status)).inc()
            raise errors.from_answer(response.status, data, response.headers)
        answer: Object = json.loads(data)
        return answer

    async def _open(
        self,
        method: str,
        path: str,
        *,
        timeout: aiohttp.ClientTimeout,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        content: str = _JSON,
        accept: str = _JSON,
    ) -> aiohttp.ClientResponse:
        headers = {"Accept": accept, "Content-Type": content, "User-Agent": self._agent}
        if authorization := await self._authorization():
            headers["Authorization"] = authorization
        url = f"{self.host}{path}{'?' + urlencode(query) if query else ''}"
        try:
            answer = await self._api.call_api(method, url, headers, body, _request_timeout=timeout)
        except (aiohttp.ClientError, OSError) as error:
            raise _no_answer(method, path, error) from error
        response: aiohttp.ClientResponse = answer.response
        return response


def _no_answer(method: str, path: str, error: BaseException) -> errors.Unavailable:
    metrics.REQUEST_ERRORS.labels("0").inc()
    return errors.Unavailable(f"no answer to {method} {path}: {str(error) or type(error).__name__}")


def _present(**items: str | None) -> dict[str, str]:
    return {name: value for name, value in items.items() if value is not None}
