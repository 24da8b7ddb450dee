"""A GitOps tool that applies the same manifests over and over finds nothing to do, and nothing is undone by it."""

from __future__ import annotations

from tests.e2e.gitops import Syncer
from tests.e2e.kube import Kube
from tests.e2e.models import ModelServer
from tests.e2e.test_bad_models import ABSENT_DIGEST, deployment
from tests.unit.gitops import tools


def test_nothing_that_git_says_is_changed_by_serving_a_rollout_or_a_failure(kube: Kube, models: ModelServer) -> None:
    good = deployment("synced", {"uri": models.url("good.onnx")})
    better = deployment("synced", {"uri": models.url("better.onnx")})
    worse = deployment("synced", {"uri": models.url("better.onnx"), "digest": ABSENT_DIGEST})
    with Syncer(kube, good, seconds=1) as syncer:
        kube("wait", "--for=condition=Ready", "--timeout=230s", "mdep/synced")
        syncer.sync()
        first = kube.get("mdep", "synced")["status"]["stableRevision"]
        syncer.change(better)
        kube("wait", "--for=condition=Ready", "--timeout=230s", "mdep/synced")
        second = kube.get("mdep", "synced")["status"]["stableRevision"]
        syncer.change(worse)
        kube("wait", "--for=condition=Stalled", "--timeout=230s", "mdep/synced")
        kube.wait("mdep", "synced", lambda _: syncer.applied >= 4, "it was applied four times as it is")
        failed = kube.get("mdep", "synced")
    assert syncer.drifts == []
    assert first != second == failed["status"]["stableRevision"]
    said = [tools.agreed(found)[0] for found in syncer.seen]
    assert {"Progressing", "Healthy"} <= set(said)
    assert tools.agreed(failed) == ("Degraded", "Failed")
    kube("delete", "mdep", "synced", "--wait=false")
