"""Jobs: helpers that resolve a model or compare two, and the run of a TrainingJob. Created once and never changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from holdfast.api.meta import Model
from holdfast.api.trainingjob import Preprocessing, RunSpec, Split, TrainingJobSpec
from holdfast.build import labels, names, pod
from holdfast.build.hashing import canonical_json, with_desired_hash
from holdfast.build.source import Source

HELPER_TTL_SECONDS = 600
HELPER_BACKOFF_LIMIT = 6
_COUNTED = frozenset({"cpu", "memory", "ephemeral-storage"})
"""A helper checks a model as the server would and needs as much of these, but no GPU."""


def resolve_job(
    job_name: str,
    name: str,
    namespace: str,
    uid: str,
    source: Source,
    image: str,
    pull_policy: str,
    resources: Mapping[str, Mapping[str, int | str]] | None,
    node_selector: Mapping[str, str] | None,
    tolerations: Sequence[Mapping[str, Any]] | None,
) -> dict[str, Any]:
    """The helper that fetches the model, verifies it and reports its digest.

    resources: those of a server. The Job bears the hash of what was wanted, so that one that has become wrong is found.
    """
    variables, mounts = source.variables(), source.mounts()
    container = pod.container("resolve", image, pull_policy, ["resolve"], variables, mounts, _counted(resources))
    spec = source.complete(pod.pod_spec([container], source.claims, node_selector, tolerations))
    return with_desired_hash(_helper_job(job_name, name, namespace, uid, "resolve", spec))


def gate_job(
    job_name: str,
    name: str,
    namespace: str,
    uid: str,
    champion: Source,
    champion_digest: str,
    challenger: tuple[str, str],
    gate: Model,
    template: RunSpec,
    image: str,
    pull_policy: str,
) -> dict[str, Any]:
    """The helper that compares a challenger with the champion and reports a table.

    Args:
        challenger: URI and digest.
        gate: `retraining.gate` of the ModelDeployment.
        template: the run that made the challenger. The comparison takes what its pod took, but no GPU.
    """
    limits = gate.to_json()
    secrets = {"champion": champion.secret} if champion.secret and not pod.claim_of(champion.uri) else {}
    told = {
        "champion": {"uri": champion.uri, "digest": champion_digest, "secret": secrets.get("champion", "")},
        "challenger": {"uri": challenger[0], "digest": challenger[1]},
        "training": run(template, "gate"),
        **limits,
    }
    uris = (champion.uri, challenger[0], template.data.uri, limits.get("data", {}).get("uri", ""))
    claims = sorted({claim for claim in map(pod.claim_of, uris) if claim})
    mounts = pod.claim_mounts(claims)
    mounts += [{"name": role, "mountPath": f"{pod.SECRETS}/{role}", "readOnly": True} for role in secrets]
    variables = {"HOLDFAST_GATE": pod.literal(canonical_json(told))}
    resources = _counted(_dumped(template.resources))
    container = pod.container("gate", image, pull_policy, ["gate"], variables, mounts, resources)
    tolerations = [_dumped(toleration) or {} for toleration in template.tolerations or ()]
    spec = pod.pod_spec([container], claims, template.node_selector, tolerations)
    spec["volumes"] += [pod.secret_volume(role, secret) for role, secret in secrets.items()]
    if champion.service_account:
        spec["serviceAccountName"] = champion.service_account
    manifest = _helper_job(job_name, name, namespace, uid, "gate", spec)
    manifest["spec"]["activeDeadlineSeconds"] = template.active_deadline_seconds
    return with_desired_hash(manifest)


def training_job(
    name: str, namespace: str, uid: str, spec: TrainingJobSpec, image: str, pull_policy: str
) -> dict[str, Any]:
    """The run of a TrainingJob."""
    job_name = names.training_job(name, uid)
    output = pod.claim_of(spec.output.uri)
    claims = sorted({claim for claim in (pod.claim_of(spec.data.uri), output) if claim})
    container = pod.container(
        "train",
        image,
        pull_policy,
        [],
        {"HOLDFAST_RUN": pod.literal(canonical_json(run(spec, job_name)))},
        pod.claim_mounts(claims, writable=output),
        _dumped(spec.resources),
    )
    tolerations = [_dumped(toleration) or {} for toleration in spec.tolerations or ()]
    made = pod.pod_spec([container], claims, spec.node_selector, tolerations)
    manifest = _job(job_name, namespace, labels.training(name), labels.owner("TrainingJob", name, uid), made)
    manifest["spec"] |= {
        "backoffLimit": spec.backoff_limit,
        "activeDeadlineSeconds": spec.active_deadline_seconds,
    }
    return manifest


def run(spec: RunSpec, folder: str) -> dict[str, Any]:
    """What the trainer is told (docs/design: contracts), with every default filled in."""
    estimator = spec.estimators[0]
    told: dict[str, Any] = {
        "data": spec.data.to_json(),
        "target": spec.target,
        "task": spec.task,
        "preprocessing": (spec.preprocessing or Preprocessing()).to_json(),
        "split": (spec.split or Split()).to_json(),
        "estimator": {"name": estimator.name, "parameters": estimator.parameters or {}},
        "seed": spec.seed,
        "requirements": [],
        "output": {"uri": spec.output.uri, "folder": folder},
    }
    if spec.features:
        told["features"] = spec.features.to_json()
    if spec.evaluation and spec.evaluation.requirements:
        told["requirements"] = [requirement.to_json() for requirement in spec.evaluation.requirements]
    return told


def _counted(resources: Mapping[str, Mapping[str, int | str]] | None) -> dict[str, dict[str, int | str]]:
    return {
        part: {name: value for name, value in values.items() if name in _COUNTED}
        for part, values in (resources or {}).items()
    }


def _helper_job(
    job_name: str, name: str, namespace: str, uid: str, purpose: str, spec: Mapping[str, Any]
) -> dict[str, Any]:
    """A helper of the ModelDeployment `name`."""
    owner = labels.owner("ModelDeployment", name, uid)
    manifest = _job(job_name, namespace, labels.helper(name, purpose), owner, spec)
    manifest["spec"] |= {"backoffLimit": HELPER_BACKOFF_LIMIT, "ttlSecondsAfterFinished": HELPER_TTL_SECONDS}
    return manifest


def _dumped(model: Any) -> Any:
    return None if model is None else model.to_json()


def _job(
    name: str, namespace: str, own: Mapping[str, str], owner: Mapping[str, Any], spec: Mapping[str, Any]
) -> dict[str, Any]:
    rule = {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [pod.PERMANENT_FAILURE]}}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "namespace": namespace, "labels": dict(own), "ownerReferences": [dict(owner)]},
        "spec": {
            "podFailurePolicy": {"rules": [rule]},
            "template": {"metadata": {"labels": dict(own)}, "spec": {**spec, "restartPolicy": "Never"}},
        },
    }
