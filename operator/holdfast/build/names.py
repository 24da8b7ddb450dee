"""Names of children: readable, within the limits, and never wanted by two owners."""

from __future__ import annotations

import hashlib

MAX_JOB_PREFIX = 48
"""Leaves room in 63 characters for a hash and the index that an Indexed Job adds to its pods."""
MAX_HELPER_PREFIX = 52
MAX_TRAINING_PREFIX = 41
"""A TrainingJob's name has 52 characters at most."""


def digest10(*parts: str) -> str:
    """The first 10 hexadecimal digits of the sha256 over the NUL-joined parts."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:10]


def cut(name: str, length: int) -> str:
    """The first `length` characters, without trailing dashes."""
    return name[:length].rstrip("-")


def revision_deployment(name: str, revision: str) -> str:
    """The Deployment of one revision of a ModelDeployment."""
    return f"{name}-{revision}"


def rules_config_map(name: str) -> str:
    """Where the rules of a ModelDeployment are when there is no Prometheus operator."""
    return f"{name}-rules"


def candidate_service(name: str) -> str:
    """The Service of the one other live revision."""
    return f"{name}-candidate"


def helper_job(name: str, uid: str, purpose: str, key: str) -> str:
    """A helper Job of a ModelDeployment; the same key means the same Job."""
    return f"{cut(name, MAX_HELPER_PREFIX)}-{digest10(uid, purpose, key)}"


def training_job(name: str, uid: str) -> str:
    """The Job of a TrainingJob: by its uid, so that one run can never become two Jobs."""
    return f"{cut(name, MAX_JOB_PREFIX)}-{digest10(uid)}"


def batch_job(name: str, uid: str) -> str:
    """The Job of a BatchInference, likewise."""
    return f"{cut(name, MAX_JOB_PREFIX)}-{digest10(uid)}"


def made_training(name: str, uid: str, trigger: str, key: str, failed: int) -> str:
    """A TrainingJob of a ModelDeployment. The same cause means the same TrainingJob; one that failed makes another."""
    return f"{cut(name, MAX_TRAINING_PREFIX)}-{digest10(uid, trigger, key, str(failed))}"
