"""Manifests with every optional part in them."""

from dataclasses import dataclass
from typing import Any

from holdfast.api.retraining import Gate
from holdfast.api.trainingjob import TrainingJobSpec
from holdfast.build import job, names, quantities
from holdfast.build.controllerrevision import controller_revision
from holdfast.build.deployment import Feedback, RevisionManifest, Tls, deployment
from holdfast.build.poddisruptionbudget import pod_disruption_budget
from holdfast.build.rendezvous import headless_service
from holdfast.build.service import candidate_service, service
from holdfast.build.source import Source

NAME = "wine"
UID = "00000000-0000-4000-8000-000000000001"
REVISION = "5f3a9c0d1e"
IMAGE = "localhost/holdfast-serving:dev"
DIGEST = "sha256:" + "9d0c4f3b" * 8
TOLERATIONS: list[dict[str, str | int]] = [
    {"key": "gpu", "operator": "Exists", "effect": "NoSchedule"},
    {"key": "spot", "value": "yes", "effect": "NoExecute", "tolerationSeconds": 0},
]
STORE = Source("s3://models/wine", "models-read", "wine", "models-cache")
ON_A_STORE = {
    "data": {"uri": "s3://lake/wine", "secretRef": {"name": "lake-read"}},
    "output": {"uri": "gs://models/wine", "secretRef": {"name": "models-write"}},
    "serviceAccountName": "wine",
}
RESOURCES: dict[str, dict[str, str | int]] = {
    "requests": {"cpu": "0.5", "memory": "524288Ki", "ephemeral-storage": "1.5Gi"},
    "limits": {"memory": 1073741824, "example.com/gpu": 1},
}


@dataclass(frozen=True)
class Sample:
    """A revision, and where it is."""

    pods: RevisionManifest
    namespace: str

    def render(self, replicas: int) -> dict[str, Any]:
        """Its Deployment."""
        return deployment(self.pods.name, self.namespace, UID, REVISION, "0" * 64, "{}", self.pods.template(), replicas)


def revision(name: str = NAME, namespace: str = "default", **changes: Any) -> Sample:
    given: dict[str, Any] = {
        "name": name,
        "revision": REVISION,
        "source": Source("pvc://models/wine/3"),
        "model_digest": DIGEST,
        "image": IMAGE,
        "pull_policy": "IfNotPresent",
        "env": {"OMP_NUM_THREADS": "2", "EMPTY": ""},
        "resources": quantities.resources(RESOURCES),
        "node_selector": {"disk": "ssd"},
        "tolerations": TOLERATIONS,
    }
    return Sample(RevisionManifest(**(given | changes)), namespace)


def training_spec(**changes: Any) -> TrainingJobSpec:
    given = {
        "data": {"uri": "pvc://lake/wine.csv", "digest": DIGEST, "format": "CSV"},
        "target": "quality",
        "task": "Classification",
        "estimators": [{"name": "RandomForestClassifier", "parameters": {"n_estimators": "200"}}],
        "output": {"uri": "pvc://models/wine"},
        "evaluation": {"requirements": [{"metric": "Accuracy", "minimum": "0.9"}]},
        "resources": RESOURCES,
        "nodeSelector": {"disk": "ssd"},
        "tolerations": TOLERATIONS,
    }
    return TrainingJobSpec.parse(given | changes)


def own_training_spec() -> TrainingJobSpec:
    """A trainer of one's own, in two pods."""
    variables = [
        {"name": "COST", "value": "$5"},
        {"name": "L", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "k"}}},
    ]
    own = {"image": "trainer:1", "command": ["python"], "args": ["$(HOLDFAST_INPUT)"], "env": variables}
    return training_spec(estimators=None, container=own, distributed={"workers": 2})


def every_manifest(namespace: str = "default", name: str = NAME) -> dict[str, dict[str, Any]]:
    """One of each child, by what it is."""
    return {
        "deployment": revision(name, namespace).render(0),
        "service": service(name, namespace, UID, REVISION),
        "secured deployment": revision(
            name, namespace, tls=Tls("wine-tls", "Required"), feedback=Feedback("wine-feedback")
        ).render(0),
        "deployment from a store": revision(name, namespace, source=STORE).render(0),
        "candidate service": candidate_service(name, namespace, UID, REVISION),
        "controller revision": controller_revision(
            name, namespace, UID, REVISION, 1, {"template": revision(name, namespace).pods.template()}, {}
        ),
        "secured service": service(name, namespace, UID, REVISION, tls=True),
        "budget": pod_disruption_budget(name, namespace, UID, REVISION),
        "resolve job": job.resolve_job(
            names.helper_job(name, UID, "resolve", "store"),
            name,
            namespace,
            UID,
            STORE,
            IMAGE,
            "IfNotPresent",
            RESOURCES,
            {"disk": "ssd"},
            TOLERATIONS,
        ),
        "resolve job on a claim": job.resolve_job(
            names.helper_job(name, UID, "resolve", "claim"),
            name,
            namespace,
            UID,
            Source("pvc://models/wine"),
            IMAGE,
            "Always",
            None,
            {"disk": "ssd"},
            TOLERATIONS,
        ),
        "gate job": job.gate_job(
            names.helper_job(name, UID, "gate", DIGEST),
            name,
            namespace,
            UID,
            STORE,
            DIGEST,
            ("pvc://models/wine/wine-1c7d20aa4b", DIGEST),
            Gate.parse({"data": {"uri": "pvc://labels/recent.csv"}}),
            training_spec(),
            "",
            IMAGE,
            "IfNotPresent",
        ),
        "training job": job.training_job(name, namespace, UID, training_spec(), IMAGE, "Always"),
        "own training job": job.training_job(f"o{name[1:]}", namespace, UID, own_training_spec(), IMAGE, "Always"),
        "headless service": headless_service(name, namespace, UID, names.training_job(name, UID)),
        "training job on a store": job.training_job(
            f"s{name[1:]}", namespace, UID, training_spec(**ON_A_STORE), IMAGE, "IfNotPresent"
        ),
        "poll job": job.poll_job(
            names.helper_job(name, UID, "poll", "0"),
            name,
            namespace,
            UID,
            training_spec(**ON_A_STORE),
            IMAGE,
            "IfNotPresent",
            60,
        ),
    }
