"""python -m holdfast_serving.sibling: one more process of a pod, which its first process starts: see `siblings`.

It has the first one's arguments and environment, and two sockets: it is asked over one, and handed connections over
the other. It does not listen, and it ends when the first process does.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import struct
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvloop

from holdfast_serving import lease, outcome
from holdfast_serving import settings as settings_module
from holdfast_serving.link import Link
from holdfast_serving.port import TICK_SECONDS, BasePort
from holdfast_serving.problems import Problem
from holdfast_serving.process import Process, grpc_codec
from holdfast_serving.served import Fail, Then
from holdfast_serving.settings import Settings

if TYPE_CHECKING:
    from holdfast_serving.grpc.codec import GrpcCodec
    from holdfast_serving.load import Loaded

log = logging.getLogger(__name__)

_POLL_SECONDS = 0.1
_CLOSED_SECONDS = 0.001  # between two looks at which connections have been closed, while some come and go
_CALM_LOOKS = 50  # that find nothing: then it is enough to look now and then
_QUIET_SECONDS = 1.0  # as in `lifecycle`
_ANSWER_SECONDS = 10.0  # more than the first process waits for the others
_TOLD = {"live", "metrics", "router", "statistics"}


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # the first process says when it is time
    ask, taker = (socket.socket(fileno=int(number)) for number in sys.argv[1:3])
    _, settings = settings_module.read(sys.argv[3:], os.environ)
    uvloop.run(_serve(settings, ask, taker))


async def _serve(settings: Settings, ask: socket.socket, taker: socket.socket) -> None:
    sibling = _Sibling(Process(settings), taker)
    await asyncio.get_running_loop().create_unix_connection(lambda: sibling.link, sock=ask)
    await asyncio.get_running_loop().create_future()  # until the link is lost


class _Sibling:
    """This process."""

    def __init__(self, process: Process, taker: socket.socket) -> None:
        self._process = process
        self._ports = [port for port in (process.http, process.rpc) if isinstance(port, BasePort)]
        self._taker = taker
        self._taken = [0] * len(self._ports)
        self._told = [0] * len(self._ports)
        self._adopting: list[set[asyncio.Task[None]]] = [set() for _ in self._ports]
        self._timer: asyncio.TimerHandle
        self._looks = 0  # in close succession, that are left
        self._working: set[asyncio.Task[None]] = set()
        self._finished = False
        self.link = Link(self._hear, self._leave)
        process.served.gather = process.served.consult = self._ask

    def _ask(self, what: str, argument: Any, then: Then, fail: Fail) -> None:
        """The first process knows, or finds out."""
        self.link.ask(what, argument, then, fail, _ANSWER_SECONDS)

    def _hear(self, what: str, argument: Any, then: Then, fail: Fail) -> None:
        process = self._process
        if what in _TOLD:
            then(process.served.tells[what](None))
        elif what == "lease":
            then(process.control.apply(lease.of_document(argument)))
        elif what == "load":
            self._do(self._load(argument, then))
        elif what == "go":
            process.go()
            then(None)
        elif what == "finish":
            self._do(self._finish(argument, then))
        else:
            raise Problem(404, f"the first process asks for {what!r}")

    def _do(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._working.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._working.discard(task)
        if error := task.exception():
            log.error("a process of the pod cannot go on", exc_info=error)
            os._exit(outcome.MAY_PASS)

    async def _load(self, model: dict[str, Any], then: Then) -> None:
        process = self._process
        loaded, codec = await asyncio.to_thread(_load, process.settings, model)
        for port in self._ports:
            port.open(process.certificates)
        process.open(loaded, codec, model["info"])
        self._taker.setblocking(False)
        loop = asyncio.get_running_loop()
        loop.add_reader(self._taker.fileno(), self._take)
        self._timer = loop.call_later(TICK_SECONDS, self._look)
        then(None)

    def _take(self) -> None:
        """Connections that the first process has accepted."""
        while True:
            try:
                said, numbers, _, _ = socket.recv_fds(self._taker, 1, 1)
            except BlockingIOError:
                return
            if not said:  # the first process is gone
                asyncio.get_running_loop().remove_reader(self._taker.fileno())
                return
            self._taken[said[0]] += 1
            if not numbers:
                log.error("a connection was lost: this process has too many open files")
                continue
            port = self._ports[said[0]]
            task = port.loop.create_task(port.adopt(socket.socket(fileno=numbers[0])))
            self._adopting[said[0]].add(task)
            task.add_done_callback(self._adopting[said[0]].discard)
            calm, self._looks = not self._looks, _CALM_LOOKS
            if calm:
                self._timer.cancel()
                self._look()

    def _look(self) -> None:
        """Say how many connections have been closed."""
        closed = [  # what has just been made is counted in both for a moment, and what was told stays true
            max(told, taken - len(port.connections) - len(adopting))
            for told, taken, port, adopting in zip(self._told, self._taken, self._ports, self._adopting, strict=True)
        ]
        self._looks = max(self._looks - 1, 0)
        if closed != self._told:
            with contextlib.suppress(OSError):  # it has too much to read, or is gone
                self._taker.send(struct.pack(f"{len(closed)}Q", *closed))
                self._told = closed
                self._looks = _CALM_LOOKS
        seconds = _CLOSED_SECONDS if self._looks else TICK_SECONDS
        self._timer = asyncio.get_running_loop().call_later(seconds, self._look)

    async def _finish(self, given: list[int], then: Then) -> None:
        """End what is in work, with the connections that are still on their way here."""
        while self._close_idle() or self._taken != given:  # noqa: ASYNC110
            await asyncio.sleep(_POLL_SECONDS)
        self._finished = True
        then(None)

    def _close_idle(self) -> int:
        """How many connections are left."""
        return sum(port.close_idle(_QUIET_SECONDS) for port in self._ports) + sum(map(len, self._adopting))

    def _leave(self) -> None:
        """The first process is gone."""
        os._exit(outcome.DONE if self._finished else outcome.MAY_PASS)


def _load(settings: Settings, model: dict[str, Any]) -> tuple[Loaded, GrpcCodec]:
    from holdfast_serving import load
    from holdfast_serving.cost import Cost
    from holdfast_serving.topology import Topology

    loaded = load.again(
        Path(model["folder"]),
        Path(model["file"]),
        settings.model_name,
        settings.revision,
        is_bundle=model["is_bundle"],
        cost=Cost(**model["cost"]),
        topology=Topology(**model["topology"]),
        apart=model["apart"],
        example=model["example"],
    )
    return loaded, grpc_codec(loaded, settings)


if __name__ == "__main__":
    main()
