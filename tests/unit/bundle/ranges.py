"""A web server on loopback that gives parts of one file, and breaks connections when it is told to."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Shop:
    """Serves `content` under every path.

    Attributes:
        etag: None to have none.
        parts: whether it knows ranges.
        cut_after: bytes after which a connection breaks; None for never.
        knows_if_range: else a part of the present content is given, whatever was asked for.
        status: that is answered instead, when it is set.
        location: where every request is redirected to, when it is set.
        heads: target and fields of each request, as text.
        asked: the Range of each request, in the order of arrival; "" for a whole one.
        open: requests that are being answered.
        gate: that bodies of parts wait for.
    """

    content: bytes
    etag: str | None = '"one"'
    parts: bool = True
    cut_after: int | None = None
    knows_if_range: bool = True
    status: int | None = None
    location: str | None = None
    heads: list[str] = field(default_factory=list)
    port: int = 0
    asked: list[str] = field(default_factory=list)
    open: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    gate: threading.Event | None = None

    def url(self, path: str = "/model.onnx") -> str:
        return f"http://127.0.0.1:{self.port}{path}"


@contextlib.contextmanager
def shop(content: bytes) -> Iterator[Shop]:
    made = Shop(content)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with made.lock:
                made.heads.append(f"{self.path}\n{self.headers}")
                made.asked.append(self.headers.get("Range", ""))
                made.open += 1
            try:
                with contextlib.suppress(OSError):
                    self.answer()
            finally:
                with made.lock:
                    made.open -= 1

        def answer(self) -> None:
            wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            content = made.content
            start, end = 0, len(content)
            if made.location is not None and self.path != "/elsewhere":
                self.send_response(307)
                self.send_header("Location", made.location)
                start = end
            elif made.status is not None:
                self.send_response(made.status)
                start = end
            elif wanted and made.parts and (not made.knows_if_range or self.headers["If-Range"] == made.etag):
                start, end = int(wanted[1]), int(wanted[2] or len(content) - 1) + 1
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(content)}")
            else:
                self.send_response(200)
            self.send_header("Content-Length", str(end - start))
            if made.parts:
                self.send_header("Accept-Ranges", "bytes")
            if made.etag:
                self.send_header("ETag", made.etag)
            self.end_headers()
            body = memoryview(content)[start:end]
            if made.cut_after is not None:
                body = body[: made.cut_after]
            if made.gate is not None and wanted:
                made.gate.wait(60)
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    made.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield made
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
