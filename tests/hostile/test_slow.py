"""Clients whose weapon is time, against a real server with short deadlines; good traffic goes on beside them."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from tests.hostile.demands import GOOD, HEAD, LIVE, POST
from tests.hostile.exchange import GoodTraffic, Line, Memory
from tests.hostile.files import classifier
from tests.unit.serving.server import Server, http, serving

DEADLINE = 1.0
SHORT = [
    f"--{name}-seconds={seconds}"
    for name, seconds in (("head", 1), ("body", 1), ("idle", 4), ("write", 1), ("linger", 0.5))
]
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("slow"), classifier(), *SHORT) as running, GoodTraffic(running) as traffic:
        memory = Memory(running.process.pid)
        yield running
        time.sleep(0.1)
        assert running.process.poll() is None
        assert traffic.errors == []
        assert "Traceback" not in running.log, running.log
        assert memory.growth() <= 64 << 20


@dataclass(frozen=True, slots=True)
class Slow:
    """A client that begins with `start`, and goes on with `drip` every so often until it is sent away.

    `answer`: how what it hears begins; empty when the server has nothing to say.
    """

    name: str
    start: bytes
    answer: bytes
    drip: bytes = b""
    pause: float = 0.05


LATE = b"HTTP/1.1 408"
SLOW = [
    Slow("says nothing", b"", b""),
    Slow("sends one byte", b"P", LATE),
    Slow("stops in the request line", b"POST /v2/mod", LATE),
    Slow("stops in a field", HEAD + b"Content-Le", LATE),
    Slow("stops before the last line feed", POST[: POST.index(b"\r\n\r\n") + 3], LATE),
    Slow("drips a field's name", HEAD + b"X", LATE, b"x"),
    Slow("drips a field's value", HEAD + b"X: ", LATE, b"x"),
    Slow("drips fields", HEAD, LATE, b"X: y\r\n"),
    Slow("drips a target", b"GET /", LATE, b"a"),
    Slow("drips empty lines", b"", b"", b"\r\n"),
    Slow("pours empty lines", b"", b"", b"\r\n" * 10_000, 0.001),
    Slow("sends no body", HEAD + b"Content-Length: 100\r\n\r\n", LATE),
    Slow("drips a body", HEAD + b"Content-Length: 1000000\r\n\r\n", LATE, b" "),
    Slow("stops before the last byte", POST[:-1], LATE),
    Slow(
        "sends no body after it was told to",
        HEAD + b"Content-Length: 9\r\nExpect: 100-continue\r\n\r\n",
        b"HTTP/1.1 100",
    ),
    Slow("sends no chunk", CHUNKED, LATE),
    Slow("drips a chunk's size", CHUNKED, LATE, b"0"),
    Slow("drips a chunk's extension", CHUNKED + b"5;", LATE, b"a"),
    Slow("drips chunks", CHUNKED, LATE, b"1\r\n \r\n"),
    Slow("drips a trailer", CHUNKED + b"0\r\n", LATE, b"a"),
    Slow("announces a chunk of 16 MiB and a byte", CHUNKED + b"1000001\r\n", LATE),
    Slow("announces a chunk of 2^60 bytes", CHUNKED + b"1000000000000000\r\n", LATE),
    Slow("announces a chunk of 2^64 - 1 bytes", CHUNKED + b"ffffffffffffffff\r\n", LATE),
    Slow("is idle after an answer", LIVE, b"HTTP/1.1 200"),
    Slow("stops in its second request", LIVE + POST[:20], b"HTTP/1.1 200"),
    Slow("goes on after it was refused", b"NONSENSE\r\n\r\n", b"HTTP/1.1 400", b"x" * 1000),
]


def listen(port: int, slow: Slow) -> tuple[bytes, float]:
    """(all that the server says, seconds until it ends the connection)"""
    began = time.monotonic()
    heard = b""
    with socket.create_connection(("127.0.0.1", port), timeout=slow.pause if slow.drip else 60) as sock:
        with contextlib.suppress(ConnectionError):
            sock.sendall(slow.start)
        while time.monotonic() < began + 60:
            try:
                data = sock.recv(1 << 16)
                heard += data
                if not data:
                    break
            except TimeoutError:
                with contextlib.suppress(ConnectionError, TimeoutError):
                    sock.sendall(slow.drip)
            except ConnectionError:
                break
    return heard, time.monotonic() - began


def together(*work: Callable[[], None]) -> None:
    """Run all at once; the first error is raised."""
    errors: list[BaseException] = []

    def attempt(one: Callable[[], None]) -> None:
        try:
            one()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=attempt, args=(one,)) for one in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def test_whoever_is_slow_is_sent_away_in_time(server: Server) -> None:
    def check(slow: Slow) -> None:
        heard, seconds = listen(server.port, slow)
        assert heard.startswith(slow.answer), (slow.name, heard)
        assert bool(heard) == bool(slow.answer), (slow.name, heard)
        assert seconds > DEADLINE / 2 or b"400" in slow.answer, slow.name
        assert seconds < 20, slow.name

    together(*(lambda slow=slow: check(slow) for slow in SLOW))  # type: ignore[misc]


def test_a_thousand_slow_clients_do_not_keep_a_good_one_waiting(server: Server) -> None:
    slow = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(1000)]
    for number, sock in enumerate(slow):
        sock.sendall(POST[: 1 + number % (len(POST) - 1)])
    with Line(server.port) as line:
        for _ in range(20):
            assert line.say(POST, 1).statuses == [200]
    for sock in slow:
        sock.settimeout(60)
        with contextlib.suppress(ConnectionError):
            while sock.recv(1 << 16):
                pass
        sock.close()


def test_connections_that_come_and_go_leave_nothing_behind(server: Server) -> None:
    for number in range(2000):
        with socket.create_connection(("127.0.0.1", server.port)) as sock:
            if number % 2:
                sock.sendall(POST[: number % len(POST)])
            if number % 3 == 0:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # a reset instead of an end


def test_whoever_does_not_read_is_dropped(server: Server) -> None:
    """Pipelined requests whose answers nobody takes."""
    identifier = b"i" * 200_000
    request = http("POST", "/v2/models/wine/infer", GOOD.replace(b"{", b'{"id": "' + identifier + b'", ', 1))
    with socket.create_connection(("127.0.0.1", server.port), timeout=0.5) as sock, pytest.raises(ConnectionError):
        press(sock, request * 10)


def test_endless_chunks_end(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as sock:
        sock.sendall(CHUNKED)
        with pytest.raises(ConnectionError):
            press(sock, b"10000\r\n" + b" " * 65536 + b"\r\n")


def press(sock: socket.socket, data: bytes) -> None:
    """Send the same again and again, for at most 60 s."""
    ends = time.monotonic() + 60
    while time.monotonic() < ends:
        with contextlib.suppress(TimeoutError):
            sock.sendall(data)
