"""Writing children on a real API server: only what differs, only what is ours, and never for ever."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
from kubernetes.aio.client import Configuration
from kubernetes.aio.config import load_kube_config
from tests.component.world import Json, Place

from holdfast.build import labels
from holdfast.build.hashing import with_desired_hash
from holdfast.build.service import service
from holdfast.kube import errors
from holdfast.kube.apply import Applier, NameTaken
from holdfast.kube.client import Client
from holdfast.kube.kinds import Key
from holdfast.kube.store import Resource, Store
from holdfast_devcluster import ControlPlane


@dataclass
class World:
    place: Place
    store: Store
    applier: Applier
    owner: Resource

    def manifest(self, revision: str = "0000000000") -> dict[str, Any]:
        return service("wine", self.place.namespace, self.owner.uid, revision)

    def service(self) -> Json:
        found = self.place.get("Service", "wine")
        assert found is not None
        return found

    def version(self) -> str:
        version: str = self.service()["metadata"]["resourceVersion"]
        return version


@pytest.fixture
async def world(plane: ControlPlane, place: Place) -> AsyncIterator[World]:
    """An applier with an administrator's rights, for an owner that no operator looks after."""
    place.patch("Namespace", place.namespace, {"metadata": {"labels": {"holdfast.dev/operator": "namespaced"}}})
    uid = place.model("wine")["metadata"]["uid"]
    configuration = Configuration()
    await load_kube_config(str(plane.kubeconfig), client_configuration=configuration)  # type: ignore[no-untyped-call]
    client = Client(configuration, "test")
    store = Store()
    owner = Resource(Key("ModelDeployment", place.namespace, "wine"), uid, 1, False, {}, {})
    yield World(place, store, Applier(client, store), owner)
    await client.close()


async def test_what_is_as_it_should_be_is_not_written_again(world: World) -> None:
    assert await world.applier.apply(world.owner, world.manifest())
    before = world.version()
    assert not await world.applier.apply(world.owner, world.manifest())
    assert await world.applier.apply(world.owner, world.manifest("1111111111"))
    assert world.version() != before


async def test_a_field_that_is_wanted_no_more_goes(world: World) -> None:
    manifest = world.manifest()
    more = {**manifest, "metadata": {**manifest["metadata"], "labels": {**manifest["metadata"]["labels"], "x": "y"}}}
    await world.applier.apply(world.owner, with_desired_hash(more))
    assert world.service()["metadata"]["labels"]["x"] == "y"
    await world.applier.apply(world.owner, manifest)
    assert "x" not in world.service()["metadata"]["labels"]


async def test_a_form_that_the_api_server_keeps_differently_is_not_applied_for_ever(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    selector = {"app": "wine"}
    container = {"name": "x", "image": "x", "resources": {"requests": {"cpu": "1000m"}}}
    template = {"metadata": {"labels": selector}, "spec": {"containers": [container]}}
    manifest = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {k: v for k, v in world.manifest()["metadata"].items() if k != "annotations"},
        "spec": {"replicas": 0, "selector": {"matchLabels": selector}, "template": template},
    }
    wrote = [await world.applier.apply(world.owner, manifest) for _ in range(4)]
    assert wrote == [True, True, False, False]
    (warning,) = (record for record in caplog.records if record.levelno == logging.WARNING)
    assert "spec.template.spec.containers[x].resources.requests.cpu" in warning.getMessage()
    world.place.patch("Deployment", "wine", {"spec": {"replicas": 1}})
    found = world.place.get("Deployment", "wine")
    assert found is not None
    world.store.put({**found, "kind": "Deployment"})
    assert await world.applier.apply(world.owner, manifest)  # somebody's change is still put back


async def test_an_object_that_took_the_place_of_ours_unseen_is_not_touched(world: World) -> None:
    await world.applier.apply(world.owner, world.manifest())
    world.place.delete("Service", "wine")
    spec = {"selector": {"app": "other"}, "ports": [{"port": 1234}]}
    foreign = world.place.create({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "wine"}, "spec": spec})
    with pytest.raises(NameTaken, match="Service wine belongs to nobody"):
        await world.applier.apply(world.owner, world.manifest("1111111111"))
    assert world.service() == foreign


async def test_an_object_of_ours_that_vanished_unseen_is_made_again(world: World) -> None:
    await world.applier.apply(world.owner, world.manifest())
    world.place.delete("Service", "wine")
    assert await world.applier.apply(world.owner, world.manifest("1111111111"))
    assert world.service()["spec"]["selector"][labels.REVISION] == "1111111111"


async def test_a_child_of_a_former_owner_of_that_name_is_waited_for(world: World) -> None:
    former = labels.owner("ModelDeployment", "wine", "another-uid")
    manifest = world.manifest()
    metadata = {**manifest["metadata"], "ownerReferences": [former]}
    world.place.create({**manifest, "metadata": metadata})
    with pytest.raises(errors.Conflict, match="former ModelDeployment is still being deleted"):
        await world.applier.apply(world.owner, manifest)


async def test_deleting_what_is_gone_or_by_now_another_one_is_no_error(world: World) -> None:
    await world.applier.apply(world.owner, world.manifest())
    key = Key("Service", world.place.namespace, "wine")
    assert not await world.applier.delete(world.owner, key, "another-uid")
    assert world.service()
    assert await world.applier.delete(world.owner, key, world.service()["metadata"]["uid"])
    assert not await world.applier.delete(world.owner, key, "another-uid")
