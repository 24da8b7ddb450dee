"""What the requests of a session tell about its watches."""

from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web

from holdfast.kube.kinds import DEPLOYMENT, SERVICE
from holdfast.kube.watches import STALE_SECONDS, Scope, Watches

SERVICES = Scope("Service", None)
DEPLOYMENTS = Scope("Deployment", None)


class World:
    """A server, a session to it, and the watches that are seen by it."""

    def __init__(self, namespaces: tuple[str, ...] = ()) -> None:
        self.now = 1000.0
        self.status = 200
        self.listed: list[Scope] = []
        self.watches = Watches(namespaces, self.listed.append, lambda: self.now)
        self.watches.begin((SERVICE, DEPLOYMENT))
        self.base = ""
        self.session: aiohttp.ClientSession

    async def answer(self, request: web.Request) -> web.Response:
        return web.json_response({}, status=self.status)

    async def get(self, path: str) -> None:
        async with self.session.get(self.base + path) as response:
            await response.read()


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    app = web.Application()
    app.router.add_get("/{path:.*}", made.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.base = f"http://127.0.0.1:{runner.addresses[0][1]}"
    async with aiohttp.ClientSession(trace_configs=[made.watches.trace()]) as made.session:
        yield made
    await runner.cleanup()


async def test_a_list_is_reported_once_whatever_its_pages(world: World) -> None:
    await world.get("/api/v1/services?limit=500")
    await world.get("/api/v1/services?limit=500&continue=abc")
    await world.get("/api/v1/services?watch=true")
    assert world.listed == [SERVICES]


async def test_a_list_that_failed_is_not_reported(world: World) -> None:
    world.status = 503
    await world.get("/api/v1/services")
    assert world.listed == []


async def test_requests_for_anything_else_are_not_looked_at(world: World) -> None:
    await world.get("/api/v1/pods")
    await world.get("/api/v1/namespaces/default/services")
    assert world.listed == []


async def test_a_watch_that_is_granted_again_and_again_is_well(world: World) -> None:
    for _ in range(10):
        world.now += STALE_SECONDS - 1
        await world.get("/api/v1/services?watch=true")
        await world.get("/apis/apps/v1/deployments?watch=true")
        assert not world.watches.stale()
        assert not world.watches.dead()


async def test_an_event_keeps_a_watch_well(world: World) -> None:
    world.now += STALE_SECONDS + 1
    world.watches.fed(SERVICES)
    assert set(world.watches.stale()) == {DEPLOYMENTS}


async def test_a_watch_that_is_refused_is_stale_but_not_dead(world: World) -> None:
    world.status = 403
    for _ in range(20):
        world.now += 15
        await world.get("/api/v1/services?watch=true")
        await world.get("/apis/apps/v1/deployments?watch=true")
    assert world.watches.stale()[SERVICES] == "refused with HTTP status 403"
    assert not world.watches.dead()


async def test_a_watch_that_nobody_asks_for_any_more_is_dead(world: World) -> None:
    for _ in range(20):
        world.now += 15
        await world.get("/api/v1/services?watch=true")
    assert world.watches.stale() == {DEPLOYMENTS: "no answer"}
    assert world.watches.dead() == [DEPLOYMENTS]


def test_namespaces_are_watched_each_by_itself() -> None:
    world = World(("one", "two"))
    assert set(world.watches.scopes) == {
        Scope(kind, namespace) for kind in ("Service", "Deployment") for namespace in ("one", "two")
    }
