"""A request has its time: what cannot be answered in it is not waited for, and not worked on."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from tests.unit.serving import models
from tests.unit.serving.server import Server, http, request, serving, until, wire
from tests.unit.serving.test_batching import Bench, Client, Gate, body, gated, run

from holdfast_serving import settings
from holdfast_serving.cost import Cost, Forecast
from holdfast_serving.metrics import REST
from holdfast_serving.problems import Problem

SECOND = Cost(1.0, 0.0)
"""So long a run takes by the forecast."""


def submit(bench: Bench, seconds: float, number: int = 0) -> Client:
    bench.timeout = seconds
    return bench.submit(body(number))


async def entered(gate: Gate) -> None:
    await asyncio.to_thread(gate.entered.acquire)


def test_a_call_that_the_queue_cannot_answer_in_time_is_refused_when_it_comes(tmp_path: Path) -> None:
    async def test(bench: Bench, gate: Gate) -> None:
        first = submit(bench, 10)
        await entered(gate)
        taken: list[Client] = []
        with pytest.raises(Problem) as caught:
            taken.extend(submit(bench, 10) for _ in range(20))
        # A second of the run that is there, one for each call, and a margin.
        assert len(taken) == 7
        assert (caught.value.status, caught.value.fields) == (503, b"retry-after: 9\r\n")
        submit(bench, 100)  # has the time
        gate.go.release(20)
        await bench.wait([first, *taken])

    gated(tmp_path, test, SECOND)


def test_a_call_whose_time_is_up_at_its_turn_is_not_run(tmp_path: Path) -> None:
    async def test(bench: Bench, gate: Gate) -> None:
        first = submit(bench, 60)
        await entered(gate)
        late, patient = [submit(bench, 0.5, n) for n in range(3)], [submit(bench, 60, n) for n in range(3)]
        await asyncio.sleep(0.6)
        gate.go.release(9)
        await bench.wait([first, *late, *patient])
        assert {client.problem.status for client in late if client.problem} == {504}
        assert [client.data[0] for client in patient] == [0.0, 2.0, 4.0]
        assert gate.sizes == [1, 3]
        assert bench.ended(ok=4, timeout=3)

    gated(tmp_path, test)


def test_an_answer_after_its_time_is_sent_and_told_from_those_in_time(tmp_path: Path) -> None:
    async def test(bench: Bench, gate: Gate) -> None:
        late, patient = submit(bench, 1, 3), submit(bench, 60, 2)
        await entered(gate)
        await asyncio.sleep(1.1)
        gate.go.release()
        await bench.wait([late, patient])
        assert (late.data[0], patient.data[0]) == (6.0, 4.0)
        assert gate.sizes == [2]
        assert bench.ended(ok=1, late=1)
        assert sum(bench.metrics.requests[REST].duration.counts) == 2

    gated(tmp_path, test)


def test_a_call_that_cannot_be_answered_in_time_any_more_makes_room_for_one_that_can(tmp_path: Path) -> None:
    async def test(bench: Bench, gate: Gate) -> None:
        first = submit(bench, 60)
        await entered(gate)
        hopeless = submit(bench, 5)
        patient = submit(bench, 60)
        await asyncio.sleep(0.1)
        bench.batcher._forecast._pace = 20.0  # runs have become slower meanwhile
        gate.go.release(9)
        await bench.wait([first, hopeless, patient])
        assert (hopeless.problem and hopeless.problem.status, patient.data[0]) == (504, 0.0)

    gated(tmp_path, test, SECOND)


def test_a_batch_is_no_larger_than_its_most_urgent_call_can_wait_for(tmp_path: Path) -> None:
    async def test(bench: Bench, gate: Gate) -> None:
        first = submit(bench, 100)
        await entered(gate)
        urgent = submit(bench, 5.3)
        patient = [submit(bench, 100) for _ in range(20)]
        gate.go.release(9)
        await bench.wait([first, urgent, *patient])
        # A second per row was measured; one quick run has made that 0.9.
        assert gate.sizes == [1, 5, 16]
        assert bench.ended(ok=22)

    gated(tmp_path, test, Cost(0.01, 1.0), max_rows=64)


@pytest.mark.parametrize("cost", [Cost(1e-4, 1e-9), SECOND], ids=["on the loop", "in a thread"])
def test_a_lone_call_is_tried_whatever_the_forecast_says(tmp_path: Path, cost: Cost) -> None:
    async def test(bench: Bench) -> None:
        for _ in range(3):
            bench.timeout = 5
            client = bench.submit(body(1))
            bench.batcher._forecast._pace = 1e6
            await bench.wait([client])
            assert client.data == [2.0, 3.0]

    run(models.lookup(), tmp_path, test, cost)


def test_where_calls_came_too_late_fewer_are_taken_until_they_come_in_time_again(tmp_path: Path) -> None:
    async def test(bench: Bench, gate: Gate) -> None:
        async def taken() -> int:
            """How many calls with 10 s are taken behind a run; they are all answered at once."""
            clients = [submit(bench, 10)]
            await entered(gate)
            with pytest.raises(Problem):
                clients.extend(submit(bench, 10) for _ in range(20))
            gate.go.release(len(clients))
            await bench.wait(clients)
            for _ in clients[1:]:
                await entered(gate)
            bench.batcher._forecast._pace = 1.0  # that the runs were fast shall not matter here
            return len(clients) - 1

        assert await taken() == 7
        for _ in range(10):
            first = submit(bench, 60)
            await entered(gate)
            late = submit(bench, 60)
            bench.batcher._queue[0].deadline = 0.0
            gate.go.release()
            await bench.wait([first, late])
            bench.batcher._forecast._pace = 1.0
        assert bench.batcher._patience < 0.5
        assert await taken() < 5
        for _ in range(100):
            gate.go.release()
            await bench.wait([submit(bench, 60)])
            await entered(gate)
            bench.batcher._forecast._pace = 1.0
        assert await taken() == 7

    gated(tmp_path, test, SECOND)


def test_calls_that_run_apart_wait_for_a_run_each_and_not_for_each_row(tmp_path: Path) -> None:
    async def test(bench: Bench, gate: Gate) -> None:
        first = submit(bench, 100)
        await entered(gate)
        bench.timeout = 10
        many = [bench.submit(request(i=("INT64", [1000], [1] * 1000))) for _ in range(6)]
        submit(bench, 10)
        with pytest.raises(Problem, match="waiting"):
            submit(bench, 10)
        gate.go.release(20)
        await bench.wait([first, *many])

    gated(tmp_path, test, SECOND, joins=False)


def test_behind_a_run_that_does_not_end_nobody_has_to_wait(tmp_path: Path) -> None:
    async def test(bench: Bench, gate: Gate) -> None:
        first = submit(bench, 1)
        await entered(gate)
        waiting = submit(bench, 60)
        await asyncio.sleep(0.5)
        with pytest.raises(Problem, match="waiting"):
            submit(bench, 0.5)
        gate.go.release(2)
        await bench.wait([first, waiting])

    gated(tmp_path, test)


def test_batches_have_as_many_rows_as_somebody_says(tmp_path: Path) -> None:
    async def test(bench: Bench, gate: Gate) -> None:
        clients = [submit(bench, 60)]
        await entered(gate)
        clients += [submit(bench, 60) for _ in range(10)]
        gate.go.release(9)
        await bench.wait(clients)
        assert gate.sizes == [1, 4, 4, 2]

    gated(tmp_path, test, max_rows=4)


def test_a_forecast_follows_what_runs_take() -> None:
    forecast = Forecast(Cost(0.001, 0.0001))
    assert forecast.batch(10) == pytest.approx(0.002)
    for _ in range(60):
        forecast.learn(10, 0.001, 0.006)
    assert forecast.batch(10) == pytest.approx(0.006, rel=0.01)
    assert forecast.run(10) == pytest.approx(0.002)  # never less than was measured
    assert forecast.queue(130, 3) == pytest.approx(3 * (3 * 0.001 + 130 * 0.0001), rel=0.01)


def test_one_slow_batch_does_not_change_a_forecast_by_much() -> None:
    forecast = Forecast(Cost(0.001, 0.0))
    forecast.learn(1, 1.0, 1.0)
    assert forecast.batch(1) < 0.002
    assert forecast.run(1) == 0.001
    forecast.learn(1, 1.0, 1.0)
    assert forecast.run(1) == 1.0


def test_a_deployment_can_ask_for_no_batching(tmp_path: Path) -> None:
    with serving(tmp_path, models.lookup(), HOLDFAST_MAX_BATCH_ROWS="1") as server:
        parameters = server.get("/v2/models/wine").json()["parameters"]
        assert parameters.pop("batching_reason") == "its deployment asks for no batching"
        assert parameters == {"batching": False, "threads": 1, "parallel_runs": 1, "processes": 1}
        assert server.infer(body(3)).json()["outputs"][0]["data"] == [6.0, 7.0]


SLOW = request(x=("FP32", [1, 1], [400_000.0]))


def behind_a_run(server: Server, *fields: str) -> int:
    """The status of a request that comes while another one runs."""
    content = json.dumps(SLOW).encode()
    with wire(server) as first, wire(server) as second:
        first.send(http("POST", server.infer_path, content))
        until(lambda: server.metric("holdfast_inference_in_flight") == 1, "a run")
        time.sleep(0.05)
        second.send(http("POST", server.infer_path, content, *fields))
        replies = [first.reply(), second.reply()]
    assert replies[0] is not None
    assert replies[1] is not None
    assert replies[0].status == 200  # whatever its deadline: nobody was in its way
    return replies[1].status


@contextmanager
def slow_server(folder: Path, **more: str) -> Iterator[Server]:
    with serving(folder, models.patient(), **more) as server:
        for _ in range(2):  # it is fast when it is loaded; now it is known that it can be slow
            until(lambda: server.infer(SLOW).status_code == 200, "an answer")
        yield server


def test_a_client_can_ask_for_an_answer_sooner(tmp_path: Path) -> None:
    with slow_server(tmp_path) as server:
        assert behind_a_run(server) == 200
        until(lambda: behind_a_run(server, "Request-Timeout-Ms: 1") == 503, "one that comes in time")
        for wrong in ("-1", "1.5", "1s", "0", "9" * 19):
            answer = httpx.post(
                server.url + server.infer_path, content=b"{}", headers={"Request-Timeout-Ms": wrong}, timeout=60
            )
            assert answer.json() == {"error": "Request-Timeout-Ms must be a number of milliseconds"}


def test_a_client_cannot_ask_for_more_time(tmp_path: Path) -> None:
    with slow_server(tmp_path, HOLDFAST_REQUEST_TIMEOUT_MILLISECONDS="30") as server:
        until(lambda: behind_a_run(server, "Request-Timeout-Ms: 999999999") == 503, "one that comes in time")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HOLDFAST_REQUEST_TIMEOUT_MILLISECONDS", "0"),
        ("HOLDFAST_REQUEST_TIMEOUT_MILLISECONDS", "600001"),
        ("HOLDFAST_REQUEST_TIMEOUT_MILLISECONDS", "1e3"),
        ("HOLDFAST_REQUEST_TIMEOUT_MILLISECONDS", "٣"),
        ("HOLDFAST_MAX_BATCH_ROWS", "4097"),
        ("HOLDFAST_MAX_BATCH_ROWS", "-1"),
    ],
)
def test_a_limit_that_is_none_is_named(name: str, value: str) -> None:
    needed = {f"HOLDFAST_{each}": "x" for each in ("MODEL_NAME", "MODEL_URI", "MODEL_DIGEST", "REVISION")}
    with pytest.raises(settings.SettingsError, match=f"{name} must be an integer from 1 to"):
        settings.read(["serve"], {**needed, name: value})
