"""Bodies that come compressed, and answers that go out so."""

from __future__ import annotations

import gzip
import json
import threading
import zlib
from collections.abc import Callable, Iterator

import pytest
from tests.unit.serving import models
from tests.unit.serving.server import Reply, Server, Wire, http, request, serving, until, wire

from holdfast_serving import coding

INFER = "/v2/models/wine/infer"
ROW = [5.1, 3.5, 1.4, 0.2]
LIMIT = 16 << 20


def body(rows: int) -> bytes:
    return json.dumps(request(X=("FP32", [rows, 4], ROW * rows))).encode()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("coding"), models.iris()) as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[Wire]:
    with wire(server) as connected:
        yield connected


def labels(reply: Reply | None) -> list[int]:
    assert reply is not None
    assert reply.status == 200, reply.body
    answer: list[int] = reply.json["outputs"][0]["data"]
    return answer


@pytest.mark.parametrize("rows", [1, 10_000], ids=["small", "large"])
@pytest.mark.parametrize(
    ("field", "pack"),
    [("gzip", gzip.compress), ("X-GZIP", gzip.compress), ("deflate", zlib.compress), ("identity", bytes)],
)
def test_a_compressed_body_is_answered(client: Wire, field: str, pack: Callable[[bytes], bytes], rows: int) -> None:
    for _ in range(3):
        client.send(http("POST", INFER, pack(body(rows)), f"Content-Encoding: {field}"))
        assert labels(client.reply()) == [0] * rows


def test_the_size_of_the_json_is_that_before_compression(client: Wire) -> None:
    content = body(1)
    client.send(http("POST", INFER, gzip.compress(content), "Content-Encoding: gzip",
                     f"Inference-Header-Content-Length: {len(content)}"))  # fmt: skip
    assert labels(client.reply()) == [0]


PACKED = gzip.compress(body(1))


@pytest.mark.parametrize(
    ("data", "field", "status", "words"),
    [
        (PACKED, "deflate", 400, "in the way that Content-Encoding says"),
        (zlib.compress(body(1)), "gzip", 400, "in the way that"),
        (body(1), "gzip", 400, "in the way that"),
        (PACKED[:-1], "gzip", 400, "must be whole"),
        (PACKED[:30], "gzip", 400, "must be whole"),
        (PACKED[:-8] + bytes(8), "gzip", 400, "in the way that"),
        (b"", "gzip", 400, "must be whole"),
        (PACKED + b"x", "gzip", 400, "one piece"),
        (PACKED + PACKED, "gzip", 400, "one piece"),
        (gzip.compress(body(10_000))[:-1], "gzip", 400, "must be whole"),
        (PACKED, "br", 415, "gzip or deflate only"),
        (PACKED, "gzip, gzip", 415, "gzip or deflate only"),
        (PACKED, "", 415, "gzip or deflate only"),
    ],
)
def test_what_cannot_be_unpacked_is_refused(client: Wire, data: bytes, field: str, status: int, words: str) -> None:
    for _ in range(2):
        client.send(http("POST", INFER, data, f"Content-Encoding: {field}"))
        reply = client.reply()
        assert reply is not None
        assert (reply.status, words in reply.json["error"]) == (status, True), reply.body
        assert reply.fields.get("accept-encoding") == ("gzip, deflate" if status == 415 else None)
    client.send(http("POST", INFER, body(1)))
    assert labels(client.reply()) == [0]


@pytest.mark.parametrize(
    ("size", "words"), [(LIMIT, "not JSON"), (LIMIT + 1, "when it is unpacked"), (1 << 28, "when it is unpacked")]
)
def test_a_body_that_would_grow_beyond_the_limit_is_refused_before_it_does(
    server: Server, size: int, words: str
) -> None:
    stream = zlib.compressobj(1, wbits=31)
    bomb = b"".join(stream.compress(bytes(1 << 20)) for _ in range(size >> 20))
    bomb += stream.compress(bytes(size % (1 << 20))) + stream.flush()
    before = memory(server)
    with wire(server) as client:
        client.send(http("POST", INFER, bomb, "Content-Encoding: gzip"))
        reply = client.reply()
    assert reply is not None
    assert (reply.status, words in reply.json["error"]) == (413 if size > LIMIT else 400, True), reply.body
    assert memory(server) - before < 64 << 20


def memory(server: Server) -> int:
    """The most that the process has ever had, in bytes."""
    with open(f"/proc/{server.process.pid}/status") as file:
        (line,) = [line for line in file if line.startswith("VmHWM")]
    return int(line.split()[1]) << 10


def test_bombs_share_the_memory_for_large_bodies(server: Server) -> None:
    bomb = http("POST", INFER, gzip.compress(bytes(LIMIT)), "Content-Encoding: gzip")
    statuses: list[int] = []

    def attack() -> None:
        with wire(server) as one:
            for _ in range(5):
                one.send(bomb)
                reply = one.reply()
                assert reply is not None
                statuses.append(reply.status)

    threads = [threading.Thread(target=attack) for _ in range(24)]
    before = memory(server)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(statuses) == 120
    assert set(statuses) <= {400, 503}
    assert memory(server) - before < 256 << 20
    with wire(server) as one:
        until(lambda: fits(one), "room for a large body")


def fits(client: Wire) -> bool:
    client.send(http("POST", INFER, gzip.compress(body(10_000)), "Content-Encoding: gzip"))
    reply = client.reply()
    return reply is not None and reply.status == 200


def test_whoever_leaves_while_its_body_is_unpacked_hurts_nobody(server: Server, client: Wire) -> None:
    for _ in range(10):
        with wire(server) as one:
            one.send(http("POST", INFER, gzip.compress(body(100_000)), "Content-Encoding: gzip"))
    client.send(http("POST", INFER, body(1)))
    assert labels(client.reply()) == [0]
    until(lambda: fits(client), "room for a large body")
    assert "Traceback" not in server.log


UNPACK: dict[str | None, Callable[[bytes], bytes]] = {None: bytes, "gzip": gzip.decompress, "deflate": zlib.decompress}


@pytest.mark.parametrize(
    ("field", "answered"),
    [
        ("gzip", "gzip"),
        ("deflate", "deflate"),
        ("deflate, GZIP", "gzip"),
        ("gzip;q=0, deflate;q=0.5", "deflate"),
        ("gzip;q=0.000", None),
        ("br, zstd", None),
        ("*", None),
        ("", None),
        (";;,=,q", None),
    ],
)
def test_large_answers_are_compressed_for_who_asks(client: Wire, field: str, answered: str | None) -> None:
    rows = 5000
    for _ in range(2):
        client.send(http("POST", INFER, body(rows), f"Accept-Encoding: {field}"))
        reply = client.reply()
        assert reply is not None
        assert reply.fields.get("content-encoding") == answered
        assert reply.fields.get("vary") == ("accept-encoding" if answered else None)
        unpacked = UNPACK[answered](reply.body)
        assert json.loads(unpacked)["outputs"][0]["data"] == [0] * rows
        assert len(unpacked) > coding.LEAST_PACKED_BYTES
        if answered:
            assert len(reply.body) < len(unpacked) / 2


def test_a_list_of_codings_may_come_in_parts(client: Wire) -> None:
    client.send(http("POST", INFER, body(5000), "Accept-Encoding: br", "Accept-Encoding: gzip"))
    reply = client.reply()
    assert reply is not None
    assert reply.fields["content-encoding"] == "gzip"


def test_small_and_binary_answers_are_not_compressed(client: Wire) -> None:
    binary = json.dumps(json.loads(body(10_000)) | {"parameters": {"binary_data_output": True}}).encode()
    for content in (body(10), binary, b"{"):
        client.send(http("POST", INFER, content, "Accept-Encoding: gzip"))
        reply = client.reply()
        assert reply is not None
        assert "content-encoding" not in reply.fields


def test_answers_that_are_being_compressed_keep_their_order(client: Wire) -> None:
    large = http("POST", INFER, body(5000), "Accept-Encoding: gzip")
    client.send((large + http("GET", "/v2/health/live")) * 3)
    for _ in range(3):
        first, second = client.reply(), client.reply()
        assert first is not None
        assert second is not None
        assert (first.fields["content-encoding"], second.json) == ("gzip", {"live": True})
