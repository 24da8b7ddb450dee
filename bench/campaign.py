"""`make campaign`: long proofs, with the operator as a real process on a real control plane, behind a failing network.

0. Plans alone, in a simulated cluster: every workflow of a rollout, lived on after a crash at each of its moments.
1. A crash after every write: of changes, and of a rollback. A scenario is run once undisturbed, which counts the
   operator's writes and gives the end state. Then, for each of the writes, it is run anew in a namespace of its own:
   none of the operator's writes after that one is carried out, it is killed, and another operator goes on. The end
   state must be the undisturbed one.
2. An outage. While the API server is out of the operator's reach, an administrator deletes and changes things.
3. Rollouts of the same model again and again, on real pods with users; and a canary without Prometheus (`same.py`).

Events and Leases are no writes here. Progress and failures go to standard error; the last line on standard output is
one JSON object. The exit status is 1 when anything failed.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import re
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.component.proxy import Asked, Fault, Proxy, proxied
from tests.component.test_training import NOWHERE, REPORT
from tests.component.world import (
    ACCOUNT,
    DIGEST,
    MUTATIONS,
    PATIENCE,
    SYSTEM,
    Json,
    Operator,
    Place,
    install,
    operator,
    until,
)

from holdfast.build import labels
from holdfast_devcluster import ControlPlane, control_plane

NEW_DIGEST = "sha256:" + "1" * 64
NO_WRITES = ("leases", "events")
LOST = "leadership is lost"
started = time.monotonic()


def say(text: str) -> None:
    """A progress line, on standard error."""
    print(f"[{time.monotonic() - started:5.0f} s] {text}", file=sys.stderr, flush=True)


# --- Watching what happens ------------------------------------------------------------------------------------------


class Audit:
    """The operators' writes. Follows the log: reading all of it for every look would soon take longer than the runs."""

    def __init__(self, plane: ControlPlane) -> None:
        assert plane.audit_log is not None
        self._log = plane.audit_log.open()
        self._log.seek(0, 2)
        self._rest = ""
        self._seen: list[Json] = []

    def writes(self, place: Place) -> list[Json]:
        """In this namespace, since this began to follow, oldest first; those that were refused too."""
        *lines, self._rest = (self._rest + self._log.read()).split("\n")
        for line in lines:
            if ACCOUNT not in line:
                continue
            event = json.loads(line)
            about = event.get("objectRef") or {}
            is_write = event["verb"] in MUTATIONS and about.get("resource") not in NO_WRITES
            if is_write and event["user"]["username"] == ACCOUNT:
                self._seen.append(event)
        return [event for event in self._seen if event["objectRef"].get("namespace") == place.namespace]


WITNESSED = ("Deployment", "Service", "Job")


@dataclass
class Witness:
    """Looks back at what became of children. The API server remembers some minutes, the order of versions is global."""

    place: Place
    _start: dict[str, Json] = field(default_factory=dict)

    def __post_init__(self) -> None:
        request = self.place.plane.api.request
        self._start = {kind: request("GET", self.place.path(kind)) for kind in WITNESSED}

    def wrongs(self) -> list[str]:
        """What no user may ever see: deletions of what serves, Services on revisions that do not serve, second Jobs."""
        deployments = {d["metadata"]["name"]: d for d in self._start["Deployment"]["items"]}
        services = {s["metadata"]["name"]: s for s in self._start["Service"]["items"]}
        jobs = {owner_of(j): j["metadata"]["name"] for j in self._start["Job"]["items"]}
        found = []
        for kind, type_, item in self._events():
            name = item["metadata"]["name"]
            if kind == "Job":
                if type_ == "DELETED":
                    found.append(f"Job {name} was deleted")
                elif type_ == "ADDED" and owner_of(item) in jobs:
                    found.append(f"{owner_of(item)} got a second Job: {name}")
                jobs[owner_of(item)] = name
            elif kind == "Service":
                if type_ == "DELETED":
                    found.append(f"Service {name} was deleted")
                    services.pop(name, None)
                else:
                    services[name] = item
                    found += points_nowhere(item, deployments.values())
            elif type_ == "DELETED":
                deployments.pop(name, None)
                selected = [s["metadata"]["name"] for s in services.values() if selects(s, item)]
                if selected:
                    found.append(f"Deployment {name} was deleted while Service {selected[0]} selected it")
                for service in services.values():
                    found += points_nowhere(service, [*deployments.values(), item])
            else:
                deployments[name] = item
        return list(dict.fromkeys(found))

    def _events(self) -> list[tuple[str, str, Json]]:
        def since_start(kind: str) -> list[tuple[str, str, Json]]:
            """A watch of a second may not have told all of it: what is there now has to follow from what it told."""
            before, now = versions(self._start[kind]["items"]), versions(self.place.all(kind))
            start = self._start[kind]["metadata"]["resourceVersion"]
            query = f"?resourceVersion={start}&timeoutSeconds=1"

            def told() -> tuple[list[Json]] | None:
                events = list(self.place.plane.api.watch(self.place.path(kind) + query))
                if any(event["type"] == "ERROR" for event in events):
                    raise RuntimeError(f"the API server has forgotten {kind}s of {self.place.namespace}: {events[-1]}")
                known = before | versions(event["object"] for event in events)
                gone = {event["object"]["metadata"]["name"] for event in events if event["type"] == "DELETED"}
                caught_up = all(known.get(name, 0) >= version for name, version in now.items())
                return (events,) if caught_up and before.keys() - now.keys() <= gone else None

            [events] = until(f"the watch of {kind}s has told all", told)
            return [(kind, event["type"], event["object"]) for event in events]

        with ThreadPoolExecutor() as together:
            found = [event for events in together.map(since_start, WITNESSED) for event in events]
        return sorted(found, key=lambda event: int(event[2]["metadata"]["resourceVersion"]))


def versions(items: Iterable[Json]) -> dict[str, int]:
    """The newest of each name; `items` are in their order."""
    return {item["metadata"]["name"]: int(item["metadata"]["resourceVersion"]) for item in items}


def owner_of(child: Json) -> str:
    return ", ".join(f"{o['kind']} {o['name']}" for o in child["metadata"].get("ownerReferences", [])) or "nobody"


def selects(service: Json, deployment: Json) -> bool:
    selector = service["spec"].get("selector") or {}
    found: Mapping[str, str] = deployment["spec"]["template"]["metadata"]["labels"]
    return bool(selector) and all(found.get(key) == value for key, value in selector.items())


def points_nowhere(service: Json, deployments: Any) -> list[str]:
    """Whether it selects no ready pods although another revision of its model has some."""
    model = service["metadata"].get("labels", {}).get(labels.MODEL_DEPLOYMENT)
    own = [d for d in deployments if d["metadata"]["labels"].get(labels.MODEL_DEPLOYMENT) == model]
    ready = [d for d in own if d.get("status", {}).get("readyReplicas")]
    if not ready or any(selects(service, d) for d in ready):
        return []
    others = ", ".join(d["metadata"]["name"] for d in ready)
    return [f"Service {service['metadata']['name']} selects {service['spec'].get('selector')}, only {others} is ready"]


def end_state(place: Place) -> Json:
    """All that the operator made and said, without what no two runs have in common: times, uids, generated names."""
    state: Json = {}
    unique = {place.namespace: "NAMESPACE"}
    for kind in ("ModelDeployment", "TrainingJob"):
        for item in place.all(kind):
            unique[item["metadata"]["uid"]] = "UID"
            state[f"{kind} {item['metadata']['name']}"] = {"spec": item["spec"], "status": item.get("status")}
    for kind in ("ControllerRevision", "Deployment", "Service", "PodDisruptionBudget", "Job"):
        # Names have a hash of an uid in them: records are in the order in which they were made.
        for number, item in enumerate(sorted(place.all(kind), key=lambda item: item.get("revision", 0))):
            metadata = item["metadata"]
            if kind == "Job":  # names of Jobs and revisions come from their owners' uids
                unique |= {metadata["name"]: "JOB", metadata["uid"]: "UID"}
            elif kind == "ControllerRevision":
                unique[metadata["labels"][labels.REVISION]] = f"REVISION-{item['revision']}"
            kept = {key: metadata.get(key) for key in ("labels", "annotations", "ownerReferences", "deletionTimestamp")}
            where = f"{kind} {number if kind == 'Job' else metadata['name']}"
            state[where] = {**kept, "name": metadata["name"], "spec": item.get("spec", item.get("data"))}
    text = json.dumps(state)
    for found, word in unique.items():
        text = text.replace(found, word)
    without: Json = _without_chance(json.loads(text))
    return without


_CHANCE = re.compile(
    rf".*([tT]ime(stamp)?|promoted-at)$|clusterIPs?$|deployment\.kubernetes\.io/revision$|{labels.DESIRED_HASH}$"
)


def _without_chance(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_chance(inner) for key, inner in value.items() if not _CHANCE.match(key)}
    return [_without_chance(inner) for inner in value] if isinstance(value, list) else value


def differences(expected: Any, found: Any, where: str = "") -> Iterator[str]:
    """One line for each place at which they differ."""
    if isinstance(expected, dict) and isinstance(found, dict):
        for key in sorted({*expected, *found}):
            yield from differences(expected.get(key), found.get(key), f"{where}/{key}")
    elif isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        for number, (one, other) in enumerate(zip(expected, found, strict=True)):
            yield from differences(one, other, f"{where}/{number}")
    elif expected != found:
        yield f"{where}: {json.dumps(expected)} became {json.dumps(found)}"


# --- The operator, again and again ----------------------------------------------------------------------------------


class Lives:
    """One operator at a time behind the proxy."""

    def __init__(self, plane: ControlPlane, proxy: Proxy, name: str) -> None:
        self._plane, self._proxy, self._name = plane, proxy, name
        self._number = 0
        self._stack = ExitStack()
        self.current: Operator
        self.wrong_ends: list[str] = []
        self._next_at: float | None = None
        self._pause = 0.0
        self.start()

    def start(self) -> None:
        self._number += 1
        name, config = f"{self._name}-{self._number}", str(self._proxy.kubeconfig)
        self.current = self._stack.enter_context(operator(self._plane, name, KUBECONFIG=config))

    def kill(self) -> None:
        """SIGKILL. The next one leads at once, for an administrator frees the Lease: its expiry is not proven here."""
        self._stack.close()
        lease = Place(self._plane, SYSTEM)
        if lease.get("Lease", "holdfast-operator"):
            lease.delete("Lease", "holdfast-operator")

    def look(self) -> None:
        """Start one that has ended again as the kubelet does: at once, then after 10, 20, 40 s and so on."""
        status = self.current.process.poll()
        if status is None:
            return
        if self._next_at is None:
            said = self.current.last_lines()
            if LOST not in said:
                self.wrong_ends.append(f"{self.current.name} ended with {status}:\n{said}")
            say(f"  {self.current.name} ended with {status}{', for it lost its Lease' if LOST in said else ''}")
            self._next_at = time.monotonic() + self._pause
            self._pause = min(max(10.0, 2 * self._pause), 300.0)
        if time.monotonic() >= self._next_at:
            self._next_at = None
            self.start()

    def close(self) -> None:
        """Politely, for those who run an operator after this."""
        if self.current.process.poll() is None:
            self.current.process.terminate()
            self.current.process.wait(PATIENCE)
        self._stack.close()


@contextmanager
def lives_behind_proxy(plane: ControlPlane, name: str) -> Iterator[tuple[Lives, Proxy]]:
    """An operator that leads, and the proxy before it."""
    with proxied(plane, name) as proxy:
        lives = Lives(plane, proxy, name)
        try:
            lives.current.until_idle()
            yield lives, proxy
        finally:
            proxy.rule = lambda asked: None
            lives.close()


def namespace(plane: ControlPlane, name: str) -> Place:
    place = Place(plane, name)
    place.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    return place


def until_still(lives: Lives, audit: Audit, place: Place, quiet: float) -> int:
    """Writes within `quiet` seconds, when the operator has nothing left to do. What it does not know of yet may follow
    for half a minute; what is written then is written for ever."""
    patience = time.monotonic() + 30
    while True:
        lives.current.until_idle()
        before = len(audit.writes(place))
        time.sleep(quiet)
        written = len(audit.writes(place)) - before
        if not written or time.monotonic() > patience:
            return written


# --- 0. Plans alone ---------------------------------------------------------------------------------------------------


def planned_crashes() -> tuple[int, list[str]]:
    """(moments at which an operator was killed, one line for each workflow that ended otherwise)."""
    from tests.unit.plan.crashes import survived
    from tests.unit.plan.test_crashes import WORKFLOWS, killed_at_each_moment

    moments, failures = 0, []
    for workflow in WORKFLOWS:
        try:
            moments += survived(killed_at_each_moment(workflow))
        except AssertionError as error:
            failures.append(f"{workflow}: {error}")
            say(f"  FAILED {failures[-1]}")
    say(f"plans: {len(WORKFLOWS)} workflows, killed at {moments} moments, {len(failures)} failed")
    return moments, failures


# --- 1. A crash after every write -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """What a user does, and when it is done."""

    name: str
    act: Callable[[Place], object]
    done: Callable[[Place], object]


Scenario = tuple[Step, ...]


def not_serving(place: Place, wanted: Mapping[str, tuple[str, int]]) -> list[str]:
    """Those of the ModelDeployments that do not serve exactly this digest with so many replicas, or have work left."""
    models, services, budgets = (
        {item["metadata"]["name"]: item for item in place.all(kind)}
        for kind in ("ModelDeployment", "Service", "PodDisruptionBudget")
    )
    deployments = place.all("Deployment")

    def serves(name: str, digest: str, replicas: int) -> bool:
        model, service = models[name], services.get(name)
        status = model.get("status", {})
        ready = {c["type"]: c["status"] for c in status.get("conditions", [])}.get("Ready") == "True"
        if not ready or status["observedGeneration"] != model["metadata"]["generation"]:
            return False
        own = [d for d in deployments if d["metadata"]["labels"].get(labels.MODEL_DEPLOYMENT) == name]
        if len(own) != 1 or service is None or not selects(service, own[0]) or (name in budgets) != (replicas > 1):
            return False
        found: bool = digest_of(own[0]) == digest and own[0]["spec"]["replicas"] == replicas
        return found

    return [name for name, (digest, replicas) in wanted.items() if not serves(name, digest, replicas)]


def digest_of(deployment: Json) -> str | None:
    """Of the model that its pods serve."""
    env = deployment["spec"]["template"]["spec"]["containers"][0]["env"]
    return {each["name"]: each.get("value") for each in env}.get("HOLDFAST_MODEL_DIGEST")


def serves(digest: str, replicas: int) -> Callable[[Place], bool]:
    return lambda place: not not_serving(place, {"wine": (digest, replicas)})


def change_digest(place: Place, name: str) -> None:
    place.patch("ModelDeployment", name, {"spec": {"model": {"digest": NEW_DIGEST}}})


def scale_to_one(place: Place) -> None:
    place.patch("ModelDeployment", "wine", {"spec": {"serving": {"replicas": 1}}})


def trained(place: Place) -> bool:
    """Whether the end is on record, and the Job is told after it when it expires."""
    (job,) = place.all("Job")
    ended = place.condition("TrainingJob", "wine", "Succeeded").get("status") == "True"
    return ended and "ttlSecondsAfterFinished" in job["spec"]


def report(place: Place) -> None:
    """Let the trainer's pod end well. It is on no node: pods on nodes that do not exist are garbage within a minute."""
    (pod,) = place.all("Pod", POD_OF_JOB)
    ended = {"exitCode": 0, "message": json.dumps(REPORT), "startedAt": MOMENT, "finishedAt": MOMENT}
    container = {"name": pod["spec"]["containers"][0]["name"], "image": "x", "imageID": "x", "ready": False}
    statuses = [{**container, "restartCount": 0, "state": {"terminated": ended}}]
    status = {"phase": "Succeeded", "containerStatuses": statuses}
    place.patch("Pod", pod["metadata"]["name"], {"status": status}, "status")


NO_GUARD = {"warmSeconds": 0, "rollbackWindowSeconds": 0}
"""The revision that was replaced goes once it is drained: an end that one can wait for."""
POD_OF_JOB = "batch.kubernetes.io/job-name"
MOMENT = "2026-11-24T01:00:00Z"
TRAINING = (
    Step("a training run", lambda p: p.run("wine", nodeSelector=NOWHERE), lambda p: p.all("Pod", POD_OF_JOB)),
    Step("its report", report, trained),
)
CHANGES = (
    Step("created", lambda p: p.model("wine", serving={"replicas": 2}, guard=NO_GUARD), serves(DIGEST, 2)),
    Step("a new revision", lambda p: change_digest(p, "wine"), serves(NEW_DIGEST, 2)),
    Step("scaled to one", scale_to_one, serves(NEW_DIGEST, 1)),
    *TRAINING,
)


def answers(digest: str, reason: str) -> Callable[[Place], bool]:
    """Whether this model answers, and Ready says so of the present spec."""

    def is_so(place: Place) -> bool:
        model, service = place.get("ModelDeployment", "wine"), place.get("Service", "wine")
        if model is None or service is None:
            return False
        if place.condition("ModelDeployment", "wine", "Ready").get("reason") != reason:  # there may be none yet
            return False
        found = [d for d in place.all("Deployment") if selects(service, d)]
        current = model["status"]["observedGeneration"] == model["metadata"]["generation"]
        return current and [digest_of(deployment) for deployment in found] == [digest]

    return is_so


def say_of(verb: str, ordinal: int) -> Callable[[Place], object]:
    """A person's word about a revision, counted from 1 on."""

    def annotate(place: Place) -> object:
        records = place.all("ControllerRevision")
        (name,) = [r["metadata"]["labels"][labels.REVISION] for r in records if r["revision"] == ordinal]
        return place.patch("ModelDeployment", "wine", {"metadata": {"annotations": {labels.ROLLOUT: f"{verb} {name}"}}})

    return annotate


def drained(place: Place) -> bool:
    """Whether the rejected revision has no pods any more."""
    return answers(DIGEST, "RevisionRejected")(place) and len(place.all("Deployment")) == 1


ROLLBACK = (
    Step("created", lambda p: p.model("wine", serving={"replicas": 1}), answers(DIGEST, "Serving")),
    Step("a new revision", lambda p: change_digest(p, "wine"), answers(NEW_DIGEST, "Serving")),
    Step("a rollback", say_of("rollback", 1), drained),
    Step("another try", say_of("retry", 2), answers(NEW_DIGEST, "Serving")),
)


SPARE = 4


@dataclass
class Crash:
    """The `k`-th write in a namespace is the last that is carried out; its answer is lost or not."""

    namespace: str
    k: int
    lose: bool
    asked: int = 0

    def rule(self, asked: Asked) -> Fault | None:
        parts = asked.path.split("/")
        if asked.method == "GET" or self.namespace not in parts or any(part in NO_WRITES for part in parts):
            return None
        self.asked += 1
        if self.asked > self.k:
            return Fault.UNAVAILABLE
        return Fault.LOSE_ANSWER if self.asked == self.k and self.lose else None


@dataclass
class Run:
    """What came of one run of the scenario."""

    state: Json
    writes: int
    writes_after: int
    crashed_in: str | None
    wrongs: list[str]


def run_scenario(
    lives: Lives, proxy: Proxy, place: Place, quiet: float, scenario: Scenario, crash: Crash | None = None
) -> Run:
    """Raises AssertionError when it does not come to its end."""
    audit, witness = Audit(place.plane), Witness(place)
    wrong_ends = len(lives.wrong_ends)
    crashed_in: str | None = None
    if crash:
        proxy.rule = crash.rule

    def crash_if_due(step: Step) -> bool:
        """Whether it is over with the crash."""
        nonlocal crashed_in
        if crashed_in or not crash or crash.asked < crash.k or len(audit.writes(place)) < crash.k:
            lives.look()
            return not crash or crashed_in is not None
        lives.kill()
        proxy.rule = lambda asked: None
        lives.start()
        crashed_in = step.name
        return True

    def done(step: Step) -> bool:
        crash_if_due(step)
        return bool(step.done(place))

    def nothing_is_due() -> bool:
        return crash_if_due(scenario[-1]) or (crash is not None and crash.asked < crash.k and lives.current.idle)

    try:
        for step in scenario:
            step.act(place)
            until(f"{place.namespace}: {step.name}", lambda step=step: done(step))  # type: ignore[misc]
        until(f"{place.namespace}: the crash", nothing_is_due)  # the last writes may come after the last step
        after = until_still(lives, audit, place, quiet)
    finally:
        proxy.rule = lambda asked: None
    wrongs = [*witness.wrongs(), *lives.wrong_ends[wrong_ends:]]
    if after:
        last = audit.writes(place)[-after:]
        wrongs += [f"written after the end: {e['verb']} {e['objectRef']['resource']}" for e in last]
    return Run(end_state(place), len(audit.writes(place)), after, crashed_in, wrongs)


@dataclass
class Crashes:
    """What came of all crashes."""

    points: int = 0
    failures: int = 0
    writes_after: int = 0
    wrongs: list[str] = field(default_factory=list)


def crash_after_every_write(
    plane: ControlPlane,
    seed: int,
    name: str,
    scenario: Scenario,
    *,
    until_time: float = float("inf"),
    quiet: float = 3.0,
    most: int | None = None,
) -> Crashes:
    """In an order by chance, so that what time allows is a fair sample; `most` limits it further.

    How many writes there are differs by a few: statuses that follow each other quickly are written once. Where a run
    has ended before its point, `most` draws another, at most SPARE times.
    """
    result = Crashes()
    name = f"{name}-{seed}"
    with lives_behind_proxy(plane, f"crashes-{name}") as (lives, proxy):
        undisturbed = run_scenario(lives, proxy, namespace(plane, f"undisturbed-{name}"), quiet, scenario)
        if undisturbed.wrongs:
            raise AssertionError(f"without a crash: {undisturbed.wrongs}")
        say(f"crashes: {undisturbed.writes} writes when nothing is in their way")
        points = list(range(1, undisturbed.writes + 1))
        random.Random(seed).shuffle(points)
        for k in points if most is None else points[: most + SPARE]:
            if result.points == most:
                break
            if time.monotonic() > until_time:
                say(f"crashes: the time is up after {result.points} of {len(points)} points")
                break
            lose = (k + seed) % 2 == 0
            place = namespace(plane, f"crash-{name}-{k}")
            try:
                run = run_scenario(lives, proxy, place, quiet, scenario, Crash(place.namespace, k, lose))
                wrongs = [*run.wrongs, *differences(undisturbed.state, run.state)]
                where = run.crashed_in or "nowhere: there were fewer writes this time"
                result.points += run.crashed_in is not None
                result.writes_after += run.writes_after
            except AssertionError as error:
                where, wrongs = "a run that came to no end", [str(error), lives.current.last_lines()]
                result.points += 1
                lives.kill()  # one that hangs must not fail the runs after this too
                lives.start()
            result.failures += bool(wrongs)
            say(f"crash after write {k}, answer {'lost' if lose else 'received'}: in {where!r}, {len(wrongs)} wrong")
            for wrong in wrongs:
                result.wrongs.append(f"seed={seed} k={k}: {wrong}")
                say(f"  FAILED {result.wrongs[-1]}")
    return result


# --- 2. An outage ---------------------------------------------------------------------------------------------------


@dataclass
class Outage:
    """What came of it. `failures`: one line each."""

    recovery: float
    wrong_deletes: int
    writes_after: int
    failures: list[str]


def outage(
    plane: ControlPlane, seed: int, seconds: float, *, models: int = 20, touched: int = 5, quiet: float = 20.0
) -> Outage:
    """`touched` Services are deleted and as many specs changed while the operator reaches no API server."""
    chance = random.Random(seed)
    names = [f"wine-{number}" for number in range(models)]
    chosen = chance.sample(names, 2 * touched)
    without_service, changed = chosen[:touched], chosen[touched:]
    with lives_behind_proxy(plane, f"outage-{seed}") as (lives, proxy):
        place, audit = namespace(plane, f"outage-{seed}"), Audit(plane)

        def missing(digests: Mapping[str, str]) -> list[str]:
            lives.look()
            return not_serving(place, {name: (digests.get(name, DIGEST), 1) for name in names})

        for name in names:
            place.model(name, guard=NO_GUARD)
        until("all serve", lambda: not missing({}))
        lives.current.until_idle()
        say(f"outage: {models} serve; the API server is out of the operator's reach for {seconds:.0f} s")
        begin = time.monotonic()
        moments = sorted(chance.uniform(0, seconds * 0.9) for _ in chosen)
        proxy.rule = lambda asked: Fault.UNAVAILABLE
        proxy.cut_watches("")
        for moment, name in zip(moments, chance.sample(chosen, len(chosen)), strict=True):
            watched_sleep(lives, begin + moment)
            if name in changed:
                change_digest(place, name)
            else:
                place.delete("Service", name)
        watched_sleep(lives, begin + seconds)
        written = len(audit.writes(place))
        witness = Witness(place)
        proxy.rule = lambda asked: None
        over = time.monotonic()
        failures: list[str] = []
        after_it = dict.fromkeys(changed, NEW_DIGEST)
        try:
            until("all serve again", lambda: not missing(after_it))
            recovery = time.monotonic() - over
        except AssertionError as error:
            recovery = float("inf")
            failures.append(f"{error}; those that do not: {missing(after_it)}\n{lives.current.last_lines()}")
        say(f"outage: converged {recovery:.1f} s after its end; {len(without_service)} Services are back")
        wrongs = witness.wrongs()
        after = until_still(lives, audit, place, quiet) if not failures else 0
        for event in audit.writes(place)[written:]:
            say(f"  {event['verb']} {event['objectRef']['resource']} {event['objectRef'].get('name')}")
        carried_out = [event for event in audit.writes(place)[written:] if event["responseStatus"]["code"] < 300]
        deletes = [event for event in carried_out if event["verb"] == "delete"]
        revisions = [e for e in deletes if e["objectRef"]["resource"] == "deployments"]
        if len(deletes) != touched or len(revisions) != touched:
            wrongs.append(f"{len(deletes)} deletes, {len(revisions)} of revisions, for {touched} that were replaced")
        failures += [*wrongs, *lives.wrong_ends]
        failures += [f"{after} writes after convergence"] if after else []
        for failure in failures:
            say(f"  FAILED outage seed={seed}: {failure}")
        return Outage(recovery, len(wrongs), after, failures)


def watched_sleep(lives: Lives, moment: float) -> None:
    while time.monotonic() < moment:
        lives.look()
        time.sleep(0.1)


# --- All of it ------------------------------------------------------------------------------------------------------


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=40, help="of the first two; the outage has its share reserved")
    parser.add_argument("--outage-seconds", type=float, default=600, help="of the API server, and of Prometheus")
    parser.add_argument("--rollouts", type=int, default=50, help="of the same model")
    parser.add_argument("--models", type=int, default=5, help="that they are rolled out of side by side")
    parser.add_argument("--only-rollouts", action="store_true", help="no crashes, and no outage of the API server")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the operators end too
    for noisy in ("aiohttp.server", "asyncio"):  # of the proxy, whose connections are lost on purpose
        logging.getLogger(noisy).disabled = True
    figures, failures = ({}, 0) if options.only_rollouts else faults(options)
    from bench.same import roll_out_the_same  # trains a model: the samples of `make test` need no such imports

    same = roll_out_the_same(
        say, models=options.models, rollouts=options.rollouts, rate=40, outage_seconds=options.outage_seconds
    )
    print(
        json.dumps(figures | same.figures(options.outage_seconds) | {"seconds": round(time.monotonic() - started, 1)})
    )
    return 1 if failures or same.failures else 0


def faults(options: argparse.Namespace) -> tuple[Json, int]:
    """Crashes and the outage: their figures, and how many failures there were."""
    planned, planned_failures = planned_crashes()
    last = started + 60 * options.minutes - options.outage_seconds - 90
    with control_plane(kwok=True, nodes=2, audit_log=True, report=lambda *_: None) as plane:
        install("base", plane)
        half = (time.monotonic() + last) / 2
        crashes = crash_after_every_write(plane, options.seed, "changes", CHANGES, until_time=half)
        rollbacks = crash_after_every_write(plane, options.seed, "rollback", ROLLBACK, until_time=last)
        gone = outage(plane, options.seed, options.outage_seconds)
    figures = {
        "planned_crash_points": planned,
        "planned_crash_failures": len(planned_failures),
        "crash_points": crashes.points,
        "crash_failures": crashes.failures,
        "rollback_crash_points": rollbacks.points,
        "rollback_crash_failures": rollbacks.failures,
        "outage_s": options.outage_seconds,
        "outage_recovery_s": None if gone.recovery == float("inf") else round(gone.recovery, 1),
        "outage_wrong_deletes": gone.wrong_deletes,
        "writes_after": crashes.writes_after + rollbacks.writes_after + gone.writes_after,
        "seed": options.seed,
    }
    return figures, len(planned_failures) + crashes.failures + rollbacks.failures + len(gone.failures)


if __name__ == "__main__":
    sys.exit(main())
