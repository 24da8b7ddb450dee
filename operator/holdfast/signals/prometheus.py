"""Questions to Prometheus, and which of its answers can be believed.

An answer is numbers that somebody acts on, or it is a `Fault`; there is nothing in between.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

import aiohttp

SECONDS = 10.0
"""For one answer, from the connection to the last byte."""
MAX_ANSWER = 16 << 20
"""Bytes. A thousand models are two megabytes."""

FaultKind = Literal[
    "unreachable", "timeout", "status", "oversized", "malformed", "error", "partial", "type", "duplicate", "stale"
]
_LATEST = 1e12
"""No answer is from a later second."""
_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")


class Fault(Exception):
    """No answer that can be believed.

    Attributes:
        kind: in one word. unreachable: no connection; timeout; status: another HTTP status than 200; oversized: more
            than MAX_ANSWER; malformed: no JSON of the documented form; error: Prometheus says that it failed; partial:
            it warns that something is missing; type: no instant vector; duplicate: one series twice; stale: the same
            answer as before.
    """

    def __init__(self, kind: FaultKind, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True, slots=True)
class Sample:
    """One series of an answer."""

    labels: Mapping[str, str]
    value: float | None
    """None: not a number, or infinite."""


@dataclass(frozen=True, slots=True)
class Vector:
    """An answer: an instant vector."""

    time: float
    """Prometheus' clock when it was evaluated; 0 when it is empty."""
    samples: tuple[Sample, ...]


@dataclass(frozen=True, slots=True)
class Address:
    """Where Prometheus is, and what it is shown."""

    url: str
    """Without the API's path and without a slash at the end."""
    token_file: Path | None = None
    """Holds a bearer token. Read again for every round of questions: tokens are renewed."""
    ca_file: Path | None = None
    """Authorities that may have signed its certificate, in PEM; None: those of the system."""


class Session:
    """Connections for one round of questions."""

    def __init__(self, url: str, http: aiohttp.ClientSession) -> None:
        self._url = f"{url}/api/v1/query"
        self._http = http

    async def ask(self, query: str) -> Vector:
        """The value of a PromQL expression now. Raises Fault."""
        try:
            async with asyncio.timeout(SECONDS):
                return parse(await self._get(query))
        except TimeoutError:
            raise Fault("timeout", f"Prometheus did not answer within {SECONDS:.0f} s") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise Fault("unreachable", f"Prometheus cannot be reached ({type(error).__name__})") from error

    async def _get(self, query: str) -> bytes:
        parameters = {"query": query, "timeout": f"{SECONDS:.0f}s"}
        async with self._http.get(self._url, params=parameters, allow_redirects=False) as answer:
            if answer.status != 200:
                raise Fault("status", f"Prometheus answers with status {answer.status}")
            body = bytearray()
            async for chunk in answer.content.iter_any():
                body += chunk
                if len(body) > MAX_ANSWER:
                    raise Fault("oversized", f"an answer of Prometheus has more than {MAX_ANSWER >> 20} MiB")
            return bytes(body)


@asynccontextmanager
async def session(address: Address) -> AsyncIterator[Session]:
    """Connections for one round. Raises Fault when a file that the address names cannot be used."""
    headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
    tls = True
    try:
        if address.token_file:
            headers["Authorization"] = f"Bearer {address.token_file.read_text().strip()}"
        trust = ssl.create_default_context(cafile=address.ca_file) if address.ca_file else tls
    except (OSError, ValueError) as error:
        raise Fault("unreachable", "the token file or the CA file for Prometheus cannot be read") from error
    connector = aiohttp.TCPConnector(limit=1, ssl=trust)
    async with aiohttp.ClientSession(connector=connector, headers=headers, auto_decompress=False) as http:
        yield Session(address.url, http)


# --- Answers ----------------------------------------------------------------------------------------------------------


def parse(body: bytes) -> Vector:
    """An answer of `/api/v1/query`. Raises Fault."""
    try:
        document = json.loads(body, parse_constant=_refuse)
    except (ValueError, RecursionError):
        raise Fault("malformed", "Prometheus answers with something that is no JSON") from None
    if not isinstance(document, dict) or document.get("status") not in ("success", "error"):
        raise Fault("malformed", "the answer is JSON, but none of Prometheus")
    if document["status"] == "error":
        raise Fault("error", "Prometheus could not evaluate the query")
    if document.get("warnings"):
        raise Fault("partial", "Prometheus warns that its answer is not whole")
    data = document.get("data")
    if not isinstance(data, dict) or not isinstance(data.get("result"), list):
        raise Fault("malformed", "the answer of Prometheus has no result")
    if data.get("resultType") != "vector":
        raise Fault("type", "Prometheus answers with something else than an instant vector")
    return _vector(data["result"])


def _vector(series: list[Any]) -> Vector:
    samples: list[Sample] = []
    seen: set[frozenset[tuple[str, str]]] = set()
    times: set[float] = set()
    for item in series:
        labels, time, value = _item(item)
        if (identity := frozenset(labels.items())) in seen:
            raise Fault("duplicate", "Prometheus answers with one series twice")
        seen.add(identity)
        times.add(time)
        samples.append(Sample(labels, value))
    if len(times) > 1:
        raise Fault("malformed", "the samples of one answer have several times")
    return Vector(times.pop() if times else 0.0, tuple(samples))


def _item(item: Any) -> tuple[dict[str, str], float, float | None]:
    match item:
        case {"metric": dict(labels), "value": [int() | float() as time, str(text)]}:
            named = all(isinstance(value, str) for value in labels.values())
            if named and not isinstance(time, bool) and 0 < time < _LATEST:
                return labels, float(time), _number(text)
    raise Fault("malformed", "a series in the answer of Prometheus is none")


def _number(text: str) -> float | None:
    if text in ("NaN", "+Inf", "-Inf", "Inf"):
        return None
    if len(text) > 64 or not _NUMBER.fullmatch(text):
        raise Fault("malformed", "a value in the answer of Prometheus is no number")
    value = float(text)
    return value if math.isfinite(value) else None


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)
