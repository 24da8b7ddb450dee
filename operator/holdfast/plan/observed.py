"""What a plan is made from, and what it is made of.

The edge (`holdfast.kube`) fills an `Observed…` from the store and the API server, a pure function turns it into a
`Plan`, and the edge carries the plan out in the order given. Nothing here does I/O or reads a clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from holdfast.plan.drift import NOT_CONFIGURED as NOTHING_WATCHED
from holdfast.plan.drift import Answer as MonitoringAnswer
from holdfast.plan.slo import NOT_CONFIGURED
from holdfast.plan.slo import Answer as SloAnswer
from holdfast.plan.traffic import Mode, Report

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Settings:
    """The operator's settings that shape children."""

    serving_image: str
    training_image: str
    torch_image: str = ""
    """The same with PyTorch in it; empty: there is none."""
    tensorflow_image: str = ""
    """The same with TensorFlow in it; empty: there is none."""
    image_pull_policy: str = "IfNotPresent"
    own_images: tuple[str, ...] = ("*",)
    """Of trainers of one's own: what their names may begin with; `*` stands for all, none for none."""
    router_public_key: str = ""
    """Of the operator, in base64; new pods take leases signed with it."""
    poll_seconds: float = 2.0
    """Between two looks at the routers while something is being decided."""
    drain_seconds: float = 30.0
    """A revision that has had traffic keeps its pods for so long after it lost it."""
    max_trainings: int = 8
    """Runs of all ModelDeployments at a time; others wait."""
    settle_seconds: int = 60
    """Data that change within this time are not read yet."""
    prometheus_rules: bool = False
    """Whether the cluster has the kind PrometheusRule."""


@dataclass(frozen=True, slots=True)
class Metadata:
    """The part of a custom resource's metadata that plans need."""

    name: str
    namespace: str
    uid: str
    generation: int


@dataclass(frozen=True, slots=True)
class Child:
    """A child object as last seen: owned by us, or with our labels and no controller (to be adopted)."""

    kind: str
    name: str
    uid: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    """Only those under holdfast.dev/."""
    spec: Json
    status: Json
    controlled: bool = True
    """False: our labels but no controller, as after `kubectl delete --cascade=orphan`."""
    deleting: bool = False


@dataclass(frozen=True, slots=True)
class Foreign:
    """Somebody else's object under a name that we want."""

    kind: str
    name: str
    owner: str
    """For the message: `Deployment web`, or `nobody` when it has no controller."""


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod of a child that is not healthy, or of a finished Job."""

    name: str
    owner_uid: str
    """Of the ReplicaSet or the Job that controls it."""
    labels: Mapping[str, str]
    phase: str
    created: datetime
    ready: bool = False
    unschedulable: str | None = None
    """The scheduler's message, from the condition PodScheduled."""
    waiting_reason: str | None = None
    """ImagePullBackOff, CrashLoopBackOff, CreateContainerConfigError …"""
    waiting_message: str | None = None
    restarts: int = 0
    exit_code: int | None = None
    """Of the present or the last termination."""
    termination_reason: str | None = None
    """OOMKilled, Error, Completed …"""
    termination_message: str | None = None
    image_id: str | None = None
    mount_message: str | None = None
    """The newest Warning Event about its volumes (FailedMount …), if it hangs in ContainerCreating."""
    doing: str | None = None
    """In its own words, while it runs and is not ready: how far it has fetched its model."""
    uid: str = ""
    address: str = ""
    """Its IP; empty before it has one."""
    step: str = ""
    """Of a pod of several steps the one before the last that runs now; its phase is still Pending then."""
    ready_since: datetime | None = None
    """None while it is not ready."""
    deleting: bool = False


@dataclass(frozen=True, slots=True)
class Claim:
    """A PersistentVolumeClaim that a model or a run names."""

    name: str
    exists: bool
    access_modes: tuple[str, ...] = ()
    phase: str = ""


@dataclass(frozen=True, slots=True)
class TrainingOutput:
    """What a resource sees of the TrainingJob that it references."""

    name: str
    state: Literal["Missing", "Running", "Failed", "Succeeded"]
    uri: str | None = None
    digest: str | None = None
    message: str = ""
    secret: str = ""
    """With the keys to where it wrote; empty for none."""


@dataclass(frozen=True, slots=True)
class Training:
    """A TrainingJob that a ModelDeployment made."""

    name: str
    uid: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    """Only those under holdfast.dev/."""
    created: datetime
    status: Json


@dataclass(frozen=True, slots=True)
class Served:
    """What a BatchInference sees of the ModelDeployment that it references: its stable revision, if it has one."""

    uri: str | None = None
    digest: str | None = None
    revision: str | None = None
    message: str = ""
    """How it stands."""
    secret: str = ""
    """With the keys to its models; empty for none."""


@dataclass(frozen=True, slots=True)
class Observed:
    """One custom resource and all that bears on it, at one moment."""

    now: datetime
    settings: Settings
    metadata: Metadata
    spec: Json
    """As the API server stores it: with defaults."""
    status: Json
    """As last written by us (or empty)."""
    annotations: Json = field(default_factory=dict)
    """Those by which people tell us what to do."""
    children: tuple[Child, ...] = ()
    foreign: tuple[Foreign, ...] = ()
    pods: tuple[Pod, ...] = ()
    claims: tuple[Claim, ...] = ()
    config_maps: Mapping[tuple[str, str], str | None] = field(default_factory=dict)
    """(name, key) → value; None: the ConfigMap or the key is missing."""
    refusals: Mapping[str, str] = field(default_factory=dict)
    """A Job's uid → the API server's words for not letting it create pods."""
    training_output: TrainingOutput | None = None
    served: Served | None = None
    """None: there is no such ModelDeployment."""
    trainings: tuple[Training, ...] = ()
    """TrainingJobs that this ModelDeployment made."""
    running_trainings: int = 0
    """Of all ModelDeployments; counted where `Needs.running_trainings` asks for it."""
    data_event: datetime | None = None
    """When somebody said last that there are new data; in memory only."""
    create_errors: Mapping[tuple[str, str], str] = field(default_factory=dict)
    """(kind, name) → the API server's words for the last refusal to write that child (a quota, an admission policy)."""
    routers: Mapping[str, Report | None] = field(default_factory=dict)
    """A pod's uid → what its router says; None: it did not answer, or not sensibly."""
    progress: Json | None = None
    """What a pod of a TrainingJob says of its run; None: it was not asked, or did not answer."""
    slo: SloAnswer = NOT_CONFIGURED
    """What Prometheus says of a ModelDeployment with `spec.slo`."""
    monitoring: MonitoringAnswer = NOTHING_WATCHED
    """What it says of the rows of one with `spec.monitoring`."""
    memory: Json = field(default_factory=dict)
    """What the last plan of this process wanted to be reminded of; empty in the first pass after a start."""


@dataclass(frozen=True, slots=True)
class Needs:
    """What the edge has to read from the API server before planning, beyond what it watches."""

    pods: bool = False
    claims: frozenset[str] = frozenset()
    config_maps: frozenset[tuple[str, str]] = frozenset()
    refusals: frozenset[str] = frozenset()
    """uids of Jobs that have no pods: why?"""
    routers: frozenset[str] = frozenset()
    """Revisions whose pods' routers are to be read; `Observed.pods` then has all pods, too."""
    progress: bool = False
    """How far is the run? `Observed.pods` then has all pods, too."""
    running_trainings: bool = False


@dataclass(frozen=True, slots=True)
class Apply:
    """Server-side apply of a whole manifest, skipped by the edge when nothing would change."""

    manifest: Json


@dataclass(frozen=True, slots=True)
class Scale:
    """Set replicas of a Deployment whose template is left as an earlier operator rendered it."""

    name: str
    replicas: int


@dataclass(frozen=True, slots=True)
class Create:
    """Create once (Jobs). AlreadyExists with our uid as controller is success."""

    manifest: Json


@dataclass(frozen=True, slots=True)
class Amend:
    """Set those fields of a Job's spec that may change after it was made."""

    name: str
    spec: Json


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete with the uid as precondition, in the background."""

    kind: str
    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class Route:
    """Lease the routers of some pods out to another revision, until 15 s from now.

    Nothing is written to the API server, and a pod that does not take its lease is no error: its next report says
    what it does. Pods of which `Observed.routers` has no report are passed over.
    """

    revision: str
    """Whose pods."""
    pods: tuple[str, ...]
    """Their uids."""
    target: str
    """The other revision."""
    address: str
    """host:port where it takes requests."""
    tls_name: str | None
    """That its certificate must be for; None for plain HTTP."""
    ready_seconds: float
    """For how long the target's youngest pod has been ready."""
    mode: Mode
    hedge_milliseconds: float
    weight: float = 1.0
    """share, shadow."""
    synthetic_per_second: float = 0.0
    """share: golden requests that each pod draws of its own."""
    relative: float = 0.0
    absolute: float = 0.0
    """shadow, golden: numbers agree within absolute + relative · |ours|."""
    close: bool = False
    """all: have every client close its connection after its next answer."""


Write = Apply | Scale | Create | Amend | Delete | Route


@dataclass(frozen=True, slots=True)
class Event:
    """A transition worth telling: posted once, on the custom resource."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now, in this order: writes, then status (if it differs from the one observed), then events."""

    status: Json
    writes: tuple[Write, ...] = ()
    events: tuple[Event, ...] = ()
    requeue_after: float | None = None
    """Seconds until this must be planned again though nothing was seen to change."""
    memory: Json | None = None
    """For `Observed.memory` of the next pass, whether or not the writes succeed; None: what it was."""
