"""Messages between two processes of a pod, over a Unix socket that one has given the other when it started it.

A message is JSON with its length in front. Whoever asks is answered: each side may ask the other, and what comes
first is answered first.
"""

from __future__ import annotations

import asyncio
import logging
import struct
from collections.abc import Callable
from typing import Any, Protocol, cast

import orjson

from holdfast_serving.problems import Problem
from holdfast_serving.served import Fail, Then, UnavailableProblem

log = logging.getLogger(__name__)

MAX_BYTES = 32 << 20
"""Of one message. No body that a client sends becomes larger, and none that is larger is sent."""

_LENGTH = struct.Struct(">I")


class Hear(Protocol):
    """Answers what the other side asks: calls one of `then` and `fail`, now or later, or raises Problem."""

    def __call__(self, what: str, argument: Any, then: Then, fail: Fail) -> None: ...


class Link(asyncio.Protocol):
    """One end."""

    def __init__(self, hear: Hear, lost: Callable[[], None]) -> None:
        """`lost`: is called once, when the other side is gone."""
        self._hear = hear
        self._lost = lost
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._asked = 0
        self._waiting: dict[int, _Question] = {}

    def ask(self, what: str, argument: Any, then: Then, fail: Fail, seconds: float) -> None:
        """Ask the other side; without an answer in time, or where it cannot be asked, `fail` is called."""
        if self._transport is None:
            fail(_silent())
            return
        self._asked += 1
        number = self._asked
        late = asyncio.get_running_loop().call_later(seconds, self._end, number, _silent())
        self._waiting[number] = _Question(then, fail, late)
        try:
            self._send({"ask": number, "what": what, "argument": argument})
        except Problem as problem:
            self._end(number, problem)

    def close(self) -> None:
        """Hang up, when what has been said is sent."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        for number in list(self._waiting):
            self._end(number, _silent())
        self._lost()

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        while len(buffer) >= _LENGTH.size:
            (size,) = _LENGTH.unpack_from(buffer)
            if size > MAX_BYTES:
                raise RuntimeError(f"a message of {size} bytes between processes")  # the loop ends the connection
            end = _LENGTH.size + size
            if len(buffer) < end:
                return
            message = orjson.loads(memoryview(buffer)[_LENGTH.size : end])
            del buffer[:end]
            self._take(message)

    def _take(self, message: dict[str, Any]) -> None:
        if "ask" not in message:
            problem = message.get("problem")
            self._end(message["to"], Problem(*problem) if problem else None, message.get("answer"))
            return
        number = message["ask"]

        def then(answer: Any) -> None:
            try:
                self._send({"to": number, "answer": answer})
            except Problem as problem:
                fail(problem)

        def fail(problem: Problem) -> None:
            self._send({"to": number, "problem": [problem.status, problem.message]})

        try:
            self._hear(message["what"], message["argument"], then, fail)
        except Problem as problem:
            fail(problem)
        except Exception:
            log.exception("a message of another process could not be answered")
            fail(Problem(500, "the server failed on this request"))

    def _end(self, number: int, problem: Problem | None, answer: Any = None) -> None:
        question = self._waiting.pop(number, None)
        if question is None:
            return  # it comes too late
        question.late.cancel()
        if problem is None:
            question.then(answer)
        else:
            question.fail(problem)

    def _send(self, message: dict[str, Any]) -> None:
        """Raises Problem 413 for what is too large, and nothing if nobody is there any more: that is told otherwise."""
        data = orjson.dumps(message, default=_plain)
        if len(data) > MAX_BYTES:
            raise Problem(413, "the body is too large")
        if self._transport is not None:
            self._transport.write(_LENGTH.pack(len(data)) + data)


class _Question:
    """What waits for an answer."""

    __slots__ = ("fail", "late", "then")

    def __init__(self, then: Then, fail: Fail, late: asyncio.TimerHandle) -> None:
        self.then = then
        self.fail = fail
        self.late = late


def _silent() -> Problem:
    return UnavailableProblem(503, "a process of this pod does not answer")


def _plain(value: Any) -> Any:
    """What orjson does not know: metrics, whose samples are named tuples."""
    from prometheus_client import Metric

    if not isinstance(value, Metric):
        raise TypeError(f"{type(value).__name__} in a message")
    samples = [[sample.name, sample.labels, sample.value] for sample in value.samples]
    return [value.name, value.documentation, value.type, samples]
