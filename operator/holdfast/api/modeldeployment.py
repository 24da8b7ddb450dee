"""ModelDeployment: a model that is to be served. docs/modeldeployment.md is its reference."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from holdfast.api.meta import (
    AGE,
    MAX_MESSAGE,
    Column,
    Conditions,
    Count,
    Digest,
    Kind,
    Model,
    NodeSelector,
    ObjectName,
    ObjectRef,
    ObservedGeneration,
    Resources,
    Scale,
    ServedUri,
    ShortText,
    Time,
    Tolerations,
    atomic_list,
    condition_column,
    list_map,
    rules,
    set_list,
    validated,
)
from holdfast.api.retraining import SPEC_RULES, Retraining, RetrainingStatus
from holdfast.api.variables import EnvVars


class ModelDeploymentCondition(StrEnum):
    """Types of conditions. Reconciling and Stalled are there only while they are True, and never together."""

    READY = "Ready"
    AVAILABLE = "Available"
    PROGRESSING = "Progressing"
    ROLLED_BACK = "RolledBack"
    """There only while it is True."""
    SLO_HEALTHY = "SLOHealthy"
    """There only with spec.slo."""
    DATA_STABLE = "DataStable"
    """There only with spec.monitoring.drift."""
    PERFORMANCE_STABLE = "PerformanceStable"
    """There only with spec.monitoring.performance."""
    RETRAINING = "Retraining"
    """There only with spec.retraining."""
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
    SMOKE_TESTING = "SmokeTesting"
    SHADOWING = "Shadowing"
    CANARY_STEP = "CanaryStep"
    PROMOTING = "Promoting"
    ROLLING_BACK = "RollingBack"
    SCALING = "Scaling"
    # Held.
    INSUFFICIENT_TRAFFIC = "InsufficientTraffic"
    METRICS_UNAVAILABLE = "MetricsUnavailable"
    PAUSED = "Paused"
    AWAITING_PROMOTION = "AwaitingPromotion"
    SUSPENDED = "Suspended"
    # Decided against.
    REVISION_REJECTED = "RevisionRejected"
    ROLLBACK_INEFFECTIVE = "RollbackIneffective"
    # Service level objectives.
    WITHIN_BUDGET = "WithinBudget"
    FAST_BURN = "FastBurn"
    SLOW_BURN = "SlowBurn"
    BUDGET_SPENT = "BudgetSpent"
    PROMETHEUS_NOT_CONFIGURED = "PrometheusNotConfigured"
    # The data and the quality.
    NO_DRIFT = "NoDrift"
    FEATURE_DRIFT = "FeatureDrift"
    PREDICTION_DRIFT = "PredictionDrift"
    UPSTREAM_FAULT = "UpstreamFault"
    DRIFT_PERSISTENT = "DriftPersistent"
    WITHIN_TOLERANCE = "WithinTolerance"
    ESTIMATED_DROP = "EstimatedDrop"
    MEASURED_DROP = "MeasuredDrop"
    INSUFFICIENT_DATA = "InsufficientData"
    INSUFFICIENT_REFERENCE = "InsufficientReference"
    NO_PROFILE = "NoProfile"
    NOT_CALIBRATED = "NotCalibrated"
    SETTLING = "Settling"
    # Retraining, under way.
    CHECKING_DATA = "CheckingData"
    QUEUED = "Queued"
    TRAINING = "Training"
    EVALUATING = "Evaluating"
    ROLLING_OUT = "RollingOut"
    # Retraining, at rest.
    IDLE = "Idle"
    COOLING_DOWN = "CoolingDown"
    NO_NEW_DATA = "NoNewData"
    TRAINING_FAILED = "TrainingFailed"
    GATE_FAILED = "GateFailed"
    ROLLOUT_REJECTED = "RolloutRejected"
    BREAKER_OPEN = "BreakerOpen"
    SCHEDULE_INVALID = "ScheduleInvalid"
    # The wanted revision serves, with fewer pods than asked; or none does.
    PODS_NOT_READY = "PodsNotReady"
    NO_READY_PODS = "NoReadyPods"
    SCALED_TO_ZERO = "ScaledToZero"
    NEVER_SERVED = "NeverServed"
    # The model.
    TRAINING_JOB_NOT_FOUND = "TrainingJobNotFound"
    TRAINING_JOB_FAILED = "TrainingJobFailed"
    FIRST_TRAINING_FAILED = "FirstTrainingFailed"
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
    # Of Events alone.
    ACTION_IGNORED = "ActionIgnored"


class Rejection(StrEnum):
    """Why a revision was rejected. The reasons of RolledBack are among them."""

    MORE_FAILURES = "MoreFailures"
    SLO_BREACH = "SLOBreach"
    HARD_FAILURE = "HardFailure"
    CRASH_LOOP = "CrashLoop"
    OUT_OF_MEMORY = "OutOfMemory"
    PROGRESS_DEADLINE_EXCEEDED = "ProgressDeadlineExceeded"
    SMOKE_TEST_FAILED = "SmokeTestFailed"
    SIGNATURE_CHANGED = "SignatureChanged"
    SHADOW_FAILED = "ShadowFailed"
    GATE_FAILED = "GateFailed"
    REQUESTED_BY_USER = "RequestedByUser"


class Action(StrEnum):
    """What was decided."""

    PROMOTED = "Promoted"
    ABORTED = "Aborted"
    ROLLED_BACK = "RolledBack"
    HELD = "Held"
    RESUMED = "Resumed"
    CLEARED = "Cleared"
    SUPERSEDED = "Superseded"
    NOTIFIED = "Notified"
    TRAINING_STARTED = "TrainingStarted"
    TRAINING_SKIPPED = "TrainingSkipped"
    GATE_PASSED = "GatePassed"


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
        (
            "!has(self.digest) || !has(self.uri) || !self.uri.startsWith('models:/')",
            "model.digest does not go with models:/, whose registry tells it: remove it, or name the bundle's URI",
        ),
    )

    uri: ServedUri | None = Field(None, description="A bundle's folder, an .onnx file, or a registered model.")
    digest: Digest | None = Field(
        None,
        description="sha256 of the bundle's manifest.json, or of the .onnx file. Absent: resolved once.",
    )
    training_job_ref: ObjectRef | None = Field(
        None, description="TrainingJob whose output to serve, in this namespace; waited for until it has one."
    )


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
    env: EnvVars | None = Field(None, description="Environment variables of the server.")
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


class Step(Model):
    """A share of the traffic, and how long it lasts at least."""

    weight_percent: int = Field(ge=1, le=99, description="Share of requests, each drawn on its own.")
    min_seconds: int = Field(ge=0, le=86400, description="How long at least.")


class Shadow(Model):
    """Copies of requests to the candidate before it answers any."""

    percent: int = Field(100, ge=1, le=100, description="Share of requests that are copied.")
    min_seconds: int = Field(60, ge=10, le=86400, description="How long at least.")


class Rollout(Model):
    """How a new revision takes over. A change makes no revision."""

    model_config = validated(
        ("!has(self.steps) || has(self.strategy) && self.strategy == 'Canary'", "steps belong to strategy Canary"),
        (
            "!has(self.shadow) || has(self.strategy) && self.strategy != 'Immediate'",
            "shadow needs strategy Canary or Manual",
        ),
    )

    strategy: Literal["Immediate", "Canary", "Manual"] = Field(
        "Immediate",
        description="Immediate: as soon as its pods are ready. Canary: in steps, decided by its answers. Manual: when a"
        " person says promote.",
    )
    steps: (
        Annotated[
            tuple[Step, ...],
            list_map(
                "weightPercent",
                10,
                ("self.map(s, s.weightPercent).isSorted()", "steps must rise in weightPercent"),
                least=1,
            ),
        ]
        | None
    ) = Field(None, description="Steps of a Canary. Absent: 10 % and 50 %, 60 s each.")
    tolerance_per_mille: int = Field(
        5, ge=1, le=100, description="More bad answers than stable's, in a thousand, that still count as no worse."
    )
    on_insufficient_traffic: Literal["Hold", "Synthetic"] = Field(
        "Hold",
        description="Where there are too few requests to decide: wait, or let pods ask golden requests of their own.",
    )
    progress_deadline_seconds: int = Field(
        600, ge=30, le=86400, description="Time for the pods of a new revision to become ready."
    )
    shadow: Shadow | None = Field(None, description="Copies of requests to the candidate first. Absent: none.")


class Guard(Model):
    """The watch after promotion. A change makes no revision."""

    model_config = validated(
        (
            "!has(self.warmSeconds) || !has(self.rollbackWindowSeconds)"
            " || self.warmSeconds <= self.rollbackWindowSeconds",
            "warmSeconds must not be longer than rollbackWindowSeconds",
        )
    )

    action: Literal["Rollback", "Notify"] = Field("Rollback", description="What a breach of its own leads to.")
    warm_seconds: int = Field(600, ge=0, le=86400, description="How long the previous revision keeps its pods.")
    control_percent: int = Field(
        2,
        ge=0,
        le=20,
        description="Share that the previous revision goes on answering meanwhile, with slo, as the control group.",
    )
    rollback_window_seconds: int = Field(
        86400, ge=0, le=2_592_000, description="How long after its promotion a revision may be rolled back."
    )


def _percentage(what: str) -> tuple[tuple[str, str], ...]:
    return (
        (
            "self.matches('^[5-9][0-9]([.][0-9]{1,3})?$')",
            f'{what}: give a percentage from 50 to 99.999 in quotes, like "99.9"',
        ),
    )


def _fast_burn_can_fire(field: str, of: str) -> tuple[str, str]:
    given = f"self.{of}"
    has = f"has(self.{of.split('.')[0]})"
    return (
        f"!{has} || !{given}.matches('^[5-9][0-9]([.][0-9]{{1,3}})?$')"
        f" || (100.0 - double({given})) * 0.0048 * double(has(self.windowDays) ? self.windowDays : 30) < 1.0",
        f"{field} is too low for this window: its fast burn alert could never fire; raise it or shorten windowDays",
    )


LATENCY_EDGES_MILLISECONDS = (
    1, 2, 3, 5, 7, 10, 15, 20, 25, 30, 40, 50, 75, 100, 150, 200, 250, 300, 400, 500, 750, 1000, 1500, 2000, 3000,
    5000, 7500, 10000, 15000, 30000, 60000,
)  # fmt: skip
"""The server's histogram has these edges, so that what is asked can be counted exactly."""


class Latency(Model):
    """How many of the answers come in which time."""

    threshold_milliseconds: Annotated[
        int,
        Field(
            ge=1,
            le=60000,
            json_schema_extra=rules(
                (
                    f"self in [{', '.join(map(str, LATENCY_EDGES_MILLISECONDS))}]",
                    "thresholdMilliseconds must be an edge of the histogram, one of "
                    + " ".join(map(str, LATENCY_EDGES_MILLISECONDS)),
                )
            ),
        ),
    ] = Field(description="In time means within so many ms: an edge of the histogram.")
    objective: Annotated[str, Field(max_length=6, json_schema_extra=rules(*_percentage("objective")))] = Field(
        description='Percentage of answers in time, like "99".'
    )


class Slo(Model):
    """Service level objectives. A change restarts nothing."""

    model_config = validated(
        ("has(self.availability) || has(self.latency)", "give availability, latency or both"),
        _fast_burn_can_fire("availability", "availability"),
        _fast_burn_can_fire("latency.objective", "latency.objective"),
    )

    availability: Annotated[str, Field(max_length=6, json_schema_extra=rules(*_percentage("availability")))] | None = (
        Field(None, description='Percentage of requests that are answered, like "99.9".')
    )
    latency: Latency | None = Field(None, description="How quickly.")
    window_days: int = Field(30, ge=7, le=90, description="Days over which the error budget is counted.")


class DriftMonitoring(Model):
    """Drift of inputs and predictions against the held-out rows of the bundle's profile."""

    features: Annotated[tuple[Annotated[str, Field(min_length=1, max_length=128)], ...], set_list(50)] | None = Field(
        None, description="Features to judge. Absent: all, at most 50."
    )
    tolerated_psi_per_mille: int = Field(
        100,
        ge=10,
        le=1000,
        alias="toleratedPSIPerMille",
        description="Shift too small to matter, as PSI in thousandths.",
    )


class PerformanceMonitoring(Model):
    """Predictive performance: estimated without labels, or measured by feedback."""

    max_drop_per_mille: int = Field(
        10,
        ge=1,
        le=500,
        description="Loss of accuracy, or growth of the mean absolute error, that is tolerated, in thousandths.",
    )


class Monitoring(Model):
    """What is watched beside the SLO. A change restarts nothing."""

    drift: DriftMonitoring | None = Field(None, description="Drift of data and predictions. Absent: not judged.")
    performance: PerformanceMonitoring | None = Field(
        None, description="Accuracy, or mean error, in use. Absent: not judged."
    )


class ModelDeploymentSpec(Model):
    """What the user wants."""

    model_config = validated(*SPEC_RULES)

    suspend: bool = Field(
        False,
        description="Leave all children as they are: no repair, rollout, rollback or training. Status goes on.",
    )
    model: ModelSource | None = Field(None, description="The model to serve. Absent: the one that retraining makes.")
    serving: Serving = Field(
        default_factory=Serving, description="How the model is served.", json_schema_extra={"default": {}}
    )
    rollout: Rollout = Field(
        default_factory=Rollout, description="How a new revision takes over.", json_schema_extra={"default": {}}
    )
    guard: Guard = Field(
        default_factory=Guard, description="The watch after promotion.", json_schema_extra={"default": {}}
    )
    slo: Slo | None = Field(None, description="Service level objectives. Absent: none.")
    monitoring: Monitoring | None = Field(None, description="Watching the data and the accuracy. Absent: neither.")
    retraining: Retraining | None = Field(None, description="How the model is trained again. Absent: it is not.")


Revision = Annotated[str, Field(max_length=10, pattern="^[0-9a-f]{10}$")]


class ServedModel(Model):
    """The model of the stable revision."""

    uri: Annotated[str, Field(max_length=1100)] = Field(description="Where it was read from.")
    digest: Digest = Field(description="What it is.")
    source: Literal["URI", "TrainingJob", "Retraining"] = Field(description="Who chose it.")
    training_job_name: Annotated[str, Field(max_length=63)] | None = Field(
        None, description="The TrainingJob that made it."
    )
    runtime_image: Annotated[str, Field(max_length=512)] = Field(description="Image that serves it.")


class RevisionStatus(Model):
    """A revision that is kept."""

    name: Revision = Field(description="The revision.")
    ordinal: Count = Field(description="Counts up.")
    model_digest: Digest = Field(description="Its model.")
    source: Literal["URI", "TrainingJob", "Retraining"] = Field(description="Who chose the model.")
    verdict: Literal["Unproven", "Promoted", "Rejected"] = Field(description="What is known of it.")
    reason: ShortText | None = Field(None, description="Why, in one word.")
    message: Annotated[str, Field(max_length=MAX_MESSAGE)] | None = Field(None, description="Why, in a sentence.")
    creation_time: Time | None = Field(None, description="When it was made.")
    verdict_time: Time | None = Field(None, description="When that was decided.")


class ArmStatus(Model):
    """Requests that one of the two revisions was drawn for."""

    requests: Count = Field(description="That have ended.")
    failed: Count = Field(description="Of them, without a good answer, or too late.")


class RolloutStatus(Model):
    """How far the candidate is."""

    step: Count = Field(description="Of the Canary, from 1 on; 0 before.")
    weight_percent: Count = Field(description="Its share of the traffic.")
    start_time: Time = Field(description="When it began.")
    step_start_time: Time = Field(description="When the present stage began.")
    candidate: ArmStatus = Field(description="Requests drawn for the candidate.")
    stable: ArmStatus = Field(description="Requests drawn for stable meanwhile.")
    required_requests: Count = Field(description="So many of the candidate's are needed to decide.")
    e_value: Annotated[str, Field(max_length=16)] = Field(description="Evidence that the candidate is worse.")
    abort_at: Annotated[str, Field(max_length=16)] = Field(description="The e-value at which it is rejected.")


class SloStatus(Model):
    """Error budgets."""

    availability_budget_percent: Annotated[int, Field(ge=-1_000_000, le=100)] | None = Field(
        None, description="Of the budget for availability, what is left."
    )
    latency_budget_percent: Annotated[int, Field(ge=-1_000_000, le=100)] | None = Field(
        None, description="Of the budget for latency, what is left."
    )


class FeatureDrift(Model):
    """How far one feature has moved."""

    name: Annotated[str, Field(max_length=128)] = Field(description="Feature.")
    psi_per_mille: Count = Field(description="Population stability index of the newest window, in thousandths.")
    limit_per_mille: Count | None = Field(
        None, description="What counts as drift with so many rows; absent while there are too few."
    )


class OutputDrift(Model):
    """How far what the model says has moved."""

    psi_per_mille: Count = Field(description="Population stability index of the newest window, in thousandths.")
    limit_per_mille: Count | None = Field(
        None, description="What counts as drift with so many rows; absent while there are too few."
    )


class DriftStatus(Model):
    """The newest window beside the held-out rows."""

    rows: Count = Field(description="Rows of the window.")
    window_seconds: Count = Field(description="Its length.")
    features: Annotated[tuple[FeatureDrift, ...], list_map("name", 8)] = Field(
        default_factory=tuple, description="Those that have moved most."
    )
    prediction: OutputDrift | None = Field(None, description="What is predicted.")
    confidence: OutputDrift | None = Field(None, description="The largest probability of each row.")


PerMille = Annotated[int, Field(ge=0, le=1000)]
MeanError = Annotated[str, Field(max_length=16)]
"""Four digits."""


class PerformanceStatus(Model):
    """Predictive performance in use."""

    metric: Literal["Accuracy", "MAE"] = Field(description="What is compared.")
    baseline_per_mille: PerMille | None = Field(None, description="Of the held-out rows, in thousandths.")
    estimated_per_mille: PerMille | None = Field(None, description="As the model's own confidence lets expect.")
    measured_per_mille: PerMille | None = Field(None, description="By feedback.")
    baseline: MeanError | None = Field(None, description="Mean absolute error of the held-out rows.")
    measured: MeanError | None = Field(None, description="The same by feedback.")
    rows: Count = Field(description="Rows of the newest window.")
    labels: Count | None = Field(None, description="Labels behind what was measured, or is not yet.")


class Decision(Model):
    """Something that was decided, and on what evidence."""

    time: Time = Field(description="When.")
    action: Annotated[str, Field(max_length=32)] = Field(description="What.")
    reason: ShortText = Field(description="Why, in one word.")
    from_revision: Revision | None = Field(None, description="Away from this revision.")
    to_revision: Revision | None = Field(None, description="To this one.")
    message: Annotated[str, Field(max_length=MAX_MESSAGE)] = Field(description="Why, in a sentence.")
    evidence: Annotated[str, Field(max_length=MAX_MESSAGE)] | None = Field(None, description="The numbers.")


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
    previous_revision: Revision | None = Field(None, description="The revision that a rollback returns to.")
    model: ServedModel | None = Field(None, description="The model of the stable revision.")
    revisions: Annotated[tuple[RevisionStatus, ...], list_map("name", 16)] | None = Field(
        None, description="Revisions that are kept, newest first."
    )
    rollout: RolloutStatus | None = Field(None, description="How far the candidate is.")
    slo: SloStatus | None = Field(None, description="Error budgets.")
    drift: DriftStatus | None = Field(None, description="How far the data has moved.")
    performance: PerformanceStatus | None = Field(None, description="How good the model is in use.")
    retraining: RetrainingStatus | None = Field(None, description="How retraining stands.")
    decisions: Annotated[tuple[Decision, ...], atomic_list(20)] | None = Field(
        None, description="What was decided last, newest first."
    )
    last_handled_rollout: Annotated[str, Field(max_length=128)] | None = Field(
        None, description="The last annotation holdfast.dev/rollout that was acted on."
    )
    last_handled_retrain: Annotated[str, Field(max_length=63)] | None = Field(
        None, description="The last annotation holdfast.dev/retrain that was acted on."
    )
    last_handled_refresh: Annotated[str, Field(max_length=63)] | None = Field(
        None, description="The last annotation holdfast.dev/refresh that was acted on."
    )


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
        Column("Candidate", ".status.candidateRevision"),
        Column("Weight", ".status.rollout.weightPercent", "integer"),
        Column("Pods", ".status.readyReplicas", "integer"),
        condition_column("SLO", ModelDeploymentCondition.SLO_HEALTHY, "status"),
        condition_column("Data", ModelDeploymentCondition.DATA_STABLE, "status"),
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
