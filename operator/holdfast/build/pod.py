"""What all our pods have in common: the restricted Pod Security Standard, no API token, claims where they belong."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from holdfast.build import quantities
from holdfast.build.names import digest10

USER = 65532
CLAIMS = "/mnt/claims"
SECRETS = "/mnt/secrets"
PERMANENT_FAILURE = 3
"""Exit code with which our programs say that trying again cannot help."""
WAITING_FOR_A_PERSON = 4
"""Exit code with which they say that it will help once a person has done something."""
ANOTHER_POD_FAILED = 5
"""Exit code with which one of several pods says that it ended only because another did."""

_CLAIM = re.compile(r"^pvc://([^/]+)")


def claim_of(uri: str) -> str | None:
    """The claim that a URI names, if it names one."""
    match = _CLAIM.match(uri)
    return match[1] if match else None


def literal(value: str) -> str:
    """A variable's value as it is: the kubelet reads `$(NAME)` and `$$`, even where nobody meant them."""
    return value.replace("$", "$$")


def environment(variables: Mapping[str, str]) -> list[dict[str, str]]:
    """A container's env. An empty value is left out, as the API server does."""
    return [{"name": name, "value": value} if value else {"name": name} for name, value in variables.items()]


def container(
    name: str,
    image: str,
    pull_policy: str,
    args: Sequence[str],
    variables: Mapping[str, str],
    mounts: Sequence[Mapping[str, Any]],
    resources: Mapping[str, Mapping[str, int | str]] | None,
) -> dict[str, Any]:
    """A container that may do nothing but compute."""
    made: dict[str, Any] = {
        "name": name,
        "image": image,
        "imagePullPolicy": pull_policy,
        "env": environment(variables),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}, *mounts],  # noqa: S108
    }
    if args:
        made["args"] = list(args)
    if resources and (counted := quantities.resources(resources)):
        made["resources"] = counted
    return made


def claim_mounts(claims: Iterable[str], writable: str | None = None) -> list[dict[str, Any]]:
    """Mounts of claims by name; `writable` is the one claim that the pod writes to."""
    return [
        {"name": volume_name(claim), "mountPath": f"{CLAIMS}/{claim}"}
        | ({} if claim == writable else {"readOnly": True})
        for claim in claims
    ]


def claim_volumes(claims: Iterable[str]) -> list[dict[str, Any]]:
    """Volumes of claims by name."""
    return [{"name": volume_name(claim), "persistentVolumeClaim": {"claimName": claim}} for claim in claims]


def secret_volume(name: str, secret: str) -> dict[str, Any]:
    """A volume of a Secret's keys as files that our user alone can read.

    A missing Secret is no reason for Kubernetes to hold the pod back: our programs say in words what is missing.
    """
    return {"name": name, "secret": {"secretName": secret, "defaultMode": 0o400, "optional": True}}


def volume_name(claim: str) -> str:
    """A volume's name: it must be a DNS label, while a claim's name may be longer and hold dots."""
    return f"claim-{digest10(claim)}"


def pod_spec(
    containers: Sequence[Mapping[str, Any]],
    claims: Iterable[str],
    node_selector: Mapping[str, str] | None,
    tolerations: Sequence[Mapping[str, Any]] | None,
) -> dict[str, Any]:
    """A pod's spec around its containers."""
    made: dict[str, Any] = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": list(containers),
        "volumes": [{"name": "tmp", "emptyDir": {}}, *claim_volumes(claims)],
    }
    if node_selector:
        made["nodeSelector"] = dict(node_selector)
    if tolerations:
        made["tolerations"] = list(tolerations)
    return made
