"""A sample of the models that `make fuzz` makes by the thousand."""

from __future__ import annotations

from pathlib import Path

from tests.hostile.bundles import MARKER
from tests.hostile.model_mutants import judge_all, mutants
from tests.hostile.nursery import Nursery
from tests.hostile.watch import Watch

SAMPLE = 120


def test_damaged_models_are_refused_or_served_and_end_no_server(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(MARKER)
    with Nursery() as nursery, Watch(tmp_path / "secret") as watch:
        nursery.patience = 10
        outcomes = judge_all(SAMPLE, 1, folder, nursery)
        assert watch.events() == 0
    assert outcomes.total() == SAMPLE
    assert min(outcomes["refused"], outcomes["served"]) > SAMPLE // 20, outcomes


def test_they_are_always_the_same() -> None:
    assert list(mutants(20, 5)) == list(mutants(20, 5)) != list(mutants(20, 6))
