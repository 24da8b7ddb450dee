"""What several CPUs are used for."""

from __future__ import annotations

import threading
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
from tests.unit.serving import models
from tests.unit.serving.server import serving

from holdfast_serving import session, topology
from holdfast_serving.topology import Topology

ROW = {"x": np.ones((1, 1024), np.float32)}


class Sleeper(session.Model):
    """Its runs take 4 ms, whatever the machine does beside them; with a lock, one after the other."""

    turn: AbstractContextManager[Any] = nullcontext()
    runs = 0
    """Of all of them."""

    def twin(self) -> Self:
        made = super().twin()
        made.turn = self.turn
        return made

    def run(self, feeds: Any) -> Any:
        type(self).runs += 1
        with self.turn:
            time.sleep(0.004)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(models.heavy(layers=1))
    return path


def sleeper(file: Path, turn: AbstractContextManager[Any]) -> Sleeper:
    model = Sleeper(session.load(file, 1)._session)
    model.turn, Sleeper.runs = turn, 0
    return model


def chosen_as(wanted: Topology, model: Sleeper, file: Path, cpus: int) -> session.Model:
    """What is chosen together with `wanted`, as soon as others on the machine do not disturb the trial."""
    for _ in range(20):
        chosen, how = topology.choose(model, file, ROW, 0.004, cpus)
        if how == wanted:
            return chosen
    raise AssertionError(f"{how} all the time")


def test_runs_go_on_side_by_side_where_more_of_them_end_so(file: Path) -> None:
    """The other session is a real one, of a model that takes longer than 4 ms, also with threads."""
    file.write_bytes(models.heavy(layers=200))
    model = sleeper(file, nullcontext())
    assert chosen_as(Topology(threads=1, runs=4), model, file, 4) is model


def test_runs_that_wait_for_each_other_come_one_after_the_other(file: Path) -> None:
    model = sleeper(file, threading.Lock())
    chosen = chosen_as(Topology(threads=4, runs=1), model, file, 4)
    assert chosen is not model
    assert chosen.signature is model.signature
    assert chosen.run(ROW)[0] == pytest.approx(1)


def test_threads_are_better_where_they_make_a_run_as_much_faster(file: Path) -> None:
    """The other session is a real one of a small model: it runs in far less than a quarter of the time."""
    chosen = chosen_as(Topology(threads=2, runs=1), sleeper(file, nullcontext()), file, 2)
    assert not isinstance(chosen, Sleeper)


@pytest.mark.parametrize(("seconds", "how"), [(0.0001, Topology(processes=2)), (0.3, Topology(threads=2))])
def test_what_is_tiny_or_long_is_not_tried(file: Path, seconds: float, how: Topology) -> None:
    model = sleeper(file, nullcontext())
    assert topology.choose(model, file, ROW, seconds, 2)[1] == how
    assert model.runs == 0


def test_there_are_no_more_processes_than_memory_for_them() -> None:
    assert topology.affordable(4, None) == topology.affordable(4, 1 << 40) == 4
    assert topology.affordable(4, 1 << 20) == 1
    halves = [topology.affordable(1000, limit) for limit in (20 << 30, 10 << 30)]
    assert halves[1] < halves[0] < 1000
    assert halves[0] // 2 - halves[1] in (-1, 0, 1)


def test_a_trial_ends_though_its_runs_do_not(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(models.endless())
    model = session.load(path, 1)
    row = {"x": np.ones((1, 1), np.float32)}
    _, how = topology.choose(model, path, row, 0.05, 2)  # which would not end
    assert how.runs == 1


def test_what_was_chosen_is_told(tmp_path: Path) -> None:
    with serving(tmp_path, models.heavy(), "--cpus", "2") as server:
        parameters = server.get("/v2/models/wine").json()["parameters"]
        runs, threads = parameters["parallel_runs"], parameters["threads"]
        assert sorted((runs, threads)) == [1, 2]
        assert server.metric("holdfast_model_info", parallel_runs=str(runs), threads=str(threads)) == 1
        assert server.metric("holdfast_model_load_phase_seconds", phase="topology") < 20
        assert server.ask(x=("FP32", [1, 1024], [1.0] * 1024))["y"]["data"] == [pytest.approx(1)]
