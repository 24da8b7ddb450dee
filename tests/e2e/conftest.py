"""A real cluster with the operator in it, for the whole run; a namespace for each module."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.kube import Kube
from tests.e2e.models import ModelServer, start_model_server

from holdfast_devcluster import binaries

ROOT = Path(__file__).resolve().parents[2]


def devcluster(*arguments: str) -> str:
    """Run devcluster; its progress goes to the terminal. Returns what it printed last."""
    done = subprocess.run(
        [sys.executable, "-m", "holdfast_devcluster", *arguments],
        cwd=ROOT,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return done.stdout.strip().splitlines()[-1] if done.stdout.strip() else ""


@pytest.fixture(scope="session")
def cluster(pytestconfig: pytest.Config) -> Iterator[Kube]:
    """The cluster, with images and the operator; taken down at the end unless it was there before."""
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        was_there = "running" in devcluster("status").lower()
        try:
            devcluster("up")
            for image in ("operator", "serving", "training"):
                devcluster("build-image", image)
                devcluster("load-image", image)
            kubeconfig = Path(devcluster("kubeconfig"))
            admin = Kube(binaries.kubectl(), kubeconfig, "holdfast-system")
            admin("apply", "-k", str(ROOT / "manifests/base"))
            admin("rollout", "status", "deploy/holdfast-operator", "--timeout=180s", timeout=200)
            yield admin
        finally:
            if not was_there and not os.environ.get("HOLDFAST_KEEP_CLUSTER"):
                devcluster("down")


@pytest.fixture(scope="module")
def kube(cluster: Kube, request: pytest.FixtureRequest) -> Iterator[Kube]:
    """kubectl in a namespace of the module's own, under the restricted Pod Security Standard."""
    namespace = re.sub(r"[^a-z0-9]+", "-", request.module.__name__.rsplit(".", 1)[-1].lower())
    cluster.apply(
        {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": namespace, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
        }
    )
    yield Kube(cluster.program, cluster.kubeconfig, namespace)
    cluster("delete", "namespace", namespace, "--wait=false")


@pytest.fixture(scope="module")
def models(kube: Kube) -> ModelServer:
    """A web server with models and tables in the module's namespace."""
    return start_model_server(kube)
