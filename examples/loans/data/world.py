"""People who want a loan, in a world that changes: rows to learn from, and users who ask a model about them.

    python world.py rows WORLD --rows 10000 --output FILE.csv
    python world.py ask WORLD MODEL-URL

Three worlds. In `before` it hangs on debts and income who does not pay back. In `dearer` loans cost more: people with
the same debts fail who did not before, and incomes are lower, so that a model of `before` grows wrong. `older` is
`dearer` with people who are twelve years older, on which nothing hangs: rows move, and no model grows worse.

Users ask 20 times a second about five people each. A second later it is known who pays back, and half of that is sent
as feedback. Once a second one line of JSON says what ended in it:

    {"at": 1764100000.5, "rows": 100, "right": 93, "failed": 0, "revisions": {"5f3a9c0d1e": 100}}

It needs nothing but the standard library.
"""

import argparse
import collections
import contextlib
import csv
import http.client
import json
import random
import signal
import threading
import time
import urllib.parse
from pathlib import Path

WORLDS = ("before", "dearer", "older")
COLUMNS = ("income", "debt", "age")
ROWS, REQUESTS_PER_SECOND, USERS = 5, 20, 4
TOLD = 0.5
"""Share of the answers of which the truth is sent back."""

Person = tuple[list[float], int]


def person(world: str, chance: random.Random) -> Person:
    """(income, debt, age), and whether they will fail to pay back: 1 or 0."""
    dear = world != "before"
    income = chance.gauss(44 if dear else 50, 12)
    debt = chance.gauss(20, 6)
    age = chance.gauss(57 if world == "older" else 45, 10)
    burden = (1.35 if dear else 1.0) * debt - 0.4 * income + chance.gauss(0, 1.5)
    return [round(income, 2), round(debt, 2), round(age, 1)], int(burden > 0)


def write_rows(world: str, rows: int, output: Path) -> None:
    """A CSV file that is there whole, or not at all."""
    chance = random.Random(WORLDS.index(world))  # noqa: S311
    output.parent.mkdir(parents=True, exist_ok=True)
    draft = output.with_name(f".{output.name}")
    with draft.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*COLUMNS, "fails"])
        writer.writerows([*values, label] for values, label in (person(world, chance) for _ in range(rows)))
    draft.replace(output)
    print(f"{rows} rows of the world {world!r}", flush=True)


class Users:
    """All users, and what became of their questions."""

    def __init__(self, world: str, url: str) -> None:
        parts = urllib.parse.urlsplit(url)
        self._world, self._host, self._port, self._path = world, parts.hostname or "", parts.port or 80, parts.path
        self._lock = threading.Lock()
        self._counts: collections.Counter[str] = collections.Counter()
        self._revisions: collections.Counter[str] = collections.Counter()
        self._stopping = threading.Event()

    def run(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._stopping.set())
        for seed in range(USERS):
            threading.Thread(target=self._user, args=(seed,), daemon=True).start()
        while not self._stopping.wait(1):
            self._tell()
        self._tell()

    def _tell(self) -> None:
        with self._lock:
            counts, self._counts = self._counts, collections.Counter()
            revisions, self._revisions = self._revisions, collections.Counter()
        said = {name: counts[name] for name in ("rows", "right", "failed")}
        print(json.dumps({"at": time.time(), **said, "revisions": revisions}), flush=True)

    def _user(self, seed: int) -> None:
        chance = random.Random(time.time_ns() + seed)  # noqa: S311
        connection: http.client.HTTPConnection | None = None
        known: list[tuple[float, str, list[int]]] = []
        while not self._stopping.wait(chance.expovariate(REQUESTS_PER_SECOND / USERS)):
            people = [person(self._world, chance) for _ in range(ROWS)]
            connection = connection or http.client.HTTPConnection(self._host, self._port, timeout=10)
            try:
                answer = self._post(connection, "infer", _question(people))
                self._count(answer, [label for _, label in people])
                if chance.random() < TOLD:
                    known.append(
                        (time.monotonic() + 1, answer["parameters"]["receipt"], [label for _, label in people])
                    )
                due = [told for told in known if told[0] <= time.monotonic()]
                if due:
                    known = known[len(due) :]
                    told = [{"receipt": receipt, "labels": labels} for _, receipt, labels in due]
                    self._post(connection, "feedback", {"feedback": told})
            except (OSError, http.client.HTTPException, RuntimeError) as error:
                with contextlib.suppress(OSError):
                    connection.close()
                connection = None
                with self._lock:
                    self._counts["failed"] += 1
                print(json.dumps({"at": time.time(), "error": f"{type(error).__name__}: {error}"[:200]}), flush=True)

    def _post(self, connection: http.client.HTTPConnection, what: str, document: dict) -> dict:
        connection.request(
            "POST", f"{self._path}/{what}", json.dumps(document), {"Content-Type": "application/json"}
        )  # fmt: skip
        answer = connection.getresponse()
        content = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"{answer.status} {content[:120]!r}")
        return json.loads(content)

    def _count(self, answer: dict, labels: list[int]) -> None:
        said = next(output["data"] for output in answer["outputs"] if output["datatype"] == "INT64")
        with self._lock:
            self._counts["rows"] += len(labels)
            self._counts["right"] += sum(one == other for one, other in zip(said, labels, strict=True))
            self._revisions[answer["model_version"]] += len(labels)


def _question(people: list[Person]) -> dict:
    columns = zip(*(values for values, _ in people), strict=True)
    inputs = [
        {"name": name, "datatype": "FP32", "shape": [len(people), 1], "data": list(column)}
        for name, column in zip(COLUMNS, columns, strict=True)
    ]
    return {"parameters": {"receipt": True}, "inputs": inputs}


def main() -> None:
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(dest="command", required=True)
    rows = commands.add_parser("rows")
    rows.add_argument("world", choices=WORLDS)
    rows.add_argument("--rows", type=int, default=10_000)
    rows.add_argument("--output", type=Path, required=True)
    ask = commands.add_parser("ask")
    ask.add_argument("world", choices=WORLDS)
    ask.add_argument("url")
    given = parser.parse_args()
    if given.command == "rows":
        write_rows(given.world, given.rows, given.output)
    else:
        Users(given.world, given.url).run()


if __name__ == "__main__":
    main()
