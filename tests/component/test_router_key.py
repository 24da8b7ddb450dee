"""The key that leases are signed with: made once, kept over operators, and known to every new pod."""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import AsyncIterator

import pytest
from kubernetes.aio.client import Configuration
from kubernetes.aio.config import load_kube_config
from tests.component.world import ACCOUNT, GROUPS, SYSTEM, Json, Place, mutations, operator, stop, until

from holdfast.kube import errors, keys
from holdfast.kube.client import Client
from holdfast.kube.kinds import SECRET
from holdfast.signals.leases import Signer
from holdfast_devcluster import ControlPlane


@pytest.fixture
def system(plane: ControlPlane) -> Place:
    return Place(plane, SYSTEM)


@pytest.fixture
async def client(plane: ControlPlane) -> AsyncIterator[Client]:
    """With the operator's rights."""
    configuration = Configuration()
    await load_kube_config(str(plane.kubeconfig_for(ACCOUNT, GROUPS)), client_configuration=configuration)
    made = Client(configuration, "holdfast/router-key")
    yield made
    await made.close()


def seed(system: Place, name: str = "current") -> bytes:
    secret = system.get("Secret", keys.NAME)
    assert secret is not None
    return base64.b64decode(secret["data"][name])


def known_keys(deployment: Json) -> str:
    """The public keys that a Deployment's pods are told."""
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    return next(e["value"] for e in container["env"] if e["name"] == "HOLDFAST_ROUTER_PUBLIC_KEYS")


async def test_of_operators_that_start_together_one_makes_the_key_and_all_have_it(
    plane: ControlPlane, system: Place, client: Client
) -> None:
    if system.get("Secret", keys.NAME):
        system.delete("Secret", keys.NAME)
    found = await asyncio.gather(*(keys.router_seeds(client, SYSTEM) for _ in range(8)))
    assert found == [(seed(system),)] * 8
    assert len(seed(system)) == 32
    made = [event for event in mutations(plane, "router-key") if event["objectRef"]["resource"] == "secrets"]
    assert [event["responseStatus"]["code"] for event in made].count(201) == 1


async def test_the_operator_may_read_no_other_secret(system: Place, client: Client) -> None:
    system.create({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "another"}})
    with pytest.raises(errors.NotPermitted):
        await client.get(SECRET, SYSTEM, "another")
    with pytest.raises(errors.NotPermitted):
        await client.list(SECRET, SYSTEM)


def test_new_pods_know_the_key_and_a_new_key_restarts_none(plane: ControlPlane, system: Place, place: Place) -> None:
    with operator(plane, "key-1") as first:
        first.until_idle()
        old = seed(system)
        place.model("wine")
        place.until_ready("wine")
        stop(first)
    before = place.deployment("wine")
    assert known_keys(before) == Signer([old]).public_key
    new = os.urandom(32)
    data = {"current": base64.b64encode(new).decode(), "previous": base64.b64encode(old).decode()}
    system.patch("Secret", keys.NAME, {"data": data})
    with operator(plane, "key-2") as second:
        second.until_idle()
        place.model("beer")
        place.until_ready("beer")
        second.until_idle()
        assert (seed(system), seed(system, "previous")) == (new, old)
        assert known_keys(place.deployment("beer")) == Signer([new]).public_key
        assert place.deployment("wine")["metadata"]["generation"] == before["metadata"]["generation"]
        assert known_keys(place.deployment("wine")) == known_keys(before)
        log = second.log.read_text()
        for secret in (old, new):
            assert base64.b64encode(secret).decode() not in log
        stop(second)


def test_with_a_key_that_is_none_the_operator_waits_and_says_so(
    plane: ControlPlane, system: Place, place: Place
) -> None:
    right = seed(system)
    system.patch("Secret", keys.NAME, {"data": {"current": base64.b64encode(b"short").decode()}})
    place.model("wine")
    with operator(plane, "key-3") as waiting:
        words = "'current' in Secret holdfast-router-key is not 32 bytes"
        waiting.until("it says so", lambda: words in waiting.log.read_text())
        assert place.deployments("wine") == []
        system.patch("Secret", keys.NAME, {"data": {"current": base64.b64encode(right).decode()}})
        place.until_ready("wine")
        assert known_keys(place.deployment("wine")) == Signer([right]).public_key
        stop(waiting)


def test_a_key_that_was_deleted_is_made_anew(plane: ControlPlane, system: Place, place: Place) -> None:
    old = seed(system)
    system.delete("Secret", keys.NAME)
    with operator(plane, "key-4") as running:
        running.until_idle()
        until("there is a key", lambda: system.get("Secret", keys.NAME))
        assert seed(system) != old
        stop(running)
