"""What is believed of Prometheus, and what is not."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.bundle.loopback import Origin, answer, make_certificate, redirect, serve
from tests.unit.signals.metrics_server import history, prometheus
from tests.unit.stores.servers import free_port

from holdfast.build.promql import equals, one_of
from holdfast.signals import prometheus as client
from holdfast.signals.prometheus import Address, Fault, Sample, Vector, parse, session

NASTY = ['"', "\\", "\n", 'a"} or up{a="b', "a|b", ".*", "a.b", "ü", "{{.}}", "'", "`", "\\d", "-"]


def vector(*series: tuple[dict[str, str], str], time: Any = 100.5, **more: Any) -> bytes:
    result = [{"metric": labels, "value": [time, value]} for labels, value in series]
    return json.dumps({"status": "success", "data": {"resultType": "vector", "result": result}, **more}).encode()


async def ask(address: Address, query: str = "up") -> Vector:
    async with session(address) as questions:
        return await questions.ask(query)


async def fault(address: Address) -> str:
    with pytest.raises(Fault) as caught:
        await ask(address)
    return caught.value.kind


# --- The form of answers ---


def test_an_instant_vector_is_read_with_its_time() -> None:
    found = parse(vector(({"model": "a"}, "1.5"), ({"model": "b"}, "2e3")))
    assert found == Vector(100.5, (Sample({"model": "a"}, 1.5), Sample({"model": "b"}, 2000.0)))


@pytest.mark.parametrize("text", ["NaN", "+Inf", "-Inf", "Inf", "1e999", "-1e999"])
def test_what_is_no_finite_number_is_no_value(text: str) -> None:
    assert parse(vector(({}, text))).samples[0].value is None


def test_no_series_are_an_answer_without_a_time() -> None:
    assert parse(vector()) == Vector(0.0, ())


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"", "malformed"),
        (b"<!DOCTYPE html><html><body>Sign in</body></html>", "malformed"),
        (b"null", "malformed"),
        (b"[]", "malformed"),
        (b'{"status": "success"}', "malformed"),
        (b'{"status": "success", "data": {"resultType": "vector"}}', "malformed"),
        (b'{"status": "success", "data": {"resultType": "vector", "result": [NaN]}}', "malformed"),
        (b'{"status":' + b"[" * 100_000, "malformed"),
        (b"\xff\xfe", "malformed"),
        (vector(({"a": "1"}, "many")), "malformed"),
        (vector(({"a": "1"}, "1_0")), "malformed"),
        (vector(({"a": "1"}, " 1")), "malformed"),
        (vector(({"a": "1"}, "٣")), "malformed"),
        (vector(({"a": "1"}, "0x10")), "malformed"),
        (vector(({"a": "1"}, "1" * 100)), "malformed"),
        (vector(({"a": 1}, "1")), "malformed"),  # type: ignore[dict-item]
        (vector(({"a": "1"}, 1)), "malformed"),  # type: ignore[arg-type]
        (vector(({"a": "1"}, "1"), time="now"), "malformed"),
        (vector(({"a": "1"}, "1"), time=True), "malformed"),
        (vector(({"a": "1"}, "1"), time=10**400), "malformed"),
        (vector(({"a": "1"}, "1")).replace(b"100.5", b"1e999"), "malformed"),
        (b'{"status": "error", "errorType": "timeout", "error": "canary"}', "error"),
        (vector(({}, "1"), warnings=["a store did not answer"]), "partial"),
        (b'{"status": "success", "data": {"resultType": "scalar", "result": [1, "1"]}}', "type"),
        (b'{"status": "success", "data": {"resultType": "matrix", "result": []}}', "type"),
        (vector(({"a": "1"}, "1"), ({"a": "1"}, "2")), "duplicate"),
    ],
)
def test_anything_else_is_a_fault_and_no_number(body: bytes, kind: str) -> None:
    with pytest.raises(Fault) as caught:
        parse(body)
    assert caught.value.kind == kind
    assert "canary" not in str(caught.value)


def test_samples_of_several_times_are_no_answer() -> None:
    body = json.loads(vector(({"a": "1"}, "1"), ({"a": "2"}, "1")))
    body["data"]["result"][1]["value"][0] += 1
    with pytest.raises(Fault, match="several times"):
        parse(json.dumps(body).encode())


@given(st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
def test_no_octets_make_it_raise_anything_but_a_fault(body: bytes) -> None:
    with pytest.raises(Fault):
        parse(body)


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=8) | st.sampled_from(["success", "vector", "1"]),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["status", "data", "result", "resultType", "metric", "value"]), inner)
        ),
        max_leaves=20,
    )
)
def test_no_json_makes_it_raise_anything_but_a_fault(document: Any) -> None:
    with contextlib.suppress(Fault):
        parse(json.dumps(document).encode())


# --- The way there ---


class Always(dict[str, bytes | threading.Event]):
    """The same page for every target."""

    def __init__(self, page: bytes | threading.Event) -> None:
        super().__init__()
        self._page = page

    def get(self, key: str, default: Any = None) -> Any:
        return self._page


@pytest.fixture
def origin() -> Iterator[Origin]:
    with serve() as found:
        yield found


def address_of(origin: Origin, page: bytes | threading.Event, path: str = "") -> Address:
    origin.pages = Always(page)
    return Address(origin.url(path))


async def test_nobody_there_is_a_fault() -> None:
    assert await fault(Address(f"http://127.0.0.1:{free_port()}")) == "unreachable"


@pytest.mark.parametrize("status", ["500 Internal Server Error", "503 Service Unavailable", "401 Unauthorized"])
async def test_another_status_is_a_fault_whatever_it_holds(origin: Origin, status: str) -> None:
    assert await fault(address_of(origin, answer(vector(({}, "1")), status))) == "status"


async def test_a_redirect_is_not_followed(origin: Origin) -> None:
    assert await fault(address_of(origin, redirect("http://127.0.0.1:1/"))) == "status"
    assert len(origin.seen) == 1


async def test_silence_is_a_fault_in_time(origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "SECONDS", 0.3)
    silence = threading.Event()
    try:
        assert await fault(address_of(origin, silence)) == "timeout"  # type: ignore[arg-type]
    finally:
        silence.set()


async def test_an_answer_without_end_is_given_up(origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "MAX_ANSWER", 1000)
    assert await fault(address_of(origin, answer(b" " * 5000 + vector(({}, "1"))))) == "oversized"
    assert (await ask(address_of(origin, answer(b" " * 500 + vector(({}, "1")))))).samples


async def test_an_answer_that_breaks_off_is_a_fault(origin: Origin) -> None:
    assert await fault(address_of(origin, answer(vector(({}, "1")), length=5000))) == "unreachable"


async def test_a_compressed_answer_is_not_opened(origin: Origin) -> None:
    packed = gzip.compress(vector(({}, "1")))
    assert await fault(address_of(origin, answer(packed, "200 OK", "Content-Encoding: gzip"))) == "malformed"


async def test_a_token_is_read_for_every_round_and_stays_out_of_words(origin: Origin, tmp_path: Path) -> None:
    token = tmp_path / "token"
    address = Address(address_of(origin, answer(vector())).url, token)
    assert await fault(address) == "unreachable"
    for text in ("first", "second"):
        token.write_text(f"{text}\n")
        await ask(address)
        assert f"Authorization: Bearer {text}\r\n".encode() in origin.seen[-1]


async def test_a_server_is_trusted_by_the_authorities_of_the_file_alone(tmp_path: Path) -> None:
    both, certificate = make_certificate("127.0.0.1")
    (tmp_path / "server.pem").write_bytes(both)
    (tmp_path / "ca.crt").write_bytes(certificate)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(tmp_path / "server.pem")
    with serve(tls) as origin:
        origin.pages = Always(answer(vector(({}, "1"))))
        url = origin.url("", scheme="https")
        assert await fault(Address(url)) == "unreachable"
        assert (await ask(Address(url, ca_file=tmp_path / "ca.crt"))).samples
        assert await fault(Address(url, ca_file=tmp_path / "nothing.crt")) == "unreachable"


async def test_a_path_before_the_api_is_kept(origin: Origin) -> None:
    await ask(address_of(origin, answer(vector()), "/prometheus"))
    assert origin.seen[0].startswith(b"GET /prometheus/api/v1/query?query=up")


# --- A real one ---


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("prometheus")
    escaped = [json.dumps(text, ensure_ascii=False) for text in NASTY]
    series = {f"strange{{value={text}}}": lambda before: 1.0 for text in escaped}
    with prometheus(folder, history(folder, series, 120)) as url:
        yield url


@pytest.mark.parametrize("text", NASTY)
async def test_a_real_one_takes_any_text_for_exactly_that_text(real: str, text: str) -> None:
    for matcher in (one_of("value", [text]), equals("value", text)):
        found = await ask(Address(real), f"strange{{{matcher}}}")
        assert [sample.labels["value"] for sample in found.samples] == [text]


async def test_several_texts_are_any_of_them(real: str) -> None:
    found = await ask(Address(real), f"strange{{{one_of('value', ['a|b', '.*', 'nobody'])}}}")
    assert {sample.labels["value"] for sample in found.samples} == {"a|b", ".*"}


async def test_a_real_one_s_words_for_a_wrong_query_are_a_fault(real: str) -> None:
    with pytest.raises(Fault):
        await ask(Address(real), "sum by (")


async def test_answers_to_many_questions_come_over_one_connection(real: str) -> None:
    async with session(Address(real)) as questions:
        answers = await asyncio.gather(*(questions.ask(f"vector({n})") for n in range(20)))
    assert [each.samples[0].value for each in answers] == list(range(20))
