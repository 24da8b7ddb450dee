"""Several operators: one writes, and another one takes over when it should."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime

import pytest
from tests.component.world import PATIENCE, Operator, Place, mutations, operator, stop

from holdfast_devcluster import ControlPlane


class Succession:
    """A leader, and standbys that are started when a test needs one: the successor leads in the next test."""

    def __init__(self, plane: ControlPlane, processes: ExitStack) -> None:
        self._plane = plane
        self._processes = processes
        self._all: list[Operator] = []
        self._leader = self._start()

    @property
    def leader(self) -> Operator:
        """The one that leads, alone, whatever a test has left behind that failed."""
        for other in self._all:
            if other is not self._leader:
                other.process.kill()
        if self._leader.ended:
            self._leader = self._start()
        self._leader.send(signal.SIGCONT)
        self._leader.until_idle()
        return self._leader

    def standby(self) -> Operator:
        """A new one that has seen who leads."""
        standby = self._start()
        standby.until("the standby is ready", lambda: standby.probe("/readyz")[0] == 200)
        return standby

    def succeed(self, standby: Operator) -> str:
        """Wait until the standby leads; whom the Lease was taken from, in its words."""
        standby.until("the standby leads", lambda: standby.leads)
        self._leader = standby
        [taken] = [line["message"] for line in standby.logged() if line["message"].startswith("took the lease")]
        return str(taken)

    def _start(self) -> Operator:
        name = f"leadership-{len(self._all) + 1}"
        self._all.append(self._processes.enter_context(operator(self._plane, name)))
        return self._all[-1]


@pytest.fixture(scope="module")
def succession(plane: ControlPlane) -> Iterator[Succession]:
    with ExitStack() as processes:
        made = Succession(plane, processes)
        yield made
        stop(made.leader)


def test_a_standby_is_ready_and_alive_and_writes_nothing_until_the_leader_is_told_to_end(
    succession: Succession, plane: ControlPlane, place: Place
) -> None:
    leader, standby = succession.leader, succession.standby()
    assert standby.probe("/livez")[0] == 200
    assert not standby.leads
    place.model("wine")
    place.until_ready("wine")
    assert mutations(plane, standby.name) == []
    assert stop(leader) == 0
    assert "(before: nobody)" in succession.succeed(standby)  # it was released, and had not to expire


def test_a_leader_that_was_paused_writes_nothing_after_the_next_one_leads(
    succession: Succession, plane: ControlPlane, place: Place
) -> None:
    leader, standby = succession.leader, succession.standby()
    leader.until_idle()
    leader.send(signal.SIGSTOP)
    for number in range(20):  # their events wait in the paused one's sockets: it wakes with work in its hands
        place.model(f"wine-{number}")
    assert f"(before: {leader.name}" in succession.succeed(standby)
    led = datetime.now(UTC)
    standby.until_idle()
    for number in range(20):
        place.until_ready(f"wine-{number}")
    leader.send(signal.SIGCONT)
    assert leader.process.wait(PATIENCE) == 1
    assert "leadership is lost" in leader.last_lines()
    late = [
        event
        for event in mutations(plane, leader.name)
        if datetime.fromisoformat(event["requestReceivedTimestamp"]) > led
    ]
    assert late == []


def test_a_leader_that_is_killed_is_succeeded_once_its_lease_has_expired(succession: Succession, place: Place) -> None:
    leader, standby = succession.leader, succession.standby()
    leader.send(signal.SIGKILL)
    place.model("wine")
    assert f"(before: {leader.name}" in succession.succeed(standby)
    place.until_ready("wine")
