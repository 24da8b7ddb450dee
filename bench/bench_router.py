"""`make bench-router`: what a request pays for the router, and for the way to another revision.

Real servers of the iris model: the stable one has a core, the other revision shares a core with the load. States take
turns, several times over:

* `none`: a third server, which never had a lease; `ended`: the stable one, which had one. Nothing stands before its
  batcher.
* `local`: a lease of weight 0, so that every request is drawn, counted and run here.
* `shadow`: run here, and a copy of each is run there and compared.
* `all`: every request is sent on.

Answers are checked as in `make bench-serving`. The last line on standard output is one JSON object: `router_hop_us` is
p50 of `all` less p50 of `ended` on one connection, `router_hop_cpu_us` the same difference of the stable server's CPU
time per request on 32 connections, `router_draw_cpu_us` that of `local`, `router_idle_cpu_us` that of `ended` less
`none`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import httpx
from bench.serving import load, models, servers
from bench.serving.findings import say
from bench.serving.running import LOAD_CORE, Running, running
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.unit.serving import zoo
from tests.unit.serving.leases import TARGET, envelope, public

from holdfast_devcluster import packages

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
STATES = ("none", "ended", "local", "shadow", "all")
LEASE_SECONDS = 15.0


class Stable:
    """The stable server and its leases."""

    def __init__(self, server: Running, target: Running) -> None:
        self.server = server
        self._url = f"http://127.0.0.1:{server.other_port}/router"
        self._address = f"127.0.0.1:{target.port}"
        self._sequence = int(time.time() * 1000)

    def enter(self, state: str, seconds: float) -> None:
        """Be in a state for so long at least."""
        if state == "ended":
            self._grant("share", 0.01, weight=0, syntheticPerSecond=0)
            while self.read()["lease"] is not None:
                time.sleep(0.05)
        elif state == "local":
            self._grant("share", seconds, weight=0, syntheticPerSecond=0)
        elif state == "shadow":
            self._grant("shadow", seconds, weight=1, tolerance={"relative": 1e-4, "absolute": 1e-5})
        elif state == "all":
            self._grant("all", seconds, closeConnections=False)

    def read(self) -> Any:
        return httpx.get(self._url).json()

    def _grant(self, mode: str, seconds: float, **more: Any) -> None:
        self._sequence += 1
        found = self.read()
        lease = {
            **{name: found[name] for name in ("model", "revision", "instance")},
            "sequence": self._sequence,
            "issuedAt": time.time(),
            "seconds": seconds,
            "mode": mode,
            "target": {"revision": TARGET, "address": self._address, "tlsName": None, "readySeconds": 3600},
            "hedgeMilliseconds": 1000,
            **more,
        }
        httpx.put(f"{self._url}/lease", content=envelope(lease, KEY)).raise_for_status()


@contextmanager
def started(scratch: Path, model: models.Prepared) -> Iterator[tuple[Running, Stable]]:
    """A server that gets no lease, and one that does."""
    question = model.questions(1)[0]
    ours = servers.holdfast(model, scratch)
    with ExitStack() as stack:

        def start(name: str, **more: str) -> Running:
            command = [*ours.command, "--grpc-port", "{grpc_port}"]
            log = scratch / f"{name}.log"
            return stack.enter_context(running(command, ours.environment | more, scratch, question, log=log))

        none = start("none")
        stable = start("stable", HOLDFAST_ROUTER_PUBLIC_KEYS=public(KEY))
        target = start("target", HOLDFAST_REVISION=TARGET)
        for task in Path(f"/proc/{target.process.pid}/task").iterdir():
            os.sched_setaffinity(int(task.name), {LOAD_CORE})
        yield none, Stable(stable, target)


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench-router")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3, help="of every load; at most 10")
    options = parser.parse_args()
    packages.require(("wrk",), say)
    os.sched_setaffinity(0, {LOAD_CORE})
    found: dict[str, list[load.Load]] = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="bench-router-") as scratch:
        model = models.prepare("iris", zoo.logistic_regression(), Path(scratch))
        questions = model.questions(30)
        with started(Path(scratch), model) as (none, stable):
            for state in ("none", "all"):  # warm up
                stable.enter(state, LEASE_SECONDS)
                load.rest(none if state == "none" else stable.server, questions, 32, options.seconds)
            for _ in range(options.rounds):
                for state, connections in product(STATES, (1, 32)):
                    stable.enter(state, LEASE_SECONDS)
                    server = none if state == "none" else stable.server
                    key = f"{state}_c{connections}"
                    found[key].append(load.rest(server, questions, connections, options.seconds))
                    say(f"{key}: {found[key][-1]}")
            counted = stable.read()["arms"]["steady"]
    print(json.dumps(_result(found, counted)))
    return 0


def _result(found: dict[str, list[load.Load]], counted: Any) -> dict[str, Any]:
    def median(key: str, value: str) -> float:
        return statistics.median(getattr(one, value) for one in found[key])

    def more(state: str, base: str, connections: int, value: str) -> float:
        return round(median(f"{state}_c{connections}", value) - median(f"{base}_c{connections}", value), 1)

    failures = {arm: {name: n for name, n in counted[arm]["outcomes"].items() if n} for arm in ("local", "target")}
    return {
        "router_hop_us": more("all", "ended", 1, "p50_us"),
        "router_hop_cpu_us": more("all", "ended", 32, "cpu_us"),
        "router_draw_cpu_us": more("local", "ended", 32, "cpu_us"),
        "router_shadow_cpu_us": more("shadow", "ended", 32, "cpu_us"),
        "router_idle_cpu_us": more("ended", "none", 32, "cpu_us"),
        "router_idle_p50_us": more("ended", "none", 1, "p50_us"),
        "outcomes": failures,
        "rows": {
            key: {
                value: [round(getattr(one, value), 1) for one in loads]
                for value in ("rate", "p50_us", "p99_us", "cpu_us")
            }
            for key, loads in found.items()
        },
    }


if __name__ == "__main__":
    sys.exit(main())
