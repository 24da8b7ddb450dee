"""A pod of several processes: its clients, the kubelet, Prometheus and the operator see one."""

from __future__ import annotations

import json
import os
import select
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from scipy.stats import binom
from tests.unit.serving import leases, models
from tests.unit.serving.authority import Authority, Secret, trust
from tests.unit.serving.grpc_client import client as grpc_client
from tests.unit.serving.leases import KEY, TARGET, Operator, envelope, public
from tests.unit.serving.server import (
    REVISION,
    Server,
    Wire,
    claim,
    digest_of,
    http,
    request,
    serving,
    until,
    write_bundle,
)

TWO = ("--cpus", "2")
KEYS = {"HOLDFAST_ROUTER_PUBLIC_KEYS": public(KEY)}
IRIS = ("FP32", [1, 4], [5.1, 3.5, 1.4, 0.2])
POST = http("POST", "/v2/models/wine/infer", json.dumps(request(X=IRIS)).encode())


@pytest.fixture(scope="module")
def pod(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("pod"), models.iris(), *TWO, **KEYS) as server:
        yield server


def children(pid: int) -> list[int]:
    return [int(child) for path in Path(f"/proc/{pid}/task").glob("*/children") for child in path.read_text().split()]


def processes(server: Server) -> list[int]:
    return [server.process.pid, *children(server.process.pid)]


def sockets(pid: int) -> set[str]:
    """That a process has open, by inode."""
    found = set()
    for file in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            found.add(os.readlink(file))
    return {link for link in found if link.startswith("socket:")}


@contextmanager
def wires(server: Server, count: int) -> Iterator[list[Wire]]:
    with ExitStack() as stack:
        yield [Wire(stack.enter_context(server.connect())) for _ in range(count)]


def asked(wire: Wire, post: bytes = POST) -> Any:
    wire.send(post)
    reply = wire.reply()
    assert reply is not None, "no answer"
    assert reply.status == 200, reply.body
    return reply.json


def test_a_small_model_has_a_process_for_each_cpu(pod: Server) -> None:
    assert len(processes(pod)) == 2
    assert pod.get("/v2/models/wine").json()["parameters"]["processes"] == 2
    assert pod.metric("holdfast_model_info", processes="2") == 1


def test_a_large_model_has_one(tmp_path: Path) -> None:
    with serving(tmp_path, models.heavy(), *TWO) as server:
        assert len(processes(server)) == 1
        assert server.get("/v2/models/wine").json()["parameters"]["processes"] == 1


@pytest.mark.parametrize(("megabytes", "count"), [(64, 1), (4096, 2)])
def test_memory_that_is_not_there_is_not_taken(tmp_path: Path, megabytes: int, count: int) -> None:
    with serving(tmp_path, models.iris(), *TWO, "--memory", str(megabytes << 20)) as server:
        assert len(processes(server)) == count
        assert ("memory limit" in server.log) == (count == 1)
        assert server.ask(X=IRIS)["label"]["data"] == [0]


def test_connections_that_are_kept_are_shared_evenly(pod: Server) -> None:
    """And those that have been closed count no more: the next ones are shared as evenly."""
    shares = []
    for _ in range(10):
        before = [sockets(pid) for pid in processes(pod)]
        with wires(pod, 6) as connected:
            for wire in connected:
                asked(wire)
            shares.append([len(sockets(pid) - own) for pid, own in zip(processes(pod), before, strict=True)])
        until(lambda own=before: all(map(set.issubset, map(sockets, processes(pod)), own)), "the end of these")
        time.sleep(0.05)  # by when the first process has been told, if nothing stops the other one just now
    assert shares.count([3, 3]) >= 8, shares


def test_short_connections_are_shared_too(pod: Server) -> None:
    """Where the first process has one connection more, the other one takes all that come one by one."""
    first, other = processes(pod)

    def shared() -> bool:
        time.sleep(0.4)  # from calm on
        with ExitStack() as kept:
            before = sockets(first)
            while not sockets(first) - before:
                asked(Wire(kept.enter_context(pod.connect())))
            before, taken = sockets(other), set()
            for _ in range(20):
                with wires(pod, 1) as (wire,):
                    asked(wire)
                    taken |= sockets(other) - before
                time.sleep(0.002)
        return len(taken) >= 10

    until(shared, "half of them in the other process")


def test_every_count_is_that_of_the_pod_exactly_and_never_falls(tmp_path: Path) -> None:
    place = claim(tmp_path) / "bundle"
    place.mkdir()
    edges = {"kind": "numeric", "edges": [3], "ratios": [0.5, 0.5]}
    profile = {
        "rows": 9,
        "features": {name: edges | {"input": "X", "column": index} for index, name in enumerate("abcd")},
        "prediction": {"labels": [0, 1, 2], "ratios": [0.2, 0.3, 0.5]},
    }
    (place / "profile.json").write_text(json.dumps(profile))
    digest = write_bundle(place, models.iris())
    with Server(tmp_path, "pvc://models/bundle", digest, *TWO) as server:
        until(server.ready, "readiness")
        ends = time.monotonic() + 3
        counts = [0] * 8
        bad = http("POST", "/v2/models/wine/infer", b"{}")

        def load(index: int) -> None:
            with server.connect() as sock:
                wire = Wire(sock)
                while not counts[index] or time.monotonic() < ends:
                    asked(wire)
                    counts[index] += 1
                wire.send(bad)
                reply = wire.reply()
                assert reply is not None
                assert reply.status == 400

        threads = [threading.Thread(target=load, args=(index,)) for index in range(len(counts))]
        for thread in threads:
            thread.start()
        seen = [0.0]
        while not seen[-1] or time.monotonic() < ends:
            seen.append(server.outcomes()["ok"])
            seen.append(float(rows(server)["inference_count"]))
            time.sleep(0.05)
        for thread in threads:
            thread.join()
        total = sum(counts)
        with grpc_client(server) as client:
            for _ in range(10):
                client.infer(X=IRIS)
            (told,) = client.call("ModelStatistics").model_stats
        assert seen == sorted(seen)
        assert 0 < seen[-1] <= total
        assert min(counts) > 0
        assert server.outcomes() == dict.fromkeys(server.outcomes(), 0) | {
            "ok": total + 10,
            "client_error": len(counts),
        }
        name = "holdfast_inference_duration_seconds"
        assert server.metric(f"{name}_count", protocol="rest") == total
        assert server.metric(f"{name}_bucket", protocol="rest", le="+Inf") == total
        assert server.metric(f"{name}_count", protocol="grpc") == 10
        assert server.metric("holdfast_model_prediction_bin_total", bin="0") == total + 10
        assert server.metric("holdfast_model_feature_bin_total", feature="a", bin="1") == total + 10
        assert server.metric("holdfast_model_prediction_reference_ratio", bin="0") == 0.2
        assert server.metric("holdfast_inference_in_flight") == 0
        whole = server.metric("holdfast_model_load_seconds")
        assert 0 < server.metric("holdfast_model_load_phase_seconds", phase="processes") < whole
        assert told.inference_count == total + 10
        told_by = [rows(server) for _ in range(4)]
        assert told_by[0] == told_by[1] == told_by[2] == told_by[3]
        assert told_by[0]["inference_stats"]["success"]["count"] == total + 10
        sizes = told_by[0]["batch_stats"]
        assert [size["batch_size"] for size in sizes] == sorted({size["batch_size"] for size in sizes})
        assert sum(size["batch_size"] * size["compute_infer"]["count"] for size in sizes) == total + 10


def rows(server: Server) -> Any:
    """Statistics, over a new connection: of whichever process."""
    return httpx.get(f"{server.url}/v2/models/wine/stats", timeout=60).json()["model_stats"][0]


def test_a_lease_holds_in_every_process(pod: Server, tmp_path: Path) -> None:
    with serving(tmp_path, models.iris(), HOLDFAST_REVISION=TARGET) as other, wires(pod, 8) as connected:
        operator = Operator(pod, f"127.0.0.1:{other.port}")
        for weight in (1.0, 0.0, 0.5):
            operator.grant(weight=0, target=operator.target | {"revision": "nobody"})
            granted = operator.grant(weight=weight)
            assert granted["lease"]["weight"] == weight
            assert granted["arms"]["steady"]["target"]["drawn"] == 0
            # No request comes late: the answer to the lease says that all processes have it.
            seen = Counter(asked(wire)["model_version"] for _ in range(50) for wire in connected)
            drawn = seen[TARGET]
            assert seen.total() == 400
            assert {0.0: drawn == 0, 1.0: drawn == 400}.get(weight, True)
            assert binom.ppf(5e-7, 400, 0.5) * weight <= drawn
            document = operator.read()
            arms = document["arms"]["steady"]
            assert {name: arm["drawn"] for name, arm in arms.items()} == {"local": 400 - drawn, "target": drawn}
            assert operator.outcomes("target") == ({"ok": drawn} if drawn else {})
            assert sum(arms["local"]["duration"]["counts"]) == 400 - drawn
            assert sum(document["arms"]["client"]["counts"]) == drawn
            assert document["arms"]["edges"][0] == 0.001
            assert document["instance"] == granted["instance"]
            assert pod.metric("holdfast_router_weight") == weight
            assert pod.metric("holdfast_router_drawn_total", arm="target", phase="steady") == drawn
        assert operator.read()["leases"]["accepted"] == pod.metric("holdfast_router_leases_total", outcome="accepted")
        again = envelope(operator.document(weight=1.0), KEY)
        assert operator.put(again).status_code == 200
        assert operator.put(again).status_code == 409
        assert operator.put(envelope(operator.document(weight=1.0), leases.OTHER_KEY)).status_code == 403
        operator.grant(weight=1.0, seconds=0.5)
        time.sleep(0.8)
        assert {asked(wire)["model_version"] for wire in connected} == {REVISION}


def test_a_receipt_counts_once_wherever_it_comes_in(tmp_path: Path) -> None:
    keys = tmp_path / "feedback" / "wine-feedback"
    keys.mkdir(parents=True)
    (keys / "key").write_text("0123456789abcdef" * 4)
    arguments = (*TWO, "--feedback", str(tmp_path / "feedback"))
    more = {"HOLDFAST_FEEDBACK_SECRET": "wine-feedback", "HOLDFAST_FEEDBACK_ROWS_PER_MINUTE": "10"}
    with serving(tmp_path, models.iris(), *arguments, **more) as server, wires(server, 4) as connected:
        sealed = http(
            "POST", server.infer_path, json.dumps(request(X=IRIS) | {"parameters": {"receipt": True}}).encode()
        )
        outcomes: Counter[Any] = Counter()
        for number in range(12):
            receipt = asked(connected[number % 4], sealed)["parameters"]["receipt"]
            told = json.dumps({"feedback": [{"receipt": receipt, "labels": [0]}]}).encode()
            for wire in connected:
                wire.send(http("POST", "/v2/models/wine/feedback", told))
            for wire in connected:
                reply = wire.reply()
                assert reply is not None
                answer = reply.json
                reason = answer["refused"][0]["reason"] if answer["refused"] else "counted"
                assert (reply.status == 429) == (reason == "capped")
                outcomes[reason] += 1
        assert outcomes == {"counted": 10, "repeated": 30, "capped": 8}
        assert server.metric("holdfast_feedback_rows_total", outcome="correct") == 10
        assert server.metric("holdfast_feedback_refused_total", reason="repeated") == 30
        for wire in connected:
            wire.send(http("POST", "/v2/models/wine/feedback", b'{"feedback": 1}'))
            reply = wire.reply()
            assert reply is not None
            assert (reply.status, "must be a list" in reply.json["error"]) == (400, True)


def test_with_tls_every_process_speaks_it(tmp_path: Path) -> None:
    authority = Authority()
    secret = Secret(tmp_path / "tls" / "wine-tls")
    secret.put_identity(authority.issue("localhost"), authority)
    arguments = (*TWO, "--tls", str(tmp_path / "tls"))
    with serving(tmp_path, models.iris(), *arguments, HOLDFAST_TLS_SECRET="wine-tls") as server:
        context = trust(authority)
        with ExitStack() as stack:
            for _ in range(4):
                sock = stack.enter_context(server.connect())
                wire = Wire(stack.enter_context(context.wrap_socket(sock, server_hostname="localhost")))
                assert asked(wire)["outputs"][0]["data"] == [0]
        assert server.metric("holdfast_tls_handshakes_total", outcome="ok") == 4


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "told to end, which it ignores"])
def test_when_one_process_ends_the_pod_does(tmp_path: Path, number: int) -> None:
    with serving(tmp_path, models.iris(), *TWO, "--drain-seconds", "0.5") as server, wires(server, 4) as connected:
        for wire in connected:
            asked(wire)
        (sibling,) = children(server.process.pid)
        os.kill(sibling, number)
        if number == signal.SIGTERM:
            time.sleep(1)
            for wire in connected:
                asked(wire)
            assert server.ready()
            return
        until(lambda: server.manage("/readyz").status_code == 503, "not ready")
        left = 0
        for wire in connected:
            wire.send(POST)
            reply = wire.reply()
            if reply is not None:
                assert (reply.status, reply.fields["connection"]) == (200, "close")
                left += 1
        assert left == 2
        assert server.wait() == 1
        assert server.last_word == {
            "reason": "ProcessEnded",
            "message": "a process of this pod was killed; if for its memory, raise resources.limits.memory",
        }


def test_no_process_outlives_the_first(tmp_path: Path) -> None:
    with serving(tmp_path, models.iris(), *TWO) as server:
        (sibling,) = children(server.process.pid)
        server.process.kill()
        until(lambda: not Path(f"/proc/{sibling}").exists() or gone(sibling), "its end")


def gone(pid: int) -> bool:
    """Whether only its entry is left."""
    return ") Z " in Path(f"/proc/{pid}/stat").read_text()


def test_a_process_that_does_not_answer_is_noticed_and_makes_no_count_fall(tmp_path: Path) -> None:
    with serving(tmp_path, models.iris(), *TWO, **KEYS) as server:
        (sibling,) = children(server.process.pid)
        operator = Operator(server, "127.0.0.1:1")
        document = operator.document(weight=0.5)
        os.kill(sibling, signal.SIGSTOP)
        try:
            for path in ("/metrics", "/router", "/livez"):
                answer = httpx.get(server.management_url + path, timeout=60)
                assert (answer.status_code, "does not answer" in answer.json()["error"]) == (503, True)
            refused = httpx.put(f"{server.management_url}/router/lease", content=envelope(document, KEY), timeout=60)
            assert refused.status_code == 503
        finally:
            os.kill(sibling, signal.SIGCONT)
        assert server.manage("/metrics").status_code == server.manage("/livez").status_code == 200
        assert operator.grant(weight=0.25)["lease"]["weight"] == 0.25


def test_what_processes_hold_is_shared_between_them(tmp_path: Path) -> None:
    """Half of what one may hold of large bodies is left to each: the second of two that are on their way is refused."""
    size = 3 << 20
    values = np.zeros(size // 4, np.float32).tobytes()
    limits = ("--body-bytes", str(size + 1000), "--buffered-bytes", str(5 * size))
    fields = ("Inference-Header-Content-Length: 0", "Content-Type: application/octet-stream")
    post = http("POST", "/v2/models/wine/infer", values, *fields)
    with serving(tmp_path, models.echo("FP32", None), *TWO, *limits) as server, wires(server, 8) as connected:
        assert server.get("/v2/models/wine").json()["parameters"]["processes"] == 2
        for wire in connected:
            wire.send(post[: size // 2])
        until(lambda: len(select.select([wire.sock for wire in connected], [], [], 0)[0]) == 4, "refusals")
        statuses = Counter()
        for wire in connected:
            try:
                wire.send(post[size // 2 :])
            except OSError:
                statuses["refused"] += 1
                continue
            reply = wire.reply()
            statuses["refused" if reply is None or reply.status == 503 else reply.status] += 1
        assert statuses == {400: 4, "refused": 4}


def test_a_process_that_dies_while_it_loads_ends_the_pod(tmp_path: Path) -> None:
    content = models.iris()
    (claim(tmp_path) / "model.onnx").write_bytes(content)
    with Server(tmp_path, "pvc://models/model.onnx", digest_of(content), *TWO) as server:
        os.kill(sibling_of(server), signal.SIGKILL)
        assert server.wait() == 1
        assert server.last_word["reason"] == "ProcessEnded"
        assert "ready" not in server.log


def test_a_pod_that_is_told_to_end_while_its_processes_load_does_so_at_once(tmp_path: Path) -> None:
    content = models.iris()
    (claim(tmp_path) / "model.onnx").write_bytes(content)
    with Server(tmp_path, "pvc://models/model.onnx", digest_of(content), *TWO) as server:
        sibling = sibling_of(server)
        server.terminate()
        assert server.wait() == 0
        assert "ready" not in server.log
        assert "draining" not in server.log
        assert not Path(f"/proc/{sibling}").exists()
        assert list(server.scratch.iterdir()) == []


def sibling_of(server: Server) -> int:
    """As soon as there is one."""
    while True:
        for pid in children(server.process.pid):
            if b"holdfast_serving.sibling" in command(pid):
                return pid


def command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
