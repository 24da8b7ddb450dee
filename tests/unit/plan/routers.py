"""Pods with routers for a world: they follow leases and count what they draw, as the real ones do."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from tests.unit.plan.world import World

from holdfast.build import labels
from holdfast.plan.observed import Pod, Route
from holdfast.plan.traffic import Arm, Comparison, Golden, LeaseState, Report

EDGES = (0.05, 0.1, 1.0, 10.0)
LEASE = timedelta(seconds=15)
WARMING = timedelta(seconds=30)


@dataclass
class Router:
    """One pod's router."""

    uid: str
    revision: str
    starts: int = 0
    """Of its process."""
    lease: Route | None = None
    until: datetime | None = None
    sequence: int = 0
    target: str | None = None
    counts: dict[str, list[int]] = field(default_factory=lambda: {"local": [0, 0], "target": [0, 0]})
    rows: list[int] = field(default_factory=lambda: [0, 0])
    golden: Golden | None = None
    answers: bool = True
    oldest: float = 0.0


@dataclass
class Cluster:
    """A world whose Deployments run pods. Rates are by revision."""

    world: World
    bad: dict[str, float] = field(default_factory=dict)
    """Share of the requests that a revision answers badly."""
    disagreeing: dict[str, float] = field(default_factory=dict)
    """Share of the golden requests, and of the copies, that it answers otherwise than others."""
    signatures: dict[str, str] = field(default_factory=dict)
    never_ready: set[str] = field(default_factory=set)
    slow_start: dict[str, int] = field(default_factory=dict)
    """Pods of a revision that become ready; the others do not."""
    routers: dict[str, Router] = field(default_factory=dict)
    random: random.Random = field(default_factory=lambda: random.Random(7))
    seen_by_users: list[tuple[str, int]] = field(default_factory=list)
    """(revision that answered, requests) per second."""
    failed: int = 0
    """Requests whose users got no good answer, from any revision."""
    connections: list[str] = field(default_factory=lambda: [""] * 10)
    """Of users: the pod to which each is kept open; "" where the next request opens it."""
    running: set[str] = field(default_factory=set)
    """Revisions that have pods."""
    rate: int = 50

    def __post_init__(self) -> None:
        self.world.deliver = self._deliver

    def run(self, seconds: float, until: str | None = None) -> None:
        """Time passes, requests come, and the operator looks as often as it wants to; until Ready has that reason."""
        end = self.world.now + timedelta(seconds=seconds)
        wake = self.world.now
        while self.world.now < end:
            self.pass_a_second()
            while wake <= self.world.now:
                self.step()
                after = self.world.last.requeue_after if self.world.last else None
                wake = self.world.now + timedelta(seconds=after if after is not None else 5)
                if after is not None and after < 0.5:
                    continue
                wake = max(wake, self.world.now + timedelta(seconds=1))
            if until and (self.world.says("Ready") or ("", ""))[1] == until:
                return
            self.world.wait(1)
        assert until is None, f"{until} was never reached: {self.world.status.get('conditions')}"

    def pass_a_second(self) -> None:
        """Pods start, leases end, and requests come."""
        self._run_pods()
        self._draw()

    def step(self) -> None:
        """One pass, and what follows from it at once."""
        self._run_pods()
        self.world.step()
        self._run_pods()

    # --- Looking ----------------------------------------------------------------------------------------------------

    @property
    def shares(self) -> dict[str, tuple[str, str, float]]:
        """Pod → (mode, target, weight) of the leases in force."""
        return {
            uid: (router.lease.mode, router.lease.target, router.lease.weight)
            for uid, router in self.routers.items()
            if router.lease
        }

    def verdict(self, revision: str) -> tuple[str, str]:
        """(verdict, reason) on record."""
        child = self.world.children["ControllerRevision", f"wine-{revision}"]
        annotations = child["metadata"]["annotations"]
        return annotations[labels.VERDICT], annotations.get(labels.VERDICT_REASON, "")

    # --- Below ------------------------------------------------------------------------------------------------------

    def _run_pods(self) -> None:
        world = self.world
        alive: set[str] = set()
        self.running = {revision for revision, child in world.deployments.items() if child["spec"]["replicas"]}
        for revision, child in world.deployments.items():
            name = child["metadata"]["name"]
            asked = child["spec"]["replicas"]
            pods = [pod for pod in world.pods.get(name, []) if pod.uid][:asked]
            while len(pods) < asked:
                number = len(self.routers)
                ready = revision not in self.never_ready and len(pods) < self.slow_start.get(revision, asked)
                pod = Pod(
                    name=f"{name}-{number}", owner_uid="", labels=child["spec"]["template"]["metadata"]["labels"],
                    phase="Running", created=world.now, ready=ready, uid=f"pod-{number}", address="10.1.0.1",
                    ready_since=world.now if ready else None,
                )  # fmt: skip
                pods.append(pod)
                self.routers[pod.uid] = Router(pod.uid, revision)
            world.pods[name] = pods
            alive |= {pod.uid for pod in pods}
            child["status"] = {"replicas": asked, "readyReplicas": sum(pod.ready for pod in pods)}
        for uid in set(self.routers) - alive:
            self.routers[uid].answers = False
        for router in self.routers.values():
            if router.until and world.now >= router.until:
                router.lease = router.until = None
        world.routers = {uid: self._report(self.routers[uid]) for uid in alive}

    def _deliver(self, route: Route, uid: str) -> None:
        self._take(self.routers[uid], route)

    def _take(self, router: Router, route: Route) -> None:
        if not router.answers:
            return
        router.sequence += 1
        router.lease, router.until = route, self.world.now + LEASE
        if route.mode == "golden":
            router.lease = router.until = None
            differing = round(20 * self.disagreeing.get(route.target, 0.0))
            failed = 20 if self.bad.get(route.target, 0.0) == 1.0 else 0
            router.golden = Golden(route.target, 20, 20 - failed, failed, 0 if failed else differing, 20, True)
        elif route.target != router.target:
            router.target = route.target
            router.counts = {"local": [0, 0], "target": [0, 0]}
            router.rows = [0, 0]

    def _draw(self) -> None:
        """A second of requests through Service X, on connections that are kept."""
        stable = [r.uid for r in self.routers.values() if r.answers and r.revision == self.world.selected]
        answered: dict[str, int] = {}
        for _ in range(self.rate):
            which = self.random.randrange(len(self.connections))
            kept = self.routers.get(self.connections[which])
            if kept is None or not kept.answers:
                if not stable:
                    self.failed += bool(self.seen_by_users)  # before the first pod there was nothing to lose
                    continue
                self.connections[which] = self.random.choice(stable)
            router = self.routers[self.connections[which]]
            route = router.lease
            warm = not route or route.ready_seconds >= WARMING.total_seconds()
            to_target = route is not None and route.mode != "shadow" and self.random.random() < route.weight
            revision = route.target if to_target and route else router.revision
            bad = self.random.random() < self.bad.get(revision, 0.0) or revision not in self.running
            answered[router.revision if bad else revision] = answered.get(revision, 0) + 1
            if bad and (not to_target or self.random.random() < self.bad.get(router.revision, 0.0)):
                self.failed += 1
            if route and route.close:
                self.connections[which] = ""
            if route and warm:
                arm = router.counts["target" if to_target else "local"]
                arm[0] += 1
                arm[1] += bad
                if route.mode == "shadow" and self.random.random() < route.weight:
                    copy = router.counts["target"]
                    copy[0] += 1
                    copy[1] += self.random.random() < self.bad.get(route.target, 0.0)
                    router.rows[0] += 1
                    router.rows[1] += self.random.random() < self.disagreeing.get(route.target, 0.0)
        self.seen_by_users += list(answered.items())

    def _report(self, router: Router) -> Report | None:
        if not router.answers:
            return None
        lease = router.lease
        return Report(
            instance=f"{router.uid}-{router.starts}",
            revision=router.revision,
            ready=True,
            signature=self.signatures.get(router.revision, "same"),
            takes_leases=True,
            sequence=router.sequence,
            lease=LeaseState(router.sequence, lease.mode, lease.target, lease.weight, 15.0) if lease else None,
            target=router.target,
            steady_local=_arm(router.counts["local"]),
            steady_target=_arm(router.counts["target"]),
            warming_local=Arm(),
            warming_target=Arm(),
            comparison=Comparison(*router.rows),
            golden=router.golden,
            golden_kept=20,
            synthetic=0,
            in_flight_local=0,
            oldest_local_seconds=router.oldest,
            oldest_target_seconds=0.0,
            started_seconds=100.0,
            edges=EDGES,
        )

    def restart(self, revision: str, restarts: int = 1) -> None:
        """The container of one of its pods ends and comes back."""
        [name] = [child["metadata"]["name"] for r, child in self.world.deployments.items() if r == revision]
        first, *others = self.world.pods[name]
        crashed = replace(first, restarts=restarts, exit_code=139, termination_reason="Error")
        self.world.pods[name] = [crashed, *others]

    def forget(self) -> None:
        """The operator's process is another one: what it remembered is gone."""
        self.world.memory = {}


def _arm(counts: list[int]) -> Arm:
    ended, bad = counts
    return Arm(ended, {"ok": ended - bad, "failed": bad}, (ended - bad, 0, 0, 0, 0))
