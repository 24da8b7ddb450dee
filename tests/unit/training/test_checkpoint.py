"""A search that loses its process goes on, and processes that share one search give one bundle."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from holdfast_bundle import manifest, verify
from holdfast_training import checkpoint

PROGRAM = """
import sys
from pathlib import Path
from holdfast_training.__main__ import main
sys.exit(main([], claims=Path(sys.argv[1]), termination_log=Path(sys.argv[2]), progress_port=0))
"""
TRIALS = 8


def document(claim: Any, shipped: Path, folder: str, **tuning: Any) -> dict[str, Any]:
    uri = claim.text("wine.csv", (shipped / "wine.csv").read_bytes())
    search = [
        {"parameter": "n_estimators", "low": "20", "high": "60"},
        {"parameter": "max_depth", "low": "2", "high": "9"},
    ]
    made: dict[str, Any] = claim.spec(uri, "cultivar", "Classification", "")
    made["estimators"] = [{"name": "ExtraTreesClassifier", "search": search}]
    made["tuning"] = {"trials": TRIALS, "folds": 3, **tuning}
    made["output"] = {"uri": "pvc://models/out", "folder": folder}
    return made


class Process:
    """A pod of a run."""

    def __init__(self, claims: Path, run: dict[str, Any], index: int | None = None) -> None:
        self._word = claims / f"last-word-{run['output']['folder']}-{index}"
        self._word.write_bytes(b"")
        told = {"HOLDFAST_RUN": json.dumps(run)} | ({} if index is None else {"JOB_COMPLETION_INDEX": str(index)})
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(claims), str(self._word)],
            env={**os.environ, **told},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()

    def end(self) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Its report, and its log."""
        said, words = self.process.communicate(timeout=180)
        assert self.process.returncode == 0, words
        return json.loads(self._word.read_bytes()), [json.loads(line) for line in said.splitlines()]


def until(reached: Callable[[], bool], process: Process) -> None:
    end = time.monotonic() + 120
    while not reached():
        assert process.process.poll() is None, process.process.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)


def noted(log: list[dict[str, Any]]) -> Callable[..., None]:
    """Keeps the lines of a run in this process."""
    return lambda event, **facts: log.append({"event": event, **facts})


def trials(log: list[dict[str, Any]]) -> int:
    return sum(line["event"] == "trial" for line in log)


def ended_trials(folder: Path) -> int:
    """By the journal; a trial that ends sets its state."""
    journals = list(folder.glob("*.journal"))
    return journals[0].read_text().count('"values"') if journals else 0


def test_a_run_whose_pod_was_killed_goes_on_and_gives_the_same_bundle(claim: Any, shipped: Path) -> None:
    folder = claim.root / "out/.checkpoint-killed"
    run = document(claim, shipped, "killed")
    first = Process(claim.claims, run)
    until(lambda: ended_trials(folder) >= 2, first)
    first.kill()
    report, log = Process(claim.claims, run).end()
    assert 0 < trials(log) <= TRIALS - 2
    assert not folder.exists()
    whole_log: list[dict[str, Any]] = []
    whole = claim.train(document(claim, shipped, "whole"), log=noted(whole_log))
    assert trials(whole_log) == TRIALS
    assert report["model"]["digest"] == whole["model"]["digest"]


def test_processes_share_the_trials_of_a_run_and_the_first_publishes(claim: Any, shipped: Path) -> None:
    run = document(claim, shipped, "shared", parallelism=2)
    second = Process(claim.claims, run, 1)  # it comes first and waits
    first = Process(claim.claims, run, 0)
    (report, log), (other, other_log) = first.end(), second.end()
    assert other == {"result": "TookPart"}
    assert trials(log) + trials(other_log) == TRIALS
    bundle = claim.root / "out/shared"
    assert verify.verify(bundle, report["model"]["digest"])
    assert manifest.read(bundle).lineage["tuning"]["parallelism"] == 2
    assert not (claim.root / "out/.checkpoint-shared").exists()
    late_log: list[dict[str, Any]] = []
    assert claim.train(run, worker=1, log=noted(late_log))["result"] == "Completed"
    assert trials(late_log) == 0


def test_who_waits_for_a_run_that_is_over_is_not_invited(tmp_path: Path) -> None:
    looks: list[int] = []

    def is_over() -> bool:
        looks.append(1)
        return len(looks) > 1

    meeting = checkpoint.Meeting(tmp_path, "search", 1, is_over)
    assert not meeting.is_invited()
    meeting.invite()
    assert meeting.is_invited()
    assert len(looks) == 2


def test_where_nothing_outlives_a_pod_a_search_is_in_memory(tmp_path: Path) -> None:
    meeting = checkpoint.Meeting(None, "search", 0, lambda: False)
    assert meeting.storage() is None
    meeting.invite()
    with pytest.raises(ValueError, match="nothing outlives a pod"):
        meeting.is_invited()
