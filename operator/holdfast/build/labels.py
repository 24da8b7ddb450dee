"""Labels, annotations and owners of children. Nothing is ever copied from a user's object."""

from __future__ import annotations

from typing import Any

from holdfast.api.meta import API_VERSION, GROUP

MANAGED_BY = "app.kubernetes.io/managed-by"
NAME = "app.kubernetes.io/name"
COMPONENT = "app.kubernetes.io/component"
MODEL_DEPLOYMENT = f"{GROUP}/model-deployment"
TRAINING_JOB = f"{GROUP}/training-job"
BATCH_INFERENCE = f"{GROUP}/batch-inference"
REVISION = f"{GROUP}/revision"
PURPOSE = f"{GROUP}/purpose"
TRIGGER = f"{GROUP}/trigger"
"""Of a TrainingJob that a ModelDeployment made: why."""
ACTION = f"{GROUP}/action"
"""Of such a TrainingJob: what is to follow."""

INTENT = f"{GROUP}/intent"
"""Annotation of a revision's Deployment: what it was made for."""
MODEL = f"{GROUP}/model"
"""Annotation of a revision's Deployment, and of a batch's Job: its model as JSON, so that status can be rebuilt."""
STABLE_REVISION = f"{GROUP}/stable-revision"
"""Annotation of Service X: the register of who is stable."""
HANDLED_ROLLOUT = f"{GROUP}/handled-rollout"
HANDLED_REFRESH = f"{GROUP}/handled-refresh"
"""Annotations of Service X: what people said that was acted on."""
VERDICT = f"{GROUP}/verdict"
VERDICT_REASON = f"{GROUP}/verdict-reason"
VERDICT_MESSAGE = f"{GROUP}/verdict-message"
VERDICT_EVIDENCE = f"{GROUP}/verdict-evidence"
VERDICT_TIME = f"{GROUP}/verdict-time"
PROMOTED_AT = f"{GROUP}/promoted-at"
REPLACED = f"{GROUP}/replaced"
ROLLED_BACK = f"{GROUP}/rolled-back"
PROGRESS = f"{GROUP}/progress"
EVIDENCE = f"{GROUP}/evidence"
GUARD = f"{GROUP}/guard"
GATE = f"{GROUP}/gate"
"""Annotations of a ControllerRevision: what is known of the revision, how far its rollout is, and what was counted."""
CAUSE = f"{GROUP}/cause"
"""Annotation of a TrainingJob that a ModelDeployment made: what it was made for, as JSON."""
ROLLOUT = f"{GROUP}/rollout"
REFRESH = f"{GROUP}/refresh"
RETRAIN = f"{GROUP}/retrain"
"""Annotations of a ModelDeployment, by which a person says what to do. Read, never written."""
DESIRED_HASH = f"{GROUP}/desired-hash"
"""Annotation of every applied child: what was wanted when it was written last."""


def serving(name: str) -> dict[str, str]:
    """Of every child that serves the ModelDeployment `name`."""
    return {MANAGED_BY: "holdfast", NAME: "holdfast-serving", COMPONENT: "serving", MODEL_DEPLOYMENT: name}


def serving_selector(name: str, revision: str) -> dict[str, str]:
    """Selects the pods of one revision."""
    return {COMPONENT: "serving", MODEL_DEPLOYMENT: name, REVISION: revision}


def helper(name: str, purpose: str) -> dict[str, str]:
    """Of a helper Job of the ModelDeployment `name`."""
    return {
        MANAGED_BY: "holdfast",
        NAME: "holdfast-serving",
        COMPONENT: "helper",
        MODEL_DEPLOYMENT: name,
        PURPOSE: purpose,
    }


def training(name: str) -> dict[str, str]:
    """Of the Job of the TrainingJob `name`."""
    return {MANAGED_BY: "holdfast", NAME: "holdfast-training", COMPONENT: "training", TRAINING_JOB: name}


def batch(name: str) -> dict[str, str]:
    """Of the Job of the BatchInference `name`."""
    return {MANAGED_BY: "holdfast", NAME: "holdfast-training", COMPONENT: "batch", BATCH_INFERENCE: name}


def made_training(name: str, trigger: str, action: str) -> dict[str, str]:
    """Of a TrainingJob that the ModelDeployment `name` made."""
    return {
        MANAGED_BY: "holdfast",
        NAME: "holdfast-training",
        COMPONENT: "training",
        MODEL_DEPLOYMENT: name,
        TRIGGER: trigger,
        ACTION: action,
    }


def owner(kind: str, name: str, uid: str) -> dict[str, Any]:
    """A controller reference. It does not block the owner's deletion: that would need a right on finalizers."""
    return {
        "apiVersion": API_VERSION,
        "kind": kind,
        "name": name,
        "uid": uid,
        "controller": True,
        "blockOwnerDeletion": False,
    }
