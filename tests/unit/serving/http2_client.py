"""A client that knows what it sends: HTTP/2 by the library h2, on a stream of asyncio, frame by frame."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.exceptions

from holdfast_serving.grpc.hpack import encode

Headers = list[tuple[str, str]]

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
"""With empty SETTINGS."""


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def message(content: bytes, flag: int = 0) -> bytes:
    """As gRPC frames it."""
    return bytes([flag]) + len(content).to_bytes(4, "big") + content


def header(**changes: bytes | None) -> bytes:
    """The header of a call of /echo; None leaves a field out."""
    fields = {":method": b"POST", ":scheme": b"http", ":path": b"/echo", "content-type": b"application/grpc", **changes}
    return encode([(name.encode(), value) for name, value in fields.items() if value is not None])


class Answer:
    """What came on one stream."""

    def __init__(self) -> None:
        self.headers: dict[str, str] = {}
        self.trailers: dict[str, str] = {}
        self.data = bytearray()
        self.ended = False
        self.reset: int | None = None

    @property
    def code(self) -> int:
        """The gRPC status."""
        return int({**self.headers, **self.trailers}["grpc-status"])

    @property
    def words(self) -> str:
        return {**self.headers, **self.trailers}.get("grpc-message", "")

    @property
    def messages(self) -> list[tuple[int, bytes]]:
        """(flag, content) of each."""
        found, data = [], bytes(self.data)
        while data:
            size = int.from_bytes(data[1:5], "big")
            found.append((data[0], data[5 : 5 + size]))
            data = data[5 + size :]
        return found


class Client:
    """A connection.

    Attributes:
        acknowledges: whether data is acknowledged as it comes; otherwise the server's window runs out.
        left: the error code of the server's GOAWAY; None as long as there was none.
        closed: the server has closed the connection.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        config = h2.config.H2Configuration(client_side=True, header_encoding="utf-8")
        self.h2 = h2.connection.H2Connection(config)
        self.answers: dict[int, Answer] = defaultdict(Answer)
        self.acknowledges = True
        self.left: int | None = None
        self.closed = False
        self._rest = b""
        self.pings = 0

    async def __aenter__(self) -> Client:
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self._port)
        self.h2.initiate_connection()
        self.flush()
        return self

    async def __aexit__(self, *error: object) -> None:
        self.writer.close()
        with suppress(ConnectionError):
            await self.writer.wait_closed()

    def flush(self) -> None:
        self.writer.write(self.h2.data_to_send())

    def begin(self, path: str, *more: tuple[str, str], end: bool = False, method: str = "POST") -> int:
        """Send the header of a call; the number of its stream."""
        number: int = self.h2.get_next_available_stream_id()
        headers: Headers = [
            (":method", method), (":scheme", "http"), (":path", path), (":authority", "test"),
            ("te", "trailers"), ("content-type", "application/grpc"),
        ]  # fmt: skip
        named = {name for name, _ in more}
        self.h2.send_headers(number, [pair for pair in headers if pair[0] not in named] + list(more), end_stream=end)
        self.flush()
        return number

    async def send(self, number: int, data: bytes, *, end: bool = True) -> None:
        """Send data as the server takes it."""
        while data:
            size = min(self.h2.local_flow_control_window(number), self.h2.max_outbound_frame_size, len(data))
            if size <= 0:
                if not await self.more():
                    return
                continue
            self.h2.send_data(number, data[:size])
            data = data[size:]
            self.flush()
        if end:
            self.h2.end_stream(number)
            self.flush()

    async def call(self, path: str, content: bytes, *more: tuple[str, str], flag: int = 0) -> Answer:
        """A whole call."""
        number = self.begin(path, *more)
        await self.send(number, message(content, flag))
        return await self.answer(number)

    async def answer(self, number: int) -> Answer:
        """What comes on a stream until it ends, or the connection does."""
        answer = self.answers[number]
        while not answer.ended and answer.reset is None:
            if not await self.more():
                break
        return answer

    async def until_closed(self) -> int | None:
        """The error code that the server ends the connection with; None if it says nothing."""
        while await self.more():
            pass
        return self.left

    async def more(self) -> bool:
        """Take in what comes next; False when the server has closed the connection."""
        try:
            data = await self.reader.read(1 << 16)
        except ConnectionError:
            data = b""
        if not data:
            self.closed = True
            return False
        self._rest += data
        while len(self._rest) >= 9 and len(self._rest) >= 9 + int.from_bytes(self._rest[:3], "big"):
            size = 9 + int.from_bytes(self._rest[:3], "big")
            whole, self._rest = self._rest[:size], self._rest[size:]
            self._take(whole)
        self.flush()
        return True

    def _take(self, whole: bytes) -> None:
        if whole[3] == 7:  # GOAWAY: h2 would read nothing more, though answers still come
            self.left = int.from_bytes(whole[13:17], "big")
            return
        try:
            events: Sequence[Any] = self.h2.receive_data(whole)
        except h2.exceptions.StreamClosedError:  # an answer to what was reset meanwhile
            return
        for event in events:
            self._note(event)

    def _note(self, event: Any) -> None:
        answer = self.answers[getattr(event, "stream_id", 0)]
        if isinstance(event, h2.events.ResponseReceived):
            answer.headers = dict(event.headers)
        elif isinstance(event, h2.events.TrailersReceived):
            answer.trailers = dict(event.headers)
        elif isinstance(event, h2.events.DataReceived):
            answer.data += event.data
            if self.acknowledges and event.flow_controlled_length:
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.StreamEnded):
            answer.ended = True
        elif isinstance(event, h2.events.StreamReset):
            answer.reset = event.error_code
        elif isinstance(event, h2.events.PingAckReceived):
            self.pings += 1
