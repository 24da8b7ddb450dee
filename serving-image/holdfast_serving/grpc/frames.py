"""Frames of HTTP/2 (RFC 9113, section 4 and 6): numbers, and how they are written."""

from __future__ import annotations

import struct
from typing import TypeAlias

Buffer: TypeAlias = bytes | memoryview
"""What is sent."""

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEAD_BYTES = 9
MAX_PAYLOAD = 16384
"""What every client takes, and all that is taken from one."""

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)

END_STREAM = ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
WITH_PRIORITY = 0x20

NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR = 0x0, 0x1, 0x2, 0x3
STREAM_CLOSED, FRAME_SIZE_ERROR, REFUSED_STREAM, CANCEL = 0x5, 0x6, 0x7, 0x8
COMPRESSION_ERROR, ENHANCE_YOUR_CALM = 0x9, 0xB

ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE = 0x2, 0x3, 0x4
MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE = 0x5, 0x6

_HEAD = struct.Struct(">HBBBL")
_SETTING = struct.Struct(">HL")
unpack_head = _HEAD.unpack_from
"""(length >> 8, length & 255, type, flags, stream with a reserved bit) from (data, offset)."""


def head(kind: int, flags: int, stream: int, length: int) -> bytes:
    """The first nine octets of a frame."""
    return _HEAD.pack(length >> 8, length & 255, kind, flags, stream)


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """A whole frame."""
    return head(kind, flags, stream, len(payload)) + payload


def number(value: int) -> bytes:
    """What WINDOW_UPDATE and RST_STREAM hold."""
    return value.to_bytes(4, "big")


def settings(**values: int) -> bytes:
    """A SETTINGS frame; names as here, in small letters."""
    return frame(
        SETTINGS, 0, 0, b"".join(_SETTING.pack(globals()[name.upper()], value) for name, value in values.items())
    )


def read_settings(payload: bytes) -> list[tuple[int, int]]:
    """(identifier, value) in their order."""
    return list(_SETTING.iter_unpack(payload))
