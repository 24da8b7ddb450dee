"""HTTP/1.1 as it is on the wire: what is good, what is not, in one piece and in many."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from email.utils import parsedate_to_datetime
from random import Random
from typing import Any

import httpx
import pytest
from tests.unit.serving import models
from tests.unit.serving.server import Server, Wire, http, request, serving, until, wire

BODY = json.dumps(request(X=("FP32", [1, 4], [5.1, 3.5, 1.4, 0.2]))).encode()
INFER = "/v2/models/wine/infer"
POST = http("POST", INFER, BODY, "Content-Type: application/json")
LIVE = http("GET", "/v2/health/live")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("http"), models.iris()) as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[Wire]:
    with wire(server) as connected:
        yield connected


def label(reply: Any) -> Any:
    assert reply is not None
    assert reply.status == 200, reply.body
    return reply.json["outputs"][0]["data"]


def test_a_connection_is_kept_for_the_next_request(client: Wire) -> None:
    for _ in range(5):
        client.send(POST)
        reply = client.reply()
        assert label(reply) == [0]
        assert reply is not None
        assert "connection" not in reply.fields
        assert abs(parsedate_to_datetime(reply.fields["date"]).timestamp() - time.time()) < 60


@pytest.mark.parametrize("size", [1, 2, 3, 7, 50, len(POST) - 1])
def test_it_does_not_matter_in_which_pieces_a_request_comes(client: Wire, size: int) -> None:
    stream = POST + LIVE + POST
    for start in range(0, len(stream), size):
        client.send(stream[start : start + size])
    assert label(client.reply()) == [0]
    assert client.reply().json == {"live": True}  # type: ignore[union-attr]
    assert label(client.reply()) == [0]


def test_the_same_head_with_another_body_gives_another_answer(client: Wire) -> None:
    for data, expected in (([5.1, 3.5, 1.4, 0.2], [0]), ([6.7, 3.0, 5.2, 2.3], [2]), ([5.9, 3.0, 4.2, 1.5], [1])):
        body = json.dumps(request(X=("FP32", [1, 4], data))).encode()
        head, _, _ = POST.partition(b"\r\n\r\n")
        for _ in range(2):
            client.send(head + b"\r\n\r\n" + body)
            assert label(client.reply()) == expected


def test_a_known_head_in_the_middle_of_another_request_is_no_request(client: Wire) -> None:
    client.send(POST)
    assert label(client.reply()) == [0]
    # The last two bytes of the body are missing; what follows looks like a request and is body.
    longer = POST.replace(b"Content-Length: %d" % len(BODY), b"Content-Length: %d" % (len(BODY) + len(POST)))
    client.send(LIVE + longer)
    assert client.reply().json == {"live": True}  # type: ignore[union-attr]
    client.send(POST)
    reply = client.reply()
    assert reply is not None
    assert (reply.status, "not JSON" in reply.json["error"]) == (400, True)
    client.send(POST[:1])
    client.send(POST[1:])
    assert label(client.reply()) == [0]


def test_pipelined_requests_are_answered_in_their_order(client: Wire) -> None:
    expected = []
    stream = b""
    for number in range(300):
        body = json.dumps({"id": str(number), **json.loads(BODY)}).encode()
        if number % 7 == 3:
            stream += http("GET", "/nowhere")
            expected.append("no such path: '/nowhere'")
        elif number % 11 == 5:
            stream += http("POST", INFER, b"{", "Content-Type: application/json")
            expected.append("the body is not JSON")
        else:
            stream += http("POST", INFER, body, "Content-Type: application/json")
            expected.append(str(number))
    client.send(stream)
    for wanted in expected:
        reply = client.reply()
        assert reply is not None
        got = reply.json.get("id") or reply.json["error"]
        assert got.startswith(wanted)


def test_requests_behind_a_broken_one_are_not_read(client: Wire) -> None:
    client.send(POST + LIVE + b"NONSENSE\r\n\r\n" + POST)
    assert label(client.reply()) == [0]
    assert client.reply().status == 200  # type: ignore[union-attr]
    last = client.reply()
    assert last is not None
    assert (last.status, last.fields["connection"]) == (400, "close")
    assert client.reply() is None


@pytest.mark.parametrize(
    ("method", "path", "status", "allow"),
    [
        ("GET", "/index.html", 404, None),
        ("POST", "/", 405, "GET, HEAD, OPTIONS"),
        ("GET", "/v1/models/wine", 404, None),
        ("GET", "/v2/models/beer", 404, None),
        ("GET", "/v2/models/wine/versions/1", 404, None),
        ("GET", "/v2/models/wine/versions/1/ready", 404, None),
        ("POST", "/v2/models/beer/infer", 404, None),
        ("GET", "/v2/models/wine/../wine", 404, None),
        ("POST", "/v2/repository/models/beer/load", 404, None),
        ("GET", "*", 404, None),
        ("OPTIONS", "/v2/no", 404, None),
        ("GET", "/v2/models/wine%2Finfer", 405, "OPTIONS, POST"),
        ("GET", INFER, 405, "OPTIONS, POST"),
        ("HEAD", INFER, 405, "OPTIONS, POST"),
        ("PUT", INFER, 405, "OPTIONS, POST"),
        ("TRACE", INFER, 405, "OPTIONS, POST"),
        ("DELETE", "/v2", 405, "GET, HEAD, OPTIONS"),
        ("POST", "/v2/health/live", 405, "GET, HEAD, OPTIONS"),
    ],
)
def test_paths_and_methods_that_are_not_there(
    client: Wire, method: str, path: str, status: int, allow: str | None
) -> None:
    client.send(http(method, path, BODY if method in ("POST", "PUT") else b""))
    reply = client.reply(head_only=method == "HEAD")
    assert reply is not None
    assert (reply.status, reply.fields.get("allow")) == (status, allow)
    assert method == "HEAD" or list(reply.json) == ["error"]
    client.send(LIVE)
    assert client.reply().status == 200  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("path", "allow"),
    [
        ("/v2", "GET, HEAD, OPTIONS"),
        (INFER + "/", "OPTIONS, POST"),
        ("*", "GET, HEAD, OPTIONS, POST"),
        ("http://a/v2", "GET, HEAD, OPTIONS"),
    ],
)
def test_options_says_what_a_path_takes(client: Wire, path: str, allow: str) -> None:
    client.send(http("OPTIONS", path) + LIVE)
    reply = client.reply()
    assert reply is not None
    assert (reply.status, reply.fields["allow"], reply.body) == (200, allow, b"")
    assert client.reply().status == 200  # type: ignore[union-attr]


def test_head_is_get_without_a_body(client: Wire) -> None:
    client.send(http("GET", "/v2/models/wine"))
    get = client.reply()
    client.send(http("HEAD", "/v2/models/wine") + LIVE)
    head = client.reply(head_only=True)
    assert get is not None
    assert head is not None
    assert head.fields["content-length"] == get.fields["content-length"] == str(len(get.body))
    assert client.reply().json == {"live": True}  # type: ignore[union-attr]


def raw(*lines: str, body: bytes = b"") -> bytes:
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


POST_LINE = f"POST {INFER} HTTP/1.1"
CHUNKED = ("Host: a", "Transfer-Encoding: Chunked")
KEPT: list[tuple[str, bytes, int]] = [
    ("no type", raw(POST_LINE, "Host: a", f"Content-Length: {len(BODY)}", body=BODY), 200),
    ("type with charset", http("POST", INFER, BODY, "Content-Type: Application/JSON; charset=utf-8"), 200),
    ("a form", http("POST", INFER, BODY, "Content-Type: application/x-www-form-urlencoded"), 415),
    ("JSON as bytes", http("POST", INFER, BODY, "Content-Type: application/octet-stream"), 200),
    ("a size that is none", http("POST", INFER, BODY, "Inference-Header-Content-Length: -1"), 400),
    ("a size in words", http("POST", INFER, BODY, "Inference-Header-Content-Length: ten"), 400),
    ("a size that is too large", http("POST", INFER, BODY, "Inference-Header-Content-Length: 1000"), 400),
    ("a size of 30 digits", http("POST", INFER, BODY, "Inference-Header-Content-Length: " + "9" * 30), 400),
    ("no length", raw(POST_LINE, "Host: a"), 411),
    ("an empty body", http("POST", INFER, b""), 400),
    ("a GET with a body", http("GET", "/v2", b"xyz"), 200),
    ("absolute form", raw("GET http://a/v2 HTTP/1.1", "Host: a"), 200),
    ("blank lines before", b"\r\n\r\n" + LIVE, 200),
    ("fields of any case", raw("GET /v2 HTTP/1.1", "hOST: a", "X-Empty:"), 200),
    ("chunked", raw(POST_LINE, *CHUNKED, body=b"%x;n=v\r\n%b\r\n0\r\nT: 1\r\n\r\n" % (len(BODY), BODY)), 200),
    ("an upgrade to h2c", http("POST", INFER, BODY, "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c"), 200),
    ("a websocket", http("GET", "/v2", b"", "Connection: Upgrade", "Upgrade: websocket"), 200),
]  # fmt: skip


@pytest.mark.parametrize(("data", "status"), [case[1:] for case in KEPT], ids=[case[0] for case in KEPT])
def test_requests_that_leave_the_connection_in_order(client: Wire, data: bytes, status: int) -> None:
    for _ in range(2):
        client.send(data)
        reply = client.reply()
        assert reply is not None
        assert (reply.status, "connection" in reply.fields) == (status, False), reply.body
    client.send(POST)
    assert label(client.reply()) == [0]


ENDED: list[tuple[str, bytes, int]] = [
    ("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(40), 400),
    ("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    ("HTTP/2.0 on HTTP/1", raw("GET /v2 HTTP/2.0", "Host: a"), 505),
    ("HTTP/0.9", b"GET /v2\r\n\r\n", 505),
    ("HTTP/1.2", raw("GET /v2 HTTP/1.2", "Host: a"), 400),
    ("no Host", raw("GET /v2 HTTP/1.1"), 400),
    ("two Hosts", raw("GET /v2 HTTP/1.1", "Host: a", "Host: b"), 400),
    ("a method of nobody", raw("BREW /v2 HTTP/1.1", "Host: a"), 400),
    ("CONNECT", raw("CONNECT a:443 HTTP/1.1", "Host: a"), 405),
    ("bare line feeds", b"GET /v2 HTTP/1.1\nHost: a\n\n", 400),
    ("a blank before the colon", raw("GET /v2 HTTP/1.1", "Host : a"), 400),
    ("a folded field", raw("GET /v2 HTTP/1.1", "Host: a", " b"), 400),
    ("a field without name", raw("GET /v2 HTTP/1.1", "Host: a", ": b"), 400),
    ("NUL in a field", raw("GET /v2 HTTP/1.1", "Host: a\0b"), 400),
    ("bytes above 127 in the path", raw("GET /v2\xff HTTP/1.1", "Host: a"), 400),
    ("two lengths", raw(POST_LINE, "Host: a", "Content-Length: 2", "Content-Length: 2", body=b"{}"), 400),
    ("a list of lengths", raw(POST_LINE, "Host: a", "Content-Length: 2, 2", body=b"{}"), 400),
    ("a signed length", raw(POST_LINE, "Host: a", "Content-Length: +2", body=b"{}"), 400),
    ("a negative length", raw(POST_LINE, "Host: a", "Content-Length: -2", body=b"{}"), 400),
    ("a hexadecimal length", raw(POST_LINE, "Host: a", "Content-Length: 0x2", body=b"{}"), 400),
    ("an empty length", raw(POST_LINE, "Host: a", "Content-Length:", body=b"{}"), 400),
    ("a length of 30 digits", raw(POST_LINE, "Host: a", "Content-Length: " + "9" * 30), 400),
    ("a length over the limit", raw(POST_LINE, "Host: a", "Content-Length: 16777217"), 413),
    ("length and coding", raw(POST_LINE, *CHUNKED, "Content-Length: 2", body=b"0\r\n\r\n"), 400),
    ("coding and length", raw(POST_LINE, "Content-Length: 2", *CHUNKED, body=b"0\r\n\r\n"), 400),
    ("coding twice", raw(POST_LINE, *CHUNKED, "Transfer-Encoding: chunked", body=b"0\r\n\r\n"), 400),
    ("another coding", raw(POST_LINE, "Host: a", "Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n"), 501),
    ("identity coding", raw(POST_LINE, "Host: a", "Transfer-Encoding: identity", body=b"{}"), 501),
    ("an unfinished coding", raw(POST_LINE, "Host: a", "Transfer-Encoding: chunked, identity", body=b"{}"), 400),
    ("coding in HTTP/1.0", raw(POST_LINE.replace("1.1", "1.0"), *CHUNKED, body=b"0\r\n\r\n"), 501),
    ("a chunk that is no number", raw(POST_LINE, *CHUNKED, body=b"xx\r\n"), 400),
    ("a negative chunk", raw(POST_LINE, *CHUNKED, body=b"-1\r\n"), 400),
    ("a huge chunk", raw(POST_LINE, *CHUNKED, body=b"f" * 20 + b"\r\n"), 400),
    ("a chunk that is too long", raw(POST_LINE, *CHUNKED, body=b"1\r\nab\r\n0\r\n\r\n"), 400),
    ("another expectation", http("POST", INFER, BODY, "Expect: a-miracle"), 417),
    ("16 KiB of fields", raw("GET /v2 HTTP/1.1", "Host: a", *(f"X-{n}: {'v' * 100}" for n in range(200))), 431),
    ("one long field", raw("GET /v2 HTTP/1.1", "Host: a", "X: " + "v" * 20_000), 431),
    ("a long path", raw(f"GET /{'v' * 20_000} HTTP/1.1", "Host: a"), 431),
    ("HTTP/1.0", raw("GET /v2 HTTP/1.0"), 200),
    ("HTTP/1.0 that wants to stay", raw("GET /v2 HTTP/1.0", "Connection: keep-alive"), 200),
    ("a client that wants to go", http("GET", "/v2", b"", "Connection: close"), 200),
]  # fmt: skip


@pytest.mark.parametrize(("data", "status"), [case[1:] for case in ENDED], ids=[case[0] for case in ENDED])
def test_requests_that_end_the_connection_get_an_answer_first(client: Wire, data: bytes, status: int) -> None:
    client.send(data + POST)
    reply = client.reply()
    assert reply is not None
    assert (reply.status, reply.fields.get("connection")) == (status, "close"), reply.body
    assert client.reply() is None


@pytest.mark.parametrize("data", [case[1] for case in ENDED], ids=[case[0] for case in ENDED])
def test_the_same_in_single_bytes_after_a_good_request(client: Wire, data: bytes) -> None:
    client.send(POST)
    assert label(client.reply()) == [0]
    if len(data) < 1000 and b"HTTP/1.0" not in data and b" HTTP/2.0\r\nHost" not in data and data != b"GET /v2\r\n\r\n":
        for byte in data:
            client.send(bytes([byte]))
        reply = client.reply()
        assert reply is not None
        assert reply.status in (200, 400, 405, 413, 417, 501)
        assert client.reply() is None


def test_a_client_that_expects_100_gets_it_before_it_sends_the_body(client: Wire) -> None:
    head, _, body = http("POST", INFER, BODY, "Expect: 100-continue").partition(b"\r\n\r\n")
    client.send(head + b"\r\n\r\n")
    assert client.reply().status == 100  # type: ignore[union-attr]
    client.send(body)
    assert label(client.reply()) == [0]


@pytest.mark.parametrize(("path", "field", "status"), [("/no", "X: y", 404), (INFER, "Content-Type: text/html", 415)])
def test_who_expects_100_is_refused_before_it_sends_the_body(client: Wire, path: str, field: str, status: int) -> None:
    head, _, _ = http("POST", path, BODY, "Expect: 100-continue", field).partition(b"\r\n\r\n")
    client.send(head + b"\r\n\r\n")
    reply = client.reply()
    assert reply is not None
    assert (reply.status, reply.fields["connection"]) == (status, "close")
    assert client.reply() is None


def test_a_large_body_arrives_in_either_framing(server: Server, client: Wire) -> None:
    rows = 60_000
    body = json.dumps(request(X=("FP32", [rows, 4], [5.1, 3.5, 1.4, 0.2] * rows))).encode()
    assert len(body) > 1 << 20
    client.send(http("POST", INFER, body))
    assert len(label(client.reply())) == rows
    chunks = b"".join(
        b"%x\r\n%b\r\n" % (len(body[n : n + 9000]), body[n : n + 9000]) for n in range(0, len(body), 9000)
    )
    client.send(raw(POST_LINE, *CHUNKED, body=chunks + b"0\r\n\r\n"))
    assert len(label(client.reply())) == rows


def test_a_body_of_unknown_length_is_cut_off_at_the_limit(client: Wire) -> None:
    chunk = b"100000\r\n" + b" " * (1 << 20) + b"\r\n"
    client.send(raw(POST_LINE, *CHUNKED))
    try:
        for _ in range(17):
            client.send(chunk)
    except (BrokenPipeError, ConnectionResetError):
        pass
    reply = client.reply()
    assert reply is None or (reply.status, reply.fields["connection"]) == (413, "close")


def test_frames_around_nothing_are_cut_off(client: Wire) -> None:
    client.send(raw(POST_LINE, *CHUNKED))
    piece = (b"1;" + b"x" * 4000 + b"\r\n \r\n") * 256
    try:
        for _ in range(40):
            client.send(piece)
    except (BrokenPipeError, ConnectionResetError):
        pass
    reply = client.reply()
    assert reply is None or reply.status == 413


@pytest.mark.parametrize("path", [INFER, "/v2/repository/index"])
def test_a_body_that_would_blow_up_in_memory_is_refused(client: Wire, path: str) -> None:
    body = b'{"inputs":[' + b"[]," * 5_000_000 + b"[]]}"
    client.send(http("POST", path, body))
    reply = client.reply()
    assert reply is not None
    assert (reply.status, "too many elements" in reply.json["error"]) == (413, True)
    client.send(POST)
    assert label(client.reply()) == [0]


def test_large_bodies_share_one_budget(server: Server) -> None:
    head = raw(POST_LINE, "Host: a", "Content-Length: 16000000", "Expect: 100-continue")
    with ExitStack() as stack:
        clients = [stack.enter_context(wire(server)) for _ in range(12)]
        replies = []
        for one in clients:
            one.send(head)
            replies.append(one.reply())
        assert [reply.status for reply in replies if reply] == [100] * 8 + [503] * 4
        assert replies[-1].fields["retry-after"] == "1"  # type: ignore[union-attr]
        assert server.get("/v2/health/live").status_code == 200
    until(lambda: admitted(server, head), "the share of clients that are gone")


def admitted(server: Server, head: bytes) -> bool:
    with wire(server) as one:
        one.send(head)
        reply = one.reply()
        return reply is not None and reply.status == 100


def test_the_management_port_answers_in_plain_text(server: Server) -> None:
    for path in ("/livez", "/readyz"):
        answer = httpx.get(server.management_url + path, timeout=60)
        assert (answer.status_code, answer.text, answer.headers["content-type"]) == (
            200,
            "ok",
            "text/plain; charset=utf-8",
        )
    assert httpx.get(f"{server.management_url}/v2", timeout=60).status_code == 404
    assert httpx.post(f"{server.management_url}/metrics", timeout=60).status_code == 405
    assert server.get("/metrics").status_code == 404
    assert "text/plain" in server.manage("/metrics").headers["content-type"]


def test_damaged_streams_hurt_nobody_else(server: Server, client: Wire) -> None:
    random = Random(3)
    streams = [data for _, data, _ in KEPT + ENDED] + [POST * 3 + LIVE]
    for _ in range(300):
        stream = bytearray(b"".join(random.choices(streams, k=2)))
        for _ in range(random.randrange(4)):
            position = random.randrange(len(stream))
            stream[position : position + random.randrange(3)] = random.randbytes(random.randrange(3))
        cut = random.randrange(len(stream))
        try:
            with wire(server) as broken:
                broken.send(bytes(stream[:cut]))
                broken.send(bytes(stream[cut:]))
        except (BrokenPipeError, ConnectionResetError):
            pass
    client.send(POST)
    assert label(client.reply()) == [0]
    until(lambda: server.metric("holdfast_inference_in_flight") == 0, "the end of all requests")
    assert "Traceback" not in server.log
    assert "ERROR" not in server.log
