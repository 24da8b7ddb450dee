"""How passes end, and when their keys come back; in fake time."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
from pydantic import BaseModel, ValidationError

from holdfast.kube import errors
from holdfast.kube.kinds import Key
from holdfast.kube.queue import Backoff, WorkQueue
from holdfast.kube.reconcile import Outcome
from holdfast.kube.workers import PASS_SECONDS, Workers

pytestmark = pytest.mark.looptime

WINE = Key("ModelDeployment", "default", "wine")
Pass = Callable[[Key], Outcome]


class World:
    """Workers whose passes do what a test says."""

    def __init__(self) -> None:
        self.queue: WorkQueue[Key] = WorkQueue(backoff=Backoff(first=1, cap=60), chance=lambda: 0.0)
        self.workers = Workers(self.queue, self.make_pass, 2)
        self.passes: list[tuple[float, Key]] = []
        self.outcomes: list[Outcome | Exception] = []
        self.takes = 0.0

    async def make_pass(self, key: Key) -> Outcome:
        self.passes.append((asyncio.get_running_loop().time(), key))
        await asyncio.sleep(self.takes)
        outcome = self.outcomes.pop(0) if self.outcomes else Outcome()
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    @property
    def times(self) -> list[float]:
        return [when for when, _ in self.passes]


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    made.workers.start()
    yield made
    await made.workers.stop(1)


async def test_a_pass_that_went_well_comes_back_only_when_it_says_so(world: World) -> None:
    world.outcomes = [Outcome(requeue_after=30), Outcome()]
    world.queue.add(WINE)
    await asyncio.sleep(1000)
    assert world.times == [0, 30]


async def test_a_pass_that_failed_comes_back_later_each_time(world: World) -> None:
    world.outcomes = [errors.Unavailable("503")] * 4
    world.queue.add(WINE)
    await asyncio.sleep(1000)
    assert world.times == [0, 1, 3, 7, 15]


async def test_a_bug_in_one_pass_stops_neither_the_worker_nor_the_key(world: World) -> None:
    world.outcomes = [ValueError("a bug")]
    world.queue.add(WINE)
    await asyncio.sleep(10)
    assert world.times == [0, 1]
    assert world.workers.alive == 2


async def test_a_refusal_is_tried_again_later_each_time_in_spite_of_the_plans_own_date(world: World) -> None:
    world.outcomes = [Outcome(requeue_after=0.5, refused=True)] * 3
    world.queue.add(WINE)
    await asyncio.sleep(1000)
    assert world.times == [0, 1, 3, 7]


async def test_the_wait_that_the_server_asks_for_is_obeyed(world: World) -> None:
    world.outcomes = [errors.Unavailable("429", retry_after=20)]
    world.queue.add(WINE)
    await asyncio.sleep(1000)
    assert world.times == [0, 20]


async def test_a_pass_that_hangs_is_ended_and_tried_again(world: World) -> None:
    world.takes = 10**6
    world.queue.add(WINE)
    await asyncio.sleep(PASS_SECONDS / 2)
    assert world.workers.longest_pass == PASS_SECONDS / 2
    await asyncio.sleep(PASS_SECONDS)
    assert world.times == [0, PASS_SECONDS + 1]


async def test_without_leadership_a_key_is_kept_and_does_not_count_as_failed(world: World) -> None:
    world.outcomes = [errors.NotLeading()]
    world.queue.add(WINE)
    await asyncio.sleep(10)
    assert world.times == [0, 1]
    assert world.queue.failures(WINE) == 0


async def test_stopping_lets_the_present_pass_end_and_begins_no_other() -> None:
    world = World()
    world.takes = 1.0
    world.workers.start()
    for number in range(10):
        world.queue.add(Key("ModelDeployment", "default", str(number)))
    await asyncio.sleep(0.5)
    await world.workers.stop(2)
    assert len(world.passes) == 2
    assert asyncio.get_running_loop().time() == 1.0
    assert world.workers.alive == 0


async def test_stopping_does_not_wait_longer_than_it_was_told() -> None:
    world = World()
    world.takes = 60.0
    world.workers.start()
    world.queue.add(WINE)
    await asyncio.sleep(0.5)
    await world.workers.stop(2)
    assert asyncio.get_running_loop().time() == 2.5
    assert world.workers.alive == 0


class Strict(BaseModel):
    number: int


async def test_an_object_that_cannot_be_read_is_logged_without_what_the_user_wrote(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ValidationError) as caught:
        Strict.model_validate({"number": "a-secret"})
    world.outcomes = [caught.value]
    world.queue.add(WINE)
    await asyncio.sleep(10)
    assert world.times == [0, 1]
    assert "cannot be read" in caplog.text
    assert "a-secret" not in str([record.__dict__ for record in caplog.records])


async def test_who_looks_at_a_status_that_changed_is_woken(world: World) -> None:
    world.outcomes = [Outcome(concerned=frozenset({Key("TrainingJob", "default", "run")}))]
    world.queue.add(WINE)
    await asyncio.sleep(10)
    assert world.times == [0, 0]
