"""Argo CD and kstatus agree: on all test data, and on whatever the planner says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis.stateful import invariant
from tests.unit.gitops import tools
from tests.unit.gitops.tools import CUSTOMIZATIONS, Json
from tests.unit.plan import test_batchinference, test_modeldeployment, test_properties, test_trainingjob
from tests.unit.plan.world import World

STATES = [path for path in sorted(CUSTOMIZATIONS.glob("*/testdata/*.yaml")) if "noStatus" not in path.name]
WORLDS = [
    pytest.param(kind, row[0], row[2], id=f"{kind}-{reason}")
    for kind, reasons in (
        ("ModelDeployment", test_modeldeployment.REASONS),
        ("TrainingJob", test_trainingjob.REASONS),
        ("BatchInference", test_batchinference.REASONS),
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


class Fulfilled:
    """Whatever happens to `world`: the tools agree, and take it for done when its spec is fulfilled and not before."""

    kind: str
    summary: str
    world: World

    @invariant()
    def the_tools_agree(self) -> None:
        if not hasattr(self, "world") or not self.world.status:
            return
        _, kstatus = tools.agreed(seen(self.world, self.kind))
        current = self.world.status["observedGeneration"] == self.world.generation
        said = self.world.condition(self.summary) or {}
        # A run that a person holds is not in progress, and kstatus has no other word for that.
        done = current and (said["status"] == "True" or (self.summary, said["reason"]) == ("Succeeded", "Suspended"))
        assert (kstatus == "Current") == done


class ModelDeployments(Fulfilled, test_properties.ModelDeployments):
    kind, summary = "ModelDeployment", "Ready"


class TrainingJobs(Fulfilled, test_properties.TrainingJobs):
    kind, summary = "TrainingJob", "Succeeded"


class BatchInferences(Fulfilled, test_properties.BatchInferences):
    kind, summary = "BatchInference", "Succeeded"


TestModelDeployments = ModelDeployments.TestCase
TestModelDeployments.settings = test_properties.LIMITS
TestTrainingJobs = TrainingJobs.TestCase
TestTrainingJobs.settings = test_properties.LIMITS
TestBatchInferences = BatchInferences.TestCase
TestBatchInferences.settings = test_properties.LIMITS


def seen(world: World, kind: str) -> Json:
    """The object as it is read now."""
    return {
        "apiVersion": "holdfast.dev/v1alpha1",
        "kind": kind,
        "metadata": {"name": world.name, "generation": world.generation},
        "spec": world.spec,
        "status": dict(world.status),
    }
