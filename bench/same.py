"""Rollouts of the same model again and again, on real pods with users, several models side by side (A/A).

Every candidate is as good as what it takes over from, so that each must be promoted: one that is taken back is a false
alarm. In the middle of the canary of one more model there is no Prometheus for some minutes.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from tests.e2e import cluster
from tests.e2e.kube import JsonObject, Kube, condition
from tests.e2e.models import ModelServer, start_model_server
from tests.e2e.rollouts import Seen, Users, Watch, proxied, until
from tests.e2e.wine import Wine, trained

STEPS = [{"weightPercent": 10, "minSeconds": 20}, {"weightPercent": 50, "minSeconds": 20}]
TOLERANCE_PER_MILLE = 20
PROMOTED_WITHIN = 420.0
TAKEN_BACK = ("Aborted", "RolledBack", "Rejected")
INTERVAL_SECONDS = 15.0
"""Between two rounds of questions to Prometheus, as the operator does it by default."""

Say = Callable[[str], None]


@dataclass
class Same:
    """What came of it. `failures`: one line each."""

    rollouts: int = 0
    aborts: int = 0
    requests: int = 0
    failed: int = 0
    late: int = 0
    wrong: int = 0
    outage_aborts: int = 0
    outage_promotions: int = 0
    resumed: float | None = None
    failures: list[str] = field(default_factory=list)

    def figures(self, outage_seconds: float) -> JsonObject:
        """For the last line."""
        return {
            "aa_rollouts": self.rollouts,
            "aa_aborts": self.aborts,
            "aa_requests": self.requests,
            "aa_failed": self.failed,
            "aa_late": self.late,
            "aa_wrong": self.wrong,
            "prometheus_outage_s": outage_seconds,
            "prometheus_outage_aborts": self.outage_aborts,
            "prometheus_outage_promotions": self.outage_promotions,
            "prometheus_outage_resumed_s": None if self.resumed is None else round(self.resumed, 1),
        }


def roll_out_the_same(say: Say, *, models: int, rollouts: int, rate: float, outage_seconds: float) -> Same:
    """`models` models with `rate` requests per second each are rolled out `rollouts` times in all."""
    wine, result = trained(), Same()
    with (
        cluster.running() as admin,
        cluster.namespace(admin, "same") as kube,
        proxied(kube) as api,
        Watch(api, kube.namespace) as watch,
    ):
        files = {f"good/{name}": content for name, content in wine.bundle.items()}
        server = start_model_server(kube, files | {"questions.json": json.dumps(wine.questions).encode()})
        turns = iter(range(1, rollouts + 1))
        lock = threading.Lock()
        names = [f"wine-{number}" for number in range(1, models + 1)]
        threads = [
            threading.Thread(
                target=_again, args=(_Model(kube, server, wine, watch, name), rate, turns, lock, result, say)
            )
            for name in names
        ]
        for thread in threads:
            thread.start()
        try:
            _without_prometheus(admin, _Model(kube, server, wine, watch, "wine-outage"), outage_seconds, result, say)
        except Exception as error:
            result.failures.append(f"the outage: {type(error).__name__}: {error}"[:2000])
        for thread in threads:
            thread.join()
        taken_back = [one for name in names for _, one in watch.of(name).decisions if one["action"] in TAKEN_BACK]
        result.aborts = len(taken_back)
        result.failures += [json.dumps(decision) for decision in taken_back]
        kube("delete", "mdep", "--all", "--wait=false")
    for failure in result.failures:
        say(f"FAILED {failure}")
    return result


class _Model:
    """A ModelDeployment; another turn is another revision with the same model."""

    def __init__(self, kube: Kube, server: ModelServer, wine: Wine, watch: Watch, name: str) -> None:
        self.kube, self.name = kube, name
        self.seen: Seen = watch.of(name)
        self._server, self._wine = server, wine

    def apply(self, turn: int, steps: list[JsonObject]) -> None:
        self.kube.apply(
            {
                "apiVersion": "holdfast.dev/v1alpha1",
                "kind": "ModelDeployment",
                "metadata": {"name": self.name},
                "spec": {
                    "model": {"uri": self._server.url("good"), "digest": self._wine.digest},
                    "serving": {"env": [{"name": "TURN", "value": str(turn)}]},
                    "rollout": {"strategy": "Canary", "steps": steps, "tolerancePerMille": TOLERANCE_PER_MILLE},
                    "guard": {"warmSeconds": 60},
                    "slo": {"availability": "99.9", "latency": {"thresholdMilliseconds": 100, "objective": "99"}},
                },
            }
        )

    def users(self, rate: float) -> Users:
        return Users(self.kube, self.name, f"--rate={rate}")

    def status(self) -> JsonObject:
        found: JsonObject = self.seen.model.get("status", {})
        return found

    def reason(self, type_: str) -> str:
        return str(condition(self.seen.model, type_).get("reason"))

    def promoted(self, before: str) -> bool:
        """Whether another revision than this one is stable and all is done."""
        status = self.status()
        return status.get("stableRevision") not in (None, before) and not status.get("candidateRevision")


def _again(model: _Model, rate: float, turns: Iterator[int], lock: threading.Lock, result: Same, say: Say) -> None:
    """One model, as long as there are turns left."""
    try:
        model.apply(0, STEPS)
        model.kube.wait_ready(model.name, seconds=180)
        users = model.users(rate)
        while True:
            with lock:
                turn = next(turns, None)
            if turn is None:
                break
            before = model.status()["stableRevision"]
            model.apply(turn, STEPS)
            began = time.monotonic()
            done = until(lambda before=before: model.promoted(before), PROMOTED_WITHIN, 0.5)  # type: ignore[misc]
            took = time.monotonic() - began
            with lock:
                result.rollouts += 1
                if not done:
                    result.failures.append(f"{model.name}, turn {turn}: not promoted in {took:.0f} s: {_words(model)}")
            say(f"{model.name}: rollout {turn} {'promoted' if done else 'NOT promoted'} after {took:.0f} s")
        total = users.stop()
        with lock:
            result.requests += total["requests"]
            result.failed += total["failed"]
            result.late += total["late"]
            result.wrong += total["wrong"]
        if total["failed"] or total["wrong"]:
            say(f"{model.name}: {total}")
    except Exception as error:
        with lock:
            result.failures.append(f"{model.name}: {type(error).__name__}: {error}"[:2000])


def _without_prometheus(admin: Kube, model: _Model, seconds: float, result: Same, say: Say) -> None:
    """A canary that would be over in 30 s, were its step not as long as the outage."""
    steps: list[JsonObject] = [{"weightPercent": 10, "minSeconds": int(seconds) + 120}]
    model.apply(0, steps)
    model.kube.wait_ready(model.name, seconds=180)
    users = model.users(20)
    stable = model.status()["stableRevision"]
    model.apply(1, steps)
    assert until(lambda: model.reason("Progressing") == "CanaryStep", 180), _words(model)
    assert until(lambda: model.reason("SLOHealthy") == "WithinBudget", 180), _words(model)
    admin("scale", "deploy/prometheus", "--replicas=0")
    say(f"no Prometheus for {seconds:.0f} s")
    ends = time.monotonic() + seconds
    noticed = until(lambda: model.reason("SLOHealthy") == "MetricsUnavailable", seconds, 0.5)
    while time.monotonic() < ends:
        time.sleep(0.5)
    decided = [decision["action"] for _, decision in model.seen.decisions]
    result.outage_aborts = sum(action in TAKEN_BACK for action in decided)
    result.outage_promotions = int(model.status()["stableRevision"] != stable)
    admin("scale", "deploy/prometheus", "--replicas=1")
    admin("rollout", "status", "deploy/prometheus", "--timeout=120s")
    back = time.monotonic()
    if until(lambda: model.reason("SLOHealthy") != "MetricsUnavailable", 180):
        result.resumed = time.monotonic() - back
    say(f"Prometheus is back; it is believed again after {result.resumed} s")
    if not noticed:
        result.failures.append("nobody noticed that there was no Prometheus")
    if result.outage_aborts or result.outage_promotions:
        result.failures.append(f"decided without Prometheus: {decided}")
    if result.resumed is None or result.resumed > 2 * INTERVAL_SECONDS:
        result.failures.append(f"resumed after {result.resumed} s")
    users.stop()


def _words(model: _Model) -> str:
    return "; ".join(
        f"{one['type']}={one['status']} {one['reason']}: {one['message']}"
        for one in model.status().get("conditions", [])
    )
