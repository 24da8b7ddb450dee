"""Rollouts in the cluster, as somebody sees them who only looks: users, the API and the routers' counters."""

from __future__ import annotations

import json
import re
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
from tests.e2e.kube import JsonObject, Kube, condition

BAD = ("failed", "late", "wrong")
_ENDED_WELL = ("ok", "client_error")


@contextmanager
def proxied(kube: Kube) -> Iterator[str]:
    """The API on loopback for as long as this lasts; its URL."""
    command = [str(kube.program), f"--kubeconfig={kube.kubeconfig}", "proxy", "--port=0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            found = re.search(r"127\.0\.0\.1:\d+", process.stdout.readline())
            assert found, "kubectl proxy has no port"
            yield f"http://{found[0]}"
        finally:
            process.terminate()


class Users:
    """`users.py` in the pod of the models' web server, asking one ModelDeployment."""

    def __init__(self, kube: Kube, name: str, *arguments: str) -> None:
        self._kube, self._control = kube, f"/tmp/users-{name}"
        self._in_pod("rm", "-rf", self._control)
        self._in_pod("mkdir", "-p", self._control)
        command = [str(kube.program), f"--kubeconfig={kube.kubeconfig}", "-n", kube.namespace, "exec", "deploy/models"]
        command += ["--", "python", "/code/users.py", f"http://{name}/v2/models/{name}", "/models/questions.json"]
        command += [f"--control={self._control}", *arguments]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.lines: list[JsonObject] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.lines.append(json.loads(line))

    def _in_pod(self, *command: str) -> None:
        self._kube("exec", "deploy/models", "--", *command)

    def drink(self, *, strong: bool) -> None:
        """Ask about strong wines from now on, or about the usual ones."""
        self._in_pod(*(("touch",) if strong else ("rm", "-f")), f"{self._control}/strong")

    def since(self, moment: float) -> JsonObject:
        """The sum of what ended after this moment, and [seconds after it, failed, late, wrong] where that was bad."""
        lines = [line for line in self.lines if line["at"] > moment and "total" not in line]
        bad = [line for line in lines if line["last_bad"]]
        return {
            **{name: sum(line[name] for line in lines) for name in ("requests", *BAD, "slow", "again")},
            "first_bad": bad[0]["first_bad"] if bad else None,
            "last_bad": bad[-1]["last_bad"] if bad else None,
            "strong_since": next((line["strong_since"] for line in lines if line["strong_since"]), None),
            "errors": dict(Counter(error for line in lines for error in line["errors"]).most_common(5)),
            "bad_seconds": [
                [round(line["at"] - moment, 1), *(line[name] for name in BAD)]
                for line in lines
                if any(line[name] for name in BAD)
            ],
        }

    def stop(self) -> JsonObject:
        """The sum of all."""
        if self._process.poll() is None:
            self._in_pod("touch", f"{self._control}/stop")
        self._process.wait(60)
        self._reader.join()
        assert self.lines, "users.py said nothing"
        assert self.lines[-1].get("total"), "users.py ended before its time"
        return self.lines[-1]


@dataclass
class Seen:
    """What was seen of one ModelDeployment, by the clock of this machine.

    Attributes:
        states: (when, reason of Progressing, its message), whenever one of them changed.
        decisions: (when, decision).
        failures: the first moment at which a router had counted an answer against this revision.
        model: the newest state.
    """

    states: list[tuple[float, str, str]] = field(default_factory=list)
    decisions: list[tuple[float, JsonObject]] = field(default_factory=list)
    failures: dict[str, float] = field(default_factory=dict)
    model: JsonObject = field(default_factory=dict)


class Watch:
    """Looks at the ModelDeployments of a namespace, and twice a second at the routers of their stable pods."""

    def __init__(self, api: str, namespace: str) -> None:
        self._core = f"{api}/api/v1/namespaces/{namespace}"
        self._models = f"{api}/apis/holdfast.dev/v1alpha1/namespaces/{namespace}/modeldeployments"
        self.seen: dict[str, Seen] = {}
        self._over = threading.Event()
        self._threads = [threading.Thread(target=target) for target in (self._follow, self._look)]

    def __enter__(self) -> Watch:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def of(self, name: str) -> Seen:
        return self.seen.setdefault(name, Seen())

    def _follow(self) -> None:
        """Every state of every ModelDeployment."""
        with httpx.Client(timeout=httpx.Timeout(10, read=2)) as client:
            while not self._over.is_set():
                try:
                    with client.stream("GET", self._models, params={"watch": "true"}) as answer:
                        for line in answer.iter_lines():
                            event = json.loads(line)
                            if event["type"] != "ERROR":
                                self._note(event["object"])
                            if self._over.is_set():
                                return
                except httpx.TransportError:
                    continue  # nothing happened for two seconds; a new watch begins with all that there is

    def _note(self, model: JsonObject) -> None:
        seen, now = self.of(model["metadata"]["name"]), time.time()
        seen.model = model
        progressing = condition(model, "Progressing")
        state = (progressing.get("reason", ""), progressing.get("message", ""))
        if not seen.states or seen.states[-1][1:] != state:
            seen.states.append((now, *state))
        known = [decision for _, decision in seen.decisions]
        for decision in reversed(model.get("status", {}).get("decisions", [])):
            if decision not in known:
                seen.decisions.append((now, decision))

    def _look(self) -> None:
        with httpx.Client(timeout=1) as client:
            while not self._over.wait(0.5):
                for name, seen in list(self.seen.items()):
                    status = seen.model.get("status", {})
                    if status.get("candidateRevision") or status.get("previousRevision"):
                        for document in self._routers(client, name, status.get("stableRevision", "")):
                            _note_failures(document, seen)

    def _routers(self, client: httpx.Client, name: str, revision: str) -> Iterator[JsonObject]:
        selector = f"holdfast.dev/model-deployment={name},holdfast.dev/revision={revision}"
        try:
            pods = client.get(f"{self._core}/pods", params={"labelSelector": selector}).json()["items"]
        except (httpx.HTTPError, ValueError, KeyError):
            return
        for pod in pods:
            try:
                answer = client.get(f"{self._core}/pods/{pod['metadata']['name']}:8081/proxy/router")
                yield answer.json()
            except (httpx.HTTPError, ValueError):
                continue  # it hangs, or is going


def _note_failures(document: JsonObject, seen: Seen) -> None:
    arms, golden = document.get("arms") or {}, document.get("golden") or {}
    for phase in ("warming", "steady"):
        outcomes = arms[phase]["target"]["outcomes"] if arms else {}
        if any(count for outcome, count in outcomes.items() if outcome not in _ENDED_WELL):
            seen.failures.setdefault(arms["target"], time.time())
    if golden.get("failed"):
        seen.failures.setdefault(golden["target"], time.time())


def until(condition: Callable[[], Any], seconds: float, pause: float = 0.1) -> Any:
    """What `condition` says once that is true of it; None when the time is up."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > deadline:
            return None
        time.sleep(pause)
    return found
