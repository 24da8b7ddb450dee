"""A pod's golden requests are put to another revision once, its answers are compared, and users have no part in it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.unit.serving import models
from tests.unit.serving.candidate import Asked, answer, bound, candidate, late, resets_after, right, says
from tests.unit.serving.leases import TARGET, Operator
from tests.unit.serving.server import REVISION, Server, claim, request, serving, until, write_bundle
from tests.unit.serving.test_load import ROWS, fetched, golden
from tests.unit.serving.test_router import KEYS, NOTHING, address, ask, hangs
from tests.unit.serving.test_shadow import scaled

from holdfast_bundle.manifest import Tensor
from holdfast_serving import load as loading
from holdfast_serving.golden import MAX_KEPT_BYTES

TWELVE = [[5.0 + index / 10, 3.0, 4.0, 1.0] for index in range(12)]


@contextmanager
def holding(folder: Path, rows: list[list[float]]) -> Iterator[Server]:
    """A server of the iris model with a golden request per row."""
    digest = write_bundle(claim(folder) / "iris", models.iris(), golden(rows))
    with Server(folder, "pvc://models/iris", digest, **KEYS) as server:
        until(server.ready, "readiness")
        yield server


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with holding(tmp_path_factory.mktemp("three"), ROWS) as server:
        yield server


def smoked(operator: Operator, **changes: Any) -> dict[str, Any]:
    """What a smoke test has come to."""
    operator.grant("golden", **changes)
    until(lambda: operator.read()["golden"]["done"], "the end of the smoke test")
    found: dict[str, Any] = operator.read()["golden"]
    return found


def said(**counts: int) -> dict[str, Any]:
    return {"target": TARGET, "answered": 0, "failed": 0, "rows": 0, "disagreeing": 0, "done": True} | counts


def test_a_revision_that_answers_as_this_one_does_agrees(three: Server, tmp_path: Path) -> None:
    with serving(tmp_path, models.iris(), HOLDFAST_REVISION=TARGET) as other:
        operator = Operator(three, address(other))
        assert operator.read()["goldenKept"] == 3
        assert operator.read()["golden"] is None
        assert smoked(operator) == said(asked=3, answered=3, rows=3)
        for arm in ("local", "target"):
            assert operator.arm(arm)["drawn"] == 0
        assert operator.read()["arms"]["comparison"]["rows"] == 0
        assert other.outcomes()["ok"] == 3
        assert three.metric("holdfast_router_golden_requests_total", outcome="answered", revision=TARGET) == 3


def test_a_revision_that_answers_otherwise_disagrees(three: Server) -> None:
    with candidate(right) as target:  # it says 9
        operator = Operator(three, target.address)
        assert smoked(operator) == said(asked=3, answered=3, rows=3, disagreeing=3)
        assert three.metric("holdfast_router_golden_disagreeing_rows_total", revision=TARGET) == 3


@pytest.mark.parametrize(("relative", "disagreeing"), [(1e-4, 4), (1e-2, 0)])
def test_numbers_agree_within_the_tolerance_of_the_lease(tmp_path: Path, relative: float, disagreeing: int) -> None:
    bodies = [request(x=("FP32", [2, 2], [2.0, 3.0, 4.0, value])) for value in (5.0, 6.0)]
    requests = {"requests": [body | {"outputs": []} for body in bodies], "tolerance": {"relative": 0, "absolute": 0}}
    tensors = [Tensor("y", "FP32", (-1, 2)), Tensor("big", "BOOL", (-1, 2))]
    inputs = [Tensor("x", "FP32", (-1, 2))]
    place = claim(tmp_path / "ours") / "scaled"
    digest = write_bundle(place, scaled(1.0), requests, inputs=inputs, outputs=tensors)
    (tmp_path / "theirs").mkdir()
    with (
        Server(tmp_path / "ours", "pvc://models/scaled", digest, **KEYS) as server,
        serving(tmp_path / "theirs", scaled(1.001), HOLDFAST_REVISION=TARGET) as other,
    ):
        until(server.ready, "readiness")
        found = smoked(Operator(server, address(other)), tolerance={"relative": relative, "absolute": 0})
    assert found == said(asked=2, answered=2, rows=4, disagreeing=disagreeing)


def test_a_lease_that_is_renewed_does_not_begin_again(three: Server) -> None:
    with candidate(right) as target:
        operator = Operator(three, target.address)
        smoked(operator)
        operator.grant(weight=0)
        smoked(operator)
        time.sleep(0.2)
        assert [asked.rows for asked in target.asked] == [1, 1, 1]


def test_another_target_is_tested_anew(three: Server) -> None:
    with candidate(right) as target:
        operator = Operator(three, target.address)
        assert smoked(operator)["disagreeing"] == 3
        other = operator.target | {"revision": "another"}
        operator.grant("golden", target=other)
        until(lambda: operator.read()["golden"]["done"], "the end of the smoke test")
        assert operator.read()["golden"] == said(asked=3, failed=3) | {"target": "another"}  # by what it says it is


def test_what_is_left_of_a_test_is_not_put_to_another_target(three: Server) -> None:
    with candidate(right) as target:
        operator = Operator(three, target.address)
        operator.grant("golden", target=operator.target | {"revision": "another", "address": NOTHING})
        operator.grant(weight=0)
        time.sleep(1.2)  # in which it would have been tried again
        assert target.asked == []


@pytest.mark.parametrize(
    "fault",
    [
        hangs,
        resets_after(lambda rows: answer(rows)[:40]),
        says(lambda rows: answer(rows, status="500 Oh")),
        says(lambda rows: answer(rows, status="400 No")),
        says(lambda rows: answer(rows + 1)),
    ],
)
def test_what_is_no_answer_has_failed(three: Server, fault: Any) -> None:
    with candidate(fault) as target:
        assert smoked(Operator(three, target.address), hedgeMilliseconds=100) == said(asked=3, failed=3)
        assert [asked.rows for asked in target.asked] == [1, 1, 1]


def test_a_target_that_cannot_be_reached_yet_is_tried_again(three: Server) -> None:
    sock = bound()
    operator = Operator(three, f"127.0.0.1:{sock.getsockname()[1]}")
    operator.grant("golden")
    time.sleep(0.7)
    found = operator.read()["golden"]
    assert (found["asked"], found["failed"], found["done"]) == (0, 0, False)
    with candidate(right, sock) as target:
        assert smoked(operator) == said(asked=3, answered=3, rows=3, disagreeing=3)
        assert len(target.asked) == 3


def test_a_target_that_is_never_reached_has_failed(three: Server) -> None:
    began = time.monotonic()
    assert smoked(Operator(three, NOTHING)) == said(asked=3, failed=3)
    assert time.monotonic() - began > 9


def test_few_are_under_way_at_once_and_none_is_put_when_the_lease_has_ended(tmp_path: Path) -> None:
    lock, under_way, most = threading.Lock(), 0, 0
    ended = threading.Event()

    def slow(sock: socket.socket, asked: Asked) -> bool:
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        ended.wait(60)
        with lock:
            under_way -= 1
        sock.sendall(answer(asked.rows))
        return True

    with holding(tmp_path, TWELVE) as server, candidate(slow) as target:
        operator = Operator(server, target.address)
        operator.grant("golden", seconds=4, hedgeMilliseconds=60000)
        until(lambda: len(target.asked) == 4, "as many as there may be")
        until(lambda: operator.read()["lease"] is None, "the end of the lease")
        ended.set()
        until(lambda: operator.read()["golden"]["answered"] == 4, "their answers")
        time.sleep(0.1)  # in which others would be put
        found = operator.read()["golden"]
        assert (found["asked"], found["done"]) == (4, False)
        assert smoked(operator) == said(asked=12, answered=12, rows=12, disagreeing=12)
        assert len(target.asked) == 12
    assert most == 4


def test_a_pod_without_golden_requests_is_done_at_once(tmp_path: Path) -> None:
    with serving(tmp_path, models.iris(), **KEYS) as server, candidate(right) as target:
        found = Operator(server, target.address).grant("golden")
        assert (found["golden"], found["goldenKept"]) == (said(asked=0), 0)
        assert target.asked == []


def test_users_are_answered_here_meanwhile(three: Server) -> None:
    with candidate(late(0.3)) as target:
        operator = Operator(three, target.address)
        operator.grant("golden")
        assert ask(three, 50, 5) == {(200, REVISION): 50}
        until(lambda: operator.read()["golden"]["done"], "the end of the smoke test")
        assert len(target.asked) == 3


def test_no_more_is_kept_than_there_is_room_for(tmp_path: Path) -> None:
    rows = 40_000
    values = [float(index % 100) for index in range(2 * rows)]
    requests = [request(x=("FP32", [rows, 2], values)) | {"outputs": []} for _ in range(9)]
    requests.append(request(x=("FP32", [1, 2], [1.0, 2.0])) | {"outputs": []})
    bundle = fetched(
        tmp_path,
        scaled(2.0),
        {"requests": requests, "tolerance": {"relative": 0, "absolute": 0}},
        inputs=[Tensor("x", "FP32", (-1, 2))],
        outputs=[Tensor("y", "FP32", (-1, 2)), Tensor("big", "BOOL", (-1, 2))],
    )
    kept = loading.load(bundle, "wine", "1", 1).golden
    each = rows * 2 * (4 + 4 + 1)
    assert [len(request.answers[0]) for request in kept] == [rows] * (MAX_KEPT_BYTES // each) + [1]


def test_large_answers_are_compared_before_it_is_done(tmp_path: Path) -> None:
    rows = 40_000
    values = [float(index % 100) for index in range(2 * rows)]
    requests = [request(x=("FP32", [rows, 2], values)) | {"outputs": []} for _ in range(3)]
    described = {
        "inputs": [Tensor("x", "FP32", (-1, 2))],
        "outputs": [Tensor("y", "FP32", (-1, 2)), Tensor("big", "BOOL", (-1, 2))],
    }
    document = {"requests": requests, "tolerance": {"relative": 0, "absolute": 0}}
    digest = write_bundle(claim(tmp_path / "ours") / "scaled", scaled(2.0), document, **described)
    (tmp_path / "theirs").mkdir()
    with (
        Server(tmp_path / "ours", "pvc://models/scaled", digest, **KEYS) as server,
        serving(tmp_path / "theirs", scaled(2.0, "Less"), HOLDFAST_REVISION=TARGET) as other,
    ):
        until(server.ready, "readiness")
        operator = Operator(server, address(other))
        seen = [operator.grant("golden", hedgeMilliseconds=60_000)["golden"]]
        while not seen[-1]["done"]:
            seen.append(operator.read()["golden"])
    ones = sum(value == 1 for value in values[::2])  # of these both models say that they are not
    assert seen[-1] == said(asked=3, answered=3, rows=3 * rows, disagreeing=3 * (rows - ones))
