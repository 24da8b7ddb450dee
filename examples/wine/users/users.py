"""Users of a served wine model, each with connections of its own that are kept: `python users.py MODEL-URL ROWS.json`.

Every user sends single rows at random moments, whether or not the answer before has come; the first asks most often,
the k-th 1/k as often. Each answer is looked at: whether it came, when, and whether it names the right class. Once a
second one line of JSON says what ended in that second, and the last line, with `"total": true`, sums it all up:

    {"at": 1764100000.5, "requests": 50, "failed": 0, "late": 0, "wrong": 0, "slow": 1, "again": 0,
     "first_bad": null, "last_bad": null, "revisions": {"5f3a9c0d1e": 45, "c0ffee0001": 5}, "strong_since": null,
     "errors": []}

failed: an error, no answer in `--patience` seconds, or a broken connection. late: right, but more than a second after
it was asked. slow: the same with `--slow` milliseconds; it is not bad by itself. wrong: another class than in
ROWS.json. What is failed, late or wrong is bad. again: a kept connection was closed before a byte of the answer came,
which every HTTP client answers with one try on a new connection.

`--strong` is the share of strong wines among the rows; while the file `strong` is in `--control`, all are. SIGTERM, or
a file `stop` there, ends it. It needs nothing but the standard library.
"""

import argparse
import asyncio
import collections
import json
import random
import signal
import time
import urllib.parse
from pathlib import Path
from typing import Any

LATE = 1.0
MAX_ERRORS = 10
_LOOK_SECONDS = 0.1


class GoneError(Exception):
    """The connection ended before a byte of the answer came."""


class Rows:
    """Requests for the rows of one kind of wine, and the classes that they belong to."""

    def __init__(self, inputs: list[str], rows: list[list[float]], labels: list[int], head: str) -> None:
        self.labels = labels
        self.requests = [_request(inputs, row, head) for row in rows]


def _request(inputs: list[str], row: list[float], head: str) -> bytes:
    described = [
        {"name": name, "datatype": "FP32", "shape": [1, 1], "data": [value]}
        for name, value in zip(inputs, row, strict=True)
    ]
    body = json.dumps({"inputs": described}).encode()
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


class Second:
    """What ended in one second, or in all."""

    def __init__(self) -> None:
        self.counts = dict.fromkeys(("requests", "failed", "late", "wrong", "slow", "again"), 0)
        self.first_bad: float | None = None
        self.last_bad: float | None = None
        self.revisions: collections.Counter[str] = collections.Counter()
        self.errors: list[str] = []

    def add(self, later: "Second") -> None:
        for name, count in later.counts.items():
            self.counts[name] += count
        self.first_bad = self.first_bad or later.first_bad
        self.last_bad = later.last_bad or self.last_bad
        self.revisions += later.revisions
        self.errors = (self.errors + later.errors)[:MAX_ERRORS]

    def line(self, **more: Any) -> str:
        ends = {"first_bad": self.first_bad, "last_bad": self.last_bad}
        return json.dumps({**more, **self.counts, **ends, "revisions": self.revisions, "errors": self.errors})


class Users:
    """All users, and what became of their requests."""

    def __init__(self, given: argparse.Namespace) -> None:
        parts = urllib.parse.urlsplit(given.url)
        self._place = parts.hostname, parts.port or 80
        head = f"POST {parts.path}/infer HTTP/1.1\r\nHost: {parts.hostname}\r\n"
        document = json.loads(given.rows.read_text())
        self._usual, self._strong = (
            Rows(document["inputs"], document[kind]["rows"], document[kind]["labels"], head)
            for kind in ("usual", "strong")
        )
        self._slow = given.slow / 1000
        self._share = given.strong
        self._patience = given.patience
        weights = [1 / (number + 1) for number in range(given.users)]
        self._rates = [given.rate * weight / sum(weights) for weight in weights]
        self._control: Path = given.control
        self._end = time.monotonic() + given.seconds
        self._strong_since: float | None = None
        self._second, self._total = Second(), Second()
        self._asking: set[asyncio.Task[None]] = set()
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        users = [asyncio.create_task(self._user(rate)) for rate in self._rates]
        next_line = time.monotonic() + 1
        while not self._stopping.is_set():
            await asyncio.sleep(_LOOK_SECONDS)
            self._look()
            if time.monotonic() >= next_line:
                next_line += 1
                self._tell()
        await asyncio.gather(*users)
        await asyncio.gather(*self._asking)
        self._tell()
        print(self._total.line(total=True, at=time.time(), strong_since=self._strong_since), flush=True)

    def _look(self) -> None:
        if (self._control / "stop").exists() or time.monotonic() >= self._end:
            self._stopping.set()
        strong = (self._control / "strong").exists()
        if strong != (self._strong_since is not None):
            self._strong_since = time.time() if strong else None

    def _tell(self) -> None:
        print(self._second.line(at=time.time(), strong_since=self._strong_since), flush=True)
        self._total.add(self._second)
        self._second = Second()

    async def _user(self, rate: float) -> None:
        """One that asks at random moments, over as many connections as it has questions without an answer."""
        idle: list[Connection] = []
        due = time.monotonic()
        while not self._stopping.is_set():
            due += random.expovariate(rate)
            try:
                await asyncio.wait_for(self._stopping.wait(), max(0.0, due - time.monotonic()))
            except TimeoutError:
                task = asyncio.create_task(self._ask(idle))
                self._asking.add(task)
                task.add_done_callback(self._asking.discard)

    async def _ask(self, idle: "list[Connection]") -> None:
        strong = self._strong_since is not None or random.random() < self._share  # noqa: S311
        rows = self._strong if strong else self._usual
        number = random.randrange(len(rows.requests))  # noqa: S311
        connection = idle.pop() if idle else Connection(self._place)
        began = time.monotonic()
        label = None
        error = ""
        try:
            async with asyncio.timeout(self._patience):
                try:
                    label, revision = await connection.ask(rows.requests[number])
                except GoneError:
                    if connection.used == 0:
                        raise
                    self._second.counts["again"] += 1
                    connection = Connection(self._place)
                    label, revision = await connection.ask(rows.requests[number])
            self._second.revisions[revision] += 1
        except Exception as failure:
            error = f"{type(failure).__name__}: {failure}"[:200]
            connection.close()
        if connection.is_open:
            idle.append(connection)
        self._count(error, time.monotonic() - began, label == rows.labels[number])

    def _count(self, error: str, took: float, right: bool) -> None:
        counts = self._second.counts
        counts["requests"] += 1
        if error:
            counts["failed"] += 1
            self._second.errors = [*self._second.errors, error][:MAX_ERRORS]
        else:
            counts["wrong"] += not right
            counts["late"] += right and took > LATE
            counts["slow"] += took > self._slow
        if error or not right or took > LATE:
            self._second.last_bad = time.time()
            self._second.first_bad = self._second.first_bad or self._second.last_bad


class Connection:
    """One connection, made with the first question."""

    def __init__(self, place: tuple[str | None, int]) -> None:
        self._place = place
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self.used = 0

    @property
    def is_open(self) -> bool:
        return self._streams is not None

    async def ask(self, request: bytes) -> tuple[int, str]:
        """(class, revision that said so). Raises GoneError, or another exception for anything but a 200."""
        if self._streams is None:
            self._streams = await asyncio.open_connection(*self._place)
        reader, writer = self._streams
        try:
            writer.write(request)
            first = await reader.read(1)
        except ConnectionError as error:
            self.close()
            raise GoneError(repr(error)) from error
        if not first:
            self.close()
            raise GoneError("the connection was closed")
        head = (first + await reader.readuntil(b"\r\n\r\n")).decode()
        fields = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:-2])
        content = await reader.readexactly(int(fields["content-length"]))
        self.used += 1
        if fields.get("connection") == "close":
            self.close()
        status = head.split(" ", 2)[1]
        if status != "200":
            raise RuntimeError(f"{status} {content[:120]!r}")
        answer = json.loads(content)
        label = next(output["data"][0] for output in answer["outputs"] if output["datatype"] == "INT64")
        return label, answer["model_version"]

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("rows", type=Path)
    parser.add_argument("--rate", type=float, default=50, help="requests per second of all users together")
    parser.add_argument("--users", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--slow", type=float, default=100, help="milliseconds")
    parser.add_argument("--patience", type=float, default=10, help="seconds until a user gives a request up")
    parser.add_argument("--strong", type=float, default=0.0, help="share of strong wines")
    parser.add_argument("--control", type=Path, default=Path("/tmp/users"))  # noqa: S108
    asyncio.run(Users(parser.parse_args()).run())


if __name__ == "__main__":
    main()
