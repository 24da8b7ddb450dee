"""A pass reads routers and leases them out as its plan says. The pod is a real server; the API server lists pods."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web
from kubernetes.aio.client import Configuration
from tests.unit.serving import models
from tests.unit.serving.server import REVISION, Server, serving

from holdfast.build import labels
from holdfast.kube import errors, reconcile
from holdfast.kube.client import Client
from holdfast.kube.events import Recorder
from holdfast.kube.kinds import Key
from holdfast.kube.reconcile import Reconciler
from holdfast.kube.store import Store
from holdfast.plan.observed import Json, Needs, Observed, Plan, Route, Settings
from holdfast.signals.leases import Signer
from holdfast.signals.routers import Routers

KEY = Key("ModelDeployment", "team", "wine")
SIGNER = Signer([bytes(range(32))])
STATUS: Json = {"observedGeneration": 1}


def pod(uid: str, revision: str = REVISION, **status: Any) -> dict[str, Any]:
    own = {labels.MODEL_DEPLOYMENT: "wine", labels.REVISION: revision}
    metadata = {
        "name": uid,
        "namespace": "team",
        "uid": uid,
        "labels": own,
        "creationTimestamp": "2026-11-25T12:00:00Z",
    }
    return {"kind": "Pod", "metadata": metadata, "status": {"phase": "Running", "podIP": "127.0.0.1"} | status}


@dataclass
class Planner:
    """Asks for the routers of one revision, leases its pods out, and counts its passes in the memory."""

    seen: list[Observed] = field(default_factory=list)

    def needs(self, observed: Observed) -> Needs:
        return Needs(routers=frozenset({REVISION}))

    def plan(self, observed: Observed) -> Plan:
        self.seen.append(observed)
        route = Route(
            revision=REVISION, pods=tuple(observed.routers), target="c0ffee0001", address="10.96.0.17:80",
            tls_name=None,
            ready_seconds=40, mode="share", hedge_milliseconds=250, weight=0.05,
        )  # fmt: skip
        return Plan(STATUS, (route,), memory={"passes": observed.memory.get("passes", 0) + 1})


@dataclass
class World:
    """One ModelDeployment.

    Attributes:
        pods: that the API server lists.
        refuse: raises where this process does not lead.
    """

    server: Server
    planner: Planner
    store: Store
    pods: list[dict[str, Any]]
    reconciler: Reconciler
    refuse: Callable[[], None] = lambda: None

    async def step(self) -> Observed:
        await self.reconciler.reconcile(KEY)
        return self.planner.seen[-1]

    def exists(self, uid: str, version: int) -> None:
        metadata = {"namespace": "team", "name": "wine", "uid": uid, "generation": 1, "resourceVersion": str(version)}
        self.store.put({"kind": "ModelDeployment", "metadata": metadata, "spec": {}, "status": STATUS})


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    keys = {"HOLDFAST_ROUTER_PUBLIC_KEYS": SIGNER.public_key}
    with serving(tmp_path_factory.mktemp("pod"), models.iris(), **keys) as server:
        yield server


@pytest.fixture
async def world(server: Server, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    async def list_pods(request: web.Request) -> web.Response:
        return web.json_response({"metadata": {"resourceVersion": "1"}, "items": world.pods})

    app = web.Application()
    app.router.add_get("/api/v1/namespaces/team/pods", list_pods)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    client = Client(Configuration(host=f"http://127.0.0.1:{runner.addresses[0][1]}"), "test")
    routers = Routers(lambda: world.refuse(), int(server.management_url.rpartition(":")[2]))
    planner, store = Planner(), Store()
    recorder = Recorder(client, "test")
    nothing = (lambda _: None, lambda _: None, lambda *_: None)
    made = Reconciler(client, store, recorder, Settings("s", "t"), *nothing, routers)
    made.open(SIGNER)
    monkeypatch.setitem(reconcile.PLANNERS, "ModelDeployment", planner)  # type: ignore[arg-type]
    world = World(server, planner, store, [pod("p1")], made)
    world.exists("u1", 1)
    yield world
    await routers.close()
    await client.close()
    await runner.cleanup()


async def test_the_pods_of_a_wanted_revision_are_read_and_leased_out(world: World) -> None:
    world.pods += [pod("other", "r2"), pod("new", podIP=""), pod("gone", phase="Succeeded")]
    before = (await world.step()).routers
    assert list(before) == ["p1"]
    lease = world.server.manage("/router").json()["lease"]
    assert (lease["mode"], lease["target"], lease["weight"]) == ("share", "c0ffee0001", 0.05)
    report = (await world.step()).routers["p1"]
    assert report is not None
    assert report.lease is not None
    assert report.lease.sequence == lease["sequence"]
    assert {pod.uid for pod in world.planner.seen[-1].pods} == {"p1", "other", "new", "gone"}


async def test_new_pods_are_told_the_key(world: World) -> None:
    assert (await world.step()).settings.router_public_key == SIGNER.public_key


async def test_a_pod_that_cannot_be_read_gets_no_lease_and_fails_no_pass(world: World) -> None:
    before = world.server.manage("/router").json()["sequence"]
    world.pods[0]["metadata"]["labels"][labels.MODEL_DEPLOYMENT] = "beer"  # another one has its address by now
    assert (await world.step()).routers == {"p1": None}
    assert world.server.manage("/router").json()["sequence"] == before


async def test_a_pod_that_refuses_its_lease_fails_no_pass(world: World) -> None:
    world.reconciler.open(Signer([bytes(32)]))
    before = world.server.manage("/router").json()["sequence"]
    await world.step()
    assert world.server.manage("/router").json()["sequence"] == before


async def test_who_does_not_lead_any_more_leases_nothing_out(world: World) -> None:
    def refuse() -> None:
        raise errors.NotLeading

    world.refuse = refuse
    before = world.server.manage("/router").json()["sequence"]
    with pytest.raises(errors.NotLeading):
        await world.step()
    assert world.server.manage("/router").json()["sequence"] == before


async def test_what_a_plan_remembers_is_given_back_as_long_as_the_resource_lives(world: World) -> None:
    assert [(await world.step()).memory.get("passes", 0) for _ in range(3)] == [0, 1, 2]
    world.exists("u2", 2)  # deleted and made anew between two passes
    assert (await world.step()).memory == {}
    assert (await world.step()).memory == {"passes": 1}
    world.store.remove(KEY, 3)
    await world.reconciler.reconcile(KEY)
    world.exists("u2", 4)
    assert (await world.step()).memory == {}
