"""kubectl for tests: apply, read and wait, with what is needed to understand a failure."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

JsonObject = dict[str, Any]
PATIENCE = 240.0
"""Seconds for what takes some on a quiet machine: others are slow, and halt."""


@dataclass(frozen=True)
class Kube:
    """kubectl in one namespace of one cluster."""

    program: Path
    kubeconfig: Path
    namespace: str

    def __call__(self, *arguments: str, stdin: str | None = None, timeout: float = PATIENCE, check: bool = True) -> str:
        """What kubectl prints. Raises AssertionError with its complaint."""
        done = subprocess.run(
            [str(self.program), f"--kubeconfig={self.kubeconfig}", "-n", self.namespace, *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        assert not check or done.returncode == 0, f"kubectl {' '.join(arguments)}\n{done.stdout}{done.stderr}"
        return done.stdout

    def apply(self, *manifests: JsonObject) -> None:
        self("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=yaml.safe_dump_all(manifests))

    def get(self, kind: str, name: str) -> JsonObject:
        answer: JsonObject = json.loads(self("get", kind, name, "-o", "json"))
        return answer

    def list(self, kind: str, selector: str = "") -> list[JsonObject]:
        items: list[JsonObject] = json.loads(self("get", kind, "-l", selector, "-o", "json"))["items"]
        return items

    def wait(
        self, kind: str, name: str, reached: Callable[[JsonObject], bool], what: str, seconds: float = PATIENCE
    ) -> JsonObject:
        """The object once `reached` holds. Raises AssertionError with its status, events and pods."""
        deadline = time.monotonic() + seconds
        while True:
            found = self.get(kind, name)
            if reached(found):
                return found
            if time.monotonic() > deadline:
                described = self("describe", kind, name, check=False)
                pods = self("get", "pods", "-o", "wide", check=False)
                raise AssertionError(f"{kind}/{name}: waited {seconds:.0f} s until {what}\n{described}\n{pods}")
            time.sleep(0.25)

    def wait_reason(self, kind: str, name: str, type_: str, reason: str, seconds: float = PATIENCE) -> JsonObject:
        """The condition `type_` once it has `reason`."""
        found = self.wait(
            kind, name, lambda o: condition(o, type_).get("reason") == reason, f"{type_} is {reason}", seconds
        )
        return condition(found, type_)

    def wait_ready(self, name: str, revision_not: str | None = None, seconds: float = PATIENCE) -> JsonObject:
        """The ModelDeployment once its spec is served (by another revision than the one given)."""

        def ready(found: JsonObject) -> bool:
            status = found.get("status", {})
            return (
                condition(found, "Ready").get("status") == "True"
                and status.get("observedGeneration") == found["metadata"]["generation"]
                and status.get("stableRevision") != revision_not
            )

        return self.wait("mdep", name, ready, "Ready is True", seconds)


def condition(found: JsonObject, type_: str) -> JsonObject:
    """The condition of that type; empty when there is none."""
    conditions = found.get("status", {}).get("conditions", [])
    return next((c for c in conditions if c["type"] == type_), {})
