"""Reading the state of a Job."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from holdfast.plan.observed import Child


def condition(job: Child, type_: str) -> Mapping[str, Any] | None:
    """The Job's condition of that type, if it is True."""
    found = (c for c in job.status.get("conditions", ()) if c["type"] == type_ and c["status"] == "True")
    return next(found, None)


def succeeded(job: Child) -> bool:
    """Whether the Job has reached its end."""
    return condition(job, "Complete") is not None


def failed(job: Child) -> bool:
    """Whether the Job was given up."""
    return condition(job, "Failed") is not None


def has_no_pods(job: Child) -> bool:
    """Whether it has not come to its first pod."""
    return not finished(job) and not job.status.get("active") and not job.status.get("failed")


def finished(job: Child) -> bool:
    """Whether nothing more will happen by itself."""
    return succeeded(job) or failed(job)
