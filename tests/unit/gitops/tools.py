"""What GitOps tools make of an object: Argo CD by its Lua, and all that go by kstatus, Flux among them.

The object may be any: one from test data, or one whose status a planner or a real operator has made.
"""

from __future__ import annotations

import json
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from tests.unit.serving import go_programs

from holdfast_devcluster import paths

Json = dict[str, Any]
ARGOCD = paths.REPOSITORY / "manifests" / "argocd"
CUSTOMIZATIONS = ARGOCD / "resource_customizations" / "holdfast.dev"
KINDS = ("ModelDeployment", "TrainingJob", "BatchInference")
AGREED = {
    "Healthy": {"Current"},
    "Progressing": {"InProgress"},
    "Degraded": {"Failed"},
    "Suspended": {"InProgress", "Current"},  # kstatus has no word for what a person holds
}


def kstatus(found: Json) -> str:
    """InProgress, Current, Failed or Terminating."""
    return str(asked("kstatus", found)["status"])


def health(found: Json) -> Json:
    """Status and message that Argo CD shows."""
    return asked("lua", found, CUSTOMIZATIONS / found["kind"] / "health.lua")


def discovered(found: Json) -> Json:
    """By the name of the action, what Argo CD shows of it."""
    return asked("lua", found, CUSTOMIZATIONS / found["kind"] / "actions" / "discovery.lua")


def acted(found: Json, action: str) -> Json:
    """The object as Argo CD patches it."""
    return asked("action", found, CUSTOMIZATIONS / found["kind"] / "actions" / action / "action.lua")


def agreed(found: Json) -> tuple[str, str]:
    """Argo CD's word for an object and that of kstatus. Raises AssertionError where they do not fit."""
    argo, other = str(health(found)["status"]), kstatus(found)
    conditions = {condition["type"]: condition for condition in found["status"].get("conditions", ())}
    if argo == "Degraded" and "Stalled" not in conditions:  # pods come back by themselves: degraded, and not failed
        assert conditions["Ready"]["reason"] == "PodsNotReady"
        assert other == "InProgress"
    else:
        assert other in AGREED[argo], (argo, other)
    return argo, other


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def asked(run: str, found: Json, script: Path | None = None) -> Any:
    """The answer of tests/clients/gitops. Raises AssertionError with its complaint."""
    request = {"run": run, "object": found, "script": script.read_text(encoding="utf-8") if script else ""}
    process = _process()
    assert process.stdin
    assert process.stdout
    process.stdin.write(json.dumps(request) + "\n")
    process.stdin.flush()
    answer = json.loads(process.stdout.readline())
    assert "error" not in answer, f"{script or run}: {answer['error']}"
    return answer


@cache
def _process() -> subprocess.Popen[str]:
    """It ends when its input does, with this process."""
    program = go_programs.program("gitops")
    return subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
