"""Events and their signatures: what is taken, and what is refused in words."""

from __future__ import annotations

import hashlib
import hmac
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cloudevents.core.bindings.http import HTTPMessage, to_binary, to_structured
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from hypothesis import given
from hypothesis import strategies as st

from holdfast.signals import cloudevents, senders
from holdfast.signals.cloudevents import Refused
from holdfast.signals.senders import BURST, RATE, WINDOW, Senders

NOW = datetime(2026, 11, 26, 2, 0, tzinfo=UTC)
KEY = b"0123456789abcdef-of-team-a"


def event(**changes: Any) -> CloudEvent:
    said = {"id": "1", "source": "/etl", "type": "dev.holdfast.data.changed", "subject": "team-a/wine", "time": NOW}
    return CloudEvent({**said, **changes}, {"rows": 3})


def lower(message: HTTPMessage) -> dict[str, str]:
    return {name.lower(): value for name, value in message.headers.items()}


def signature(content: bytes, key: bytes = KEY) -> str:
    return "sha256=" + hmac.new(key, content, hashlib.sha256).hexdigest()


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    (tmp_path / "team-a").write_bytes(KEY + b"\n")
    (tmp_path / "team-b").write_bytes(b"another-key-of-16-bytes-at-least")
    return tmp_path


@pytest.mark.parametrize("mode", [to_structured, to_binary])
def test_an_event_of_the_public_client_is_read_in_both_modes(mode: Any) -> None:
    message = mode(event(source="/büro, 2 %", subject="team-a/wine"), JSONFormat())
    read = cloudevents.read(lower(message), message.body)
    assert read == cloudevents.Event("1", "/büro, 2 %", "team-a/wine", NOW)


def test_what_is_signed_is_the_body_and_in_binary_mode_the_attributes_too() -> None:
    structured = to_structured(event(), JSONFormat())
    assert cloudevents.signed(lower(structured), structured.body) == structured.body
    binary = to_binary(event(), JSONFormat())
    assert cloudevents.signed(lower(binary), binary.body) == (
        b"ce-id:1\nce-source:/etl\nce-specversion:1.0\nce-subject:team-a/wine\nce-time:2026-11-26T02:00:00Z\n"
        b"ce-type:dev.holdfast.data.changed\n" + binary.body
    )


@pytest.mark.parametrize(
    ("headers", "body", "status", "words"),
    [
        ({"content-type": "application/json"}, b"{}", 415, "send a CloudEvent"),
        ({"content-type": "application/cloudevents-batch+json"}, b"[]", 415, "one event at a time"),
        ({"content-type": "application/cloudevents+json"}, b"[]", 400, "not an event as JSON"),
        ({"content-type": "application/cloudevents+json"}, b"[" * 100_000, 400, "not an event as JSON"),
        ({"content-type": "application/cloudevents+json"}, b"\xff", 400, "not an event as JSON"),
        ({"content-type": "application/cloudevents+json", "ce-id": "1"}, b"{}", 400, "structured mode"),
        ({"ce-specversion": "0.3"}, b"", 400, "specversion"),
    ],
)
def test_what_is_no_event_is_refused(headers: dict[str, str], body: bytes, status: int, words: str) -> None:
    with pytest.raises(Refused, match=words) as refused:
        cloudevents.read(headers, body)
    assert refused.value.status == status


@pytest.mark.parametrize(
    ("name", "value"),
    [("id", ""), ("id", 7), ("source", "x" * 513), ("subject", None), ("time", "yesterday"), ("time", None),
     ("time", "2026-11-26T02:00:00"), ("id", "a\nb")],
)  # fmt: skip
def test_every_attribute_is_needed_and_no_time_is_filled_in(name: str, value: Any) -> None:
    document = {**json.loads(to_structured(event(), JSONFormat()).body), name: value}
    if value is None:
        del document[name]
    with pytest.raises(Refused, match=name) as refused:
        cloudevents.read({"content-type": "application/cloudevents+json"}, json.dumps(document).encode())
    assert refused.value.status == 400


def read(**changes: str) -> cloudevents.Event:
    return cloudevents.Event(**{"id": "1", "source": "/etl", "subject": "team-a/wine", "time": NOW, **changes})  # type: ignore[arg-type]


def test_a_key_of_the_namespace_makes_an_event_genuine(keys: Path) -> None:
    judge = Senders(keys)
    assert judge.genuine(read(), b"body", signature(b"body"), NOW) == ("team-a", "wine")
    for wrong in (
        signature(b"body", b"another-key-of-16-bytes-at-least"),
        signature(b"other"),
        signature(b"body").removeprefix("sha256="),
        signature(b"body").replace("sha256", "sha512"),
        "sha256=ü",
        "",
    ):
        with pytest.raises(Refused) as refused:
            judge.genuine(read(), b"body", wrong, NOW)
        assert refused.value.status == 401


def test_a_namespace_without_a_key_takes_nothing_and_says_the_same(keys: Path) -> None:
    (keys / "team-c").write_bytes(b"short\n")
    said = set()
    for namespace in ("team-a", "team-c", "team-d"):
        for key in (b"", b"short"):
            with pytest.raises(Refused) as refused:
                Senders(keys).genuine(read(subject=f"{namespace}/wine"), b"", signature(b"", key), NOW)
            said.add((refused.value.status, refused.value.message))
    assert said == {(401, "the signature is not one by a key of this namespace")}


@pytest.mark.parametrize(
    "subject", ["wine", "team-a/", "/wine", "../keys/wine", "team-a/wine/x", "Team-A/wine", "./wine", "team-a/9"]
)
def test_a_subject_names_a_model_and_no_file(keys: Path, subject: str) -> None:
    with pytest.raises(Refused, match="NAMESPACE/NAME") as refused:
        Senders(keys).genuine(read(subject=subject), b"", signature(b""), NOW)
    assert refused.value.status == 400


def test_a_changed_key_counts_at_once_and_two_may_overlap(keys: Path) -> None:
    judge, new = Senders(keys), b"the-key-that-comes-next"
    (keys / "team-a").write_bytes(KEY + b"\n\n" + new + b"\n")
    for key in (KEY, new):
        assert judge.genuine(read(), b"x", signature(b"x", key), NOW)
    (keys / "team-a").write_bytes(new)
    with pytest.raises(Refused):
        judge.genuine(read(), b"x", signature(b"x"), NOW)
    (keys / "team-a").unlink()
    with pytest.raises(Refused):
        judge.genuine(read(), b"x", signature(b"x", new), NOW)


@given(st.datetimes(timezones=st.timezones() | st.just(UTC)))
def test_an_event_of_another_time_is_refused_whatever_that_is(moment: datetime) -> None:
    folder = Path(__file__).parent  # no keys: the signature is refused first
    with pytest.raises(Refused):
        Senders(folder).genuine(read(time=moment), b"", "", NOW)  # type: ignore[arg-type]


def test_the_window_is_open_for_minutes_on_both_sides(keys: Path) -> None:
    judge = Senders(keys)
    for moment in (NOW - WINDOW, NOW + WINDOW):
        assert judge.genuine(read(time=moment), b"", signature(b""), NOW)  # type: ignore[arg-type]
    for moment in (
        NOW - 1.01 * WINDOW,
        NOW + 1.01 * WINDOW,
        datetime.min.replace(tzinfo=UTC),
        datetime.max.replace(tzinfo=UTC),
    ):
        with pytest.raises(Refused, match="5 minutes") as refused:
            judge.genuine(read(time=moment), b"", signature(b""), NOW)  # type: ignore[arg-type]
        assert refused.value.status == 400


def taken(judge: Senders, namespace: str, event: cloudevents.Event, now: datetime) -> bool:
    """Whether it is new, and remembered from now on."""
    new = judge.is_new(namespace, event, now)
    if new:
        judge.remember(namespace, event, now)
    return new


def test_an_event_counts_once_for_as_long_as_it_could_come_again(keys: Path) -> None:
    judge = Senders(keys)
    assert taken(judge, "team-a", read(), NOW)
    assert not taken(judge, "team-a", read(), NOW + 2 * WINDOW - timedelta(seconds=1))
    assert taken(judge, "team-a", read(id="2"), NOW)
    assert taken(judge, "team-a", read(source="/other"), NOW)
    assert taken(judge, "team-b", read(), NOW)
    assert taken(judge, "team-a", read(), NOW + 2 * WINDOW)


def test_an_event_that_was_not_taken_may_come_again(keys: Path) -> None:
    judge = Senders(keys)
    assert judge.is_new("team-a", read(), NOW)
    assert judge.is_new("team-a", read(), NOW)


def test_a_namespace_has_an_allowance_of_its_own(keys: Path) -> None:
    judge = Senders(keys)
    for number in range(BURST):
        assert judge.is_new("team-a", read(id=str(number)), NOW)
    with pytest.raises(Refused) as refused:
        judge.is_new("team-a", read(id="more"), NOW)
    assert refused.value.status == 429
    assert judge.is_new("team-b", read(), NOW)
    assert judge.is_new("team-a", read(id="more"), NOW + timedelta(seconds=1 / RATE))
    with pytest.raises(Refused):
        judge.is_new("team-a", read(id="again"), NOW + timedelta(seconds=1 / RATE))


def test_memory_is_bounded_by_the_allowance(keys: Path) -> None:
    judge, count = Senders(keys), 0
    for number in range(4000):
        try:
            count += taken(judge, "team-a", read(id=str(number)), NOW + timedelta(seconds=number / 4))
        except Refused:
            continue
    assert count == pytest.approx(BURST + 1000 * RATE, abs=2)
    assert len(judge._seen["team-a"]) <= BURST + 2 * WINDOW.total_seconds() * senders.RATE
