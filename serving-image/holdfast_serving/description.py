"""What a pod says of its model in the words of the V2 extensions, for every protocol."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from holdfast_serving.metrics import LATE, OK
from holdfast_serving.served import Served, loading

if TYPE_CHECKING:
    from holdfast_bundle.manifest import Tensor

WHO_DECIDES = "this pod serves what its Deployment says"
"""Why nobody can load or unload a model."""


# What the wall clock said when the monotonic one was at 0: taken once, so that one moment is always told alike.
_EPOCH = time.time() - time.perf_counter()


def index(served: Served, *, ready_only: bool) -> list[dict[str, Any]]:
    """The repository: a pod's has one model, whatever state it is in."""
    state, reason = "READY", ""
    if not served.ready:
        if ready_only:
            return []
        loading = served.signature is None
        state, reason = ("LOADING", "") if loading else ("UNAVAILABLE", "the pod is being shut down")
    return [{"name": served.name, "version": served.revision, "state": state, "reason": reason}]


def configuration(served: Served) -> dict[str, Any]:
    """The model's configuration as Triton's clients know it. Raises Problem 503 while the model is loading.

    In a model that is batched the first dimension is that of the batch, and not listed.
    """
    if served.signature is None:
        raise loading()
    max_rows = served.metadata["parameters"].get("max_batch_rows", 0)
    return {
        "name": served.name,
        "platform": "onnxruntime_onnx",
        "backend": "onnxruntime",
        "max_batch_size": max_rows,
        "input": [_configured(tensor, batched=max_rows > 0) for tensor in served.signature.inputs],
        "output": [_configured(tensor, batched=max_rows > 0) for tensor in served.signature.outputs],
        "instance_group": [{"name": served.name, "kind": "KIND_CPU", "count": 1}],
        **({"dynamic_batching": {}} if max_rows > 1 else {}),
    }


def statistics(served: Served) -> dict[str, Any]:
    """Counts and times of this pod since it began, as Triton's clients know them; times in nanoseconds."""
    metrics, counted = served.metrics, served.metrics.statistics
    answered = sum(requests.outcomes[OK] + requests.outcomes[LATE] for requests in metrics.requests)
    sizes = sorted(counted.sizes.items())
    return {
        "model_stats": [
            {
                "name": served.name,
                "version": served.revision,
                "last_inference": round(1000 * (_EPOCH + counted.last)) if counted.last else 0,
                "inference_count": counted.rows,
                "execution_count": counted.runs,
                "inference_stats": {
                    "success": _duration(answered, sum(requests.duration.sum for requests in metrics.requests)),
                    "fail": _duration(counted.failures, counted.failed),
                    "queue": _duration(sum(metrics.queue.counts), metrics.queue.sum),
                    "compute_input": _duration(counted.calls, 0),
                    "compute_infer": _duration(counted.calls, counted.infer),
                    "compute_output": _duration(counted.calls, counted.output),
                    "cache_hit": _duration(0, 0),
                    "cache_miss": _duration(0, 0),
                },
                "batch_stats": [
                    {
                        "batch_size": rows,
                        "compute_input": _duration(size.runs, 0),
                        "compute_infer": _duration(size.runs, size.infer),
                        "compute_output": _duration(size.runs, size.output),
                    }
                    for rows, size in sizes
                ],
            }
        ]
    }


def _configured(tensor: Tensor, *, batched: bool) -> dict[str, Any]:
    kind = "TYPE_STRING" if tensor.datatype == "BYTES" else f"TYPE_{tensor.datatype}"
    return {"name": tensor.name, "data_type": kind, "dims": list(tensor.shape[1:] if batched else tensor.shape)}


def _duration(count: int, seconds: float) -> dict[str, int]:
    return {"count": count, "ns": round(seconds * 1e9)}
