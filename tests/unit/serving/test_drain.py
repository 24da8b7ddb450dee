"""SIGTERM: what is in work ends, nobody is cut off, and nobody is left waiting."""

from __future__ import annotations

import json
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.unit.serving import models
from tests.unit.serving.server import Server, Wire, http, request, serving, until

POST = http("POST", "/v2/models/wine/infer", json.dumps(request(X=("FP32", [1, 4], [5.1, 3.5, 1.4, 0.2]))).encode())
PROCESSES = pytest.mark.parametrize("cpus", ["1", "2"], ids=["one process", "two processes"])


class Client(threading.Thread):
    """Asks without a pause, on a new connection whenever it is told to close, until it hears that the pod is going."""

    def __init__(self, server: Server, heard: threading.Event) -> None:
        super().__init__()
        self.server = server
        self.heard = heard
        self.answered = self.told_to_close = 0
        self.lost: list[str] = []

    def run(self) -> None:
        while not self.heard.is_set():
            with self.server.connect() as sock:
                self.use(Wire(sock))

    def use(self, wire: Wire) -> None:
        while True:
            try:
                wire.send(POST)
                reply = wire.reply()
            except OSError as error:
                self.lost.append(str(error))
                return
            if reply is None:
                self.lost.append("no answer")
                return
            assert reply.status == 200
            self.answered += 1
            if reply.fields.get("connection") == "close":
                self.told_to_close += 1
                return


@PROCESSES
def test_under_load_no_answer_is_lost(tmp_path: Path, cpus: str) -> None:
    with serving(tmp_path, models.iris(), "--cpus", cpus, "--drain-seconds", "3") as server:
        heard = threading.Event()
        clients = [Client(server, heard) for _ in range(8)]
        for client in clients:
            client.start()
        until(lambda: all(client.answered > 20 for client in clients), "load")
        server.terminate()
        until(lambda: server.get("/v2/health/ready").status_code == 503, "not ready")
        # The last resort of kube-proxy, as long as it listens.
        assert server.manage("/readyz").status_code == server.manage("/livez").status_code == 200
        before = [client.answered for client in clients]
        until(lambda: all(c.answered > n + 5 for c, n in zip(clients, before, strict=True)), "answers while draining")
        heard.set()  # as endpoints are removed, some time after SIGTERM
        for client in clients:
            client.join()
        assert server.wait() == 0, server.log
        assert [client.lost for client in clients] == [[]] * 8
        assert all(client.told_to_close > 0 for client in clients)
        assert "drained" in server.log
        assert list(server.scratch.iterdir()) == []


def test_a_long_run_ends_before_the_server_does(tmp_path: Path) -> None:
    rows, width = 700, 1024
    body = json.dumps(request(x=("FP32", [rows, width], [1] * (rows * width)))).encode()
    with serving(tmp_path, models.heavy(), "--drain-seconds", "0.1") as server, server.connect() as sock:
        with server.connect() as idle:
            wire = Wire(sock)
            wire.send(http("POST", "/v2/models/wine/infer", body))
            until(lambda: server.metric("holdfast_inference_in_flight") == 1, "the run")
            server.terminate()
            until(lambda: "draining" in server.log, "the drain")
            reply = wire.reply()
            assert reply is not None
            assert (reply.status, reply.fields["connection"]) == (200, "close")
            assert len(reply.json["outputs"][0]["data"]) == rows
            idle.settimeout(60)
            assert idle.recv(1) == b""
        assert server.wait() == 0, server.log


def test_while_a_heavy_run_lasts_the_server_answers_everything_else(tmp_path: Path) -> None:
    rows, width = 700, 1024
    body = json.dumps(request(x=("FP32", [rows, width], [1] * (rows * width)))).encode()
    with serving(tmp_path, models.heavy(), "--drain-seconds", "0") as server, server.connect() as sock:
        Wire(sock).send(http("POST", "/v2/models/wine/infer", body))
        until(lambda: server.metric("holdfast_inference_in_flight") == 1, "the run")
        for path in ("/livez", "/readyz"):
            assert server.manage(path).status_code == 200
        assert server.get("/v2/health/live").status_code == 200
        assert server.metric("holdfast_inference_in_flight") == 1


@PROCESSES
def test_connections_are_taken_as_long_as_they_come(tmp_path: Path, cpus: str) -> None:
    """The only pod of a model is deleted: clients have nowhere else to go until another is ready."""
    with serving(tmp_path, models.iris(), "--cpus", cpus, "--drain-seconds", "1") as server:
        server.terminate()
        until(lambda: "draining" in server.log, "the drain")
        end = time.monotonic() + 6
        while time.monotonic() < end:
            with server.connect() as sock:
                wire = Wire(sock)
                wire.send(POST)
                reply = wire.reply()
                assert reply is not None
                assert (reply.status, reply.fields["connection"]) == (200, "close")
            time.sleep(0.1)
        assert server.wait() == 0, server.log


@PROCESSES
def test_whatever_has_begun_when_the_signal_comes_is_answered(tmp_path: Path, cpus: str) -> None:
    """Also what goes on beyond the moment in which the port is closed."""
    with serving(tmp_path, models.iris(), "--cpus", cpus, "--drain-seconds", "3") as server, ExitStack() as stack:
        idle, silent, head, body, behind, late = (Wire(stack.enter_context(server.connect())) for _ in range(6))
        idle.send(POST)
        assert idle.reply() is not None
        sent = {idle: b"", silent: b"", head: POST[:30], body: POST[:-5], behind: POST[:-5], late: POST[:-5]}
        for wire, begun in sent.items():
            wire.send(begun)
        time.sleep(0.1)
        server.terminate()
        until(lambda: "draining" in server.log, "the drain")
        for wire in (idle, silent, head, body):
            wire.send(POST[len(sent[wire]) :])
        behind.send(POST[len(sent[behind]) :] + POST * 2)
        for _ in range(2):
            reply = behind.reply()
            assert reply is not None
            assert (reply.status, reply.fields.get("connection")) == (200, None)
        for wire in (idle, silent, head, body, behind):
            reply = wire.reply()
            assert reply is not None
            assert (reply.status, reply.fields["connection"]) == (200, "close")
            assert wire.reply() is None
        until(lambda: not accepts(server), "the port is closed")
        late.send(POST[len(sent[late]) :])
        reply = late.reply()
        assert reply is not None
        assert (reply.status, reply.fields["connection"]) == (200, "close")
        assert server.wait() == 0, server.log


def accepts(server: Server) -> bool:
    try:
        server.connect().close()
    except ConnectionRefusedError:
        return False
    time.sleep(2.5)  # not to be the new connection that keeps the port open
    return True
