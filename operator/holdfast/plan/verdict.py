"""What a ModelDeployment's status says: how far its spec is fulfilled."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from holdfast.api.modeldeployment import ModelDeploymentReason as Reason
from holdfast.build import labels, names
from holdfast.build.service import port_name
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
    def complete(self) -> bool:
        """Whether there is nothing to do for us. Pods that are lost come back, or not, without us."""
        return self.status == "True" or self.reason == Reason.PODS_NOT_READY


def of_obstacle(view: View, obstacle: Obstacle) -> Verdict:
    """Nothing can be made of the spec yet."""
    stalled = obstacle.status == "False" and (obstacle.hopeless or obstacle.reason in HOPELESS or view.overdue())
    return Verdict(obstacle.status, obstacle.reason, obstacle.message, stalled)


def of_wanted(view: View, wanted: Wanted) -> Verdict:
    """How far the wanted revision is: what the first check that has something to say says."""
    return next(verdict for check in CHECKS if (verdict := check(view, wanted)))


def _name_is_taken(view: View, wanted: Wanted) -> Verdict | None:
    conflict = any_conflict(view, wanted)
    return of_obstacle(view, conflict) if conflict else None


def _child_is_refused(view: View, wanted: Wanted) -> Verdict | None:
    name = view.metadata.name
    children = [("Deployment", names.revision_deployment(name, wanted.name)), ("Service", name)]
    if view.replicas >= 2:
        children.append(("PodDisruptionBudget", name))
    words = next(filter(None, map(view.observed.create_errors.get, children)), None)
    return Verdict("False", Reason.QUOTA_EXCEEDED, words, view.overdue()) if words else None


def _has_all_pods(view: View, wanted: Wanted) -> Verdict | None:
    existing = wanted.existing
    if existing is None or not existing.has_ready(view.asked(wanted.name)):
        return None
    if view.register == wanted.name:
        return Verdict("True", Reason.SERVING, _serving_message(view, existing))
    return Verdict("Unknown", Reason.PROMOTING, f"{wanted.name} is ready and takes over")


def _is_scaled(view: View, wanted: Wanted) -> Verdict | None:
    """From a change of replicas until all pods are ready, or one is in trouble."""
    existing = wanted.existing
    if existing is None or existing is not view.stable or not view.has_served:
        return None
    if existing.replicas == view.replicas and (view.had != Reason.SCALING or _trouble(view, existing)):
        return None
    return Verdict("Unknown", Reason.SCALING, _counts(view, wanted))


def _lost_pods(view: View, wanted: Wanted) -> Verdict | None:
    """It had all its pods, and has not now; or more were asked for and do not come."""
    existing = wanted.existing
    if existing is None or existing is not view.stable or view.had not in {Reason.COMPLETE, Reason.SCALING}:
        return None
    wrong = _trouble(view, existing)
    words = f"; {wrong.reason}: {wrong.message}" if wrong else ""
    return Verdict("False", Reason.PODS_NOT_READY, f"{_counts(view, wanted)}{words}")


def _does_not_start(view: View, wanted: Wanted) -> Verdict | None:
    if wanted.existing is None:
        return None
    overdue = trouble.deadline_passed(wanted.existing.child) or view.overdue()
    if wrong := _trouble(view, wanted.existing):
        return Verdict("False", wrong.reason, f"{wanted.name}: {wrong.message}", overdue or wrong.reason in HOPELESS)
    if trouble.deadline_passed(wanted.existing.child):
        message = f"{_counts(view, wanted)} after {PROGRESS_DEADLINE.seconds} s"
        return Verdict("False", Reason.PROGRESS_DEADLINE_EXCEEDED, message, stalled=True)
    return None


def _starts(view: View, wanted: Wanted) -> Verdict:
    pods = view.pods_of(wanted.existing) if wanted.existing else ()
    return Verdict("Unknown", Reason.STARTING, f"{_counts(view, wanted)}{trouble.doing(pods)}")


CHECKS: tuple[Callable[[View, Wanted], Verdict | None], ...] = (
    _name_is_taken,  # NameConflict: what is somebody else's is never touched
    _child_is_refused,  # QuotaExceeded: the API server's words
    _has_all_pods,  # Serving, or Promoting until the Service was seen to point there
    _is_scaled,  # Scaling
    _lost_pods,  # PodsNotReady: the wanted revision serves with fewer pods
    _does_not_start,  # the pods' own words
    _starts,  # Starting
)


def _counts(view: View, wanted: Wanted) -> str:
    asked = view.asked(wanted.name)
    ready = min(wanted.existing.ready_replicas, asked) if wanted.existing else 0
    return f"{wanted.name}: {ready} of {asked} pods ready"


def _trouble(view: View, revision: Revision) -> Trouble | None:
    claims = view.claims_of(revision.child)
    return (
        trouble.of_claims(claims)
        or trouble.of_pods(view.pods_of(revision), claims, REASONS)
        or trouble.of_replicas(revision.child)
    )


def status(view: View, verdict: Verdict, wanted: Wanted | None) -> dict[str, Any]:
    """The whole status."""
    stable = view.stable if view.has_served else None
    found = [
        Condition("Ready", verdict.status, verdict.reason, verdict.message),
        _available(view, verdict),
        _progressing(verdict),
    ]
    if not verdict.complete:
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
        said["model"] = stable.model.served_by(stable.image)
    # While something stands in its way, the one that was on its way still is.
    candidate = wanted.name if wanted else view.status.get("candidateRevision")
    if candidate and (stable is None or stable.name != candidate) and (wanted or view.revision(candidate)):
        said["candidateRevision"] = candidate
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
    if view.has_served or "stableRevision" in view.status:
        return Condition("Available", "False", Reason.NO_READY_PODS, f"no pod is ready; {verdict.message}")
    return Condition("Available", "False", Reason.NEVER_SERVED, "no revision has been ready yet")


def _progressing(verdict: Verdict) -> Condition:
    if verdict.complete:
        return Condition("Progressing", "False", Reason.COMPLETE, verdict.message)
    return Condition("Progressing", "False" if verdict.stalled else "True", verdict.reason, verdict.message)


def _serving_message(view: View, revision: Revision) -> str:
    digest = revision.model.digest[: len("sha256:") + 8]
    serves = f"{revision.name} serves {revision.model.uri} ({digest}…) at {_url(view)}"
    return f"{serves}; scaled to zero, as asked" if view.replicas == 0 else serves


def _url(view: View) -> str:
    """As the Service is, or will be."""
    ports = view.service.spec["ports"] if view.service else ()
    tls = any(port.get("name") == port_name(True) for port in ports) if ports else view.spec.serving.tls is not None
    return f"{port_name(tls)}://{view.metadata.name}.{view.metadata.namespace}.svc"


def events(view: View, verdict: Verdict) -> Iterable[Event]:
    """Arrivals at an end, good or bad."""
    before: Mapping[str, Any] = conditions.find(view.status, "Ready") or {}
    changed = (before.get("status"), before.get("reason")) != (verdict.status, verdict.reason)
    scaled = verdict.status == "True" and before.get("reason") == Reason.SCALING  # an autoscaler does it all the time
    if changed and not scaled and verdict.status != "Unknown":
        message = conditions.shortened(verdict.message)
        # A TrainingJob and the ModelDeployment of its output are applied together, and either may come first.
        early = verdict.reason == Reason.TRAINING_JOB_NOT_FOUND and not verdict.stalled
        yield Event("Normal" if verdict.status == "True" or early else "Warning", verdict.reason, message)
