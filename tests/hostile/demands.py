"""Hostile HTTP requests, byte by byte, and what each must be answered.

The server has `files.classifier` as its model `wine`; those in `TYPED` go to a model with an input of every datatype.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any

from tests.unit.serving.models import DATATYPES, build, node
from tests.unit.serving.server import REVISION, http

OPEN, CLOSED, EITHER = "open", "closed", "either"
CLIENT_ERROR = 4
"""Any status 4xx."""

INFER = "/v2/models/wine/infer"
LIVE = http("GET", "/v2/health/live")
TENSOR: dict[str, Any] = {"name": "X", "datatype": "FP32", "shape": [1, 4], "data": [5.1, 3.5, 1.4, 0.2]}
GOOD = json.dumps({"inputs": [TENSOR]}).encode()
HEAD = f"POST {INFER} HTTP/1.1\r\nHost: a\r\n".encode()
POST = http("POST", INFER, GOOD, "Content-Type: application/json")


@dataclass(frozen=True, slots=True)
class Demand:
    """What is sent at once on a connection of its own.

    Attributes:
        answers: the statuses that come back, in their order.
        then: whether the connection can be used for another request afterwards.
        port: attribute of the server.
    """

    name: str
    data: bytes | Callable[[], bytes]
    answers: tuple[int, ...] = (400,)
    then: str = CLOSED
    port: str = "port"

    @property
    def content(self) -> bytes:
        return self.data if isinstance(self.data, bytes) else self.data()


def fields(*lines: bytes, body: bytes = GOOD) -> bytes:
    """A POST with these header lines and no others but Host."""
    return HEAD + b"".join(line + b"\r\n" for line in lines) + b"\r\n" + body


def length(size: int | str = len(GOOD)) -> bytes:
    return f"Content-Length: {size}".encode()


def chunks(*parts: bytes) -> bytes:
    """A POST whose body is sent in chunks: these bytes as they are."""
    return fields(b"Transfer-Encoding: chunked", body=b"".join(parts))


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


END = b"0\r\n\r\n"
CODED = b"Transfer-Encoding: chunked"
WHOLE = chunk(GOOD) + END


# --- Where a request begins and ends --------------------------------------------------------------------------------


def framing() -> Iterator[Demand]:
    """Requests are smuggled past readers that disagree on where one ends: all of these end the connection."""
    yield Demand("a length and chunks", fields(length(4), CODED, body=WHOLE + LIVE))
    yield Demand("chunks and a length", fields(CODED, length(4), body=WHOLE + LIVE))
    yield Demand("a length and chunks that end at once", fields(length(len(END + LIVE)), CODED, body=END + LIVE))
    for name, coding in {
        "twice": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "twice, once identity": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "of nobody": b"Transfer-Encoding: xchunked",
        "identity": b"Transfer-Encoding: identity",
        "chunked, twice in one": b"Transfer-Encoding: chunked, chunked",
        "chunked, then gzip": b"Transfer-Encoding: chunked, gzip",
        "gzip, then chunked": b"Transfer-Encoding: gzip, chunked",
        "with a parameter": b"Transfer-Encoding: chunked;q=1",
        "behind a vertical tab": b"Transfer-Encoding: \x0bchunked",
        "before a NUL": b"Transfer-Encoding: chunked\x00",
        "behind a blank name": b"Transfer-Encoding : chunked",
        "in quotes": b'Transfer-Encoding: "chunked"',
        "folded": b"Transfer-Encoding:\r\n chunked",
        "empty": b"Transfer-Encoding:",
    }.items():
        answer = (
            501 if name.split(",")[0] in ("of nobody", "identity", "gzip", "with a parameter", "in quotes") else 400
        )
        yield Demand(f"a transfer coding, {name}", fields(coding, body=WHOLE + LIVE), (answer,))
    yield Demand("a transfer coding, with an underscore", fields(b"Transfer_Encoding: chunked", body=b""), (411,), OPEN)
    yield Demand("chunks in HTTP/1.0", fields(CODED, body=WHOLE).replace(b"HTTP/1.1", b"HTTP/1.0"), (501,))
    for value in (
        "+5", "-5", "0x5", "5 5", "5, 5", "5,5", "5;5", "5a", "a", "", " ", "5.0", "1e1", "٥", "5\x00", "5\x0b",
        "\x0b5", "18446744073709551616",
        "9" * 100, "0" * 100 + "x",
    ):  # fmt: skip
        yield Demand(f"a length of {value[:20]!r}", fields(length(value), body=b"12345" + LIVE))
    yield Demand("a length twice", fields(length(), length(), body=GOOD + LIVE))
    yield Demand("two lengths", fields(length(5), length(6), body=b"12345" + LIVE))
    yield Demand("a length behind a blank name", fields(b"Content-Length : 5", body=b"12345" + LIVE))
    yield Demand("a folded length", fields(b"Content-Length:\r\n 5", body=b"12345" + LIVE))
    yield Demand("a length with an underscore", fields(b"Content_Length: 5", body=b""), (411,), OPEN)
    yield Demand(
        "a length of 5,000 zeros and its digits", fields(length("0" * 5000 + "5"), body=b"12345"), (400,), EITHER
    )
    yield Demand("a length of 10 GiB", fields(length(10 << 30), body=b"{"), (413,))
    yield Demand("a length of 2^63", fields(length(1 << 63), body=b"{"), (413,))
    yield Demand("a length one above the limit", fields(length((16 << 20) + 1), body=b"{"), (413,))
    yield Demand("no length and no chunks", fields(body=b""), (411,), OPEN)
    yield Demand("a body that is longer than its length", fields(length(2), body=b"{}" + b"x" * 100), (400, 400))
    yield Demand("a body behind no body", http("GET", "/v2/health/live") + b"GARBAGE\r\n\r\n", (200, 400))
    yield Demand("a GET with a body that looks like a request", http("GET", "/v2/health/live", LIVE), (200,), OPEN)


def chunking() -> Iterator[Demand]:
    for size in (
        b"-1", b"+5", b"0x5", b"g", b"", b" ", b"5 5", b"5\x00", b"1" * 17, b"f" * 17, b"\xff", b"5\r",
        b"5;a\x00",
        b"5;\n", b"5\n\r", b"5.0",
    ):  # fmt: skip
        yield Demand(f"a chunk of size {size!r}", chunks(size + b"\r\n12345\r\n" + END))
    yield Demand("a chunk longer than it says", chunks(b"3\r\n12345\r\n" + END))
    yield Demand("a chunk that ends without a line", chunks(b"5\r\n12345" + END))
    yield Demand("chunks with bare line feeds", chunks(b"5\n12345\n0\n\n"))
    yield Demand("an extension of 33 MiB", lambda: chunks(b"5;" + b"x" * (33 << 20)), (413,))
    yield Demand("3,000,000 chunks of one byte", lambda: chunks(b"1\r\n[\r\n" * 3_000_000 + END), (400,), OPEN)
    yield Demand("6,000,000 chunks of one byte", lambda: chunks(b"1\r\n[\r\n" * 6_000_000), (413,))
    yield Demand("17 MiB in chunks", lambda: chunks(chunk(b" " * (1 << 20)) * 17), (413,))
    for trailer in (b"Content-Length: 5", b"Transfer-Encoding: chunked"):
        yield Demand(f"a trailer {trailer.decode()}", chunks(chunk(GOOD) + b"0\r\n" + trailer + b"\r\n\r\n"))
    for trailer in (b"Host: b", b"Content-Type: text/plain"):
        yield Demand(
            f"a trailer {trailer.decode()}", chunks(chunk(GOOD) + b"0\r\n" + trailer + b"\r\n\r\n"), (200,), OPEN
        )
    yield Demand("a trailer that is none", chunks(chunk(GOOD) + b"0\r\nnonsense\r\n\r\n"))
    yield Demand("trailers without end", chunks(chunk(GOOD) + b"0\r\n" + b"a: b\r\n" * 10_000), (431,))


def heads() -> Iterator[Demand]:
    def get(*lines: bytes, target: bytes = b"/v2/health/live") -> bytes:
        return b"GET " + target + b" HTTP/1.1\r\nHost: a\r\n" + b"".join(line + b"\r\n" for line in lines) + b"\r\n"

    for name, line in {
        "a folded field": b"X: a\r\n b",
        "a field folded by a tab": b"X: a\r\n\tb",
        "a field without a colon": b"nonsense",
        "a field without a name": b": a",
        "a name with a blank": b"a b: c",
        "a name before a blank": b"a : c",
        "a name behind a blank": b" a: c",
        "a name with a NUL": b"a\x00b: c",
        "a name that is no ASCII": b"\xc3\xa4: c",
        "a name with brackets": b"a(b): c",
        "a value with a NUL": b"a: b\x00c",
        "a value with a bare return": b"a: b\rc",
        "a value with a bell": b"a: b\x07c",
        "a value that is deleted": b"a: b\x7fc",
        "two hosts": b"Host: b",
        "two types": b"Content-Type: a\r\nContent-Type: b",
    }.items():
        yield Demand(name, get(line))
    yield Demand("a value behind a bare line feed", b"GET /v2/health/live HTTP/1.1\nHost: a\n\n")
    yield Demand("a blank line of one line feed", b"GET /v2/health/live HTTP/1.1\r\nHost: a\r\n\n")
    yield Demand("returns only", b"GET /v2/health/live HTTP/1.1\rHost: a\r\r")
    yield Demand("no host", b"GET /v2/health/live HTTP/1.1\r\n\r\n")
    yield Demand("100,000 fields", lambda: get(*[b"a: b"] * 100_000), (431,))
    yield Demand("a field of 1 MiB", lambda: get(b"a: " + b"b" * (1 << 20)), (431,))
    yield Demand("a name of 1 MiB", lambda: get(b"a" * (1 << 20) + b": b"), (431,))
    yield Demand("a target of 1 MiB", lambda: get(target=b"/" + b"a" * (1 << 20)), (431,))
    yield Demand("a query of 1 MiB", lambda: get(target=b"/v2?" + b"a=b&" * (1 << 18)), (431,))
    yield Demand("16 KiB and a few bytes", get(b"Cookie: " + b"a" * (16 << 10)), (431,))
    yield Demand("8,000 empty fields", get(*[b"a:"] * 8000), (431,))
    for name, line, status in (
        ("two blanks", b"GET  /v2 HTTP/1.1", 200),
        ("a tab", b"GET\t/v2 HTTP/1.1", 400),
        ("too many words", b"GET /v2 HTTP/1.1 x", 400),
        ("a target with a blank", b"GET /v 2 HTTP/1.1", 400),
        ("no target", b"GET HTTP/1.1", 400),
        ("no version", b"GET /v2", 505),
        ("version 9.9", b"GET /v2 HTTP/9.9", CLIENT_ERROR),
        ("version 1.01", b"GET /v2 HTTP/1.01", 400),
        ("version 2.0", b"GET /v2 HTTP/2.0", 505),
        ("version 0.9", b"GET /v2 HTTP/0.9", 505),
        ("a version in small letters", b"GET /v2 http/1.1", 400),
        ("a method in small letters", b"get /v2 HTTP/1.1", 400),
        ("a method of nobody", b"BREW /v2 HTTP/1.1", 400),
        ("a method behind a NUL", b"\x00GET /v2 HTTP/1.1", 400),
        ("a NUL in the target", b"GET /v2\x00 HTTP/1.1", 400),
        ("a target that is no ASCII", b"GET /v2/\xff\xfe HTTP/1.1", CLIENT_ERROR),
        ("another protocol", b"GET /v2 RTSP/1.0", 200),
        ("another protocol's method", b"DESCRIBE /v2 RTSP/1.0", 405),
        ("a radio station", b"SOURCE /v2 ICE/1.0", 405),
    ):
        then = EITHER if status in (CLIENT_ERROR, 200) else CLOSED
        yield Demand(f"a request line with {name}", line + b"\r\nHost: a\r\n\r\n", (status,), then)
    yield Demand("a method of 1 MiB", lambda: b"A" * (1 << 20))
    yield Demand("HTTP/2 with prior knowledge", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9), (CLIENT_ERROR,), EITHER)
    yield Demand("TLS", bytes.fromhex("1603010200010001fc0303") + bytes(500))
    yield Demand("SSH", b"SSH-2.0-OpenSSH_9.2\r\n")
    yield Demand("Redis", b"*1\r\n$4\r\nINFO\r\n")
    yield Demand("SMTP", b"EHLO a\r\nMAIL FROM:<a@b>\r\n")
    for seed in range(10):
        yield Demand(f"noise {seed}", Random(seed).randbytes(3000), (CLIENT_ERROR,))


def methods() -> Iterator[Demand]:
    for method in ("PUT", "PATCH", "DELETE", "TRACE", "PURGE", "MKCOL", "M-SEARCH", "SUBSCRIBE", "LINK", "QUERY"):
        yield Demand(f"the method {method}", http(method, INFER, GOOD), (CLIENT_ERROR,), EITHER)
    yield Demand("a proxy's CONNECT", b"CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example\r\n\r\n", (405,))
    yield Demand("OPTIONS *", http("OPTIONS", "*"), (200,), OPEN)
    for field in ("X-HTTP-Method-Override: POST", "X-HTTP-Method: POST", "X-Method-Override: POST", "_method: POST"):
        yield Demand(f"a GET with {field}", http("GET", INFER, GOOD, field), (405,), OPEN)
    yield Demand(
        "a wish for HTTP/2",
        http(
            "GET",
            "/v2/health/live",
            b"",
            "Connection: Upgrade, HTTP2-Settings",
            "Upgrade: h2c",
            "HTTP2-Settings: AAMAAABkAAQAAP__",
        ),
        (200,),
        OPEN,
    )
    yield Demand(
        "a wish for a websocket",
        http("GET", "/v2/health/live", b"", "Connection: Upgrade", "Upgrade: websocket"),
        (200,),
        OPEN,
    )
    wish = http("GET", "/v2/health/live", b"", "Connection: Upgrade", "Upgrade: h2c")
    yield Demand("3,000 wishes for another protocol", wish * 3000, (200,) * 3000, OPEN)
    yield Demand("5,000 requests at once", LIVE * 5000, (200,) * 5000, OPEN)
    yield Demand(
        "requests behind one that closes", http("GET", "/v2/health/live", b"", "Connection: close") + POST * 10, (200,)
    )
    yield Demand("another expectation", fields(length(), b"Expect: 200-ok"), (417,))
    yield Demand("an expectation for too much", fields(length(1 << 40), b"Expect: 100-continue", body=b""), (413,))
    yield Demand("an expectation for nothing there", http("POST", "/nowhere", b"{}", "Expect: 100-continue"), (404,))
    for kind in (
        "application/x-www-form-urlencoded", "multipart/form-data; boundary=" + "-" * 5000, "text/plain", "text/xml",
        "application/x-pickle",
        "application/x-ndjson", "application/json-patch+json", "*/*", "application/x-protobuf", "x",
    ):  # fmt: skip
        yield Demand(f"a body of type {kind[:40]}", http("POST", INFER, GOOD, f"Content-Type: {kind}"), (415,), OPEN)
    for coding in ("br", "zstd", "compress", "x", "gzip, gzip, gzip"):
        yield Demand(
            f"a body in {coding}", http("POST", INFER, zlib.compress(GOOD), f"Content-Encoding: {coding}"), (415,), OPEN
        )


def paths() -> Iterator[Demand]:
    for target in (
        "/..", "/../../etc/passwd", "/v2/../../etc/passwd", "/v2/..%2f..%2fetc/passwd", "/%2e%2e/%2e%2e/etc/passwd",
        "/%252e%252e/etc/passwd",
        "/v2/models/..", "/v2/models/../wine", "/v2/models/%2e%2e/wine", "/v2/models/wine/../../..",
        "/v2/models/wine%00", "/v2%00/health/live",
        "/v2/models/wine%0d%0aX-Injected:%20a", "/v2\\models\\wine", "/v2/models\\..\\wine", "/v2/models/wine%5c..",
        "//v2/models/wine",
        "/v2//models/wine", "/v2/models//wine", "///etc/passwd", "/v2/models/wine;x=y", "/v2/models/WINE",
        "/V2/models/wine", "/v2/models/wine.",
        "/v2/models/wine%20", "/v2/models/beer", "/v2/models/beer/infer", "/v2/models/wine/versions/1",
        "/v2/models/wine/versions/-1",
        "/v2/models/wine/versions/..", f"/v2/models/wine/versions/{REVISION}x", f"/v2/models/beer/versions/{REVISION}",
        "/v2/models/wine/versions/" + "9" * 5000, "/v2/models/" + "a" * 10_000, "/v2/models/%ff%fe", "/v2/models/%",
        "/v2/models/%zz",
"/proc/self/environ", "/etc/passwd", "/.env", "/.git/config",
        "/livez", "/metrics",
        "/router/lease", "/debug/pprof", "/v2/logging", "/v2/trace/setting", "/v2/systemsharedmemory/status",
        "/v2/cudasharedmemory/status",
        "/v1/models/wine:predict", "/invocations", "/actuator/env", "/v2/models/${jndi:ldap://a}",
        "/v2/models/{{7*7}}", "/v2/models/' OR 1=1--",
    ):  # fmt: skip
        line = f"GET {target.replace(' ', '%20')} HTTP/1.1\r\nHost: a\r\n\r\n".encode("latin-1")
        yield Demand(f"GET {target[:50]}", line, (404,), OPEN)
    for target in (
        "/v2/repository/models/wine/load", "/v2/repository/models/evil/load", "/v2/repository/models/wine/unload",
        "/v2/logging", "/v2/trace/setting",
        "/v2/systemsharedmemory/region/a/register", "/v2/cudasharedmemory/region/a/register",
        "/v2/models/wine/generate", "/v2/models/../wine/infer",
        "/v2/models/wine/versions/1/infer", "/v2/models/beer/infer", "/v2", "/v2/health/live", "/v2/models/wine", "/",
        "/register", "/models?url=http://a",
        "/predict", "/admin",
    ):  # fmt: skip
        yield Demand(
            f"POST {target}", http("POST", target, GOOD, "Content-Type: application/json"), (CLIENT_ERROR,), OPEN
        )
    yield Demand("a target in absolute form", http("GET", "http://evil.example/etc/passwd"), (404,), OPEN)
    yield Demand("a target with a password", http("GET", "http://a:b@c/etc/passwd"), (404,), OPEN)


def managing() -> Iterator[Demand]:
    """The other port."""
    for name, data, answers, then in (
        ("an unknown path", http("GET", "/v2"), (404,), OPEN),
        ("a path upwards", http("GET", "/../../metrics"), (404,), OPEN),
        ("a POST", http("POST", "/livez", b"{}"), (405,), OPEN),
        ("inference", POST, (404,), OPEN),
        ("a length and chunks", fields(length(4), CODED, body=WHOLE + LIVE), (400,), CLOSED),
        ("a field of 1 MiB", b"GET /livez HTTP/1.1\r\nHost: a\r\na: " + b"b" * (1 << 20), (431,), CLOSED),
        ("a body of 1 GiB", fields(length(1 << 30), body=b""), (413,), CLOSED),
        ("noise", Random(0).randbytes(3000), (400,), CLOSED),
    ):
        yield Demand(f"management: {name}", data, answers, then, "management_port")


# --- What a body says -----------------------------------------------------------------------------------------------


def said(name: str, body: bytes | Callable[[], bytes], *answers: int) -> Demand:
    """A well-framed request; the connection stays whatever its body says."""

    def content() -> bytes:
        return http("POST", INFER, body if isinstance(body, bytes) else body(), "Content-Type: application/json")

    return Demand(name, content, answers or (400,), OPEN)


def tensor(**changes: Any) -> bytes:
    """The good request with its input changed; None takes a member away."""
    changed = {key: value for key, value in (TENSOR | changes).items() if value is not None}
    return json.dumps({"inputs": [changed]}).encode()


def data(text: str) -> bytes:
    """The good request with this text as its data."""
    return json.dumps({"inputs": [{**TENSOR, "data": "DATA"}]}).replace('"DATA"', text).encode()


def whole(**members: Any) -> bytes:
    return json.dumps({"inputs": [TENSOR], **members}).encode()


def full_of(piece: bytes) -> bytes:
    """A body as large as may be."""
    return b'{"inputs":[' + piece * ((16 << 20) // len(piece) - 10) + b"0]}"


def texts() -> Iterator[Demand]:
    """Not JSON, or JSON at its edges."""
    for name, text in {
        "nothing": b"", "a blank": b" ", "null": b"null", "a number": b"1", "a text": b'"inputs"', "a list": b"[]",
        "half an object": b'{"inputs": [',
        "an empty object": b"{}", "a comma too many": b'{"inputs": [],}', "a comment": b'{"inputs": [] /* */}',
        "single quotes": b"{'inputs': []}",
        "no quotes": b"{inputs: []}", "two documents": GOOD + GOOD, "something behind it": GOOD + b"x",
        "a NUL behind it": GOOD + b"\x00",
        "a byte order mark": b"\xef\xbb\xbf" + GOOD, "UTF-16": GOOD.decode().encode("utf-16"),
        "UTF-32": GOOD.decode().encode("utf-32"),
        "Latin-1": b'{"inputs": "\xe4"}', "an overlong slash": b'{"inputs": "\xc0\xaf"}',
        "a surrogate in UTF-8": b'{"inputs": "\xed\xa0\x80"}',
        "a cut character": b'{"inputs": "\xe2\x82"}', "half a surrogate pair": b'{"inputs": "\\ud800"}',
        "a pair the wrong way round": b'{"inputs": "\\udc00\\ud800"}',
        "a control character": b'{"inputs": "\n"}', "a bad escape": b'{"inputs": "\\x41"}', "form data": b"inputs=1",
        "XML": b"<inputs/>",
        "a pickle": b"\x80\x04\x95", "YAML": b"inputs: !!python/object/apply:os.system [id]",
        "a MessagePack map": b"\x81\xa6inputs\x90",
        "100,000 lists": b"[" * 100_000, "100,000 lists, closed": b"[" * 100_000 + b"]" * 100_000,
        "100,000 objects": b'{"a":' * 100_000,
        "100,000 lists as inputs": b'{"inputs":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    }.items():  # fmt: skip
        yield said(f"body: {name}", text)
    yield said(
        "body: a key twice, of which the last counts", GOOD.replace(b'{"inputs"', b'{"inputs": [], "inputs"', 1), 200
    )
    yield said(
        "body: 100,000 unknown keys",
        lambda: json.dumps({f"k{n}": n for n in range(100_000)} | {"inputs": [TENSOR]}).encode(),
        200,
    )
    yield said("body: 100,000 keys without inputs", lambda: json.dumps({f"k{n}": n for n in range(100_000)}).encode())
    yield said("body: a key of 1 MiB", lambda: b'{"' + b"k" * (1 << 20) + b'": 1}')
    for name, piece in {
        "lists": b"[],", "objects": b"{},", "objects with a member": b'{"a":1},', "lists in lists": b"[[]],",
        "digits": b"0,", "fractions": b"1.5,",
        "texts": b'"ab",', "nulls": b"null,", "long numbers": b"9007199254740993,",
    }.items():  # fmt: skip
        yield said(f"body: 16 MiB of {name}", partial(full_of, piece), CLIENT_ERROR)
    yield said("body: 16 MiB of blanks", lambda: b" " * (16 << 20))
    yield said("body: 16 MiB of open lists", lambda: b"[" * (16 << 20), CLIENT_ERROR)
    yield said("body: a text of 16 MiB", lambda: b'{"inputs": "' + b"a" * ((16 << 20) - 20) + b'"}')


def documents() -> Iterator[Demand]:
    """JSON, but no request."""
    for name, value in {
        "null": None, "an object": {}, "a text": "X", "a number": 1, "empty": [], "a null in a list": [None],
        "a list in a list": [[TENSOR]],
        "a number in a list": [1], "a text in a list": ["X"], "an empty object": [{}],
        "twice the same": [TENSOR, TENSOR],
        "one too many": [TENSOR, {**TENSOR, "name": "Y"}], "another": [{**TENSOR, "name": "Y"}],
        "10^5 times the same": [TENSOR] * 100_000,
        "10^5 others": [{"name": f"X{n}"} for n in range(100_000)], "10^5 empty objects": [{}] * 100_000,
        "10^5 nulls": [None] * 100_000,
    }.items():  # fmt: skip
        yield said(f"inputs: {name}", lambda value=value: json.dumps({"inputs": value}).encode())  # type: ignore[misc]
    for value in (None, 1, [], {}, True, "", "x", " X", "X\x00", "\u202eX", "x" * 100_000, "../X", "<script>"):
        yield said(f"name: {json.dumps(value)[:30]}", tensor(name=value))
    for value in (
        None,
        1,
        [],
        {},
        "",
        "fp32",
        "FP64",
        "FLOAT",
        "FP16",
        "BF16",
        "STRING",
        "BYTES",
        "INT64",
        "FP32\x00",
        "x" * 100_000,
    ):
        yield said(f"datatype: {json.dumps(value)[:30]}", tensor(datatype=value))
    shapes: list[Any] = [
        None, 4, "1,4", {}, [], [4], [1], [4, 1], [1, 4, 1], [1, 5], [2, 4], [0, 4], [-1, 4], [1, -4], [-1, -4],
        [1.0, 4], ["1", 4], [True, 4], [None, 4],
        [[1], 4], [1 << 31, 4], [1 << 32, 1 << 32], [1 << 62, 4], [1 << 63, 4], [(1 << 63) + 1, 4],
        [(1 << 64) - 1, 4], [1] * 1000, [1] * 100_000,
        [1 << 62] * 100_000,
    ]  # fmt: skip
    for shape in shapes:
        yield said(f"shape: {json.dumps(shape)[:30]} ({len(str(shape))})", tensor(shape=shape))
    yield said("shape: [1e999, 4]", tensor(shape=["S", 4]).replace(b'"S"', b"1e999"))
    yield said("shape: 10^6 digits", tensor(shape=["S", 4]).replace(b'"S"', b"9" * 1_000_000))
    for name, text in {
        "null": "null", "an object": "{}", "a text": '"abcd"', "a number": "1", "nothing": "[]",
        "too little": "[1,2,3]", "too much": "[1,2,3,4,5]",
        "too little, nested": "[[1,2,3]]", "too many rows": "[[1,2,3,4],[1,2,3,4]]", "ragged": "[[1,2],[3,4,5]]",
        "too deep": "[[[1],[2],[3],[4]]]",
        "half nested": "[[1,2],3,4]", "texts": '["1","2","3","4"]', "booleans": "[true,false,true,true]",
        "objects": "[{},{},{},{}]",
        "100,000 deep": "[" * 100_000 + "]" * 100_000, "500 deep": "[" * 500 + "1" + "]" * 500, "NaN": "[NaN,1,1,1]",
        "Infinity": "[Infinity,1,1,1]",
        "-Infinity": "[-Infinity,1,1,1]", "nan": "[nan,1,1,1]", "hexadecimal": "[0x10,1,1,1]", "octal": "[010,1,1,1]",
        "a plus": "[+1,1,1,1]",
        "no digit before the point": "[.5,1,1,1]", "no digit behind it": "[1.,1,1,1]",
        "an empty exponent": "[1e,1,1,1]", "an empty element": "[1,,1,1]",
    }.items():  # fmt: skip
        yield said(f"data: {name}", data(text))
    for name, text, status in (
        ("1e999", "[1e999,1,1,1]", CLIENT_ERROR), ("10^6 digits", "[" + "9" * 1_000_000 + ",1,1,1]", CLIENT_ERROR),
        ("10^6 digits behind the point", "[0." + "1" * 1_000_000 + ",1,1,1]", 200),
        ("2^64", "[18446744073709551616,1,1,1]", 200),
        ("the largest double", "[1.7976931348623157e308,1,1,1]", CLIENT_ERROR),
        ("the smallest", "[5e-324,1,1,1]", 200), ("-0", "[-0,1,1,1]", 200),
        ("missing values", "[null,null,null,null]", CLIENT_ERROR),
    ):  # fmt: skip
        yield said(f"data: {name}", data(text), status)
    for value in ([], "x", 1, {"a": {}}, {"a": []}, {"a": None}, {"a": [1]}):
        yield said(f"parameters: {json.dumps(value)}", whole(parameters=value))
        yield said(f"parameters of the input: {json.dumps(value)}", tensor(parameters=value))
    yield said("parameters: 10^5", lambda: whole(parameters={f"p{n}": n for n in range(100_000)}), 200)
    for value in (
        {},
        "x",
        1,
        [None],
        [1],
        ["label"],
        [{}],
        [{"name": 1}],
        [{"name": "x" * 100_000}],
        [{"name": "X"}],
        [{"name": "label"}] * 2,
    ):
        yield said(f"outputs: {json.dumps(value)[:50]}", whole(outputs=value), 200 if value == {} else 400)
    yield said("outputs: 10^5 times the same", lambda: whole(outputs=[{"name": "label"}] * 100_000))
    for count in (0, -1, 1.5, "2", True, None, [], {}):
        wanted = [{"name": "scores", "parameters": {"classification": count}}]
        yield said(f"a classification: {json.dumps(count)}", whole(outputs=wanted))
    for count in (1, 2**62, 2**63, 2**64):
        wanted = [{"name": "scores", "parameters": {"classification": count}}]
        yield said(f"a classification: {count}", whole(outputs=wanted), 200 if count < 2**64 else 400)
    labels = [{"name": "label", "parameters": {"classification": 2**40}}]
    yield said("a classification of labels", whole(outputs=labels))
    region = {"shared_memory_region": "a", "shared_memory_byte_size": 16, "shared_memory_offset": 1 << 40}
    yield said("shared memory as an input", tensor(data=None, parameters=region))
    yield said("shared memory as an output", whole(outputs=[{"name": "label", "parameters": region}]))
    for value in (1, 1.5, [], {}, True):
        yield said(f"id: {json.dumps(value)}", whole(id=value))
    yield said("id: half a character", whole(id="I").replace(b'"I"', b'"\\ud800"'))
    yield said("id: 1 MiB", lambda: whole(id="a" * (1 << 20)), 200)
    yield said("id: a header", whole(id="a\r\nX-Injected: b\r\n\r\n"), 200)


# --- Values of every datatype ---------------------------------------------------------------------------------------


def every_type() -> bytes:
    """A model with an input per datatype, [-1, 2] each, that gives all of them back."""
    kinds = {name: (kind, [None, 2]) for name, kind in DATATYPES.items()}
    steps = [node("Identity", name, f"{name}_again") for name in kinds]
    return build(steps, kinds, {f"{name}_again": kind for name, kind in kinds.items()})


def good_values(datatype: str) -> list[Any]:
    return {"BOOL": [True, False], "BYTES": ["a", ""]}.get(datatype, [1, 2])


def typed(datatype: str, text: str) -> bytes:
    """A request with good values for all inputs but one, whose data is this text."""
    inputs = [
        {"name": name, "datatype": name, "shape": [1, 2], "data": "DATA" if name == datatype else good_values(name)}
        for name in DATATYPES
    ]
    return json.dumps({"inputs": inputs}).replace('"DATA"', text).encode()


def values() -> Iterator[Demand]:
    for datatype in ("FP32", "BYTES"):
        for member in ("name", "datatype", "shape", "data"):
            text = typed(datatype, json.dumps(good_values(datatype)))
            document = json.loads(text)
            del next(item for item in document["inputs"] if item["name"] == datatype)[member]
            yield said(f"{datatype} without its {member}", json.dumps(document).encode())
    for datatype in DATATYPES:
        bad = ["[{},{}]", '{"a":1}', "[1]", "[1,2,3]", "[[1],[2]]", "null"]
        if datatype == "BOOL":
            bad += ["[0,1]", '["true","false"]', "[null,true]", "[1.0,0.0]"]
        elif datatype == "BYTES":
            bad += ["[1,2]", "[true,false]", '[null,"a"]', '[["a"],["b"]]', '["\\ud800","a"]']
        elif datatype.startswith("FP"):
            bad += ['["1","2"]', "[true,false]", "[NaN,1]", '["NaN","Infinity"]']
        else:
            bits, signed = int(datatype.lstrip("UINT")), datatype.startswith("I")
            top = (1 << (bits - signed)) - 1
            low = -(1 << (bits - 1)) if signed else 0
            bad += [
                f"[{top + 1},1]",
                f"[{low - 1},1]",
                "[1.5,1]",
                "[1.0,1]",
                "[1e2,1]",
                '["1","2"]',
                "[true,false]",
                "[null,1]",
            ]
        for text in bad:
            yield said(f"{datatype}: {text[:40]}", typed(datatype, text))


DEMANDS = [*framing(), *chunking(), *heads(), *methods(), *paths(), *managing(), *texts(), *documents()]
TYPED = [*values()]
