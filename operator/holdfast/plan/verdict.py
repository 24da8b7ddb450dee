"""What a ModelDeployment's status says: how far its spec is fulfilled."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from holdfast.api.modeldeployment import ModelDeploymentReason as Reason
from holdfast.build import labels, names
from holdfast.plan import conditions, trouble
from holdfast.plan.conditions import RECONCILING, STALLED, Condition, Status
from holdfast.plan.observed import Event
from holdfast.plan.revisions import Revision
from holdfast.plan.trouble import Trouble
from holdfast.plan.view import PROGRESS_DEADLINE, REASONS, View
from holdfast.plan.wish import Obstacle, Wanted, any_conflict

HOPELESS = frozenset({Reason.DIGEST_MISMATCH, Reason.MODEL_INVALID, Reason.NAME_CONFLICT, Reason.TRAINING_JOB_FAILED})
"""Stalled at once: trying again cannot help. For all others, once the progress deadline has passed."""


@dataclass(frozen=True)
class Verdict:
    """How far the spec is fulfilled."""

    status: Status
    reason: str
    message: str
    stalled: bool = False

    @property
    def settled(self) -> bool:
        return self.status == "True"


def of_obstacle(view: View, obstacle: Obstacle) -> Verdict:
    """Nothing can be made of the spec yet."""
    stalled = obstacle.status == "False" and (obstacle.reason in HOPELESS or view.overdue())
    return Verdict(obstacle.status, obstacle.reason, obstacle.message, stalled)


def of_wanted(view: View, wanted: Wanted) -> Verdict:
    """How far the wanted revision is."""
    if conflict := any_conflict(view, wanted):
        return of_obstacle(view, conflict)
    existing, replicas = wanted.existing, view.replicas
    stable = existing is not None and existing is view.stable
    if existing and existing.has_ready(replicas):
        if stable:
            return Verdict("True", Reason.SERVING, _serving_message(view, existing))
        return Verdict("Unknown", Reason.PROMOTING, f"{wanted.name} is ready and takes over")
    wrong = _trouble(view, wanted)
    counts = f"{wanted.name}: {min(existing.ready_replicas, replicas) if existing else 0} of {replicas} pods ready"
    if stable and view.has_served:
        if wrong:
            return Verdict("False", Reason.PODS_NOT_READY, f"{counts}; {wrong.reason}: {wrong.message}")
        return Verdict("Unknown", Reason.SCALING, counts)
    overdue = existing is not None and trouble.deadline_passed(existing.child)
    if wrong is None and overdue:
        wrong = Trouble(Reason.PROGRESS_DEADLINE_EXCEEDED, f"{counts} after {PROGRESS_DEADLINE.seconds} s")
        return Verdict("False", wrong.reason, wrong.message, stalled=True)
    if wrong is None:
        return Verdict("Unknown", Reason.STARTING, counts)
    stalled = overdue or wrong.reason in HOPELESS or view.overdue()
    return Verdict("False", wrong.reason, f"{wanted.name}: {wrong.message}", stalled)


def _trouble(view: View, wanted: Wanted) -> Trouble | None:
    name = names.revision_deployment(view.metadata.name, wanted.name)
    for kind, child in (("Deployment", name), ("Service", view.metadata.name)):
        if refused := view.observed.create_errors.get((kind, child)):
            return Trouble(Reason.QUOTA_EXCEEDED, refused)
    if wanted.existing is None:
        return None
    return (
        trouble.of_claims(view.observed.claims)
        or trouble.of_pods(view.pods_of(wanted.existing), view.observed.claims, REASONS)
        or trouble.of_replicas(wanted.existing.child)
    )


def status(view: View, verdict: Verdict, wanted: Wanted | None) -> dict[str, Any]:
    """The whole status."""
    stable = view.stable if view.has_served else None
    found = [
        Condition("Ready", verdict.status, verdict.reason, verdict.message),
        _available(view, verdict),
        _progressing(verdict),
    ]
    if not verdict.settled:
        found.append(Condition(STALLED if verdict.stalled else RECONCILING, "True", verdict.reason, verdict.message))
    observed, metadata = view.observed, view.metadata
    said: dict[str, Any] = {
        "observedGeneration": metadata.generation,
        "conditions": conditions.rendered(found, observed.status, metadata.generation, observed.now),
        "replicas": int(stable.child.status.get("replicas") or 0) if stable else 0,
        "readyReplicas": stable.ready_replicas if stable else 0,
    }
    if stable:
        selector = labels.serving_selector(metadata.name, stable.name)
        said["selector"] = ",".join(f"{key}={value}" for key, value in selector.items())
        said["stableRevision"] = stable.name
        said["model"] = stable.model.to_json() | {"runtimeImage": stable.image}
    if wanted and (stable is None or stable.name != wanted.name):
        said["candidateRevision"] = wanted.name
    if view.service or (wanted and not view.foreign("Service", metadata.name)):
        said["url"] = _url(view)
    return said


def _available(view: View, verdict: Verdict) -> Condition:
    stable = view.stable
    if stable and stable.ready_replicas:
        message = f"{min(stable.ready_replicas, stable.replicas)} of {stable.replicas} pods ready"
        return Condition("Available", "True", Reason.SERVING, message)
    if view.replicas == 0 and view.has_served:
        return Condition("Available", "False", Reason.SCALED_TO_ZERO, "serving.replicas is 0, as asked")
    if view.has_served:
        return Condition("Available", "False", Reason.NO_READY_PODS, f"no pod is ready; {verdict.message}")
    return Condition("Available", "False", Reason.NEVER_SERVED, "no revision has been ready yet")


def _progressing(verdict: Verdict) -> Condition:
    if verdict.settled:
        return Condition("Progressing", "False", Reason.COMPLETE, verdict.message)
    return Condition("Progressing", "False" if verdict.stalled else "True", verdict.reason, verdict.message)


def _serving_message(view: View, revision: Revision) -> str:
    digest = revision.model.digest[: len("sha256:") + 8]
    serves = f"{revision.name} serves {revision.model.uri} ({digest}…) at {_url(view)}"
    return f"{serves}; scaled to zero, as asked" if view.replicas == 0 else serves


def _url(view: View) -> str:
    return f"http://{view.metadata.name}.{view.metadata.namespace}.svc"


def events(view: View, verdict: Verdict) -> Iterable[Event]:
    """Arrivals at an end, good or bad."""
    before: Mapping[str, Any] = conditions.find(view.status, "Ready") or {}
    changed = (before.get("status"), before.get("reason")) != (verdict.status, verdict.reason)
    if changed and verdict.status != "Unknown":
        message = conditions.shortened(verdict.message)
        yield Event("Normal" if verdict.settled else "Warning", verdict.reason, message)
