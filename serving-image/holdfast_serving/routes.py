"""From method and path to a handler."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from urllib.parse import unquote

from holdfast_serving.connection import Fields, Handler
from holdfast_serving.problems import Problem, quoted


@dataclass(frozen=True, slots=True)
class Operation:
    """What the OpenAPI document says of an endpoint.

    Attributes:
        name: unique among operations, for generated clients.
        answer: the schema of a successful answer; empty for text, None if there is never success.
        takes: the schema of the body; empty for none.
        statuses: that it may be answered with beside 200.
        media_type: of a successful answer.
        is_inference: whether tensors may go in bytes in both directions.
        is_health: whether 503 has the same object as 200, and means no.
    """

    name: str
    summary: str
    answer: str | None = ""
    takes: str = ""
    statuses: tuple[int, ...] = ()
    media_type: str = "application/json"
    is_inference: bool = False
    is_health: bool = False


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Answers one method of a path.

    Attributes:
        call: the handler.
        takes: media types that the body may have; empty for methods without one.
        needs_body: whether a request that announces no body is refused.
        bind: the handler for requests with such header fields, where they have a say. Raises Problem. It is called
            once for all requests with the same head.
        about: for the OpenAPI document; None for what is not in it.
    """

    call: Handler
    takes: tuple[bytes, ...] = ()
    needs_body: bool = True
    bind: Callable[[Fields], Handler] | None = None
    about: Operation | None = None


Paths = Mapping[str, Mapping[str, Endpoint]]
"""Endpoints by path (decoded, without a slash at the end) and method."""


class Routes:
    """A fixed set of paths; each may be asked for with a slash at its end, too."""

    def __init__(self, paths: Paths, missing: Callable[[str], str] = lambda path: f"no such path: {quoted(path)}"):
        """`missing`: what to say of a path that there is not."""
        self.paths = paths
        self._missing = missing
        self._exact = {
            (method.encode(), path.encode()): endpoint
            for path, methods in paths.items()
            for method, endpoint in methods.items()
        }

    def find(self, method: bytes, target: bytes) -> Endpoint:
        """The endpoint for a request line. Raises Problem 404 or 405."""
        return self._exact.get((method, target)) or self._search(method.decode(), target)

    def _search(self, method: str, target: bytes) -> Endpoint:
        if target == b"*" and method == "OPTIONS":  # of the server as a whole
            return _options({method for methods in self.paths.values() for method in methods})
        path = self._path(target)
        methods = self.paths.get(path)
        if methods is None:
            raise Problem(404, self._missing(path))
        endpoint = methods.get("GET" if method == "HEAD" else method)
        if endpoint is not None:
            return endpoint
        if method == "OPTIONS":
            return _options(methods)
        raise Problem(
            405,
            f"{method} is not for this path, which takes {_allowed(methods)}",
            b"allow: %b\r\n" % _allowed(methods).encode(),
        )

    @staticmethod
    def _path(target: bytes) -> str:
        """The decoded path of a request target in origin or absolute form."""
        text = target.decode("latin-1")
        if not text.startswith("/") and text != "*":
            text = "/" + text.partition("://")[2].partition("/")[2]
        return unquote(text.partition("?")[0], errors="replace").rstrip("/") or "/"


def _options(methods: Collection[str]) -> Endpoint:
    fields = f"allow: {_allowed(methods)}\r\n".encode()
    return Endpoint(lambda connection, body: connection.respond(200, b"", fields))


def _allowed(methods: Collection[str]) -> str:
    return ", ".join(sorted({*methods, "OPTIONS", *({"HEAD"} if "GET" in methods else ())}))
