"""Revisions: what a ModelDeployment wants to run, named by what it is made of."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from holdfast.api.modeldeployment import Serving
from holdfast.build import labels, quantities
from holdfast.build.deployment import RevisionManifest
from holdfast.build.hashing import canonical_json
from holdfast.build.names import digest10
from holdfast.plan.observed import Child, Metadata, Settings


@dataclass(frozen=True, slots=True)
class Model:
    """A model that is pinned: this content at this place, and who chose it."""

    uri: str
    digest: str
    source: str = "URI"
    training_job_name: str | None = None
    resolved: bool = False
    """The digest was found out by us, and not asked for."""

    def to_json(self) -> dict[str, str]:
        """As in `status.model`."""
        made = {"uri": self.uri, "digest": self.digest, "source": self.source}
        return made | ({"trainingJobName": self.training_job_name} if self.training_job_name else {})

    def annotation(self) -> str:
        """As on the revision's Deployment."""
        return canonical_json(self.to_json() | ({"resolved": True} if self.resolved else {}))

    @classmethod
    def from_annotation(cls, text: str) -> Model:
        """Raises ValueError, KeyError or TypeError for what `annotation` did not write."""
        said = json.loads(text)
        return cls(
            said["uri"], said["digest"], said["source"], said.get("trainingJobName"), said.get("resolved") is True
        )


@dataclass(frozen=True, slots=True)
class Revision:
    """A Deployment of ours, read as a revision."""

    name: str
    intent: str
    model: Model
    image: str
    child: Child

    @property
    def ready_replicas(self) -> int:
        return int(self.child.status.get("readyReplicas") or 0)

    @property
    def replicas(self) -> int:
        return int(self.child.spec.get("replicas", 1))

    def has_ready(self, replicas: int) -> bool:
        """Whether it runs, and answers on, as many pods as asked."""
        return self.replicas == replicas and self.ready_replicas >= replicas


def read(child: Child) -> Revision | None:
    """The revision that a Deployment is; None when it lacks the annotations that we give ours."""
    try:
        return Revision(
            name=child.labels[labels.REVISION],
            intent=child.annotations[labels.INTENT],
            model=Model.from_annotation(child.annotations[labels.MODEL]),
            image=child.spec["template"]["spec"]["containers"][0]["image"],
            child=child,
        )
    except (KeyError, ValueError, IndexError, TypeError):
        return None


def intent(model: Model, serving: Serving, env: Mapping[str, str]) -> str:
    """sha256 over the model and the pod-shaping part of the spec, defaults removed; replicas shape no pod."""
    return hashlib.sha256(canonical_json([model.uri, model.digest, _shape(serving, env)]).encode()).hexdigest()


def manifest(
    metadata: Metadata,
    settings: Settings,
    model: Model,
    serving: Serving,
    env: Mapping[str, str],
    existing: Revision | None,
) -> RevisionManifest:
    """How the revision would be rendered now, with the runtime image that it has or, if it is new, gets."""
    wanted = intent(model, serving, env)
    kept = existing.model if existing else model
    image = existing.image if existing else settings.serving_image
    name = existing.name if existing else digest10(metadata.uid, wanted, image)
    shape = _shape(serving, env)
    return RevisionManifest(
        name=metadata.name,
        namespace=metadata.namespace,
        uid=metadata.uid,
        revision=name,
        intent=wanted,
        model_uri=kept.uri,
        model_digest=kept.digest,
        model_annotation=kept.annotation(),
        image=image,
        pull_policy=settings.image_pull_policy,
        env=env,
        resources=shape.get("resources"),
        node_selector=shape.get("nodeSelector"),
        tolerations=shape.get("tolerations"),
    )


def _shape(serving: Serving, env: Mapping[str, str]) -> dict[str, Any]:
    shape: dict[str, Any] = {}
    if serving.resources and (resources := quantities.resources(serving.resources.to_json())):
        shape["resources"] = resources
    if serving.node_selector:
        shape["nodeSelector"] = dict(serving.node_selector)
    if serving.tolerations:
        shape["tolerations"] = [toleration.to_json() for toleration in serving.tolerations]
    if env:
        shape["env"] = list(env.items())  # in order: a variable may refer to those before it
    return shape
