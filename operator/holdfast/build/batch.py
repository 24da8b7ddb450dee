"""The Job of a BatchInference: pods that share the shards of a run. Created once and never changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from holdfast.api.batchinference import SHARDS_PER_POD, BatchInferenceSpec
from holdfast.api.meta import ObjectRef
from holdfast.build import labels, names, pod
from holdfast.build.hashing import canonical_json
from holdfast.build.job import Place, on_exit, trainer_pod


def batch_job(
    name: str,
    namespace: str,
    uid: str,
    spec: BatchInferenceSpec,
    model: Mapping[str, str],
    model_secret: str,
    image: str,
    pull_policy: str,
) -> dict[str, Any]:
    """The Job.

    model: as in `status.model`; it is kept with the Job: a run has one model, whatever is served later.
    model_secret: with the keys to it; empty for none.
    """
    job_name = names.batch_job(name, uid)
    secret = ObjectRef(name=model_secret) if model_secret and not pod.claim_of(model["uri"]) else None
    places = (
        Place("storage", model["uri"], secret),
        Place("data", spec.input.uri, spec.input.secret_ref),
        Place("output", spec.output.uri, spec.output.secret_ref),
    )
    variables = {"HOLDFAST_BATCH": pod.literal(canonical_json(batch(spec, model, secret, job_name)))}
    template = trainer_pod(
        "score",
        ["batch"],
        variables,
        places,
        spec,
        image,
        pull_policy,
        spec.resources.to_json() if spec.resources else None,
        writable=pod.claim_of(spec.output.uri),
    )
    own = labels.batch(name)
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": job_name,
            "namespace": namespace,
            "labels": own,
            "annotations": {labels.MODEL: canonical_json(model)},
            "ownerReferences": [labels.owner("BatchInference", name, uid)],
        },
        "spec": {
            "completionMode": "Indexed",
            "completions": spec.parallelism,
            "parallelism": spec.parallelism,
            "backoffLimitPerIndex": spec.backoff_limit,
            "maxFailedIndexes": 0,
            "activeDeadlineSeconds": spec.active_deadline_seconds,
            "podFailurePolicy": {"rules": [_EVICTED, on_exit(pod.PERMANENT_FAILURE, "FailJob"), _WAITS]},
            "template": {"metadata": {"labels": own}, "spec": {**template, "restartPolicy": "Never"}},
        },
    }


_EVICTED = {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
"""Not the run's fault, and what it has done is there: it does not count as a try."""
_WAITS = on_exit(pod.WAITING_FOR_A_PERSON, "Ignore")
"""Ends at the deadline."""


def claims_of(spec: BatchInferenceSpec, model: Mapping[str, str]) -> list[str]:
    """The claims that the pods mount."""
    found = map(pod.claim_of, (model["uri"], spec.input.uri, spec.output.uri))
    return sorted({claim for claim in found if claim})


def batch(spec: BatchInferenceSpec, model: Mapping[str, str], secret: ObjectRef | None, folder: str) -> dict[str, Any]:
    """What the pods are told (docs/design: contracts). Which of them it is, each knows from Kubernetes."""
    told: dict[str, Any] = {
        "model": {name: model[name] for name in ("uri", "digest") if name in model},
        "input": spec.input.to_json(),
        "output": {**spec.output.to_json(), "folder": folder},
        "keepColumns": list(spec.keep_columns or ()),
        "batchRows": spec.batch_rows,
        "maxBadRowsPerMille": spec.max_bad_rows_per_mille,
        "pods": spec.parallelism,
        "shards": SHARDS_PER_POD * spec.parallelism,
    }
    if secret:
        told["model"]["secretRef"] = secret.to_json()
    if spec.service_account_name:
        told["serviceAccountName"] = spec.service_account_name
    return told
