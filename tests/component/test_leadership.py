"""Two operators: one writes, and the other takes over when it should."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from tests.component.world import Operator, Place, mutations, operator, stop

from holdfast_devcluster import ControlPlane

KILLED = 17.0
STOPPED = 3.0


@contextmanager
def leader_and_standby(plane: ControlPlane, name: str) -> Iterator[tuple[Operator, Operator]]:
    with operator(plane, f"{name}-first") as first:
        first.until_idle()
        with operator(plane, f"{name}-second") as second:
            second.until("the second one answers", lambda: second.health)
            yield first, second
            if second.process.poll() is None:
                stop(second)


def seconds_until_it_leads(standby: Operator, limit: float) -> float:
    begin = time.monotonic()
    standby.until("the standby leads", lambda: standby.leads, limit)
    return time.monotonic() - begin


def test_a_standby_is_ready_and_alive_and_writes_nothing(plane: ControlPlane, place: Place) -> None:
    with leader_and_standby(plane, "standby") as (first, second):
        assert second.probe("/readyz")[0] == second.probe("/livez")[0] == 200
        assert not second.leads
        place.model("wine")
        place.until_ready("wine")
        assert mutations(plane, second.name) == []
        begin = time.monotonic()
        assert stop(first) == 0
        seconds_until_it_leads(second, STOPPED - (time.monotonic() - begin))


def test_a_leader_that_is_told_to_end_is_succeeded_within_three_seconds(plane: ControlPlane) -> None:
    with leader_and_standby(plane, "stopped") as (first, second):
        first.send(signal.SIGTERM)
        seconds_until_it_leads(second, STOPPED)
        assert first.process.wait(10) == 0


def test_a_leader_that_is_killed_is_succeeded_within_seventeen_seconds(plane: ControlPlane, place: Place) -> None:
    with leader_and_standby(plane, "killed") as (first, second):
        first.send(signal.SIGKILL)
        place.model("wine")
        seconds_until_it_leads(second, KILLED)
        place.until_ready("wine")


def test_a_leader_that_was_paused_writes_nothing_after_the_next_one_leads(plane: ControlPlane, place: Place) -> None:
    with leader_and_standby(plane, "paused") as (first, second):
        first.send(signal.SIGSTOP)
        paused = datetime.now(UTC)
        for number in range(20):  # their events wait in the paused one's sockets: it wakes with work in its hands
            place.model(f"wine-{number}")
        seconds_until_it_leads(second, KILLED)
        second.until_idle()
        for number in range(20):
            place.until_ready(f"wine-{number}")
        first.send(signal.SIGCONT)
        assert first.process.wait(10) == 1
        assert "leadership is lost" in first.last_lines()
        late = [
            event
            for event in mutations(plane, first.name)
            if datetime.fromisoformat(event["requestReceivedTimestamp"]) > paused
        ]
        assert late == []
