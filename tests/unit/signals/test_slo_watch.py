"""What of Prometheus' answers reaches a pass, and what it takes to say that there are none."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from tests.unit.bundle.loopback import Origin, answer, redirect, serve
from tests.unit.signals.test_prometheus import Always, vector
from tests.unit.signals.test_slo import ARM, LABELS, SPEC, Script, truth
from tests.unit.stores.servers import free_port

from holdfast.kube import slo as slo_watch
from holdfast.kube.kinds import Key
from holdfast.kube.metrics import REGISTRY
from holdfast.kube.queue import WorkQueue
from holdfast.kube.slo import SloWatch
from holdfast.kube.store import Store
from holdfast.plan import slo
from holdfast.plan.slo import NoSignal, SloSignal
from holdfast.signals import prometheus
from holdfast.signals import slo as signals
from holdfast.signals.prometheus import Address

SECONDS = 0.05
WINE = Key("ModelDeployment", "shop", "wine")


def model(key: Key, spec: dict[str, Any]) -> dict[str, Any]:
    metadata = {"namespace": key.namespace, "name": key.name, "uid": key.name, "resourceVersion": "1", "generation": 1}
    return {"kind": key.kind, "metadata": metadata, "spec": {"model": {}, **spec}}


@pytest.fixture
def origin() -> Iterator[Origin]:
    with serve() as found:
        yield found


class Moving(Script):
    """A Prometheus whose clock goes on."""

    def get(self, key: str, default: Any = None) -> bytes:
        self.time += 0.001
        return super().get(key)


class World:
    def __init__(self, address: Address | None) -> None:
        self.store = Store()
        self.store.put(model(WINE, SPEC))
        self.queue: WorkQueue[Key] = WorkQueue()
        self.watch = SloWatch(address, SECONDS, (), self.store, self.queue)

    @property
    def signal(self) -> slo.Answer:
        return self.watch.signal(WINE)

    @property
    def reason(self) -> str:
        wanted = slo.objectives(SPEC)
        assert wanted
        return slo.condition(wanted, self.signal, {}, 1).reason

    async def until(self, condition: Callable[[], bool], what: str) -> None:
        async with asyncio.timeout(60):
            while not condition():  # noqa: ASYNC110 - what is waited for is nobody's event
                await asyncio.sleep(SECONDS / 5)
        assert condition(), what

    async def woken(self) -> None:
        """Take the one key that has been put on the queue."""
        async with asyncio.timeout(60):
            key = await self.queue.get()
        assert key == WINE
        self.queue.done(key)


@asynccontextmanager
async def running(address: Address | None) -> AsyncIterator[World]:
    world = World(address)
    task = asyncio.create_task(world.watch.run())
    yield world
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    world.queue.shut_down()


def rounds(outcome: str) -> float:
    return REGISTRY.get_sample_value("holdfast_prometheus_rounds_total", {"outcome": outcome}) or 0.0


async def test_without_an_address_it_says_so() -> None:
    async with running(None) as world:
        assert world.signal == slo.NOT_CONFIGURED
        assert world.reason == "PrometheusNotConfigured"


async def test_a_signal_wakes_its_model_and_the_same_one_does_not(
    origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signals, "_REFRESH_SECONDS", 0.0)  # or an hour's window would be asked about in half a minute
    origin.pages = script = Moving(truth())
    async with running(Address(origin.url(""))) as world:
        await world.woken()
        assert isinstance(world.signal, SloSignal)
        assert world.reason == "WithinBudget"
        before = rounds("ok")
        await world.until(lambda: rounds("ok") > before + 3, "it goes on asking")
        assert len(world.queue) == 0
        script.samples["outcome"] = [({**ARM, "outcome": "ok"}, "500"), ({**ARM, "outcome": "failed"}, "500")]
        await world.until(lambda: bool(len(world.queue)), "a burn wakes it")
        await world.woken()


async def test_a_model_without_an_slo_is_not_asked_about(origin: Origin) -> None:
    origin.pages = script = Moving(truth())
    async with running(Address(origin.url(""))) as world:
        world.store.put({**model(WINE, {}), "metadata": {**model(WINE, {})["metadata"], "resourceVersion": "2"}})
        async with asyncio.timeout(60):
            while script.asked:  # until the round that was under way has ended, and many more would have begun
                script.asked.clear()
                await asyncio.sleep(10 * SECONDS)


def with_numbers(text: str) -> Moving:
    script = Moving(truth())
    script.samples["outcome"] = [(labels, text) for labels, _ in script.samples["outcome"]]
    return script


class Frozen(Script):
    """Gives the same answers for ever."""


FAULTS: dict[str, Callable[[], Any]] = {
    "refused": lambda: None,
    "timeout": threading.Event,
    "500": lambda: Always(answer(b"", "500 Internal Server Error")),
    "503": lambda: Always(answer(vector(({}, "1")), "503 Service Unavailable")),
    "html": lambda: Always(answer(b"<html>Please sign in</html>", "200 OK", "Content-Type: text/html")),
    "nothing": lambda: Always(answer(b"")),
    "redirect": lambda: Always(redirect("http://127.0.0.2/")),
    "empty": lambda: Always(answer(vector())),
    "nan": lambda: with_numbers("NaN"),
    "infinity": lambda: with_numbers("+Inf"),
    "stale": lambda: Frozen(truth()),
    "old": lambda: Moving({**truth(), "timestamp": [(LABELS, "1e6")]}),
    "warnings": lambda: Always(answer(vector((LABELS, "1"), warnings=["a store did not answer"]))),
    "type": lambda: Always(answer(b'{"status": "success", "data": {"resultType": "scalar", "result": [1, "1"]}}')),
    "gigantic": lambda: Always(answer(b" " * 100_000 + vector((LABELS, "1")))),
    "duplicates": lambda: Always(answer(vector((LABELS, "1"), (LABELS, "1")))),
    "torn": lambda: Always(answer(vector((LABELS, "1")), length=10_000)),
}


@pytest.mark.parametrize("kind", FAULTS)
async def test_whatever_is_wrong_with_prometheus_is_unknown_and_goes_on_by_itself(
    kind: str, origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prometheus, "MAX_ANSWER", 50_000)
    monkeypatch.setattr(prometheus, "SECONDS", 1.0)
    origin.pages = good = Moving(truth())
    async with running(Address(origin.url(""))) as world:
        await world.woken()
        before = world.signal
        assert isinstance(before, SloSignal)
        fault = FAULTS[kind]()
        if fault is None:
            world.watch._address = Address(f"http://127.0.0.1:{free_port()}")
        else:
            origin.pages = Always(fault) if isinstance(fault, threading.Event) else fault
        seen: list[slo.Answer] = []

        def lost() -> bool:
            seen.append(world.signal)
            return isinstance(world.signal, NoSignal)

        await world.until(lost, "it says that there is no signal")
        assert all(found == before for found in seen[:-1] if isinstance(found, SloSignal)) or kind == "stale"
        assert world.reason == "MetricsUnavailable"
        await world.woken()
        world.watch._address = Address(origin.url(""))
        good.time += 1000
        origin.pages = good
        await world.until(lambda: isinstance(world.signal, SloSignal), "it goes on by itself")
        await world.woken()
        assert world.reason == "WithinBudget"
        if isinstance(fault, threading.Event):
            fault.set()


async def test_a_model_without_pods_is_no_fault_of_prometheus(origin: Origin) -> None:
    origin.pages = script = Moving(truth())
    async with running(Address(origin.url(""))) as world:
        await world.woken()
        at_rest = model(WINE, {**SPEC, "serving": {"replicas": 0}})
        world.store.put({**at_rest, "metadata": {**at_rest["metadata"], "resourceVersion": "2"}})
        script.samples["timestamp"] = [({**LABELS, "model": "another"}, "5")]
        await world.until(lambda: world.signal == slo.SCALED_TO_ZERO, "it is said")
        assert world.reason == "InsufficientTraffic"


async def test_one_answer_that_does_not_come_changes_nothing(origin: Origin) -> None:
    class Flaky(Moving):
        """Of every two rounds the second one fails."""

        def get(self, key: str, default: Any = None) -> bytes:
            if "timestamp" in key:
                self.turn = not getattr(self, "turn", False)
            return super().get(key) if self.turn else answer(b"", "500 Internal Server Error")

    origin.pages = Flaky(truth())
    async with running(Address(origin.url(""))) as world:
        await world.woken()
        before = rounds("status")
        await world.until(lambda: rounds("status") > before + 4, "every other round fails")
        assert isinstance(world.signal, SloSignal)
        assert len(world.queue) == 0
    assert slo_watch.PATIENCE == 2


async def test_another_model_s_numbers_do_not_suffer_from_one_that_lies(origin: Origin) -> None:
    iris = Key("ModelDeployment", "lab", "iris")
    script = Moving(truth())
    for samples in script.samples.values():
        samples += [({**labels, "namespace": "lab", "model": "iris"}, text) for labels, text in list(samples)]
    script.samples["outcome"].append(({**ARM, "namespace": "lab", "model": "iris", "outcome": "late"}, "NaN"))
    origin.pages = script
    async with running(Address(origin.url(""))) as world:
        world.store.put(model(iris, SPEC))
        await world.until(lambda: isinstance(world.watch.signal(iris), NoSignal), "iris has no signal")
        assert isinstance(world.signal, SloSignal)
