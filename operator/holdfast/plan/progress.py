"""How far a run is: a pod of it is asked once a minute, since each answer is a write of the status."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from holdfast.api.trainingjob import Progress
from holdfast.plan import jobs, runs
from holdfast.plan.observed import Child, Observed

PAUSE = timedelta(seconds=60)

_KNOWN = frozenset(field.alias for field in Progress.model_fields.values())
_LAST = "progress"


def is_due(observed: Observed, job: Child) -> bool:
    """Whether the Job's pod is to be asked now."""
    # The pod of a trainer of one's own is not ready while that has its turn.
    works = job.status.get("ready") or (observed.spec.get("container") and runs.waited(observed))
    if jobs.finished(job) or not works:
        return False
    last = observed.memory.get(_LAST)
    return last is None or observed.now - datetime.fromisoformat(last) >= PAUSE


def memory(observed: Observed) -> Mapping[str, Any] | None:
    """What is to be remembered of an answer. One that did not come is asked for again at the next look."""
    return {_LAST: observed.now.isoformat()} if observed.progress is not None else None


def told(observed: Observed) -> Mapping[str, Any] | None:
    """For the status. A pod may say what it likes: what does not fit is passed over."""
    before: Mapping[str, Any] | None = observed.status.get("progress")
    if observed.progress is None:
        return before
    try:
        said = Progress.parse({name: value for name, value in observed.progress.items() if name in _KNOWN})
    except ValueError:
        return before
    return said.to_json() or before
