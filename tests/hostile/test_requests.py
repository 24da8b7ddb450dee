"""Hostile requests against the real server: each is refused at once, and nobody beside them notices."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.hostile.demands import CLIENT_ERROR, CLOSED, DEMANDS, LIVE, OPEN, TYPED, Demand, every_type, typed
from tests.hostile.exchange import GoodTraffic, Line, Memory
from tests.hostile.extensions import EXTENDED, TYPED_EXTENDED, bomb, packed
from tests.hostile.files import classifier
from tests.unit.serving.server import Server, serving

ALL = [*DEMANDS, *EXTENDED]
ALL_TYPED = [*TYPED, *TYPED_EXTENDED]
MOST_GROWTH = 64 << 20


def test_there_are_many_of_them_and_no_two_have_one_name() -> None:
    names = [demand.name for demand in [*ALL, *ALL_TYPED]]
    assert len(names) >= 800
    assert len(set(names)) == len(names)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("requests"), classifier()) as running:
        yield from under_watch(running, GoodTraffic(running))


@pytest.fixture(scope="module")
def typist(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("types"), every_type()) as server:
        yield from under_watch(server, GoodTraffic(server, typed("BOOL", "[true,false]")))


def under_watch(server: Server, traffic: GoodTraffic) -> Iterator[Server]:
    """The server, while good traffic goes on; afterwards it must be as well as before."""
    with traffic:
        memory = Memory(server.process.pid)
        yield server
    assert server.process.poll() is None, server.log
    assert traffic.errors == []
    assert traffic.seconds
    assert "Traceback" not in server.log, server.log
    assert memory.growth() <= MOST_GROWTH


def conduct(server: Server, demand: Demand) -> None:
    with Line(getattr(server, demand.port)) as line:
        heard = line.say(demand.content, len(demand.answers), to_the_end=demand.then == CLOSED)
        assert len(heard.statuses) == len(demand.answers), (heard.statuses, heard.bodies[:2])
        for status, expected, body in zip(heard.statuses, demand.answers, heard.bodies, strict=True):
            assert status == expected or (expected == CLIENT_ERROR and status // 100 == 4), (status, body)
            if status >= 400 and demand.port == "port":
                check_error(body)
        assert heard.closed or demand.then != CLOSED
        if demand.then == OPEN:
            after = line.say(LIVE, 1)
            assert after.statuses == [404 if demand.port == "management_port" else 200]
            assert demand.port != "port" or after.bodies == [b'{"live":true}']


def check_error(body: bytes) -> None:
    """An error says what is wrong, shortly, and nothing about the inside of the server."""
    assert list(json.loads(body)) == ["error"]
    assert 10 < len(body) < 2000
    for word in (b"Traceback", b"/tmp", b".py", b"site-packages", b"PYTHONPATH", b"object at 0x"):
        assert word not in body


@pytest.mark.parametrize("demand", ALL, ids=[demand.name for demand in ALL])
def test_it_is_refused_and_the_next_request_is_not(server: Server, demand: Demand) -> None:
    conduct(server, demand)


@pytest.mark.parametrize("demand", ALL_TYPED, ids=[demand.name for demand in ALL_TYPED])
def test_a_value_that_is_not_of_its_datatype_is_refused(typist: Server, demand: Demand) -> None:
    conduct(typist, demand)


def test_a_header_of_the_client_never_becomes_one_of_the_answer(server: Server, tmp_path: Path) -> None:
    with Line(server.port) as line:
        heard = line.say(b"GET /v2/models/wine%0d%0aX-Injected:%20a HTTP/1.1\r\nHost: a\r\n\r\n", 1)
    assert heard.statuses == [404]
    assert b"\r\n" not in heard.bodies[0]


def test_many_bombs_at_once_are_refused_by_each_and_in_memory(server: Server) -> None:
    memory = Memory(server.process.pid)
    with ExitStack() as stack:
        lines = [stack.enter_context(Line(server.port)) for _ in range(40)]
        request = packed("gzip", bomb(64))
        for line in lines:
            line.start(request)
        for line in lines:
            assert line.say(b"", 1).statuses[0] in (413, 503)
    assert memory.peak() < 400 << 20
