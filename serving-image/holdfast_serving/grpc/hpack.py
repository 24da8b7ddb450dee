"""HPACK (RFC 7541): header fields as HTTP/2 sends them.

Clients repeat themselves: a block that names known fields only, by one octet each, is looked up as a whole. What a
name or value must not hold is found out once, when it comes as text, and not again whenever it is named by number.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from holdfast_serving.grpc import huffman

Field = tuple[bytes, bytes]

CAPACITY = 4096
"""Size of the dynamic table, as HTTP/2 has it unless somebody says otherwise."""

MALFORMED = b"!"
"""The name of every field that must not be in a request. No field can have it."""

_OVERHEAD = 32  # per entry of the table, by definition
_MAX_INTEGER = 1 << 28

_NAME = re.compile(rb"(?::(?:method|scheme|path|authority)|[!#$%&'*+\-.^_`|~0-9a-z]+)\Z")
_VALUE = re.compile(rb"(?:[^\x00\r\n\t ](?:[^\x00\r\n]*[^\x00\r\n\t ])?)?\Z")
_OF_CONNECTIONS = frozenset({b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"})


class HpackError(Exception):
    """The block cannot be read, and so no later block of the connection can."""


class Decoder:
    """Reads the blocks of one connection, in their order.

    Attributes:
        changes: how often the dynamic table has changed: between two changes a block means the same.
    """

    __slots__ = ("_capacity", "_entries", "_size", "_sizes", "changes")

    def __init__(self) -> None:
        self._entries: list[Field] = []  # the newest is the last
        self._sizes: list[int] = []
        self._size = 0
        self._capacity = CAPACITY
        self.changes = 0

    def decode(self, block: bytes) -> list[Field]:
        """The fields; those that no request may have are called `MALFORMED`. Raises HpackError."""
        try:
            return self._decode(block)
        except (IndexError, ValueError) as error:
            raise HpackError(str(error)) from None

    def _decode(self, block: bytes) -> list[Field]:
        fields: list[Field] = []
        entries = self._entries
        position, end = 0, len(block)
        while position < end:
            octet = block[position]
            position += 1
            if octet >= 0x80:
                index = octet & 0x7F
                if index == 0x7F:
                    index, position = _integer(block, position, 0x7F)
                elif index == 0:
                    raise HpackError("no field has the index 0")
                fields.append(_STATIC[index] if index <= _LAST_STATIC else entries[_LAST_STATIC - index])
            elif octet >= 0x40:
                field, size, position = self._literal(block, position, octet, 0x3F)
                fields.append(field)
                self._insert(field, size)
            elif octet >= 0x20:
                if fields:
                    raise HpackError("the size of the table changes behind a field")
                size = octet & 0x1F
                if size == 0x1F:
                    size, position = _integer(block, position, 0x1F)
                if size > CAPACITY:
                    raise HpackError("the table must not be as large")
                self._capacity = size
                self.changes += 1
                self._evict(0)
            else:
                field, _, position = self._literal(block, position, octet, 0x0F)
                fields.append(field)
        return fields

    def _literal(self, block: bytes, position: int, octet: int, mask: int) -> tuple[Field, int, int]:
        """(field, its size, where it ends)."""
        index = octet & mask
        if index == mask:
            index, position = _integer(block, position, mask)
        if index == 0:
            name, position = _text(block, position)
            length = len(name)
            if not _NAME.match(name) or name in _OF_CONNECTIONS:
                name = MALFORMED
        elif index <= _LAST_STATIC:
            name, length = _STATIC[index][0], _STATIC_LENGTHS[index]
        else:
            entry = _LAST_STATIC - index
            name, value = self._entries[entry]
            length = self._sizes[entry] - len(value) - _OVERHEAD
        value, position = _text(block, position)
        if not _VALUE.match(value):
            name = MALFORMED
        return (name, value), length + len(value) + _OVERHEAD, position

    def _insert(self, field: Field, size: int) -> None:
        self.changes += 1
        if self._size + size > self._capacity:
            self._evict(size)
            if size > self._capacity:
                return
        self._entries.append(field)
        self._sizes.append(size)
        self._size += size

    def _evict(self, room: int) -> None:
        """Forget the oldest entries until `room` octets fit."""
        sizes, oldest = self._sizes, 0
        while oldest < len(sizes) and self._size + room > self._capacity:
            self._size -= sizes[oldest]
            oldest += 1
        del self._entries[:oldest], sizes[:oldest]


def encode(fields: Iterable[Field]) -> bytes:
    """A block that needs no table and no Huffman code: it can be made once for all connections."""
    return b"".join(
        b"\x00%b%b%b%b" % (_encoded(len(name)), name, _encoded(len(value)), value) for name, value in fields
    )


def size(fields: Iterable[Field]) -> int:
    """The size of a header as HTTP/2 counts it."""
    return sum([len(name) + len(value) + _OVERHEAD for name, value in fields])


def _encoded(length: int) -> bytes:
    """The length of a text that is not compressed."""
    if length < 0x7F:
        return bytes((length,))
    length -= 0x7F
    octets = bytearray(b"\x7f")
    while length >= 0x80:
        octets.append(length & 0x7F | 0x80)
        length >>= 7
    octets.append(length)
    return bytes(octets)


def _integer(block: bytes, position: int, value: int) -> tuple[int, int]:
    """(integer, where it ends) of one whose first octet is full."""
    shift = 0
    while True:
        octet = block[position]
        position += 1
        value += (octet & 0x7F) << shift
        if value > _MAX_INTEGER or shift > 28:
            raise HpackError("an integer is too large")
        if octet < 0x80:
            return value, position
        shift += 7


def _text(block: bytes, position: int) -> tuple[bytes, int]:
    octet = block[position]
    position += 1
    length = octet & 0x7F
    if length == 0x7F:
        length, position = _integer(block, position, 0x7F)
    end = position + length
    if end > len(block):
        raise HpackError("a text is longer than its block")
    text = block[position:end]
    return (huffman.decode(text) if octet & 0x80 else text), end


_NAMES = b"""
    :authority :method :method :path :path :scheme :scheme :status :status :status :status :status :status :status
    accept-charset accept-encoding accept-language accept-ranges accept access-control-allow-origin age allow
    authorization cache-control content-disposition content-encoding content-language content-length content-location
    content-range content-type cookie date etag expect expires from host if-match if-modified-since if-none-match
    if-range if-unmodified-since last-modified link location max-forwards proxy-authenticate proxy-authorization range
    referer refresh retry-after server set-cookie strict-transport-security transfer-encoding user-agent vary via
    www-authenticate
""".split()
_VALUES = {2: b"GET", 3: b"POST", 4: b"/", 5: b"/index.html", 6: b"http", 7: b"https", 16: b"gzip, deflate"}
_NOT_IN_REQUESTS = _OF_CONNECTIONS | {b":status"}

# Appendix A; index 0 stands for nothing.
_STATIC: list[Field] = [(MALFORMED, b"")] + [
    (MALFORMED if name in _NOT_IN_REQUESTS else name, _VALUES.get(index, b"")) for index, name in enumerate(_NAMES, 1)
]
_STATIC_LENGTHS = [0, *map(len, _NAMES)]
_LAST_STATIC = len(_NAMES)
