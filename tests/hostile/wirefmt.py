"""protobuf's wire format by hand, for files that no library would write."""

from __future__ import annotations

VARINT, FIXED64, BYTES, GROUP, END_GROUP, FIXED32 = range(6)


def varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def field(number: int, content: bytes | int) -> bytes:
    """One field: a number as a varint, bytes with their length."""
    if isinstance(content, int):
        return varint(number << 3 | VARINT) + varint(content)
    return varint(number << 3 | BYTES) + varint(len(content)) + content


def nested(depth: int, *numbers: int) -> bytes:
    """Messages in one another, `depth` times along these fields (outermost first), made from the inside."""
    content = b""
    for _ in range(depth):
        for number in reversed(numbers):
            content = field(number, content)
    return content
