"""The cluster that tests and bench share."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.e2e.kube import Kube

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


@contextmanager
def running() -> Iterator[Kube]:
    """kubectl in the operator's namespace, with images and operator in place. Taken down at the end unless it was there
    before."""
    was_there = "running" in devcluster("status").lower()
    try:
        devcluster("up")
        for image in ("operator", "serving", "training", "prometheus"):
            devcluster("build-image", image)
            devcluster("load-image", image)
        admin = Kube(binaries.kubectl(), Path(devcluster("kubeconfig")), "holdfast-system")
        admin("apply", "-k", str(ROOT / "examples/cluster"))
        if was_there:  # with an operator of another content under the same name, perhaps
            admin("rollout", "restart", "deploy/holdfast-operator")
        for name in ("holdfast-operator", "prometheus"):
            admin("rollout", "status", f"deploy/{name}", "--timeout=230s")
        yield admin
    finally:
        if not was_there and not os.environ.get("HOLDFAST_KEEP_CLUSTER"):
            devcluster("down")


@contextmanager
def namespace(cluster: Kube, name: str) -> Iterator[Kube]:
    """kubectl in a namespace of its own, which is gone afterwards."""
    yield made_namespace(cluster, name)
    cluster("delete", "namespace", name, "--wait=false")


def made_namespace(cluster: Kube, name: str) -> Kube:
    """kubectl in a new namespace, under the restricted Pod Security Standard."""
    cluster.apply(
        {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": name, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
        }
    )
    return Kube(cluster.program, cluster.kubeconfig, name)
