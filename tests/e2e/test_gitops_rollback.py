"""A rollback and a GitOps tool that goes on applying the rejected spec every second: neither undoes the other."""

from __future__ import annotations

import json
import time

from tests.e2e.gitops import Syncer
from tests.e2e.kube import JsonObject, Kube
from tests.e2e.models import ModelServer, onnx_digest, start_model_server
from tests.e2e.rollouts import Users
from tests.e2e.wine import trained
from tests.unit.gitops import tools

NAME = "wine"
GOOD, LATER = "good.onnx", "later.onnx"


def manifest(models: ModelServer, file: str) -> JsonObject:
    return {
        "apiVersion": "holdfast.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": NAME},
        "spec": {
            "model": {"uri": models.url(file), "digest": onnx_digest(models.files[file])},
            "serving": {"replicas": 2},
            "slo": {"availability": "99.9"},
        },
    }


def events(kube: Kube) -> str:
    """As somebody reads them."""
    return kube("describe", "mdep", NAME).partition("\nEvents:")[2]


def test_a_rollback_is_neither_undone_nor_repeated_while_git_says_otherwise(kube: Kube) -> None:
    wine = trained()
    files = {GOOD: wine.model, LATER: wine.version("fails", later=True)}
    models = start_model_server(kube, files | {"questions.json": json.dumps(wine.questions).encode()})
    kube("delete", "mdep", NAME, "--ignore-not-found")  # of a try before
    with Syncer(kube, manifest(models, GOOD), seconds=1) as syncer:
        first = kube.wait_ready(NAME)["status"]["stableRevision"]
        users = Users(kube, NAME, "--rate=50", "--patience=40")
        syncer.change(manifest(models, LATER))
        second = kube.wait_ready(NAME, revision_not=first)["status"]["stableRevision"]
        time.sleep(10)
        users.drink(strong=True)
        kube.wait_reason("mdep", NAME, "Ready", "RevisionRejected")
        applied = syncer.applied
        kube.wait("mdep", NAME, lambda _: syncer.applied >= applied + 5, "it was applied five times more")
        after = kube.get("mdep", NAME)
        [told] = [each for each in after["status"]["decisions"] if each["action"] == "RolledBack"]
        words = f"RolledBack: {told['message']}"
        kube.wait("mdep", NAME, lambda _: words in events(kube), "an Event tells of it")
    users.stop()
    assert syncer.drifts == []
    assert after["spec"]["model"] == manifest(models, LATER)["spec"]["model"]
    assert after["status"]["stableRevision"] == first
    assert (told["fromRevision"], told["toRevision"]) == (second, first)
    assert f"({told['evidence']})" in events(kube)
    assert "failed" in told["evidence"]
    assert tools.agreed(after) == ("Degraded", "Failed")
    kube("delete", "mdep", NAME, "--wait=false")
