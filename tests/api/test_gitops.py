"""What GitOps tools do to objects on a real API server."""

from __future__ import annotations

import os
import re
import subprocess
from typing import Any

import yaml
from tests.api.server import Json, Server, model_deployment
from tests.e2e.gitops import Syncer
from tests.e2e.kube import Kube
from tests.unit.gitops import tools
from tests.unit.gitops.tools import ARGOCD

from holdfast_devcluster import binaries, paths

PAGE = paths.REPOSITORY / "docs" / "gitops.md"


def merge_patch(before: Json, after: Json) -> Json:
    """The JSON merge patch that makes `after` of `before`, as Argo CD sends it."""
    patch: dict[str, Any] = {key: None for key in before if key not in after}
    for key, value in after.items():
        if isinstance(value, dict) and isinstance(before.get(key), dict):
            if inner := merge_patch(before[key], value):
                patch[key] = inner
        elif value != before.get(key):
            patch[key] = value
    return patch


def test_an_action_says_one_thing_which_the_next_sync_leaves_there(server: Server) -> None:
    manifest = model_deployment("refreshed")
    before = server.apply(manifest, manager="argocd-controller")
    patch = merge_patch(before, tools.acted(before, "refresh"))
    assert patch == {"metadata": {"annotations": {"holdfast.dev/refresh": before["metadata"]["resourceVersion"]}}}
    server.merge("ModelDeployment", "refreshed", patch)
    after = server.apply(manifest, manager="argocd-controller")
    assert after["metadata"]["annotations"] == patch["metadata"]["annotations"]
    assert (after["spec"], after["metadata"]["generation"]) == (before["spec"], 1)


def test_the_overlay_takes_nothing_from_the_argocd_cm_that_is_there(server: Server) -> None:
    plane = server.plane
    plane.kubectl("create", "namespace", "argocd")
    theirs = tools.read(ARGOCD / "argocd-cm.yaml") | {"data": {"url": "https://cd.example.com"}}
    plane.kubectl("apply", "-f", "-", input=yaml.safe_dump(theirs))
    [command] = re.findall(r"^kubectl kustomize manifests/argocd .*$", PAGE.read_text(), re.M)
    path = f"{binaries.kubectl().parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"KUBECONFIG": str(plane.kubeconfig), "PATH": path}
    subprocess.run(["bash", "-c", command], cwd=paths.REPOSITORY, env=environment, check=True)
    found = yaml.safe_load(plane.kubectl("-n", "argocd", "get", "cm", "argocd-cm", "-o", "yaml"))
    assert found["data"]["url"] == "https://cd.example.com"
    assert len(found["data"]) == 1 + 2 * len(tools.KINDS)
    plane.kubectl("delete", "namespace", "argocd", "--wait=false")


def test_a_syncer_notes_what_others_do_to_what_git_says(server: Server) -> None:
    kube = Kube(binaries.kubectl(), server.plane.kubeconfig, server.namespace)
    name = "noted"
    with Syncer(kube, model_deployment(name), seconds=3600) as syncer:
        server.merge("ModelDeployment", name, {"status": {"observedGeneration": 1}}, "status")
        server.merge(
            "ModelDeployment", name, {"metadata": {"annotations": {"holdfast.dev/rollout": "pause 5f3a9c0d1e"}}}
        )
        syncer.sync()
        assert syncer.drifts == []
        server.merge("ModelDeployment", name, {"metadata": {"labels": {"by": "somebody"}}})
        syncer.sync()
        server.apply(model_deployment(name, model=None, serving={"replicas": 2}))
        syncer.sync()
    assert syncer.applied == 4
    label, spec, generation, operator = syncer.drifts
    assert "labels: {} → {'by': 'somebody'}" in label
    assert "spec" in spec
    assert "generation: 1 → 2" in generation
    assert "written to by the operator: [{'f:spec'" in operator
