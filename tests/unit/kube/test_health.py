"""Probes, and the lines of the log."""

import json
import logging
import sys
from collections.abc import AsyncIterator

import aiohttp
import pytest

from holdfast.kube.health import Health, HealthServer
from holdfast.logs import JsonFormatter


class World:
    def __init__(self) -> None:
        self.health = Health((), (), {"leader": True})
        self.base = ""

    async def get(self, path: str) -> tuple[int, str]:
        async with aiohttp.ClientSession() as session, session.get(self.base + path) as response:
            return response.status, await response.text()


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    server = HealthServer(0, lambda: made.health)
    await server.start()
    assert server._runner is not None
    port = next(address[1] for address in server._runner.addresses if address[0] == "0.0.0.0")
    made.base = f"http://127.0.0.1:{port}"
    yield made
    await server.stop()


async def test_all_is_well(world: World) -> None:
    for path in ("/livez", "/readyz"):
        assert await world.get(path) == (200, "ok\n")
    status, text = await world.get("/healthz")
    assert (status, json.loads(text)) == (200, {"leader": True, "problems": []})


async def test_a_problem_fails_readiness_and_not_liveness(world: World) -> None:
    world.health = Health((), ("the watch of Job stands still",), {})
    assert (await world.get("/livez"))[0] == 200
    assert await world.get("/readyz") == (503, "the watch of Job stands still\n")
    assert (await world.get("/healthz"))[0] == 503


async def test_what_only_a_new_process_can_mend_fails_both(world: World) -> None:
    world.health = Health(("the watch of Job has ended",), (), {})
    assert (await world.get("/livez"))[0] == 503
    assert (await world.get("/readyz"))[0] == 503


async def test_metrics_are_prometheus_text(world: World) -> None:
    status, text = await world.get("/metrics")
    assert status == 200
    assert "# TYPE holdfast_queue_depth gauge" in text
    assert "process_resident_memory_bytes" in text


def formatted(record: logging.LogRecord) -> dict[str, str]:
    line = JsonFormatter().format(record)
    assert "\n" not in line
    read: dict[str, str] = json.loads(line)
    return read


def test_a_log_line_is_one_json_object_with_the_callers_fields() -> None:
    record = logging.LogRecord("holdfast.x", logging.INFO, "", 0, "applied %s\nnow", ("it",), None)
    record.fields = {"child": "Service default/wine"}
    line = formatted(record)
    assert line["message"] == "applied it\nnow"
    assert (line["level"], line["logger"], line["child"]) == ("info", "holdfast.x", "Service default/wine")


def test_a_trace_is_part_of_its_line() -> None:
    try:
        raise ValueError("a bug")
    except ValueError:
        record = logging.LogRecord("holdfast.x", logging.ERROR, "", 0, "failed", (), sys.exc_info())
    assert "ValueError: a bug" in formatted(record)["trace"]
