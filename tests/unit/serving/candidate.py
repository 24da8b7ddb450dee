"""Another revision that does whatever a pod should not: a real server on a real socket, with one fault."""

from __future__ import annotations

import json
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from tests.unit.serving.leases import TARGET

Fault = Callable[[socket.socket, "Asked"], bool | None]
"""Does something with a connection on which a request has come; True keeps it for another request."""

RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close with a reset


class Asked:
    """A forwarded request."""

    def __init__(self, head: bytes, body: bytes, number: int) -> None:
        self.head = head
        self.number = number  # of the request on its connection, from 1
        size = int(field(head, "inference-header-content-length"))
        self.json = json.loads(body[:size])
        self.data = body[size:]
        self.rows = self.json["inputs"][0]["shape"][0]


def field(head: bytes, name: str) -> str:
    match = re.search(rf"^{name}: *(.*?)\r$", head.decode(), re.IGNORECASE | re.MULTILINE)
    assert match, head
    return match[1]


def outputs(rows: int, label: int = 9) -> tuple[list[dict[str, Any]], bytes]:
    """Those of the iris model: (their description, their bytes)."""
    parts = [struct.pack(f"<{rows}q", *[label] * rows), struct.pack(f"<{3 * rows}f", *[0.25] * 3 * rows)]
    described = [
        {"name": name, "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": len(part)}}
        for (name, datatype, shape), part in zip(
            [("label", "INT64", [rows]), ("probabilities", "FP32", [rows, 3])], parts, strict=True
        )
    ]
    return described, b"".join(parts)


def answer(
    rows: int,
    *,
    change: Callable[[dict[str, Any]], object] = lambda document: None,
    data: Callable[[bytes], bytes] = lambda data: data,
    fields: str = "server-timing: infer;dur=0.125\r\n",
    status: str = "200 OK",
) -> bytes:
    """A right answer, or what is made of it."""
    described, tensors = outputs(rows)
    document = {"model_name": "wine", "model_version": TARGET, "outputs": described}
    change(document)
    text, tensors = json.dumps(document).encode(), data(tensors)
    head = (
        f"HTTP/1.1 {status}\r\ncontent-type: application/octet-stream\r\n"
        f"Inference-Header-Content-Length: {len(text)}\r\n{fields}content-length: {len(text) + len(tensors)}\r\n\r\n"
    )
    return head.encode() + text + tensors


def right(sock: socket.socket, asked: Asked) -> bool:
    """No fault."""
    sock.sendall(answer(asked.rows))
    return True


def late(seconds: float) -> Fault:
    """Right, but too late."""

    def fault(sock: socket.socket, asked: Asked) -> bool:
        time.sleep(seconds)
        sock.sendall(answer(asked.rows))
        return True

    return fault


def says(reply: Callable[[int], bytes]) -> Fault:
    """Answers with some bytes, made for a number of rows."""

    def fault(sock: socket.socket, asked: Asked) -> bool:
        sock.sendall(reply(asked.rows))
        return True

    return fault


def resets_after(reply: Callable[[int], bytes]) -> Fault:
    """Answers with some bytes and resets the connection."""

    def fault(sock: socket.socket, asked: Asked) -> None:
        sock.sendall(reply(asked.rows))
        time.sleep(0.005)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)

    return fault


def closes_after(reply: Callable[[int], bytes]) -> Fault:
    """Answers with some bytes and closes the connection."""

    def fault(sock: socket.socket, asked: Asked) -> None:
        sock.sendall(reply(asked.rows))

    return fault


def bound() -> socket.socket:
    """A port at which connections are refused until somebody listens."""
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    return sock


class Candidate:
    """Listens on loopback.

    Attributes:
        asked: requests that came.
        connections: that were made.
    """

    def __init__(self, fault: Fault, sock: socket.socket) -> None:
        self.fault = fault
        self.asked: list[Asked] = []
        self.connections = 0
        self._going = threading.Event()
        self._sockets: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._listener = sock
        sock.listen(512)
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._accepting = threading.Thread(target=self._accept)
        self._accepting.start()

    def wait(self) -> None:
        """What a fault that hangs waits for: the end of the test."""
        self._going.wait(60)

    def stop(self) -> None:
        self._going.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for sock in list(self._sockets):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            thread = threading.Thread(target=self._serve, args=(sock,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket) -> None:
        self._sockets.add(sock)
        with sock, suppress(OSError):
            number, rest = 0, b""
            while (taken := _request(sock, rest)) is not None:
                head, body, rest = taken
                number += 1
                asked = Asked(head, body, number)
                self.asked.append(asked)
                if not self.fault(sock, asked):
                    break
        self._sockets.discard(sock)


def _request(sock: socket.socket, rest: bytes) -> tuple[bytes, bytes, bytes] | None:
    """(head, body, bytes behind it) of the next request; None when the client has gone."""
    while b"\r\n\r\n" not in rest:
        data = sock.recv(1 << 16)
        if not data:
            return None
        rest += data
    head, _, rest = rest.partition(b"\r\n\r\n")
    head += b"\r\n"
    length = int(field(head, "content-length"))
    while len(rest) < length:
        data = sock.recv(1 << 20)
        if not data:
            return None
        rest += data
    return head, rest[:length], rest[length:]


@contextmanager
def candidate(fault: Fault, sock: socket.socket | None = None) -> Iterator[Candidate]:
    made = Candidate(fault, sock or bound())
    try:
        yield made
    finally:
        made.stop()
