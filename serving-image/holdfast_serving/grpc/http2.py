"""The server's side of one HTTP/2 connection (RFC 9113), without I/O.

Octets go in at `receive`, and come out in `out`. A request becomes a `Stream`, which hears of its data and answers
with a header, data and trailers. Nothing that a client may ask for without limit is kept without limit: windows are
small and grow only where the stream asks for it, and frames that cost the client nothing are counted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any, NoReturn, Protocol

from holdfast_serving.grpc import frames, hpack
from holdfast_serving.grpc.frames import END_HEADERS, END_STREAM, MAX_PAYLOAD, Buffer
from holdfast_serving.grpc.stream import MAX_WINDOW, STREAM_WINDOW, Stream, StreamError

MAX_STREAMS = 128
"""Requests of one connection at a time."""

_WINDOW = 1 << 20  # of the connection
_WINDOW_STEP = 1 << 18  # what has been used of it is given back in pieces of this size
_MAX_KNOWN, _MAX_KNOWN_BYTES = 64, 2048  # headers
_MAX_CONTINUATIONS = 16
_MAX_LATE = 256

# Frames that cost the client next to nothing take from an allowance, which work and time fill up again.
_ALLOWANCE = 1000
_RESET_COST = 4  # a stream that had to be reset for an error of the client

_PSEUDO = frozenset({b":method", b":scheme", b":path", b":authority"})
_NEEDED = frozenset({b":method", b":scheme", b":path"})
_COLON = ord(":")

Fields = Mapping[bytes, bytes]


class Peer(Protocol):
    """Whose connection it is.

    Attributes:
        varying: the name of a field whose value is another one in every request.
    """

    varying: bytes

    def interpret(self, fields: Fields) -> Any:
        """What the fields of a request mean, but for the varying one. Asked once for what comes again and again."""
        ...

    def open(self, number: int, meaning: Any, varying: bytes | None) -> Stream:
        """A new request, with the value of its varying field."""
        ...


class _ConnectionError(Exception):
    """The connection cannot go on."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


class Http2:
    """A connection.

    Attributes:
        out: what is to be sent.
        streams: requests that are there, by number.
        waiting: those of them with data that the client does not take yet.
        unsent: octets of it.
        last: number of the newest request.
        window: octets of data that the client takes, over all streams.
        initial_window: of every new stream.
        ended: nothing that comes is read any more; what is in `out` is the last.
        begun: the client has said that it speaks HTTP/2.
        partial: a frame, or a header in several frames, is there in part.
        frames: how many have come.
        echoes: how many pings of ours have been answered.
    """

    def __init__(self, peer: Peer, max_header: int) -> None:
        """`max_header`: octets that a request's header may have, as they come and as they are meant."""
        self.out: list[Buffer] = [
            frames.settings(max_concurrent_streams=MAX_STREAMS, max_header_list_size=max_header),
            frames.frame(frames.WINDOW_UPDATE, 0, 0, frames.number(_WINDOW - STREAM_WINDOW)),
        ]
        self.streams: dict[int, Stream] = {}
        self.waiting: dict[int, Stream] = {}
        self.unsent = 0
        self.last = 0
        self.window = self.initial_window = STREAM_WINDOW
        self.ended = self.begun = False
        self.frames = self.echoes = 0
        self._peer = peer
        self._max_header = max_header
        self._rest = b""
        self._room = _WINDOW
        self._used = 0
        self._allowance = _ALLOWANCE
        self._refusing_above: int | None = None  # streams behind this one: they have been told to go elsewhere
        self._decoder = hpack.Decoder()
        self._known: dict[bytes, Any] = {}  # by block, until the decoder's table changes
        self._meanings: dict[tuple[hpack.Field, ...], tuple[Any, int | None]] = {}
        self._known_at = 0
        self._block: bytearray | None = None  # of a header in several frames
        self._block_of = (0, 0, 0)  # stream, flags, frames
        self._late: deque[int] = deque(maxlen=_MAX_LATE)  # streams that were answered before the client was done

    @property
    def partial(self) -> bool:
        return bool(self._rest) or self._block is not None or not self.begun

    def receive(self, data: bytes) -> None:
        """What came from the client. Whatever is wrong with it is said in `out`."""
        if self.ended:
            return
        try:
            self._receive(self._rest + data if self._rest else data)
        except _ConnectionError as error:
            self.end(error.code, error.text)

    def end(self, code: int, text: str = "") -> None:
        """Say why, and read nothing more."""
        if not self.ended:
            self.ended = True
            self._rest = b""
            self.out.append(self._farewell(self.last, code, text))

    def lost(self) -> None:
        """The client is gone."""
        self.ended = True
        streams = list(self.streams.values())
        self.streams.clear()
        self.waiting.clear()
        for stream in streams:
            stream.answered = True
            stream.on_reset()

    def ask_to_leave(self) -> None:
        """Ask for no new requests on this connection; those that are on their way are still taken."""
        self.out.append(self._farewell(MAX_WINDOW, frames.NO_ERROR, ""))

    def take_no_more(self) -> None:
        """Ignore new requests from now on, and say which was the last, so that the client can send others elsewhere."""
        if self._refusing_above is None:
            self._refusing_above = self.last
            self.out.append(self._farewell(self.last, frames.NO_ERROR, ""))

    def ping(self) -> None:
        """Ask whether the client is still there; `echoes` grows when it is."""
        self.out.append(frames.frame(frames.PING, 0, 0, b"holdfast"))

    def pay(self, amount: int) -> None:
        """Fill up the allowance for frames that cost nothing."""
        self._allowance = min(_ALLOWANCE, self._allowance + amount)

    def wait(self, stream: Stream) -> None:
        """A stream has data to send."""
        self.waiting[stream.number] = stream

    def pump(self, size: int) -> bool:
        """Move about `size` octets of waiting data to `out`, of all streams in turn; whether more could be moved."""
        moved = True
        while self.waiting and moved and size > 0:
            moved = False
            for stream in list(self.waiting.values()):
                if stream.move():
                    moved = True
                    size -= MAX_PAYLOAD
                    if size <= 0:
                        break
                    # Behind the others.
                    if stream.number in self.waiting:
                        self.waiting[stream.number] = self.waiting.pop(stream.number)
        return bool(self.waiting) and moved

    def reset(self, number: int, code: int) -> None:
        """End a stream from this side."""
        self.out.append(frames.frame(frames.RST_STREAM, 0, number, frames.number(code)))
        stream = self.streams.pop(number, None)
        if stream is not None:
            if not stream.received_all:
                self._late.append(number)
            stream.give_up()
            if not stream.answered:
                stream.answered = True
                stream.on_reset()

    # Receiving.

    def _receive(self, data: bytes) -> None:
        offset, end = 0, len(data)
        if not self.begun:
            if data[: len(frames.PREFACE)] != frames.PREFACE[:end]:
                raise _ConnectionError(frames.PROTOCOL_ERROR, "this port speaks gRPC, which is HTTP/2")
            if end < len(frames.PREFACE):
                self._rest = data
                return
            self.begun = True
            offset = len(frames.PREFACE)
        while end - offset >= frames.HEAD_BYTES:
            high, low, kind, flags, number = frames.unpack_head(data, offset)
            length = high << 8 | low
            if length > MAX_PAYLOAD:
                raise _ConnectionError(frames.FRAME_SIZE_ERROR, "the frame is too large")
            start = offset + frames.HEAD_BYTES
            stop = start + length
            if stop > end:
                break
            offset = stop
            self.frames += 1
            if self._block is not None and kind != frames.CONTINUATION:
                raise _ConnectionError(frames.PROTOCOL_ERROR, "a header must be complete before another frame comes")
            try:
                if kind < len(_TAKE):
                    _TAKE[kind](self, flags, number & 0x7FFF_FFFF, data[start:stop])
                else:
                    self._charge(1)  # unknown frames are ignored
            except StreamError as error:
                self._charge(_RESET_COST)
                self.reset(error.number, error.code)
            if self.ended:
                return
        self._rest = data[offset:]

    def _charge(self, cost: int) -> None:
        self._allowance -= cost
        if self._allowance < 0:
            raise _ConnectionError(frames.ENHANCE_YOUR_CALM, "too many frames without a request")

    def _data(self, flags: int, number: int, payload: bytes) -> None:
        size = len(payload)
        self._room -= size
        if self._room < 0:
            raise _ConnectionError(frames.FLOW_CONTROL_ERROR, "more data than the connection's window")
        self._used += size
        if self._used >= _WINDOW_STEP:
            self.out.append(frames.frame(frames.WINDOW_UPDATE, 0, 0, frames.number(self._used)))
            self._room += self._used
            self._used = 0
        stream = self.streams.get(number)
        if stream is None or stream.received_all:
            self._come_late(number)
            return
        stream.room -= size
        if stream.room < 0:
            raise StreamError(number, frames.FLOW_CONTROL_ERROR)
        if flags & frames.PADDED:
            payload = _unpadded(payload)
        if flags & END_STREAM:
            stream.received_all = True
        elif not payload:
            self._charge(1)
        stream.count(len(payload))
        stream.on_data(payload)

    def _headers(self, flags: int, number: int, payload: bytes) -> None:
        if flags & frames.PADDED:
            payload = _unpadded(payload)
        if flags & frames.WITH_PRIORITY:
            if len(payload) < 5:
                raise _ConnectionError(frames.FRAME_SIZE_ERROR, "the frame is too short")
            _check_priority(number, payload)
            payload = payload[5:]
        if not number & 1:
            raise _ConnectionError(frames.PROTOCOL_ERROR, "clients' streams have odd numbers")
        if flags & END_HEADERS:
            self._header(number, flags, payload)
        else:
            self._block = bytearray(payload)
            self._block_of = number, flags, 1

    def _continuation(self, flags: int, number: int, payload: bytes) -> None:
        if self._block is None or number != self._block_of[0]:
            raise _ConnectionError(frames.PROTOCOL_ERROR, "there is no header to go on with")
        self._block += payload
        number, first_flags, count = self._block_of
        self._block_of = number, first_flags, count + 1
        if len(self._block) > self._max_header or count > _MAX_CONTINUATIONS:
            raise _ConnectionError(frames.ENHANCE_YOUR_CALM, "the header is too long")
        if flags & END_HEADERS:
            block, self._block = bytes(self._block), None
            self._header(number, first_flags, block)

    def _header(self, number: int, flags: int, block: bytes) -> None:
        """A header, or trailers, are complete."""
        stream = self.streams.get(number)
        if stream is not None:
            self._trailers(stream, flags, block)
            return
        if number <= self.last:
            self._decode(block)
            if number not in self._late and self._refusing_above is None:
                raise _ConnectionError(frames.STREAM_CLOSED, "the stream is closed")
            return
        if self._known_at != self._decoder.changes:
            self._known.clear()
            self._known_at = self._decoder.changes
        known = self._known.get(block)
        if known is None:
            known = self._read(number, block)
        meaning, length, varying = known
        if self._refusing_above is not None:
            self._late.append(number)
            return
        self.last = number
        if len(self.streams) >= MAX_STREAMS:
            self._late.append(number)
            raise StreamError(number, frames.REFUSED_STREAM)
        stream = self.streams[number] = self._peer.open(number, meaning, varying)
        if flags & END_STREAM:
            stream.received_all = True
        if length is not None:
            stream.expect(length)
        if flags & END_STREAM:
            stream.count(0)
        stream.on_open()

    def _read(self, number: int, block: bytes) -> tuple[Any, int | None, bytes | None]:
        """(meaning, length of the body if said, value of the varying field) of a header not seen before."""
        before = self._decoder.changes
        fields = self._decode(block)
        name = self._peer.varying
        values = [value for field, value in fields if field == name]
        try:
            if len(values) > 1:
                raise StreamError(number, frames.PROTOCOL_ERROR)
            rest = tuple([field for field in fields if field[0] != name]) if values else tuple(fields)
            meaning = self._meanings.get(rest)
            if meaning is None:
                meaning = self._understand(number, rest)
                if len(block) <= _MAX_KNOWN_BYTES:
                    if len(self._meanings) >= _MAX_KNOWN:
                        self._meanings.clear()
                    self._meanings[rest] = meaning
        except StreamError:
            self.last = number
            raise
        known = (*meaning, values[0] if values else None)
        if self._decoder.changes == before and len(self._known) < _MAX_KNOWN:
            self._known[block] = known
        return known

    def _understand(self, number: int, listed: tuple[hpack.Field, ...]) -> tuple[Any, int | None]:
        """(meaning, length of the body if said)."""
        fields = dict(listed)
        named = len(fields.keys() & _PSEUDO)
        if (
            hpack.MALFORMED in fields
            or not fields.keys() >= _NEEDED
            or not fields[b":path"]
            or any(name[0] != _COLON for name, _ in listed[:named])
            or any(name[0] == _COLON for name, _ in listed[named:])
            or fields.get(b"te", b"trailers") != b"trailers"
        ):
            raise StreamError(number, frames.PROTOCOL_ERROR)
        if hpack.size(listed) > self._max_header:
            raise StreamError(number, frames.ENHANCE_YOUR_CALM)
        said = fields.get(b"content-length")
        if said is not None and not (said.isdigit() and len(said) < 16):
            raise StreamError(number, frames.PROTOCOL_ERROR)
        return self._peer.interpret(fields), None if said is None else int(said)

    def _trailers(self, stream: Stream, flags: int, block: bytes) -> None:
        fields = self._decode(block)
        if stream.received_all:
            raise StreamError(stream.number, frames.STREAM_CLOSED)
        if not flags & END_STREAM or any(name[0] == _COLON or name == hpack.MALFORMED for name, _ in fields):
            raise StreamError(stream.number, frames.PROTOCOL_ERROR)
        stream.received_all = True
        stream.count(0)
        stream.on_data(b"")

    def _decode(self, block: bytes) -> list[hpack.Field]:
        if len(block) > self._max_header:
            raise _ConnectionError(frames.ENHANCE_YOUR_CALM, "the header is too long")
        try:
            return self._decoder.decode(block)
        except hpack.HpackError as error:
            raise _ConnectionError(frames.COMPRESSION_ERROR, str(error)) from None

    def _come_late(self, number: int) -> None:
        """A frame for a stream that is not open to it."""
        if number == 0 or number > self.last or not number & 1:
            if self._refusing_above is None or number == 0:
                raise _ConnectionError(frames.PROTOCOL_ERROR, "the stream was never opened")
        elif number not in self._late:
            raise StreamError(number, frames.STREAM_CLOSED)

    def _priority(self, flags: int, number: int, payload: bytes) -> None:
        self._charge(1)
        if len(payload) != 5:
            raise _ConnectionError(frames.FRAME_SIZE_ERROR, "PRIORITY has five octets")
        if number == 0:
            raise _ConnectionError(frames.PROTOCOL_ERROR, "PRIORITY is for streams")
        _check_priority(number, payload)

    def _reset_by_client(self, flags: int, number: int, payload: bytes) -> None:
        self._charge(1)
        if len(payload) != 4:
            raise _ConnectionError(frames.FRAME_SIZE_ERROR, "RST_STREAM has four octets")
        if number == 0 or number > self.last or not number & 1:
            if self._refusing_above is None or number == 0:
                raise _ConnectionError(frames.PROTOCOL_ERROR, "the stream was never opened")
            return
        stream = self.streams.pop(number, None)
        if stream is not None:
            stream.give_up()
            if not stream.answered:
                stream.answered = True
                stream.on_reset()

    def _settings(self, flags: int, number: int, payload: bytes) -> None:
        if number:
            raise _ConnectionError(frames.PROTOCOL_ERROR, "SETTINGS is for the connection")
        if len(payload) % 6 or (flags & frames.ACK and payload):
            raise _ConnectionError(frames.FRAME_SIZE_ERROR, "SETTINGS has six octets for each")
        if flags & frames.ACK:
            return
        self._charge(1)
        for identifier, value in frames.read_settings(payload):
            if identifier == frames.ENABLE_PUSH and value > 1:
                raise _ConnectionError(frames.PROTOCOL_ERROR, "ENABLE_PUSH is 0 or 1")
            if identifier == frames.MAX_FRAME_SIZE and not MAX_PAYLOAD <= value < 1 << 24:
                raise _ConnectionError(frames.PROTOCOL_ERROR, "MAX_FRAME_SIZE is out of range")
            if identifier == frames.INITIAL_WINDOW_SIZE:
                if value > MAX_WINDOW:
                    raise _ConnectionError(frames.FLOW_CONTROL_ERROR, "INITIAL_WINDOW_SIZE is out of range")
                step, self.initial_window = value - self.initial_window, value
                if not all(stream.grow(step) for stream in self.streams.values()):
                    raise _ConnectionError(frames.FLOW_CONTROL_ERROR, "a window is too large")
        self.out.append(frames.frame(frames.SETTINGS, frames.ACK, 0))

    def _push(self, flags: int, number: int, payload: bytes) -> NoReturn:
        raise _ConnectionError(frames.PROTOCOL_ERROR, "clients push nothing")

    def _ping(self, flags: int, number: int, payload: bytes) -> None:
        if number:
            raise _ConnectionError(frames.PROTOCOL_ERROR, "PING is for the connection")
        if len(payload) != 8:
            raise _ConnectionError(frames.FRAME_SIZE_ERROR, "PING has eight octets")
        if flags & frames.ACK:
            self.echoes += 1
            return
        self._charge(1)
        self.out.append(frames.frame(frames.PING, frames.ACK, 0, payload))

    def _goaway(self, flags: int, number: int, payload: bytes) -> None:
        if number:
            raise _ConnectionError(frames.PROTOCOL_ERROR, "GOAWAY is for the connection")
        if len(payload) < 8:
            raise _ConnectionError(frames.FRAME_SIZE_ERROR, "GOAWAY has at least eight octets")
        self._charge(1)  # it concerns streams of ours, and there are none

    def _window_update(self, flags: int, number: int, payload: bytes) -> None:
        self._charge(1)
        if len(payload) != 4:
            raise _ConnectionError(frames.FRAME_SIZE_ERROR, "WINDOW_UPDATE has four octets")
        step = int.from_bytes(payload, "big") & 0x7FFF_FFFF
        if number == 0:
            self.window += step
            if step == 0:
                raise _ConnectionError(frames.PROTOCOL_ERROR, "a window grows by nothing")
            if self.window > MAX_WINDOW:
                raise _ConnectionError(frames.FLOW_CONTROL_ERROR, "the window is too large")
            return
        stream = self.streams.get(number)
        if stream is None:
            if (number > self.last or not number & 1) and self._refusing_above is None:
                raise _ConnectionError(frames.PROTOCOL_ERROR, "the stream was never opened")
            return
        if step == 0:
            raise StreamError(number, frames.PROTOCOL_ERROR)
        if not stream.grow(step):
            raise StreamError(number, frames.FLOW_CONTROL_ERROR)

    @staticmethod
    def _farewell(last: int, code: int, text: str) -> bytes:
        return frames.frame(frames.GOAWAY, 0, 0, frames.number(last) + frames.number(code) + text.encode())


def _check_priority(number: int, payload: bytes) -> None:
    """Priorities have no meaning here, but must make sense."""
    if int.from_bytes(payload[:4], "big") & 0x7FFF_FFFF == number:
        raise _ConnectionError(frames.PROTOCOL_ERROR, "the stream depends on itself")


def _unpadded(payload: bytes) -> bytes:
    padding = payload[0] if payload else 0
    if padding >= len(payload):
        raise _ConnectionError(frames.PROTOCOL_ERROR, "there is more padding than frame")
    return payload[1 : len(payload) - padding]


_TAKE = (
    Http2._data, Http2._headers, Http2._priority, Http2._reset_by_client, Http2._settings, Http2._push,
    Http2._ping, Http2._goaway, Http2._window_update, Http2._continuation,
)  # fmt: skip
"""By type of frame."""
