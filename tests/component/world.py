"""A control plane with the operator's manifests, and operator processes with the rights that these give them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml

from holdfast_devcluster import ControlPlane, ports
from holdfast_devcluster.api import ApiError

MANIFESTS = Path(__file__).parents[2] / "manifests"
SYSTEM = "holdfast-system"
ACCOUNT = f"system:serviceaccount:{SYSTEM}:holdfast-operator"
GROUPS = ("system:serviceaccounts", f"system:serviceaccounts:{SYSTEM}")
MUTATIONS = frozenset({"create", "update", "patch", "delete", "deletecollection"})
SERVING_IMAGE = "localhost/holdfast-serving:test"
DIGEST = "sha256:" + "0" * 64
UNPLAYED = "nobody-plays"
"""A node without a kubelet, to which the scheduler gives no pods."""
PATIENCE = 150.0
"""Seconds for what takes some on a quiet machine, for others are slow, and halt. What must come soon is proved by what
brings it about, not by the time."""

Json = dict[str, Any]
Found = TypeVar("Found")

_PLURALS = {
    "ModelDeployment": "apis/holdfast.dev/v1alpha1/{}modeldeployments",
    "TrainingJob": "apis/holdfast.dev/v1alpha1/{}trainingjobs",
    "BatchInference": "apis/holdfast.dev/v1alpha1/{}batchinferences",
    "Deployment": "apis/apps/v1/{}deployments",
    "ControllerRevision": "apis/apps/v1/{}controllerrevisions",
    "Job": "apis/batch/v1/{}jobs",
    "Service": "api/v1/{}services",
    "PodDisruptionBudget": "apis/policy/v1/{}poddisruptionbudgets",
    "Pod": "api/v1/{}pods",
    "Event": "api/v1/{}events",
    "ConfigMap": "api/v1/{}configmaps",
    "Secret": "api/v1/{}secrets",
    "ServiceAccount": "api/v1/{}serviceaccounts",
    "ResourceQuota": "api/v1/{}resourcequotas",
    "Lease": "apis/coordination.k8s.io/v1/{}leases",
    "Namespace": "api/v1/{}namespaces",
    "PrometheusRule": "apis/monitoring.coreos.com/v1/{}prometheusrules",
}


def until(what: str, test: Callable[[], Found | None], seconds: float = PATIENCE) -> Found:
    """What `test` gives once it gives something that is not false."""
    end = time.monotonic() + seconds
    while True:
        found = test()
        if found:
            return found
        if time.monotonic() > end:
            raise AssertionError(f"waited {seconds:.0f} s until {what}")
        time.sleep(0.1)


def rendered(overlay: str, plane: ControlPlane) -> list[Json]:
    """The manifests of an overlay, but the operator's Deployment: the tests are its pods."""
    documents = yaml.safe_load_all(plane.kubectl("kustomize", str(MANIFESTS / overlay)))
    return [document for document in documents if document["kind"] != "Deployment"]


def install(overlay: str, plane: ControlPlane) -> None:
    """Apply an overlay."""
    plane.kubectl("apply", "--server-side", "-f", "-", input=yaml.safe_dump_all(rendered(overlay, plane)))
    plane.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=150s")


@dataclass(frozen=True)
class Place:
    """One namespace, seen by an administrator."""

    plane: ControlPlane
    namespace: str

    def path(self, kind: str, name: str = "", subresource: str = "") -> str:
        scope = f"namespaces/{self.namespace}/" if kind != "Namespace" else ""
        parts = (_PLURALS[kind].format(scope), name, subresource)
        return "/" + "/".join(part for part in parts if part)

    def create(self, manifest: Json) -> Json:
        return self.plane.api.request("POST", self.path(manifest["kind"]), manifest)

    def get(self, kind: str, name: str) -> Json | None:
        try:
            return self.plane.api.request("GET", self.path(kind, name))
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    def all(self, kind: str, selector: str = "") -> list[Json]:
        query = f"?labelSelector={selector.replace('=', '%3D')}" if selector else ""
        items: list[Json] = self.plane.api.request("GET", self.path(kind) + query)["items"]
        return items

    def patch(self, kind: str, name: str, patch: Json, subresource: str = "") -> Json:
        path = self.path(kind, name, subresource)
        return self.plane.api.request("PATCH", path, patch, content="application/merge-patch+json")

    def delete(self, kind: str, name: str, **options: Any) -> None:
        self.plane.api.request("DELETE", self.path(kind, name), options or None)

    # --- What the tests ask for again and again ---

    def model(self, name: str, **spec: Any) -> Json:
        """Create a ModelDeployment."""
        model = {"uri": "https://models.example.com/wine.onnx", "digest": DIGEST}
        return self.create(
            {
                "apiVersion": "holdfast.dev/v1alpha1",
                "kind": "ModelDeployment",
                "metadata": {"name": name},
                "spec": {"model": model, **spec},
            }
        )

    def run(self, name: str, **spec: Any) -> Json:
        """Create a TrainingJob."""
        minimal = {
            "data": {"uri": "https://data.example.com/wine.csv"},
            "target": "quality",
            "task": "Classification",
            "estimators": [{"name": "RandomForestClassifier"}],
            "output": {"uri": "pvc://models/wine"},
        }
        return self.create(
            {
                "apiVersion": "holdfast.dev/v1alpha1",
                "kind": "TrainingJob",
                "metadata": {"name": name},
                "spec": {**minimal, **spec},
            }
        )

    def condition(self, kind: str, name: str, type_: str) -> Json:
        """A condition of a custom resource; empty when it has none of that type."""
        found = self.get(kind, name) or {}
        conditions = found.get("status", {}).get("conditions", [])
        return next((c for c in conditions if c["type"] == type_), {})

    def until_ready(self, name: str, seconds: float = PATIENCE) -> Json:
        """The ModelDeployment, once it serves what its spec asks for."""

        def ready() -> Json | None:
            found = self.get("ModelDeployment", name)
            assert found is not None
            status = found.get("status", {})
            conditions = {c["type"]: c["status"] for c in status.get("conditions", [])}
            current = status.get("observedGeneration") == found["metadata"]["generation"]
            return found if current and conditions.get("Ready") == "True" else None

        return until(f"ModelDeployment {name} is ready", ready, seconds)

    def until_reason(self, kind: str, name: str, type_: str, reason: str, seconds: float = PATIENCE) -> Json:
        """The condition, once it gives that reason."""

        def given() -> Json | None:
            condition = self.condition(kind, name, type_)
            return condition if condition.get("reason") == reason else None

        return until(f"{kind} {name} is {type_} for {reason}", given, seconds)

    def deployments(self, name: str) -> list[Json]:
        return self.all("Deployment", f"holdfast.dev/model-deployment={name}")

    def deployment(self, name: str) -> Json:
        """The one Deployment of a ModelDeployment."""
        return until(f"{name} has a Deployment", lambda: self.deployments(name))[0]


def new_place(plane: ControlPlane, wanted: str) -> Place:
    """A namespace of that name, or of one like it: tests of two modules may have the same, and one may be tried again.
    It stays, for deleting it would only wait."""
    taken = {item["metadata"]["name"] for item in Place(plane, "").all("Namespace")}
    name = next(name for name in (wanted, *(f"{wanted}-{n}" for n in range(2, 99))) if name not in taken)
    found = Place(plane, name)
    found.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    return found


@dataclass
class Operator:
    """A process of the operator, as the pod `name`."""

    name: str
    port: int
    log: Path
    environment: dict[str, str]
    process: subprocess.Popen[bytes] = field(init=False)

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Also again, as the kubelet does with one that has ended."""
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "holdfast"], env=self.environment, stdout=output, stderr=output
            )

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    def probe(self, path: str) -> tuple[int, str]:
        """Status and text of an answer; 0 when nobody answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=30) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    @property
    def health(self) -> Json:
        text = self.probe("/healthz")[1]
        health: Json = json.loads(text) if text else {}
        return health

    @property
    def leads(self) -> bool:
        return bool(self.health.get("leader"))

    @property
    def idle(self) -> bool:
        """It leads, has seen everything, and has nothing left to do."""
        health = self.health
        return bool(health.get("leader") and health["synced"] and health["queue"] == 0)

    def metric(self, name: str, **labels: str) -> float:
        """The sum of the samples that have these labels."""
        total = 0.0
        for line in until(f"{self.name} shows its metrics", lambda: self.probe("/metrics")[1]).splitlines():
            if line.startswith((f"{name}{{", f"{name} ")) and all(f'{k}="{v}"' in line for k, v in labels.items()):
                total += float(line.rpartition(" ")[2])
        return total

    def until(self, what: str, test: Callable[[], Any], seconds: float = PATIENCE) -> None:
        """Wait for something that needs this process alive."""

        def alive_and_so() -> Any:
            if self.ended:
                raise AssertionError(f"operator {self.name} has ended:\n{self.last_lines()}")
            return test()

        try:
            until(what, alive_and_so, seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}; {self.health}\n{self.last_lines()}") from error

    def until_idle(self, seconds: float = PATIENCE) -> None:
        self.until("the operator is idle", lambda: self.idle, seconds)

    def send(self, signal_: signal.Signals) -> None:
        self.process.send_signal(signal_)

    def last_lines(self) -> str:
        return "\n".join(self.log.read_text().splitlines()[-30:])

    def logged(self) -> list[Json]:
        """Its log. Raises ValueError for a line that is not JSON."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]


@contextmanager
def operator(plane: ControlPlane, name: str, **environment: str) -> Iterator[Operator]:
    """Run `python -m holdfast` as the pod `name`, with the rights of its ServiceAccount; killed at the end."""
    [port] = ports.free()
    settings = {
        "KUBECONFIG": str(plane.kubeconfig_for(ACCOUNT, GROUPS)),
        "POD_NAME": name,
        "POD_NAMESPACE": SYSTEM,
        "HOLDFAST_HEALTH_PORT": str(port),
        "HOLDFAST_DRAIN_SECONDS": "15",
        "HOLDFAST_SERVING_IMAGE": SERVING_IMAGE,
        "HOLDFAST_TRAINING_IMAGE": "localhost/holdfast-training:test",
    }
    running = Operator(name, port, plane.folder / f"{name}.log", {**os.environ, **settings, **environment})
    try:
        yield running
    finally:
        running.process.kill()
        running.process.wait()


def stop(running: Operator) -> int:
    """End it as the kubelet does, so that the next one need not wait for its Lease; its exit status."""
    running.send(signal.SIGTERM)
    return running.process.wait(PATIENCE)


def requests(plane: ControlPlane, pod: str | None = None) -> Iterator[Json]:
    """What operators (or the one that ran as `pod`) asked of the API server, from its audit log, oldest first."""
    for event in plane.audit_events():
        if event["user"]["username"] != ACCOUNT:
            continue
        if pod is None or event.get("userAgent") == f"holdfast/{pod}":
            yield event


def mutations(plane: ControlPlane, pod: str | None = None) -> list[Json]:
    """The requests that change something, but renewals of the Lease."""
    return [
        event
        for event in requests(plane, pod)
        if event["verb"] in MUTATIONS and event["objectRef"]["resource"] != "leases"
    ]
