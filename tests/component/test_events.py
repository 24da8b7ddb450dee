"""A pipeline says that there are new data, and a look is taken at once."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from cloudevents.core.bindings.http import to_binary, to_structured
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from tests.component.test_retraining import helper, serving
from tests.component.test_training import end, pod_of
from tests.component.world import Json, Operator, Place, operator, stop, until

from holdfast_devcluster import ControlPlane, ports

KEY = b"a-key-for-one-namespace-alone"
OLD, NEW = ({"result": "Completed", "version": "sha256:" + digit * 64, "files": 1} for digit in "12")
"""What a look at the data reports. The first model has learned from the old ones."""


class Sender:
    """A pipeline with a key of its namespace."""

    def __init__(self, port: int, keys: Path) -> None:
        self.address, self.keys = f"http://127.0.0.1:{port}/", keys

    def send(self, subject: str, event_id: str, mode: Any = to_structured, key: bytes = KEY) -> httpx.Response:
        said = {"id": event_id, "source": "/etl", "type": "dev.holdfast.data.changed", "subject": subject}
        message = mode(CloudEvent({**said, "time": datetime.now(UTC)}, {"rows": 3}), JSONFormat())
        lines = sorted(f"{name}:{value}\n" for name, value in message.headers.items() if name.startswith("ce-"))
        signature = hmac.new(key, "".join(lines).encode() + message.body, hashlib.sha256).hexdigest()
        headers = {**message.headers, "Holdfast-Signature": f"sha256={signature}"}
        return httpx.post(self.address, content=message.body, headers=headers, timeout=60)


@pytest.fixture(scope="module")
def sender(tmp_path_factory: pytest.TempPathFactory) -> Sender:
    return Sender(ports.free()[0], tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def module_leader(plane: ControlPlane, sender: Sender) -> Iterator[Operator]:
    port = sender.address.rstrip("/").rpartition(":")[2]
    settings = {"HOLDFAST_EVENTS_PORT": port, "HOLDFAST_EVENT_KEYS": str(sender.keys)}
    with operator(plane, "events", **settings) as running:
        yield running
        if not running.ended:
            assert stop(running) == 0


def retraining(place: Place) -> Json:
    found: Json = (place.get("ModelDeployment", "wine") or {})["status"].get("retraining", {})
    return found


def looks(place: Place) -> set[str]:
    return {job["metadata"]["name"] for job in place.all("Job", "holdfast.dev/purpose=poll")}


def test_an_event_has_the_data_looked_at_long_before_the_next_poll(
    leader: Operator, place: Place, sender: Sender
) -> None:
    (sender.keys / place.namespace).write_bytes(KEY)
    serving(place)
    subject = f"{place.namespace}/wine"
    assert sender.send(subject, "0").status_code == 422
    triggers = {"newData": {"pollSeconds": 86400}}
    place.patch("ModelDeployment", "wine", {"spec": {"retraining": {"triggers": triggers}}})
    job = helper(place, "poll")
    end(place, pod_of(place, job["metadata"]["name"]), 0, OLD)
    until("the look is taken in", lambda: "lastPollTime" in retraining(place))
    leader.until_idle()
    first = looks(place)

    assert sender.send(subject, "1", key=b"the-key-of-somebody-else").status_code == 401
    assert sender.send(f"{place.namespace}/white", "1").status_code == 404
    assert sender.send(f"{place.namespace}-other/wine", "1").status_code == 401
    leader.until_idle()
    assert looks(place) <= first
    answer = sender.send(subject, "1", mode=to_binary)
    assert (answer.status_code, answer.json()) == (202, {"message": "somebody will look at the data"})
    (look,) = until("another look is taken", lambda: looks(place) - first)
    assert sender.send(subject, "1").status_code == 200
    assert leader.metric("holdfast_data_events_total", status="202") == 1
    end(place, pod_of(place, look), 0, NEW)
    until("new data start a run", lambda: place.all("TrainingJob", "holdfast.dev/trigger=NewData"))
