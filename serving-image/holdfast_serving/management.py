"""The management port: what the kubelet, Prometheus and the operator ask, also while the model is still loading."""

from __future__ import annotations

from collections.abc import Callable

from holdfast_serving.connection import JSON_TYPE, Connection
from holdfast_serving.control import Control
from holdfast_serving.metrics import Collector, exposition
from holdfast_serving.routes import Endpoint, Routes
from holdfast_serving.served import Served

_TEXT = b"content-type: text/plain; charset=utf-8\r\n"


def helper_routes(doing: Callable[[], str]) -> Routes:
    """/readyz of a helper, which never is: it only tells how far it is."""

    def readyz(connection: Connection, body: bytes | bytearray) -> None:
        connection.respond(503, doing().encode(), _TEXT)

    return Routes({"/readyz": {"GET": Endpoint(readyz)}})


def routes(served: Served, control: Control, *collectors: Collector) -> Routes:
    """/livez, /readyz, the router's, and /metrics with what `collectors` have counted beside the model's own."""

    def livez(connection: Connection, body: bytes | bytearray) -> None:
        connection.respond(200, b"ok", _TEXT)

    def readyz(connection: Connection, body: bytes | bytearray) -> None:
        if served.reachable:
            connection.respond(200, b"ok", _TEXT)
        else:
            connection.respond(503, served.doing.encode(), _TEXT)

    def scrape(connection: Connection, body: bytes | bytearray) -> None:
        text, kind = exposition(*served.collectors, control, *collectors)
        connection.respond(200, text, f"content-type: {kind}\r\n".encode())

    return Routes(
        {
            "/livez": {"GET": Endpoint(livez)},
            "/readyz": {"GET": Endpoint(readyz)},
            "/metrics": {"GET": Endpoint(scrape)},
            "/router": {"GET": Endpoint(control.get)},
            "/router/lease": {"PUT": Endpoint(control.put_lease, (JSON_TYPE,))},
        }
    )
