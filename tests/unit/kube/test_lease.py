"""Who leads, in fake time: electors around one Lease that the tests can cut off, hold up and edit."""

import asyncio
import copy
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import pytest

from holdfast.kube.errors import AlreadyExists, Conflict, NotFound, NotLeading, Unavailable
from holdfast.kube.lease import DURATION, RENEW_DEADLINE, RETRY, Elector

pytestmark = pytest.mark.looptime

Object = dict[str, Any]


def now() -> float:
    return asyncio.get_running_loop().time()


class Server:
    """The Lease as the API server keeps it, with its resourceVersion."""

    def __init__(self) -> None:
        self.lease: Object | None = None
        self.version = 0
        self.changed = asyncio.Condition()
        self.holders: list[tuple[float, str]] = []

    async def store(self, spec: Mapping[str, Any]) -> Object:
        self.version += 1
        self.lease = {"metadata": {"resourceVersion": str(self.version)}, "spec": dict(spec)}
        holder = str(spec.get("holderIdentity"))
        if not self.holders or self.holders[-1][1] != holder:
            self.holders.append((now(), holder))
        async with self.changed:
            self.changed.notify_all()
        return copy.deepcopy(self.lease)


class Link:
    """One elector's way to the server, which can be cut (no answer) or broken (an error)."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.cut = False
        self.broken = False
        self.lose_answers = False
        self.watches = 0

    async def _pass(self) -> None:
        await asyncio.sleep(0.01)
        if self.broken:
            raise Unavailable("503")
        if self.cut:
            await asyncio.Event().wait()

    async def read(self) -> Object:
        await self._pass()
        if self.server.lease is None:
            raise NotFound("none")
        return copy.deepcopy(self.server.lease)

    async def create(self, spec: Mapping[str, Any]) -> Object:
        await self._pass()
        if self.server.lease is not None:
            raise AlreadyExists("there")
        return await self.server.store(spec)

    async def update(self, version: str, spec: Mapping[str, Any]) -> Object:
        await self._pass()
        if self.server.lease is None:
            raise NotFound("none")
        if version != self.server.lease["metadata"]["resourceVersion"]:
            raise Conflict("modified")
        answer = await self.server.store(spec)
        if self.lose_answers:
            await asyncio.Event().wait()
        return answer

    async def watch(self, version: str) -> AsyncGenerator[Object]:
        await self._pass()
        self.watches += 1
        seen = int(version)
        while True:
            async with self.server.changed:
                await self.server.changed.wait_for(lambda known=seen: self.server.version > known)  # type: ignore[misc]
            if self.cut:
                await asyncio.Event().wait()
            assert self.server.lease is not None
            seen = self.server.version
            yield copy.deepcopy(self.server.lease)


class Process:
    """An elector with what it rests on; `lost` is why its process would have ended."""

    def __init__(self, server: Server, name: str) -> None:
        self.link = Link(server)
        self.lost: list[str] = []
        self.elector = Elector(self.link, name, self.lost.append, clock=now, chance=lambda: 0.5)


async def leader_and_standby() -> tuple[Server, Process, Process, asyncio.Task[None]]:
    server = Server()
    first, second = Process(server, "first"), Process(server, "second")
    await first.elector.acquire()
    standby = asyncio.create_task(second.elector.acquire())
    await asyncio.sleep(60)
    assert first.elector.leading
    assert not second.elector.leading
    return server, first, second, standby


async def stop(*processes: Process) -> None:
    for process in processes:
        await process.elector.release()


async def test_a_lease_that_does_not_exist_is_created() -> None:
    server = Server()
    process = Process(server, "first")
    assert not process.elector.leading
    with pytest.raises(NotLeading):
        process.elector.guard()
    await process.elector.acquire()
    process.elector.guard()
    assert server.lease is not None
    assert server.lease["spec"]["holderIdentity"] == "first"
    await stop(process)


async def test_of_two_that_start_at_once_one_leads() -> None:
    server = Server()
    processes = [Process(server, name) for name in ("first", "second")]
    tasks = [asyncio.create_task(process.elector.acquire()) for process in processes]
    await asyncio.sleep(5)
    assert [process.elector.leading for process in processes].count(True) == 1
    for task in tasks:
        task.cancel()
    await stop(*processes)


async def test_the_leader_leads_for_as_long_as_it_renews() -> None:
    server, first, second, standby = await leader_and_standby()
    await asyncio.sleep(3600)
    assert first.elector.leading
    assert not first.lost
    assert [name for _, name in server.holders] == ["first"]
    assert second.link.watches < 3600 / 10
    standby.cancel()
    await stop(first)


async def test_a_released_lease_is_taken_at_once() -> None:
    _, first, second, standby = await leader_and_standby()
    before = now()
    await first.elector.release()
    assert not first.elector.leading
    await asyncio.wait_for(standby, 3)
    assert second.elector.leading
    assert now() - before < 0.1
    assert not first.lost
    await stop(second)


async def test_a_lease_is_released_while_a_renewal_is_under_way_whose_answer_never_comes() -> None:
    server, first, second, standby = await leader_and_standby()
    first.link.lose_answers = True
    async with server.changed:
        await server.changed.wait()
    first.link.lose_answers = False
    before = now()
    await first.elector.release()
    await asyncio.wait_for(standby, 3)
    assert second.elector.leading
    assert now() - before < 0.1
    await stop(second)


async def test_the_lease_of_a_leader_that_died_is_taken_when_it_expires() -> None:
    server, first, second, standby = await leader_and_standby()
    assert first.elector._renewing is not None
    first.elector._renewing.cancel()  # a SIGKILL ends it like this: without a word
    assert server.lease is not None
    died = now()
    await standby
    assert second.elector.leading
    assert DURATION - RETRY - 0.5 < now() - died < DURATION + 0.5
    await stop(second)


async def test_a_leader_that_is_cut_off_stops_writing_before_the_next_one_starts() -> None:
    server, first, second, standby = await leader_and_standby()
    first.link.cut = True
    cut = now()
    while not first.lost:
        await asyncio.sleep(0.05)
        if not first.elector.leading:
            assert now() - cut <= RENEW_DEADLINE + 0.1
            assert not second.elector.leading
    assert not first.elector.leading
    await standby
    assert server.holders[-1][1] == "second"
    assert server.holders[-1][0] - cut >= DURATION - RETRY - 0.5
    assert "could not be renewed" in first.lost[0]
    await stop(second)


async def test_a_leader_that_was_paused_finds_that_it_leads_no_more_before_it_renews() -> None:
    server, first, _, standby = await leader_and_standby()
    assert first.elector._renewing is not None
    paused = first.elector._renewing
    # What SIGSTOP does: nothing of the process runs while its clock goes on.
    offset = 30.0
    first.elector._clock = lambda: now() + offset
    with pytest.raises(NotLeading):
        first.elector.guard()
    updates = server.version
    await asyncio.wait_for(paused, 5)
    assert first.lost
    assert server.version == updates
    standby.cancel()


async def test_errors_of_a_few_seconds_do_not_end_leadership() -> None:
    server, first, second, standby = await leader_and_standby()
    for _ in range(20):
        first.link.broken = second.link.broken = True
        await asyncio.sleep(6)
        assert first.elector.leading
        first.link.broken = second.link.broken = False
        await asyncio.sleep(4)
    assert not first.lost
    assert len(server.holders) == 1
    standby.cancel()
    await stop(first)


async def test_a_renewal_whose_answer_was_lost_is_found_by_reading_the_lease() -> None:
    server, first, _, standby = await leader_and_standby()
    first.link.lose_answers = True
    await asyncio.sleep(5)
    first.link.lose_answers = False
    await asyncio.sleep(30)
    assert first.elector.leading
    assert not first.lost
    assert len(server.holders) == 1
    standby.cancel()
    await stop(first)


async def test_a_lease_that_was_taken_away_ends_leadership_at_the_next_renewal() -> None:
    server, first, _, standby = await leader_and_standby()
    standby.cancel()
    assert server.lease is not None
    await server.store({**server.lease["spec"], "holderIdentity": "someone"})
    await asyncio.sleep(RETRY * 2)
    assert not first.elector.leading
    assert first.lost == ["the lease was taken by someone"]


async def test_a_standby_whose_watch_is_stuck_does_not_take_a_lease_that_is_renewed() -> None:
    server, first, second, standby = await leader_and_standby()
    watch = second.link.watch

    async def silent(version: str) -> AsyncGenerator[Object]:
        await asyncio.Event().wait()
        async for lease in watch(version):
            yield lease

    second.link.watch = silent  # type: ignore[method-assign]
    await asyncio.sleep(300)
    assert first.elector.leading
    assert len(server.holders) == 1
    standby.cancel()
    await stop(first)


async def test_a_standby_that_cannot_reach_the_server_waits_and_leads_later() -> None:
    server = Server()
    process = Process(server, "first")
    process.link.broken = True
    task = asyncio.create_task(process.elector.acquire())
    await asyncio.sleep(600)
    assert not process.elector.leading
    process.link.broken = False
    await asyncio.wait_for(task, 5)
    assert process.elector.leading
    await stop(process)


async def test_releasing_without_leading_leaves_the_lease_alone() -> None:
    server, first, second, standby = await leader_and_standby()
    version = server.version
    standby.cancel()
    await second.elector.release()
    assert server.version == version
    await stop(first)
