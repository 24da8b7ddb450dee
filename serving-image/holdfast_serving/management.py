"""The management port: what the kubelet, Prometheus and the operator ask, also while the model is still loading."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from holdfast_serving.connection import JSON_TYPE, Connection
from holdfast_serving.control import Control
from holdfast_serving.metrics import exposition
from holdfast_serving.pod import Families
from holdfast_serving.routes import Endpoint, Routes
from holdfast_serving.served import Served

_TEXT = b"content-type: text/plain; charset=utf-8\r\n"


def helper_routes(doing: Callable[[], str]) -> Routes:
    """/readyz of a helper, which never is: it only tells how far it is."""

    def readyz(connection: Connection, body: bytes | bytearray) -> None:
        connection.respond(503, doing().encode(), _TEXT)

    return Routes({"/readyz": {"GET": Endpoint(readyz)}})


def routes(served: Served, control: Control) -> Routes:
    """/livez, /readyz, the router's, and /metrics; of the whole pod."""

    def livez(connection: Connection, body: bytes | bytearray) -> None:
        # A process that does not answer leaves its clients waiting, and only a restart helps them.
        connection.ask(served.gather, "live", None, lambda said: connection.respond(200, b"ok", _TEXT))

    def readyz(connection: Connection, body: bytes | bytearray) -> None:
        if served.reachable:
            connection.respond(200, b"ok", _TEXT)
        else:
            connection.respond(503, served.doing.encode(), _TEXT)

    def scrape(connection: Connection, body: bytes | bytearray) -> None:
        def answer(said: list[Any]) -> None:
            text, kind = exposition(Families(said[0], said[1:]))
            connection.respond(200, text, f"content-type: {kind}\r\n".encode())

        connection.ask(served.gather, "metrics", None, answer)

    return Routes(
        {
            "/livez": {"GET": Endpoint(livez)},
            "/readyz": {"GET": Endpoint(readyz)},
            "/metrics": {"GET": Endpoint(scrape)},
            "/router": {"GET": Endpoint(control.get)},
            "/router/lease": {"PUT": Endpoint(control.put_lease, (JSON_TYPE,))},
        }
    )
