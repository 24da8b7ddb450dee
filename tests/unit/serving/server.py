"""A real server process on loopback, and ways to talk to it."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import httpx

from holdfast_bundle import manifest

REVISION = "5f3a9c0d1e"
ROOTS = [str(Path(__file__).parents[3] / root) for root in ("serving-image", "model-bundle")]


def until(condition: Callable[[], bool], what: str, seconds: float = 60) -> None:
    """Wait for a condition."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"{what}: not within {seconds} s"
        time.sleep(0.01)


def digest_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


class Process:
    """`python -m holdfast_serving COMMAND` with a claim `models` below `folder`."""

    def __init__(self, command: str, folder: Path, environment: dict[str, str], *arguments: str) -> None:
        self.log = ""
        self._termination = folder / "termination-log"
        self._termination.write_text("")
        (folder / "scratch").mkdir(exist_ok=True)
        self.scratch = folder / "scratch"
        self.process = subprocess.Popen(
            [
                sys.executable, "-m", "holdfast_serving", command, "--host", "127.0.0.1", "--port", "0",
                "--management-port", "0", "--grpc-port", "0", "--claims", str(folder / "claims"),
                "--scratch", str(self.scratch), "--termination-log", str(self._termination), *arguments,
            ],
            env={"PATH": os.defpath, "PYTHONPATH": os.pathsep.join(ROOTS), **environment},
            stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log += line

    def wait(self, seconds: float = 60) -> int:
        """Its exit code."""
        code = self.process.wait(seconds)
        self._reader.join()
        return code

    @property
    def last_word(self) -> dict[str, Any]:
        word: dict[str, Any] = json.loads(self._termination.read_text())
        return word

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join()
        assert self.process.stderr is not None
        self.process.stderr.close()


class Server(Process):
    """`serve`, with its three ports; `more` are environment variables."""

    def __init__(self, folder: Path, uri: str, digest: str, *arguments: str, name: str = "wine", **more: str) -> None:
        environment = {
            "HOLDFAST_MODEL_NAME": name,
            "HOLDFAST_MODEL_URI": uri,
            "HOLDFAST_MODEL_DIGEST": digest,
            "HOLDFAST_REVISION": REVISION,
            **more,
        }
        super().__init__("serve", folder, environment, *arguments)
        self.name = name
        until(lambda: "listening" in self.log or self.process.poll() is not None, "ports")
        ports = re.search(r"http (\d+), management (\d+), grpc (\d+)", self.log)
        assert ports, self.log
        self.port, self.management_port, self.grpc_port = map(int, ports.groups())
        self.url = f"http://127.0.0.1:{self.port}"
        self.management_url = f"http://127.0.0.1:{self.management_port}"
        self.infer_path = f"/v2/models/{name}/infer"
        self._client = httpx.Client(timeout=60, verify=False)  # plain HTTP: no authorities have to be read

    def ready(self) -> bool:
        assert self.process.poll() is None, self.log
        return self.manage("/readyz").status_code == 200

    def get(self, path: str) -> httpx.Response:
        return self._client.get(self.url + path)

    def manage(self, path: str) -> httpx.Response:
        return self._client.get(self.management_url + path)

    def infer(self, body: Any) -> httpx.Response:
        return self._client.post(f"{self.url}{self.infer_path}", json=body)

    def ask(self, **inputs: tuple[str, list[int], list[Any]]) -> dict[str, Any]:
        """Outputs by name for inputs (datatype, shape, data) by name."""
        answer = self.infer(request(**inputs))
        assert answer.status_code == 200, answer.text
        return {output["name"]: output for output in answer.json()["outputs"]}

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=60)

    def metric(self, name: str, **labels: str) -> float:
        """The sum of samples of /metrics; labels beside the given ones do not matter."""
        found = []
        for line in self.manage("/metrics").text.splitlines():
            match = re.fullmatch(rf"{name}(?:\{{(.*)\}})? (\S+)", line)
            if match and all(f'{key}="{value}"' in (match[1] or "") for key, value in labels.items()):
                found.append(float(match[2]))
        assert found, f"no sample {name} {labels}"
        return sum(found)

    def outcomes(self, **labels: str) -> dict[str, float]:
        names = ("ok", "client_error", "rejected", "failed", "abandoned", "timeout", "late")
        return {name: self.metric("holdfast_inference_requests_total", outcome=name, **labels) for name in names}

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        self._client.close()

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)


def request(**inputs: tuple[str, list[int], list[Any]]) -> dict[str, Any]:
    """A V2 request for inputs (datatype, shape, data) by name."""
    return {
        "inputs": [
            {"name": name, "datatype": datatype, "shape": shape, "data": data}
            for name, (datatype, shape, data) in inputs.items()
        ]
    }


def claim(folder: Path) -> Path:
    """The folder of the claim `models`."""
    path = folder / "claims" / "models"
    path.mkdir(parents=True, exist_ok=True)
    return path


@contextmanager
def serving(folder: Path, content: bytes, *arguments: str, **more: str) -> Iterator[Server]:
    """A ready server for a bare model; `more` are environment variables."""
    (claim(folder) / "model.onnx").write_bytes(content)
    with Server(folder, "pvc://models/model.onnx", digest_of(content), *arguments, **more) as server:
        until(server.ready, "readiness")
        yield server


def http(method: str, path: str, body: bytes = b"", *fields: str) -> bytes:
    """A request as bytes; Host and Content-Length are added."""
    lines = [f"{method} {path} HTTP/1.1", "Host: test", *fields]
    if body or method == "POST":
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


class Reply:
    """One HTTP answer as a plain client sees it."""

    def __init__(self, head: str, body: bytes) -> None:
        self.status = int(head.split()[1])
        self.fields = {
            name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head.split("\r\n")[1:])
        }
        self.body = body

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Wire:
    """A client that sends exactly what it is told."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._rest = b""

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def reply(self, *, head_only: bool = False) -> Reply | None:
        """The next answer; None when the server has ended the connection."""
        while b"\r\n\r\n" not in self._rest:
            if not self._more():
                return None
        head, _, self._rest = self._rest.partition(b"\r\n\r\n")
        reply = Reply(head.decode(), b"")
        if reply.status == 100:
            return reply
        length = 0 if head_only else int(reply.fields["content-length"])
        while len(self._rest) < length:
            assert self._more(), "an answer was cut short"
        reply.body, self._rest = self._rest[:length], self._rest[length:]
        return reply

    def _more(self) -> bool:
        try:
            data = self.sock.recv(1 << 20)
        except ConnectionResetError:
            return False
        self._rest += data
        return bool(data)


@contextmanager
def wire(server: Server) -> Iterator[Wire]:
    with server.connect() as sock:
        yield Wire(sock)


def write_bundle(folder: Path, content: bytes, golden: Any = None, **changes: Any) -> str:
    """Seal a bundle of the iris model (or what `changes` make of its manifest); its digest."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(content)
    if golden is not None:
        (folder / "golden.json").write_bytes(manifest.canonical_json(golden))
    described: dict[str, Any] = {
        "name": "iris",
        "framework": "scikit-learn",
        "opset": 17,
        "inputs": [manifest.Tensor("X", "FP32", (-1, 4))],
        "outputs": [manifest.Tensor("label", "INT64", (-1,)), manifest.Tensor("probabilities", "FP32", (-1, 3))],
        "metrics": {},
        "lineage": {},
    }
    return manifest.write(folder, **(described | changes))
