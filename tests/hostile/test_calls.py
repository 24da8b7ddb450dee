"""Hostile gRPC against the real server: each is ended as HTTP/2 and gRPC say, and nobody beside it notices."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from tests.hostile.calls import CALLS, EXHAUSTED, LIVE, Call, bomb_of, call, converse, good, header, opened, poured
from tests.hostile.demands import every_type
from tests.hostile.exchange import GoodTraffic, Memory
from tests.hostile.files import classifier
from tests.unit.serving.http2_client import PREFACE, message
from tests.unit.serving.server import Server, serving

ALIVE = PREFACE + opened(header(LIVE)) + poured(message(b""))


def test_there_are_many_of_them_and_no_two_have_one_name() -> None:
    assert len(CALLS) >= 250
    assert len({call.name for call in CALLS}) == len(CALLS)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("calls"), classifier()) as running, GoodTraffic(running) as traffic:
        memory = Memory(running.process.pid)
        yield running
        assert running.process.poll() is None, running.log
        assert traffic.errors == []
        assert "Traceback" not in running.log, running.log
        assert converse(running.grpc_port, PREFACE + call(good()), "status 0") == "status 0"
        assert memory.growth() <= 64 << 20


@pytest.fixture(scope="module")
def typist(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("types"), every_type()) as running:
        yield running
        assert running.process.poll() is None, running.log
        assert "Traceback" not in running.log, running.log


@pytest.mark.parametrize("hostile", CALLS, ids=[call.name for call in CALLS])
def test_it_is_ended_and_another_connection_is_not(server: Server, typist: Server, hostile: Call) -> None:
    port = (typist if hostile.typed else server).grpc_port
    end = converse(port, hostile.content, hostile.end)
    assert re.fullmatch(hostile.end, end), end
    assert converse(port, ALIVE, "status 0") == "status 0"


def test_bombs_leave_nothing_behind(server: Server) -> None:
    memory = Memory(server.process.pid)
    content = PREFACE + call(bomb_of(60), 1, grpc_encoding=b"gzip")
    for _ in range(12):
        assert converse(server.grpc_port, content, f"status {EXHAUSTED}") == f"status {EXHAUSTED}"
    assert memory.growth() < 48 << 20  # each would be 16
