"""BatchInference: one scoring run. docs/batchinference.md is its reference."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from holdfast.api.meta import (
    AGE,
    BundleUri,
    Column,
    Conditions,
    Count,
    DataUri,
    Digest,
    Kind,
    Model,
    ModelUri,
    NodeSelector,
    ObjectName,
    ObjectRef,
    ObservedGeneration,
    Resources,
    Time,
    Tolerations,
    atomic_list,
    condition_column,
    one_run,
    set_list,
    validated,
)
from holdfast.api.trainingjob import KEYLESS, ColumnName

SHARDS_PER_POD = 4


class BatchInferenceCondition(StrEnum):
    """Types of conditions. Reconciling and Stalled are there only while they are True, and never together."""

    SUCCEEDED = "Succeeded"
    RECONCILING = "Reconciling"
    STALLED = "Stalled"


class BatchInferenceReason(StrEnum):
    """Reasons of conditions and Events."""

    # Under way.
    PENDING = "Pending"
    RUNNING = "Running"
    RETRYING = "Retrying"
    SUSPENDED = "Suspended"
    # What the run needs; a failure once the deadline has passed.
    MODEL_NOT_READY = "ModelNotReady"
    IMAGE_PULL_FAILED = "ImagePullFailed"
    UNSCHEDULABLE = "Unschedulable"
    QUOTA_EXCEEDED = "QuotaExceeded"
    CLAIM_NOT_FOUND = "ClaimNotFound"
    SECRET_NOT_FOUND = "SecretNotFound"  # noqa: S105 - a reason
    SECRET_INVALID = "SecretInvalid"  # noqa: S105 - a reason
    SERVICE_ACCOUNT_NOT_FOUND = "ServiceAccountNotFound"
    # The end.
    COMPLETED = "Completed"
    # The input.
    INPUT_NOT_FOUND = "InputNotFound"
    INPUT_ACCESS_DENIED = "InputAccessDenied"
    INPUT_UNREACHABLE = "InputUnreachable"
    ADDRESS_REFUSED = "AddressRefused"
    CHECKSUM_MISMATCH = "ChecksumMismatch"
    COLUMN_NOT_FOUND = "ColumnNotFound"
    INPUT_INVALID = "InputInvalid"
    TOO_MANY_BAD_ROWS = "TooManyBadRows"
    # The model.
    MODEL_NOT_FOUND = "ModelNotFound"
    MODEL_ACCESS_DENIED = "ModelAccessDenied"
    MODEL_UNREACHABLE = "ModelUnreachable"
    DIGEST_MISMATCH = "DigestMismatch"
    MODEL_INVALID = "ModelInvalid"
    # The run.
    OUTPUT_NOT_WRITABLE = "OutputNotWritable"
    OUT_OF_MEMORY = "OutOfMemory"
    DEADLINE_EXCEEDED = "DeadlineExceeded"
    BACKOFF_LIMIT_EXCEEDED = "BackoffLimitExceeded"
    NAME_CONFLICT = "NameConflict"
    INTERNAL_ERROR = "InternalError"


class Scorer(Model):
    """What scores: a ModelDeployment's stable revision, a TrainingJob's output, or a model by its URI."""

    model_config = validated(
        (
            "[has(self.modelDeploymentRef), has(self.trainingJobRef), has(self.uri)].filter(x, x).size() == 1",
            "give exactly one of modelDeploymentRef, trainingJobRef and uri",
        ),
        ("!has(self.digest) || has(self.uri)", "model.digest belongs to model.uri"),
        ("!has(self.secretRef) || has(self.uri)", "model.secretRef belongs to model.uri; a reference brings its own"),
        ("!has(self.secretRef) || !has(self.uri) || !self.uri.startsWith('pvc://')", KEYLESS[1]),
    )

    model_deployment_ref: ObjectRef | None = Field(
        None, description="ModelDeployment in this namespace: its stable revision at the moment when the run starts."
    )
    training_job_ref: ObjectRef | None = Field(None, description="TrainingJob in this namespace: its output.")
    uri: ModelUri | None = Field(None, description="Folder of a bundle, or one .onnx file.")
    digest: Digest | None = Field(None, description="What the model at uri must be. Absent: whatever is there.")
    secret_ref: ObjectRef | None = Field(None, description="Secret with the keys to where the model at uri lies.")


class Input(Model):
    """What to score."""

    model_config = validated(KEYLESS)

    uri: DataUri = Field(description="A file, or a folder of files of one format.")
    digest: Digest | None = Field(None, description="sha256 that the input must have. Absent: whatever is there.")
    format: Literal["CSV", "Parquet"] | None = Field(None, description="Absent: by the name's ending.")
    secret_ref: ObjectRef | None = Field(None, description="Secret with the keys to a store or a web server.")


class ScoredOutput(Model):
    """Where the answers go."""

    model_config = validated(KEYLESS)

    uri: BundleUri = Field(description="Parent folder; the run writes a folder of its own below it.")
    secret_ref: ObjectRef | None = Field(None, description="Secret with the keys to a store.")


class BatchInferenceSpec(Model):
    """One scoring run. It cannot change; a new run is a new BatchInference."""

    model_config = one_run(
        "BatchInference",
        ("suspend", "ttlSecondsAfterFinished"),
        (
            "!(self.output.uri + '/').startsWith(self.input.uri + (self.input.uri.endsWith('/') ? '' : '/'))",
            "output.uri must not be input.uri or lie in it: what is written would be read",
        ),
    )

    suspend: bool = Field(False, description="Stop the pods; finished shards stay.")
    model: Scorer = Field(description="What scores.")
    input: Input = Field(description="What to score.")
    output: ScoredOutput = Field(description="Where the answers go, as Parquet, one file a shard.")
    keep_columns: Annotated[tuple[ColumnName, ...], set_list(100)] | None = Field(
        None, description="Input columns that are copied beside the answers."
    )
    batch_rows: int = Field(1024, ge=1, le=65536, description="Rows in one call of the model.")
    max_bad_rows_per_mille: int = Field(0, ge=0, le=1000, description="Rows in a thousand that may be unreadable.")
    parallelism: int = Field(1, ge=1, le=250, description="Pods at once; each scores four shards of the input.")
    resources: Resources | None = Field(None, description="Compute resources of each pod, as in a Pod.")
    node_selector: NodeSelector | None = Field(None, description="Labels that a node must carry.")
    tolerations: Tolerations | None = Field(None, description="Taints that the pods tolerate, as in a Pod.")
    service_account_name: ObjectName | None = Field(
        None, description="Whose cloud identity the pods have. Absent: default. Its API token is not mounted."
    )
    backoff_limit: int = Field(2, ge=0, le=10, description="How often each of the pods is tried again.")
    active_deadline_seconds: int = Field(
        86400, ge=60, le=2592000, description="Longest time for the whole run, waiting included."
    )
    ttl_seconds_after_finished: int = Field(
        604800, ge=0, le=31536000, description="How long Job and pods are kept after the end. The answers stay."
    )


class ScoredModel(Model):
    """What scored, fixed when the run started."""

    uri: Annotated[str, Field(max_length=1100)] = Field(description="Where it is.")
    digest: Digest | None = Field(None, description="sha256 of its manifest.json, or of the bare file.")
    revision: Annotated[str, Field(max_length=10, pattern="^[0-9a-f]{10}$")] | None = Field(
        None, description="Of the ModelDeployment."
    )


PerMille = Annotated[int, Field(ge=0, le=1_000_000)]


class FeatureDifference(Model):
    """How far one feature, or the prediction, is from the bundle's reference."""

    name: ColumnName = Field(description="Of the feature; of the output for predictions.")
    psi_per_mille: PerMille = Field(description="Population stability index, in thousandths.")
    limit_per_mille: PerMille = Field(description="What it exceeds by chance once in a thousand such runs.")


class BatchDrift(Model):
    """How the rows differ from those that the model was measured on."""

    rows: Count = Field(description="Rows that were compared.")
    features: Annotated[tuple[FeatureDifference, ...], atomic_list(8)] = Field(description="The worst, worst first.")


class BatchInferenceStatus(Model):
    """What happened. Written by the operator alone."""

    observed_generation: ObservedGeneration | None = Field(
        None, description="The metadata.generation that this status describes; -1 until the operator has seen it."
    )
    conditions: Conditions = Field(default_factory=tuple, description="Current state, one entry per type.")
    job_name: Annotated[str, Field(max_length=63)] | None = Field(None, description="The Job that runs it.")
    start_time: Time | None = Field(None, description="When its Job started.")
    completion_time: Time | None = Field(None, description="When it ended.")
    model: ScoredModel | None = Field(None, description="What scores, fixed when the run started.")
    output_uri: Annotated[str, Field(max_length=1100)] | None = Field(
        None, alias="outputURI", description="Folder of this run."
    )
    rows_read: Count | None = Field(None, description="Rows of the input.")
    rows_written: Count | None = Field(None, description="Rows with answers.")
    rows_bad: Count | None = Field(None, description="Rows that could not be read.")
    shards: Annotated[int, Field(ge=0, le=1000)] | None = Field(None, description="Files that the run makes.")
    shards_succeeded: Annotated[int, Field(ge=0, le=1000)] | None = Field(
        None, description="Those that are there, at most a minute old."
    )
    drift: BatchDrift | None = Field(None, description="The rows beside the bundle's reference.")


BATCH_INFERENCE = Kind(
    kind="BatchInference",
    plural="batchinferences",
    short_name="binf",
    description="One scoring run. It cannot change; a new run is a new BatchInference.",
    spec=BatchInferenceSpec,
    status=BatchInferenceStatus,
    columns=(
        condition_column("Succeeded", BatchInferenceCondition.SUCCEEDED, "status"),
        condition_column("Reason", BatchInferenceCondition.SUCCEEDED, "reason"),
        Column("Rows", ".status.rowsWritten", "integer"),
        Column("Shards", ".status.shardsSucceeded", "integer"),
        AGE,
        Column("Output", ".status.outputURI", wide=True),
        condition_column("Message", BatchInferenceCondition.SUCCEEDED, "message", wide=True),
    ),
)
