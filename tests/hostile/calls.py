"""Hostile gRPC: frames that are no HTTP/2, floods, and calls whose messages lie. What the server must say to each."""

from __future__ import annotations

import gzip
import re
import socket
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from random import Random

from tests.hostile.extensions import MEBIBYTE, ROW, text
from tests.hostile.wirefmt import field, nested, varint
from tests.unit.serving.http2_client import PREFACE, frame, message
from tests.unit.serving.models import DATATYPES

from holdfast_serving.grpc.hpack import encode

DATA, HEADERS, PRIORITY, RST, SETTINGS, PUSH, PING, GOAWAY, WINDOW, CONTINUATION = range(10)
END_STREAM, END_HEADERS, PADDED = 1, 4, 8
PROTOCOL, FLOW, STREAM_CLOSED, FRAME_SIZE, REFUSED, COMPRESSION, CALM = 1, 3, 5, 6, 7, 9, 11
OK, INVALID, LATE, NOT_FOUND, EXHAUSTED, UNIMPLEMENTED, INTERNAL = 0, 3, 4, 5, 8, 12, 13
MODEL_INFER = b"/inference.GRPCInferenceService/ModelInfer"
LIVE = b"/inference.GRPCInferenceService/ServerLive"
OCTETS = 16384


@dataclass(frozen=True, slots=True)
class Call:
    """What a client sends behind the preface, and how the server ends it.

    Attributes:
        end: "status N" (gRPC's), "http N", "reset N", "goaway N", or "closed".
        typed: for the model with an input of every datatype.
    """

    name: str
    data: bytes | Callable[[], bytes]
    end: str
    typed: bool = False
    preface: bytes = PREFACE

    @property
    def content(self) -> bytes:
        return self.preface + (self.data if isinstance(self.data, bytes) else self.data())


# --- Frames ---------------------------------------------------------------------------------------------------------


def header(path: bytes = MODEL_INFER, **changes: bytes | None) -> bytes:
    """The fields of a call; None leaves one out."""
    fields = {":method": b"POST", ":scheme": b"http", ":path": path, "te": b"trailers"}
    fields |= {"content-type": b"application/grpc"}
    changed = {**fields, **{name.replace("_", "-"): value for name, value in changes.items()}}
    return encode([(name.encode(), value) for name, value in changed.items() if value is not None])


def opened(block: bytes, stream: int = 1, flags: int = END_HEADERS) -> bytes:
    return frame(HEADERS, flags, stream, block)


def poured(data: bytes, stream: int = 1, *, end: bool = True) -> bytes:
    """DATA frames, however large the server's windows are."""
    pieces = [data[start : start + OCTETS] for start in range(0, len(data), OCTETS)] or [b""]
    flags = [0] * (len(pieces) - 1) + [END_STREAM if end else 0]
    return b"".join(frame(DATA, flag, stream, piece) for flag, piece in zip(flags, pieces, strict=True))


def call(content: bytes, flag: int = 0, **fields: bytes | None) -> bytes:
    """A whole unary call."""
    return opened(header(**fields)) + poured(message(content, flag))


def flood(piece: bytes, count: int) -> Callable[[], bytes]:
    return lambda: piece * count


def streams(count: int, *pieces: Callable[[int], bytes]) -> Callable[[], bytes]:
    """The same on one stream after the other."""
    return lambda: b"".join(piece(number) for number in range(1, 2 * count, 2) for piece in pieces)


SIMPLE = header(LIVE)


def floods() -> Iterator[Call]:
    def flooding(name: str, data: Callable[[], bytes]) -> Call:
        return Call(f"a flood of {name}", data, f"goaway {CALM}")

    yield flooding("pings", flood(frame(PING, 0, 0, bytes(8)), 100_000))
    yield flooding("settings", flood(frame(SETTINGS, 0, 0, b"\0\4\0\0\xff\xff"), 100_000))
    yield flooding("priorities", flood(frame(PRIORITY, 0, 3, b"\0\0\0\0\x10"), 100_000))
    yield flooding("windows", flood(frame(WINDOW, 0, 0, b"\0\0\0\1"), 100_000))
    yield flooding("frames of no type", flood(frame(99, 0, 0, b"x"), 100_000))
    yield flooding("goodbyes", flood(frame(GOAWAY, 0, 0, bytes(8)), 100_000))
    yield flooding("empty data", lambda: opened(header()) + frame(DATA, 0, 1) * 100_000)
    yield flooding("rapid resets", streams(50_000, partial(opened, SIMPLE), lambda n: frame(RST, 0, n, b"\0\0\0\x08")))
    yield flooding("malformed requests", streams(10_000, partial(opened, header(te=b"gzip"), flags=5)))
    yield flooding("continuations", lambda: opened(SIMPLE, flags=0) + frame(CONTINUATION, 0, 1, b"a") * 100_000)
    yield flooding("empty continuations", lambda: opened(SIMPLE, flags=0) + frame(CONTINUATION, 0, 1) * 100_000)
    yield flooding(
        "header that never ends", lambda: opened(b"", flags=0) + frame(CONTINUATION, 0, 1, bytes(OCTETS)) * 100
    )
    yield flooding("streams that are left open", streams(5_000, partial(opened, SIMPLE)))


def hpack_bombs() -> Iterator[Call]:
    large = encode([(b"a", b"b" * 4000)]).replace(b"\0", b"\x40", 1)  # kept in the table, as its newest entry
    newest = b"\xbe"
    yield Call(
        "a header that unfolds to 60 MiB", opened(SIMPLE + large + newest * 12_000), f"goaway {CALM}|reset {CALM}"
    )
    yield Call(
        "headers that unfold again and again",
        lambda: opened(SIMPLE + large, flags=5) + b"".join(opened(newest * 12_000, n, 5) for n in range(3, 2000, 2)),
        f"reset {PROTOCOL}|reset {CALM}|goaway {CALM}",
    )
    for name, block in {
        "index 0": b"\x80", "an index beyond the table": b"\xff\x80\x01",
        "an index of 2^60": b"\xff" + b"\xff" * 8 + b"\x0f",
        "a number without end": b"\xff" + b"\x80" * 100, "a text beyond the block": b"\0\x7f\xff\xff\x03a",
        "a text of 2^28": b"\0\x01a\x7f\x81\xff\xff\x7f",
        "a table of 2^30": b"\x3f\xe1\xff\xff\xff\x03", "a table that changes behind a field": SIMPLE + b"\x20",
        "a bad code": b"\0\x81\xff\x81\xff",
        "half a field": b"\0", "half a text": b"\0\x05ab",
    }.items():  # fmt: skip
        yield Call(f"a header with {name}", opened(block, flags=5), f"goaway {COMPRESSION}")


def framing() -> Iterator[Call]:
    whole = opened(SIMPLE) + poured(message(b""))
    for name, data, code in (
        ("a frame of 16 MiB", b"\xff\xff\xff\0\0\0\0\0\1", FRAME_SIZE),
        ("a frame one octet too large", frame(DATA, 0, 1, bytes(OCTETS + 1)), FRAME_SIZE),
        ("data on no stream", frame(DATA, 0, 0, b"x"), PROTOCOL),
        ("data on a stream that is not open", frame(DATA, 0, 1, b"x"), PROTOCOL),
        ("a header on no stream", opened(SIMPLE, 0), PROTOCOL),
        ("a header on a stream of the server", opened(SIMPLE, 2), PROTOCOL),
        ("a stream behind a newer one", opened(SIMPLE, 5) + opened(SIMPLE, 3), STREAM_CLOSED),
        ("padding beyond the frame", frame(HEADERS, END_HEADERS | PADDED, 1, b"\xff" + SIMPLE), PROTOCOL),
        ("data that is only padding, and more", opened(SIMPLE) + frame(DATA, PADDED, 1, b"\x05abc"), PROTOCOL),
        ("a header in a header", opened(SIMPLE, flags=0) + opened(SIMPLE, 3), PROTOCOL),
        ("data in a header", opened(SIMPLE, flags=0) + frame(DATA, 0, 1, b"x"), PROTOCOL),
        ("a continuation of another stream", opened(SIMPLE, flags=0) + frame(CONTINUATION, 4, 3, b""), PROTOCOL),
        ("a continuation of nothing", frame(CONTINUATION, 4, 1, SIMPLE), PROTOCOL),
        ("a push", frame(PUSH, 4, 1, b"\0\0\0\2" + SIMPLE), PROTOCOL),
        ("settings of five octets", frame(SETTINGS, 0, 0, bytes(5)), FRAME_SIZE),
        ("settings on a stream", frame(SETTINGS, 0, 1), PROTOCOL),
        ("a window of 2^31", frame(SETTINGS, 0, 0, b"\0\4\x80\0\0\0"), FLOW),
        ("frames of one octet", frame(SETTINGS, 0, 0, b"\0\5\0\0\0\1"), PROTOCOL),
        ("a ping of seven octets", frame(PING, 0, 0, bytes(7)), FRAME_SIZE),
        ("a ping on a stream", frame(PING, 0, 1, bytes(8)), PROTOCOL),
        ("a window of nothing", frame(WINDOW, 0, 0, bytes(4)), PROTOCOL),
        ("windows beyond 2^31", frame(WINDOW, 0, 0, b"\x7f\xff\xff\xff") * 2, FLOW),
        ("a window of a stream that is not open", frame(WINDOW, 0, 9, b"\0\0\0\1"), PROTOCOL),
        ("a reset of a stream that is not open", frame(RST, 0, 9, bytes(4)), PROTOCOL),
        ("a reset of three octets", whole + frame(RST, 0, 1, bytes(3)), FRAME_SIZE),
        ("a goodbye of seven octets", frame(GOAWAY, 0, 0, bytes(7)), FRAME_SIZE),
        ("a stream that depends on itself", frame(PRIORITY, 0, 3, b"\0\0\0\3\x10"), PROTOCOL),
        (
            "more data than the connection's window",
            lambda: opened(SIMPLE) + poured(bytes(2 * MEBIBYTE), end=False),
            FLOW,
        ),
    ):
        ends = f"goaway {code}|reset {code}" if code == FLOW else f"goaway {code}"
        yield Call(name, data, ends)
    yield Call("a window beyond 2^31", opened(SIMPLE) + frame(WINDOW, 0, 1, b"\x7f\xff\xff\xff"), f"reset {FLOW}")
    yield Call("more data than a stream's window", opened(SIMPLE) + poured(bytes(70_000), end=False), f"reset {FLOW}")
    yield Call("trailers that do not end", opened(SIMPLE) + opened(encode([(b"a", b"b")])), f"reset {PROTOCOL}")
    yield Call("128 settings in one frame", frame(SETTINGS, 0, 0, b"\0\4\0\0\xff\xff" * 2000) + whole, "status 0")
    for name, preface in {
        "HTTP/1.1": b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "TLS": bytes.fromhex("1603010200010001fc0303") + bytes(500),
        "another preface": b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", "noise": Random(1).randbytes(2000),
        "zeros": bytes(1000),
    }.items():  # fmt: skip
        ends = "http 400" if name == "HTTP/1.1" else f"goaway {PROTOCOL}|closed"
        yield Call(f"on the gRPC port: {name}", b"", ends, preface=preface)
    for seed in range(20):
        yield Call(f"frames of noise {seed}", noise(seed), r"goaway \d+")


def noise(seed: int) -> bytes:
    """Frames of all types with random flags, streams and payloads, the last of them one that ends everything."""
    random = Random(seed)
    made = [
        frame(random.randrange(11), random.randrange(256), random.randrange(8), random.randbytes(random.randrange(40)))
        for _ in range(50)
    ]
    return b"".join(made) + frame(DATA, 0, 0)


# --- Calls ----------------------------------------------------------------------------------------------------------


def heads() -> Iterator[Call]:
    infer = good()
    for name, path in {
        "of another service": b"/evil.Service/Call", "of no service": b"/", "upwards": b"/../../etc/passwd",
        "with a NUL": b"/\x00",
        "of 8,000 letters": b"/" + b"a" * 8000, "in small letters": MODEL_INFER.lower(),
        "with a slash more": MODEL_INFER + b"/",
        "encoded": MODEL_INFER.replace(b"ModelInfer", b"%4dodelInfer"),
        "in absolute form": b"http://evil" + MODEL_INFER,
    }.items():  # fmt: skip
        ends = f"reset {PROTOCOL}" if name == "with a NUL" else f"status {UNIMPLEMENTED}"
        yield Call(f"a path {name}", opened(header(path)) + poured(message(infer)), ends)
    for name in ("RepositoryModelLoad", "RepositoryModelUnload"):
        path = b"/inference.GRPCInferenceService/" + name.encode()
        yield Call(f"the method {name}", opened(header(path)) + poured(message(field(2, b"evil"))), "status (9|12)")
    for name in ("SystemSharedMemoryRegister", "CudaSharedMemoryRegister", "TraceSetting", "LogSettings"):
        path = b"/inference.GRPCInferenceService/" + name.encode()
        yield Call(f"the method {name}", opened(header(path)) + poured(message(b"")), f"status {UNIMPLEMENTED}")
    for kind in (b"application/json", b"application/grpc+json", b"application/grpc-web", b"text/html", b""):
        yield Call(f"a content of type {kind!r}", call(infer, content_type=kind), "http 415")
    yield Call(
        "a GET",
        opened(encode([(b":method", b"GET"), (b":scheme", b"http"), (b":path", MODEL_INFER)]), flags=5),
        "http 405",
    )
    for timeout in (b"", b"S", b"1", b"-1S", b"1.5S", b"123456789S", b"1X", b"1 S", b"9" * 1000 + b"S"):
        yield Call(
            f"a timeout of {timeout[:20]!r}", call(infer, grpc_timeout=timeout), f"status ({INVALID}|{INTERNAL})"
        )
    yield Call("a timeout of nothing", call(infer, grpc_timeout=b"0n"), f"status {LATE}|status {EXHAUSTED}")
    for name, changes in {
        "no trailers": {"te": b"gzip"}, "no path": {":path": None}, "no method": {":method": None},
        "no scheme": {":scheme": None},
        "an empty path": {":path": b""}, "a field of a connection": {"connection": b"close"},
        "a coding": {"transfer-encoding": b"chunked"},
        "a length that is none": {"content-length": b"x"}, "capitals": {"X-Big": b"a"},
        "a value with a line": {"a": b"b\r\nc: d"},
        "a value with a NUL": {"a": b"\0"}, "an unknown pseudo field": {":evil": b"a"},
    }.items():  # fmt: skip
        fields = {":method": b"POST", ":scheme": b"http", ":path": MODEL_INFER, "content-type": b"application/grpc"}
        block = encode([(n.encode(), v) for n, v in {**fields, **changes}.items() if v is not None])
        yield Call(f"a header with {name}", opened(block, flags=5), f"reset {PROTOCOL}")
    for length in (b"0", b"5", b"100000000"):
        yield Call(f"a content of {length!r} octets", call(infer, content_length=length), f"reset {PROTOCOL}")
    yield Call(
        "200 fields",
        opened(header() + encode([(b"a%d" % n, b"b") for n in range(2000)]), flags=5)[:OCTETS],
        "closed|reset 11|goaway 11|goaway 6",
    )


def messages() -> Iterator[Call]:
    infer = good()
    for name, data, ends in (
        ("no message", opened(header(), flags=5), f"status ({INVALID}|{INTERNAL})"),
        ("an empty body", opened(header()) + poured(b""), f"status ({INVALID}|{INTERNAL})"),
        ("half a prefix", opened(header()) + poured(b"\0\0\0"), f"status ({INVALID}|{INTERNAL})"),
        ("half a message", opened(header()) + poured(message(infer)[:-1]), f"status ({INVALID}|{INTERNAL})"),
        (
            "two messages",
            opened(header()) + poured(message(infer) * 2),
            f"status ({INVALID}|{INTERNAL}|{UNIMPLEMENTED})",
        ),
        (
            "an octet behind the message",
            opened(header()) + poured(message(infer) + b"x"),
            f"status ({INVALID}|{INTERNAL})",
        ),
        ("a message of 4 GiB", opened(header()) + poured(b"\0\xff\xff\xff\xff" + bytes(100)), f"status {EXHAUSTED}"),
        ("a message of 16 MiB and an octet", opened(header()) + poured(b"\0\x01\0\0\x01"), f"status {EXHAUSTED}"),
        ("a flag of 2", call(infer, 2), f"status ({INVALID}|{INTERNAL})"),
        ("a compressed message in no coding", call(gzip.compress(infer), 1), f"status ({INVALID}|{INTERNAL})"),
        ("an unknown coding", call(infer, 1, grpc_encoding=b"br"), f"status {UNIMPLEMENTED}"),
        ("a message of another coding", call(zlib.compress(infer), 1, grpc_encoding=b"gzip"), f"status {INVALID}"),
        (
            "a compressed message without its end",
            call(gzip.compress(infer)[:-1], 1, grpc_encoding=b"gzip"),
            f"status {INVALID}",
        ),
        ("two compressed members", call(gzip.compress(infer) * 2, 1, grpc_encoding=b"gzip"), f"status {INVALID}"),
        (
            "a bomb of 64 KiB in 64 octets",
            call(gzip.compress(bytes(1 << 16)), 1, grpc_encoding=b"gzip"),
            f"status {INVALID}",
        ),
    ):
        yield Call(name, data, ends)
    # As much as fits into the windows that a client has unasked.
    yield Call(
        "a bomb of 17 MiB",
        lambda: call(gzip.compress(bytes(17 * MEBIBYTE)), 1, grpc_encoding=b"gzip"),
        f"status {EXHAUSTED}",
    )
    yield Call("a bomb of 60 MiB", lambda: call(bomb_of(60), 1, grpc_encoding=b"gzip"), f"status {EXHAUSTED}")


def bomb_of(mebibytes: int) -> bytes:
    packed = gzip.compress(bytes(mebibytes * MEBIBYTE), 9)
    assert len(packed) < 65_000
    return packed


# --- What a ModelInferRequest says ----------------------------------------------------------------------------------


def signed(value: int) -> int:
    """As a varint of 64 bits holds it."""
    return value & (1 << 64) - 1


def tensor(
    *, name: bytes = b"X", datatype: bytes = b"FP32", shape: tuple[int, ...] = (1, 4), contents: bytes = b""
) -> bytes:
    sizes = b"".join(varint(signed(size)) for size in shape)
    return field(1, name) + field(2, datatype) + field(3, sizes) + (field(5, contents) if contents else b"")


def asked(*inputs: bytes, raw: tuple[bytes, ...] = (), model: bytes = b"wine", more: bytes = b"") -> bytes:
    return (
        field(1, model) + b"".join(field(5, item) for item in inputs) + b"".join(field(7, item) for item in raw) + more
    )


def good() -> bytes:
    return asked(tensor(), raw=(ROW,))


FLOATS = field(6, ROW)


def requests() -> Iterator[Call]:
    def wrong(name: str, content: bytes | Callable[[], bytes], ends: str = f"status {INVALID}") -> Call:
        data = partial(_call, content)
        return Call(f"request: {name}", data, ends)

    yield wrong("the truth", good(), "status 0")
    yield wrong("the truth in typed contents", asked(tensor(contents=FLOATS)), "status 0")
    for name, content in {
        "nothing": b"", "noise": Random(2).randbytes(500), "a field that is cut": good()[:-1],
        "a number of eleven octets": b"\x08" + b"\x80" * 10 + b"\1",
        "groups in groups": b"\x0b" * 10_000, "a group that ends too often": b"\x0c", "field 0": b"\0\0",
        "10,000 messages in one another": nested(10_000, 5),
        "a length of 2^63": b"\x0a" + varint(1 << 63),
        "a name that is no UTF-8": asked(tensor(name=b"\xff"), raw=(ROW,)),
    }.items():  # fmt: skip
        yield wrong(name, content, f"status ({INVALID}|{NOT_FOUND}|{INTERNAL})")
    for model in (b"", b"beer", b"../wine", b"wine\0", b"x" * 10_000, b"\xf0\x9f\x8d\xb7"):
        yield wrong(
            f"the model {model[:10]!r}", asked(tensor(), raw=(ROW,), model=model), f"status ({NOT_FOUND}|{INVALID})"
        )
    yield wrong("version 1", asked(tensor(), raw=(ROW,), more=field(2, b"1")), f"status {NOT_FOUND}")
    for size in (0, 1, 15, 17, 32):
        yield wrong(f"{size} raw octets", asked(tensor(), raw=(bytes(size),)))
    yield wrong("two raw contents", asked(tensor(), raw=(ROW, ROW)))
    yield wrong("neither contents", asked(tensor()))
    yield wrong("both contents", asked(tensor(contents=FLOATS), raw=(ROW,)))
    yield wrong("no input", asked())
    yield wrong("an input twice", asked(tensor(), tensor(), raw=(ROW, ROW)))
    yield wrong("10^4 inputs", asked(*[tensor()] * 10_000)[:60_000])
    for name in (b"", b"Y", b"X\0", b"x" * 10_000):
        yield wrong(f"an input {name[:10]!r}", asked(tensor(name=name), raw=(ROW,)))
    for datatype in (b"", b"fp32", b"FP64", b"FP16", b"BF16", b"STRING", b"x" * 10_000):
        yield wrong(f"the datatype {datatype[:10]!r}", asked(tensor(datatype=datatype), raw=(ROW,)))
    shapes: list[tuple[int, ...]] = [
        (), (4,), (1,), (1, 4, 1), (2, 4), (0, 4), (-1, 4), (1, -4), (1 << 62, 4), (1 << 32, 1 << 32),
        (-(1 << 63), 4), (1,) * 10_000,
        ((1 << 63) - 1,) * 1000,
    ]  # fmt: skip
    for shape in shapes:
        yield wrong(f"a shape of {str(shape)[:30]} ({len(shape)})", asked(tensor(shape=shape), raw=(ROW,)))
        yield wrong(f"a typed shape of {str(shape)[:30]} ({len(shape)})", asked(tensor(shape=shape, contents=FLOATS)))
    for name, contents in {
        "three numbers": field(6, ROW[:12]), "five numbers": field(6, ROW + ROW[:4]),
        "whole numbers": field(2, b"\1\2\3\4"),
        "doubles": field(7, struct.pack("<4d", 1, 2, 3, 4)), "texts": field(8, b"a") * 4,
        "numbers and texts": FLOATS + field(8, b"a"),
        "truths": field(1, b"\1\0\1\0"), "a cut number": field(6, ROW[:15]),
    }.items():  # fmt: skip
        yield wrong(f"contents of {name}", asked(tensor(contents=contents)), f"status ({INVALID}|{INTERNAL})")
    for name, outputs in {
        "an output of nobody": field(6, field(1, b"none")), "an output without a name": field(6, b""),
        "an output twice": field(6, field(1, b"label")) * 2,
        "10^4 outputs": field(6, field(1, b"l")) * 10_000,
    }.items():  # fmt: skip
        yield wrong(name, asked(tensor(), raw=(ROW,), more=outputs))
    region = field(4, field(1, b"shared_memory_region") + field(2, field(3, b"a")))
    yield wrong("shared memory", asked(tensor() + region))
    yield wrong(
        "shared memory for outputs",
        asked(
            tensor(),
            raw=(ROW,),
            more=field(6, field(1, b"label") + field(2, field(1, b"shared_memory_region") + field(2, field(3, b"a")))),
        ),
    )
    odd = struct.pack("<4f", float("nan"), float("inf"), float("-inf"), -0.0)
    yield wrong("no numbers", asked(tensor(), raw=(odd,)), r"status \d+")


def _call(content: bytes | Callable[[], bytes]) -> bytes:
    return call(content if isinstance(content, bytes) else content())


def typed() -> Iterator[Call]:
    """Raw contents of every datatype that have another size, or are none."""
    sound = {
        name: text((1, b"a"), (1, b"b")) if name == "BYTES" else bytes(2 * int(re.sub(r"\D", "", name) or 8) // 8)
        for name in DATATYPES
    }

    def instead(name: str, data: bytes, why: str) -> Call:
        inputs = [tensor(name=n.encode(), datatype=n.encode(), shape=(1, 2)) for n in DATATYPES]
        raw = tuple(data if n == name else content for n, content in sound.items())
        return Call(f"raw {name}: {why}", call(asked(*inputs, raw=raw)), f"status {INVALID}", typed=True)

    for name, content in sound.items():
        yield instead(name, content + b"\0", "an octet too many")
        yield instead(name, content[:-1], "an octet too few")
        yield instead(name, b"", "nothing")
    for byte in (2, 255):
        yield instead("BOOL", bytes([1, byte]), f"{byte}")
    for why, data in {
        "a length beyond the end": text((1, b"a"), (2, b"b")),
        "a length of 2^32 - 1": text((1, b"a"), (0xFFFFFFFF, b"b")),
        "one element": text((1, b"a")), "three elements": text((1, b"a")) * 3,
        "no UTF-8": text((1, b"\xff"), (1, b"a")),
    }.items():  # fmt: skip
        yield instead("BYTES", data, why)


CALLS = [*floods(), *hpack_bombs(), *framing(), *heads(), *messages(), *requests(), *typed()]


# --- Conversation ---------------------------------------------------------------------------------------------------


def converse(port: int, content: bytes, wanted: str, seconds: float = 60) -> str:
    """Send all at once, and listen for an end as `Call.end` says it; the last that came, if it never does."""
    ends = time.monotonic() + seconds
    heard, found = b"", "nothing"
    with socket.create_connection(("127.0.0.1", port), timeout=0.02) as sock:
        left = memoryview(content)
        while time.monotonic() < ends:
            try:
                while left:
                    left = left[sock.send(left[:MEBIBYTE]) :]
            except TimeoutError:
                pass
            except ConnectionError:
                left = left[:0]
            try:
                data = sock.recv(1 << 20)
            except TimeoutError:
                continue
            except ConnectionError:
                data = b""
            heard += data
            while True:
                end, heard = end_of(heard)
                found = end or found
                if end and re.fullmatch(wanted, end):
                    return end
                if not end:
                    break
            if not data:
                return "closed" if found == "nothing" else found
    return found


def end_of(heard: bytes) -> tuple[str, bytes]:
    """(the end, if the frames hold one; what is left of an incomplete frame)."""
    if heard.startswith(b"HTTP/1.1 "):
        return f"http {heard[9:12].decode()}", b""
    while len(heard) >= 9 and len(heard) >= (size := 9 + int.from_bytes(heard[:3], "big")):
        kind, flags, payload = heard[3], heard[4], heard[9:size]
        heard = heard[size:]
        if kind == GOAWAY:
            return f"goaway {int.from_bytes(payload[4:8], 'big')}", heard
        if kind == RST and (code := int.from_bytes(payload, "big")):
            return f"reset {code}", heard
        if kind == HEADERS and flags & END_STREAM:
            if status := re.search(rb"grpc-status[\x01\x02](\d+)", payload):
                return f"status {status[1].decode()}", heard
            if status := re.search(rb":status\x03(\d+)", payload):
                return f"http {status[1].decode()}", heard
    return "", heard
