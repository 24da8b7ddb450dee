"""What of Prometheus' answers about rows reaches a pass, and for how long it stands."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

import pytest
from tests.unit.bundle.loopback import Origin, serve
from tests.unit.signals.test_drift import LABELS, truth
from tests.unit.signals.test_slo import Script
from tests.unit.signals.test_slo_watch import WINE, Moving, model
from tests.unit.stores.servers import free_port

from holdfast.kube import drift as watches
from holdfast.kube.drift import DriftWatch
from holdfast.kube.kinds import Key
from holdfast.kube.metrics import REGISTRY
from holdfast.kube.queue import WorkQueue
from holdfast.kube.store import Store
from holdfast.plan import drift
from holdfast.plan.drift import Findings, NoSignal
from holdfast.signals import drift as signals
from holdfast.signals.prometheus import Address

SECONDS = 0.05
WINDOW = 3600
STABLE = "aaaa"


_versions = count(1)


def resource(spec: dict[str, Any], revision: str = STABLE) -> dict[str, Any]:
    made = model(WINE, spec)
    made["metadata"]["resourceVersion"] = str(next(_versions))
    return {**made, "status": {"stableRevision": revision}}


WATCHED = {"monitoring": {"drift": {}}}


class World:
    def __init__(self, address: Address | None, window: int = WINDOW) -> None:
        self.store = Store()
        self.store.put(resource(WATCHED))
        self.queue: WorkQueue[Key] = WorkQueue()
        self.watch = DriftWatch(address, SECONDS, window, (), self.store, self.queue)

    @property
    def answer(self) -> drift.Answer:
        return self.watch.answer(WINE)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not condition():  # noqa: ASYNC110 - what is waited for is nobody's event
                await asyncio.sleep(SECONDS / 5)

    async def woken(self) -> None:
        """Take the one key that has been put on the queue."""
        async with asyncio.timeout(60):
            key = await self.queue.get()
        assert key == WINE
        self.queue.done(key)


@asynccontextmanager
async def running(address: Address | None, window: int = WINDOW) -> AsyncIterator[World]:
    world = World(address, window)
    task = asyncio.create_task(world.watch.run())
    yield world
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    world.queue.shut_down()


@pytest.fixture
def origin() -> Iterator[Origin]:
    with serve() as found:
        yield found


def rounds(outcome: str) -> float:
    return REGISTRY.get_sample_value("holdfast_prometheus_rounds_total", {"outcome": outcome}) or 0.0


def windows(script: Script) -> int:
    return sum("feature_bin_total" in query for query in script.asked)


async def test_without_an_address_it_says_so() -> None:
    async with running(None) as world:
        assert world.answer == drift.NOT_CONFIGURED


async def test_a_finding_wakes_its_model_and_is_asked_for_once_in_a_step(origin: Origin) -> None:
    origin.pages = script = Moving(truth())
    async with running(Address(origin.url(""))) as world:
        await world.woken()
        assert isinstance(world.answer, Findings)
        assert world.answer.revision == STABLE
        assert world.answer.rows == 1000
        asked, before = windows(script), rounds("ok")
        await world.until(lambda: rounds("ok") > before + 3)
        assert windows(script) == asked
        assert len(world.queue) == 0
        script.samples["bin_total"] = [(labels, "700") for labels, _ in script.samples["bin_total"]]
        script.time += drift.step(WINDOW)
        await world.woken()
        assert isinstance(world.answer, Findings)
        assert world.answer.rows == 1400


async def test_a_changed_wish_and_another_revision_are_asked_about_at_once(origin: Origin) -> None:
    origin.pages = script = Moving(truth())
    async with running(Address(origin.url(""))) as world:
        await world.woken()
        asked = windows(script)
        world.store.put(resource({"monitoring": {"drift": {"toleratedPSIPerMille": 300}}}))
        await world.until(lambda: windows(script) > asked)
        other = {**LABELS, "revision": "bbbb"}
        for samples in script.samples.values():
            samples[:] = [({**labels, "revision": "bbbb"}, text) for labels, text in samples]
        assert script.samples["timestamp"][0][0] == {**other, "profile": "complete"}
        world.store.put(resource(WATCHED, "bbbb"))
        await world.until(lambda: isinstance(world.answer, Findings) and world.answer.revision == "bbbb")


async def test_an_outage_changes_nothing_until_a_window_is_over(
    origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin.pages = script = Moving(truth())
    async with running(Address(origin.url(""))) as world:
        await world.woken()
        found = world.answer
        script.samples["timestamp"] = []  # of no pod is there anything fresh
        before = rounds("ok")
        await world.until(lambda: rounds("ok") > before + 4)
        assert world.answer is found
        assert len(world.queue) == 0
        monkeypatch.setattr(world.watch, "_window_seconds", 0)
        await world.woken()
        assert isinstance(world.answer, NoSignal)
        assert world.answer.reason == "MetricsUnavailable"


async def test_what_a_round_has_no_time_for_is_asked_in_the_next_and_is_no_want_of_word(
    origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each round has time for one of two models."""
    other = Key("ModelDeployment", "shop", "iris")
    script = Moving(truth())
    for samples in script.samples.values():
        samples += [({**labels, "model": other.name}, text) for labels, text in samples if labels]
    origin.pages = script
    monkeypatch.setattr(signals, "BATCH", 1)
    monkeypatch.setattr(watches, "PATIENCE", 1)
    async with running(Address(origin.url(""))) as world:
        monkeypatch.setattr(world.watch, "_round_seconds", 0.0)
        second = resource(WATCHED)
        second["metadata"] |= {"name": other.name, "uid": other.name}
        world.store.put(second)
        before, answers = rounds("ok"), []
        async with asyncio.timeout(60):
            while not all(isinstance(world.watch.answer(key), Findings) for key in (WINE, other)):
                answers += [world.watch.answer(key) for key in (WINE, other)]
                await asyncio.sleep(SECONDS / 5)
        assert rounds("ok") >= before + 2
        assert not any(isinstance(answer, NoSignal) for answer in answers)


async def test_without_prometheus_it_is_said_after_two_rounds() -> None:
    async with running(Address(f"http://127.0.0.1:{free_port()}")) as world:
        assert world.answer is None
        await world.woken()
        assert isinstance(world.answer, NoSignal)
        assert (world.answer.reason, world.answer.message) == (
            "MetricsUnavailable",
            "Prometheus cannot be reached (ClientConnectorError)",
        )


async def test_a_model_that_is_scaled_to_zero_has_no_rows(origin: Origin) -> None:
    origin.pages = Moving(truth())
    async with running(Address(origin.url(""))) as world:
        world.store.put(resource({**WATCHED, "serving": {"replicas": 0}}))
        await world.until(lambda: world.answer == drift.SCALED_TO_ZERO)


async def test_a_model_without_monitoring_is_not_asked_about(origin: Origin) -> None:
    origin.pages = script = Moving(truth())
    async with running(Address(origin.url(""))) as world:
        await world.woken()
        world.store.put(resource({}))
        await world.until(lambda: world.answer is None)
        script.asked.clear()
        await asyncio.sleep(4 * SECONDS)
        assert script.asked == []
