"""A network that several processes train together, as the pods of a distributed run do."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from holdfast_bundle import manifest, verify

VERIFY = """
import json, sys
from pathlib import Path
sys.path = json.loads(sys.argv[3])
from holdfast_training.__main__ import main
sys.exit(main(["verify-run", sys.argv[4]], claims=Path(sys.argv[1]), termination_log=Path(sys.argv[2])))
"""
START = """
import json, os, sys
from pathlib import Path
claims, word, sys.path, falls = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3]), int(sys.argv[4])
from holdfast_training import cpu
cpu.limit_libraries(1)
from holdfast_training import descent, epochs
epochs.KEEP_SECONDS, shuffled = 0, descent._shuffled

def watched(rows, seed, epoch):
    print("epoch", epoch, flush=True)
    if epoch == falls:
        os.kill(os.getpid(), 9)
    return shuffled(rows, seed, epoch)

descent._shuffled = watched
from holdfast_training.__main__ import main
sys.exit(main([], claims=claims, termination_log=word, progress_port=0))
"""
FEW = {"hidden_layer_sizes": "[16, 8]", "max_iter": "20", "learning_rate_init": "0.01"}
SECONDS = 300


class Ended:
    """A worker's process.

    Attributes:
        word: what went into its termination message.
        epochs: that it began.
    """

    def __init__(self, code: int, word: dict[str, Any], said: str) -> None:
        self.code, self.word = code, word
        self.epochs = [int(number) for number in re.findall(r"^epoch (\d+)$", said, re.M)]


class Pods:
    """Processes with the variables of a distributed run's pods."""

    def __init__(self, claims: Path, document: dict[str, Any]) -> None:
        self.claims, self.document = claims, document
        self.running: dict[int, subprocess.Popen[str]] = {}
        with socket.create_server(("127.0.0.1", 0)) as server:
            self.port = server.getsockname()[1]

    def start(self, worker: int, *, claims: Path | None = None, falls_at: int = 0) -> None:
        """falls_at: the epoch in which it is killed."""
        told = {
            "HOLDFAST_RUN": json.dumps(self.document),
            "JOB_COMPLETION_INDEX": str(worker),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(self.port),
            "GLOO_SOCKET_IFNAME": "lo",
        }
        word = self._word(worker)
        word.write_bytes(b"")
        arguments = [str(claims or self.claims), str(word), json.dumps(sys.path), str(falls_at)]
        self.running[worker] = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", START, *arguments],
            env={**os.environ, **told},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def ended(self, worker: int) -> Ended:
        process = self.running[worker]
        said, _ = process.communicate(timeout=SECONDS)
        print(f"worker {worker}:\n{said}")
        return Ended(process.returncode, json.loads(self._word(worker).read_bytes() or b"{}"), said)

    def stop(self) -> None:
        for process in self.running.values():
            process.kill()
            process.communicate()

    def _word(self, worker: int) -> Path:
        return self.claims / f"last-word-{worker}"


@pytest.fixture
def pods(claim: Any) -> Iterator[Callable[[dict[str, Any]], Pods]]:
    made: list[Pods] = []

    def make(document: dict[str, Any]) -> Pods:
        made.append(Pods(claim.claims, document))
        return made[-1]

    yield make
    for each in made:
        each.stop()


def document(claim: Any, mixed: Any, workers: int, **more: Any) -> dict[str, Any]:
    uri = claim.rows("data.csv", *mixed("breast-cancer"))
    parameters = {**FEW, **more.pop("parameters", {})}
    made: dict[str, Any] = claim.spec(
        uri, "diagnosis", "Classification", "TorchMLPClassifier", parameters=parameters, workers=workers, **more
    )
    return made


def trained(pods: Any, document: dict[str, Any]) -> str:
    """The digest of what its workers made of it."""
    started = pods(document)
    for worker in range(document["workers"]):
        started.start(worker)
    first, *others = [started.ended(worker) for worker in range(document["workers"])]
    assert [other.word for other in others] == [{"result": "TookPart"}] * len(others)
    assert {first.code, *(other.code for other in others)} == {0}
    digest: str = first.word["model"]["digest"]
    return digest


def folder_of(claim: Any, document: dict[str, Any]) -> Path:
    folder: Path = claim.root / "out" / document["output"]["folder"]
    return folder


def layers(folder: Path) -> list[Any]:
    """Weights and offsets of a bundle's network, and whatever else is FP32 in its graph."""
    constants = map(onnx.numpy_helper.to_array, onnx.load(folder / "model.onnx").graph.initializer)
    return [constant for constant in constants if constant.dtype == np.float32]


def test_two_workers_learn_together_what_one_learns_from_all_rows(claim: Any, mixed: Any, pods: Any) -> None:
    claim.train(document(claim, mixed, 1))
    together = document(claim, mixed, 2)
    digest = trained(pods, together)
    folder = folder_of(claim, together)
    assert verify.verify(folder, digest) == digest
    assert [manifest.read(each).lineage.get("workers") for each in (claim.last, folder)] == [None, 2]
    pairs = list(zip(layers(claim.last), layers(folder), strict=True))
    assert any(not np.array_equal(one, two) for one, two in pairs), "nothing was added up in another order"
    for one, two in pairs:
        np.testing.assert_allclose(two, one, rtol=0, atol=1e-5)


def test_so_many_workers_give_the_same_bytes_each_time(claim: Any, mixed: Any, pods: Any) -> None:
    given = {"dropout": "0.3", "batch_size": "102"}  # 410 learn: the last batch has less rows than there are workers
    runs = [document(claim, mixed, 3, parameters=given, calibration="Sigmoid") for _ in range(2)]
    first, second = (trained(pods, run) for run in runs)
    assert first == second


def test_a_worker_that_is_killed_ends_the_others_and_all_go_on_from_the_checkpoint(
    claim: Any, mixed: Any, pods: Any
) -> None:
    whole = trained(pods, document(claim, mixed, 2))
    interrupted = document(claim, mixed, 2)
    started = pods(interrupted)
    started.start(0)
    started.start(1, falls_at=9)
    assert started.ended(1).code == -9
    survivor = started.ended(0)
    assert (survivor.code, survivor.word["reason"]) == (5, "WorkerLost")
    assert "another of the 2 workers was lost" in survivor.word["message"]
    assert not folder_of(claim, interrupted).exists()
    for worker in (0, 1):
        started.start(worker)
    first, second = started.ended(0), started.ended(1)
    assert (first.code, second.code) == (0, 0)
    assert first.epochs == second.epochs
    assert first.epochs[:2] == [9, 10]
    assert first.word["model"]["digest"] == whole
    assert not list((claim.root / "out").glob(".checkpoint-*"))


def test_the_others_end_when_their_leader_fails_whatever_it_does(claim: Any, mixed: Any, pods: Any) -> None:
    for requirement, falls_at, code in (("0.5", 3, -9), ("0.9999", 0, 3)):
        run = document(claim, mixed, 2, requirements=[{"metric": "Accuracy", "minimum": requirement}])
        started = pods(run)
        started.start(0, falls_at=falls_at)
        started.start(1)
        assert started.ended(0).code == code
        other = started.ended(1)
        assert (other.code, other.word["reason"]) == (5, "WorkerLost")
        assert not folder_of(claim, run).exists()


def test_workers_that_have_read_different_rows_do_not_train(claim: Any, mixed: Any, pods: Any, tmp_path: Path) -> None:
    run = document(claim, mixed, 2)
    shutil.copytree(claim.root, tmp_path / "elsewhere" / "models")
    with open(tmp_path / "elsewhere/models/data.csv", "a", encoding="utf-8") as file:
        file.write((claim.root / "data.csv").read_text(encoding="utf-8").splitlines()[-1] + "\r\n")
    started = pods(run)
    started.start(1, claims=tmp_path / "elsewhere")
    started.start(0)
    ended = started.ended(0)
    assert (ended.code, ended.word["reason"]) == (1, "DataUnreachable")
    assert "worker 1 has read other rows than worker 0" in ended.word["message"]


def test_verify_run_trains_again_with_as_many_workers(claim: Any, mixed: Any, pods: Any, tmp_path: Path) -> None:
    run = document(claim, mixed, 2)
    digest = trained(pods, run)
    (word := tmp_path / "last-word").touch()
    uri = f"pvc://models/out/{run['output']['folder']}"
    arguments = [str(claim.claims), str(word), json.dumps(sys.path), uri]
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", VERIFY, *arguments], timeout=SECONDS)
    told = json.loads(word.read_bytes())
    assert (done.returncode, told.get("result"), told.get("digest")) == (0, "Same", digest), told


MEET = """
import json, os, sys
worker, port, falls, sys.path = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "falls", json.loads(sys.argv[4])
from holdfast_training import workers
from holdfast_training.progress import Progress

class Clock:
    monotonic = workers.time.monotonic

    def sleep(seconds, real=workers.time.sleep):
        if falls and "worker-1 is here" in said:
            os.kill(os.getpid(), 9)
        real(seconds)

said, workers.time = [], Clock
answered = workers.Team._opened
def opened(self, *, leads):
    store = answered(self, leads=leads)
    said.append(f"worker-{worker} is here")  # at the next pause it has told the leader so
    return store
workers.Team._opened = opened
with workers.Team(3, worker, ("127.0.0.1", port), is_over=lambda: True, progress=Progress()) as team:
    assert team.meet("the same")
    import torch
    ranks = torch.zeros(3, dtype=torch.float64)
    ranks[worker] = 1
    torch.distributed.all_reduce(ranks)
    assert ranks.sum().item() == 3
    if worker:
        team.await_dismissal()
    else:
        team.dismiss()
print("parted")
"""


def test_a_worker_that_went_before_all_had_met_is_not_waited_for_once_it_is_back() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

    def start(worker: int, falls: str = "") -> subprocess.Popen[str]:
        arguments = [str(worker), str(port), falls, json.dumps(sys.path)]
        return subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", MEET, *arguments],
            env={**os.environ, "GLOO_SOCKET_IFNAME": "lo"},
            stdout=subprocess.PIPE,
            text=True,
        )

    begun = [start(0), start(2)]
    try:
        assert start(1, "falls").wait(SECONDS) == -9
        begun.append(start(1))
        for process in begun:
            said, _ = process.communicate(timeout=SECONDS)
            assert said.split()[-1:] == ["parted"]
            assert process.returncode == 0
    finally:
        for process in begun:
            process.kill()
