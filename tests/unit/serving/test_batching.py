"""Which rows may share a run, and what becomes of those that do."""

from __future__ import annotations

import asyncio
import json
import math
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvloop
from tests.unit.serving import models
from tests.unit.serving.server import request

from holdfast_serving import batching, rows, session
from holdfast_serving.batching import INLINE_SECONDS, MAX_QUEUED, Batcher
from holdfast_serving.codec import RestCodec
from holdfast_serving.cost import Cost
from holdfast_serving.metrics import OUTCOMES, REST, Metrics
from holdfast_serving.problems import Problem

LIGHT, HEAVY = Cost(1e-4, 1e-9), Cost(1e-3, 1e-9)
"""Costs that keep runs on the loop, or send each one to the thread."""


def load(content: bytes, folder: Path) -> tuple[session.Model, Path]:
    folder.mkdir(exist_ok=True)
    path = folder / "model.onnx"
    path.write_bytes(content)
    return session.load(path, 1), path


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (models.iris, None),
        (models.colours, None),
        (models.lookup, None),
        (models.row_sums, None),
        (models.logarithm, None),
        (lambda: models.echo("BYTES", None, 2), None),
        (lambda: models.echo("FP32", 1, 4), "its first dimension is fixed"),
        (lambda: models.echo("FP32"), "its first dimension is fixed"),
        (models.centred, "rows change each other's 'y'"),
        (models.clipped_by_largest, "rows change each other's 'y'"),
        (models.quantized_label, "it takes quantization scales from whole batches"),
        (models.total, "output 'y' does not have a row per row of input"),
    ],
)
def test_rows_share_a_run_only_where_that_changes_no_answer(
    tmp_path: Path, content: Callable[[], bytes], why: str | None
) -> None:
    model, path = load(content(), tmp_path)
    assert rows.why_apart(model, path, []) == why


def test_a_model_that_takes_no_made_up_row_is_tried_with_the_bundle_s_own(tmp_path: Path) -> None:
    shifted = models.build(
        [models.node("Sub", "i base", "j"), models.node("Gather", "table j", "y", axis=0)],
        {"i": (models.INT64, [None])},
        {"y": (models.FLOAT, [None, 2])},
        base=np.array(1000, np.int64),
        table=np.arange(16, dtype=np.float32).reshape(8, 2),
    )
    model, path = load(shifted, tmp_path)
    assert rows.why_apart(model, path, []) == "no rows were found that it could be tried with"
    samples = [{"i": np.array([1000 + n], np.int64)} for n in range(4)]
    assert rows.why_apart(model, path, samples) is None


class Client:
    """Stands for a connection: keeps the answer."""

    def __init__(self) -> None:
        self.transport: object | None = object()
        self.answer: dict[str, Any] | None = None
        self.problem: Problem | None = None

    def respond(self, status: int, body: bytes) -> None:
        self.answer = json.loads(body)

    def respond_problem(self, problem: Problem) -> None:
        self.problem = problem

    @property
    def done(self) -> bool:
        return self.answer is not None or self.problem is not None

    @property
    def data(self) -> Any:
        assert self.answer is not None, self.problem
        return self.answer["outputs"][0]["data"]


class Bench:
    """A batcher on a running loop."""

    def __init__(
        self, model: session.Model, cost: Cost, *, joins: bool, max_rows: int | None = None, runs: int = 1
    ) -> None:
        self.metrics = Metrics("m", "1")
        self.timeout = math.inf
        self.codec = RestCodec(model.signature, "m", "1")
        self.batcher = Batcher(model, self.metrics, cost, joins=joins, max_rows=max_rows, runs=runs)

    def submit(self, body: dict[str, Any]) -> Client:
        client = Client()
        call = self.codec.decode(json.dumps(body).encode(), client)
        call.deadline = call.arrived + self.timeout
        self.batcher.submit(call)
        return client

    async def wait(self, clients: list[Client]) -> None:
        while not all(client.done for client in clients):  # noqa: ASYNC110
            await asyncio.sleep(0.001)

    def ended(self, **expected: int) -> bool:
        """Whether the calls ended so, and no other ones did."""
        ended = self.metrics.requests[REST].outcomes
        return self.metrics.in_flight == 0 and ended == [expected.get(name, 0) for name in OUTCOMES]

    @property
    def runs(self) -> int:
        return sum(self.metrics.batch.counts)


def run(
    content: bytes, folder: Path, test: Callable[[Bench], Coroutine[Any, Any, None]], cost: Cost, *, joins: bool = True
) -> None:
    model, _ = load(content, folder)

    async def main() -> None:
        await asyncio.wait_for(test(Bench(model, cost, joins=joins)), 120)

    uvloop.run(main())


@pytest.mark.parametrize("cost", [LIGHT, HEAVY], ids=["on the loop", "in a thread"])
@pytest.mark.parametrize("joins", [True, False], ids=["together", "apart"])
def test_every_call_gets_its_own_rows_of_the_result(tmp_path: Path, cost: Cost, joins: bool) -> None:
    async def test(bench: Bench) -> None:
        random = np.random.default_rng(1)
        clients, expected = [], []
        for number in range(200):
            count = int(random.integers(1, 5))
            numbers = random.integers(0, 8, count).tolist()
            body = request(i=("INT64", [count], numbers))
            if number % 3 == 0:
                body |= {"id": str(number), "outputs": [{"name": "y"}]}
            clients.append(bench.submit(body))
            expected.append([float(value) for n in numbers for value in (2 * n, 2 * n + 1)])
            if number % 50 == 0:
                await asyncio.sleep(0.002)
        await bench.wait(clients)
        assert [client.data for client in clients] == expected
        assert all(client.answer["id"] == str(n) for n, client in enumerate(clients) if n % 3 == 0)  # type: ignore[index]
        assert bench.ended(ok=200)
        assert bench.runs < 50 if joins else bench.runs == 200

    run(models.lookup(), tmp_path, test, cost, joins=joins)


@pytest.mark.parametrize("cost", [LIGHT, HEAVY], ids=["on the loop", "in a thread"])
def test_a_call_that_fails_takes_no_neighbour_with_it(tmp_path: Path, cost: Cost) -> None:
    async def test(bench: Bench) -> None:
        numbers = [0, 1, 99, 2, -50, 3]
        clients = [bench.submit(request(i=("INT64", [1], [n]))) for n in numbers]
        await bench.wait(clients)
        for number, client in zip(numbers, clients, strict=True):
            if 0 <= number < 8:
                assert client.data == [2.0 * number, 2.0 * number + 1]
            else:
                assert client.problem is not None
                assert (client.problem.status, client.problem.message) == (500, "the model failed on this request")
        assert bench.ended(ok=4, failed=2)

    run(models.lookup(), tmp_path, test, cost)


def test_an_answer_that_cannot_be_written_takes_no_neighbour_with_it(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        values = [1.0, -1.0, None, 1.0]
        clients = [bench.submit(request(x=("FP32", [1, 1], [value]))) for value in values]
        await bench.wait(clients)
        assert [client.problem.status if client.problem else client.data for client in clients] == [[0], 500, 400, [0]]
        assert bench.ended(ok=2, client_error=1, failed=1)

    run(models.logarithm(), tmp_path, test, LIGHT)


def test_only_rows_of_one_shape_share_a_run(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        lengths = [3, 5, 3, 1, 5, 3]
        clients = [bench.submit(request(x=("FP32", [1, n], [1.0] * n))) for n in lengths]
        await bench.wait(clients)
        assert [client.data for client in clients] == [[float(n)] for n in lengths]
        assert bench.runs == 3

    run(models.row_sums(), tmp_path, test, LIGHT)


def test_what_the_loop_reads_in_one_turn_is_one_batch(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        clients = [bench.submit(request(i=("INT64", [1], [n % 8]))) for n in range(100)]
        assert not clients[0].done
        await bench.wait(clients)
        assert bench.runs == 1
        lone = bench.submit(request(i=("INT64", [1], [1])))
        await asyncio.sleep(0)  # the very next turn, no timer
        assert lone.done

    run(models.lookup(), tmp_path, test, LIGHT)


class Gate:
    """A real model that waits before each run until it is let go.

    Attributes:
        sizes: rows of each run.
    """

    def __init__(self, model: session.Model) -> None:
        self.signature = model.signature
        self.sizes: list[int] = []
        self._model = model
        self.entered = threading.Semaphore(0)
        self.go = threading.Semaphore(0)

    def twin(self) -> Gate:
        return self

    def run(self, feeds: Any) -> Any:
        self.entered.release()
        assert self.go.acquire(timeout=100)
        self.sizes.append(len(feeds["i"]))
        return self._model.run(feeds)


def gated(
    folder: Path,
    test: Callable[[Bench, Gate], Coroutine[Any, Any, None]],
    cost: Cost = HEAVY,
    max_rows: int | None = None,
    *,
    joins: bool = True,
    runs: int = 1,
) -> None:
    model, _ = load(models.lookup(), folder)
    gate = Gate(model)

    async def main() -> None:
        bench = Bench(gate, cost, joins=joins, max_rows=max_rows, runs=runs)  # type: ignore[arg-type]
        await asyncio.wait_for(test(bench, gate), 120)

    uvloop.run(main())


def body(number: int) -> dict[str, Any]:
    return request(i=("INT64", [1], [number % 8]))


def test_calls_that_come_during_a_run_are_the_next_batch_without_those_that_left(tmp_path: Path) -> None:
    async def test(bench: Bench, gate: Gate) -> None:
        first = bench.submit(body(0))
        await asyncio.to_thread(gate.entered.acquire)
        late = [bench.submit(body(n)) for n in range(20)]
        for client in late[::2]:
            client.transport = None
        gate.go.release(2)
        await bench.wait([first, *late[1::2]])
        assert [client.data[0] for client in late[1::2]] == [2.0 * (n % 8) for n in range(1, 20, 2)]
        assert not any(client.done for client in late[::2])
        assert bench.runs == 2
        assert bench.ended(ok=11, abandoned=10)

    gated(tmp_path, test)


def test_a_queue_that_is_full_says_so_and_takes_more_later(tmp_path: Path) -> None:
    async def test(bench: Bench, gate: Gate) -> None:
        first = bench.submit(body(0))
        await asyncio.to_thread(gate.entered.acquire)
        waiting = [bench.submit(body(n)) for n in range(MAX_QUEUED)]
        with pytest.raises(Problem) as caught:
            bench.submit(body(1))
        assert caught.value.status == 503
        assert caught.value.fields.startswith(b"retry-after: ")
        gate.go.release(MAX_QUEUED)
        await bench.wait([first, *waiting])
        assert bench.ended(ok=MAX_QUEUED + 1)

    gated(tmp_path, test)


def test_as_many_runs_as_may_go_on_at_once_each_with_its_share_of_the_calls(tmp_path: Path) -> None:
    async def test(bench: Bench, gate: Gate) -> None:
        together = [bench.submit(body(n)) for n in range(6)]
        for _ in range(2):
            await asyncio.to_thread(gate.entered.acquire)
        late = [bench.submit(body(n)) for n in range(5)]
        assert not gate.entered.acquire(timeout=0.1)
        gate.go.release()
        await asyncio.to_thread(gate.entered.acquire)
        assert sum(client.done for client in together) == 3
        gate.go.release(2)
        await bench.wait([*together, *late])
        assert gate.sizes == [3, 3, 5] or gate.sizes == [3, 5, 3]
        assert [client.data[0] for client in together] == [2.0 * n for n in range(6)]
        assert bench.ended(ok=11)

    gated(tmp_path, test, runs=2)


def test_beside_a_long_run_others_begin_and_end(tmp_path: Path) -> None:
    model, _ = load(models.patient(), tmp_path)

    async def main() -> None:
        bench = Bench(model, HEAVY, joins=True, runs=2)
        long = bench.submit(request(x=("FP32", [1, 1], [3e6])))
        for number in range(10):
            short = bench.submit(request(x=("FP32", [1, 1], [number])))
            await bench.wait([short])
            assert short.data == [number]
        assert not long.done
        await bench.wait([long])
        assert bench.ended(ok=11)

    uvloop.run(asyncio.wait_for(main(), 60))


def test_what_two_runs_at_once_can_answer_in_time_is_taken_and_no_more(tmp_path: Path) -> None:
    taken = {}
    for runs in (1, 2):

        async def test(bench: Bench, gate: Gate, runs: int = runs) -> None:
            running = [bench.submit(body(n)) for n in range(runs)]
            for _ in range(runs):
                await asyncio.to_thread(gate.entered.acquire)
            bench.timeout = 10.0
            waiting: list[Client] = []
            while len(waiting) < 100:
                try:
                    waiting.append(bench.submit(body(0)))
                except Problem:
                    break
            taken[runs] = len(waiting)
            gate.go.release(200)
            await bench.wait([*running, *waiting])

        gated(tmp_path / str(runs), test, Cost(1.0, 1e-9), joins=False, runs=runs)
    assert 1.5 < taken[2] / taken[1] < 3


def test_a_slow_input_sends_a_model_off_the_loop_though_it_was_fast_when_measured(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        for _ in range(2):
            await bench.wait([bench.submit(request(x=("FP32", [1, 1024], [1.0] * 1024)))])
        second = bench.submit(request(x=("FP32", [1, 1024], [1.0] * 1024)))
        await asyncio.sleep(0)
        assert not second.done
        await bench.wait([second])
        assert second.data == [pytest.approx(1.0)]

    run(models.heavy(), tmp_path, test, Cost(INLINE_SECONDS / 10, 1e-9))


def test_batches_are_as_large_as_their_time_allows() -> None:
    assert Cost(1e-5, 1e-6).rows_within(0.05) == 256
    assert Cost(0.01, 0.001).rows_within(0.05) == 40
    assert Cost(1.0, 0.5).rows_within(0.05) == 1
    assert Cost(1.0, 0.0).rows_within(0.05) == 1


def test_what_waits_takes_no_more_memory_than_it_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "MAX_QUEUED_BYTES", 1000)

    async def test(bench: Bench) -> None:
        large, larger = ({"inputs": [column(rows)]} for rows in (60, 100))  # 16 bytes each
        clients = [bench.submit(large)]
        with pytest.raises(Problem) as refused:
            bench.submit(large)
        assert refused.value.status == 503
        await bench.wait(clients)
        clients.append(bench.submit(larger))  # alone
        await bench.wait(clients)
        assert bench.ended(ok=2)

    def column(rows: int) -> dict[str, Any]:
        return {"name": "x", "datatype": "FP32", "shape": [rows, 4], "data": [0.5] * (4 * rows)}

    run(models.echo("FP32", None, 4), tmp_path, test, Cost(0.0001, 0.0))


@pytest.mark.parametrize(("datatype", "bytes_each"), [("FP32", 4), ("BYTES", 64), ("BOOL", 1)])
def test_rows_of_different_sizes_count_by_what_they_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, datatype: str, bytes_each: int
) -> None:
    monkeypatch.setattr(batching, "MAX_QUEUED_BYTES", 100 * bytes_each)
    value = {"FP32": 0.5, "BYTES": "text", "BOOL": True}[datatype]

    async def test(bench: Bench) -> None:
        for _ in range(3):  # what has been answered does not count any more
            clients = [bench.submit(row(60)), bench.submit(row(10)), bench.submit(row(30))]
            with pytest.raises(Problem, match="too large for one more") as refused:
                bench.submit(row(1))
            assert refused.value.status == 503
            clients[1].transport = None  # has left
            await bench.wait([clients[0], clients[2]])
        await bench.wait([bench.submit(row(101))])  # alone

    def row(length: int) -> dict[str, Any]:
        return {"inputs": [{"name": "x", "datatype": datatype, "shape": [1, length], "data": [value] * length}]}

    run(models.echo(datatype, None, None), tmp_path, test, Cost(0.0001, 0.0))
