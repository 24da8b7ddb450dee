"""Argo CD and kstatus agree: on all test data, and on whatever the planner says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.unit.gitops import tools
from tests.unit.gitops.tools import CUSTOMIZATIONS, Json
from tests.unit.plan import test_modeldeployment, test_trainingjob
from tests.unit.plan.world import World

STATES = [path for path in sorted(CUSTOMIZATIONS.glob("*/testdata/*.yaml")) if "noStatus" not in path.name]
WORLDS = [
    pytest.param(kind, row[0], row[2], id=f"{kind}-{reason}")
    for kind, reasons in (
        ("ModelDeployment", test_modeldeployment.REASONS),
        ("TrainingJob", test_trainingjob.REASONS),
    )
    for reason, row in reasons.items()
]


@pytest.mark.parametrize("path", STATES, ids=lambda path: f"{path.parts[-3]}-{path.stem}")
def test_they_agree_on_the_test_data(path: Path) -> None:
    tools.agreed(tools.read(path))


@pytest.mark.parametrize(("kind", "make", "condition"), WORLDS)
def test_they_agree_on_what_the_planner_says(kind: str, make: Callable[[], World], condition: str | None) -> None:
    world = make()
    _, kstatus = tools.agreed(seen(world, kind))
    said = {"Reconciling": {"InProgress"}, "Stalled": {"Failed"}, None: {"Current", "InProgress"}}
    assert kstatus in said[condition]


@pytest.mark.parametrize(("kind", "make", "condition"), WORLDS)
def test_nothing_is_known_of_a_spec_that_was_not_seen(
    kind: str, make: Callable[[], World], condition: str | None
) -> None:
    world = make()
    world.generation += 1
    assert tools.agreed(seen(world, kind)) == ("Progressing", "InProgress")


def seen(world: World, kind: str) -> Json:
    """The object as it is read now."""
    return {
        "apiVersion": "holdfast.dev/v1alpha1",
        "kind": kind,
        "metadata": {"name": world.name, "generation": world.generation},
        "spec": world.spec,
        "status": dict(world.status),
    }
