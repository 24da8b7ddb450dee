"""Full lists, in fake time, of a server that says what a test tells it to."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import pytest

from holdfast.kube.client import Page
from holdfast.kube.errors import Expired, Unavailable
from holdfast.kube.kinds import Key, Kind
from holdfast.kube.queue import WorkQueue
from holdfast.kube.resync import INTERVAL, SPREAD, Resync
from holdfast.kube.store import Store
from holdfast.kube.watches import Scope

pytestmark = pytest.mark.looptime

MODELS = Scope("ModelDeployment", None)
SERVICES = Scope("Service", None)


def model(name: str, version: int) -> dict[str, Any]:
    metadata = {"namespace": "default", "name": name, "uid": name, "resourceVersion": str(version), "generation": 1}
    return {"kind": "ModelDeployment", "metadata": metadata, "spec": {"model": {}}}


def key(name: str) -> Key:
    return Key("ModelDeployment", "default", name)


class Lists:
    """In place of a client: pages by kind, or errors to raise first."""

    def __init__(self) -> None:
        self.pages_of: dict[str, list[Page | Exception]] = {}
        self.asked: list[str] = []

    async def pages(self, kind: Kind, namespace: str | None) -> AsyncGenerator[Page]:
        self.asked.append(kind.name)
        for page in self.pages_of.get(kind.name, [Page([], 1)]):
            if isinstance(page, Exception):
                self.pages_of[kind.name].remove(page)
                raise page
            yield page


class World:
    def __init__(self) -> None:
        self.lists = Lists()
        self.store = Store()
        self.queue: WorkQueue[Key] = WorkQueue()
        self.resync = Resync(self.lists, self.store, self.queue)  # type: ignore[arg-type]
        self.running: asyncio.Task[None] | None = None

    def ask(self, *scopes: Scope) -> None:
        """Have scopes listed. The first time also starts it: in a fixture, time would not be fake yet."""
        if self.running is None:
            self.running = asyncio.create_task(self.resync.run((MODELS, SERVICES)))
        for scope in scopes:
            self.resync.request(scope, "gap")


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    yield made
    made.queue.shut_down()
    assert made.running is not None
    assert not made.running.done()
    made.running.cancel()
    await asyncio.gather(made.running, return_exceptions=True)


async def test_it_is_synced_once_every_scope_was_listed(world: World) -> None:
    world.ask(MODELS)
    await asyncio.sleep(10)
    assert not world.resync.synced.is_set()
    world.ask(SERVICES)
    await asyncio.sleep(10)
    assert world.resync.synced.is_set()


async def test_requests_of_one_moment_are_one_list(world: World) -> None:
    for _ in range(5):
        world.ask(MODELS, SERVICES)
    await asyncio.sleep(10)
    assert sorted(world.lists.asked) == ["ModelDeployment", "Service"]


async def test_what_a_list_holds_on_any_page_is_kept_and_what_it_does_not_is_dropped(world: World) -> None:
    world.store.put(model("ghost", 1))
    world.lists.pages_of = {"ModelDeployment": [Page([model("a", 2)], 9), Page([model("b", 3)], 9)]}
    world.ask(MODELS)
    await asyncio.sleep(10)
    assert set(world.store.owners()) == {key("a"), key("b")}
    assert len(world.queue) == 3  # the two, and the one that is gone


@pytest.mark.parametrize("error", [Expired("410"), Unavailable("503")])
async def test_a_list_that_fails_halfway_drops_nothing_and_is_begun_again(world: World, error: Exception) -> None:
    world.store.put(model("b", 3))
    world.lists.pages_of = {"ModelDeployment": [Page([model("a", 2)], 9), error, Page([model("b", 3)], 9)]}
    world.ask(MODELS)
    await asyncio.sleep(0.6)
    assert key("b") in set(world.store.owners())
    await asyncio.sleep(60)
    assert set(world.store.owners()) == {key("a"), key("b")}
    assert world.lists.asked == ["ModelDeployment"] * 2


async def test_every_ten_minutes_all_is_listed_and_every_resource_looked_at(world: World) -> None:
    world.lists.pages_of = {"ModelDeployment": [Page([model("a", 2)], 9)]}
    world.ask(MODELS)
    await asyncio.sleep(10)
    world.queue.done(await world.queue.get())
    world.lists.asked.clear()
    await asyncio.sleep(INTERVAL)
    assert sorted(world.lists.asked) == ["ModelDeployment", "Service"]
    assert await asyncio.wait_for(world.queue.get(), SPREAD) == key("a")
