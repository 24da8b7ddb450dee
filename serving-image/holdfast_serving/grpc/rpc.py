"""gRPC over HTTP/2: one call on a stream."""

from __future__ import annotations

import logging
import math
import time
from asyncio import Future
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from holdfast_serving.grpc import compression, frames, hpack, status
from holdfast_serving.grpc.exchange import MAX_UNANSWERED, Conversation, Exchange, Method, Streaming, Unary
from holdfast_serving.grpc.frames import Buffer
from holdfast_serving.grpc.http2 import Fields
from holdfast_serving.grpc.stream import STREAM_WINDOW, Stream
from holdfast_serving.problems import Problem, busy, quoted
from holdfast_serving.served import going

if TYPE_CHECKING:
    from holdfast_serving.grpc.connection import Connection

log = logging.getLogger(__name__)

TIMEOUT = b"grpc-timeout"

_PREFIX_BYTES = 5
_FREE_BYTES = 4096  # of a message that is there in part, before it counts against Limits.buffered_bytes
_MAX_INLINE_BYTES = 64 << 10  # of an answer that is put together with its frames

_QUIET_SECONDS = 1.0  # without a message, in a stream that keeps the port from closing

_TYPES = frozenset({b"application/grpc", b"application/grpc+proto"})
_UNITS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_MAX_TIMEOUT_LENGTH = 9  # eight digits and a unit

_PLAIN = hpack.encode([(b":status", b"200"), (b"content-type", b"application/grpc")])
_CODED = {bits: _PLAIN + hpack.encode([(b"grpc-encoding", coding)]) for coding, bits in compression.CODINGS.items()}
_DONE = status.trailers(status.Code.OK)


@dataclass(frozen=True, slots=True)
class Head:
    """What the header of a call means.

    Attributes:
        method: None when the call is refused.
        refusal: the block of the whole answer then.
        is_grpc: whether its client speaks gRPC, and so is told at once. Others finish speaking first.
        bits: zlib's window bits for messages that are marked as compressed; 0: there must not be any.
        answer_bits: the same for messages of the answer.
    """

    method: Method | None
    refusal: bytes = b""
    is_grpc: bool = True
    bits: int = 0
    answer_bits: int = 0


def read_head(fields: Fields, methods: dict[bytes, Method]) -> Head:
    """The meaning of a request's fields."""
    if fields[b":method"] != b"POST":
        return Head(None, hpack.encode([(b":status", b"405"), (b"allow", b"POST")]), is_grpc=False)
    if fields.get(b"content-type", b"").partition(b";")[0].strip() not in _TYPES:
        return Head(None, hpack.encode([(b":status", b"415")]), is_grpc=False)
    method = methods.get(fields[b":path"])
    if method is None:
        return _refused(501, f"no method {quoted(fields[b':path'].decode(errors='replace'))} here")
    bits = 0
    coding = fields.get(b"grpc-encoding", b"identity")
    if coding != b"identity":
        bits = compression.CODINGS.get(coding, 0)
        if not bits:
            return _refused(501, "the messages are compressed in a way that is not known here")
    # Who compresses wants it compressed, if they say that they can read it.
    wanted = bits and coding in fields.get(b"grpc-accept-encoding", b"").replace(b" ", b"").split(b",")
    return Head(method, bits=bits, answer_bits=bits if wanted else 0)


def read_timeout(value: bytes) -> float:
    """Seconds. Raises ValueError for a value that is none."""
    unit = _UNITS.get(value[-1:])
    if unit is None or len(value) > _MAX_TIMEOUT_LENGTH or not value[:-1].isdigit():
        raise ValueError(value)
    return int(value[:-1]) * unit


def _refused(code: int, message: str) -> Head:
    more = ((b"grpc-accept-encoding", compression.ACCEPTED),)
    return Head(None, _PLAIN + status.trailers(status.code_of(Problem(code, message)), message, *more))


_TIMELESS = _refused(400, "grpc-timeout is not a number of at most eight digits with a unit")


class Rpc(Stream, Exchange):
    """A call.

    Attributes:
        since: when it was opened, or last made progress, on the port's clock.
    """

    __slots__ = (
        "_begun", "_buffer", "_conversation", "_finished", "_head", "_inbox", "_left", "_peer", "_reserved",
        "_unanswered", "_unpacking", "deadline", "since",
    )  # fmt: skip

    def __init__(self, peer: Connection, number: int, head: Head, timeout: bytes | None) -> None:
        Stream.__init__(self, peer.http2, number)
        self._peer = peer
        self._head = head
        self.deadline = math.inf
        if timeout is not None and head.method is not None:
            try:
                self.deadline = time.perf_counter() + read_timeout(timeout)
            except ValueError:
                self._head = _TIMELESS
        self.since = peer.port.now
        self._buffer: bytearray | None = None  # of a message that is not complete
        self._inbox: deque[tuple[int, Buffer]] | None = None  # (flag, message) of those that wait for their turn
        self._reserved = 0
        self._unanswered = 0
        self._unpacking = self._begun = self._finished = self._left = False
        self._conversation: Conversation | None = None

    # What HTTP/2 calls.

    def on_open(self) -> None:
        method = self._head.method
        if method is None:
            self._refuse()
        elif type(method) is Streaming:
            self._conversation = method.open(self)
            self._deliver()
        elif self.received_all:
            self.on_data(b"")

    def on_data(self, data: bytes) -> None:
        if self.answered:
            return
        self.since = self._peer.port.now
        if self._head.method is None:
            self._refuse()
        elif (
            self.received_all
            and self._buffer is None
            and self._inbox is None
            and len(data) >= _PREFIX_BYTES
            and int.from_bytes(data[1:5], "big") == len(data) - _PREFIX_BYTES
            and not data[0]
            and self._conversation is None
        ):
            self._call(data[_PREFIX_BYTES:])
        else:
            if data:
                self._gather(data)
            if not self.answered:
                self._deliver()

    def on_reset(self) -> None:
        self._release()
        if self._conversation is not None and not self._left:
            self._left = True
            self._conversation.leave()

    # What the service calls.

    @property
    def gone(self) -> bool:
        return self.answered

    def reply(self, parts: Sequence[Buffer]) -> None:
        if self.answered:
            return
        bits = self._head.answer_bits
        size = sum([len(part) for part in parts])
        if not bits or size < compression.LEAST_BYTES:
            self._send(b"\x00", parts)
        elif size <= compression.INLINE_BYTES:
            self._send(b"\x01", _packed(parts, bits))
        elif self._conversation is None:
            self._peer.port.in_thread(partial(_packed, parts, bits), self._reply_packed)
        else:  # it would have to be waited for, and what comes behind it, too
            self._send(b"\x00", parts)

    def close(self) -> None:
        if not self.answered:
            self._end((b"" if self._begun else _PLAIN) + _DONE)

    def fail(self, problem: Problem) -> None:
        if self.answered:
            return
        block = status.trailers(status.code_of(problem), problem.message)
        self._end(block if self._begun else _PLAIN + block)

    # Time, and the end.

    def dismiss(self) -> None:
        """The port is closing: end a stream in which nothing happens."""
        idle = self._conversation is not None and self._unanswered <= 0 and not (self._buffer or self._inbox)
        if idle and not self.answered and self.since < self._peer.port.now - _QUIET_SECONDS:
            self.fail(going())

    def check(self, now: float, clock: float) -> None:
        """See whether it is too late for anything. `clock`: time.perf_counter()."""
        limits = self._peer.port.limits
        if self.number in self.http2.waiting and now - self.since > limits.write_seconds:
            self.reset(frames.CANCEL)
        elif clock > self.deadline:
            self.fail(Problem(504, "the call took longer than its client wanted to wait"))
        elif now - self.since > limits.body_seconds and self._is_receiving:
            self.fail(Problem(408, "the message did not arrive in time"))

    def move(self) -> bool:
        moved = Stream.move(self)
        if moved:
            self.since = self._peer.port.now
        return moved

    # Receiving.

    @property
    def _is_receiving(self) -> bool:
        """Whether a message is there in part, or a call without one."""
        if self._conversation is None:
            return not self.received_all
        return bool(self._buffer) and not self._inbox

    def _refuse(self) -> None:
        if self._head.is_grpc or self.received_all or self.room < STREAM_WINDOW // 2:
            self._end(self._head.refusal)

    def _gather(self, data: bytes) -> None:
        if self._buffer is None:
            self._buffer = bytearray()
        self._buffer += data
        self._cut()

    def _cut(self) -> bool:
        """Make messages of what is there, but not many at a time: they take more memory. Whether there were any."""
        buffer = self._buffer
        limit = self._peer.port.limits.body_bytes
        inbox: deque[tuple[int, Buffer]] = self._inbox or deque()
        while buffer is not None and len(buffer) >= _PREFIX_BYTES and len(inbox) < MAX_UNANSWERED:
            size = _PREFIX_BYTES + int.from_bytes(buffer[1:_PREFIX_BYTES], "big")
            if size > limit + _PREFIX_BYTES:
                self.fail(Problem(413, f"a message has more than {limit} bytes"))
                return False
            if len(buffer) < size:
                self._make_room(size, len(buffer))
                break
            if len(buffer) == size:
                inbox.append((buffer[0], memoryview(buffer)[_PREFIX_BYTES:]))
                buffer = self._buffer = None
            else:
                inbox.append((buffer[0], bytes(memoryview(buffer)[_PREFIX_BYTES:size])))
                del buffer[:size]
        if not self.answered:
            self._inbox = inbox
        return bool(inbox)

    def _make_room(self, size: int, there: int) -> None:
        """A message has come in part: take the rest of it if there is memory for it."""
        if size > _FREE_BYTES and size > self._reserved:
            if not self._peer.port.reserve(size - self._reserved):
                self.fail(busy("too many large requests at once; try again"))
                return
            self._reserved = size
        self.widen(size - there)

    def _release(self) -> None:
        self._buffer = self._inbox = None
        self._give_back()

    def _give_back(self) -> None:
        if self._reserved:
            self._peer.port.reserve(-self._reserved)
            self._reserved = 0

    def _deliver(self) -> None:
        """Hand over messages whose turn it is."""
        if self._conversation is not None:
            self._converse(self._conversation)
        elif self.received_all and not self._unpacking:
            if not self._inbox or len(self._inbox) > 1 or self._buffer:
                what = "takes one message" if self._inbox else "has no whole message"
                self.fail(Problem(400, f"the call {what}"))
            else:
                self._take(*self._inbox.popleft())

    def _converse(self, conversation: Conversation) -> None:
        while self._inbox or self._cut():
            if self._unpacking or self.answered or self._unanswered >= MAX_UNANSWERED or not self._inbox:
                return
            self._take(*self._inbox.popleft())
        if self.answered or self._unpacking:
            return
        if self.room < STREAM_WINDOW // 2:
            self.widen(STREAM_WINDOW)
        if self.received_all and not self._finished:
            self._finish(conversation)

    def _finish(self, conversation: Conversation) -> None:
        """Nothing more comes."""
        if self._buffer:
            self.fail(Problem(400, "the last message is not complete"))
            return
        self._finished = True
        try:
            conversation.finish()
        except Problem as problem:
            self.fail(problem)

    def _take(self, flag: int, message: Buffer) -> None:
        if flag == 0:
            self._call(message)
        elif flag != 1 or not self._head.bits:
            self.fail(Problem(500, "a message is marked as compressed, and the call says that none is"))
        else:
            limit = self._peer.port.limits.body_bytes
            unpack = partial(compression.decompress, message, self._head.bits, limit)
            if len(message) <= compression.SMALL_BYTES:  # compressed
                self._call_unpacked(unpack(), 0)
            elif self._hold(limit):
                self._unpacking = True
                self._peer.port.in_thread(unpack, self._unpacked)

    def _unpacked(self, future: Future[bytes | Problem]) -> None:
        self._unpacking = False
        if not self.answered:
            self._call_unpacked(future.result(), self._peer.port.limits.body_bytes)
            if self._conversation is not None and not self.answered:
                self._deliver()

    def _call_unpacked(self, message: bytes | Problem, held: int) -> None:
        """`held`: bytes that were taken for it."""
        if isinstance(message, Problem):
            self.fail(message)
        elif self._hold(len(message) - held):
            self._call(message)

    def _hold(self, size: int) -> bool:
        """Take more of what large messages may use; the call fails when there is no more."""
        if self._peer.port.reserve(size):
            self._reserved += size
            return True
        self.fail(busy("too many large requests at once; try again"))
        return False

    def _call(self, message: Buffer) -> None:
        """A message is there. While the client does not read what it has got, it waits."""
        method = self._head.method
        if type(method) is Unary:
            if self._peer.full:
                self._peer.put_off(partial(self._call, message))
                return
        else:
            self._unanswered += 1
        try:
            if self._conversation is not None:
                self._conversation.receive(message)
            elif type(method) is Unary and not self.answered:
                method.call(self, message)
        except Problem as problem:
            self.fail(problem)
        except Exception:
            log.exception("a call failed inside the server")
            self.fail(Problem(500, "the server failed on this call"))

    # Answering.

    def _reply_packed(self, future: Future[list[Buffer]]) -> None:
        if not self.answered:
            self._send(b"\x01", future.result())

    def _send(self, flag: bytes, parts: Sequence[Buffer]) -> None:
        size = sum([len(part) for part in parts])
        prefix = flag + size.to_bytes(4, "big")
        head = _CODED[self._head.answer_bits] if self._head.answer_bits else _PLAIN
        if self._conversation is None:
            self._give_back()
            if size <= _MAX_INLINE_BYTES:
                self.answer(head, prefix + b"".join(parts), _DONE)
            else:
                self.begin(head)
                self.send((prefix, *parts))
                self.end(_DONE)
        else:
            if not self._begun:
                self._begun = True
                self.begin(head)
            self.send((prefix, *parts))
            self._unanswered -= 1
            if not self._unanswered and self._buffer is None and not self._inbox:
                self._give_back()
            if self._inbox and self._unanswered == MAX_UNANSWERED - 1:
                self._deliver()
        self._peer.touch()

    def _end(self, block: bytes) -> None:
        self._release()
        self.end(block)
        self.on_reset()
        self._peer.touch()


def _packed(parts: Sequence[Buffer], bits: int) -> list[Buffer]:
    return [compression.compress(b"".join(parts), bits)]
