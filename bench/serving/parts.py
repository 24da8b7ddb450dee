"""The parts of the benchmark. In each, everything that is compared takes turns."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench.serving import load, models, servers
from bench.serving.counters import check_counters
from bench.serving.findings import Findings, say
from bench.serving.models import Prepared
from bench.serving.questions import Question
from bench.serving.running import SERVER_CORE, Running, running
from bench.serving.servers import Server
from tests.unit.serving import zoo

IRIS = ("sepal_length", "sepal_width", "petal_length", "petal_width")


@dataclass
class Bench:
    """One run.

    Attributes:
        seconds: of every load.
        warm_up: seconds of load before it.
    """

    scratch: Path
    rounds: int
    seconds: int
    warm_up: int
    found: Findings = field(default_factory=Findings)

    def __post_init__(self) -> None:
        subject = zoo.logistic_regression()
        confidence = subject.answers["probabilities"].max(axis=1)
        profile = models.profile(IRIS, subject.rows["X"], subject.answers["label"], confidence)
        self._iris = models.prepare("iris", subject, self.scratch, profile)
        self._questions = self._iris.questions(30)
        self._calls = self._iris.calls(30)

    def iris(self, names: Sequence[str]) -> None:
        """Start-up, memory, and iris over JSON on 32 connections and on one, of all these servers."""
        chosen = []
        for name in names:
            with self.found.guarded(name):
                chosen.append(self._server(name))
        for number in range(self.rounds):
            for server in chosen:
                if server.name not in self.found.failures:
                    with self.found.guarded(server.name):
                        say(f"round {number + 1}, {server.name}: {self._measure_iris(server)}")

    def _server(self, name: str) -> Server:
        if name == "holdfast":
            return servers.holdfast(self._iris, self.scratch)
        if name == "null":
            return servers.null(self._questions[0], self._calls[0], self.scratch)
        return servers.peer(name, self._iris)

    def _measure_iris(self, server: Server) -> str:
        """The figures in words."""
        asked = self._questions if server.reads else self._questions[:1]
        with self._running(server, asked) as process:
            time.sleep(0.5)  # until it is idle
            pss = process.pss_mb()
            many = self._load(process, asked, 32)
            single = load.rest(process, asked, 1, self.seconds)
            words = self._measure_grpc(server, process) if server.speaks_grpc else ""
        self.found.add(
            server.name,
            ready_ms=process.ready_ms,
            pss_mb=pss,
            iris_json_c32=many.rate,
            iris_json_c32_p99_us=many.p99_us,
            iris_json_c32_cpu_us=many.cpu_us,
            iris_json_c1_p50_us=single.p50_us,
        )
        return (
            f"{many.rate:,.0f}/s on 32 connections at {many.cpu_us:.1f} us of CPU, "
            f"p50 {single.p50_us:.0f} us on one, {words}ready in {process.ready_ms:.0f} ms, {pss:.0f} MB"
        )

    def _measure_grpc(self, server: Server, process: Running) -> str:
        calls = self._calls if server.reads else self._calls[:1]
        load.rpc(process, calls, self.warm_up)
        taken = load.rpc(process, calls, self.seconds)
        self.found.add(server.name, grpc_c32=taken.rate, grpc_c32_cpu_us=taken.cpu_us)
        return f"{taken.rate:,.0f}/s over gRPC at {taken.cpu_us:.1f} us of CPU, "

    def cpus(self) -> None:
        """Iris over JSON on 32 connections with one core and with two, beside one peer.

        With two the load has no core of its own: CPU time per request tells more than the rate.
        """
        chosen = []
        for name in ("holdfast", "fastapi"):
            with self.found.guarded(name):
                server = self._server(name)
                chosen += [server, servers.on_two_cores(server)]
        for _ in range(self.rounds):
            for server in chosen:
                with self.found.guarded(server.name), self._running(server, self._questions) as process:
                    pss = process.pss_mb()
                    taken = self._load(process, self._questions, 32)
                    figures = {"cpus_json_c32": taken.rate, "cpus_json_c32_cpu_us": taken.cpu_us, "cpus_pss_mb": pss}
                    self.found.add(server.name, **figures)
                    say(f"cpus, {server.name}: {taken.rate:,.0f}/s at {taken.cpu_us:.1f} us of CPU, {pss:.0f} MB")

    def counters(self) -> None:
        """Iris on 32 connections with all that is counted, and with nothing counted.

        The share of CPU time per request, which is that of a full core's throughput and depends less on neighbours.
        """
        bare = models.prepare("bare", zoo.logistic_regression(), self.scratch)
        counted = servers.holdfast(self._iris, self.scratch), self._questions
        uncounted = (
            servers.holdfast(bare, self.scratch, name="uncounted", program=(str(servers.UNCOUNTED),)),
            bare.questions(30),
        )
        for number in range(self.rounds):
            with self.found.guarded("uncounted"):
                cpu: dict[str, float] = {}
                for server, asked in (counted, uncounted) if number % 2 else (uncounted, counted):
                    with self._running(server, asked) as process:
                        cpu[server.name] = self._load(process, asked, 32).cpu_us
                        if server.name == "holdfast":
                            check_counters(process.other_port, IRIS)
                self.found.add("holdfast", counters_cost=1 - cpu["uncounted"] / cpu["holdfast"])
                say(f"counters: {cpu['holdfast']:.1f} us of CPU with, {cpu['uncounted']:.1f} us without")

    def against_raw(
        self,
        measure: str,
        subject: Callable[[], zoo.Subject],
        *,
        connections: int,
        batches: Sequence[int],
        rows_each: int = 1,
    ) -> None:
        """Rows per second, sent in binary, against `session.run` alone at the best of these batch sizes."""
        with self.found.guarded(measure):
            model = models.prepare(measure.replace("_", "-"), subject(), self.scratch)
            server = servers.holdfast(model, self.scratch, name=measure)
            asked = model.questions(3, rows_each, binary=True)
            for _ in range(self.rounds):
                raw, raw_cpu = max(self._raw(model, batch) for batch in batches)
                with self._running(server, asked) as process:
                    load = self._load(process, asked, connections)
                rows, cpu = load.rate * rows_each, load.cpu_us / rows_each
                self.found.add("raw", **{measure: raw, f"{measure}_cpu_us": raw_cpu * 1e6})
                self.found.add("holdfast", **{measure: rows, f"{measure}_cpu_us": cpu, f"{measure}_of_raw": rows / raw})
                say(f"{measure}: {rows:,.0f} rows/s, {cpu:.3g} us of CPU; raw {raw:,.0f}, {raw_cpu * 1e6:.3g} us")

    def _load(self, process: Running, asked: Sequence[Question], connections: int) -> load.Load:
        """After a warm-up."""
        load.rest(process, asked, connections, self.warm_up)
        return load.rest(process, asked, connections, self.seconds)

    def _raw(self, model: Prepared, batch: int) -> tuple[float, float]:
        """(rows per second, CPU seconds per row) of the runtime alone."""
        command = ["taskset", "--cpu-list", str(SERVER_CORE), sys.executable, str(servers.RAW)]
        command += [str(model.file), str(model.rows), str(batch), str(self.seconds)]
        rate, cpu = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        return float(rate), float(cpu)

    @contextmanager
    def _running(self, server: Server, asked: Sequence[Question]) -> Iterator[Running]:
        log = self.scratch / f"{server.name}.log"
        with running(
            server.command, server.environment, server.folder, asked[0], log=log, cores=server.cores
        ) as process:
            yield process
