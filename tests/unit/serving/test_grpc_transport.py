"""Our own gRPC transport below the methods: HTTP/2, flow control, limits, compression, and clients that are none."""

from __future__ import annotations

import asyncio
import socket
import zlib
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.serving.http2_client import PREFACE, Client, frame, header, message

from holdfast_serving.grpc import messages
from holdfast_serving.grpc.connection import Connection, Port
from holdfast_serving.grpc.exchange import Conversation, Exchange, Streaming, Unary
from holdfast_serving.grpc.frames import Buffer
from holdfast_serving.grpc.hpack import encode
from holdfast_serving.grpc.service import Service
from holdfast_serving.limits import Limits
from holdfast_serving.metrics import Metrics
from holdfast_serving.served import Served

SHORT = Limits(
    head_seconds=0.3, body_seconds=0.3, idle_seconds=0.3, write_seconds=0.3, linger_seconds=0.3, buffered_bytes=33 << 20
)
CALM, CANCEL, PROTOCOL, FLOW, FRAME_SIZE, COMPRESSION, CLOSED, REFUSED = 0xB, 0x8, 0x1, 0x3, 0x6, 0x9, 0x5, 0x7
DATA, HEADERS, PRIORITY, RST, SETTINGS, PUSH, PING, GOAWAY, WINDOW, CONTINUATION = range(10)


HEAD = header()


class Echo(Conversation):
    """Gives every message back."""

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange

    def receive(self, content: Buffer) -> None:
        self.exchange.reply((content,))

    def finish(self) -> None:
        self.exchange.close()

    def leave(self) -> None:
        pass


class Held(Conversation):
    """Keeps every message until it is told to answer."""

    def __init__(self, all_of_them: list[Held], exchange: Exchange) -> None:
        all_of_them.append(self)
        self.exchange = exchange
        self.messages: list[Buffer] = []
        self.left = False

    def receive(self, content: Buffer) -> None:
        self.messages.append(content)

    def finish(self) -> None:
        pass

    def leave(self) -> None:
        self.left = True


class World:
    """A port with methods that tests can look into.

    Attributes:
        late: unary calls of /late, which nobody has answered.
        held: streams of /held.
        reserved: bytes that large messages have taken.
    """

    def __init__(self, limits: Limits) -> None:
        self.late: list[Exchange] = []
        self.held: list[Held] = []
        self.reserved = 0
        self.limits = limits
        service = Service(Served("wine", "1", Metrics("wine", "1"), 10.0))
        service.methods |= {
            "/echo": Unary(lambda exchange, content: exchange.reply((content,))),
            "/late": Unary(lambda exchange, content: self.late.append(exchange)),
            "/large": Unary(lambda exchange, content: exchange.reply((bytes(int(bytes(content))),))),
            "/talk": Streaming(Echo),
            "/held": Streaming(lambda exchange: Held(self.held, exchange)),
        }
        self.port = Port(service, self.reserve, limits)

    def reserve(self, size: int) -> bool:
        if self.reserved + size > self.limits.buffered_bytes:
            return False
        self.reserved += size
        return True


def run(test: Callable[[World, int], Coroutine[Any, Any, None]], limits: Limits = SHORT) -> None:
    """Run `test(world, port's number)` on uvloop."""

    async def main() -> None:
        world = World(limits)
        listener = socket.create_server(("127.0.0.1", 0))
        await world.port.listen(listener)
        try:
            await asyncio.wait_for(test(world, listener.getsockname()[1]), 120)
        finally:
            world.port.stop()

    uvloop.run(main())


async def eventually(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.005)


PATIENT = replace(SHORT, head_seconds=10, body_seconds=10, idle_seconds=10, write_seconds=10)


def test_a_call_is_answered_and_leaves_nothing_behind() -> None:
    async def test(world: World, number: int) -> None:
        async with Client(number) as client:
            for content in (b"", b"x", bytes(60_000), bytes(1 << 20), bytes(16 << 20)):
                answer = await client.call("/echo", content)
                assert (answer.headers[":status"], answer.headers["content-type"]) == ("200", "application/grpc")
                assert (answer.messages, answer.code) == ([(0, content)], 0)
            (connection,) = world.port.connections
            assert (connection.http2.streams, connection.http2.waiting, connection.http2.unsent) == ({}, {}, 0)
            assert world.reserved == 0

    run(test, PATIENT)


def test_a_hundred_calls_at_once_are_each_answered_with_their_own() -> None:
    async def test(world: World, number: int) -> None:
        async with Client(number) as client:
            numbers = [client.begin("/echo") for _ in range(100)]
            for stream in numbers:
                await client.send(stream, message(str(stream).encode() * 500))
            for stream in numbers:
                assert (await client.answer(stream)).messages == [(0, str(stream).encode() * 500)]

    run(test, PATIENT)


def test_more_calls_at_once_than_allowed_are_refused_and_may_come_again() -> None:
    async def test(world: World, number: int) -> None:
        async with Client(number) as client:
            # Whoever has seen the server's settings holds back; a client that has not cannot.
            numbers = [client.begin("/late") for _ in range(130)]
            answer = await client.answer(numbers[-1])
            assert answer.reset == REFUSED
            for stream in numbers[:128]:
                client.h2.send_data(stream, message(b""), end_stream=True)
            client.flush()
            await eventually(lambda: len(world.late) == 128)
            for exchange in world.late:
                exchange.reply((b"late",))
            for stream in numbers[:128]:
                assert (await client.answer(stream)).messages == [(0, b"late")]
            assert (await client.call("/echo", b"again")).code == 0

    run(test, PATIENT)


@pytest.mark.parametrize("acknowledges", [True, False])
def test_a_large_answer_waits_for_its_reader_and_nobody_else_does(acknowledges: bool) -> None:
    async def test(world: World, number: int) -> None:
        async with Client(number) as client:
            client.acknowledges = acknowledges
            large = client.begin("/large")
            await client.send(large, message(b"%d" % (64 << 20)))
            if acknowledges:
                answer = await client.answer(large)
                assert (answer.code, len(answer.data)) == (0, (64 << 20) + 5)
                return
            await eventually(lambda: len(world.port.connections) == 1)
            (connection,) = world.port.connections
            await eventually(lambda: connection.http2.unsent > 60 << 20)
            assert connection.full
            # The next call of the same client waits; that of another does not.
            second = client.begin("/echo")
            await client.send(second, message(b"second"))
            async with Client(number) as other:
                assert (await other.call("/echo", b"other")).code == 0
            while len(client.answers[large].data) < 65_535:
                await client.more()
            assert not client.answers[second].ended
            # It is abandoned, and the second has its turn.
            client.h2.reset_stream(large, CANCEL)
            client.h2.increment_flow_control_window(1 << 20)
            client.flush()
            assert (await client.answer(second)).messages == [(0, b"second")]
            assert connection.http2.unsent == 0

    run(test, PATIENT)


def test_a_reader_that_stops_is_cut_off() -> None:
    async def test(world: World, number: int) -> None:
        async with Client(number) as client:
            client.acknowledges = False
            stream = client.begin("/large")
            await client.send(stream, message(b"%d" % (1 << 20)))
            assert (await client.answer(stream)).reset == CANCEL  # it takes no data
            client.h2.increment_flow_control_window(1 << 20)
            assert (await client.call("/echo", b"")).code == 0
        reader, writer = await asyncio.open_connection("127.0.0.1", number, limit=1)
        large = message(b"%d" % (64 << 20))
        writer.write(
            PREFACE + frame(SETTINGS, 0, 0, b"\x00\x04\x7f\xff\xff\xff") + frame(WINDOW, 0, 0, b"\x7f\x00\x00\x00")
        )
        writer.write(frame(HEADERS, 4, 1, header(**{":path": b"/large"})) + frame(DATA, 1, 1, large))
        await eventually(lambda: any(c.http2.frames > 3 for c in world.port.connections))
        await eventually(lambda: not world.port.connections)  # it takes no bytes
        writer.close()
        reader.feed_eof()

    run(test)


def test_messages_cut_anywhere_are_put_together() -> None:
    async def test(world: World, number: int) -> None:
        contents = [b"", b"a", bytes(range(256)) * 10, b"b" * 40_000]
        data = b"".join(map(message, contents))
        for size in (1, 3, 7, 1000, 16_384):
            async with Client(number) as client:
                stream = client.begin("/talk")
                pieces = (
                    [data[start : start + size] for start in range(0, len(data), size)]
                    if size > 1
                    else [*(data[index : index + 1] for index in range(600)), data[600:]]
                )
                for piece in pieces:
                    await client.send(stream, piece, end=False)
                client.h2.end_stream(stream)
                client.flush()
                answer = await client.answer(stream)
                assert ([content for _, content in answer.messages], answer.code) == (contents, 0)

    run(test, PATIENT)


def test_messages_that_wait_take_no_more_memory_than_their_octets() -> None:
    async def test(world: World, number: int) -> None:
        async with Client(number) as client:
            stream = client.begin("/held")
            await client.send(stream, message(b"") * 13_000, end=False)  # five octets each
            await eventually(lambda: bool(world.held) and len(world.held[0].messages) == 32)
            (connection,) = world.port.connections
            (call,) = connection.http2.streams.values()
            assert len(call._inbox) <= 32  # type: ignore[attr-defined]
            answered = 0
            while answered < 13_000:
                for _ in range(len(world.held[0].messages) - answered):
                    answered += 1
                    world.held[0].exchange.reply((b"",))
                await asyncio.sleep(0)
            client.h2.end_stream(stream)
            client.flush()
            world.held[0].exchange.close()
            assert len((await client.answer(stream)).messages) == 13_000

    run(test, PATIENT)


def test_a_stream_that_is_not_answered_makes_its_sender_wait() -> None:
    async def test(world: World, number: int) -> None:
        async with Client(number) as client:
            stream = client.begin("/held")
            content = bytes(1000)
            sending = asyncio.ensure_future(client.send(stream, message(content) * 500, end=False))
            await eventually(lambda: bool(world.held) and len(world.held[0].messages) == 32)
            await asyncio.sleep(0.1)
            held = world.held[0]
            assert (len(held.messages), sending.done()) == (32, False)
            answered = 0
            while answered < 500:
                while answered < len(held.messages):
                    answered += 1
                    held.exchange.reply((b"x",))
                await asyncio.sleep(0.001)
            await sending
            held.exchange.close()
            assert len((await client.answer(stream)).messages) == 500

    run(test, PATIENT)


# --- What is said to calls that cannot be answered --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "method", "status"),
    [
        ([("content-type", "application/json")], "POST", "415"),
        ([("content-type", "application/grpc-web")], "POST", "415"),
        ([], "GET", "405"),
    ],
)
def test_what_is_no_grpc_is_answered_in_http(more: list[tuple[str, str]], method: str, status: str) -> None:
    async def test(world: World, number: int) -> None:
        async with Client(number) as client:
            answer = await client.answer(client.begin("/echo", *more, method=method, end=True))
            assert (answer.headers[":status"], answer.ended) == (status, True)

    run(test, PATIENT)


@pytest.mark.parametrize(
    ("path", "more", "data", "code", "words"),
    [
        ("/no", [], message(b""), 12, "no method '/no' here"),
        ("/echo", [("grpc-encoding", "br")], message(b""), 12, "compressed in a way"),
        ("/echo", [("grpc-timeout", "1x")], message(b""), 3, "grpc-timeout is not"),
        ("/echo", [("grpc-timeout", "123456789S")], message(b""), 3, "grpc-timeout is not"),
        ("/echo", [], b"", 3, "no whole message"),
        ("/echo", [], message(b"abc")[:-1], 3, "no whole message"),
        ("/echo", [], message(b"") * 2, 3, "takes one message"),
        ("/echo", [], message(b"", 1), 13, "marked as compressed"),
        ("/echo", [("grpc-encoding", "gzip")], message(b"", 2), 13, "marked as compressed"),
        ("/echo", [("grpc-encoding", "gzip")], message(b"abc", 1), 3, "not compressed as its call says"),
        ("/echo", [], message(bytes((16 << 20) + 1)), 8, "more than 16777216 bytes"),
        ("/talk", [], message(b"abc")[:-1], 3, "the last message is not complete"),
        ("/late", [("grpc-timeout", "1m")], message(b""), 4, "longer than its client"),
    ],
)
def test_a_call_that_cannot_be_answered_is_told_why(
    path: str, more: list[tuple[str, str]], data: bytes, code: int, words: str
) -> None:
    async def test(world: World, number: int) -> None:
        async with Client(number) as client:
            stream = client.begin(path, *more)
            sending = asyncio.ensure_future(client.send(stream, data))
            answer = await client.answer(stream)
            assert (answer.code, words in answer.words.replace("%25", "%")) == (code, True), answer.words
            sending.cancel()
            assert (await client.call("/echo", b"next")).messages == [(0, b"next")]
            assert world.reserved == 0

    run(test, PATIENT)


def test_before_the_model_is_there_all_but_inference_is_answered() -> None:
    def asked(method: str, **fields: Any) -> bytes:
        content: bytes = messages.inference(f"{method}Request")(**fields).SerializeToString()
        return content

    async def test(world: World, number: int) -> None:
        async with Client(number) as client:
            for service in ("", "inference.GRPCInferenceService"):
                question = messages.message("grpc.health.v1.HealthCheckRequest")(service=service).SerializeToString()
                answer = await client.call("/grpc.health.v1.Health/Check", question)
                assert answer.messages == [(0, b"\x08\x02")]  # NOT_SERVING
            base = "/inference.GRPCInferenceService"
            for method, fields, content in (
                ("ServerLive", {}, b"\x08\x01"),
                ("ServerReady", {}, b""),
                ("ModelReady", {"name": "wine"}, b""),
            ):
                assert (await client.call(f"{base}/{method}", asked(method, **fields))).messages == [(0, content)]
            for method, fields in (
                ("ModelInfer", {"model_name": "wine"}),
                ("ModelMetadata", {"name": "wine"}),
                ("ModelConfig", {"name": "wine"}),
            ):
                answer = await client.call(f"{base}/{method}", asked(method, **fields))
                assert (answer.code, answer.words) == (14, "the model is still being loaded")

    run(test, PATIENT)


def test_an_answer_is_compressed_as_its_request_was_if_its_client_can_read_that() -> None:
    async def test(world: World, number: int) -> None:
        content = bytes(range(256)) * 400
        async with Client(number) as client:
            for coding, bits in (("gzip", 31), ("deflate", 15)):
                packer = zlib.compressobj(wbits=bits)
                packed = packer.compress(content) + packer.flush()
                for accepted, flag in (("identity,deflate,gzip", 1), ("identity", 0)):
                    more = [("grpc-encoding", coding), ("grpc-accept-encoding", accepted)]
                    answer = await client.call("/echo", packed, *more, flag=1)
                    assert answer.headers.get("grpc-encoding") == (coding if flag else None)
                    ((given, data),) = answer.messages
                    assert given == flag
                    assert (zlib.decompress(data, bits) if flag else data) == content
                    small = await client.call("/echo", b"small", *more)
                    assert small.messages == [(0, b"small")]

    run(test, PATIENT)


def test_a_message_that_would_become_too_large_is_not_made() -> None:
    async def test(world: World, number: int) -> None:
        packer = zlib.compressobj(9, wbits=31)
        bomb = b"".join(packer.compress(bytes(1 << 20)) for _ in range(512)) + packer.flush()
        assert len(bomb) < 1 << 20
        async with Client(number) as client:
            answer = await client.call("/echo", bomb, ("grpc-encoding", "gzip"), flag=1)
            assert (answer.code, "when decompressed" in answer.words) == (8, True)

    run(test, PATIENT)


def test_large_messages_share_an_allowance_and_give_it_back() -> None:
    async def test(world: World, number: int) -> None:
        async with Client(number) as client:
            streams = [client.begin("/echo") for _ in range(3)]
            for stream in streams:
                client.h2.send_data(stream, message(bytes(16 << 20))[:5000])
            client.flush()
            refused = await client.answer(streams[2])
            assert (refused.code, "too many large requests" in refused.words) == (8, True)
            for stream in streams[:2]:
                client.h2.reset_stream(stream)
            client.flush()
            await eventually(lambda: world.reserved == 0)

    run(test, PATIENT)


def test_what_compressed_messages_become_shares_that_allowance() -> None:
    async def test(world: World, number: int) -> None:
        packed = zlib.compress(bytes(12 << 20))  # some KiB on the wire
        async with Client(number) as client:
            streams = [client.begin("/late", ("grpc-encoding", "deflate")) for _ in range(3)]
            for stream in streams[:2]:
                await client.send(stream, message(packed, 1))
            await eventually(lambda: len(world.late) == 2)
            assert 24 << 20 <= world.reserved <= 25 << 20
            await client.send(streams[2], message(packed, 1))
            refused = await client.answer(streams[2])
            assert (refused.code, "too many large requests" in refused.words) == (8, True)
            for exchange in world.late:
                exchange.reply((b"done",))
            assert (await client.answer(streams[1])).code == 0
            await eventually(lambda: world.reserved == 0)

    run(test, PATIENT)


# --- Time ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        PREFACE[:10],
        PREFACE + b"\x00\x00",
        PREFACE + frame(HEADERS, 0, 1, HEAD),
        PREFACE + frame(HEADERS, 4, 1, HEAD)[:-1],
    ],
    ids=["nothing", "part of the preface", "part of a frame", "a header without end", "part of a header"],
)
def test_a_client_that_does_not_go_on_is_dropped(sent: bytes) -> None:
    async def test(world: World, number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", number)
        writer.write(sent)
        await reader.read()
        writer.close()
        await eventually(lambda: not world.port.connections)

    run(test)


def test_a_message_that_does_not_go_on_ends_its_call_alone() -> None:
    async def test(world: World, number: int) -> None:
        async with Client(number) as client:
            for path in ("/echo", "/talk"):
                stream = client.begin(path)
                await client.send(stream, message(b"abc")[:-1], end=False)
                answer = await client.answer(stream)
                assert (answer.code, "did not arrive" in answer.words) == (4, True)
            silent = client.begin("/talk")
            await asyncio.sleep(1)
            await client.send(silent, message(b"late, but no message was begun"))
            assert (await client.answer(silent)).code == 0

    run(test, replace(SHORT, idle_seconds=10))


@pytest.mark.parametrize("there", [True, False])
def test_a_client_that_waits_in_silence_is_asked_whether_it_is_there(there: bool) -> None:
    async def test(world: World, number: int) -> None:
        async with Client(number) as client:
            late = client.begin("/late")
            await client.send(late, message(b""))
            await eventually(lambda: bool(world.late))
            if not there:
                await eventually(lambda: not world.port.connections)
                assert world.late[0].gone
                return
            reading = asyncio.ensure_future(client.answer(late))  # and it answers pings meanwhile
            (connection,) = world.port.connections
            await eventually(lambda: connection.http2.echoes > 1)
            world.late[0].reply((b"at last",))
            assert (await reading).messages == [(0, b"at last")]

    run(test, replace(PATIENT, ping_seconds=0.6))


@pytest.mark.parametrize("limits", [SHORT, replace(SHORT, idle_seconds=10, age_seconds=0.3)], ids=["idle", "old"])
def test_an_idle_or_old_connection_is_asked_to_end_and_ends(limits: Limits) -> None:
    async def test(world: World, number: int) -> None:
        async with Client(number) as client:
            assert (await client.call("/echo", b"")).code == 0
            assert await client.until_closed() == 0
            await eventually(lambda: not world.port.connections)

    run(test, limits)


def test_a_drain_asks_clients_to_leave_and_answers_those_that_do_not() -> None:
    async def test(world: World, number: int) -> None:
        async with Client(number) as client, Client(number) as idle:
            assert (await client.call("/echo", b"")).code == 0
            late, held = client.begin("/late"), client.begin("/held")
            await client.send(late, message(b""))
            await eventually(lambda: bool(world.late) and bool(world.held))
            world.port.draining = True
            while client.left is None:
                await client.more()
            assert client.left == 0
            async with Client(number) as new:
                assert (await new.call("/echo", b"new")).code == 0
            world.port.stop_listening()
            assert world.port.close_idle(0) > 0
            await asyncio.sleep(1.5)
            world.port.close_idle(0)
            answer = await client.answer(held)  # nothing happens in it
            assert (answer.code, "going" in answer.words) == (14, True)
            world.late[0].reply((b"at last",))
            assert (await client.answer(late)).messages == [(0, b"at last")]
            await eventually(lambda: world.port.close_idle(0) == 0)
            assert await client.until_closed() == await idle.until_closed() == 0

    run(test, replace(PATIENT, linger_seconds=10))


def test_who_leaves_is_not_answered_and_not_forgotten() -> None:
    async def test(world: World, number: int) -> None:
        async with Client(number) as client:
            late, held = client.begin("/late"), client.begin("/held")
            await client.send(late, message(b""))
            await eventually(lambda: bool(world.late) and bool(world.held))
            client.h2.reset_stream(late)
            client.h2.reset_stream(held)
            client.flush()
            await eventually(lambda: world.late[0].gone and world.held[0].left)
            world.late[0].reply((b"too late",))
            assert (await client.call("/echo", b"")).code == 0
            for end in (False, True):  # whether the client has said all that it has to say
                await client.send(client.begin("/held"), message(b""), end=end)
            await eventually(lambda: len(world.held) == 3)
        await eventually(lambda: world.held[1].left and world.held[2].left)

    run(test, PATIENT)


# --- Clients that are none -------------------------------------------------------------------------------------------


async def farewell(number: int, sent: bytes) -> int | None:
    """The code that a connection is ended with; None if it is just closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", number)
    writer.write(sent)
    received = b""
    try:
        while chunk := await reader.read(1 << 16):
            received = (received + chunk)[-(1 << 20) :]
    except ConnectionError:
        pass
    writer.close()
    code = None
    while len(received) >= 9:
        size = int.from_bytes(received[:3], "big")
        if received[3] == GOAWAY:
            code = int.from_bytes(received[13:17], "big")
        received = received[9 + size :]
    return code


def opened(*frames: bytes) -> bytes:
    """A call that goes on, and frames behind its header."""
    return PREFACE + frame(HEADERS, 4, 1, HEAD) + b"".join(frames)


BOMB = b"\x40\x01a\x7f\xd9\x1e" + b"x" * 3928
FLOODS: dict[str, tuple[bytes, int]] = {
    "pings": (PREFACE + frame(PING, 0, 0, bytes(8)) * 2000, CALM),
    "settings": (PREFACE + frame(SETTINGS, 0, 0) * 2000, CALM),
    "priorities": (PREFACE + frame(PRIORITY, 0, 1, bytes(3) + b"\x03\x00") * 2000, CALM),
    "empty data": (opened(frame(DATA, 0, 1) * 2000), CALM),
    "window updates": (opened(frame(WINDOW, 0, 1, b"\x00\x00\x00\x01") * 2000), CALM),
    "unknown frames": (PREFACE + frame(0x42, 0, 0, b"x") * 2000, CALM),
    "resets": (
        PREFACE + b"".join(frame(HEADERS, 4, n, HEAD) + frame(RST, 0, n, bytes(4)) for n in range(1, 4001, 2)), CALM
    ),
    "own errors": (PREFACE + b"".join(frame(HEADERS, 4, n, HEAD[:-2] + b"\x01\x00") for n in range(1, 4001, 2)), CALM),
    "continuations": (PREFACE + frame(HEADERS, 0, 1) + frame(CONTINUATION, 0, 1) * 2000, CALM),
    "a long header": (PREFACE + frame(HEADERS, 0, 1, bytes(16_000)) + frame(CONTINUATION, 0, 1, bytes(16_000)), CALM),
}  # fmt: skip


@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_is_ended_and_others_notice_nothing(name: str) -> None:
    sent, code = FLOODS[name]

    async def test(world: World, number: int) -> None:
        async with Client(number) as other:
            assert (await other.call("/echo", b"before")).code == 0
            assert await farewell(number, sent) in (code, None)
            assert (await other.call("/echo", b"after")).code == 0
            await eventually(lambda: len(world.port.connections) == 1)

    run(test, PATIENT)


def test_header_fields_that_unfold_to_megabytes_are_refused_without_being_made() -> None:
    async def test(world: World, number: int) -> None:
        sent = PREFACE + frame(HEADERS, 5, 1, HEAD + BOMB + b"\xbe" * 12_000)
        assert await farewell(number, sent + frame(GOAWAY, 0, 0, bytes(8)) + frame(0x3, 0, 0, bytes(4))) == PROTOCOL

    run(test, PATIENT)


WRONG: dict[str, tuple[bytes, int]] = {
    "no preface": (b"x" * 24, PROTOCOL),
    "an even stream": (PREFACE + frame(HEADERS, 5, 2, HEAD), PROTOCOL),
    "a header on stream 0": (PREFACE + frame(HEADERS, 5, 0, HEAD), PROTOCOL),
    "data on stream 0": (PREFACE + frame(DATA, 1, 0, b"x"), PROTOCOL),
    "data on a stream that is not there": (PREFACE + frame(DATA, 1, 1, b"x"), PROTOCOL),
    "a reset of a stream that is not there": (PREFACE + frame(RST, 0, 1, bytes(4)), PROTOCOL),
    "a push": (PREFACE + frame(PUSH, 0, 1, bytes(4)), PROTOCOL),
    "a continuation of nothing": (PREFACE + frame(CONTINUATION, 4, 1), PROTOCOL),
    "another frame within a header": (PREFACE + frame(HEADERS, 0, 1, HEAD) + frame(PING, 0, 0, bytes(8)), PROTOCOL),
    "a large frame": (opened(frame(DATA, 0, 1, bytes(16_385))), FRAME_SIZE),
    "a short ping": (PREFACE + frame(PING, 0, 0, bytes(7)), FRAME_SIZE),
    "half a setting": (PREFACE + frame(SETTINGS, 0, 0, bytes(5)), FRAME_SIZE),
    "settings of a stream": (PREFACE + frame(SETTINGS, 0, 1), PROTOCOL),
    "a window that is too large": (PREFACE + frame(SETTINGS, 0, 0, b"\x00\x04\xff\xff\xff\xff"), FLOW),
    "windows that sum up too large": (PREFACE + frame(WINDOW, 0, 0, b"\x7f\xff\xff\xff"), FLOW),
    "a window that grows by nothing": (PREFACE + frame(WINDOW, 0, 0, bytes(4)), PROTOCOL),
    "a header that is none": (PREFACE + frame(HEADERS, 5, 1, b"\xff\xff\xff\xff\xff"), COMPRESSION),
    "padding without end": (opened(frame(DATA, 8, 1, b"\x05abc")), PROTOCOL),
    "two headers": (opened(frame(DATA, 1, 1, message(b"")), frame(HEADERS, 5, 1, HEAD)), CLOSED),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_http2_ends_the_connection(name: str) -> None:
    sent, code = WRONG[name]

    async def test(world: World, number: int) -> None:
        assert await farewell(number, sent) == code

    run(test, PATIENT)


@pytest.mark.parametrize(
    "head",
    [
        header(**{":method": None, ":Method": b"POST"}),
        header(**{":path": None}),
        header(**{":path": b""}),
        header(connection=b"close"),
        header(te=b"gzip"),
        HEAD + encode([(b":path", b"/")]),
        encode([(b"x", b"y")]) + HEAD,
        header(**{"content-length": b"x"}),
        header(x=b"a\nb"),
        header(x=b"x" * 16_200),
    ],
)
def test_a_request_that_is_malformed_is_reset_and_the_next_answered(head: bytes) -> None:
    async def test(world: World, number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", number)
        writer.write(PREFACE + frame(HEADERS, 5, 1, head))
        writer.write(frame(HEADERS, 4, 3, HEAD) + frame(DATA, 1, 3, message(b"good")))
        received = b""
        while b"good" not in received:
            received += await reader.read(1 << 16)
        assert frame(RST, 0, 1, b"")[3:] in received
        writer.close()

    run(test, PATIENT)


def test_more_data_than_a_window_resets_its_stream() -> None:
    async def test(world: World, number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", number)
        writer.write(opened(*[frame(DATA, 0, 1, message(bytes(16_000)))] * 5))
        received = b""
        while frame(RST, 0, 1, bytes([0, 0, 0, FLOW])) not in received:
            received += await reader.read(1 << 16)
        writer.close()

    run(test, PATIENT)


def test_a_length_that_was_said_must_be_right() -> None:
    async def test(world: World, number: int) -> None:
        async with Client(number) as client:
            for said, reset in ((5, None), (4, PROTOCOL), (6, PROTOCOL)):
                stream = client.begin("/echo", ("content-length", "5"))
                client.h2.send_data(stream, message(b""), end_stream=True)
                data = client.h2.data_to_send()
                assert data[-5:] == message(b"")
                client.writer.write(data if said == 5 else data[:-14] + frame(DATA, 1, stream, bytes(said)))
                answer = await client.answer(stream)
                assert (answer.reset, answer.ended) == (reset, reset is None)

    run(test, PATIENT)


@pytest.mark.parametrize("method", ["GET /v2 HTTP/1.1", "POST / HTTP/1.1"])
def test_http1_is_told_where_it_is(method: str) -> None:
    async def test(world: World, number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", number)
        writer.write(f"{method}\r\nHost: test\r\n\r\n".encode())
        answer = await reader.read()
        writer.close()
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400")
        assert b"content-length: %d\r\n" % len(body) in head + b"\r\n"
        assert b"gRPC" in body

    run(test, PATIENT)


# --- Rubbish ---------------------------------------------------------------------------------------------------------

FRAMES = st.builds(
    frame,
    st.integers(0, 11),
    st.integers(0, 255),
    st.integers(0, 9) | st.integers(0, 2**31 - 1),
    st.binary(max_size=40),
)
SENSE = st.sampled_from(
    [
        *(frame(HEADERS, 4, number, HEAD) for number in (1, 3, 5)),
        *(frame(DATA, flags, number, message(b"x" * 9)) for flags in (0, 1) for number in (1, 3)),
        *(frame(WINDOW, 0, number, b"\x00\x00\x10\x00") for number in (0, 1)),
        frame(RST, 0, 1, bytes(4)),
        frame(PING, 0, 0, bytes(8)),
    ]
)


@given(st.lists(SENSE | FRAMES | st.binary(max_size=60), max_size=40), st.integers(1, 200))
@settings(max_examples=200, deadline=None)
def test_rubbish_is_survived_and_not_remembered(pieces: list[bytes], size: int) -> None:
    """In one process without sockets: the same code takes the octets as the transport would hand them over."""
    world = World(PATIENT)
    world.port.now = 1.0
    connection = Connection(world.port)
    data = PREFACE + b"".join(pieces)
    for start in range(0, len(data), size):
        connection.http2.receive(data[start : start + size])
    http2 = connection.http2
    assert len(http2.streams) <= 128
    assert sum(map(len, http2.out)) <= 20 * len(data) + 1000
    http2.lost()
    assert (http2.streams, http2.waiting, world.reserved) == ({}, {}, 0)
