"""Raw conversations with a server, and good traffic beside them."""

from __future__ import annotations

import json
import math
import re
import select
import socket
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from tests.hostile.demands import GOOD, INFER
from tests.unit.serving.server import Server, http

PATIENCE = 60.0
"""Seconds after which a test gives up; the machine may be busy."""


@dataclass(slots=True)
class Heard:
    """What came back.

    Attributes:
        statuses, bodies: of the answers, in their order.
        closed: whether the server has ended the connection.
        seconds: from the first byte sent to the last answer or the end.
    """

    statuses: list[int] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    closed: bool = False
    seconds: float = 0.0


class Line:
    """A connection that sends and listens at the same time, as a client must whom the server may cut off."""

    def __init__(self, port: int) -> None:
        self._sock = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        self._sock.setblocking(False)
        self._unread = b""

    def start(self, data: bytes) -> None:
        """Send, and listen later."""
        self._sock.setblocking(True)
        self._sock.sendall(data)
        self._sock.setblocking(False)

    def say(self, data: bytes, answers: int, *, to_the_end: bool = False) -> Heard:
        """Send all of `data`, and listen for so many answers, or until the server ends the connection."""
        heard, began, left = Heard(), time.monotonic(), memoryview(data)
        while not heard.closed and (left or len(heard.statuses) < answers or to_the_end):
            assert time.monotonic() < began + PATIENCE, f"no end after {heard.statuses[-3:]}"
            readable, writable, _ = select.select([self._sock], [self._sock] if left else [], [], 1)
            try:
                if writable:
                    left = left[self._sock.send(left[: 1 << 20]) :]
                if readable:
                    self._hear(heard)
            except (ConnectionResetError, BrokenPipeError):
                left = left[:0]
                self._drain(heard)
        heard.seconds = time.monotonic() - began
        return heard

    def _hear(self, heard: Heard) -> None:
        data = self._sock.recv(1 << 20)
        heard.closed = not data
        self._unread += data
        while (end := self._unread.find(b"\r\n\r\n")) >= 0:
            head = self._unread[:end]
            size = re.search(rb"\r\ncontent-length: (\d+)", head)
            body_ends = end + 4 + int(size[1] if size else 0)
            if len(self._unread) < body_ends:
                break
            heard.statuses.append(int(head[9:12]))
            heard.bodies.append(self._unread[end + 4 : body_ends])
            self._unread = self._unread[body_ends:]

    def _drain(self, heard: Heard) -> None:
        """The server has cut the connection; what it said before may still be there."""
        try:
            while not heard.closed:
                self._hear(heard)
        except (BlockingIOError, ConnectionError):
            heard.closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._sock.close()


class GoodTraffic:
    """A thread that asks again and again, on one connection, and holds every answer against the first."""

    def __init__(self, server: Server, body: bytes = GOOD) -> None:
        self._server = server
        self._request = http("POST", INFER, body, "Content-Type: application/json")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.errors: list[str] = []
        self.seconds: list[float] = []

    def _run(self) -> None:
        first: Any = None
        try:
            with Line(self._server.port) as line:
                while not self._stop.wait(0.01):
                    heard = line.say(self._request, 1)
                    assert heard.statuses == [200], (heard.statuses, heard.bodies)
                    answer = {output["name"]: output["data"] for output in json.loads(heard.bodies[0])["outputs"]}
                    first = first or answer
                    assert all(map(_alike, first.values(), answer.values())), answer
                    self.seconds.append(heard.seconds)
        except Exception as error:
            self.errors.append(repr(error))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()


def _alike(first: list[Any], second: list[Any]) -> bool:
    """Whether two outputs agree, up to what sharing a run may change."""
    return len(first) == len(second) and all(
        math.isclose(one, other, rel_tol=1e-4, abs_tol=1e-6) if isinstance(one, float) else one == other
        for one, other in zip(first, second, strict=True)
    )


class Memory:
    """What a process has in memory, and its peak since this was made."""

    def __init__(self, pid: int) -> None:
        self._folder = Path(f"/proc/{pid}")
        (self._folder / "clear_refs").write_text("5")  # the peak begins anew
        self._before = self._read("VmRSS")

    def growth(self) -> int:
        """Bytes."""
        return self._read("VmRSS") - self._before

    def peak(self) -> int:
        """Bytes above the beginning."""
        return self._read("VmHWM") - self._before

    def _read(self, name: str) -> int:
        match = re.search(rf"{name}:\s+(\d+) kB", (self._folder / "status").read_text())
        assert match
        return int(match[1]) << 10
