"""Texts that stay the same for as long as the model does."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from holdfast_serving.coding import accepted, packed
from holdfast_serving.connection import ACCEPTED_CODINGS, Connection, Fields, Handler

_BEST = 9  # zlib's level: it is paid for once


class Document:
    """Made when it is first asked for, and compressed once for who wants it so."""

    def __init__(self, make: Callable[[], tuple[bytes, bytes]]) -> None:
        """`make` gives a text and its header lines; it may raise Problem as long as there is nothing."""
        self._make = make
        self._answers: dict[bytes | None, tuple[bytes, bytes]] = {}

    def bind(self, fields: Fields) -> Handler:
        """The handler of requests with such header fields."""
        return partial(self._respond, accepted(fields.get(ACCEPTED_CODINGS)))

    def respond(self, connection: Connection, body: bytes | bytearray) -> None:
        """Answer as it is."""
        self._respond(None, connection, body)

    def _respond(self, coding: bytes | None, connection: Connection, body: bytes | bytearray) -> None:
        if coding not in self._answers:
            made, fields = self._make()
            fields += b"vary: accept-encoding\r\n"
            if coding is not None:
                made = packed(made, coding, _BEST)
                fields += b"content-encoding: %b\r\n" % coding
            self._answers[coding] = made, fields
        connection.respond(200, *self._answers[coding])
