"""The Job of a BatchInference: pods that share the shards of a run. Created once and never changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from holdfast.api.batchinference import SHARDS_PER_POD, BatchInferenceSpec
from holdfast.build import labels, names, pod
from holdfast.build.hashing import canonical_json


def batch_job(
    name: str,
    namespace: str,
    uid: str,
    spec: BatchInferenceSpec,
    model: Mapping[str, str],
    image: str,
    pull_policy: str,
) -> dict[str, Any]:
    """The Job. `model`, as in `status.model`, is kept with it: a run has one model, whatever is served later."""
    job_name = names.batch_job(name, uid)
    output = pod.claim_of(spec.output.uri)
    claims = claims_of(spec, model)
    container = pod.container(
        "score",
        image,
        pull_policy,
        ["batch"],
        {"HOLDFAST_BATCH": pod.literal(canonical_json(batch(spec, model, job_name)))},
        pod.claim_mounts(claims, writable=output),
        spec.resources.to_json() if spec.resources else None,
    )
    tolerations = [toleration.to_json() for toleration in spec.tolerations or ()]
    own = labels.batch(name)
    template = pod.pod_spec([container], claims, spec.node_selector, tolerations)
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
            "podFailurePolicy": {"rules": [_EVICTED, _HOPELESS]},
            "template": {"metadata": {"labels": own}, "spec": {**template, "restartPolicy": "Never"}},
        },
    }


_EVICTED = {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
"""Not the run's fault, and what it has done is there: it does not count as a try."""
_HOPELESS = {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [pod.PERMANENT_FAILURE]}}


def claims_of(spec: BatchInferenceSpec, model: Mapping[str, str]) -> list[str]:
    """The claims that the pods mount."""
    found = map(pod.claim_of, (model["uri"], spec.input.uri, spec.output.uri))
    return sorted({claim for claim in found if claim})


def batch(spec: BatchInferenceSpec, model: Mapping[str, str], folder: str) -> dict[str, Any]:
    """What the pods are told (docs/design: contracts). Which of them it is, each knows from Kubernetes."""
    return {
        "model": {name: model[name] for name in ("uri", "digest") if name in model},
        "input": spec.input.to_json(),
        "output": {"uri": spec.output.uri, "folder": folder},
        "keepColumns": list(spec.keep_columns or ()),
        "batchRows": spec.batch_rows,
        "maxBadRowsPerMille": spec.max_bad_rows_per_mille,
        "pods": spec.parallelism,
        "shards": SHARDS_PER_POD * spec.parallelism,
    }
