"""Hostile uses of what the protocol allows beside plain JSON: binary tensors, compressed bodies, leases."""

from __future__ import annotations

import gzip
import json
import struct
import zlib
from collections.abc import Iterator
from functools import cache, partial
from typing import Any

from tests.hostile.demands import (
    CLIENT_ERROR,
    CLOSED,
    GOOD,
    HEAD,
    INFER,
    OPEN,
    TENSOR,
    Demand,
    fields,
    full_of,
    good_values,
    length,
)
from tests.unit.serving.models import DATATYPES
from tests.unit.serving.server import http

ROW = struct.pack("<4f", 5.1, 3.5, 1.4, 0.2)
MEBIBYTE = 1 << 20


# --- Binary tensors -------------------------------------------------------------------------------------------------


def attached(document: Any, data: bytes, size: int | str | None = None) -> bytes:
    """A request with data behind its JSON; `size` is what the header field says, None for the truth."""
    text = document if isinstance(document, bytes) else json.dumps(document).encode()
    said = f"Inference-Header-Content-Length: {len(text) if size is None else size}"
    return http("POST", INFER, text + data, "Content-Type: application/octet-stream", said)


def described(size: Any = 16, shape: Any = (1, 4), **changes: Any) -> dict[str, Any]:
    """The JSON of a request whose input lies behind it."""
    parameters = {"parameters": {"binary_data_size": size}}
    return {"inputs": [{"name": "X", "datatype": "FP32", "shape": list(shape), **parameters, **changes}]}


def binary() -> Iterator[Demand]:
    yield Demand("binary: the truth", attached(described(), ROW), (200,), OPEN)
    text = json.dumps(described()).encode()
    whole = len(text) + len(ROW)
    for size in ("+5", "-5", "5.0", "0x5", "5, 5", "a", '""', "٥", "9" * 19, "9" * 5000, str(1 << 64), whole + 1):
        yield Demand(f"binary: JSON of {str(size)[:20]!r} bytes", attached(text, ROW, size), (400,), OPEN)
    yield Demand("binary: a length twice", attached(text, ROW, "5\r\nInference-Header-Content-Length: 6"))
    for name, size in (("shorter than it is", len(text) - 1), ("longer than it is", len(text) + 1), ("of all", whole)):
        yield Demand(f"binary: JSON {name}", attached(text, ROW, size), (400,), OPEN)
    for size in (0, 1, 15, 17, -1, -16, 1 << 31, 1 << 63, (1 << 64) - 1, 1 << 64, 16.0, "16", None, True, [], [16], {}):
        yield Demand(f"binary: an input of {json.dumps(size)} bytes", attached(described(size), ROW), (400,), OPEN)
    for shape in ((2, 4), (1, 3), (0, 4), (-1, 4), (1 << 62, 4), (1 << 32, 1 << 32), (4,), ()):
        yield Demand(f"binary: a shape of {list(shape)}", attached(described(shape=shape), ROW), (400,), OPEN)
    yield Demand("binary: no data at all", attached(described(), b""), (400,), OPEN)
    yield Demand("binary: a byte too few", attached(described(), ROW[:-1]), (400,), OPEN)
    yield Demand("binary: a byte too many", attached(described(), ROW + b"\0"), (400,), OPEN)
    yield Demand(
        "binary: 8 MiB that belong to nobody", lambda: attached(described(), ROW + bytes(8 << 20)), (400,), OPEN
    )
    yield Demand("binary: data in both places", attached(described(data=TENSOR["data"]), ROW), (400,), OPEN)
    yield Demand("binary: data that nobody describes", attached(GOOD, ROW), (400,), OPEN)
    yield Demand(
        "binary: a size without the header field",
        http("POST", INFER, json.dumps(described()).encode() + ROW, "Content-Type: application/octet-stream"),
        (400,),
        OPEN,
    )
    twice = {"inputs": described()["inputs"] * 2}
    yield Demand("binary: an input twice", attached(twice, ROW * 2), (400,), OPEN)
    huge = {"inputs": described(1 << 63)["inputs"] * 2}
    yield Demand("binary: sizes whose sum overflows", attached(huge, ROW * 2), (400,), OPEN)
    many = {"inputs": described(0)["inputs"] * 100_000}
    yield Demand("binary: 10^5 inputs of nothing", lambda: attached(many, b""), (400,), OPEN)
    for value in ("yes", 1, 0, None, [], {}):
        parameters = {"parameters": {"binary_data_output": value}}
        yield Demand(f"binary: outputs, if {json.dumps(value)}", attached(described() | parameters, ROW), (400,), OPEN)
        outputs = {"outputs": [{"name": "label", "parameters": {"binary_data": value}}]}
        yield Demand(f"binary: an output, if {json.dumps(value)}", attached(described() | outputs, ROW), (400,), OPEN)
    for size in (0, 1, 15, 17, 31):
        yield Demand(f"binary: {size} bytes and nothing else", attached(b"", bytes(size), 0), (400,), OPEN)
    yield Demand("binary: 16 bytes and nothing else", attached(b"", ROW, 0), (200,), OPEN)
    odd = struct.pack("<4f", float("nan"), float("inf"), float("-inf"), -0.0)
    yield Demand("binary: no numbers", attached(described(), odd), (CLIENT_ERROR,), OPEN)
    yield Demand(
        "binary: chunks of one byte",
        HEAD + b"Transfer-Encoding: chunked\r\nInference-Header-Content-Length: %d\r\n\r\n" % len(text)
        + b"".join(b"1\r\n%c\r\n" % byte for byte in text + ROW) + b"0\r\n\r\n",
        (200,),
        OPEN,
    )  # fmt: skip


def text(*lengths_and_bytes: tuple[int, bytes]) -> bytes:
    """Elements of BYTES, each with the length that it says it has."""
    return b"".join(struct.pack("<I", size) + content for size, content in lengths_and_bytes)


def typed_binary(datatype: str, data: bytes) -> bytes:
    """A request with good values for all inputs but one, which comes in these bytes."""
    inputs: list[dict[str, Any]] = [
        {"name": name, "datatype": name, "shape": [1, 2], "data": good_values(name)} for name in DATATYPES
    ]
    for item in inputs:
        if item["name"] == datatype:
            del item["data"]
            item["parameters"] = {"binary_data_size": len(data)}
    return attached({"inputs": inputs}, data)


def typed_bytes() -> Iterator[Demand]:
    for name, data in {
        "one element too few": text((1, b"a")),
        "one element too many": text((1, b"a"), (1, b"b"), (1, b"c")),
        "a length beyond the end": text((1, b"a"), (2, b"b")),
        "a length of 2^32 - 1": text((1, b"a"), (0xFFFFFFFF, b"b")),
        "a length of 2^31": text((1, b"a"), (1 << 31, b"b")),
        "lengths that overlap": text((5, b"a"), (1, b"b")),
        "a length that is cut": text((1, b"a")) + b"\1\0\0",
        "no length": b"ab",
        "nothing": b"",
        "bytes behind the end": text((1, b"a"), (1, b"b")) + b"c",
        "no UTF-8": text((1, b"\xff"), (1, b"a")),
        "half a surrogate pair": text((3, b"\xed\xa0\x80"), (1, b"a")),
        "the first length of all": text((9, b"a" * 9)),
    }.items():
        yield Demand(f"binary BYTES: {name}", typed_binary("BYTES", data), (400,), OPEN)
    for byte in (2, 3, 127, 128, 255):
        yield Demand(f"binary BOOL: {byte}", typed_binary("BOOL", bytes([1, byte])), (400,), OPEN)
    for datatype in DATATYPES:
        width = {"BOOL": 1, "BYTES": 5}.get(datatype) or int(datatype.lstrip("UINTFP")) // 8
        for size in sorted({2 * width - 1, 2 * width + 1, width, 0}):
            yield Demand(f"binary {datatype}: {size} bytes", typed_binary(datatype, bytes(size)), (400,), OPEN)


# --- Compressed bodies ----------------------------------------------------------------------------------------------


def packed(coding: str, body: bytes) -> bytes:
    return http("POST", INFER, body, "Content-Type: application/json", f"Content-Encoding: {coding}")


@cache
def bomb(mebibytes: int, coding: str = "gzip") -> bytes:
    """Blanks that become a thousand times as large."""
    stream = zlib.compressobj(1, wbits=31 if coding == "gzip" else 15)
    return b"".join([*(stream.compress(b" " * MEBIBYTE) for _ in range(mebibytes)), stream.flush()])


def empty_blocks() -> bytes:
    """16 MiB of deflate that says nothing."""
    raw = zlib.compressobj(1, wbits=-15)
    block = raw.compress(b"") + raw.flush(zlib.Z_FULL_FLUSH)
    return gzip.compress(b"", mtime=0)[:10] + block * ((16 * MEBIBYTE - 100) // len(block))


def compressed() -> Iterator[Demand]:
    good = gzip.compress(GOOD, mtime=0)
    yield Demand("gzip: the truth", packed("gzip", good), (200,), OPEN)
    yield Demand("deflate: the truth", packed("deflate", zlib.compress(GOOD)), (200,), OPEN)
    for size in (17, 64, 1024):
        yield Demand(f"gzip: {size} MiB of blanks", partial(packed, "gzip", bomb(size)), (413,), OPEN)
    yield Demand("deflate: 1024 MiB of blanks", lambda: packed("deflate", bomb(1024, "deflate")), (413,), OPEN)
    yield Demand("gzip: 16 MiB of blanks", lambda: packed("gzip", bomb(16)), (400,), OPEN)
    yield Demand("gzip: a bomb in a bomb", lambda: packed("gzip", gzip.compress(bomb(1024), 1)), (400,), OPEN)
    yield Demand(
        "gzip: 16 MiB of objects", lambda: packed("gzip", gzip.compress(full_of(b'{"a":1},'), 1)), (413,), OPEN
    )
    yield Demand("gzip: 16 MiB of nothing", lambda: packed("gzip", empty_blocks()), (400,), OPEN)
    for name, body in {
        "nothing": b"", "one byte": b"\x1f", "only a header": good[:10], "a cut end": good[:-1],
        "no checksum": good[:-8],
        "a wrong checksum": good[:-8] + bytes(8), "a wrong length": good[:-4] + b"\xff" * 4, "two members": good + good,
        "bytes behind the end": good + b"x", "a NUL behind the end": good + b"\0", "no compression": GOOD,
        "deflate": zlib.compress(GOOD), "another method": b"\x1f\x8b\x07" + good[3:],
        "reserved flags": good[:3] + b"\xe0" + good[4:],
        "a file name without end": good[:3] + b"\x08" + good[4:10] + b"a" * 100_000,
        "an extra field of 64 KiB": good[:3] + b"\x04" + good[4:10] + b"\xff\xff" + bytes(100),
        "a distance before the beginning": good[:10] + b"\x63\x00\x42\x00" + good[-8:], "noise": bytes(range(256)) * 20,
        "a zip": b"PK\x03\x04" + bytes(100), "gzip in gzip": gzip.compress(good),
    }.items():  # fmt: skip
        yield Demand(f"gzip: {name}", packed("gzip", body), (400,), OPEN)
    raw = zlib.compressobj(9, wbits=-15)
    dictionary = zlib.compressobj(zdict=GOOD)
    for name, body in {
        "nothing": b"", "without its header": raw.compress(GOOD) + raw.flush(), "gzip": good,
        "a cut end": zlib.compress(GOOD)[:-1],
        "a wrong checksum": zlib.compress(GOOD)[:-4] + bytes(4),
        "a dictionary": dictionary.compress(GOOD) + dictionary.flush(),
        "no compression": GOOD,
    }.items():  # fmt: skip
        yield Demand(f"deflate: {name}", packed("deflate", body), (400,), OPEN)
    for coding in ("gzip, deflate", "gzip gzip", "gzip;q=1", "GZIP\x0b", "identity, gzip"):
        expected = (CLIENT_ERROR,)
        then = CLOSED if "\x0b" in coding else OPEN
        yield Demand(f"a coding {coding!r}", packed(coding, good), expected, then)
    yield Demand("a coding twice", fields(length(), b"Content-Encoding: gzip", b"Content-Encoding: gzip"))
    yield Demand(
        "5,000 codings for the answer",
        http("POST", INFER, GOOD, "Accept-Encoding: " + "gzip;q=0," * 1500),
        (200,),
        OPEN,
    )


# --- Leases ---------------------------------------------------------------------------------------------------------


def leases() -> Iterator[Demand]:
    """The server has no keys, so whatever comes is refused."""
    for name, body in {
        "nothing": b"", "an object": b"{}", "a list": b"[]", "half": b'{"a', "100,000 deep": b"[" * 100_000,
        "NaN": b'{"weight": NaN}',
        "a forged one": b'{"lease": "e30=", "signature": "' + b"A" * 88 + b'"}', "no UTF-8": b"\xff\xfe",
    }.items():  # fmt: skip
        data = http("PUT", "/router/lease", body, "Content-Type: application/json")
        if not body:
            data = data.replace(b"\r\n\r\n", b"\r\nContent-Length: 0\r\n\r\n")
        then = CLOSED if len(body) > 50_000 else OPEN
        yield Demand(f"lease: {name}", data, (CLIENT_ERROR,), then, "management_port")
    for method in ("GET", "POST", "DELETE"):
        yield Demand(f"lease: {method}", http(method, "/router/lease", b"{}"), (CLIENT_ERROR,), OPEN, "management_port")


EXTENDED = [*binary(), *compressed(), *leases()]
TYPED_EXTENDED = [*typed_bytes()]
