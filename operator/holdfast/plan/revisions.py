"""Revisions: what a ModelDeployment wants to run, named by what it is made of."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from holdfast.api.modeldeployment import FEEDBACK_ROWS_PER_MINUTE, REQUEST_TIMEOUT_MILLISECONDS, ServedModel, Serving
from holdfast.api.modeldeployment import Feedback as FeedbackSpec
from holdfast.build import labels, quantities, service
from holdfast.build.controllerrevision import controller_revision
from holdfast.build.deployment import Feedback, RevisionManifest, Tls, deployment
from holdfast.build.hashing import canonical_json
from holdfast.build.names import digest10
from holdfast.build.source import Source
from holdfast.plan import standing
from holdfast.plan.conditions import rfc3339
from holdfast.plan.observed import Child, Metadata, Settings
from holdfast.plan.standing import UNPROVEN, Standing


@dataclass(frozen=True, slots=True)
class Model:
    """A model that is pinned: this content at this place, and who chose it."""

    uri: str
    digest: str
    source: str = "URI"
    training_job_name: str | None = None
    resolved: bool = False
    """The digest was found out by us, and not asked for."""
    secret: str = ""
    """By which it is read, where the spec names none: that of the run that made it."""
    named: str = ""
    """By which the spec names it, where that is no place: models:/…; empty where it is `uri`."""
    asked: Model | None = None
    """What the spec asked for when it was trained; None: for this very model."""

    @property
    def wish(self) -> tuple[str, str]:
        """(uri, digest) of what the spec asked for."""
        asked = self.asked or self
        return asked.uri, asked.digest

    def served_by(self, image: str) -> dict[str, str]:
        """As in `status.model`."""
        made = {"uri": self.uri, "digest": self.digest, "source": self.source, "runtimeImage": image}
        return made | ({"trainingJobName": self.training_job_name} if self.training_job_name else {})

    def as_json(self, image: str) -> dict[str, Any]:
        """The model and its server, to be kept with the revision and read again."""
        kept: dict[str, Any] = self.served_by(image)
        if self.resolved:
            kept["resolved"] = True
        if self.secret:
            kept["secret"] = self.secret
        if self.named:
            kept["named"] = self.named
        if self.asked:
            kept["specModel"] = self.asked.as_wish()
        return kept

    def as_wish(self) -> dict[str, str]:
        """What the spec asks for, to be kept with a run or with a revision that came of it."""
        named = {"trainingJobName": self.training_job_name} if self.training_job_name else {}
        named |= {"named": self.named} if self.named else {}
        return {"uri": self.uri, "digest": self.digest, "source": self.source} | named


def wished(said: Any) -> Model | None:
    """What `as_wish` wrote; None for anything else."""
    if not isinstance(said, dict) or not all(isinstance(each, str) for each in said.values()):
        return None
    if not {"uri", "digest", "source"} <= said.keys():
        return None
    return Model(said["uri"], said["digest"], said["source"], said.get("trainingJobName"), named=said.get("named", ""))


@dataclass(frozen=True, slots=True)
class Revision:
    """What is kept of a revision (its ControllerRevision), what runs of it (its Deployment), or both."""

    name: str
    intent: str
    """Empty when the annotation was removed."""
    model: Model
    image: str
    """The one that it was made with, whatever somebody has put there since."""
    template: Mapping[str, Any]
    """Of its pods."""
    child: Child | None
    """Its Deployment."""
    record: Child | None = None
    """Its ControllerRevision."""
    standing: Standing = UNPROVEN
    ordinal: int = 0
    """Counts up; 0 without a record."""

    @property
    def tls(self) -> bool:
        """Whether it speaks TLS."""
        ports = (port for container in self.template["spec"]["containers"] for port in container.get("ports", ()))
        return any(port.get("name") == service.port_name(True) for port in ports)

    @property
    def ready_replicas(self) -> int:
        return int(self.child.status.get("readyReplicas") or 0) if self.child else 0

    @property
    def present_replicas(self) -> int:
        """Pods that there are."""
        return int(self.child.status.get("replicas") or 0) if self.child else 0

    @property
    def replicas(self) -> int:
        """Pods that its Deployment asks for."""
        return int(self.child.spec.get("replicas", 1)) if self.child else 0

    def has_ready(self, replicas: int) -> bool:
        """Whether it runs, and answers on, as many pods as asked."""
        return self.child is not None and self.replicas == replicas and self.ready_replicas >= replicas


def read(owner: str, deployment: Child | None, record: Child | None) -> Revision | None:
    """The revision of `owner` that these are of; None where nothing of ours is left in them."""
    kept = _of_record(owner, record, deployment) if record else None
    return kept or (_of_deployment(owner, deployment, record) if deployment else None)


def _of_record(owner: str, record: Child, deployment: Child | None) -> Revision | None:
    data = record.spec.get("data") or {}
    try:
        said = _annotated(canonical_json(data["model"]))
        intent, template = data["intent"], data["template"]
    except (KeyError, TypeError):
        return None
    if said is None:
        return None
    model, image = said
    return Revision(
        name=record.name.removeprefix(f"{owner}-"),
        intent=intent,
        model=model,
        image=image,
        template=template,
        child=deployment,
        record=record,
        standing=standing.read(record.annotations),
        ordinal=int(record.spec.get("revision", 0)),
    )


def _of_deployment(owner: str, child: Child, record: Child | None) -> Revision | None:
    """Who serves must be known even after somebody has removed our annotations: the server's variables say it, too."""
    note = child.annotations.get(labels.MODEL, "")
    try:
        template = child.spec["template"]
        model, image = _annotated(note) or _in_template(template["spec"]["containers"][0])
    except (KeyError, IndexError, TypeError, ValueError):
        return None
    name = child.name.removeprefix(f"{owner}-")
    return Revision(name, child.annotations.get(labels.INTENT, ""), model, image, template, child, record)


def record_of(metadata: Metadata, revision: Revision, ordinal: int, now: datetime) -> dict[str, Any]:
    """The manifest of the revision's ControllerRevision; the first one keeps what the revision is made of."""
    kept = revision.record.spec.get("data") if revision.record else None
    data = kept or {
        "creationTime": rfc3339(now),
        "intent": revision.intent,
        "model": revision.model.as_json(revision.image),
        "template": revision.template,
    }
    return controller_revision(
        metadata.name,
        metadata.namespace,
        metadata.uid,
        revision.name,
        revision.ordinal or ordinal,
        data,
        standing.noted(revision.standing),
    )


def deployment_of(metadata: Metadata, revision: Revision, replicas: int) -> dict[str, Any]:
    """The manifest of the revision's Deployment."""
    return deployment(
        metadata.name,
        metadata.namespace,
        metadata.uid,
        revision.name,
        revision.intent,
        canonical_json(revision.model.as_json(revision.image)),
        revision.template,
        replicas,
    )


def intent(model: Model, serving: Serving, env: Mapping[str, str]) -> str:
    """sha256 over the model and the pod-shaping part of the spec, defaults removed; replicas shape no pod."""
    named = [model.named] if model.named else []
    made_of = [model.uri, model.digest, _shape(serving, env), *named]
    return hashlib.sha256(canonical_json(made_of).encode()).hexdigest()


def name_of(metadata: Metadata, intent: str, image: str) -> str:
    """R: the name of the revision that serves this intent by this image."""
    return digest10(metadata.uid, intent, image)


def new(
    metadata: Metadata, settings: Settings, model: Model, serving: Serving, env: Mapping[str, str], intent: str
) -> Revision:
    """A revision that is made now, with the runtime image of now."""
    image = settings.serving_image
    name = name_of(metadata, intent, image)
    shape = _shape(serving, env)
    manifest = RevisionManifest(
        name=metadata.name,
        revision=name,
        source=source(model.uri, serving, model.secret),
        model_digest=model.digest,
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
    return Revision(name, intent, model, image, manifest.template(), None)


def source(uri: str, serving: Serving, otherwise: str = "") -> Source:
    """Where a model of this ModelDeployment is fetched from, and as whom. `otherwise`: the Secret if none is named."""
    secret = serving.storage_secret_ref.name if serving.storage_secret_ref else otherwise
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
        secret, named = str(said.pop("secret", "")), str(said.pop("named", ""))
        asked = wished(said.pop("specModel", None))
        served = ServedModel.parse(said)
    except (ValueError, AttributeError, TypeError):
        return None
    name = served.training_job_name
    return Model(served.uri, served.digest, served.source, name, resolved, secret, named, asked), served.runtime_image


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
