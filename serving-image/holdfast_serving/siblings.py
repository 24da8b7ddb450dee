"""The other processes of a pod, as the first one sees them.

The first process fetches and tries the model, listens, and speaks for the pod. It starts the others when it knows that
they pay: as new programs, since a process with the runtime's threads cannot be forked. Each gets two sockets. Over one,
a `Link`, both ask each other. Over the other the first process hands on connections that it has accepted, and is told
how many have been closed: who has the fewest gets the next one, so that a few connections that are kept spread as
evenly as many short ones.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any, cast

from holdfast_serving.link import Link
from holdfast_serving.port import BasePort
from holdfast_serving.problems import Problem
from holdfast_serving.process import Process
from holdfast_serving.served import Fail, Then

log = logging.getLogger(__name__)

LOAD_SECONDS = 300.0
"""In which a sibling must have loaded the model, whose first process has loaded it already."""

_ANSWER_SECONDS = 5.0
_END_SECONDS = 5.0
_FOREVER = 1e6
_AT_ONCE = 64  # connections that are accepted in one turn of the loop
_PAUSE_SECONDS = 0.5  # when no more connections can be accepted
_GATHERED = {"statistics"}  # what siblings may ask of the whole pod
_CONSULTED = {"feedback"}  # and of the first process


class Siblings:
    """All processes of a pod but the first.

    Attributes:
        lost: set when one of them has ended that should not have.
    """

    def __init__(self, process: Process) -> None:
        self._process = process
        self._ports = [port for port in (process.http, process.rpc) if isinstance(port, BasePort)]
        self._all: list[_Sibling] = []
        self.lost = asyncio.Event()

    async def start(self, count: int, model: dict[str, Any]) -> None:
        """Have `count` of them load the model; returns when they have, or when `lost` is set.

        Args:
            model: arguments of `load.again` and more: see `sibling`.
        """
        loaded = [await self._start(model) for _ in range(count)]
        losing = asyncio.create_task(self.lost.wait())
        waiting: set[asyncio.Future[Any]] = {losing, asyncio.gather(*loaded)}
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        losing.cancel()

    def open(self) -> None:
        """Speak for the pod, and share its connections. The first process has to be open."""
        self._process.served.gather = self._gather
        for number, port in enumerate(self._ports):
            _Spread(port, number, self._all)

    def go(self) -> None:
        """The pod is on its way out."""
        for sibling in self._all:
            sibling.link.ask("go", None, _ignore, _ignore, _ANSWER_SECONDS)

    async def finish(self) -> None:
        """No more connections come: returns when what is in work has ended."""
        ended = []
        for sibling in self._all:
            done = asyncio.get_running_loop().create_future()
            sibling.ends = True
            answer = partial(_settle, done)
            sibling.link.ask("finish", sibling.given, answer, answer, _FOREVER)
            ended.append(done)
        await asyncio.gather(*ended)

    async def why_lost(self) -> str:
        """In words, how the first ended that should not have."""
        for sibling in self._all:
            if sibling.gone:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    code = await asyncio.to_thread(sibling.program.wait, _END_SECONDS)
                    if code == -signal.SIGKILL:
                        return "a process of this pod was killed; if for its memory, raise resources.limits.memory"
                    return f"a process of this pod has ended ({code}); the log says why"
        return "a process of this pod did not load the model; the log says why"

    async def stop(self) -> None:
        """End them: they do so by themselves when nobody is at the other end."""
        for sibling in self._all:
            sibling.ends = True
            sibling.link.close()
            asyncio.get_running_loop().remove_reader(sibling.hands.fileno())
            sibling.hands.close()
        for sibling in self._all:
            try:
                await asyncio.to_thread(sibling.program.wait, _END_SECONDS)
            except subprocess.TimeoutExpired:
                sibling.program.kill()
                sibling.program.wait()

    async def _start(self, model: dict[str, Any]) -> asyncio.Future[Any]:
        ours, theirs = socket.socketpair()
        hands, taker = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        program = _program(theirs.fileno(), taker.fileno())
        theirs.close()
        taker.close()
        hands.setblocking(False)
        sibling = _Sibling(program, hands, len(self._ports))
        loop = asyncio.get_running_loop()
        loop.add_reader(hands.fileno(), sibling.read)
        link = Link(self._hear, partial(self._lose, sibling))
        sibling.link = link
        await loop.create_unix_connection(lambda: link, sock=ours)
        self._all.append(sibling)
        done = loop.create_future()
        link.ask("load", model, partial(_settle, done), partial(self._fail, sibling), LOAD_SECONDS)
        return done

    def _hear(self, what: str, argument: Any, then: Then, fail: Fail) -> None:
        served = self._process.served
        if what in _GATHERED:
            served.gather(what, argument, then, fail)
        elif what in _CONSULTED:
            served.consult(what, argument, then, fail)
        else:
            raise Problem(404, f"a sibling asks for {what!r}")

    def _gather(self, what: str, argument: Any, then: Then, fail: Fail) -> None:
        own = self._process.served.tells[what](argument)
        answers: list[Any] = [own, *[None] * len(self._all)]
        missing = set(range(1, len(answers)))
        failed = False

        def take(number: int, answer: Any) -> None:
            answers[number] = answer
            missing.discard(number)
            if not missing and not failed:
                then(answers)

        def give_up(problem: Problem) -> None:
            nonlocal failed
            if not failed:
                failed = True
                fail(problem)

        for number, sibling in enumerate(self._all, 1):
            sibling.link.ask(what, argument, partial(take, number), give_up, _ANSWER_SECONDS)

    def _fail(self, sibling: _Sibling, problem: Problem) -> None:
        if not sibling.ends:
            log.error("process %d has not loaded the model: %s", sibling.program.pid, problem.message)
            self.lost.set()

    def _lose(self, sibling: _Sibling) -> None:
        sibling.gone = True
        if not sibling.ends:
            log.error("process %d of this pod has ended, and so the pod does", sibling.program.pid)
            self.lost.set()


class _Sibling:
    """One of them.

    Attributes:
        hands: takes connections there, and says how many have been closed.
        given, closed: connections by port, since the beginning.
        ends: whether it has been told to.
        gone: whether it has.
    """

    link: Link

    def __init__(self, program: subprocess.Popen[bytes], hands: socket.socket, ports: int) -> None:
        self.program = program
        self.hands = hands
        self.given = [0] * ports
        self.closed = [0] * ports
        self.ends = self.gone = False

    def read(self) -> None:
        """How many connections have been closed."""
        counts = struct.Struct(f"{len(self.closed)}Q")
        with contextlib.suppress(BlockingIOError):
            while said := self.hands.recv(counts.size):
                self.closed = list(counts.unpack(said))
            asyncio.get_running_loop().remove_reader(self.hands.fileno())  # it is gone

    def connections(self, port: int) -> int:
        return self.given[port] - self.closed[port]

    def give(self, port: int, connection: socket.socket) -> bool:
        """Hand a connection on. Returns whether that was possible."""
        try:
            socket.send_fds(self.hands, [bytes([port])], [connection.fileno()])
        except OSError:  # it is busy, or dead
            return False
        self.given[port] += 1
        connection.close()
        return True


class _Spread:
    """Accepts the connections of a port in place of its listener."""

    def __init__(self, port: BasePort[Any], number: int, siblings: Sequence[_Sibling]) -> None:
        self._port = port
        self._number = number
        self._siblings = siblings
        self._adopting: set[asyncio.Task[None]] = set()
        before = cast(asyncio.Server, port.listener)
        self._socket = socket.socket(fileno=os.dup(before.sockets[0].fileno()))
        self._socket.setblocking(False)
        before.close()
        port.listener = self
        port.loop.add_reader(self._socket.fileno(), self._accept)

    def close(self) -> None:
        """What has come before is served; what comes now is refused."""
        if self._socket.fileno() >= 0:
            self._port.loop.remove_reader(self._socket.fileno())
            while self._accept():
                pass
            self._socket.close()

    def _accept(self) -> bool:
        """Take what is there; returns whether there may be more."""
        for _ in range(_AT_ONCE):
            try:
                connection, _ = self._socket.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return False
            except OSError as error:
                log.error("no connection can be accepted: %s", error.strerror)
                self._pause()
                return False
            self._port.newest = self._port.now
            self._give(connection)
        return True

    def _give(self, connection: socket.socket) -> None:
        number = self._number
        fewest, least = None, len(self._port.connections) + len(self._adopting)
        for sibling in self._siblings:
            if sibling.connections(number) < least and not sibling.gone:
                fewest, least = sibling, sibling.connections(number)
        if fewest is None or not fewest.give(number, connection):
            task = self._port.loop.create_task(self._port.adopt(connection))
            self._adopting.add(task)
            task.add_done_callback(self._adopting.discard)

    def _pause(self) -> None:
        if self._socket.fileno() >= 0:
            self._port.loop.remove_reader(self._socket.fileno())
            self._port.loop.call_later(_PAUSE_SECONDS, self._resume)

    def _resume(self) -> None:
        if self._socket.fileno() >= 0:
            self._port.loop.add_reader(self._socket.fileno(), self._accept)


def _program(*inherited: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-P", "-m", "holdfast_serving.sibling", *map(str, inherited), *sys.argv[1:]]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.Popen(  # noqa: S603 - our own module
        command, env=environment, stdin=subprocess.DEVNULL, pass_fds=inherited
    )


def _settle(future: asyncio.Future[Any], _: object) -> None:
    if not future.done():
        future.set_result(None)


def _ignore(_: object) -> None: ...
