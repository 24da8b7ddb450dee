"""How the pods of one distributed training find each other: a headless Service, and what torchrun reads."""

from __future__ import annotations

from typing import Any

from holdfast.build import labels, pod
from holdfast.build.hashing import with_desired_hash

PORT = 29500
_INDEX = "metadata.annotations['batch.kubernetes.io/job-completion-index']"


def headless_service(name: str, namespace: str, uid: str, job_name: str) -> dict[str, Any]:
    """Gives the pods of a Job names: `JOB-INDEX.JOB`, also while they are not ready."""
    own = labels.training(name)
    metadata: dict[str, Any] = {"name": job_name, "namespace": namespace, "labels": own}
    metadata["ownerReferences"] = [labels.owner("TrainingJob", name, uid)]
    spec = {
        "clusterIP": "None",
        "publishNotReadyAddresses": True,
        "selector": {labels.COMPONENT: own[labels.COMPONENT], labels.TRAINING_JOB: name},
        "ports": [{"name": "rendezvous", "port": PORT, "targetPort": PORT, "protocol": "TCP"}],
    }
    return with_desired_hash({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec})


def leader(job_name: str) -> dict[str, str]:
    """Where the first pod is, as PyTorch calls it."""
    return {"MASTER_ADDR": f"{job_name}-0.{job_name}", "MASTER_PORT": str(PORT)}


def variables(job_name: str, workers: int) -> list[dict[str, Any]]:
    """A container's env, one process to a pod: for `init_process_group`, and (PET_…) for `torchrun` without options."""
    told = {f"{prefix}{name}": value for prefix in ("", "PET_") for name, value in leader(job_name).items()}
    told |= {"WORLD_SIZE": str(workers), "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    told |= {"PET_NNODES": str(workers), "PET_NPROC_PER_NODE": "1"}
    index = {"valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": _INDEX}}}
    return [*pod.environment(told), *({"name": name, **index} for name in ("RANK", "PET_NODE_RANK"))]
