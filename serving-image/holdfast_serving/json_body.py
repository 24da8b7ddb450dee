"""Bodies in JSON, whose decoded form must fit into memory."""

from __future__ import annotations

from typing import Any

import orjson

from holdfast_serving.problems import Problem

MAX_DECODED_BYTES = 256 << 20
"""Memory that the decoded form of one body may take, by a cautious estimate."""

_LARGE_BODY = 1 << 20


def parse(body: bytes | bytearray) -> dict[str, Any]:
    """A request's JSON object. Raises Problem 400, or 413 for what would take too much memory."""
    if len(body) > _LARGE_BODY and decoded_size(body) > MAX_DECODED_BYTES:
        raise Problem(413, "the body has too many elements for one request; send fewer rows")
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Problem(400, f"the body is not JSON: {error}") from None
    if type(document) is not dict:
        raise Problem(400, "the body must be a JSON object")
    return document


def decoded_size(text: bytes | bytearray) -> int:
    """Bytes that the decoded form of a JSON text may take at most, about: the parser's own and Python's objects."""
    lists, objects, strings = text.count(b"["), text.count(b"{"), text.count(b'"') // 2
    return 24 * (text.count(b",") + text.count(b".")) + 64 * strings + 80 * lists + 216 * objects
