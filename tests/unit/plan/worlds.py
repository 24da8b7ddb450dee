"""Worlds to begin with."""

from typing import Any

from tests.unit.plan.world import World

from holdfast.plan import batchinference, modeldeployment, trainingjob
from holdfast.plan.observed import Served

PINNED = "sha256:" + "a" * 64
OTHER = "sha256:" + "b" * 64
URI = "pvc://models/wine/1"


def model_deployment(uri: str = URI, digest: str | None = PINNED, **serving: Any) -> World:
    """A new ModelDeployment; without `digest` its model has to be resolved."""
    model = {"uri": uri} | ({"digest": digest} if digest else {})
    return World(modeldeployment.needs, modeldeployment.plan, {"model": model, "serving": {"replicas": 1, **serving}})


def serving(**given: Any) -> World:
    """A ModelDeployment that serves."""
    world = model_deployment(**given)
    world.step()
    world.ready()
    world.converge()
    assert world.says("Ready") == ("True", "Serving")
    return world


def training_job(**spec: Any) -> World:
    """A new TrainingJob, with the defaults that the API server fills in."""
    given = {
        "data": {"uri": "pvc://lake/wine.csv"},
        "target": "quality",
        "task": "Classification",
        "estimators": [{"name": "RandomForestClassifier"}],
        "output": {"uri": "pvc://models/wine"},
        "seed": 0,
        "backoffLimit": 2,
        "activeDeadlineSeconds": 86400,
        "ttlSecondsAfterFinished": 604800,
        "suspend": False,
    }
    return World(trainingjob.needs, trainingjob.plan, given | spec)


SERVED = Served("pvc://models/wine/3", PINNED, "5f3a9c0d1e")


def batch_inference(served: Served | None = SERVED, **spec: Any) -> World:
    """A new BatchInference of what a ModelDeployment serves, with the defaults that the API server fills in."""
    given = {
        "suspend": False,
        "model": {"modelDeploymentRef": {"name": "wine"}},
        "input": {"uri": "pvc://lake/wine/"},
        "output": {"uri": "pvc://lake/scored"},
        "batchRows": 1024,
        "maxBadRowsPerMille": 0,
        "parallelism": 4,
        "backoffLimit": 2,
        "activeDeadlineSeconds": 86400,
        "ttlSecondsAfterFinished": 604800,
    }
    world = World(batchinference.needs, batchinference.plan, given | spec)
    world.served = served
    return world
