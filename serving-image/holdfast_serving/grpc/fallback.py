"""gRPC by grpcio, in place of the protocol of our own: slower by far, but the transport that everybody knows.

It carries the same methods, which see no difference. Answers are not compressed, and a drain asks clients to leave
when the port closes, not before.
"""

from __future__ import annotations

import asyncio
import logging
import math
import socket
import time
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from typing import Any

import grpc
import grpc.aio

from holdfast_serving.certificates import Certificates
from holdfast_serving.grpc.exchange import MAX_UNANSWERED, Conversation, Exchange, Method, Streaming, Unary
from holdfast_serving.grpc.frames import Buffer
from holdfast_serving.grpc.service import Service
from holdfast_serving.grpc.status import code_of
from holdfast_serving.limits import Limits
from holdfast_serving.port import TICK_SECONDS
from holdfast_serving.problems import Problem

log = logging.getLogger(__name__)

_GRACE_SECONDS = 20.0  # for calls in work when the port closes

_CODES = {code.value[0]: code for code in grpc.StatusCode}


class Port:
    """A listening port, as `port.BasePort` is one.

    Attributes:
        draining: has no effect here.
    """

    def __init__(self, service: Service, limits: Limits | None = None) -> None:
        self._service = service
        self._limits = limits or Limits()
        self._server: grpc.aio.Server | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._stopping: asyncio.Task[None] | None = None
        self.draining = False

    async def listen(self, sock: socket.socket, certificates: Certificates | None = None) -> None:
        """Accept connections where a socket is bound: grpcio makes one of its own in its place. It has no TLS here."""
        limits = self._limits
        address = f"[{sock.getsockname()[0]}]:{sock.getsockname()[1]}"
        if sock.family == socket.AF_INET:
            address = address.replace("[", "").replace("]", "")
        self._server = grpc.aio.server(
            handlers=[_Methods(self._service.methods)],
            options=[
                ("grpc.max_receive_message_length", limits.body_bytes),
                ("grpc.max_send_message_length", -1),
                ("grpc.max_metadata_size", limits.head_bytes),
                ("grpc.max_connection_age_ms", int(limits.age_seconds * 1000)),
                ("grpc.max_connection_idle_ms", int(limits.idle_seconds * 1000)),
            ],
        )
        sock.close()
        self._server.add_insecure_port(address)
        await self._server.start()
        self._tick()

    def is_sought(self, seconds: float) -> bool:
        """Not known."""
        return False

    def stop_listening(self) -> None:
        """Refuse new calls; those that are there go on."""
        if self._server is not None and self._stopping is None:
            self._stopping = asyncio.create_task(self._server.stop(_GRACE_SECONDS))

    def close_idle(self, seconds: float) -> int:
        """How many are left, or a number that is not 0 as long as there are any."""
        return 0 if self._stopping is None or self._stopping.done() else 1

    def stop(self) -> None:
        """Drop everything at once."""
        if self._timer is not None:
            self._timer.cancel()
        if self._server is not None:
            self._stopping = asyncio.create_task(self._server.stop(None))

    def _tick(self) -> None:
        self._service.health.look()
        self._timer = asyncio.get_running_loop().call_later(TICK_SECONDS, self._tick)


class _Methods(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Finds the method for a path; grpcio answers UNIMPLEMENTED where there is none."""

    def __init__(self, methods: dict[str, Method]) -> None:
        self._methods = methods

    def service(self, handler_call_details: Any) -> Any:
        method = self._methods.get(handler_call_details.method)
        if method is None:
            return None
        if isinstance(method, Unary):
            return grpc.unary_unary_rpc_method_handler(partial(_call, method))
        return grpc.stream_stream_rpc_method_handler(partial(_converse, method))


class _Call(Exchange):
    """A call of grpcio. What it is to say waits in `said`: messages, a Problem, or None for the end."""

    __slots__ = ("_context", "deadline", "left", "room", "said")

    def __init__(self, context: Any) -> None:
        self._context = context
        remaining = context.time_remaining()
        self.deadline = math.inf if remaining is None else time.perf_counter() + remaining
        self.said: asyncio.Queue[bytes | Problem | None] = asyncio.Queue()
        self.room = asyncio.Semaphore(MAX_UNANSWERED)
        self.left = False

    @property
    def gone(self) -> bool:
        return self.left

    def reply(self, parts: Sequence[Buffer]) -> None:
        self.room.release()
        self.said.put_nowait(b"".join(parts))

    def close(self) -> None:
        self.said.put_nowait(None)

    def fail(self, problem: Problem) -> None:
        self.said.put_nowait(problem)

    def attempt(self, work: Callable[[], None]) -> None:
        """Do something for the call, and say so if it fails."""
        try:
            work()
        except Problem as problem:
            self.fail(problem)
        except Exception:
            log.exception("a call failed inside the server")
            self.fail(Problem(500, "the server failed on this call"))

    async def word(self) -> bytes | None:
        """The next message; None at the end. A Problem ends the call."""
        said = await self.said.get()
        if isinstance(said, Problem):
            await self._context.abort(_CODES[code_of(said)], said.message)
        return said  # type: ignore[return-value]


async def _call(method: Unary, message: bytes, context: Any) -> bytes | None:
    """Run a unary method."""
    call = _Call(context)
    try:
        call.attempt(partial(method.call, call, message))
        return await call.word()
    finally:
        call.left = True


async def _converse(method: Streaming, messages: AsyncIterator[bytes], context: Any) -> None:
    """Run a method with streams."""
    call = _Call(context)
    conversation = method.open(call)
    reading = asyncio.create_task(_read(messages, call, conversation))
    try:
        while (word := await call.word()) is not None:
            await context.write(word)
    finally:
        call.left = True
        reading.cancel()
        conversation.leave()


async def _read(messages: AsyncIterator[bytes], call: _Call, conversation: Conversation) -> None:
    async for message in messages:
        await call.room.acquire()
        call.attempt(partial(conversation.receive, message))
    call.attempt(conversation.finish)
