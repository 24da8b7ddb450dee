"""What pods that are not ready say they are doing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import aiohttp
import pytest

from holdfast.kube import doing
from holdfast.plan.observed import Pod


@asynccontextmanager
async def pod(answer: bytes, *, hold: bool = False) -> AsyncIterator[int]:
    """A port that answers every request with these bytes, and may then keep the connection."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        if hold:
            await asyncio.sleep(30)
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def asked(answer: bytes, *, seconds: float = 60, **options: Any) -> str | None:
    timeout = aiohttp.ClientTimeout(total=seconds)
    async with pod(answer, **options) as port, aiohttp.ClientSession(timeout=timeout) as session:
        return await doing.ask(session, "127.0.0.1", port)


def http(status: str, body: bytes, *fields: str) -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *fields, "", ""]).encode() + body


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (http("503 x", b"fetched 1.0 of 4.0 MiB (25 %)"), "fetched 1.0 of 4.0 MiB (25 %)"),
        (http("503 x", b"two\nlines\x00\xff\x1b[31m"), "two lines \N{REPLACEMENT CHARACTER} [31m"),
        (http("503 x", b"x" * 1000), "x" * 120),
        (http("503 x", b""), None),
        (http("200 OK", b"ok"), None),
        (http("302 Found", b"", "Location: http://127.0.0.1:1/"), None),
        (b"SSH-2.0\r\n", None),
        (b"", None),
    ],
)
async def test_only_words_are_taken(answer: bytes, words: str | None) -> None:
    assert await asked(answer) == words


async def test_who_does_not_answer_at_once_is_not_waited_for() -> None:
    started = time.monotonic()
    assert await asked(b"HTTP/1.1 503 x\r\n", hold=True, seconds=doing.SECONDS) is None
    assert time.monotonic() - started < 20


async def test_only_pods_that_work_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    async def ask(_: aiohttp.ClientSession, address: str) -> str:
        seen.append(address)
        return "works"

    monkeypatch.setattr(doing, "ask", ask)

    def raw(address: str, phase: str = "Running", ready: str = "False", component: str = "serving") -> dict[str, Any]:
        labels = {"app.kubernetes.io/component": component}
        conditions = [{"type": "Ready", "status": ready}]
        return {
            "metadata": {"uid": f"uid-{address}", "labels": labels},
            "status": {"phase": phase, "podIP": address, "conditions": conditions},
        }

    pods = [raw("1"), raw("2", phase="Pending"), raw("3", ready="True"), raw("4", component="training")]
    pods += [raw(""), raw("5", ready="True", component="helper"), raw("6"), raw("7")]
    assert await doing.words(pods) == {"uid-1": "works", "uid-5": "works", "uid-6": "works"}
    assert seen == ["1", "5", "6"]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (http("200 OK", b'{"message": "a\\u0000 b\\nc", "trialsTotal": 20}'), {"message": "a b c", "trialsTotal": 20}),
        (http("200 OK", b"{}"), {}),
        (http("200 OK", b"[1]"), None),
        (http("200 OK", b"ok"), None),
        (http("200 OK", b'{"message": "' + b"x" * 5000 + b'"}'), None),
        (http("404 x", b"{}"), None),
        (http("302 Found", b"{}", "Location: http://127.0.0.1:1/"), None),
        (b"SSH-2.0\r\n", None),
        (b"", None),
    ],
)  # fmt: skip
async def test_the_progress_of_a_run_is_a_json_object(answer: bytes, said: dict[str, Any] | None) -> None:
    timeout = aiohttp.ClientTimeout(total=doing.SECONDS)
    async with pod(answer) as port, aiohttp.ClientSession(timeout=timeout) as session:
        assert await doing.ask_progress(session, "127.0.0.1", port) == said


async def test_the_oldest_running_pod_that_answers_tells_the_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    async def ask(_: aiohttp.ClientSession, address: str) -> dict[str, Any] | None:
        return None if address == "silent" else {"message": address}

    monkeypatch.setattr(doing, "ask_progress", ask)

    def at(minute: int, address: str, phase: str = "Running") -> Pod:
        return Pod("p", "job", {}, phase, datetime(2026, 11, 26, 1, minute, tzinfo=UTC), address=address)

    pods = [at(9, "young"), at(1, "failed", "Failed"), at(2, "silent"), at(3, "old"), at(0, "")]
    assert await doing.progress(pods) == {"message": "old"}
    assert await doing.progress([at(1, "failed", "Failed")]) is None
