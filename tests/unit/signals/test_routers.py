"""The operator's leases at real servers; and what comes of pods that answer with anything else, or not at all."""

from __future__ import annotations

import asyncio
import gzip
import os
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tests.unit.serving import models
from tests.unit.serving.server import REVISION, Server, serving
from tests.unit.serving.test_load import ROWS
from tests.unit.serving.test_smoke import holding

from holdfast.build import labels
from holdfast.plan.observed import Pod, Route
from holdfast.plan.traffic import Report
from holdfast.signals import metrics
from holdfast.signals.leases import Signer
from holdfast.signals.routers import MAX_BYTES, Routers, management_url

TARGET = "c0ffee0001"
SEED, OLD_SEED = bytes(range(32)), bytes(range(1, 33))
LABELS = {labels.MODEL_DEPLOYMENT: "wine", labels.REVISION: REVISION}


def pod(uid: str = "p1", address: str = "127.0.0.1", phase: str = "Running") -> Pod:
    return Pod("wine-1", "rs1", LABELS, phase, datetime.now(UTC), uid=uid, address=address)


def route(mode: Any = "share", **changes: Any) -> Route:
    given: dict[str, Any] = {
        "revision": REVISION, "pods": ("p1",), "target": TARGET, "address": "10.96.0.17:80", "tls_name": None,
        "ready_seconds": 41.5, "mode": mode, "hedge_milliseconds": 250,
    }  # fmt: skip
    return Route(**(given | changes))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    keys = {"HOLDFAST_ROUTER_PUBLIC_KEYS": Signer([SEED]).public_key}
    folder = tmp_path_factory.mktemp("pod")
    with serving(folder, models.iris(), **keys) as server:
        yield server


@asynccontextmanager
async def routers(server: Server) -> AsyncIterator[Routers]:
    made = Routers(port=int(server.management_url.rpartition(":")[2]))
    try:
        yield made
    finally:
        await made.close()


async def read(asked: Routers) -> Report:
    (report,) = (await asked.read([pod()])).values()
    assert report is not None
    return report


def counted(counter: Any, outcome: str) -> float:
    return float(counter.labels(outcome)._value.get())


async def test_a_pod_does_as_the_lease_says_in_every_mode(server: Server) -> None:
    signer = Signer([SEED])
    async with routers(server) as asked:
        before = await read(asked)
        assert (before.takes_leases, before.ready, before.revision) == (True, True, REVISION)
        for given, weight in [
            (route("share", weight=0.25), 0.25),
            (route("shadow", weight=0.5, relative=1e-4, absolute=1e-6), 0.5),
            (route("all", close=True), 1),
            (route("golden", relative=1e-4), 0),
            (route("share", weight=0.1, synthetic_per_second=2.5, ready_seconds=-3), 0.1),
        ]:
            now = await read(asked)
            assert await asked.put(pod(), signer.envelope(given, "wine", now))
            found = (await read(asked)).lease
            assert found is not None
            assert (found.mode, found.target, found.weight) == (given.mode, TARGET, weight)
            assert 10 < found.seconds_left <= 15


async def test_what_was_counted_is_read(tmp_path: Path) -> None:
    with holding(tmp_path, ROWS) as server:
        body = {"inputs": [{"name": "X", "datatype": "FP32", "shape": [1, 4], "data": [5.1, 3.5, 1.4, 0.2]}]}
        async with routers(server) as asked:
            before = await read(asked)
            assert (before.golden_kept, before.golden, before.target) == (3, None, None)
            given = route("all", address="127.0.0.1:1", ready_seconds=100)
            assert await asked.put(pod(), Signer([SEED]).envelope(given, "wine", before))
            for _ in range(5):
                assert server.infer(body).status_code == 200
            report = await read(asked)
    assert report.target == TARGET
    assert report.steady_target.outcomes["connect"] == report.steady_target.failed == report.steady_target.drawn == 5
    assert report.steady_local.drawn == report.warming_target.drawn == 0
    assert len(report.steady_local.durations) == len(report.edges) + 1


async def test_while_keys_are_changed_old_pods_and_new_ones_take_leases(tmp_path: Path, server: Server) -> None:
    both = Signer([OLD_SEED, SEED])  # `server` knows only the one before
    (tmp_path / "new").mkdir()
    with serving(tmp_path / "new", models.iris(), HOLDFAST_ROUTER_PUBLIC_KEYS=both.public_key) as new:
        for one in (server, new):
            async with routers(one) as asked:
                assert await asked.put(pod(), both.envelope(route(), "wine", await read(asked)))


async def test_numbers_grow_though_the_operator_is_new_and_its_clock_was_set_back(server: Server) -> None:
    async with routers(server) as asked:
        first = Signer([SEED], lambda: time.time() + 10)
        assert await asked.put(pod(), first.envelope(route(), "wine", await read(asked)))
        taken = (await read(asked)).sequence
        again = Signer([SEED], lambda: time.time() - 10)
        assert await asked.put(pod(), again.envelope(route(), "wine", await read(asked)))
        assert (await read(asked)).sequence == taken + 1


async def test_leases_of_one_moment_have_different_numbers(server: Server) -> None:
    moment = time.time() + 20
    signer = Signer([SEED], lambda: moment)
    async with routers(server) as asked:
        report = await read(asked)
        for _ in range(3):
            assert await asked.put(pod(), signer.envelope(route(), "wine", report))


async def test_a_lease_that_is_refused_is_counted_and_no_error(server: Server) -> None:
    async with routers(server) as asked:
        before = counted(metrics.LEASES, "refused"), counted(metrics.LEASES, "taken")
        assert not await asked.put(pod(), Signer([OLD_SEED]).envelope(route(), "wine", await read(asked)))
        assert await asked.put(pod(), Signer([SEED]).envelope(route(), "wine", await read(asked)))
        assert (counted(metrics.LEASES, "refused"), counted(metrics.LEASES, "taken")) == (before[0] + 1, before[1] + 1)


async def test_who_does_not_lead_writes_no_lease(server: Server) -> None:
    class NotLeading(Exception):
        pass

    def guard() -> None:
        raise NotLeading

    port = int(server.management_url.rpartition(":")[2])
    asked = Routers(guard, port)
    try:
        report = await read(asked)
        with pytest.raises(NotLeading):
            await asked.put(pod(), Signer([SEED]).envelope(route(), "wine", report))
        assert (await read(asked)).sequence == report.sequence
    finally:
        await asked.close()


# --- Pods that are none ---


class Answers:
    """A port on several loopback addresses that answers every request with the same bytes.

    Attributes:
        requests: heads that came.
    """

    def __init__(self, *answers: bytes | float) -> None:
        """Per address, from 127.0.0.2 on: an answer; or seconds for which there is none."""
        self.requests: list[bytes] = []
        self._answers = answers
        self.pods = [pod(f"p{n}", f"127.0.0.{n}") for n in range(2, 2 + len(answers))]

    @asynccontextmanager
    async def asked(self) -> AsyncIterator[Routers]:
        async with AsyncExitStack() as stack:
            port = 0
            for one, answer in zip(self.pods, self._answers, strict=True):

                async def handle(
                    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: bytes | float = answer
                ) -> None:
                    self.requests.append(await reader.readuntil(b"\r\n\r\n"))
                    if isinstance(answer, bytes):
                        writer.write(answer)
                    else:
                        await asyncio.sleep(answer)
                    writer.close()

                listening = await asyncio.start_server(handle, one.address, port)
                stack.callback(listening.close)
                port = listening.sockets[0].getsockname()[1]
            made = Routers(port=port)
            stack.push_async_callback(made.close)
            yield made


def http(status: str, body: bytes, *fields: str) -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *fields, "", ""]).encode() + body


HOSTILE: dict[str, tuple[bytes | float, str]] = {
    "nothing": (b"", "no_answer"),
    "no HTTP": (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "no_answer"),
    "half an answer": (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", "no_answer"),
    "a page": (http("200 OK", b"<html></html>"), "garbled"),
    "an error": (http("500 Oh", b"{}"), "status"),
    "another place": (http("302 Found", b"", "Location: http://127.0.0.1:1/"), "status"),
    "too much": (http("200 OK", b" " * (MAX_BYTES + 1)), "too_large"),
    "much in a small parcel": (http("200 OK", gzip.compress(b" " * (64 << 20)), "Content-Encoding: gzip"), "garbled"),
    "another model": (http("200 OK", b'{"model": "beer", "revision": "1"}'), "foreign"),
    "silence": (30.0, "no_answer"),
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_a_pod_that_does_not_answer_as_a_router_does_has_said_nothing(name: str) -> None:
    answer, outcome = HOSTILE[name]
    served = Answers(answer)
    before = counted(metrics.READS, outcome)
    async with served.asked() as asked:
        began = time.monotonic()
        assert await asked.read(served.pods) == {"p2": None}
        assert time.monotonic() - began < 20
    assert counted(metrics.READS, outcome) == before + 1


async def test_pods_that_hang_hold_up_nobody_beyond_a_second(server: Server) -> None:
    served = Answers(*[30.0] * 20, http("500 Oh", b""))
    async with served.asked() as asked:
        began = time.monotonic()
        assert await asked.read(served.pods) == dict.fromkeys(one.uid for one in served.pods)
        assert time.monotonic() - began < 15  # and not 20 times a second
        assert len(served.requests) == 21


async def test_an_answer_without_end_is_given_up() -> None:
    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        for _ in range(300):
            writer.write(b" ")
            await asyncio.sleep(0.1)

    listening = await asyncio.start_server(drip, "127.0.0.1", 0)
    asked = Routers(port=listening.sockets[0].getsockname()[1])
    try:
        began = time.monotonic()
        assert await asked.read([pod()]) == {"p1": None}
        assert time.monotonic() - began < 20
    finally:
        await asked.close()
        listening.close()


async def test_only_pods_that_run_and_have_an_address_are_asked(server: Server) -> None:
    async with routers(server) as asked:
        found = await asked.read([pod("a"), pod("b", address=""), pod("c", phase="Pending"), pod("d", phase="Failed")])
    assert list(found) == ["a"]


async def test_connections_are_used_again_and_one_that_was_closed_meanwhile_is_no_miss() -> None:
    served = Answers(http("200 OK", b'{"model": "beer"}'))  # closes after each answer without saying so
    before = counted(metrics.READS, "foreign")
    async with served.asked() as asked:
        for _ in range(5):
            await asked.read(served.pods)
    assert counted(metrics.READS, "foreign") == before + 5


async def test_reads_leave_no_connections_behind(server: Server) -> None:
    before = len(os.listdir("/proc/self/fd"))
    async with routers(server) as asked:
        for _ in range(50):
            await read(asked)
        assert len(os.listdir("/proc/self/fd")) <= before + 2
    async with asyncio.timeout(60):
        while len(os.listdir("/proc/self/fd")) > before:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def test_an_address_of_either_kind_makes_a_url() -> None:
    assert management_url("10.0.0.7") == "http://10.0.0.7:8081"
    assert management_url("fd00::7", 1) == "http://[fd00::7]:1"
