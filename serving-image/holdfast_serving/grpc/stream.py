"""A request and its answer on one HTTP/2 connection."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

from holdfast_serving.grpc import frames
from holdfast_serving.grpc.frames import END_HEADERS, END_STREAM, HEADERS, MAX_PAYLOAD, Buffer

if TYPE_CHECKING:
    from holdfast_serving.grpc.http2 import Http2

STREAM_WINDOW = 65_535
"""Octets that a client may send on a stream unasked: what HTTP/2 begins with."""

MAX_WINDOW = (1 << 31) - 1

ANSWERED_FRAME = 2
"""What a frame of an answer is worth to the allowance for frames that cost the client nothing."""


class StreamError(Exception):
    """A request cannot go on."""

    def __init__(self, number: int, code: int) -> None:
        self.number = number
        self.code = code


class Stream(ABC):
    """A request and its answer.

    Attributes:
        number: of the stream.
        received_all: the client has said that nothing more comes.
        answered: the last octet of the answer has been handed over, or nobody wants it any more.
        room: octets that the client may send on.
    """

    __slots__ = ("_last", "_missing", "_queue", "_window", "answered", "http2", "number", "received_all", "room")

    def __init__(self, http2: Http2, number: int) -> None:
        self.http2 = http2
        self.number = number
        self.received_all = self.answered = False
        self.room = STREAM_WINDOW
        self._missing: int | None = None  # octets of a body whose length was said
        self._window = http2.initial_window
        self._queue: deque[Buffer] | None = None  # data that waits for the client
        self._last: bytes | None = None  # trailers behind it

    @abstractmethod
    def on_open(self) -> None:
        """The header is there; `received_all` says whether it is all of the request."""

    @abstractmethod
    def on_data(self, data: bytes) -> None:
        """Some of the body; `received_all` says whether it is the last of it."""

    @abstractmethod
    def on_reset(self) -> None:
        """The client has left, or the connection has ended: nobody waits for an answer."""

    def widen(self, room: int) -> None:
        """Let the client send at least `room` octets more."""
        if room > self.room and not self.received_all:
            self.http2.out.append(frames.frame(frames.WINDOW_UPDATE, 0, self.number, frames.number(room - self.room)))
            self.room = room

    def answer(self, block: bytes, data: bytes, trailers: bytes) -> None:
        """A whole answer: header, data, trailers. (Blocks are from `hpack.encode`.)"""
        size, number, http2 = len(data), self.number, self.http2
        if size > MAX_PAYLOAD or size > self._window or size > http2.window:
            self.begin(block)
            self.send((data,))
            self.end(trailers)
            return
        http2.window -= size
        head = frames.head
        http2.out.append(
            b"%b%b%b%b%b%b"
            % (
                head(HEADERS, END_HEADERS, number, len(block)), block, head(frames.DATA, 0, number, size), data,
                head(HEADERS, END_HEADERS | END_STREAM, number, len(trailers)), trailers,
            )
        )  # fmt: skip
        self._ended()

    def begin(self, block: bytes) -> None:
        """The header of the answer."""
        self.http2.out.append(frames.frame(HEADERS, END_HEADERS, self.number, block))

    def send(self, parts: Sequence[Buffer]) -> None:
        """Data of the answer, as soon as the client takes it."""
        if self._queue is None:
            self._queue = deque()
        self._queue.extend(part for part in parts if len(part))
        self.http2.unsent += sum([len(part) for part in parts])
        self.http2.wait(self)

    def end(self, trailers: bytes) -> None:
        """The end of the answer, behind all data."""
        if self._queue:
            self._last = trailers
        else:
            self.http2.out.append(frames.frame(HEADERS, END_HEADERS | END_STREAM, self.number, trailers))
            self._ended()

    def reset(self, code: int) -> None:
        """Break off."""
        self.http2.reset(self.number, code)

    def give_up(self) -> None:
        """Drop what has not been sent."""
        if self._queue:
            self.http2.unsent -= sum([len(part) for part in self._queue])
            self._queue.clear()
        self.http2.waiting.pop(self.number, None)

    def grow(self, step: int) -> bool:
        """The client takes more (or less) from now on. False when that is more than there can be."""
        self._window += step
        return self._window <= MAX_WINDOW

    def move(self) -> bool:
        """Hand over one frame of what waits. False when the client does not take any."""
        http2, queue = self.http2, self._queue
        size = min(self._window, http2.window, MAX_PAYLOAD)
        if size <= 0 or not queue:
            return False
        part = queue.popleft()
        if len(part) > size:
            queue.appendleft(memoryview(part)[size:])
            part = part[:size]
        size = len(part)
        self._window -= size
        http2.window -= size
        http2.unsent -= size
        http2.out += (frames.head(frames.DATA, 0, self.number, size), part)
        http2.pay(ANSWERED_FRAME)
        if not queue:
            del http2.waiting[self.number]
            if self._last is not None:
                self.end(self._last)
        return True

    def expect(self, length: int) -> None:
        """The header said how long the body is."""
        self._missing = length

    def count(self, size: int) -> None:
        """Hold the body to the length that was said. Raises for another length."""
        if self._missing is not None:
            self._missing -= size
            if self._missing < 0 or (self.received_all and self._missing):
                raise StreamError(self.number, frames.PROTOCOL_ERROR)

    def _ended(self) -> None:
        self.answered = True
        self.http2.pay(ANSWERED_FRAME)
        if self.received_all:
            self.http2.streams.pop(self.number, None)
        else:  # whatever still comes is of no use
            self.http2.reset(self.number, frames.NO_ERROR)
