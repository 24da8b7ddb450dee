"""Worlds to begin with."""

from typing import Any

from tests.unit.plan.world import World

from holdfast.plan import modeldeployment, trainingjob

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
