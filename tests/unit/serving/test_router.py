"""Requests are drawn one by one; a client never pays for the other revision, and nothing is forgotten in the counts."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binom
from tests.unit.serving import models
from tests.unit.serving.candidate import (
    Fault,
    answer,
    bound,
    candidate,
    closes_after,
    late,
    resets_after,
    right,
    says,
)  # fmt: skip
from tests.unit.serving.leases import KEY, TARGET, Operator, public
from tests.unit.serving.server import REVISION, Server, Wire, claim, http, request, serving, until, write_bundle

from holdfast_serving.peer import BACKOFF_SECONDS

KEYS = {"HOLDFAST_ROUTER_PUBLIC_KEYS": public(KEY)}
BODY = request(X=("FP32", [1, 4], [5.1, 3.5, 1.4, 0.2]))
POST = http("POST", "/v2/models/wine/infer", json.dumps(BODY).encode())
NOTHING = "127.0.0.1:1"


@pytest.fixture(scope="module")
def stable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("stable"), models.iris(), **KEYS) as server:
        yield server


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("other"), models.iris(), HOLDFAST_REVISION=TARGET) as server:
        yield server


def address(server: Server) -> str:
    return f"127.0.0.1:{server.port}"


def ask(server: Server, count: int, connections: int = 1, post: bytes = POST) -> Counter[tuple[int, str]]:
    """How often which revision said what, asked over so many connections at once (0: each time over a new one)."""
    seen: Counter[tuple[int, str]] = Counter()
    if not connections:
        for _ in range(count):
            seen += ask(server, 1)
        return seen
    with ExitStack() as stack:
        wires = [Wire(stack.enter_context(server.connect())) for _ in range(connections)]
        for _ in range(count // connections):
            for wire in wires:
                wire.send(post)
            for wire in wires:
                reply = wire.reply()
                assert reply is not None, "no answer"
                seen[reply.status, reply.json.get("model_version", "")] += 1
    return seen


@pytest.mark.parametrize(("connections", "count", "weight"), [(1, 4000, 0.1), (16, 8000, 0.1), (0, 2000, 0.5)])
def test_the_share_is_that_of_the_lease_whatever_the_connections(
    stable: Server, other: Server, connections: int, count: int, weight: float
) -> None:
    operator = Operator(stable, address(other))
    seen: Counter[tuple[int, str]] = Counter()
    for _ in range(10):
        operator.grant(weight=weight)
        seen += ask(stable, count // 10, connections)
    drawn = seen[200, TARGET]
    assert seen == {(200, TARGET): drawn, (200, REVISION): count - drawn}
    assert binom.ppf(5e-7, count, weight) <= drawn <= binom.isf(5e-7, count, weight)
    assert operator.arm("target")["drawn"] == drawn
    assert operator.outcomes("target") == {"ok": drawn}
    assert operator.outcomes("local") == {"ok": count - drawn}


def test_what_routers_ask_is_told_from_what_clients_ask(stable: Server, other: Server) -> None:
    Operator(stable, address(other)).grant(weight=1.0)
    before, clients, here = (other.outcomes(protocol=name) for name in ("router", "rest", "grpc"))
    mine = stable.outcomes()
    assert ask(stable, 20) == {(200, TARGET): 20}
    assert other.outcomes(protocol="router") == before | {"ok": before["ok"] + 20}
    assert (other.outcomes(protocol="rest"), other.outcomes(protocol="grpc")) == (clients, here)
    assert stable.outcomes() == mine
    duration = "holdfast_inference_duration_seconds_count"
    assert other.metric(duration, protocol="router") == before["ok"] + 20


def test_every_request_of_one_connection_is_drawn_on_its_own(stable: Server, other: Server) -> None:
    operator = Operator(stable, address(other))
    with stable.connect() as sock:
        wire = Wire(sock)
        drawn = []
        for number in range(1000):
            if number % 200 == 0:
                operator.grant(weight=0.5)
            wire.send(POST)
            reply = wire.reply()
            assert reply is not None
            drawn.append(reply.json["model_version"] == TARGET)
    changes = sum(one != next_one for one, next_one in pairwise(drawn))
    assert binom.ppf(5e-7, 999, 0.5) <= changes <= binom.isf(5e-7, 999, 0.5)


def without(member: str) -> Callable[[dict[str, Any]], object]:
    return lambda document: document.pop(member)


def of_output(index: int, **members: Any) -> Callable[[dict[str, Any]], object]:
    return lambda document: document["outputs"][index].update(members)


def hangs(sock: socket.socket, asked: object) -> None:
    sock.recv(1)


HEAD = "HTTP/1.1 200 OK\r\n"
FAULTS: dict[str, tuple[Fault, str]] = {
    "accepts and hangs": (hangs, "timeout"),
    "answers after the hedge": (late(0.6), "timeout"),
    "resets": (resets_after(lambda rows: b""), "reset"),
    "resets in its head": (resets_after(lambda rows: answer(rows)[:40]), "reset"),
    "resets in its tensors": (resets_after(lambda rows: answer(rows)[:-4]), "reset"),
    "closes": (closes_after(lambda rows: b""), "reset"),
    "closes in its answer": (closes_after(lambda rows: answer(rows)[:-1]), "reset"),
    "500": (says(lambda rows: answer(rows, status="500 Oh")), "failed"),
    "503": (says(lambda rows: answer(rows, status="503 Busy")), "rejected"),
    "504": (says(lambda rows: answer(rows, status="504 Late")), "timeout"),
    "400": (says(lambda rows: answer(rows, status="400 No")), "refused"),
    "404": (says(lambda rows: answer(rows, status="404 No")), "refused"),
    "302": (says(lambda rows: answer(rows, status="302 There")), "invalid"),
    "100": (says(lambda rows: b"HTTP/1.1 100 Continue\r\n\r\n" + answer(rows)), "invalid"),
    "no HTTP": (says(lambda rows: b"SSH-2.0-OpenSSH_9.2\r\n\r\n"), "invalid"),
    "two answers": (says(lambda rows: 2 * answer(rows)), "invalid"),
    "an endless head": (says(lambda rows: f"{HEAD}x: {'y' * 40_000}".encode()), "invalid"),
    "a thousand fields": (says(lambda rows: HEAD.encode() + b"".join(b"x%d: y\r\n" % n for n in range(1000)) + b"\r\n"), "invalid"),  # noqa: E501
    "a length without end": (says(lambda rows: f"{HEAD}content-length: 99999999999\r\n\r\n".encode()), "invalid"),
    "two lengths": (says(lambda rows: f"{HEAD}content-length: 1\r\ncontent-length: 2\r\n\r\nx".encode()), "invalid"),
    "an empty body": (says(lambda rows: f"{HEAD}content-length: 0\r\n\r\n".encode()), "invalid"),
    "no JSON": (says(lambda rows: answer(rows).replace(b'{"model', b'{model"')), "invalid"),
    "a list": (says(lambda rows: HEAD.encode() + b"inference-header-content-length: 2\r\ncontent-length: 2\r\n\r\n[]"), "invalid"),  # noqa: E501
    "no outputs": (says(lambda rows: answer(rows, change=without("outputs"))), "invalid"),
    "outputs of another kind": (says(lambda rows: answer(rows, change=lambda d: d.update(outputs=[1]))), "invalid"),
    "another model": (says(lambda rows: answer(rows, change=lambda d: d.update(model_name="iris"))), "invalid"),
    "another revision": (says(lambda rows: answer(rows, change=lambda d: d.update(model_version="2"))), "invalid"),
    "an output missing": (says(lambda rows: answer(rows, change=lambda d: d["outputs"].pop(), data=lambda d: d[:8])), "invalid"),  # noqa: E501
    "an output twice": (says(lambda rows: answer(rows, change=of_output(1, name="label"))), "invalid"),
    "another datatype": (says(lambda rows: answer(rows, change=of_output(0, datatype="FP64"))), "invalid"),
    "another width": (says(lambda rows: answer(rows, change=of_output(1, shape=[rows, 4]))), "invalid"),
    "another rank": (says(lambda rows: answer(rows, change=of_output(0, shape=[rows, 1]))), "invalid"),
    "more rows": (says(lambda rows: answer(rows + 1)), "invalid"),
    "no rows": (says(lambda rows: answer(0)), "invalid"),
    "a negative dimension": (says(lambda rows: answer(rows, change=of_output(0, shape=[-1]))), "invalid"),
    "a dimension of nonsense": (says(lambda rows: answer(rows, change=of_output(0, shape=["1"]))), "invalid"),
    "a huge dimension": (says(lambda rows: answer(rows, change=of_output(1, shape=[rows, 2**62]))), "invalid"),
    "another size": (says(lambda rows: answer(rows, change=of_output(0, parameters={"binary_data_size": 4}))), "invalid"),  # noqa: E501
    "a negative size": (says(lambda rows: answer(rows, change=of_output(0, parameters={"binary_data_size": -8}))), "invalid"),  # noqa: E501
    "no sizes": (says(lambda rows: answer(rows, change=of_output(0, parameters=None))), "invalid"),
    "a byte too few": (says(lambda rows: answer(rows, data=lambda data: data[:-1])), "invalid"),
    "a byte too many": (says(lambda rows: answer(rows, data=lambda data: data + b"\0")), "invalid"),
    "no time": (says(lambda rows: answer(rows, fields="")), "invalid"),
    "a time of nonsense": (says(lambda rows: answer(rows, fields="server-timing: infer;dur=nan\r\n")), "invalid"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_no_client_sees_a_fault_of_the_candidate(stable: Server, name: str) -> None:
    fault, outcome = FAULTS[name]
    with candidate(fault) as target:
        operator = Operator(stable, target.address)
        operator.grant(weight=1, hedgeMilliseconds=60_000 if outcome != "timeout" or name == "504" else 40)
        assert ask(stable, 24, 4) == {(200, REVISION): 24}
        operator.grant(weight=0)
        assert len(target.asked) == 24
        assert operator.outcomes() == {outcome: 24}
        assert operator.outcomes("local") == {}  # those that were drawn for it


@pytest.mark.parametrize("where", [NOTHING, "no-such-host.invalid:80", f"{'a' * 70}.b:80"])
def test_no_client_sees_that_there_is_no_candidate(stable: Server, where: str) -> None:
    operator = Operator(stable, where)
    operator.grant(weight=1)
    assert ask(stable, 24, 4) == {(200, REVISION): 24}
    assert operator.outcomes() == {"connect": 24}


def test_a_candidate_that_comes_back_is_used_again(stable: Server) -> None:
    sock = bound()
    operator = Operator(stable, f"127.0.0.1:{sock.getsockname()[1]}")
    operator.grant(weight=1)
    assert ask(stable, 8) == {(200, REVISION): 8}
    with candidate(right, sock):
        time.sleep(2 * BACKOFF_SECONDS)
        assert ask(stable, 8) == {(200, TARGET): 8}
    assert operator.outcomes() == {"connect": 8, "ok": 8}


def test_an_answer_is_taken_in_pieces(stable: Server) -> None:
    def dribbles(sock: socket.socket, asked: Any) -> bool:
        for byte in answer(asked.rows):
            sock.send(bytes([byte]))
        return True

    with candidate(dribbles) as target:
        operator = Operator(stable, target.address)
        operator.grant(weight=1)
        assert ask(stable, 3) == {(200, TARGET): 3}
        assert target.connections == 1


def test_a_connection_that_was_closed_while_it_rested_is_no_fault(stable: Server) -> None:
    def closes_when_asked_again(sock: socket.socket, asked: Any) -> bool | None:
        return right(sock, asked) if asked.number == 1 else None

    with candidate(closes_when_asked_again) as target:
        operator = Operator(stable, target.address)
        operator.grant(weight=1)
        assert ask(stable, 20) == {(200, TARGET): 20}
        assert operator.outcomes() == {"ok": 20}
        assert operator.read()["peer"]["retries"] == 19


def test_what_is_sent_is_what_the_client_sent(stable: Server) -> None:
    with candidate(right) as target:
        Operator(stable, target.address).grant(weight=1)
        values = [5.1, 3.5, 1.4, 0.2, 6.2, 2.9, 4.3, 1.3]
        body = request(X=("FP32", [2, 4], values)) | {"id": "mine", "outputs": [{"name": "label"}]}
        said = stable.infer(body).json()
        (asked,) = target.asked
    assert said["id"] == "mine"
    assert said["outputs"] == [{"name": "label", "datatype": "INT64", "shape": [2], "data": [9, 9]}]
    assert asked.head.startswith(f"POST /v2/models/wine/versions/{TARGET}/infer HTTP/1.1".encode())
    assert asked.json["inputs"] == [
        {"name": "X", "datatype": "FP32", "shape": [2, 4], "parameters": {"binary_data_size": 32}}
    ]
    assert np.frombuffer(asked.data, "<f4").tolist() == np.array(values, np.float32).tolist()


def test_a_full_queue_here_refuses_nothing_that_goes_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    long, slow, quick = (json.dumps(request(x=("FP32", [1, 1], [turns]))).encode() for turns in (1e7, 2e5, 1.0))
    own = f"/v2/models/wine/versions/{REVISION}/infer"
    with (
        serving(tmp_path / "here", models.patient(), **KEYS) as server,
        serving(tmp_path / "there", models.patient(), HOLDFAST_REVISION=TARGET) as target,
        server.connect() as busy,
        server.connect() as sock,
    ):
        operator = Operator(server, address(target))
        occupied, wire = Wire(busy), Wire(sock)

        def ask_in_time(path: str) -> int:
            wire.send(http("POST", path, quick, "Request-Timeout-Ms: 2000"))
            reply = wire.reply()
            assert reply is not None
            return reply.status

        for _ in range(2):  # it is fast when it is loaded; now it is known that it can be slow
            occupied.send(http("POST", own, slow))
            assert occupied.reply() is not None
        occupied.send(http("POST", own, long))
        until(lambda: server.metric("holdfast_inference_in_flight") == 1, "a run")
        time.sleep(2.6)  # the run is overdue
        assert ask_in_time(own) == 503
        operator.grant(weight=1, hedgeMilliseconds=900)
        assert ask_in_time(server.infer_path) == 200
        operator.grant(weight=0, hedgeMilliseconds=900)
        assert ask_in_time(server.infer_path) == 503
        assert operator.outcomes("target") == {"ok": 1}
        assert operator.outcomes("local") == {"rejected": 1}


def test_what_names_a_revision_stays_with_it(stable: Server, other: Server) -> None:
    operator = Operator(stable, address(other))
    operator.grant("all")
    post = POST.replace(b"/wine/infer", f"/wine/versions/{REVISION}/infer".encode())
    assert ask(stable, 10, post=post) == {(200, REVISION): 10}
    assert ask(stable, 10) == {(200, TARGET): 10}
    assert operator.arm("target")["drawn"] == 10
    assert operator.arm("local")["drawn"] == 0


def test_two_pods_that_send_to_each_other_send_nothing_back(stable: Server, tmp_path: Path) -> None:
    with serving(tmp_path, models.iris(), HOLDFAST_REVISION=TARGET, **KEYS) as second:
        there, back = Operator(stable, address(second)), Operator(second, address(stable), REVISION)
        there.grant("all")
        back.grant("all")
        assert ask(stable, 10) == {(200, TARGET): 10}
        assert ask(second, 10) == {(200, REVISION): 10}
        assert there.outcomes() == back.outcomes() == {"ok": 10}


def test_a_new_pod_that_has_a_control_group_and_an_old_one_that_sends_all_on_are_no_circle(
    stable: Server, tmp_path: Path
) -> None:
    """Right after a promotion: old pods send everything to Service X, new ones a share to the previous revision."""
    with serving(tmp_path, models.iris(), HOLDFAST_REVISION=TARGET, **KEYS) as new:
        there, back = Operator(stable, address(new)), Operator(new, address(stable), REVISION)
        there.grant("all", closeConnections=True)
        back.grant(weight=0.5)
        seen = ask(new, 200)
        assert seen[200, TARGET] + seen[200, REVISION] == 200
        drawn = back.arm("target")["drawn"]
        assert back.outcomes() == {"ok": drawn}
        assert there.arm("target")["drawn"] == 0  # what came from the new pod was answered where it came to
        assert ask(stable, 40, 0) == {(200, TARGET): 40}
        assert there.outcomes() == {"ok": 40}
        assert back.arm("target")["drawn"] == drawn


def test_a_service_that_still_points_to_this_pod_leads_to_no_circle(stable: Server) -> None:
    operator = Operator(stable, address(stable))
    operator.grant("all")
    assert ask(stable, 20) == {(200, REVISION): 20}
    assert operator.outcomes() == {"refused": 20}  # it is asked for a revision that it does not have


def test_a_target_that_hangs_holds_no_more_than_it_may_and_its_age_is_told(tmp_path: Path) -> None:
    """The kernel takes the connections; nobody else does."""
    with (
        serving(tmp_path, models.iris(), **KEYS) as server,
        socket.create_server(("127.0.0.1", 0), backlog=512) as sock,
    ):
        operator = Operator(server, f"127.0.0.1:{sock.getsockname()[1]}")
        operator.grant(weight=1, hedgeMilliseconds=300)
        assert ask(server, 300, 300) == {(200, REVISION): 300}
        assert operator.outcomes() == {"timeout": 256, "saturated": 44}
        peer = operator.read()["peer"]
        assert (peer["connections"], peer["inFlight"]) == (256, 256)
        assert peer["oldestSeconds"] > 0.3
        assert server.metric("holdfast_router_oldest_seconds", revision=TARGET) >= peer["oldestSeconds"]
        assert ask(server, 100, 10) == {(200, REVISION): 100}
        assert operator.outcomes() == {"timeout": 256, "saturated": 144}


def sums() -> bytes:
    return models.build(
        [models.node("ReduceSum", "x axes", "y", keepdims=0)],
        {"x": (models.FLOAT, [None, 1024])},
        {"y": (models.FLOAT, [None])},
        axes=np.array([1], np.int64),
    )


def four_megabytes() -> bytes:
    size = 4 << 20
    described = {"name": "x", "datatype": "FP32", "shape": [1024, 1024], "parameters": {"binary_data_size": size}}
    head = json.dumps({"inputs": [described]}).encode()
    fields = f"Inference-Header-Content-Length: {len(head)}"
    return http("POST", "/v2/models/wine/infer", head + bytes(size), fields)


def test_what_a_target_that_hangs_holds_is_bounded_in_bytes_too(tmp_path: Path) -> None:
    with serving(tmp_path, sums(), **KEYS) as server, candidate(hangs) as target:
        operator = Operator(server, target.address)
        operator.grant(weight=1, hedgeMilliseconds=20)
        assert ask(server, 20, 1, four_megabytes()) == {(200, REVISION): 20}
        assert operator.outcomes() == {"timeout": 15, "saturated": 5}


def test_what_was_given_up_is_held_no_longer(tmp_path: Path) -> None:
    resets = resets_after(lambda rows: answer(rows)[:-4])
    with serving(tmp_path, sums(), **KEYS) as server, candidate(resets) as target:
        operator = Operator(server, target.address)
        operator.grant(weight=1)
        assert ask(server, 20, 1, four_megabytes()) == {(200, REVISION): 20}
        assert operator.outcomes() == {"reset": 20}
        assert 0 < server.log.count(f"revision {TARGET} has not answered a request (reset") < 5


def test_a_large_request_arrives_whole_at_a_target_that_reads_slowly(tmp_path: Path) -> None:
    """Larger than what the kernel takes at once."""
    rows = 3000
    body = request(x=("FP32", [rows, 1024], [row % 7 for row in range(rows) for _ in range(1024)]))
    for name in ("ours", "theirs"):
        (tmp_path / name).mkdir()
    with (
        serving(tmp_path / "ours", sums(), **KEYS) as server,
        serving(tmp_path / "theirs", sums(), HOLDFAST_REVISION=TARGET) as target,
    ):
        operator = Operator(server, address(target))
        operator.grant(weight=1, hedgeMilliseconds=60_000)
        target.process.send_signal(signal.SIGSTOP)
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(server.infer, body)
            until(lambda: operator.read()["peer"]["inFlight"] == 1, "the request at the target")
            time.sleep(0.3)
            target.process.send_signal(signal.SIGCONT)
            said = answer.result().json()
        assert said["model_version"] == TARGET
        assert said["outputs"][0]["data"] == [row % 7 * 1024 for row in range(rows)]


def test_an_answer_without_end_is_given_up(tmp_path: Path) -> None:
    def endless(sock: socket.socket, asked: Any) -> None:
        sock.sendall(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        while True:
            sock.sendall(b"100000\r\n" + bytes(1 << 20) + b"\r\n")

    with serving(tmp_path, models.iris(), **KEYS) as server, candidate(endless) as target:
        operator = Operator(server, target.address)
        operator.grant(weight=1, hedgeMilliseconds=60_000)
        assert ask(server, 6, 3) == {(200, REVISION): 6}
        assert operator.outcomes() == {"invalid": 6}
        target.fault = right
        assert ask(server, 3) == {(200, TARGET): 3}


def test_late_answers_are_told_and_their_connections_are_used_again(stable: Server) -> None:
    with candidate(late(0.5)) as target:
        operator = Operator(stable, target.address)
        operator.grant(weight=1, hedgeMilliseconds=20)
        assert ask(stable, 5) == {(200, REVISION): 5}
        until(lambda: operator.read()["peer"]["late"] == 5, "late answers")
        assert ask(stable, 1) == {(200, REVISION): 1}
        assert target.connections < 6
        assert operator.outcomes() == {"timeout": 6}


def test_the_hedge_is_kept(stable: Server) -> None:
    with candidate(late(2)) as target:
        Operator(stable, target.address).grant(weight=1, hedgeMilliseconds=100)
        times = []
        for _ in range(5):
            began = time.perf_counter()
            ask(stable, 1)
            times.append(time.perf_counter() - began)
    assert min(times) >= 0.099
    assert sorted(times)[2] < 1


def test_a_shorter_hedge_holds_beside_a_longer_one(stable: Server) -> None:
    with candidate(hangs) as target, stable.connect() as sock:
        operator = Operator(stable, target.address)
        operator.grant(weight=1, hedgeMilliseconds=600_000)
        patient = Wire(sock)
        patient.send(POST)
        until(lambda: operator.read()["peer"]["inFlight"] == 1, "the patient one")
        operator.grant(weight=1, hedgeMilliseconds=20)
        assert ask(stable, 1) == {(200, REVISION): 1}
        assert operator.outcomes() == {"timeout": 1}
        target.stop()
        reply = patient.reply()
        assert reply is not None
        assert reply.json["model_version"] == REVISION


def test_a_lease_ends_by_itself(stable: Server, other: Server) -> None:
    operator = Operator(stable, address(other))
    operator.grant(weight=1, seconds=5)
    assert ask(stable, 10) == {(200, TARGET): 10}
    assert operator.read()["peer"]["connections"] == 1
    until(lambda: operator.read()["lease"] is None, "the end")
    assert ask(stable, 50) == {(200, REVISION): 50}
    assert operator.read()["peer"]["connections"] == 0
    assert operator.arm("target")["drawn"] == 10  # what was counted stays
    assert stable.metric("holdfast_router_weight", revision=TARGET) == 0
    operator.grant(weight=1)
    assert ask(stable, 10) == {(200, TARGET): 10}
    assert operator.arm("target")["drawn"] == 20


def test_a_lease_that_is_renewed_does_not_end(stable: Server, other: Server) -> None:
    operator = Operator(stable, address(other))
    operator.grant(weight=1, seconds=2.5)
    for _ in range(3):
        time.sleep(0.9)
        operator.grant(weight=1, seconds=2.5)
    assert ask(stable, 10) == {(200, TARGET): 10}


def test_what_is_drawn_before_the_target_is_warm_is_counted_apart(stable: Server, other: Server) -> None:
    operator = Operator(stable, address(other))
    operator.target["readySeconds"] = 25
    operator.grant(weight=0.5)
    ask(stable, 40)
    assert operator.arm("target", "warming")["drawn"] + operator.arm("local", "warming")["drawn"] == 40
    assert operator.arm("target")["drawn"] + operator.arm("local")["drawn"] == 0
    time.sleep(5.1)  # in the same lease
    ask(stable, 40)
    assert operator.arm("target", "warming")["drawn"] + operator.arm("local", "warming")["drawn"] == 40
    assert operator.arm("target")["drawn"] + operator.arm("local")["drawn"] == 40


def test_clients_are_told_to_close_while_the_lease_says_so(stable: Server, other: Server) -> None:
    operator = Operator(stable, address(other))

    def closes() -> bool:
        with stable.connect() as sock:
            wire = Wire(sock)
            wire.send(POST)
            reply = wire.reply()
            assert reply is not None
            assert reply.json["model_version"] == TARGET
            return reply.fields.get("connection") == "close"

    with stable.connect() as sock:
        old = Wire(sock)
        operator.grant("all")
        assert not closes()
        operator.grant("all", closeConnections=True, seconds=5)
        assert closes()
        old.send(POST)
        reply = old.reply()
        assert reply is not None
        assert (reply.json["model_version"], reply.fields["connection"]) == (TARGET, "close")
        assert old.reply() is None
    until(lambda: operator.read()["lease"] is None, "the end")
    operator.grant("all")
    assert not closes()


def test_the_target_s_time_is_its_own(stable: Server) -> None:
    def far_away(sock: socket.socket, asked: Any) -> bool:
        time.sleep(0.05)
        sock.sendall(answer(asked.rows, fields="server-timing: infer;dur=3.5\r\n"))
        return True

    with candidate(far_away) as target:
        operator = Operator(stable, target.address)
        operator.grant(weight=1)
        ask(stable, 4)
    found = operator.read()["arms"]
    assert found["steady"]["target"]["duration"]["sum"] == pytest.approx(4 * 0.0035)
    assert found["client"]["sum"] > 4 * 0.05


def test_the_local_model_is_not_charged_for_the_wait(stable: Server) -> None:
    with candidate(hangs) as target:
        operator = Operator(stable, target.address)
        operator.grant(weight=1, hedgeMilliseconds=1000)
        before = stable.metric("holdfast_inference_duration_seconds_sum")
        ask(stable, 4, 4)
        assert stable.metric("holdfast_inference_duration_seconds_sum") - before < 1
        assert operator.read()["arms"]["client"]["sum"] >= 4


def test_what_both_arms_say_is_counted_by_the_same_bins(tmp_path: Path) -> None:
    """The candidate says 9, of which the profile knows nothing."""
    place = claim(tmp_path) / "bundle"
    place.mkdir()
    profile = {"rows": 9, "features": {}, "prediction": {"labels": [0, 1, 2], "ratios": [0.2, 0.3, 0.5]}}
    (place / "profile.json").write_text(json.dumps(profile))
    digest = write_bundle(place, models.iris())
    with candidate(right) as target, Server(tmp_path, "pvc://models/bundle", digest, **KEYS) as server:
        until(server.ready, "readiness")
        operator = Operator(server, target.address)
        operator.grant(weight=0.5)
        two_rows = request(X=("FP32", [2, 4], [5.1, 3.5, 1.4, 0.2, 6.3, 3.3, 6.0, 2.5]))
        ask(server, 1200, 8, http("POST", "/v2/models/wine/infer", json.dumps(two_rows).encode()))
        drawn = {name: operator.arm(name)["drawn"] for name in ("local", "target")}
        nothing = {"0": 0, "1": 0, "2": 0, "other": 0, "missing": 0}
        assert operator.arm("local")["predictions"] == nothing | {"0": drawn["local"], "2": drawn["local"]}
        assert operator.arm("target")["predictions"] == nothing | {"other": 2 * drawn["target"]}
        bins = "holdfast_router_prediction_bin_total"
        assert server.metric(bins, arm="target", phase="steady", bin="other") == 2 * drawn["target"]


def test_a_server_without_a_lease_counts_no_arms(tmp_path: Path) -> None:
    with serving(tmp_path, models.iris(), **KEYS) as server:
        assert server.manage("/router").json()["arms"] is None
        assert "holdfast_router_requests_total" not in server.manage("/metrics").text
        assert "nacl" not in loaded_modules(server)


def loaded_modules(server: Server) -> str:
    """The shared objects that a server has in memory."""
    return Path(f"/proc/{server.process.pid}/maps").read_text()


class Client(threading.Thread):
    """Asks without a pause, on a new connection whenever the old one is closed."""

    def __init__(self, server: Server) -> None:
        super().__init__()
        self.server = server
        self.stop = False
        self.seen: Counter[str] = Counter()

    def run(self) -> None:
        while not self.stop:
            try:
                with self.server.connect() as sock:
                    wire = Wire(sock)
                    while not self.stop:
                        wire.send(POST)
                        reply = wire.reply()
                        if reply is None:
                            self.seen["lost"] += 1
                            break
                        self.seen[f"{reply.status} {reply.json.get('model_version')}"] += 1
                        if reply.fields.get("connection") == "close":
                            break
            except OSError as error:
                self.seen[f"lost: {error}"] += 1


def test_a_drain_while_requests_are_elsewhere_loses_none(tmp_path: Path) -> None:
    with candidate(late(0.4)) as target, serving(tmp_path, models.iris(), "--drain-seconds", "0", **KEYS) as server:
        operator = Operator(server, target.address)
        operator.grant("all", hedgeMilliseconds=60_000)
        with ExitStack() as stack:
            wires = [Wire(stack.enter_context(server.connect())) for _ in range(10)]
            for wire in wires:
                wire.send(POST)
            until(lambda: len(target.asked) == 10, "requests at the target")
            server.terminate()
            until(lambda: "draining" in server.log, "the drain")
            replies = [wire.reply() for wire in wires]
        assert [reply.json["model_version"] for reply in replies if reply is not None] == [TARGET] * 10
        assert server.wait() == 0, server.log


def test_a_target_that_is_drained_loses_none(stable: Server, tmp_path: Path) -> None:
    with serving(tmp_path, models.iris(), "--drain-seconds", "3", HOLDFAST_REVISION=TARGET) as target:
        operator = Operator(stable, address(target))
        operator.grant(weight=0.5)
        clients = [Client(stable) for _ in range(4)]
        for client in clients:
            client.start()
        until(lambda: all(client.seen[f"200 {TARGET}"] > 50 for client in clients), "load")
        target.terminate()
        until(lambda: "draining" in target.log, "the drain")
        before = [client.seen[f"200 {TARGET}"] for client in clients]
        until(lambda: all(c.seen[f"200 {TARGET}"] > n + 50 for c, n in zip(clients, before, strict=True)), "more load")
        operator.grant(weight=0)
        assert target.wait() == 0, target.log
        for client in clients:
            client.stop = True
            client.join()
    seen = sum((client.seen for client in clients), Counter())
    assert set(seen) == {f"200 {TARGET}", f"200 {REVISION}"}
    assert set(operator.outcomes()) == {"ok"}


def test_nothing_is_left_behind(stable: Server, other: Server) -> None:
    def files() -> int:
        return len(os.listdir(f"/proc/{stable.process.pid}/fd"))

    def memory() -> int:
        return int(Path(f"/proc/{stable.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def round_trip() -> None:
        with candidate(resets_after(lambda rows: b"")) as broken, candidate(late(0.03)) as slow:
            for where in (broken.address, slow.address, NOTHING, address(other)):
                operator = Operator(stable, where)
                operator.grant(weight=1, hedgeMilliseconds=10)
                ask(stable, 64, 16)
                operator.grant("shadow", hedgeMilliseconds=10)
                ask(stable, 64, 16)
            until(lambda: operator.read()["peer"]["inFlight"] == 0, "answers")
            operator.grant(weight=0, seconds=0.1)
            until(lambda: operator.read()["lease"] is None, "the end")

    round_trip()
    until(lambda: settled(files), "closed connections")
    before = files(), memory()
    for _ in range(3):
        round_trip()
    until(lambda: files() <= before[0], "closed connections")
    assert memory() - before[1] < 16 << 20


def settled(count: Callable[[], int]) -> bool:
    first = count()
    time.sleep(0.2)
    return count() == first
