"""A trainer of one's own: three steps in one pod (docs/own-trainer.md).

Ours brings the data, the user's learns, ours looks at what it left and publishes it. The user's step sees neither
claims nor Secrets, and writes to the folder of its output, its checkpoint and /tmp alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from holdfast.api.trainingjob import OwnContainer, RunSpec
from holdfast.build import pod, rendezvous
from holdfast.build.hashing import canonical_json

OWN_TRAINER = "train"
"""Name of the container with the user's image."""
INPUT = "/mnt/holdfast/input"
OUTPUT = "/mnt/holdfast/output"
CHECKPOINT = "/mnt/holdfast/checkpoint"

_FOLDERS = {"input": INPUT, "output": OUTPUT}
_TMP = "own-tmp"


def is_allowed(image: str, prefixes: Sequence[str]) -> bool:
    """Whether the operator's settings let users run this image.

    A prefix is whole names: `registry.example.com/team` allows neither `registry.example.com/team-b/x` nor, without a
    slash, `registry.example.com` the registry at another port of that host. `*` allows all.
    """
    return any(prefix == "*" or _begins(image, prefix) for prefix in prefixes)


def _begins(image: str, prefix: str) -> bool:
    rest = image.removeprefix(prefix)
    if rest == image:
        return False
    return not rest or prefix.endswith("/") or rest[0] == "/" or (rest[0] in ":@" and "/" in prefix)


def checkpoint_of(output_uri: str, job_name: str) -> dict[str, Any] | None:
    """The mount of a folder beside the bundle that outlives the pod; None where the output is on no claim."""
    claim = pod.claim_of(output_uri)
    if claim is None:
        return None
    parent = output_uri.removeprefix(f"pvc://{claim}").strip("/")
    folder = "/".join(part for part in (parent, f".checkpoint-{job_name}") if part)
    return {"name": pod.volume_name(claim), "mountPath": CHECKPOINT, "subPath": folder}


def pod_of_steps(
    fetch: Mapping[str, Any],
    publish: Mapping[str, Any],
    name: str,
    job_name: str,
    spec: RunSpec,
    own: OwnContainer,
    pull_policy: str,
    checkpoint: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """The spec of a pod in which each step begins when the one before it has ended well.

    fetch, publish: those of pods of ours, with what they need of claims and Secrets. name: the model's.
    """
    first, last = fetch["containers"][0], publish["containers"][0]
    volumes = {volume["name"]: volume for volume in (*fetch["volumes"], *publish["volumes"])}
    volumes |= {name: {"name": name, "emptyDir": {}} for name in (*_FOLDERS, _TMP)}
    return {
        **publish,
        "initContainers": [
            _with(first, _mount("input"), _mount("output")),
            _own(name, job_name, spec, own, pull_policy, checkpoint),
        ],
        "containers": [_with(last, _mount("input", read_only=True), _mount("output", read_only=True))],
        "volumes": list(volumes.values()),
    }


def _own(
    name: str, job_name: str, spec: RunSpec, own: OwnContainer, pull_policy: str, checkpoint: Mapping[str, Any] | None
) -> dict[str, Any]:
    mounts = [_mount("input", read_only=True), _mount("output"), *([checkpoint] if checkpoint else [])]
    resources = None if spec.resources is None else spec.resources.to_json()
    made = pod.container(OWN_TRAINER, own.image, pull_policy, own.args or (), {}, mounts, resources)
    made["volumeMounts"][0] = {"name": _TMP, "mountPath": "/tmp"}  # noqa: S108 - what our steps have in theirs is theirs
    if own.command:
        made["command"] = list(own.command)
    given = [variable.to_json() for variable in own.env or ()]
    home = [] if any(variable["name"] == "HOME" for variable in given) else [{"name": "HOME", "value": "/tmp"}]  # noqa: S108
    told = _variables(name, spec) | ({"HOLDFAST_CHECKPOINT": CHECKPOINT} if checkpoint else {})
    made["env"] = [*home, *(_literal(variable) for variable in given), *pod.environment(told)]
    if spec.distributed:
        made["env"] += rendezvous.variables(job_name, spec.distributed.workers)
    return made


def _variables(name: str, spec: RunSpec) -> dict[str, str]:
    slices = spec.evaluation.slices if spec.evaluation else None
    parameters: dict[str, str | int | list[str] | None] = {
        "name": name,
        "seed": spec.seed,
        "target": spec.target,
        "task": spec.task,
        "format": spec.data.format,
        "slices": list(slices) if slices else None,
    }
    known = {key: value for key, value in parameters.items() if value is not None}
    return {
        "HOLDFAST_INPUT": INPUT,
        "HOLDFAST_OUTPUT": OUTPUT,
        "HOLDFAST_PARAMETERS": pod.literal(canonical_json(known)),
    }


def _literal(variable: Mapping[str, Any]) -> dict[str, Any]:
    return {**variable, "value": pod.literal(variable["value"])} if "value" in variable else dict(variable)


def _with(container: Mapping[str, Any], *mounts: Mapping[str, Any]) -> dict[str, Any]:
    return {**container, "volumeMounts": [*container["volumeMounts"], *mounts]}


def _mount(folder: str, *, read_only: bool = False) -> dict[str, Any]:
    return {"name": folder, "mountPath": _FOLDERS[folder]} | ({"readOnly": True} if read_only else {})
