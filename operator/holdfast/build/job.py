"""Jobs: helpers that resolve or compare models or look for new data, and the run of a TrainingJob. Never changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from holdfast.api.batchinference import BatchInferenceSpec
from holdfast.api.meta import ObjectRef
from holdfast.api.retraining import Gate
from holdfast.api.trainingjob import OwnContainer, Preprocessing, RunSpec, Split, TrainingJobSpec
from holdfast.build import labels, names, owntrainer, pod, rendezvous
from holdfast.build.hashing import canonical_json, with_desired_hash
from holdfast.build.source import Source

HELPER_TTL_SECONDS = 600
HELPER_BACKOFF_LIMIT = 6
POLL_DEADLINE_SECONDS = 1200
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
    gate: Gate,
    template: RunSpec,
    model_version: str,
    image: str,
    pull_policy: str,
) -> dict[str, Any]:
    """The helper that compares a challenger with the champion and reports a table.

    Args:
        challenger: URI and digest.
        gate: `retraining.gate` of the ModelDeployment.
        template: the run that made the challenger. The comparison takes what its pod took, but no GPU.
        model_version: of its tracking's registered model that is the challenger, which gets the alias if it passes;
            empty where there is none.
    """
    limits = gate.to_json()
    secret = champion.secret if not pod.claim_of(champion.uri) else ""
    rows = limits.get("data", {})
    places: tuple[Place, ...] = (
        Place("champion", champion.uri, ObjectRef(name=secret) if secret else None),
        Place("output", challenger[0], template.output.secret_ref),
        Place("data", template.data.uri, template.data.secret_ref),
        Place("rows", rows.get("uri", ""), ObjectRef.parse(rows["secretRef"]) if "secretRef" in rows else None),
    )
    told: dict[str, Any] = {
        "champion": {"uri": champion.uri, "digest": champion_digest},
        "challenger": {"uri": challenger[0], "digest": challenger[1]},
        "training": run(template, "gate"),
        **limits,
    }
    if template.tracking and template.tracking.alias and model_version:
        told["tracking"] = template.tracking.to_json() | {"modelVersion": model_version}
        places += (Place("tracking", template.tracking.uri, template.tracking.secret_ref),)
    if secret:
        told["champion"]["secretRef"] = {"name": secret}
    variables = {"HOLDFAST_GATE": pod.literal(canonical_json(told))}
    resources = _counted(_dumped(template.resources))
    made = trainer_pod("gate", ["gate"], variables, places, template, image, pull_policy, resources)
    if champion.service_account:
        made.setdefault("serviceAccountName", champion.service_account)
    manifest = _helper_job(job_name, name, namespace, uid, "gate", made)
    manifest["spec"]["activeDeadlineSeconds"] = template.active_deadline_seconds
    return with_desired_hash(manifest)


def training_job(
    name: str, namespace: str, uid: str, spec: TrainingJobSpec, image: str, pull_policy: str
) -> dict[str, Any]:
    """The run of a TrainingJob."""
    job_name = names.training_job(name, uid)
    places: tuple[Place, ...] = (
        Place("data", spec.data.uri, spec.data.secret_ref),
        Place("output", spec.output.uri, spec.output.secret_ref),
    )
    told = run(spec, job_name)
    if spec.tracking:
        told["tracking"] = spec.tracking.to_json()
        places += (Place("tracking", spec.tracking.uri, spec.tracking.secret_ref),)
    if not spec.container:
        told["image"] = image
    variables = {"HOLDFAST_RUN": pod.literal(canonical_json(told))}
    output = pod.claim_of(spec.output.uri)
    resources = _dumped(spec.resources)
    if spec.container:
        made = _own_pod(name, job_name, spec, spec.container, variables, places, image, pull_policy)
    else:
        variables |= rendezvous.leader(job_name) if spec.distributed else {}
        made = trainer_pod("train", [], variables, places, spec, image, pull_policy, resources, writable=output)
    manifest = _job(job_name, namespace, labels.training(name), labels.owner("TrainingJob", name, uid), made)
    # What is waited for ends at the deadline, which a helper does not have.
    disruption = {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
    manifest["spec"]["podFailurePolicy"]["rules"] += [on_exit(pod.WAITING_FOR_A_PERSON, "Ignore"), disruption]
    manifest["spec"] |= {
        "backoffLimit": spec.backoff_limit,
        "activeDeadlineSeconds": spec.active_deadline_seconds,
    }
    if spec.tuning and spec.tuning.parallelism > 1:
        manifest["spec"] |= _led_by_the_first(spec.tuning.parallelism)
    if spec.distributed:
        manifest["spec"]["template"]["spec"]["subdomain"] = job_name
        manifest["spec"] |= _led_by_the_first(spec.distributed.workers)
        if not spec.container:  # which may mean something else by it
            manifest["spec"]["podFailurePolicy"]["rules"].append(on_exit(pod.ANOTHER_POD_FAILED, "Ignore"))
    return manifest


def _led_by_the_first(pods: int) -> dict[str, Any]:
    """The part of a Job's spec by which so many pods work together, and the end of the first is the end of all."""
    ended = {"rules": [{"succeededIndexes": "0"}]}
    return {"completionMode": "Indexed", "completions": pods, "parallelism": pods, "successPolicy": ended}


def _own_pod(
    name: str,
    job_name: str,
    spec: RunSpec,
    own: OwnContainer,
    variables: Mapping[str, str],
    places: tuple[Place, ...],
    image: str,
    pull_policy: str,
) -> dict[str, Any]:
    """places: of the data, of the output, and of a tracking server if there is one.

    The checkpoint lies beside the bundle, where that is on a claim.
    """
    checkpoint = owntrainer.checkpoint_of(spec.output.uri, job_name)
    writable, counted = pod.claim_of(spec.output.uri), _counted(_dumped(spec.resources))
    reads, writes = places[:2] if checkpoint else places[:1], places[1:]
    fetch = trainer_pod("fetch", ["fetch"], variables, reads, spec, image, pull_policy, counted, writable=writable)
    publish = trainer_pod(
        "publish", ["publish"], variables, writes, spec, image, pull_policy, counted, writable=writable
    )
    return owntrainer.pod_of_steps(fetch, publish, name, job_name, spec, own, pull_policy, checkpoint)


def poll_job(
    job_name: str,
    name: str,
    namespace: str,
    uid: str,
    template: RunSpec,
    image: str,
    pull_policy: str,
    settle_seconds: int,
) -> dict[str, Any]:
    """The helper that reports the version of the data that the template names, once they have settled."""
    data = template.data
    told: dict[str, Any] = {"data": data.to_json(), "settleSeconds": settle_seconds}
    if template.service_account_name:
        told["serviceAccountName"] = template.service_account_name
    variables = {"HOLDFAST_POLL": pod.literal(canonical_json(told))}
    places = (Place("data", data.uri, data.secret_ref),)
    made = trainer_pod("poll", ["poll"], variables, places, template, image, pull_policy, None)  # it reads no rows
    manifest = _helper_job(job_name, name, namespace, uid, "poll", made)
    # Data that never settle, or a pod that never starts, must not keep later polls from being made.
    manifest["spec"]["activeDeadlineSeconds"] = POLL_DEADLINE_SECONDS + HELPER_BACKOFF_LIMIT * settle_seconds
    return manifest


@dataclass(frozen=True, slots=True)
class Place:
    """What a pod of the training image reads or writes.

    Attributes:
        name: below `/mnt/secrets`, where the keys to it are.
    """

    name: str
    uri: str
    secret: ObjectRef | None


def trainer_pod(
    container: str,
    args: Sequence[str],
    variables: Mapping[str, str],
    places: Sequence[Place],
    spec: RunSpec | BatchInferenceSpec,
    image: str,
    pull_policy: str,
    resources: Mapping[str, Mapping[str, int | str]] | None,
    writable: str | None = None,
) -> dict[str, Any]:
    """The spec of a pod of the training image, with the claims and Secrets of its places; one claim may be writable."""
    claims = sorted({claim for place in places if (claim := pod.claim_of(place.uri))})
    mounts, volumes = pod.claim_mounts(claims, writable=writable), []
    for place in places:
        if place.secret:
            volume = f"{place.name}-secret"
            mounts.append({"name": volume, "mountPath": f"{pod.SECRETS}/{place.name}", "readOnly": True})
            volumes.append(pod.secret_volume(volume, place.secret.name))
    tolerations = [_dumped(toleration) or {} for toleration in spec.tolerations or ()]
    made = pod.pod_spec(
        [pod.container(container, image, pull_policy, args, variables, mounts, resources)],
        claims,
        spec.node_selector,
        tolerations,
    )
    made["volumes"] += volumes
    if spec.service_account_name:
        made["serviceAccountName"] = spec.service_account_name
    return made


def run(spec: RunSpec, folder: str) -> dict[str, Any]:
    """What the trainer is told (docs/design: contracts), with every default filled in."""
    told: dict[str, Any] = {
        "data": spec.data.to_json(),
        "seed": spec.seed,
        "requirements": [],
        "output": {**spec.output.to_json(), "folder": folder},
    }
    if spec.target:
        told["target"] = spec.target
    if spec.task:
        told["task"] = spec.task
    if spec.container:
        told["container"] = {"image": spec.container.image}
    if spec.estimators:
        told["estimators"] = [estimator.to_json() for estimator in spec.estimators]
        told["preprocessing"] = (spec.preprocessing or Preprocessing()).to_json()
        told["split"] = (spec.split or Split()).to_json()
        if spec.distributed:
            told["workers"] = spec.distributed.workers
    if spec.service_account_name:
        told["serviceAccountName"] = spec.service_account_name
    if spec.features:
        told["features"] = spec.features.to_json()
    if spec.calibration:
        told["calibration"] = spec.calibration
    if spec.tuning:
        told["tuning"] = spec.tuning.to_json()
    if spec.evaluation and spec.evaluation.slices:
        told["slices"] = list(spec.evaluation.slices)
    if spec.evaluation and spec.evaluation.requirements:
        told["requirements"] = [requirement.to_json() for requirement in spec.evaluation.requirements]
    if spec.evaluation and spec.evaluation.slice_requirements:
        told["sliceRequirements"] = [requirement.to_json() for requirement in spec.evaluation.slice_requirements]
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
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "namespace": namespace, "labels": dict(own), "ownerReferences": [dict(owner)]},
        "spec": {
            "podFailurePolicy": {"rules": [on_exit(pod.PERMANENT_FAILURE, "FailJob")]},
            "template": {"metadata": {"labels": dict(own)}, "spec": {**spec, "restartPolicy": "Never"}},
        },
    }


def on_exit(code: int, action: str) -> dict[str, Any]:
    """A rule of a Job's podFailurePolicy for one exit code of our programs."""
    return {"action": action, "onExitCodes": {"operator": "In", "values": [code]}}
