"""Compressed messages: the codings that gRPC names, made and undone within limits."""

from __future__ import annotations

import zlib

from holdfast_serving.problems import Problem

CODINGS = {b"deflate": 15, b"gzip": 31}
"""zlib's window bits by name. `identity` is none."""

ACCEPTED = b"identity,deflate,gzip"

LEAST_BYTES = 1024
"""Smaller messages are not worth it."""

SMALL_BYTES, INLINE_BYTES = 4 << 10, 64 << 10
"""Of a message that comes, compressed, and of one that goes, not yet: what is larger is not for the event loop."""

_LEVEL = 1  # most of the gain for a fraction of the time


def decompress(data: bytes | memoryview, bits: int, limit: int) -> bytes | Problem:
    """The message, or what is wrong with it. Never makes more than `limit` octets and one.

    Nothing is raised: in a future, an exception and the frames that it passed, with all that was made, are a circle
    that waits for the garbage collector.
    """
    stream = zlib.decompressobj(bits)
    try:
        made = stream.decompress(data, limit + 1)
    except zlib.error:
        return Problem(400, "a message is not compressed as its call says")
    if len(made) > limit:
        return Problem(413, f"a message has more than {limit} bytes when decompressed")
    if not stream.eof or stream.unused_data:
        return Problem(400, "a message is not compressed as its call says")
    return made


def compress(data: bytes, bits: int) -> bytes:
    """The message, compressed."""
    stream = zlib.compressobj(_LEVEL, zlib.DEFLATED, bits)
    return stream.compress(data) + stream.flush()
