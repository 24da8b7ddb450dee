"""The demo's second half: a better model proves itself, and bad ones are taken back, while users ask all the time."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from steps import NAMESPACE, ROOT, StepError, indent, kubectl, wait_for

Json = dict[str, Any]

BETTER = ROOT / "examples" / "wine" / "better" / "modeldeployment.yaml"
SHADOW = "    shadow: {percent: 100, minSeconds: 10}\n"
PROMOTED_WITHIN = 180.0
CAUGHT_WITHIN = 180.0
_POLL_SECONDS = 0.5
_TAKEN_BACK = ("Aborted", "RolledBack")

BAD = (
    ("fails-later-true", "has an error instead of an answer for strong wines, which no check at load knows"),
    ("hangs-later-true", "never comes to an end with strong wines"),
    ("slow", "answers rightly, after some 150 ms"),
    ("wrong", "answers at once, and wrongly"),
)
"""Files of bad versions, and what is wrong with them."""


def make_versions() -> None:
    """Bad versions of the model that serves, and users who ask for its classes."""
    kubectl("-n", NAMESPACE, "delete", "job", "wine-versions", "--ignore-not-found", "--wait=true")
    kubectl("apply", "-k", "examples/wine/versions")
    wait_for("job/wine-versions", "condition=complete", seconds=120)
    kubectl("apply", "-k", "examples/wine/users")
    kubectl("-n", NAMESPACE, "rollout", "restart", "deploy/wine-users")
    kubectl("-n", NAMESPACE, "rollout", "status", "deploy/wine-users", "--timeout=60s")


def promote_better() -> None:
    """The better model, from its training to its promotion."""
    kubectl("apply", "-k", "examples/wine/better")
    wait_for("tjob/wine-2", "condition=Succeeded")
    follow(lambda model: _ready(model) == "Serving", PROMOTED_WITHIN)


def take_back(version: str) -> None:
    """A bad version, from its spec to the decision about it. No copies this time: it gets users' requests at once."""
    spec = BETTER.read_text().replace("trainingJobRef: {name: wine-2}", f"uri: pvc://models/versions/{version}.onnx")
    spec = spec.replace(SHADOW, "")
    before = _decisions(_model())
    kubectl("apply", "-f", "-", stdin=spec)

    def decided(model: Json) -> bool:
        fresh = [decision for decision in _decisions(model) if decision not in before]
        return any(_is_end(decision) for decision in fresh)

    follow(decided, CAUGHT_WITHIN)
    last = next(decision for decision in _decisions(_model()) if _is_end(decision))
    if last["action"] == "Held":  # for a person to look at; a person does
        revision = last["fromRevision"]
        print(f"      a person: kubectl annotate mdep/wine holdfast.dev/rollout='abort {revision}'", flush=True)
        kubectl("-n", NAMESPACE, "annotate", "--overwrite", "mdep/wine", f"holdfast.dev/rollout=abort {revision}")
        follow(lambda model: _ready(model) == "RevisionRejected", CAUGHT_WITHIN)


def revert() -> None:
    """What `git revert` would do: the spec before the bad versions."""
    kubectl("apply", "-f", str(BETTER))
    follow(lambda model: _ready(model) == "Serving", PROMOTED_WITHIN)


def show_users() -> None:
    """The timeline of decisions, and what users got meanwhile."""
    print("\nDecisions (kubectl describe mdep/wine shows them too):")
    for decision in reversed(_decisions(_model())):
        route = f"{decision.get('fromRevision', '')} -> {decision.get('toRevision', '')}".strip(" ->")
        print(f"  {decision['time']} {decision['action']:10} {decision['reason']:18} {route}")
        print(indent(indent(decision.get("evidence") or decision["message"])))
    lines = [json.loads(line) for line in kubectl("-n", NAMESPACE, "logs", "deploy/wine-users").splitlines()]
    total = {name: sum(line[name] for line in lines) for name in ("requests", "failed", "late", "wrong")}
    print(
        f"\nUsers sent {total['requests']} requests: {total['failed']} failed, {total['late']} were answered after more"
        f" than a second, {total['wrong']} wrongly.",
        flush=True,
    )


def follow(reached: Callable[[Json], bool], seconds: float) -> None:
    """Say what the ModelDeployment says about its progress, until `reached` is true of it and of its newest spec.

    Raises StepError when that takes longer than `seconds`.
    """
    began, said = time.monotonic(), ""
    while True:
        model = _model()
        progressing = _condition(model, "Progressing")
        words = f"{progressing.get('reason', '')}: {progressing.get('message', '')}"
        is_new = model["status"].get("observedGeneration") == model["metadata"]["generation"]
        if is_new and words != said:
            said = words
            print(f"      {time.monotonic() - began:5.1f} s  {words}", flush=True)
        if is_new and reached(model):
            return
        if time.monotonic() - began > seconds:
            raise StepError(f"not within {seconds:.0f} s\n{kubectl('-n', NAMESPACE, 'describe', 'mdep/wine')}")
        time.sleep(_POLL_SECONDS)


def _model() -> Json:
    found: Json = json.loads(kubectl("-n", NAMESPACE, "get", "mdep/wine", "-o", "json"))
    return found


def _condition(model: Json, type_: str) -> Json:
    conditions: list[Json] = model["status"].get("conditions", [])
    return next((condition for condition in conditions if condition["type"] == type_), {})


def _ready(model: Json) -> str:
    """The reason of the condition."""
    return str(_condition(model, "Ready").get("reason"))


def _decisions(model: Json) -> list[Json]:
    """The newest first."""
    found: list[Json] = model["status"].get("decisions", [])
    return found


def _is_end(decision: Json) -> bool:
    held = (decision["action"], decision["reason"]) == ("Held", "AwaitingPromotion")
    return decision["action"] in _TAKEN_BACK or held
