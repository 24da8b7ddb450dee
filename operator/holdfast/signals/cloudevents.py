"""CloudEvents 1.0 over HTTP, in structured and in binary mode, and the bytes of one that its sender signs.

Only the attributes are of interest; an event's data is passed over. Nothing is filled in for a sender: an event without
a time could be sent again at any time.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import unquote

STRUCTURED = "application/cloudevents+json"
PREFIX = "ce-"
MAX_TEXT = 512
"""Characters of an attribute."""


class Refused(Exception):
    """The request is no event that can be taken: an HTTP status, and words for its sender."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


@dataclass(frozen=True, slots=True)
class Event:
    """What an event says of itself."""

    id: str
    source: str
    subject: str
    time: datetime


def read(headers: Mapping[str, str], body: bytes) -> Event:
    """The event of a request. Names of headers are in lower case, each of them there once.

    Raises:
        Refused: it is none.
    """
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    own = {name.removeprefix(PREFIX): value for name, value in headers.items() if name.startswith(PREFIX)}
    if kind == STRUCTURED:
        if own:
            raise Refused(400, f"an event in structured mode has no headers {PREFIX}…")
        return _event(_document(body))
    if kind.startswith("application/cloudevents"):
        raise Refused(415, f"send one event at a time, as {STRUCTURED}")
    if "specversion" not in own:
        raise Refused(415, f"send a CloudEvent: as {STRUCTURED}, or with headers {PREFIX}…")
    return _event({name: unquote(value) for name, value in own.items()})


def signed(headers: Mapping[str, str], body: bytes) -> bytes:
    """What a sender signs: a line `NAME:VALUE` for each header `ce-…`, by name in lower case and sorted, and the body.

    So in structured mode the body alone.
    """
    lines = sorted(f"{name}:{value}\n" for name, value in headers.items() if name.startswith(PREFIX))
    return "".join(lines).encode("utf-8", "surrogateescape") + body


def _document(body: bytes) -> dict[str, Any]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise Refused(400, "the body is not an event as JSON")
    return document


def _event(attributes: Mapping[str, Any]) -> Event:
    if attributes.get("specversion") != "1.0":
        raise Refused(400, "specversion must be 1.0")
    for name in ("id", "source", "type", "subject", "time"):
        value = attributes.get(name)
        if not isinstance(value, str) or not 0 < len(value) <= MAX_TEXT or not value.isprintable():
            raise Refused(400, f"the event needs {name}, a text of at most {MAX_TEXT} characters")
    try:
        time = datetime.fromisoformat(attributes["time"])
    except ValueError:
        time = None
    if time is None or time.tzinfo is None:
        raise Refused(400, "time must be a time as RFC 3339 has it, with its zone")
    return Event(attributes["id"], attributes["source"], attributes["subject"], time)
