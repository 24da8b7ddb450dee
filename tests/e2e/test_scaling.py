"""Replicas are the user's or an autoscaler's, through the scale subresource."""

from __future__ import annotations

from tests.e2e.kube import JsonObject, Kube
from tests.e2e.models import ModelServer
from tests.e2e.test_bad_models import deployment


def test_an_autoscaler_acts_on_the_model_deployment(kube: Kube, models: ModelServer) -> None:
    manifest = deployment("scaled", {"uri": models.url("good.onnx")})
    del manifest["spec"]["serving"]
    kube.apply(manifest)
    kube.wait_ready("scaled")
    autoscaler: JsonObject = {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "scaled"},
        "spec": {
            "scaleTargetRef": {"apiVersion": "holdfast.dev/v1alpha1", "kind": "ModelDeployment", "name": "scaled"},
            "minReplicas": 2,
            "maxReplicas": 3,
        },
    }
    kube.apply(autoscaler)
    kube.wait("mdep", "scaled", lambda o: o["status"].get("readyReplicas") == 2, "two pods are ready")
    budgets = "holdfast.dev/model-deployment=scaled"
    kube.wait("mdep", "scaled", lambda _: len(kube.list("pdb", budgets)) == 1, "there is a budget")
    assert kube.get("pdb", "scaled")["spec"]["maxUnavailable"] == 1
    kube.apply(manifest)  # a sync from Git, where replicas are left out
    assert kube.get("mdep", "scaled")["spec"]["serving"]["replicas"] == 2
    kube("delete", "hpa", "scaled")
    revision = kube.get("mdep", "scaled")["status"]["stableRevision"]
    kube("scale", "mdep/scaled", "--replicas=0")
    kube.wait_reason("mdep", "scaled", "Available", "ScaledToZero")
    kube("scale", "mdep/scaled", "--replicas=1")
    assert kube.wait_ready("scaled")["status"]["stableRevision"] == revision
    kube("delete", "mdep", "scaled")
    kube.wait(
        "ns", kube.namespace, lambda _: not kube.list("deploy,svc,pdb", "holdfast.dev/model-deployment=scaled"), "gone"
    )
