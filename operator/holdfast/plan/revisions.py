"""Revisions: what a ModelDeployment wants to run, named by what it is made of."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from holdfast.api.modeldeployment import FEEDBACK_ROWS_PER_MINUTE, REQUEST_TIMEOUT_MILLISECONDS, ServedModel, Serving
from holdfast.api.modeldeployment import Feedback as FeedbackSpec
from holdfast.build import labels, quantities, service
from holdfast.build.deployment import Feedback, RevisionManifest, Tls
from holdfast.build.hashing import canonical_json
from holdfast.build.names import digest10
from holdfast.build.source import Source
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

    def is_same_as(self, other: Model) -> bool:
        """Whether the content and its place are the same, whoever chose it."""
        return (self.uri, self.digest) == (other.uri, other.digest)

    def served_by(self, image: str) -> dict[str, str]:
        """As in `status.model`."""
        made = {"uri": self.uri, "digest": self.digest, "source": self.source, "runtimeImage": image}
        return made | ({"trainingJobName": self.training_job_name} if self.training_job_name else {})


@dataclass(frozen=True, slots=True)
class Revision:
    """A Deployment of ours, read as a revision."""

    name: str
    intent: str
    """Empty when the annotation was removed."""
    model: Model
    image: str
    """The one that it was made with, whatever somebody has put there since."""
    child: Child

    @property
    def tls(self) -> bool:
        """Whether it speaks TLS."""
        containers = self.child.spec["template"]["spec"]["containers"]
        ports = (port for container in containers for port in container.get("ports", ()))
        return any(port.get("name") == service.port_name(True) for port in ports)

    @property
    def ready_replicas(self) -> int:
        return int(self.child.status.get("readyReplicas") or 0)

    @property
    def replicas(self) -> int:
        return int(self.child.spec.get("replicas", 1))

    def has_ready(self, replicas: int) -> bool:
        """Whether it runs, and answers on, as many pods as asked."""
        return self.replicas == replicas and self.ready_replicas >= replicas


def read(child: Child, owner: str) -> Revision | None:
    """The revision that a Deployment of `owner` is; None where nothing of ours is left in it.

    Who serves must be known even after somebody has removed our annotations: the server's variables say it, too.
    """
    note = child.annotations.get(labels.MODEL, "")
    try:
        model, image = _annotated(note) or _in_template(child.spec["template"]["spec"]["containers"][0])
    except (KeyError, IndexError, TypeError, ValueError):
        return None
    return Revision(child.name.removeprefix(f"{owner}-"), child.annotations.get(labels.INTENT, ""), model, image, child)


def annotation(model: Model, image: str) -> str:
    """The model and its server as an annotation of the revision's Deployment, to be read again."""
    return canonical_json(model.served_by(image) | ({"resolved": True} if model.resolved else {}))


def intent(model: Model, serving: Serving, env: Mapping[str, str]) -> str:
    """sha256 over the model and the pod-shaping part of the spec, defaults removed; replicas shape no pod."""
    return hashlib.sha256(canonical_json([model.uri, model.digest, _shape(serving, env)]).encode()).hexdigest()


def name_of(metadata: Metadata, intent: str, image: str) -> str:
    """R: the name of the revision that serves this intent by this image."""
    return digest10(metadata.uid, intent, image)


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
    kept = existing.model if existing and existing.model.is_same_as(model) else model
    image = existing.image if existing else settings.serving_image
    shape = _shape(serving, env)
    return RevisionManifest(
        name=metadata.name,
        namespace=metadata.namespace,
        uid=metadata.uid,
        revision=existing.name if existing else name_of(metadata, wanted, image),
        intent=wanted,
        source=source(kept.uri, serving),
        model_digest=kept.digest,
        model_annotation=annotation(kept, image),
        image=image,
        pull_policy=settings.image_pull_policy,
        env=env,
        resources=shape.get("resources"),
        node_selector=shape.get("nodeSelector"),
        tolerations=shape.get("tolerations"),
        tls=Tls(serving.tls.secret_ref.name, serving.tls.client_auth) if serving.tls else None,
        feedback=Feedback(**shape["feedback"]) if "feedback" in shape else None,
        request_timeout_milliseconds=shape.get("requestTimeoutMilliseconds"),
        max_batch_rows=shape.get("maxBatchRows"),
        router_public_key=settings.router_public_key,
    )


def source(uri: str, serving: Serving) -> Source:
    """Where a model of this ModelDeployment is fetched from, and as whom."""
    secret = serving.storage_secret_ref.name if serving.storage_secret_ref else ""
    cache = serving.cache_claim_ref.name if serving.cache_claim_ref else ""
    return Source(uri, secret, serving.service_account_name or "", cache)


def claims_of(child: Child) -> set[str]:
    """The claims that the pods of a Deployment or a Job mount."""
    volumes = child.spec.get("template", {}).get("spec", {}).get("volumes") or ()
    return {volume["persistentVolumeClaim"]["claimName"] for volume in volumes if "persistentVolumeClaim" in volume}


def _annotated(text: str) -> tuple[Model, str] | None:
    """What `annotation` wrote; None for anything else, which status could not hold."""
    try:
        said = json.loads(text)
        resolved = said.pop("resolved", False) is True
        served = ServedModel.parse(said)
    except (ValueError, AttributeError, TypeError):
        return None
    return Model(served.uri, served.digest, served.source, served.training_job_name, resolved), served.runtime_image


def _in_template(container: Mapping[str, Any]) -> tuple[Model, str]:
    variables = {variable["name"]: variable.get("value", "") for variable in container["env"]}
    uri, digest = variables["HOLDFAST_MODEL_URI"].replace("$$", "$"), variables["HOLDFAST_MODEL_DIGEST"]
    served = ServedModel(uri=uri, digest=digest, source="URI", runtime_image=container["image"])
    return Model(served.uri, served.digest), served.runtime_image


def _shape(serving: Serving, env: Mapping[str, str]) -> dict[str, Any]:
    shape: dict[str, Any] = {}
    if serving.resources and (given := quantities.resources(serving.resources.to_json())):
        shape["resources"] = given
    if serving.node_selector:
        shape["nodeSelector"] = dict(serving.node_selector)
    if serving.tolerations:
        shape["tolerations"] = [_toleration(toleration.to_json()) for toleration in serving.tolerations]
    if env:
        shape["env"] = list(env.items())  # in order: a variable may refer to those before it
    if serving.storage_secret_ref:
        shape["storageSecret"] = serving.storage_secret_ref.name
    if serving.service_account_name:
        shape["serviceAccount"] = serving.service_account_name
    if serving.cache_claim_ref:
        shape["cacheClaim"] = serving.cache_claim_ref.name
    if serving.tls:
        required = {"clientAuth": "Required"} if serving.tls.client_auth == "Required" else {}
        shape["tls"] = {"secret": serving.tls.secret_ref.name} | required
    if serving.feedback:
        shape["feedback"] = _feedback(serving.feedback)
    if serving.request_timeout_milliseconds != REQUEST_TIMEOUT_MILLISECONDS:
        shape["requestTimeoutMilliseconds"] = serving.request_timeout_milliseconds
    if serving.max_batch_rows is not None:
        shape["maxBatchRows"] = serving.max_batch_rows
    return shape


def _feedback(given: FeedbackSpec) -> dict[str, Any]:
    shape: dict[str, Any] = {"secret": given.secret_ref.name}
    if given.client_auth == "Required":
        shape["client_auth"] = given.client_auth
    if given.rows_per_minute != FEEDBACK_ROWS_PER_MINUTE:
        shape["rows_per_minute"] = given.rows_per_minute
    return shape


def _toleration(given: Mapping[str, Any]) -> dict[str, Any]:
    """Without what says no more than its absence."""
    return {key: value for key, value in given.items() if value != "" and (key, value) != ("operator", "Equal")}
