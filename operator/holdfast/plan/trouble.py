"""What is wrong with pods that do not come up: a reason, and the pod's own words."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from holdfast.plan.observed import Child, Claim, Pod

IMAGE_REASONS = frozenset(
    {
        "ErrImagePull",
        "ImagePullBackOff",
        "InvalidImageName",
        "ErrImageNeverPull",
        "ImageInspectError",
        "RegistryUnavailable",
    }
)
_NO_SERVICE_ACCOUNT = re.compile(r'serviceaccount "([^"]{1,253})" not found')
CONFIG_REASONS = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError"})


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why something does not go on."""

    reason: str
    message: str


def report(pod: Pod) -> Mapping[str, Any]:
    """The JSON of the pod's termination message; empty when it wrote none that can be read."""
    try:
        read = json.loads(pod.termination_message or "")
    except ValueError:
        return {}
    return read if isinstance(read, dict) else {}


def of_claims(claims: Iterable[Claim]) -> Trouble | None:
    """A claim that is not there."""
    for claim in claims:
        if not claim.exists:
            return Trouble(
                "ClaimNotFound", f"PersistentVolumeClaim {claim.name} does not exist in this namespace; create it"
            )
    return None


def of_pods(pods: Iterable[Pod], claims: Collection[Claim], known: Collection[str]) -> Trouble | None:
    """The trouble of the first pod that has one. `known` are the reasons that our own programs may give."""
    for pod in pods:
        if not pod.ready and (trouble := _of_pod(pod, claims, known)):
            return trouble
    return None


def doing(pods: Iterable[Pod]) -> str:
    """What the first pod that has something to say is doing, to be put behind a sentence; else empty."""
    return next((f"; {pod.doing}" for pod in pods if pod.doing), "")


def of_replicas(deployment: Child) -> Trouble | None:
    """Pods that the API server refused to create, in its own words."""
    for condition in deployment.status.get("conditions", ()):
        if condition["type"] == "ReplicaFailure" and condition["status"] == "True":
            return of_refusal(condition.get("message", ""))
    return None


def of_refusal(message: str | None) -> Trouble | None:
    """Why the API server does not let a controller create pods, from its words; None where it was not refused."""
    if message is None:
        return None
    if missing := _NO_SERVICE_ACCOUNT.search(message):
        words = f"ServiceAccount {missing[1]} does not exist in this namespace; create it"
        return Trouble("ServiceAccountNotFound", words)
    return Trouble("QuotaExceeded", f"pods are refused: {message}")


def deadline_passed(deployment: Child) -> bool:
    """Whether Kubernetes has seen no progress of the Deployment for its progressDeadlineSeconds."""
    return any(
        condition["type"] == "Progressing" and condition.get("reason") == "ProgressDeadlineExceeded"
        for condition in deployment.status.get("conditions", ())
    )


def _of_pod(pod: Pod, claims: Collection[Claim], known: Collection[str]) -> Trouble | None:
    if pod.unschedulable is not None:
        return _unschedulable(pod.unschedulable, claims)
    if pod.waiting_reason in IMAGE_REASONS:
        return Trouble(
            "ImagePullFailed", f"pod {pod.name}: {pod.waiting_reason}: {pod.waiting_message or ''}".rstrip(": ")
        )
    if pod.exit_code is not None and (pod.exit_code or pod.restarts):
        return _ended(pod, known)
    if pod.waiting_reason in CONFIG_REASONS:
        return Trouble("CrashLoop", f"pod {pod.name} cannot start: {pod.waiting_reason}: {pod.waiting_message or ''}")
    if pod.mount_message is not None:
        return Trouble("Unschedulable", f"pod {pod.name}: {pod.mount_message}{_single_node_hint(claims)}")
    return None


def _ended(pod: Pod, known: Collection[str]) -> Trouble:
    if pod.termination_reason == "OOMKilled":
        words = f"pod {pod.name} was killed: it needs more memory than its limit; raise resources.limits.memory"
        return Trouble("OutOfMemory", words)
    said = report(pod)
    if (reason := str(said.get("reason"))) in known:
        return Trouble(reason, str(said.get("message", "")))
    words = said.get("message") or last_line(pod)
    return Trouble("CrashLoop", f"pod {pod.name} ended with {pod.exit_code}, {pod.restarts} restarts: {words}")


def last_line(pod: Pod) -> str:
    """The last line that the program left behind."""
    lines = (pod.termination_message or "").strip().splitlines()
    return lines[-1] if lines else "it left no message"


def _unschedulable(message: str, claims: Collection[Claim]) -> Trouble:
    if "persistentvolumeclaim" in message and "not found" in message:
        return Trouble("ClaimNotFound", message)
    hint = _single_node_hint(claims) if "volume" in message.lower() else ""
    return Trouble("Unschedulable", f"{message}{hint}")


def _single_node_hint(claims: Collection[Claim]) -> str:
    for claim in claims:
        if claim.access_modes and not {"ReadWriteMany", "ReadOnlyMany"} & set(claim.access_modes):
            return (
                f" (claim {claim.name} is {'/'.join(claim.access_modes)}: its volume can be used on one node at a time;"
                " use ReadOnlyMany or ReadWriteMany, an http(s) URI, or a nodeSelector for that node)"
            )
    return ""
