"""How far a ModelDeployment's spec is fulfilled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from holdfast.api.modeldeployment import ModelDeploymentReason as Reason
from holdfast.build import names
from holdfast.build.deployment import PROGRESS_DEADLINE_SECONDS
from holdfast.build.service import port_name
from holdfast.plan import conditions, trouble
from holdfast.plan.conditions import Status
from holdfast.plan.obstacle import Obstacle
from holdfast.plan.revisions import Revision
from holdfast.plan.trouble import Trouble
from holdfast.plan.view import REASONS, View
from holdfast.plan.wish import any_conflict

HOPELESS = frozenset({Reason.DIGEST_MISMATCH, Reason.MODEL_INVALID, Reason.NAME_CONFLICT, Reason.TRAINING_JOB_FAILED})
"""Stalled at once: trying again cannot help. For all others, once the progress deadline has passed."""


@dataclass(frozen=True)
class Verdict:
    """How far the spec is fulfilled."""

    status: Status
    reason: str
    message: str
    stalled: bool = False
    held: bool = False
    """Something waits for numbers, or for a person."""

    @property
    def complete(self) -> bool:
        """Whether there is nothing to do for us. Pods that are lost come back, or not, without us."""
        return self.status == "True" or self.reason == Reason.PODS_NOT_READY


def of_obstacle(view: View, obstacle: Obstacle) -> Verdict:
    """Nothing can be made of the spec yet."""
    stalled = obstacle.status == "False" and (obstacle.hopeless or obstacle.reason in HOPELESS or view.overdue())
    return Verdict(obstacle.status, obstacle.reason, obstacle.message, stalled)


def of_start(view: View, wanted: Revision, pods: int) -> Verdict:
    """How far a revision is that is to have so many pods: what the first check that has something to say says."""
    return next(verdict for check in STARTING if (verdict := check(view, wanted, pods)))


def of_stable(view: View, wanted: Revision) -> Verdict:
    """The same of one that is stable, or is to be the first."""
    return next(verdict for check in CHECKS if (verdict := check(view, wanted, view.asked(wanted.name))))


def of_serving(view: View, stable: Revision) -> Verdict:
    """The spec is fulfilled by stable, whatever is on its way beside it: a model that nobody asked for by name."""
    if stable.has_ready(view.replicas):
        return Verdict("True", Reason.SERVING, _serving_message(view, stable))
    return Verdict("False", Reason.PODS_NOT_READY, _counts(stable, view.replicas))


def of_rejected(view: View, stable: Revision, wanted: Revision) -> Verdict:
    """The spec asks for a revision that was found wanting."""
    name, standing = wanted.name, wanted.standing
    message = (
        f"{name} is rejected ({standing.reason}: {standing.message}); {stable.name} serves. Change the spec, or"
        f' annotate holdfast.dev/rollout="retry {name}"'
    )
    return Verdict("False", Reason.REVISION_REJECTED, message, stalled=True)


def _name_is_taken(view: View, wanted: Revision, pods: int) -> Verdict | None:
    conflict = any_conflict(view, wanted)
    return of_obstacle(view, conflict) if conflict else None


def _child_is_refused(view: View, wanted: Revision, pods: int) -> Verdict | None:
    name = view.metadata.name
    revision = names.revision_deployment(name, wanted.name)
    children = [("Deployment", revision), ("Service", name), ("ControllerRevision", revision)]
    if view.replicas >= 2:
        children.append(("PodDisruptionBudget", name))
    words = next(filter(None, map(view.observed.create_errors.get, children)), None)
    return Verdict("False", Reason.QUOTA_EXCEEDED, words, view.overdue()) if words else None


def _has_all_pods(view: View, wanted: Revision, pods: int) -> Verdict | None:
    if not wanted.has_ready(pods):
        return None
    if view.register == wanted.name:
        return Verdict("True", Reason.SERVING, _serving_message(view, wanted))
    return Verdict("Unknown", Reason.PROMOTING, f"{wanted.name} is ready and takes over")


def _is_scaled(view: View, wanted: Revision, pods: int) -> Verdict | None:
    """From a change of replicas until all pods are ready, or one is in trouble."""
    if wanted.child is None or wanted is not view.stable or not view.has_served:
        return None
    if wanted.replicas == view.replicas and (view.had != Reason.SCALING or trouble_of(view, wanted)):
        return None
    return Verdict("Unknown", Reason.SCALING, _counts(wanted, pods))


def _lost_pods(view: View, wanted: Revision, pods: int) -> Verdict | None:
    """It had all its pods, and has not now; or more were asked for and do not come."""
    if wanted.child is None or wanted is not view.stable or view.had not in {Reason.COMPLETE, Reason.SCALING}:
        return None
    wrong = trouble_of(view, wanted)
    words = f"; {wrong.reason}: {wrong.message}" if wrong else ""
    return Verdict("False", Reason.PODS_NOT_READY, f"{_counts(wanted, pods)}{words}")


def _does_not_start(view: View, wanted: Revision, pods: int) -> Verdict | None:
    if wanted.child is None:
        return None
    kubernetes = timedelta(seconds=PROGRESS_DEADLINE_SECONDS)  # sees that nothing moves after so long
    late = (
        (view.deadline <= kubernetes and trouble.deadline_passed(wanted.child))
        or _waited_for(view, wanted) >= view.deadline
        or _was_late(view, wanted)
    )
    if wrong := trouble_of(view, wanted):
        stalled = late or view.overdue() or wrong.reason in HOPELESS
        return Verdict("False", wrong.reason, f"{wanted.name}: {wrong.message}", stalled)
    if late:
        message = f"{_counts(wanted, pods)} after {view.spec.rollout.progress_deadline_seconds} s"
        return Verdict("False", Reason.PROGRESS_DEADLINE_EXCEEDED, message, stalled=True)
    return None


def _waited_for(view: View, wanted: Revision) -> timedelta:
    """For its pods: since its rollout began, which need not have changed Ready."""
    progress = wanted.standing.progress
    return min(view.waited_for(), view.now - progress.started) if progress else view.waited_for()


def _was_late(view: View, wanted: Revision) -> bool:
    """Whether that was said before: what is late does not become early by being said so."""
    before = conditions.find(view.status, "Ready")
    said = before is not None and before["reason"] == Reason.PROGRESS_DEADLINE_EXCEEDED
    return before is not None and said and before["message"].startswith(wanted.name)


def _starts(view: View, wanted: Revision, pods: int) -> Verdict:
    own = view.pods_of(wanted) if wanted.child else ()
    return Verdict("Unknown", Reason.STARTING, f"{_counts(wanted, pods)}{trouble.doing(own)}")


Check = Callable[[View, Revision, int], Verdict | None]
STARTING: tuple[Check, ...] = (
    _name_is_taken,  # NameConflict: what is somebody else's is never touched
    _child_is_refused,  # QuotaExceeded: the API server's words
    _does_not_start,  # the pods' own words
    _starts,  # Starting
)
CHECKS: tuple[Check, ...] = (
    _name_is_taken,
    _child_is_refused,
    _has_all_pods,  # Serving, or Promoting until the Service was seen to point there
    _is_scaled,  # Scaling
    _lost_pods,  # PodsNotReady: the wanted revision serves with fewer pods
    _does_not_start,
    _starts,
)


def _counts(wanted: Revision, pods: int) -> str:
    return f"{wanted.name}: {min(wanted.ready_replicas, pods)} of {pods} pods ready"


def trouble_of(view: View, revision: Revision) -> Trouble | None:
    """What is wrong with its pods, if anything."""
    if revision.child is None:
        return None
    claims = view.claims_of(revision.child)
    return (
        trouble.of_claims(claims)
        or trouble.of_pods(view.pods_of(revision), claims, REASONS)
        or trouble.of_replicas(revision.child)
    )


def _serving_message(view: View, revision: Revision) -> str:
    digest = revision.model.digest[: len("sha256:") + 8]
    serves = f"{revision.name} serves {revision.model.uri} ({digest}…) at {url_of(view)}"
    return f"{serves}; scaled to zero, as asked" if view.replicas == 0 else serves


def url_of(view: View) -> str:
    """As the Service is, or will be."""
    ports = view.service.spec["ports"] if view.service else ()
    tls = any(port.get("name") == port_name(True) for port in ports) if ports else view.spec.serving.tls is not None
    return f"{port_name(tls)}://{view.metadata.name}.{view.metadata.namespace}.svc"
