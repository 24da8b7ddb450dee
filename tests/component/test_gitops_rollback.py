"""A rollback and a GitOps tool that goes on applying the rejected spec every second: neither undoes the other."""

from __future__ import annotations

import pytest
from bench.campaign import NEW_DIGEST, answers, say_of
from tests.component.world import DIGEST, Json, Place, until
from tests.e2e.gitops import Syncer
from tests.e2e.kube import Kube
from tests.unit.gitops import tools

from holdfast_devcluster import ControlPlane, binaries


def manifest(digest: str) -> Json:
    return {
        "apiVersion": "holdfast.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": "wine"},
        "spec": {
            "model": {"uri": "https://models.example.com/wine.onnx", "digest": digest},
            "serving": {"replicas": 1},
        },
    }


def rolled_back(place: Place) -> bool:
    return answers(DIGEST, "RevisionRejected")(place)


def events(kube: Kube) -> str:
    """As somebody reads them."""
    return kube("describe", "mdep", "wine").partition("\nEvents:")[2]


@pytest.mark.usefixtures("leader")
def test_a_rollback_is_neither_undone_nor_repeated_while_git_says_otherwise(plane: ControlPlane, place: Place) -> None:
    kube = Kube(binaries.kubectl(), plane.kubeconfig, place.namespace)
    with Syncer(kube, manifest(DIGEST), seconds=1) as syncer:
        until("the first revision serves", lambda: answers(DIGEST, "Serving")(place))
        syncer.change(manifest(NEW_DIGEST))
        until("the second revision serves", lambda: answers(NEW_DIGEST, "Serving")(place))
        say_of("rollback", 1)(place)
        until("it is rolled back", lambda: rolled_back(place))
        applied = syncer.applied
        until("it was applied three times more", lambda: syncer.applied >= applied + 3)
        after = kube.get("mdep", "wine")
        [told] = [each for each in after["status"]["decisions"] if each["action"] == "RolledBack"]
        until("an Event tells of it", lambda: f"RolledBack: {told['message']}" in events(kube))
    assert syncer.drifts == []
    assert rolled_back(place)
    assert after["spec"]["model"]["digest"] == NEW_DIGEST
    assert told["toRevision"] == after["status"]["stableRevision"] != told["fromRevision"]
    assert tools.agreed(after) == ("Degraded", "Failed")
