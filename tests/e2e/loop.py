"""From rows to traffic and round again, as somebody lives through it on the cluster: a model is trained, served and
watched; the world changes and it grows worse; the next one is trained from new rows, compared, tried and promoted."""

from __future__ import annotations

import json
import threading
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from tests.e2e.cluster import made_namespace
from tests.e2e.kube import JsonObject, Kube, condition

LOANS = Path(__file__).resolve().parents[2] / "examples" / "loans"


@dataclass(frozen=True)
class Story:
    """What was seen of it.

    Attributes:
        served: the model when it served, and `first` the runs by then.
        dropped: the model when its loss was told.
        waiting: the model when there were no new rows to learn from, and `then` the runs by then.
        promoted: the model when another one served, and `runs` all runs by then.
        answers: what users got by then, second by second.
    """

    kube: Kube
    served: JsonObject
    first: list[JsonObject]
    dropped: JsonObject
    waiting: JsonObject
    then: list[JsonObject]
    promoted: JsonObject
    runs: list[JsonObject]
    answers: list[dict[str, Any]]


def begin(cluster: Kube, name: str) -> Future[Story]:
    """Live through it in a namespace of that name, beside whatever else goes on: it takes minutes, and mostly waits."""
    future: Future[Story] = Future()

    def live() -> None:
        try:
            future.set_result(lived(made_namespace(cluster, name)))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=live, name=name, daemon=True).start()
    return future


def lived(kube: Kube) -> Story:
    """All of it. Raises AssertionError where it does not go on."""
    kube("create", "secret", "generic", "loans-feedback", f"--from-literal=key={'k' * 64}")
    learn_from(kube, "before")
    kube.apply(*rendered(kube, LOANS))
    kube.wait_ready("loans", seconds=480)
    served, first = until(kube, "Retraining", "Idle"), kube.list("tjob")
    live_in(kube, "dearer")
    dropped = until(kube, "PerformanceStable", "MeasuredDrop")
    waiting, then = until(kube, "Retraining", "NoNewData"), kube.list("tjob")
    learn_from(kube, "dearer")
    digest = served["status"]["model"]["digest"]
    promoted = kube.wait(
        "mdep", "loans", lambda found: found["status"]["model"]["digest"] != digest, "another model serves", 900
    )
    return Story(kube, served, first, dropped, waiting, then, promoted, kube.list("tjob"), answered(kube))


def until(kube: Kube, type_: str, reason: str) -> JsonObject:
    """The model once a condition says so. Windows and polls last a minute, and several may have to pass."""
    return kube.wait("mdep", "loans", lambda o: says(o, type_) == reason, f"{type_} is {reason}", 480)


def says(found: JsonObject, type_: str) -> str:
    return str(condition(found, type_).get("reason"))


def learn_from(kube: Kube, world: str) -> None:
    """Rows of that world take the place of those before."""
    kube("delete", "job", "loans-data", "--ignore-not-found", "--wait=true")
    objects = rendered(kube, LOANS / "data")
    for each in objects:
        if each["kind"] == "Job":
            each["spec"]["template"]["spec"]["containers"][0]["args"][0] = world
    kube.apply(*objects)
    kube("wait", "--for=condition=complete", "job/loans-data", "--timeout=230s")


def live_in(kube: Kube, world: str) -> None:
    """Users of that world ask."""
    objects = rendered(kube, LOANS / "users")
    objects[0]["spec"]["template"]["spec"]["containers"][0]["args"][0] = world
    kube.apply(*objects)
    kube("rollout", "status", "deploy/loans-users", "--timeout=230s")


def rendered(kube: Kube, folder: Path) -> list[JsonObject]:
    """The objects of an example, for the namespace of `kube`."""
    found = list(yaml.safe_load_all(kube("kustomize", str(folder))))
    for each in found:
        each["metadata"].pop("namespace", None)
    return found


def answered(kube: Kube) -> list[dict[str, Any]]:
    """What users got, second by second."""
    lines = [json.loads(line) for line in kube("logs", "deploy/loans-users").splitlines()]
    return [line for line in lines if "rows" in line]
