"""How far the run is, as one JSON object at `GET /progress` of the pod's port 8081.

    {"message": "trial 13 of 20", "trialsTotal": 20, "trialsCompleted": 12, "trialsFailed": 0,
     "bestValue": "0.961", "bestEstimator": "RandomForestClassifier"}

`message` is always there; what is about trials only in a search, what is about the best one only when there is one.
"""

from __future__ import annotations

import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

PORT = 8081
_CLIENT_SECONDS = 2


class Progress:
    """What to say now. Written by the run, read by the thread of the server."""

    def __init__(self) -> None:
        self._facts: dict[str, Any] = {"message": "starting"}

    def say(self, message: str, **facts: Any) -> None:
        """From now on this message; facts stay until they are given anew."""
        self._facts = {**self._facts, **facts, "message": message}  # one assignment, so no reader sees half of it

    def to_json(self) -> dict[str, Any]:
        """What is said."""
        return self._facts


def serve(progress: Progress, port: int = PORT) -> int | None:
    """Answer from a thread of its own until the process ends; returns the port.

    None when the port cannot be had: a run without progress is better than none.
    """
    try:
        server = _Server(progress, port)
    except OSError:
        return None
    threading.Thread(target=server.serve_forever, name="progress", daemon=True).start()
    return int(server.server_address[1])


class _Server(HTTPServer):
    """One request after the other, each bounded in time."""

    def __init__(self, progress: Progress, port: int) -> None:
        dual = socket.has_dualstack_ipv6()
        self.address_family = socket.AF_INET6 if dual else socket.AF_INET
        self.progress = progress
        super().__init__(("::" if dual else "", port), _Handler)

    def server_bind(self) -> None:
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        # Not HTTPServer's, which asks the resolver for the host's name.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is nothing to report."""


class _Handler(BaseHTTPRequestHandler):
    timeout = _CLIENT_SECONDS
    server: _Server

    def do_GET(self) -> None:
        if self.path != "/progress":
            self.send_error(404)
            return
        body = json.dumps(self.server.progress.to_json()).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """The pod's log is for the run."""
