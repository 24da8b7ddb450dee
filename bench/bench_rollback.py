"""`make bench-rollback`: bad versions of a model on real pods, and what users get of them before they are taken back.

Users with kept connections ask 50 times a second, at unequal rates, from a pod in the cluster; every answer is looked
at. Each run rolls out one bad version with a canary of 10 %, or lets one be promoted that becomes bad later. It ends
with the operator's decision, or when time is up. Lanes run side by side, each a ModelDeployment with users of its own.

A decision is timed from the first failure that a router counted against the version (after promotion: from the first
request of the kind that it fails on) to the moment at which `status.decisions` says so, by one clock. `failed`: an
error or no answer in 3 s. `late`: right, but after more than a second. `wrong`: another class than the good model's.

Every run prints a line of JSON; the last line is one JSON object. Progress goes to standard error. The exit status is 1
when a bad version was not caught.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from tests.e2e import cluster
from tests.e2e.kube import JsonObject, Kube, condition
from tests.e2e.models import ModelServer, onnx_digest, start_model_server
from tests.e2e.rollouts import Seen, Users, Watch, proxied, until
from tests.e2e.wine import Wine, trained

STEPS = [{"weightPercent": 10, "minSeconds": 60}]
SHADOW = {"percent": 100, "minSeconds": 20}
SLO = {"availability": "99.9", "latency": {"thresholdMilliseconds": 100, "objective": "99"}}
WARM_SECONDS = 600
SETTLED_SECONDS = 45.0
"""After the promotion, a version that becomes bad later is good for so long."""

DECIDED_WITHIN = 180.0
REQUEST_TIMEOUT_SECONDS = 2
PATIENCE_SECONDS = 3
"""Of users: longer than a request may take."""

AFTERMATH_SECONDS = 15.0
"""What users get is counted for so long after a decision."""

started = time.monotonic()


def say(text: str) -> None:
    """A progress line, on standard error."""
    print(f"[{time.monotonic() - started:5.0f} s] {text}", file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Case:
    """A kind of run.

    Attributes:
        name: of the file that the bad version is in.
        later: whether it is promoted first.
        golden: whether the stable version has golden requests and a profile. Without them, only users' requests can
            show that a candidate is bad.
        shadow: whether it gets copies of requests first.
        disagrees: whether it answers wrongly, and is to be held for a person to look at.
    """

    name: str
    later: bool = False
    golden: bool = False
    shadow: bool = False
    disagrees: bool = False

    @property
    def file(self) -> str:
        return f"bad/{self.name.partition('+')[0]}.onnx"


LANES: tuple[tuple[tuple[Case, int], ...], ...] = (
    (
        (Case("fails"), 4),
        (Case("fails-fifth"), 4),
        (Case("fails-later", later=True), 3),
        (Case("wrong+shadow", shadow=True, disagrees=True), 2),
        (Case("wrong+golden", golden=True, disagrees=True), 1),
    ),
    (
        (Case("hangs"), 4),
        (Case("slow"), 2),
        (Case("crashes"), 2),
        (Case("hangs-later", later=True), 3),
        (Case("wrong-twentieth+golden", golden=True, disagrees=True), 1),
    ),
)


def versions(wine: Wine) -> dict[str, bytes]:
    """All files of the web server, by path; the bundle of the good model first."""
    return {
        **{f"good/{name}": content for name, content in wine.bundle.items()},
        "good.onnx": wine.model,
        "bad/fails.onnx": wine.version("fails"),
        "bad/fails-fifth.onnx": wine.version("fails", share=0.2),
        "bad/fails-later.onnx": wine.version("fails", later=True),
        "bad/hangs.onnx": wine.version("hangs"),
        "bad/hangs-later.onnx": wine.version("hangs", later=True),
        "bad/slow.onnx": wine.version("slow"),
        "bad/crashes.onnx": wine.version("crashes"),
        "bad/wrong.onnx": wine.version("wrong"),
        "bad/wrong-twentieth.onnx": wine.version("wrong", share=0.05),
        "questions.json": json.dumps(wine.questions).encode(),
    }


class Lane:
    """One ModelDeployment with its users, and bad versions of it one after the other."""

    def __init__(
        self,
        kube: Kube,
        models: ModelServer,
        wine: Wine,
        watch: Watch,
        name: str,
        rate: float,
        *,
        settled: float = SETTLED_SECONDS,
        aftermath: float = AFTERMATH_SECONDS,
        request_timeout: int = REQUEST_TIMEOUT_SECONDS,
        patience: int = PATIENCE_SECONDS,
        slo: JsonObject = SLO,
    ) -> None:
        self._kube, self._models, self._wine = kube, models, wine
        self.name, self._rate, self._settled, self._aftermath = name, rate, settled, aftermath
        self._request_timeout, self._patience, self._slo = request_timeout, patience, slo
        self._seen: Seen = watch.of(name)
        self._golden: bool | None = None
        self._turn = 0
        self._users: Users | None = None

    def run(self, case: Case) -> JsonObject:
        """One run, from a good stable revision to the decision about a bad one."""
        self._serve_good(case.golden)
        assert self._users is not None
        self._turn += 1
        stable = self._status()["stableRevision"]
        began = time.time()
        self._apply(self._file(case.file), "Immediate" if case.later else "Canary", shadow=case.shadow)
        revision = until(lambda: self._other_than(stable, case), 60)
        result: JsonObject = {"case": case.name, "lane": self.name, "golden": case.golden, "revision": revision}
        if revision is None:
            return result | {"error": f"no new revision: {self._words()}"}
        onset: float | None = None
        if case.later:
            if not until(lambda: self._status().get("stableRevision") == revision, DECIDED_WITHIN):
                return result | {"error": f"not promoted: {self._words()}"}
            time.sleep(self._settled)
            began = time.time()
            self._users.drink(strong=True)
        decision = until(lambda: self._decision(case, revision), DECIDED_WITHIN)
        decided = time.time()
        time.sleep(self._aftermath)
        told = self._users.since(began)
        if case.later:
            onset = told["strong_since"]
            self._users.drink(strong=False)
        first = onset or self._seen.failures.get(revision)
        result |= {
            name: told[name]
            for name in ("requests", "failed", "late", "wrong", "slow", "again", "errors", "bad_seconds")
        }
        result["states"] = [f"{when - began:.1f} {reason}" for when, reason, _ in self._seen.states if when >= began]
        if decision is None:
            return result | {"error": f"no decision in {DECIDED_WITHIN:.0f} s: {self._words()}"}
        at, said = decision
        result |= {name: said.get(name, "") for name in ("action", "reason", "message", "evidence")}
        result["decision_s"] = round(at - first, 2) if first else None
        result["start_to_decision_s"] = round(at - began, 2)
        if onset:
            result["bad_window_s"] = round(max(0.0, (told["last_bad"] or onset) - onset), 2)
            still_bad = self._users.since(decided + self._aftermath / 2)
            result["failed_after_rollback"] = still_bad["failed"]
            result["bad_after_rollback"] = still_bad["failed"] + still_bad["late"]
        return result

    def stop(self) -> JsonObject:
        """The sum of all that users saw."""
        return self._users.stop() if self._users else {}

    def _serve_good(self, golden: bool) -> None:
        """The good model is stable, and nothing else is on its way."""
        if golden != self._golden:
            self._golden = golden
            self._turn += 1
        digest = self._wine.digest if golden else onnx_digest(self._models.files["good.onnx"])
        self._apply({"uri": self._models.url("good" if golden else "good.onnx"), "digest": digest}, "Immediate")
        self._kube.wait_ready(self.name, seconds=180)
        if self._users is None:
            self._users = Users(self._kube, self.name, f"--rate={self._rate}", f"--patience={self._patience}")
        time.sleep(2)

    def _file(self, path: str) -> JsonObject:
        return {"uri": self._models.url(path), "digest": onnx_digest(self._models.files[path])}

    def _apply(self, model: JsonObject, strategy: str, *, shadow: bool = False) -> None:
        """The spec with this model; a new turn is a new revision, though its model may have been there before."""
        rollout: JsonObject = {"strategy": strategy}
        if strategy == "Canary":
            rollout |= {"steps": STEPS}
        if shadow:
            rollout |= {"shadow": SHADOW}
        turn = self._golden if strategy == "Immediate" and "good" in model["uri"] else self._turn
        self._kube.apply(
            {
                "apiVersion": "holdfast.dev/v1alpha1",
                "kind": "ModelDeployment",
                "metadata": {"name": self.name},
                "spec": {
                    "model": model,
                    "serving": {
                        "replicas": 2,
                        "requestTimeoutMilliseconds": 1000 * self._request_timeout,
                        "env": [{"name": "TURN", "value": str(turn)}],
                    },
                    "rollout": rollout,
                    "guard": {"warmSeconds": WARM_SECONDS},
                    "slo": self._slo,
                },
            }
        )

    def _status(self) -> JsonObject:
        status: JsonObject = self._seen.model.get("status", {})
        return status

    def _other_than(self, stable: str, case: Case) -> str | None:
        status = self._status()
        found = status.get("candidateRevision") or (case.later and status.get("stableRevision"))
        return found if found != stable else None

    def _decision(self, case: Case, revision: str) -> tuple[float, JsonObject] | None:
        """What ends the run. A wrong version that is promoted was not caught: that ends it as well."""
        for at, decision in self._seen.decisions:
            action, about = decision["action"], decision.get("fromRevision")
            held = case.disagrees and (action, decision["reason"]) == ("Held", "AwaitingPromotion")
            if about == revision and (action in ("Aborted", "RolledBack") or held):
                return at, decision
            if case.disagrees and action == "Promoted" and decision.get("toRevision") == revision:
                return at, decision
        return None

    def _words(self) -> str:
        shown = [condition(self._seen.model, type_) for type_ in ("Ready", "Progressing")]
        return "; ".join(
            f"{one.get('type')}={one.get('status')} {one.get('reason')}: {one.get('message')}" for one in shown
        )


def drive(lane: Lane, cases: Sequence[Case], results: list[JsonObject], until_time: float) -> None:
    """All runs of a lane, one after the other; a run that fails is a result too."""
    for number, case in enumerate(cases, 1):
        if time.monotonic() > until_time:
            say(f"{lane.name}: the time is up before run {number} of {len(cases)}")
            return
        say(f"{lane.name}: run {number} of {len(cases)}: {case.name}")
        try:
            result = lane.run(case)
        except Exception as error:
            result = {"case": case.name, "lane": lane.name, "error": f"{type(error).__name__}: {error}"[:2000]}
        results.append(result)
        print(json.dumps(result), flush=True)


def summary(results: Sequence[JsonObject]) -> JsonObject:
    """The last line, from all runs."""
    kinds = {case.name: case for lane in LANES for case, _ in lane}
    whole = [result for result in results if "error" not in result]

    def of(key: str, *, later: bool, disagrees: bool) -> list[float]:
        wanted = [r for r in whole if (kinds[r["case"]].later, kinds[r["case"]].disagrees) == (later, disagrees)]
        return [result[key] for result in wanted if result.get(key) is not None]

    before = [result for result in whole if not kinds[result["case"]].later]
    return {
        "runs": len(results),
        "runs_without_a_decision": len(results) - len(whole),
        "promoted": sum(result["action"] == "Promoted" for result in whole),
        "failed_p95": p95(of("failed", later=False, disagrees=False)),
        "late_p95": p95(of("late", later=False, disagrees=False)),
        "decision_s_p95": p95(of("decision_s", later=False, disagrees=False)),
        "wrong_answers_p95": p95(of("wrong", later=False, disagrees=True)),
        "post_promotion_bad_window_s_p95": p95(of("bad_window_s", later=True, disagrees=False)),
        "user_requests_failed_by_rollout": sum(result["failed"] for result in before),
        "user_requests": sum(result["requests"] for result in whole),
        "cases": {
            name: {
                "runs": sum(result["case"] == name for result in whole),
                **{
                    f"{key}_max": max(
                        (r[key] for r in whole if r["case"] == name and r.get(key) is not None), default=None
                    )
                    for key in ("failed", "late", "wrong", "decision_s", "bad_window_s")
                },
            }
            for name in kinds
            if any(result["case"] == name for result in whole)
        },
    }


def p95(values: Sequence[float]) -> float | None:
    """The smallest value that is not exceeded by 95 % of them; None without any."""
    return sorted(values)[math.ceil(0.95 * len(values)) - 1] if values else None


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench-rollback")
    parser.add_argument("--rate", type=float, default=50, help="requests per second of each lane")
    parser.add_argument("--runs", type=int, help="of each case at most")
    parser.add_argument("--cases", nargs="*", help="only these")
    parser.add_argument("--minutes", type=float, default=38, help="no run begins after these")
    given = parser.parse_args()
    wine = trained()
    results: list[JsonObject] = []
    with cluster.running() as admin, cluster.namespace(admin, "bench-rollback") as kube, proxied(kube) as api:
        models = start_model_server(kube, versions(wine))
        with Watch(api, kube.namespace) as watch:
            lanes = []
            for number, cases in enumerate(LANES, 1):
                wanted = [
                    case
                    for case, runs in cases
                    if not given.cases or case.name in given.cases
                    for _ in range(min(runs, given.runs or runs))
                ]
                lane = Lane(kube, models, wine, watch, f"wine-{number}", given.rate)
                arguments = (lane, wanted, results, started + 60 * given.minutes)
                lanes.append((lane, threading.Thread(target=drive, args=arguments, daemon=True)))
            for _, thread in lanes:
                thread.start()
            for lane, thread in lanes:
                thread.join()
                say(f"{lane.name}: {lane.stop()}")
    print(json.dumps(summary(results)))
    return int(not results or any("error" in result for result in results))


if __name__ == "__main__":
    sys.exit(main())
