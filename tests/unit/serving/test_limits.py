"""Clients that are slow or large on purpose, against a port with tight limits on a real event loop."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from typing import Any

import pytest
import uvloop

from holdfast_serving.coding import Packing
from holdfast_serving.connection import Connection, Port
from holdfast_serving.lifecycle import listener
from holdfast_serving.limits import Limits
from holdfast_serving.routes import Endpoint, Routes

SHORT = Limits(head_seconds=0.3, body_seconds=0.3, idle_seconds=0.3, write_seconds=0.3, linger_seconds=0.3)
HEAD = b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n"
BIG = bytes(8 << 20)


class Late:
    """Answers when it is told to."""

    def __init__(self) -> None:
        self.waiting: list[Connection] = []

    def __call__(self, connection: Connection, body: bytes | bytearray) -> None:
        self.waiting.append(connection)


def run(test: Callable[[Port, Late, int], Coroutine[Any, Any, None]], limits: Limits = SHORT) -> None:
    """Run `test(port, late, number)` on uvloop against a port with the paths /echo, /late, /packed and /big."""

    async def main() -> None:
        late = Late()
        routes = Routes(
            {
                "/echo": {"POST": Endpoint(lambda connection, body: connection.respond(200, bytes(body)))},
                "/late": {"GET": Endpoint(late), "POST": Endpoint(late)},
                "/packed": {"GET": Endpoint(lambda connection, body: Packing(connection, b"gzip").respond(200, BIG))},
                "/big": {"GET": Endpoint(lambda connection, body: connection.respond(200, BIG))},
            }
        )
        port = Port(routes, limits)
        listener = socket.create_server(("127.0.0.1", 0))
        await port.listen(listener)
        try:
            await asyncio.wait_for(test(port, late, listener.getsockname()[1]), 120)
        finally:
            port.stop()

    uvloop.run(main())


async def ended(reader: asyncio.StreamReader) -> bytes:
    """All that the server sends until it ends the connection."""
    try:
        return await reader.read()
    except ConnectionResetError:
        return b""


async def eventually(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.005)


def elapsed(work: Awaitable[bytes]) -> Coroutine[Any, Any, tuple[bytes, float]]:
    async def measure() -> tuple[bytes, float]:
        loop = asyncio.get_running_loop()
        began = loop.time()
        return await work, loop.time() - began

    return measure()


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        (b"", b""),
        (b"P", b"HTTP/1.1 408"),
        (b"POST /echo HT", b"HTTP/1.1 408"),
        (b"POST /echo HTTP/1.1\r\nHost: a\r\nX: ", b"HTTP/1.1 408"),
        (HEAD, b"HTTP/1.1 408"),
        (HEAD + b"ab", b"HTTP/1.1 408"),
        (HEAD + b"abc", b"HTTP/1.1 200"),
        (HEAD + b"abc" + b"POST /echo HTTP/1.1\r\n", b"HTTP/1.1 200"),
    ],
)
def test_a_client_that_stops_is_sent_away_in_time(sent: bytes, answer: bytes) -> None:
    async def test(port: Port, late: Late, number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", number)
        writer.write(sent)
        got, took = await elapsed(ended(reader))
        assert got.startswith(answer)
        assert got.count(b"408") == (1 if b"408" in answer or sent.count(b"POST") == 2 else 0)
        assert took > 0.2
        writer.close()
        await eventually(lambda: not port.connections)

    run(test)


@pytest.mark.parametrize("start", [b"POST /echo HTTP/1.1\r\nHost: a\r\nX: ", HEAD.replace(b"3", b"30")])
def test_dripping_does_not_buy_time(start: bytes) -> None:
    async def test(port: Port, late: Late, number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", number)
        writer.write(start)

        async def drip() -> None:
            while True:
                writer.write(b"x")
                await asyncio.sleep(0.02)

        dripping = asyncio.create_task(drip())
        got = await ended(reader)
        dripping.cancel()
        assert got.startswith(b"HTTP/1.1 408")

    run(test)


def test_a_request_in_work_has_all_the_time_it_needs() -> None:
    async def test(port: Port, late: Late, number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", number)
        writer.write(b"GET /late HTTP/1.1\r\nHost: a\r\n\r\n")
        await asyncio.sleep(1)  # three times every deadline
        late.waiting.pop().respond(200, b"done")
        assert (await reader.readuntil(b"done")).startswith(b"HTTP/1.1 200")
        writer.close()

    run(test)


def test_a_client_that_does_not_read_is_dropped() -> None:
    async def test(port: Port, late: Late, number: int) -> None:
        sock = socket.create_connection(("127.0.0.1", number))
        sock.sendall(b"GET /big HTTP/1.1\r\nHost: a\r\n\r\n" * 100)
        await eventually(lambda: bool(port.connections))
        await eventually(lambda: not port.connections)
        sock.close()

    run(test)


@pytest.mark.parametrize("draining", [False, True])
def test_a_client_that_reads_slowly_gets_all_of_it(draining: bool) -> None:
    async def test(port: Port, late: Late, number: int) -> None:
        port.draining = draining
        reader, writer = await asyncio.open_connection("127.0.0.1", number, limit=1 << 16)
        writer.write(b"GET /big HTTP/1.1\r\nHost: a\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        assert (b"connection: close" in head) == draining
        for _ in range(16):
            await reader.readexactly(len(BIG) // 16)
            await asyncio.sleep(0.1)  # altogether longer than an answer may lie unread
        if draining:
            assert await reader.read() == b""
        writer.close()

    run(test, replace(SHORT, write_seconds=1.0))


def test_large_answers_to_pipelined_requests_wait_for_the_reader() -> None:
    async def test(port: Port, late: Late, number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", number)
        writer.write(b"GET /big HTTP/1.1\r\nHost: a\r\n\r\n" * 5)
        for _ in range(5):
            head = await reader.readuntil(b"\r\n\r\n")
            assert b"content-length: %d" % len(BIG) in head
            await reader.readexactly(len(BIG))
        writer.close()

    run(test, Limits())


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize(("size", "status"), [(100_000, 200), (100_001, 413)])
def test_the_limit_of_a_body_is_exact(chunked: bool, size: int, status: int) -> None:
    async def test(port: Port, late: Late, number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", number)
        if chunked:
            framed = b"%x\r\n%b\r\n0\r\n\r\n" % (size, b"x" * size)
            writer.write(HEAD.replace(b"Content-Length: 3", b"Transfer-Encoding: chunked") + framed)
        else:
            writer.write(HEAD.replace(b"3", b"%d" % size) + b"x" * size)
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 %d" % status)
        assert (b"content-length: 100000" in head) == (status == 200)
        writer.close()

    run(test, Limits(body_bytes=100_000))


def test_a_large_body_counts_until_it_is_answered() -> None:
    size = 150_000
    head = HEAD.replace(b"/echo", b"/late").replace(b"3", b"%d" % size)

    async def test(port: Port, late: Late, number: int) -> None:
        clients = [await asyncio.open_connection("127.0.0.1", number) for _ in range(3)]
        for count, (_, writer) in enumerate(clients[:2], 1):
            writer.write(head + b"x" * size)
            await eventually(lambda count=count: len(late.waiting) == count)  # type: ignore[misc]
        reader, writer = clients[2]
        writer.write(head)
        assert (await ended(reader)).startswith(b"HTTP/1.1 503")
        late.waiting.pop().respond(200, b"done")
        assert (await clients[1][0].readuntil(b"done")).startswith(b"HTTP/1.1 200")
        assert port.reserve(size)
        assert not port.reserve(size)
        # Its client leaves; the body is there for as long as somebody keeps the call.
        clients[0][1].close()
        await eventually(lambda: len(port.connections) == 1)
        assert not port.reserve(size)
        late.waiting.clear()
        await eventually(lambda: port.reserve(size))
        clients[1][1].close()

    run(test, Limits(buffered_bytes=2 * size))


def test_two_thousand_idle_clients_do_not_keep_others_out() -> None:
    async def test(port: Port, late: Late, number: int) -> None:
        idle = [await asyncio.open_connection("127.0.0.1", number) for _ in range(2000)]
        reader, writer = await asyncio.open_connection("127.0.0.1", number)
        writer.write(HEAD + b"abc")
        assert await reader.readuntil(b"abc")
        assert len(port.connections) == 2001
        for _, each in [*idle, (reader, writer)]:
            each.close()
        await eventually(lambda: not port.connections)

    run(test, Limits())


def test_answers_that_nobody_reads_do_not_take_all_memory() -> None:
    async def test(port: Port, late: Late, number: int) -> None:
        clients = []
        for _ in range(6):
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect(("127.0.0.1", number))
            before = set(port.connections)
            sock.sendall(b"GET /big HTTP/1.1\r\nHost: a\r\n\r\n")
            await eventually(lambda before=before: any(new._stalled for new in port.connections - before))  # type: ignore[misc]
            clients.append(sock)
        await eventually(lambda: len(port.connections) <= 3)
        await asyncio.to_thread(drain, clients[0])  # who came first has let it wait longest
        reader, writer = await asyncio.open_connection(sock=clients[-1])
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        await reader.readexactly(len(BIG))
        for client in [*clients[:-1], writer]:
            client.close()

    run(test, Limits(unread_bytes=10 << 20))


def drain(sock: socket.socket) -> None:
    """Read until the server has ended the connection; what it had sent before comes first."""
    got = 0
    try:
        while data := sock.recv(1 << 20):
            got += len(data)
    except ConnectionResetError:
        pass
    assert got < len(BIG)


def test_answers_that_wait_to_be_compressed_go_out_as_they_are_when_they_take_too_much() -> None:
    async def test(port: Port, late: Late, number: int) -> None:
        clients = [await asyncio.open_connection("127.0.0.1", number) for _ in range(3)]
        for _, writer in clients:
            writer.write(b"GET /packed HTTP/1.1\r\nHost: a\r\n\r\n")
        heads = await asyncio.gather(*(reader.readuntil(b"\r\n\r\n") for reader, _ in clients))
        assert 1 <= sum(b"content-encoding: gzip" in head for head in heads) < 3
        assert all(head.startswith(b"HTTP/1.1 200") for head in heads)
        for _, writer in clients:
            writer.close()
        await eventually(lambda: not port.connections)
        assert port.reserve(len(BIG))  # all of it was given back

    run(test, Limits(buffered_bytes=len(BIG)))


def test_whoever_leaves_while_waiting_is_not_answered() -> None:
    async def test(port: Port, late: Late, number: int) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", number)
        writer.write(b"GET /late HTTP/1.1\r\nHost: a\r\n\r\n")
        await eventually(lambda: bool(late.waiting))
        writer.close()
        await eventually(lambda: not port.connections)
        assert late.waiting[0].transport is None
        late.waiting[0].respond(200, b"for nobody")

    run(test)


def test_a_handler_that_breaks_is_one_500_and_no_more() -> None:
    async def test(port: Port, late: Late, number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", number)
        writer.write(b"POST /broken HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n" + HEAD + b"abc")
        answer = await reader.readuntil(b"abc")
        assert answer.startswith(b"HTTP/1.1 500")
        assert b'{"error":"the server failed on this request"}' in answer
        assert b"ZeroDivision" not in answer
        writer.close()

    async def main() -> None:
        broken = Endpoint(lambda connection, body: connection.respond(1 // 0, b""))
        echo = Endpoint(lambda connection, body: connection.respond(200, bytes(body)))
        port = Port(Routes({"/broken": {"POST": broken}, "/echo": {"POST": echo}}))
        listener = socket.create_server(("127.0.0.1", 0))
        await port.listen(listener)
        await test(port, Late(), listener.getsockname()[1])
        port.stop()

    uvloop.run(main())


def test_without_a_host_a_port_listens_on_every_address_there_is() -> None:
    bound = listener("", 0)
    number = bound.getsockname()[1]
    with bound:
        socket.create_connection(("127.0.0.1", number)).close()
        if bound.family == socket.AF_INET6:
            socket.create_connection(("::1", number)).close()


def test_an_old_connection_is_closed_with_its_next_answer_and_not_before() -> None:
    async def test(port: Port, late: Late, number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", number)
        young = HEAD + b"abc"
        writer.write(young)
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"connection: close" not in head
        assert await reader.readexactly(3) == b"abc"
        await asyncio.sleep(1)
        assert len(port.connections) == 1
        writer.write(young)
        answer = await ended(reader)
        assert b"connection: close" in answer
        assert answer.endswith(b"abc")
        writer.close()

    run(test, replace(SHORT, age_seconds=0.3, idle_seconds=20))
