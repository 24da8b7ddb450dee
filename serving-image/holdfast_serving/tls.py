"""TLS between a socket and the protocol that is spoken over it.

asyncio has TLS of its own. This stands here instead because it takes a context per connection, so that certificates
can change; it answers plain HTTP in words; and a connection is known to its port, with its deadlines and in a drain,
from its first byte and not only when its handshake is over.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

import orjson

from holdfast_serving.certificates import HANDSHAKES, Certificates

Factory = Callable[[], asyncio.Protocol]

_OK, _PLAIN_HTTP, _NO_CERTIFICATE, _BAD_CERTIFICATE, _REFUSED_BY_CLIENT, _ABANDONED, _FAILED = range(len(HANDSHAKES))
_RECORD_BYTES = 16 << 10
_FLUSH_BYTES = 256 << 10

# A connection: nothing has come; the handshake is on its way; both sides talk; what comes is dropped.
_NEW, _SHAKING, _OPEN, _DEAF = range(4)

_PLAIN_BODY = orjson.dumps({"error": "this port speaks TLS: use https:// (for gRPC, a channel with TLS credentials)"})
_PLAIN_ANSWER = (
    b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%b"
) % (len(_PLAIN_BODY), _PLAIN_BODY)


def secured(factory: Factory, certificates: Certificates, protocol: str) -> Factory:
    """A factory of connections that speak what `factory` makes over TLS, with `protocol` as their ALPN name."""
    return lambda: Secured(factory(), certificates, protocol)


class Secured(asyncio.Protocol, asyncio.Transport):
    """One connection: the protocol of the socket's transport, and the transport of the protocol above it.

    The protocol above is told at once that there is a connection; its first bytes come after the handshake, and what it
    writes before waits for it. A client that closes its side is gone, as TLS before 1.3 has it.
    """

    __slots__ = ("_above", "_counts", "_early", "_incoming", "_outgoing", "_state", "_tls", "_transport")

    def __init__(self, above: asyncio.Protocol, certificates: Certificates, protocol: str) -> None:
        self._above = above
        self._counts = certificates.handshakes
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = certificates.context(protocol).wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._early: list[bytes] = []
        self._state = _NEW

    # What the socket's transport calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._above.connection_made(self)

    def connection_lost(self, error: Exception | None) -> None:
        if self._state == _SHAKING:
            self._counts[_ABANDONED] += 1
        self._state = _DEAF
        self._above.connection_lost(error)

    def pause_writing(self) -> None:
        self._above.pause_writing()

    def resume_writing(self) -> None:
        self._above.resume_writing()

    def data_received(self, data: bytes) -> None:
        if self._state == _DEAF:
            return
        if self._state == _NEW:
            if data[:1].isalpha():  # a method; the first byte of TLS is 22
                self._refuse(_PLAIN_HTTP, _PLAIN_ANSWER)
                return
            self._state = _SHAKING
        self._incoming.write(data)
        try:
            if self._state == _SHAKING:
                self._shake()
            received, ended = self._read()
        except ssl.SSLWantReadError:  # half a handshake
            self._flush()
            return
        except ssl.SSLError as error:
            self._fail(error)
            return
        self._flush()
        if received:
            self._above.data_received(received)
        if ended:
            self.close()

    def eof_received(self) -> None:
        self._above.eof_received()

    # What the protocol above calls.

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Encrypt and send."""
        if self._state == _OPEN:
            self._encrypt(data)
            self._flush()
        elif self._state != _DEAF:
            self._early.append(bytes(data))

    def writelines(self, parts: Any) -> None:
        """Encrypt and send, at once."""
        self.write(b"".join(parts))

    def write_eof(self) -> None:
        """Send nothing more; drop what comes."""
        self._say_goodbye()
        self._transport.write_eof()

    def can_write_eof(self) -> bool:
        return True

    def close(self) -> None:
        """Close when all is sent."""
        self._say_goodbye()
        self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        self._state = _DEAF
        self._transport.abort()

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def pause_reading(self) -> None:
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        self._transport.resume_reading()

    def is_reading(self) -> bool:
        return self._transport.is_reading()

    def get_write_buffer_size(self) -> int:
        return self._transport.get_write_buffer_size()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._transport.set_write_buffer_limits(high, low)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """`ssl_object`, and all that the socket's transport knows."""
        return self._tls if name == "ssl_object" else self._transport.get_extra_info(name, default)

    # Between the two.

    def _shake(self) -> None:
        self._tls.do_handshake()
        self._state = _OPEN
        self._counts[_OK] += 1
        for data in self._early:
            self._encrypt(data)
        self._early.clear()

    def _read(self) -> tuple[bytes, bool]:
        """(all that has come in whole records, whether the client has said that it was the last)."""
        parts: list[bytes] = []
        tls, incoming = self._tls, self._incoming
        try:
            while incoming.pending or tls.pending():
                part = tls.read(_RECORD_BYTES)
                if not part:
                    return b"".join(parts), True
                parts.append(part)
        except ssl.SSLWantReadError:  # half a record
            pass
        return b"".join(parts), False

    def _encrypt(self, data: bytes | bytearray | memoryview) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[self._tls.write(rest) :]
            if self._outgoing.pending > _FLUSH_BYTES:
                self._flush()

    def _flush(self) -> None:
        if self._outgoing.pending:
            self._transport.write(self._outgoing.read())

    def _fail(self, error: ssl.SSLError) -> None:
        """The client breaks the rules of TLS, or we do not suit each other: tell it, and listen no more."""
        if self._state == _SHAKING:
            self._refuse(_outcome(error), self._outgoing.read())
        else:
            self._state = _DEAF
            self._flush()
            self._transport.close()

    def _refuse(self, outcome: int, last_words: bytes) -> None:
        """The protocol above, which never hears of a request, closes the connection in its own time."""
        self._counts[outcome] += 1
        self._state = _DEAF
        self._transport.write(last_words)
        self._transport.write_eof()

    def _say_goodbye(self) -> None:
        if self._state == _OPEN and not self._transport.is_closing():
            with suppress(ssl.SSLError):  # the client has not said goodbye yet, and need not
                self._tls.unwrap()
            self._flush()
        self._state = _DEAF


def _outcome(error: ssl.SSLError) -> int:
    if error.reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE":
        return _NO_CERTIFICATE
    if isinstance(error, ssl.SSLCertVerificationError):
        return _BAD_CERTIFICATE
    return _REFUSED_BY_CLIENT if "ALERT" in (error.reason or "") else _FAILED
