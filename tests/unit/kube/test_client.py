"""The client against a real HTTP server on loopback."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web
from kubernetes.aio.client import Configuration

from holdfast.kube import errors, metrics
from holdfast.kube.client import PAGE, Client
from holdfast.kube.kinds import DEPLOYMENT, MODEL_DEPLOYMENT, SERVICE, Key

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
KEY = Key("Service", "default", "wine")
MANIFEST: dict[str, Any] = {"kind": "Service", "metadata": {"name": "wine", "namespace": "default"}, "spec": {}}


class Server:
    """Answers with what a test says, and remembers what it was asked."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, Any]] = []
        self.answer: Handler = self.ok
        self.port = 0

    async def ok(self, request: web.Request) -> web.StreamResponse:
        return web.json_response({"metadata": {"name": "wine", "resourceVersion": "7"}})

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.text()
        self.requests.append((request.method, request.path_qs, body))
        return await self.answer(request)

    def configuration(self) -> Configuration:
        return Configuration(host=f"http://127.0.0.1:{self.port}")


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    made = Server()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", made.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    made.port = runner.addresses[0][1]
    yield made
    await runner.cleanup()


@pytest.fixture
async def client(server: Server) -> AsyncIterator[Client]:
    made = Client(server.configuration(), "test")
    yield made
    await made.close()


def writes(verb: str, kind: str) -> float:
    return metrics.REGISTRY.get_sample_value("holdfast_writes_total", {"verb": verb, "kind": kind}) or 0.0


async def test_a_list_is_read_page_by_page_with_the_kinds_selector(server: Server, client: Client) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        more = "continue" not in request.query
        token = {"continue": "next"} if more else {}
        item = {"metadata": {"name": "a" if more else "b"}}
        return web.json_response({"metadata": {"resourceVersion": "7", **token}, "items": [item]})

    server.answer = answer
    pages = [page async for page in client.pages(DEPLOYMENT, None)]
    assert [(item["kind"], item["metadata"]["name"]) for page in pages for item in page.items] == [
        ("Deployment", "a"),
        ("Deployment", "b"),
    ]
    assert {page.version for page in pages} == {7}
    first, second = (path for _, path, _ in server.requests)
    assert first.startswith(
        f"/apis/apps/v1/deployments?limit={PAGE}&labelSelector=app.kubernetes.io/managed-by%3Dholdfast"
    )
    assert "continue=next" in second


async def test_a_status_is_set_whole_and_only_on_the_object_with_that_uid(server: Server, client: Client) -> None:
    await client.set_status(MODEL_DEPLOYMENT, Key("ModelDeployment", "default", "wine"), "u1", {"replicas": 1})
    ((method, path, body),) = server.requests
    assert (method, path.split("?")[0]) == (
        "PATCH",
        "/apis/holdfast.dev/v1alpha1/namespaces/default/modeldeployments/wine/status",
    )
    assert '"path": "/metadata/uid", "value": "u1"' in body
    assert '"op": "add", "path": "/status"' in body


async def test_a_server_that_does_not_answer_is_unavailable(server: Server, client: Client) -> None:
    async def hang(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(60)
        raise AssertionError

    server.answer = hang
    with pytest.raises(errors.Unavailable, match="no answer to GET"):
        await client._request("GET", "/x", seconds=0.1)


async def test_a_server_that_is_not_there_is_unavailable(server: Server) -> None:
    configuration = Configuration(host="http://127.0.0.1:1")
    client = Client(configuration, "test")
    with pytest.raises(errors.Unavailable, match="no answer to PATCH"):
        await client.apply(SERVICE, MANIFEST)
    await client.close()


async def test_an_error_in_the_answer_is_raised_by_its_kind(server: Server, client: Client) -> None:
    async def refuse(request: web.Request) -> web.StreamResponse:
        return web.json_response({"kind": "Status", "reason": "Forbidden", "message": "exceeded quota"}, status=403)

    server.answer = refuse
    with pytest.raises(errors.Forbidden, match="exceeded quota"):
        await client.create(SERVICE, MANIFEST)


class Leadership:
    def __init__(self) -> None:
        self.held = True

    def guard(self) -> None:
        if not self.held:
            raise errors.NotLeading


async def test_without_leadership_reads_go_through_and_no_mutation_is_sent(server: Server) -> None:
    leadership = Leadership()
    client = Client(server.configuration(), "test", leadership.guard)
    before = writes("apply", "Service"), writes("delete", "Service")
    await client.apply(SERVICE, MANIFEST)
    leadership.held = False
    await client.get(SERVICE, "default", "wine")
    mutations: list[Callable[[], Awaitable[Any]]] = [
        lambda: client.apply(SERVICE, MANIFEST),
        lambda: client.create(SERVICE, MANIFEST),
        lambda: client.replace(SERVICE, MANIFEST),
        lambda: client.merge(SERVICE, KEY, "u1", {}, verb="scale"),
        lambda: client.set_status(SERVICE, KEY, "u1", {}),
        lambda: client.delete(SERVICE, KEY, "u1"),
    ]
    for mutate in mutations:
        with pytest.raises(errors.NotLeading):
            await mutate()
    assert [method for method, _, _ in server.requests] == ["PATCH", "GET"]
    assert (writes("apply", "Service"), writes("delete", "Service")) == (before[0] + 1, before[1])
    await client.close()


async def test_leadership_lost_while_a_mutation_waits_for_a_connection_holds_it_back(server: Server) -> None:
    leadership = Leadership()
    configuration = server.configuration()
    configuration.connection_pool_maxsize = 1
    client = Client(configuration, "test", leadership.guard)
    arrived, go_on = asyncio.Event(), asyncio.Event()

    async def hold(request: web.Request) -> web.StreamResponse:
        arrived.set()
        await go_on.wait()
        return await server.ok(request)

    server.answer = hold
    reading = asyncio.create_task(client.get(SERVICE, "default", "wine"))
    await arrived.wait()
    writing = asyncio.create_task(client.apply(SERVICE, MANIFEST))
    await asyncio.sleep(0)
    leadership.held = False
    go_on.set()
    await reading
    with pytest.raises(errors.NotLeading):
        await writing
    assert [method for method, _, _ in server.requests] == ["GET"]
    await client.close()


async def test_a_renewed_token_is_sent_by_the_client_and_by_its_sessions(server: Server) -> None:
    tokens = iter(["one", "two"])
    seen: list[str | None] = []

    async def note(request: web.Request) -> web.StreamResponse:
        seen.append(request.headers.get("Authorization"))
        return await server.ok(request)

    def renew(configuration: Configuration) -> None:
        configuration.api_key["BearerToken"] = f"bearer {next(tokens)}"

    server.answer = note
    configuration = server.configuration()
    configuration.refresh_api_key_hook = renew  # type: ignore[assignment]
    client = Client(configuration, "test")
    await client.get(SERVICE, "default", "wine")
    async with client.session() as session, session.get(f"{client.host}/x") as response:
        await response.read()
    assert seen == ["bearer one", "bearer two"]
    await client.close()
