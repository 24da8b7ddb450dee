"""Messages between the processes of a pod."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Coroutine
from functools import partial
from typing import Any

import uvloop

from holdfast_serving import link
from holdfast_serving.link import Link
from holdfast_serving.problems import Problem
from holdfast_serving.served import Fail, Then

SECONDS = 5.0


class Side:
    """One end, and what it has heard."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, Any]] = []
        self.later: list[tuple[Then, Fail]] = []
        self.lost = 0
        self.link = Link(self.hear, self.lose)

    def hear(self, what: str, argument: Any, then: Then, fail: Fail) -> None:
        self.heard.append((what, argument))
        if what == "echo":
            then(argument)
        elif what == "refuse":
            raise Problem(409, "not now")
        elif what == "break":
            raise ZeroDivisionError
        else:
            self.later.append((then, fail))

    def lose(self) -> None:
        self.lost += 1

    async def ask(self, what: str, argument: Any = None, seconds: float = SECONDS) -> Any:
        """The answer; raises Problem."""
        done = asyncio.get_running_loop().create_future()
        self.link.ask(what, argument, done.set_result, done.set_exception, seconds)
        return await done


def run(test: Coroutine[Any, Any, None]) -> None:
    uvloop.run(asyncio.wait_for(test, 30))


async def linked(one: Side, other: Side) -> None:
    loop = asyncio.get_running_loop()
    for side, sock in zip((one, other), socket.socketpair(), strict=True):
        await loop.create_unix_connection(partial(lambda side: side.link, side), sock=sock)


async def problem(asked: Coroutine[Any, Any, Any]) -> tuple[int, str]:
    try:
        answer = await asked
    except Problem as refused:
        return refused.status, refused.message
    raise AssertionError(f"answered: {answer}")


def test_both_sides_ask_and_each_gets_its_own_answers() -> None:
    async def test() -> None:
        one, other = Side(), Side()
        await linked(one, other)
        asked = [side.ask("echo", [number, "é"]) for number in range(200) for side in (one, other)]
        assert await asyncio.gather(*asked) == [[number, "é"] for number in range(200) for _ in range(2)]
        large = "x" * (4 << 20)
        assert await one.ask("echo", large) == large
        late = asyncio.create_task(one.ask("later", 1))
        assert await one.ask("echo", 2) == 2
        other.later[0][0]("now")
        assert await late == "now"

    run(test())


def test_a_refusal_comes_back_in_its_own_words_and_a_fault_without_any() -> None:
    async def test() -> None:
        one, other = Side(), Side()
        await linked(one, other)
        assert await problem(one.ask("refuse")) == (409, "not now")
        assert await problem(one.ask("break")) == (500, "the server failed on this request")
        assert await one.ask("echo", 1) == 1

    run(test())


def test_what_is_too_large_is_not_sent() -> None:
    async def test() -> None:
        one, other = Side(), Side()
        await linked(one, other)
        assert await problem(one.ask("echo", "x" * link.MAX_BYTES)) == (413, "the body is too large")
        late = asyncio.create_task(one.ask("later"))
        await one.ask("echo", 1)
        other.later[0][0]("x" * link.MAX_BYTES)
        assert (await problem(late))[0] == 413
        assert one.lost == other.lost == 0

    run(test())


def test_nobody_waits_for_a_side_that_is_silent_or_gone() -> None:
    async def test() -> None:
        one, other = Side(), Side()
        await linked(one, other)
        assert await problem(one.ask("later", seconds=0.1)) == (503, "a process of this pod does not answer")
        other.later[0][0]("too late")
        assert await one.ask("echo", 1) == 1
        waiting = asyncio.create_task(one.ask("later"))
        await one.ask("echo", 1)
        other.link.close()
        assert (await problem(waiting))[0] == 503
        assert one.lost == 1
        assert (await problem(one.ask("echo", 1)))[0] == 503

    run(test())


def test_a_length_that_no_side_writes_ends_the_link() -> None:
    async def test() -> None:
        one = Side()
        ours, theirs = socket.socketpair()
        await asyncio.get_running_loop().create_unix_connection(lambda: one.link, sock=ours)
        theirs.sendall(struct.pack(">I", link.MAX_BYTES + 1))
        while not one.lost:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert one.heard == []
        theirs.close()

    run(test())
