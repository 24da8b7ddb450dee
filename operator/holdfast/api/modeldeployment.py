"""ModelDeployment: a model that is to be served. docs/modeldeployment.md is its reference."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from holdfast.api.meta import (
    AGE,
    Column,
    Conditions,
    Digest,
    Kind,
    Model,
    ModelUri,
    NodeSelector,
    ObjectName,
    ObjectRef,
    ObservedGeneration,
    Resources,
    Scale,
    Tolerations,
    condition_column,
    list_map,
    validated,
)


class ModelDeploymentCondition(StrEnum):
    """Types of conditions. Reconciling and Stalled are there only while they are True, and never together."""

    READY = "Ready"
    AVAILABLE = "Available"
    PROGRESSING = "Progressing"
    RECONCILING = "Reconciling"
    STALLED = "Stalled"


class ModelDeploymentReason(StrEnum):
    """Reasons of conditions and Events."""

    # The wanted revision serves.
    SERVING = "Serving"
    COMPLETE = "Complete"
    # On the way.
    WAITING_FOR_TRAINING_JOB = "WaitingForTrainingJob"
    RESOLVING = "Resolving"
    STARTING = "Starting"
    PROMOTING = "Promoting"
    SCALING = "Scaling"
    # The wanted revision serves, with fewer pods than asked; or none does.
    PODS_NOT_READY = "PodsNotReady"
    NO_READY_PODS = "NoReadyPods"
    SCALED_TO_ZERO = "ScaledToZero"
    NEVER_SERVED = "NeverServed"
    # The model.
    TRAINING_JOB_NOT_FOUND = "TrainingJobNotFound"
    TRAINING_JOB_FAILED = "TrainingJobFailed"
    MODEL_NOT_FOUND = "ModelNotFound"
    MODEL_ACCESS_DENIED = "ModelAccessDenied"
    MODEL_UNREACHABLE = "ModelUnreachable"
    ADDRESS_REFUSED = "AddressRefused"
    DIGEST_MISMATCH = "DigestMismatch"
    MODEL_INVALID = "ModelInvalid"
    # What pods need.
    CONFIG_MAP_NOT_FOUND = "ConfigMapNotFound"
    SECRET_NOT_FOUND = "SecretNotFound"  # noqa: S105
    SERVICE_ACCOUNT_NOT_FOUND = "ServiceAccountNotFound"
    SECRET_INVALID = "SecretInvalid"  # noqa: S105
    CLAIM_NOT_FOUND = "ClaimNotFound"
    IMAGE_PULL_FAILED = "ImagePullFailed"
    UNSCHEDULABLE = "Unschedulable"
    QUOTA_EXCEEDED = "QuotaExceeded"
    # Pods that start and fail.
    CRASH_LOOP = "CrashLoop"
    OUT_OF_MEMORY = "OutOfMemory"
    PROGRESS_DEADLINE_EXCEEDED = "ProgressDeadlineExceeded"
    # Somebody else's object.
    NAME_CONFLICT = "NameConflict"


REQUEST_TIMEOUT_MILLISECONDS = 10_000
FEEDBACK_ROWS_PER_MINUTE = 10_000


class ModelSource(Model):
    """The model that the user asks for."""

    model_config = validated(
        ("has(self.uri) != has(self.trainingJobRef)", "give exactly one of model.uri and model.trainingJobRef"),
        (
            "!has(self.digest) || has(self.uri)",
            "model.digest belongs to model.uri; a TrainingJob's digest is already known",
        ),
    )

    uri: ModelUri | None = Field(None, description="A bundle's folder, or an .onnx file.")
    digest: Digest | None = Field(
        None,
        description="sha256 of the bundle's manifest.json, or of the .onnx file. Absent: resolved once.",
    )
    training_job_ref: ObjectRef | None = Field(
        None, description="TrainingJob whose output to serve, in this namespace; waited for until it has one."
    )


class ConfigMapKeyRef(Model):
    """A key of a ConfigMap in this namespace."""

    name: ObjectName = Field(description="ConfigMap.")
    key: str = Field(min_length=1, max_length=253, pattern="^[-._a-zA-Z0-9]+$", description="Key.")


class EnvSource(Model):
    """Where a variable's value comes from."""

    config_map_key_ref: ConfigMapKeyRef = Field(description="A key of a ConfigMap in this namespace.")


class EnvVar(Model):
    """One variable: a value, or a key of a ConfigMap."""

    model_config = validated(("has(self.value) != has(self.valueFrom)", "give exactly one of value and valueFrom"))

    name: str = Field(
        min_length=1, max_length=128, pattern="^[A-Za-z_][A-Za-z0-9_]*$", description="Name of the variable."
    )
    value: Annotated[str, Field(max_length=1024)] | None = Field(None, description="Its value.")
    value_from: EnvSource | None = Field(None, description="Where its value comes from.")


class Tls(Model):
    """A certificate to serve with."""

    secret_ref: ObjectRef = Field(
        description="Secret with tls.crt, tls.key and, for clientAuth Required, ca.crt, in this namespace."
    )
    client_auth: Literal["None", "Required"] = Field(
        "None", description="Whether clients must show a certificate that an authority of ca.crt has signed."
    )


class Feedback(Model):
    """True labels for answers that came with a receipt."""

    secret_ref: ObjectRef = Field(
        description="Secret with the key for receipts, in this namespace: one for all revisions of the model."
    )
    client_auth: Literal["None", "Required"] = Field(
        "None", description="Whether feedback is taken only from clients that show a certificate, as of tls."
    )
    rows_per_minute: int = Field(
        FEEDBACK_ROWS_PER_MINUTE, ge=1000, le=1_000_000, description="Labels that a pod counts in a minute."
    )


class Serving(Model):
    """How the model is served. A change of anything but replicas makes a revision."""

    model_config = validated(
        (
            "!has(self.feedback) || self.feedback.clientAuth == 'None' || has(self.tls)",
            "feedback.clientAuth Required needs tls, with ca.crt in its Secret",
        )
    )

    replicas: int = Field(
        1,
        ge=0,
        le=1000,
        description="Pods of the stable revision. An autoscaler writes this through the scale subresource.",
    )
    resources: Resources | None = Field(None, description="Compute resources of each pod, as in a Pod.")
    node_selector: NodeSelector | None = Field(None, description="Labels that a node must carry.")
    tolerations: Tolerations | None = Field(None, description="Taints that the pods tolerate, as in a Pod.")
    env: (
        Annotated[
            tuple[EnvVar, ...],
            list_map(
                "name",
                32,
                (
                    "self.all(e, !e.name.matches('^(HOLDFAST_|LD_|PYTHON|PATH$)'))",
                    "names that begin with HOLDFAST_, LD_ or PYTHON, and PATH, are set by the operator",
                ),
            ),
        ]
        | None
    ) = Field(None, description="Environment variables of the server.")
    storage_secret_ref: ObjectRef | None = Field(
        None,
        description="Secret in this namespace with the keys to where the model lies. Mounted as files, never as env.",
    )
    service_account_name: ObjectName | None = Field(
        None,
        description="ServiceAccount of the pods, for an identity that the cloud gives. Its API token is never mounted.",
    )
    cache_claim_ref: ObjectRef | None = Field(
        None,
        description="PersistentVolumeClaim in this namespace that keeps fetched models by digest, for all its pods.",
    )
    tls: Tls | None = Field(None, description="Serve with TLS. Absent: without.")
    feedback: Feedback | None = Field(None, description="Receipts, and true labels that come with them. Absent: none.")
    request_timeout_milliseconds: int = Field(
        REQUEST_TIMEOUT_MILLISECONDS,
        ge=10,
        le=600_000,
        description="Time for one request. What cannot be answered in it is refused at once.",
    )
    max_batch_rows: Annotated[int, Field(ge=1, le=4096)] | None = Field(
        None,
        description="Rows of different requests in one run; 1 for no batching. Absent: as many as pay, by measurement.",
    )


class ModelDeploymentSpec(Model):
    """What the user wants."""

    model: ModelSource = Field(description="The model to serve.")
    serving: Serving = Field(
        default_factory=Serving, description="How the model is served.", json_schema_extra={"default": {}}
    )


Revision = Annotated[str, Field(max_length=10, pattern="^[0-9a-f]{10}$")]


class ServedModel(Model):
    """The model of the stable revision."""

    uri: Annotated[str, Field(max_length=1100)] = Field(description="Where it was read from.")
    digest: Digest = Field(description="What it is.")
    source: Literal["URI", "TrainingJob"] = Field(description="Who chose it.")
    training_job_name: Annotated[str, Field(max_length=63)] | None = Field(
        None, description="The TrainingJob that made it."
    )
    runtime_image: Annotated[str, Field(max_length=512)] = Field(description="Image that serves it.")


class ModelDeploymentStatus(Model):
    """What is. Written by the operator alone."""

    observed_generation: ObservedGeneration | None = Field(
        None, description="The metadata.generation that this status describes; -1 until the operator has seen it."
    )
    conditions: Conditions = Field(default_factory=tuple, description="Current state, one entry per type.")
    replicas: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = Field(
        None, description="Pods of the stable revision, for the scale subresource."
    )
    ready_replicas: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = Field(
        None, description="Of these, how many answer."
    )
    selector: Annotated[str, Field(max_length=512)] | None = Field(
        None, description="Label selector of the stable revision's pods, for autoscalers."
    )
    url: Annotated[str, Field(max_length=512)] | None = Field(None, description="Where it answers inside the cluster.")
    stable_revision: Revision | None = Field(None, description="The revision that answers.")
    candidate_revision: Revision | None = Field(None, description="The revision on its way.")
    model: ServedModel | None = Field(None, description="The model of the stable revision.")


MODEL_DEPLOYMENT = Kind(
    kind="ModelDeployment",
    plural="modeldeployments",
    short_name="mdep",
    description="A model that is served, and how.",
    spec=ModelDeploymentSpec,
    status=ModelDeploymentStatus,
    columns=(
        condition_column("Ready", ModelDeploymentCondition.READY, "status"),
        condition_column("Reason", ModelDeploymentCondition.READY, "reason"),
        Column("Revision", ".status.stableRevision"),
        Column("Pods", ".status.readyReplicas", "integer"),
        AGE,
        Column("Model", ".status.model.uri", wide=True),
        Column("URL", ".status.url", wide=True),
        condition_column("Message", ModelDeploymentCondition.READY, "message", wide=True),
    ),
    scale=Scale(".spec.serving.replicas", ".status.replicas", ".status.selector"),
    rules=(
        (
            "!self.metadata.name.endsWith('-candidate')",
            "metadata.name must not end in -candidate: that name is kept for the Service of a new revision",
        ),
    ),
)
