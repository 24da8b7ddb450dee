"""The webhook with real clients: events of the public SDK by HTTP, also by way of a replica that does not lead."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from cloudevents.core.bindings.http import HTTPMessage, to_binary, to_structured
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent

from holdfast.kube import webhook
from holdfast.kube.kinds import MODEL_DEPLOYMENT, Key
from holdfast.kube.webhook import MAX_BYTES, QUIET, DataEvents, Webhook
from holdfast.signals import cloudevents
from holdfast.signals.cloudevents import Refused
from holdfast.signals.senders import Senders

KEY = b"0123456789abcdef-of-team-a"
WINE = Key(MODEL_DEPLOYMENT.name, "team-a", "wine")


class Replica:
    """An operator's webhook on a port of its own."""

    def __init__(self, keys: Path, *, leads: bool, peers: Sequence[Replica] = ()) -> None:
        self.leads = leads
        self.taken: list[Key] = []
        self.peers = list(peers)
        self.server = Webhook(0, Senders(keys), self.take, lambda: self.leads, self.addresses)

    def take(self, key: Key) -> None:
        if key.name == "none":
            raise Refused(404, "there is no such ModelDeployment")
        self.taken.append(key)

    async def addresses(self) -> list[str]:
        return [peer.address for peer in self.peers]

    @property
    def address(self) -> str:
        assert self.server._runner
        port = next(address[1] for address in self.server._runner.addresses if address[0] == "0.0.0.0")
        return f"http://127.0.0.1:{port}/"

    async def send(self, message: HTTPMessage, **headers: str) -> tuple[int, str]:
        async with (
            aiohttp.ClientSession() as session,
            session.post(self.address, data=message.body, headers={**message.headers, **headers}) as answer,
        ):
            return answer.status, json.loads(await answer.text())["message"]


def event(**changes: Any) -> CloudEvent:
    said = {"id": "1", "source": "/etl", "type": "dev.holdfast.data.changed", "subject": "team-a/wine"}
    return CloudEvent({**said, "time": datetime.now(UTC), **changes}, {"rows": 3})


def signed(message: HTTPMessage, key: bytes = KEY) -> HTTPMessage:
    headers = {name.lower(): value for name, value in message.headers.items()}
    content = cloudevents.signed(headers, message.body)
    digest = hmac.new(key, content, hashlib.sha256).hexdigest()
    return HTTPMessage({**message.headers, "Holdfast-Signature": f"sha256={digest}"}, message.body)


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    (tmp_path / "team-a").write_bytes(KEY)
    return tmp_path


@pytest.fixture
async def leader(keys: Path) -> AsyncIterator[Replica]:
    made = Replica(keys, leads=True)
    await made.server.start()
    yield made
    await made.server.stop()


@pytest.fixture
async def standby(keys: Path, leader: Replica) -> AsyncIterator[Replica]:
    made = Replica(keys, leads=False)
    await made.server.start()
    made.peers = [made, leader]
    yield made
    await made.server.stop()


@pytest.mark.parametrize("mode", [to_structured, to_binary])
async def test_a_genuine_event_is_taken_once(leader: Replica, mode: Any) -> None:
    message = signed(mode(event(), JSONFormat()))
    assert await leader.send(message) == (202, "somebody will look at the data")
    assert await leader.send(message) == (200, "this event has come before")
    assert leader.taken == [WINE]


async def test_an_event_that_was_changed_on_its_way_is_refused(leader: Replica) -> None:
    message = signed(to_binary(event(), JSONFormat()))
    for name, value in (("ce-subject", "team-a/other"), ("ce-id", "2"), ("ce-more", "x")):
        assert (await leader.send(message, **{name: value}))[0] == 401
    assert (await leader.send(HTTPMessage(message.headers, message.body + b" ")))[0] == 401
    assert (await leader.send(signed(to_binary(event(), JSONFormat()), b"x" * 20)))[0] == 401
    assert leader.taken == []


async def test_an_event_about_no_model_is_said_to_be_so(leader: Replica) -> None:
    message = signed(to_structured(event(subject="team-a/none"), JSONFormat()))
    for _ in range(2):  # one that was not taken may come again
        assert await leader.send(message) == (404, "there is no such ModelDeployment")


async def test_an_old_event_is_refused(leader: Replica) -> None:
    old = event(time=datetime.now(UTC) - timedelta(minutes=6))
    status, words = await leader.send(signed(to_structured(old, JSONFormat())))
    assert status == 400
    assert words.startswith("time is more than 5 minutes from now")


async def test_a_long_body_is_not_read(leader: Replica) -> None:
    message = signed(to_structured(event(), JSONFormat()))
    status, words = await leader.send(HTTPMessage(message.headers, b" " * (MAX_BYTES + 1)))
    assert (status, words) == (413, "an event has at most 64 KiB")


async def test_a_header_that_is_there_twice_is_refused(leader: Replica) -> None:
    message = signed(to_binary(event(), JSONFormat()))
    fields = [*message.headers.items(), ("ce-subject", "team-a/other")]
    async with (
        aiohttp.ClientSession() as session,
        session.post(leader.address, data=message.body, headers=fields) as answer,
    ):
        assert (answer.status, (await answer.json())["message"]) == (400, "a header of the event is there twice")


@pytest.mark.parametrize("mode", [to_structured, to_binary])
async def test_a_replica_that_does_not_lead_passes_events_on(standby: Replica, leader: Replica, mode: Any) -> None:
    message = signed(mode(event(), JSONFormat()))
    assert await standby.send(message) == (202, "somebody will look at the data")
    assert await standby.send(message) == (200, "this event has come before")
    assert (leader.taken, standby.taken) == ([WINE], [])
    # What nobody has signed goes no further.
    assert (await standby.send(signed(to_structured(event(id="2"), JSONFormat()), b"x" * 20)))[0] == 401


async def test_without_a_leader_an_event_is_to_be_sent_again(standby: Replica, leader: Replica) -> None:
    leader.leads = False
    message = signed(to_structured(event(), JSONFormat()))
    status, words = await standby.send(message)
    assert status == 503
    assert words.startswith("no replica leads just now")
    leader.leads = True
    assert (await standby.send(message))[0] == 202


async def test_a_sender_that_stops_in_the_middle_is_given_up(leader: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook, "SECONDS", 0.2)
    port = int(leader.address.rstrip("/").rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
    answer = await asyncio.wait_for(reader.readline(), 30)
    assert answer == b"HTTP/1.1 408 Request Timeout\r\n"
    writer.close()


async def test_the_replicas_are_the_addresses_behind_a_name() -> None:
    assert "http://127.0.0.1:8082/" in await webhook.peers("localhost", 8082)()
    assert await webhook.peers("no-such-name.invalid", 8082)() == ()


def test_events_that_follow_each_other_count_together() -> None:
    events, now = DataEvents(), datetime(2026, 11, 26, 2, 0, tzinfo=UTC)
    assert events.last(WINE, now) is None
    assert events.note(WINE, now) == 0
    assert events.last(WINE, now) == now
    later = now + QUIET / 4
    for moment in (later, later + QUIET / 4):
        assert events.note(WINE, moment) == (now + QUIET - moment).total_seconds()
        assert events.last(WINE, moment) == now
    assert events.last(WINE, now + QUIET) == now + QUIET
    assert events.note(WINE, now + 1.5 * QUIET) == QUIET.total_seconds() / 2
    assert events.note(WINE, now + 5 * QUIET) == QUIET.total_seconds() * 0
    assert events.last(WINE, now + 5 * QUIET) == now + 5 * QUIET
