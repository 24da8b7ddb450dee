"""Long files: in parts, several at a time, and on after a broken connection."""

from __future__ import annotations

import dataclasses
import os
import re
import resource
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from tests.unit.bundle.loopback import LOOPBACK
from tests.unit.bundle.ranges import Shop, shop

from holdfast_bundle import download
from holdfast_bundle.errors import BundleError
from holdfast_bundle.fetch import fetch_file

PART = 256 << 10
CONTENT = os.urandom(11 * PART + 17)
WEB = dataclasses.replace(LOOPBACK, part_bytes=PART, connections=4)


@pytest.fixture
def origin() -> Iterator[Shop]:
    with shop(CONTENT) as made:
        yield made


@pytest.fixture(autouse=True)
def _no_long_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "_FIRST_PAUSE_SECONDS", 0.001)


def spans(asked: list[str]) -> list[tuple[int, int]]:
    found = [re.fullmatch(r"bytes=(\d+)-(\d+)", text) for text in asked if text]
    return sorted((int(match[1]), int(match[2]) + 1) for match in found if match)


def test_a_long_file_comes_in_parts_several_at_a_time(origin: Shop, tmp_path: Path) -> None:
    origin.gate = threading.Event()
    held: list[int] = []

    def release() -> None:
        held.append(origin.open)
        assert origin.gate
        origin.gate.set()

    threading.Timer(1, release).start()
    steps: list[tuple[int, int | None]] = []
    size = fetch_file(origin.url(), tmp_path / "f", web=WEB, progress=lambda *step: steps.append(step))
    assert size == len(CONTENT)
    assert (tmp_path / "f").read_bytes() == CONTENT
    assert origin.asked[0] == ""  # the first part is taken from the answer that said how long it is
    assert spans(origin.asked) == [(at, min(at + PART, size)) for at in range(PART, size, PART)]
    assert held == [4]
    assert steps == sorted(steps)
    assert steps[-1] == (size, size)
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


@pytest.mark.parametrize(("etag", "parts"), [(None, True), ('W/"weak"', True), ('"one"', False)])
def test_what_cannot_be_asked_for_in_parts_comes_whole(
    origin: Shop, tmp_path: Path, etag: str | None, parts: bool
) -> None:
    origin.etag, origin.parts = etag, parts
    assert fetch_file(origin.url(), tmp_path / "f", web=WEB) == len(CONTENT)
    assert (tmp_path / "f").read_bytes() == CONTENT
    assert origin.asked == [""]


def test_a_broken_connection_goes_on_where_it_stopped(origin: Shop, tmp_path: Path) -> None:
    origin.cut_after = 100_000
    assert fetch_file(origin.url(), tmp_path / "f", web=WEB) == len(CONTENT)
    assert (tmp_path / "f").read_bytes() == CONTENT
    begun = [start for start, _ in spans(origin.asked)]
    assert len(begun) == len(set(begun))  # nothing was asked for twice
    assert any(start % PART for start in begun)


def test_a_file_without_a_version_is_not_gone_on_with(origin: Shop, tmp_path: Path) -> None:
    origin.etag, origin.cut_after = None, 100_000
    with pytest.raises(BundleError, match="ended after 100000 of") as caught:
        fetch_file(origin.url(), tmp_path / "f", web=WEB)
    assert caught.value.reason == "Unreachable"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("knows_if_range", [True, False])
def test_two_versions_are_never_mixed(origin: Shop, tmp_path: Path, knows_if_range: bool) -> None:
    other = bytes(reversed(CONTENT))

    def replace(*_: object) -> None:
        if len(origin.asked) >= 3:
            origin.content, origin.etag = other, '"two"'

    origin.knows_if_range = knows_if_range
    with pytest.raises(BundleError, match="changed while it was fetched") as caught:
        fetch_file(origin.url(), tmp_path / "f", web=WEB, progress=replace)
    assert caught.value.reason == "Unreachable"
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_does_not_come_back_is_given_up(origin: Shop, tmp_path: Path) -> None:
    def gone(*_: object) -> None:
        origin.status = 503

    with pytest.raises(BundleError, match="answered 503"):
        fetch_file(origin.url(), tmp_path / "f", web=WEB, progress=gone)
    tries: dict[str, int] = {}
    for text in origin.asked:
        tries[text] = tries.get(text, 0) + 1
    assert max(tries.values()) == 1 + download.RETRIES
    assert list(tmp_path.iterdir()) == []


def test_what_is_refused_at_first_is_not_asked_for_again(origin: Shop, tmp_path: Path) -> None:
    origin.status = 503
    with pytest.raises(BundleError, match="answered 503"):
        fetch_file(origin.url(), tmp_path / "f", web=WEB)
    assert origin.asked == [""]


def test_a_file_for_which_there_is_no_room_is_refused_before_it_comes(
    origin: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(BundleError, match=f"no room for its {len(CONTENT)} bytes") as caught:
        fetch_file(origin.url(), tmp_path / "f", web=WEB)
    assert caught.value.reason == "Unreachable"
    assert origin.asked == [""]


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    web = dataclasses.replace(LOOPBACK, part_bytes=8 << 20, connections=4)
    with shop(bytes(96 << 20)) as origin:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        fetch_file(origin.url(), tmp_path / "f", web=web)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert (tmp_path / "f").stat().st_size == 96 << 20
    assert grown < 64 << 10, f"{grown} KiB"


def test_progress_is_told_of_what_has_come_and_not_only_of_what_fills_a_buffer(tmp_path: Path) -> None:
    told = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def trickle() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2000\r\n\r\n" + b"x" * 1000)
                if told.wait(60):
                    connection.sendall(b"x" * 1000)

        thread = threading.Thread(target=trickle)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/f"
        assert fetch_file(url, tmp_path / "f", web=WEB, progress=lambda *_: told.set()) == 2000
        thread.join()
