"""A server as a process of its own on one core: started, watched, ended."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.serving.client import Client
from bench.serving.questions import Question, WrongAnswerError

SERVER_CORE, LOAD_CORE = 0, 1
_BOTH = f"{SERVER_CORE},{LOAD_CORE}"
_TICKS = os.sysconf("SC_CLK_TCK")


class ServerError(Exception):
    """A server did not come up, or died; the text holds the end of its log."""


@dataclass(frozen=True, slots=True)
class Running:
    """A server that has given its first right answer.

    Attributes:
        ready_ms: from exec to that answer.
        load_cores: which the load may use, as taskset takes them: those of the server only if there are no others.
    """

    process: subprocess.Popen[bytes]
    port: int
    grpc_port: int
    other_port: int
    ready_ms: float
    load_cores: str

    def cpu_seconds(self) -> float:
        """Of all its processes, in user and kernel mode."""
        ticks = 0
        for pid in self._tree():
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / _TICKS

    def pss_mb(self) -> float:
        """Memory of all its processes; what they share is counted once."""
        total = 0
        for pid in self._tree():
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1])
        return total / 1024

    def _tree(self) -> list[int]:
        """The server's process and all below it."""
        found = [self.process.pid]
        for pid in found:
            for thread in Path(f"/proc/{pid}/task").iterdir():
                found += map(int, (thread / "children").read_text().split())
        return found


@contextmanager
def running(
    command: Sequence[str],
    environment: Mapping[str, str],
    folder: Path,
    question: Question,
    *,
    log: Path,
    cores: int = 1,
    seconds: float = 60,
) -> Iterator[Running]:
    """Start a server and ask it until it answers rightly.

    Args:
        command: `{port}`, `{grpc_port}` and `{other_port}` stand for free ports, which are in the environment too.
        folder: its working directory.
        cores: that it has; with 2 it shares them with the load.

    Raises:
        ServerError: it does not come up.
    """
    ports = dict(zip(("port", "grpc_port", "other_port"), map(str, _free_ports(3)), strict=True))
    filled = {name: value.format(**ports) for name, value in environment.items()}
    with log.open("wb") as output:
        started = time.perf_counter()
        process = subprocess.Popen(
            [
                "taskset",
                "--cpu-list",
                _BOTH if cores > 1 else str(SERVER_CORE),
                *(part.format(**ports) for part in command),
            ],
            env={"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), **filled},
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            port = int(ports["port"])
            _first_answer(process, port, question, started + seconds, log)
            ready_ms = (time.perf_counter() - started) * 1000
            load_cores = _BOTH if cores > 1 else str(LOAD_CORE)
            yield Running(process, port, int(ports["grpc_port"]), int(ports["other_port"]), ready_ms, load_cores)
            if process.poll() is not None:
                raise ServerError(f"it died: {_end_of(log)}")
        finally:
            _end(process)


def _first_answer(process: subprocess.Popen[bytes], port: int, question: Question, until: float, log: Path) -> None:
    why = "it does not listen"
    while time.perf_counter() < until:
        if process.poll() is not None:
            raise ServerError(f"it ended with {process.returncode}: {_end_of(log)}")
        try:
            with Client(port) as client:
                client.ask(question)
                return
        except WrongAnswerError as error:
            why = str(error)
        except OSError:
            pass
        time.sleep(0.002)
    raise ServerError(f"no right answer in time ({why}): {_end_of(log)}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """Politely, then not; with all that it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            continue
    process.wait()


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [sock.getsockname()[1] for sock in sockets]
    for sock in sockets:
        sock.close()
    return ports


def _end_of(log: Path) -> str:
    return " | ".join(log.read_text(errors="replace").splitlines()[-8:])
