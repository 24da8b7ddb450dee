"""The management port: what the kubelet and Prometheus ask. It answers while the model is still loading."""

from __future__ import annotations

from collections.abc import Callable

from holdfast_serving.connection import Connection
from holdfast_serving.metrics import Metrics, exposition
from holdfast_serving.routes import Endpoint, Routes

_TEXT = b"content-type: text/plain; charset=utf-8\r\n"


def routes(is_ready: Callable[[], bool], metrics: Metrics) -> Routes:
    """/livez, /readyz and /metrics."""

    def livez(connection: Connection, body: bytes | bytearray) -> None:
        connection.respond(200, b"ok", _TEXT)

    def readyz(connection: Connection, body: bytes | bytearray) -> None:
        if is_ready():
            connection.respond(200, b"ok", _TEXT)
        else:
            connection.respond(503, b"not ready", _TEXT)

    def scrape(connection: Connection, body: bytes | bytearray) -> None:
        text, kind = exposition(metrics)
        connection.respond(200, text, f"content-type: {kind}\r\n".encode())

    return Routes(
        {
            "/livez": {"GET": Endpoint(livez)},
            "/readyz": {"GET": Endpoint(readyz)},
            "/metrics": {"GET": Endpoint(scrape)},
        }
    )
