"""Connections to another pod: taken in turns, not for ever, and gone when they are not needed."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

import pytest
from tests.unit.serving.candidate import Candidate, candidate, right

from holdfast_serving import peer as peer_module
from holdfast_serving.peer import Answer, Exchange, Peer

BODY = b'{"inputs":[{"shape":[1]}]}'
HEAD = b"POST / HTTP/1.1\r\ninference-header-content-length: %d\r\ncontent-length: %d\r\n\r\n" % (len(BODY), len(BODY))


class Question(Exchange):
    """Keeps what becomes of it."""

    def __init__(self) -> None:
        self.ended: asyncio.Future[Answer | int] = asyncio.get_running_loop().create_future()

    def answered(self, answer: Answer) -> None:
        self.ended.set_result(answer)

    def failed(self, outcome: int) -> None:
        self.ended.set_result(outcome)


def ask(peer: Peer) -> asyncio.Future[Answer | int]:
    question = Question()
    peer.send(question, [HEAD, BODY], len(HEAD) + len(BODY), 5)
    return question.ended


def peer_of(target: Candidate, patience: float = 30) -> Peer:
    host, _, port = target.address.partition(":")
    return Peer(host, int(port), patience)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_connections_take_turns() -> None:
    with candidate(right) as target:
        peer = peer_of(target)
        await asyncio.gather(*[ask(peer) for _ in range(3)])
        assert (target.connections, peer.in_flight, len(peer.connections)) == (3, 0, 3)
        for _ in range(6):
            await ask(peer)
        assert target.connections == 3
        assert sorted(asked.number for asked in target.asked) == [1, 1, 1, 2, 2, 2, 3, 3, 3]
        peer.retire()


async def test_a_connection_is_not_used_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_module, "LIFETIME_SECONDS", 0.05)
    with candidate(right) as target:
        peer = peer_of(target)
        for connections in (1, 2):
            await ask(peer)
            await asyncio.sleep(0.1)
            assert target.connections == connections
        await until(lambda: not peer.connections)  # nor is one kept that nobody needs


async def test_a_request_that_is_never_answered_gives_its_connection_up_in_the_end() -> None:
    def hangs(sock: socket.socket, asked: object) -> None:
        sock.recv(1)

    with candidate(hangs) as target:
        peer = peer_of(target, patience=2)
        ended = ask(peer)
        await until(lambda: peer.oldest_seconds > 0.2)
        assert peer.in_flight == 1
        await until(lambda: not peer.connections)
        assert await ended == peer_module.TIMEOUT
        assert (peer.in_flight, peer.oldest_seconds) == (0, 0)


async def test_a_retired_peer_ends_what_it_has_begun() -> None:
    going = asyncio.Event()

    def waits(sock: socket.socket, asked: object) -> bool:
        asyncio.run_coroutine_threadsafe(going.wait(), loop).result(60)
        return right(sock, asked)  # type: ignore[arg-type]

    loop = asyncio.get_running_loop()
    with candidate(waits) as target:
        peer = peer_of(target)
        ended = ask(peer)
        await until(lambda: bool(target.asked))
        peer.retire()
        going.set()
        answer = await ended
        assert isinstance(answer, Answer)
        assert answer.status == 200
        await until(lambda: not peer.connections)


async def test_a_failed_attempt_is_not_repeated_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    peer = Peer("127.0.0.1", port, 30)
    assert await ask(peer) == peer_module.CONNECT
    again = ask(peer)
    assert again.done()  # without an attempt
    assert again.result() == peer_module.CONNECT
    await asyncio.sleep(2 * peer_module.BACKOFF_SECONDS)
    later = ask(peer)
    assert not later.done()
    assert await later == peer_module.CONNECT
