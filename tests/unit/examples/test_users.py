"""The users of the examples see what a server does to them, and count it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from examples.wine.users import users
from tests.e2e.wine import Wine, trained
from tests.unit.serving.server import REVISION, Server, serving, until


@pytest.fixture(scope="module")
def wine() -> Wine:
    return trained()


class Asking:
    """`users.py` as a process; its lines as they come."""

    def __init__(self, folder: Path, server: Server, questions: dict[str, Any], *arguments: str) -> None:
        (folder / "questions.json").write_text(json.dumps(questions))
        self.control = folder / "control"
        self.control.mkdir()
        self._output = folder / "lines"
        command = [sys.executable, users.__file__, f"{server.url}/v2/models/wine", str(folder / "questions.json")]
        with self._output.open("w") as output:
            self.process = subprocess.Popen(
                [*command, f"--control={self.control}", *arguments], stdout=output, env={"PATH": os.defpath}
            )

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._output.read_text().splitlines()]

    def stop(self) -> dict[str, Any]:
        """The sum of all."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(60) == 0
        *seconds, total = self.lines()
        assert total.pop("total")
        for name in ("requests", "failed", "late", "wrong", "slow", "again"):
            assert total[name] == sum(second[name] for second in seconds)
        return total


@contextmanager
def asking(folder: Path, server: Server, wine: Wine, *arguments: str, **more: Any) -> Iterator[Asking]:
    started = Asking(folder, server, wine.questions | more, *arguments)
    try:
        yield started
    finally:
        if started.process.poll() is None:
            started.process.kill()
        started.process.wait()


def asked(running: Asking, count: int) -> None:
    until(lambda: sum(line["requests"] for line in running.lines()) >= count, f"{count} requests")


def test_right_answers_come_at_the_rate_that_was_asked_for(tmp_path: Path, wine: Wine) -> None:
    with (
        serving(tmp_path, wine.model) as server,
        asking(tmp_path, server, wine, "--rate=100", "--seconds=4") as running,
    ):
        running.process.wait(60)
        total = running.lines()[-1]
        assert 100 < total["requests"] < 550  # 400 expected, and one standard deviation is 20
        assert total["failed"] == total["wrong"] == 0
        assert total["revisions"] == {REVISION: total["requests"]}
        assert server.outcomes()["ok"] == total["requests"]
        assert (total["first_bad"] is None) == (total["late"] == 0)


def test_a_kept_connection_that_was_closed_is_tried_once_more_and_then_it_is_a_failure(
    tmp_path: Path, wine: Wine
) -> None:
    with serving(tmp_path, wine.model) as server, asking(tmp_path, server, wine) as running:
        asked(running, 50)
        gone = time.time()
        server.process.kill()
        until(lambda: running.lines()[-1]["failed"] > 10, "failures")
        total = running.stop()
    assert 0 < total["again"] <= total["failed"]
    assert gone <= total["first_bad"] < total["last_bad"]
    assert "ConnectionRefusedError" in total["errors"][-1]


def test_other_classes_than_were_expected_are_wrong(tmp_path: Path, wine: Wine) -> None:
    content = wine.version("wrong", share=0.5)
    with serving(tmp_path, content) as server, asking(tmp_path, server, wine) as running:
        asked(running, 100)
        total = running.stop()
    assert 0.25 < total["wrong"] / total["requests"] < 0.75
    assert total["failed"] == 0
    assert total["last_bad"]


def test_a_defect_begins_when_the_users_change_their_rows(tmp_path: Path, wine: Wine) -> None:
    content = wine.version("fails", later=True)
    with serving(tmp_path, content) as server, asking(tmp_path, server, wine) as running:
        asked(running, 50)
        (running.control / "strong").touch()
        until(lambda: running.lines()[-1]["failed"] > 10, "failures")
        (running.control / "strong").unlink()
        until(lambda: not running.lines()[-1]["failed"] and not running.lines()[-1]["strong_since"], "their end")
        lines = running.lines()
        total = running.stop()
    since = next(line["strong_since"] for line in lines if line["strong_since"])
    assert not any(line["failed"] for line in lines if line["at"] < since)
    assert total["first_bad"] >= since
    assert "500" in total["errors"][0]


def test_a_share_of_strong_wines_meets_a_share_of_the_defect(tmp_path: Path, wine: Wine) -> None:
    with (
        serving(tmp_path, wine.version("wrong", later=True)) as server,
        asking(tmp_path, server, wine, "--rate=100", "--strong=0.3") as running,
    ):
        asked(running, 300)
        total = running.stop()
    assert 0.15 < total["wrong"] / total["requests"] < 0.45
    assert total["strong_since"] is None


def test_slow_and_late_answers_are_told_apart(tmp_path: Path, wine: Wine) -> None:
    content = wine.version("slow", share=0.2)
    with serving(tmp_path, content) as server, asking(tmp_path, server, wine, "--rate=4", "--slow=60") as running:

        def both() -> bool:
            requests, slow = (sum(line[name] for line in running.lines()) for name in ("requests", "slow"))
            return 0 < slow < requests

        until(both, "slow answers, and others")
        total = running.stop()
    assert total["late"] <= total["slow"]
    assert 0 < total["slow"] < total["requests"]
    assert total["failed"] == total["wrong"] == 0


def test_an_answer_after_more_than_a_second_is_late(tmp_path: Path, wine: Wine) -> None:
    with serving(tmp_path, wine.model) as server, asking(tmp_path, server, wine) as running:
        asked(running, 20)
        server.process.send_signal(signal.SIGSTOP)
        time.sleep(2)
        server.process.send_signal(signal.SIGCONT)
        until(lambda: any(line["late"] for line in running.lines()), "late answers")
        total = running.stop()
    assert total["failed"] == total["wrong"] == 0
    assert total["late"] > 10
    assert total["last_bad"] >= total["first_bad"]


def test_users_are_of_unequal_rates_and_keep_their_connections(tmp_path: Path, wine: Wine) -> None:
    with serving(tmp_path, wine.model) as server, asking(tmp_path, server, wine, "--users=4", "--rate=80") as running:
        asked(running, 200)
        held = _connections(server.port)
        total = running.stop()
    assert total["again"] == 0
    assert 4 <= held < 40


def _connections(port: int) -> int:
    """Those that are open to a port of loopback."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return sum(line.split()[2] == f"0100007F:{port:04X}" and line.split()[3] == "01" for line in lines)
