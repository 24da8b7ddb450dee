"""`make bench-overload`: twice as many requests as the server can answer, and what becomes of them.

A model that costs the server about a millisecond per row is served by a real process on one core. An open-loop
load from a process on another core does not wait for answers: requests come when they come, each on a free
connection. First the peak is measured (a closed loop, everything answered), then calm (half the peak), then the
overload, and right behind it calm again. Goodput is answers within the request's time, on the client's clock, per
second. Every answer is checked. Progress goes to standard error; the last line on standard output is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

WINDOW_SECONDS = 0.5
_STATUS = slice(9, 12)


class Client(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._received = b""
        self._scheduled = 0.0
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def connection_lost(self, error: Exception | None) -> None:
        if self._scheduled:
            self._load.note(self._scheduled, 0, b"")
        self.transport = None

    def send(self, scheduled: float) -> None:
        self._scheduled = scheduled
        assert self.transport is not None
        self.transport.write(self._load.request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, body = self._received.partition(b"\r\n\r\n")
        if not found:
            return
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        if len(body) < length:
            return
        self._received = b""
        scheduled, self._scheduled = self._scheduled, 0.0
        self._load.note(scheduled, int(head[_STATUS]), body)
        self._load.free(self)


class Load:
    """An open loop of so many requests per second, step by step; or a closed one."""

    def __init__(self, port: int, request: bytes, connections: int) -> None:
        self.request = request
        self._port = port
        self._most = connections
        self._made = 0
        self._idle: list[Client] = []
        self._closed_until = 0.0
        self._expected = b""
        self._opening: set[asyncio.Task[None]] = set()
        self.lags: list[float] = []  # how much later than planned requests were sent
        self.notes: list[tuple[float, float, int]] = []  # scheduled, seconds, status (0: lost, 1: wrong, 2: not sent)

    def note(self, scheduled: float, status: int, body: bytes) -> None:
        if status == 200:
            self._expected = self._expected or body
            if body != self._expected:
                status = 1
        self.notes.append((scheduled, time.perf_counter() - scheduled, status))

    def free(self, client: Client) -> None:
        now = time.perf_counter()
        if now < self._closed_until:
            client.send(now)
        else:
            self._idle.append(client)

    async def closed(self, seconds: float, connections: int) -> None:
        """So many connections, each sends its next request after its last answer."""
        self._closed_until = time.perf_counter() + seconds
        for _ in range(connections):
            await self._open(time.perf_counter())
        await self._settle()

    async def open(self, steps: Sequence[tuple[float, float]]) -> list[float]:
        """Steps of (requests per second, seconds); returns when each began, and when the last ended."""
        began = [time.perf_counter()]
        for rate, seconds in steps:
            start, sent = began[-1], 0
            while (now := time.perf_counter()) < start + seconds:
                due = int((now - start) * rate)
                if due > sent:
                    self.lags.append(now - start - sent / rate)
                for number in range(sent, due):
                    self._dispatch(start + number / rate)
                sent = due
                await asyncio.sleep(0.001)
            began.append(start + seconds)
        await self._settle()
        return began

    def _dispatch(self, scheduled: float) -> None:
        while self._idle:
            client = self._idle.pop()
            if client.transport is not None:
                client.send(scheduled)
                return
            self._made -= 1
        if self._made < self._most:
            task = asyncio.create_task(self._open(scheduled))
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)
            self._made += 1
        else:
            self.notes.append((scheduled, 0.0, 2))

    async def _open(self, scheduled: float) -> None:
        loop = asyncio.get_running_loop()
        try:
            _, client = await loop.create_connection(lambda: Client(self), "127.0.0.1", self._port)
        except OSError:
            self.note(scheduled, 0, b"")
        else:
            client.send(scheduled)

    async def _settle(self, seconds: float = 5) -> None:
        """Wait for answers that are under way."""
        end, known = time.perf_counter() + seconds, -1
        while time.perf_counter() < end and known != len(self.notes):
            known = len(self.notes)
            await asyncio.sleep(0.7)


def load_main(
    port: int, path: str, body: str, connections: int, steps: list[list[float]], closed: float, output: str
) -> None:
    """The loading process: what became of every request, as JSON in a file."""
    import uvloop

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    head = (
        f"POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    load = Load(port, (head + body).encode(), connections)

    async def main() -> list[float]:
        if closed:
            await load.closed(closed, connections)
            return []
        return await load.open([(rate, seconds) for rate, seconds in steps])

    began = uvloop.run(main())
    Path(output).write_text(json.dumps({"began": began, "notes": load.notes, "lags": sorted(load.lags)}))


@dataclass(frozen=True, slots=True)
class Answers:
    """What became of the requests of one step.

    Attributes:
        good: answered within their time.
        refused, expired: 503 and 504.
        unsent: no connection was free.
        wrong: lost, wrong, or with any other status.
        p50, p99: seconds of the answered ones.
    """

    seconds: float
    good: int
    late: int
    refused: int
    expired: int
    unsent: int
    wrong: int
    p50: float
    p99: float

    @property
    def goodput(self) -> float:
        return self.good / self.seconds

    @classmethod
    def of(cls, notes: Sequence[tuple[float, float, int]], seconds: float, timeout: float) -> Answers:
        statuses = [status for _, _, status in notes]
        took = sorted(each for _, each, status in notes if status == 200)
        good = sum(each <= timeout for each in took)
        counts = {status: statuses.count(status) for status in (503, 504, 2)}
        return cls(
            seconds, good, len(took) - good, counts[503], counts[504], counts[2],
            len(notes) - len(took) - sum(counts.values()),
            took[len(took) // 2] if took else 0.0, took[len(took) * 99 // 100] if took else 0.0,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one overload.

    Attributes:
        peaks: answers per second in a closed loop, before and afterwards.
        recovered: seconds from its end until all is as before; None: not while it was watched.
        lag: seconds that the load itself was late, 99th percentile: its machine's fault, and not the server's.
    """

    peaks: tuple[float, float]
    calm: Answers
    overload: Answers
    recovered: float | None
    rss_before: int
    rss_most: int
    lag: float

    @property
    def peak(self) -> float:
        return max(self.peaks)


def measure(server: Any, body: str, timeout: float, seconds: float, factor: float = 2.0, say: Any = print) -> Outcome:
    """Overload a server of tests.unit.serving.server, whose requests have `timeout` seconds."""
    watch = max(3.0, min(6.0, seconds))
    first = _peak(server, body, max(2.0, seconds / 8))
    say(f"peak: {first:.0f}/s")
    before = _memory(server, "VmRSS")
    steps = [[first / 2, watch / 2], [first * factor, seconds], [first / 2, watch]]
    loaded = _loaded(server, body, connections=6000, steps=steps)
    begun, notes, lags = loaded["began"], loaded["notes"], loaded["lags"]

    def between(start: float, end: float) -> Answers:
        return Answers.of([note for note in notes if start <= note[0] < end], end - start, timeout)

    calm, overload = between(begun[0], begun[1]), between(begun[1], begun[2])
    usual = max(4 * calm.p99, calm.p99 + 0.05)
    recovered: float | None = None
    for start in reversed(_starts(watch)):
        window = between(begun[2] + start, begun[2] + start + WINDOW_SECONDS)
        if window.late or window.refused or window.expired or window.wrong or window.unsent or window.p99 > usual:
            break
        recovered = start
    most = _memory(server, "VmHWM")
    peaks = first, _peak(server, body, max(2.0, seconds / 8))
    say(f"peak afterwards: {peaks[1]:.0f}/s")
    return Outcome(peaks, calm, overload, recovered, before, most, lags[len(lags) * 99 // 100])


def _peak(server: Any, body: str, seconds: float) -> float:
    """Answers per second in a closed loop, in the best of its windows: neighbours can only take away from it."""
    notes = _loaded(server, body, connections=256, closed=seconds)["notes"]
    first = min(note[0] for note in notes)
    ends = [scheduled + took - first for scheduled, took, status in notes if status == 200]
    windows = [sum(start <= end < start + WINDOW_SECONDS for end in ends) for start in _starts(seconds)]
    return max(windows) / WINDOW_SECONDS


def _starts(seconds: float) -> list[float]:
    """Of whole windows."""
    return [number * WINDOW_SECONDS for number in range(int(seconds / WINDOW_SECONDS))]


def _loaded(server: Any, body: str, **how: Any) -> Any:
    """Load the server from a process of its own, on the last core."""
    cores = sorted(os.sched_getaffinity(0))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with tempfile.NamedTemporaryFile() as output:
        given = {"port": server.port, "path": server.infer_path, "body": body, "steps": [], "closed": 0.0, **how}
        subprocess.run(
            [sys.executable, __file__, "--load", json.dumps(given | {"output": output.name})],
            env=environment,
            check=True,
            timeout=300,
            preexec_fn=lambda: os.sched_setaffinity(0, {cores[-1]}),
        )
        return json.loads(output.read())


def _memory(server: Any, name: str) -> int:
    """Bytes, from /proc."""
    for line in Path(f"/proc/{server.process.pid}/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) << 10
    raise AssertionError(name)


def model(layers: int = 32, width: int = 1024) -> bytes:
    """Four numbers to one, by way of wide layers."""
    import numpy as np
    from tests.unit.serving import models

    nodes = [models.node("MatMul", "x spread", "h0")]
    nodes += [models.node("MatMul", f"h{number} w", f"h{number + 1}") for number in range(layers)]
    nodes.append(models.node("ReduceMean", f"h{layers} axes", "y", keepdims=0))
    return models.build(
        nodes,
        {"x": (models.FLOAT, [None, 4])},
        {"y": (models.FLOAT, [None])},
        spread=np.full((4, width), 0.25, np.float32),
        w=np.full((width, width), 1 / width, np.float32),
        axes=np.array([1], np.int64),
    )


BODY = '{"inputs":[{"name":"x","datatype":"FP32","shape":[1,4],"data":[1.0,2.0,3.0,4.0]}]}'


def main() -> int:
    """Print the figures; 1 when a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--load", help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, default=30, help="of overload")
    parser.add_argument("--timeout-milliseconds", type=int, default=1000, help="of a request")
    parser.add_argument("--layers", type=int, default=32, help="of the model")
    parser.add_argument("--max-batch-rows", type=int, default=0, help="1: no batching; default: measured")
    given = parser.parse_args()
    if given.load:
        load_main(**json.loads(given.load))
        return 0
    from tests.unit.serving.server import serving

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    variables = {"HOLDFAST_REQUEST_TIMEOUT_MILLISECONDS": str(given.timeout_milliseconds)}
    if given.max_batch_rows:
        variables["HOLDFAST_MAX_BATCH_ROWS"] = str(given.max_batch_rows)
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder), model(given.layers), **variables) as server:
        os.sched_setaffinity(server.process.pid, {min(os.sched_getaffinity(0))})
        timeout = given.timeout_milliseconds / 1000
        outcome = measure(server, BODY, timeout, given.seconds, say=say)
    overload = outcome.overload
    for name, step in (("calm", outcome.calm), ("overload", overload)):
        say(
            f"{name}: {step.goodput:.0f}/s in time, {step.late} late, {step.refused} refused, {step.expired} expired, "
            f"{step.unsent} not sent, {step.wrong} wrong, p50 {step.p50 * 1000:.1f} ms, p99 {step.p99 * 1000:.1f} ms"
        )
    result = {
        "overload_peak_per_s": round(outcome.peak),
        "overload_goodput_of_peak": round(overload.goodput / outcome.peak, 3),
        "overload_p99_of_timeout": round(overload.p99 / timeout, 3),
        "overload_late": overload.late,
        "overload_wrong": overload.wrong,
        "overload_memory_growth_mib": round((outcome.rss_most - outcome.rss_before) / 2**20, 1),
        "overload_recovered_s": outcome.recovered,
        "overload_load_lag_ms": round(outcome.lag * 1000, 1),
    }
    print(json.dumps(result))
    good = overload.goodput >= 0.9 * outcome.peak and not overload.wrong and overload.p99 <= timeout
    good = good and outcome.rss_most - outcome.rss_before <= 64 << 20
    return 0 if good and outcome.recovered is not None and outcome.recovered <= 5 else 1


if __name__ == "__main__":
    sys.exit(main())
