"""A workflow that is lived through once for every moment at which the operator may be killed.

A moment is the one after a write to the API server that changed anything, after a lease that a pod took, or after the
status was written; the one before a write is the one after what came before it. At each the whole cluster is copied,
and the copy goes on with an operator that remembers nothing, at once or after a pause.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from tests.unit.plan.routers import Cluster

from holdfast.build import labels

SETTLED = 45
"""Seconds after the last chapter: a revision that lost its traffic has lost its pods by then, too."""
LONGEST = timedelta(seconds=1200)
TIMES = ("time", "lastTransitionTime", "creationTime", "verdictTime", "startTime", "stepStartTime")
NUMBERS = ("message", "evidence")
"""They tell of counts, which depend on how long things took."""
PASSING = ("Held", "Resumed")
"""Decisions that depend on how much was counted in how long."""
KEPT = (labels.VERDICT, labels.VERDICT_REASON, labels.REPLACED, labels.ROLLED_BACK)

Chapter = tuple[Callable[["Life"], bool], Callable[["Life"], None]]
"""When it comes, and what people or the cluster do then."""


@dataclass
class Life:
    """A cluster, what happens to it, and an operator that looks as often as it wants to."""

    cluster: Cluster
    chapters: tuple[Chapter, ...]
    at: int = 0
    wake: datetime | None = None
    names: dict[str, str] = field(default_factory=dict)
    """Of revisions, for later chapters."""
    pauses: tuple[int, ...] = ()
    """Seconds that a killed operator is away, by turns; none: it is not killed."""
    renewals: int = 1
    """Of leases that say what the pod was doing anyway, one of so many is a moment."""
    killed: list[tuple[str, Life]] = field(default_factory=list)
    """What was done last before each moment, and the life from there on."""
    _seen: tuple[Any, ...] = ()
    _renewed: int = 0
    _owed: int = 0
    """Pods that stable has to have ready: as many as asked, once it had them."""
    _before: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        world = self.cluster.world
        world.before_write, world.after_write = self._look, self._after_write

    def live(self) -> Life:
        """To the end, and until everything has come to rest."""
        world = self.cluster.world
        last = world.now + LONGEST
        rest = 0
        while rest < SETTLED:
            if self.at == len(self.chapters):
                rest += 1
            elif self.chapters[self.at][0](self):
                self.chapters[self.at][1](self)
                self.at += 1
                self.wake = world.now
            assert world.now < last, f"chapter {self.at} never came: {world.status.get('conditions')}"
            self.second()
        answering = {revision for revision, _ in self.cluster.seen_by_users[-20:]}
        rejected = {r for r in answering if self._annotations(r).get(labels.VERDICT) == "Rejected"}
        assert not rejected, f"users are answered by {rejected}"
        return self

    def second(self) -> None:
        """What happens in one, and what the operator makes of it if it is time to look."""
        world, cluster = self.cluster.world, self.cluster
        cluster.pass_a_second()
        self._check()
        if self.wake is None or self.wake <= world.now:
            before = world.status
            cluster.step()
            if world.status != before:
                self._moment("status")
            after = world.last.requeue_after if world.last else None
            self.wake = world.now + timedelta(seconds=max(1.0, 5.0 if after is None else after))
        world.wait(1)

    # --- Being killed -----------------------------------------------------------------------------------------------

    def _after_write(self) -> None:
        self._check()
        routers, changes = self.cluster.routers.values(), self.cluster.world.changes
        now = (changes, self.cluster.shares, sum(router.sequence for router in routers))
        before, self._seen = self._seen, now
        if now == before:
            return
        self._renewed += now[:2] == before[:2]
        if now[:2] != before[:2] or self._renewed % self.renewals == 0:
            self._moment(f"write {changes}, lease {now[2]}")

    def _moment(self, what: str) -> None:
        if not self.pauses:
            return
        pause, killed = self.pauses[len(self.killed) % len(self.pauses)], self.killed
        self.killed, self.cluster.world.last, last = [], None, self.cluster.world.last
        other = copy.deepcopy(self)
        self.killed, self.cluster.world.last = killed, last
        other.pauses = ()
        other.cluster.forget()
        other.wake = other.cluster.world.now + timedelta(seconds=pause)
        killed.append((f"killed after {what} at {other.cluster.world.now:%T}, away for {pause} s", other))

    # --- What users are owed ----------------------------------------------------------------------------------------

    def _look(self) -> None:
        self._before = {r: child["spec"]["replicas"] for r, child in self.cluster.world.deployments.items()}

    def _check(self) -> None:
        world, cluster = self.cluster.world, self.cluster
        now = {r: child["spec"]["replicas"] for r, child in world.deployments.items()}
        stable = world.selected
        if stable is None:
            return
        ready = sum(pod.ready for pod in world.pods.get(f"wine-{stable}", ()))
        asked = world.spec["serving"]["replicas"]
        self._owed = asked if ready >= asked else min(self._owed, asked)
        assert min(ready, now.get(stable, 0)) >= self._owed, f"{stable} has {ready} of {asked} pods"
        candidates = [r for r in now if now[r] and r != stable and not self._annotations(r).get(labels.PROMOTED_AT)]
        assert len(candidates) <= 1, f"candidates: {candidates}"
        for revision in (r for r, had in self._before.items() if had and not now.get(r)):
            assert revision != stable, f"{revision} serves and has lost its pods"
            leased = [r.uid for r in cluster.routers.values() if r.answers and _sends(r.lease, revision)]
            assert not leased, f"{revision} has lost its pods, and {leased} send requests there"
            users = [uid for uid in cluster.connections if uid and cluster.routers[uid].revision == revision]
            assert not users, f"{revision} has lost its pods, and users were connected"
        self._before = now

    def _annotations(self, revision: str) -> dict[str, str]:
        record = self.cluster.world.children.get(("ControllerRevision", f"wine-{revision}"))
        return record["metadata"]["annotations"] if record else {}

    # --- How it ends ------------------------------------------------------------------------------------------------

    def end(self) -> dict[str, Any]:
        """What there is at last, without times and counts."""
        world = self.cluster.world
        decisions = _plain(world.status.get("decisions", []))
        return {
            "selected": world.selected,
            "children": {
                " ".join(key): _spec(child)
                | {name: child["metadata"].get("annotations", {}).get(name) for name in KEPT}
                for key, child in sorted(world.children.items())
            },
            "status": _plain(world.status)
            | {"decisions": [each for each in decisions if each["action"] not in PASSING]},
        }


def _sends(lease: Any, revision: str) -> bool:
    return lease is not None and lease.target == revision and lease.weight > 0


def _spec(child: dict[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(_plain(child["spec"])))


def _plain(found: Any) -> Any:
    if isinstance(found, dict):
        return {name: _plain(value) for name, value in found.items() if name not in TIMES + NUMBERS}
    if isinstance(found, list | tuple):
        return [_plain(each) for each in found]
    return found


def survived(life: Life, most: int | None = None) -> int:
    """Lives on after each moment; all must end as the undisturbed life does. How many there were.

    most: so many of them are lived on after, drawn by a fixed seed; None: all.
    """
    wanted = life.live().end()
    moments = life.killed if most is None else random.Random(most).sample(life.killed, most)
    for what, other in moments:
        try:
            found = other.live().end()
        except AssertionError as error:
            raise AssertionError(f"{what}: {error}") from error
        assert found == wanted, f"{what}: {_difference(found, wanted)}"
        assert other.cluster.failed == 0 or life.cluster.failed, f"{what}: {other.cluster.failed} requests failed"
    return len(life.killed)


def _difference(found: Any, wanted: Any, where: str = "") -> str:
    """The first place where two ends differ."""
    if isinstance(found, dict) and isinstance(wanted, dict) and found.keys() == wanted.keys():
        return next(_difference(found[k], wanted[k], f"{where}.{k}") for k in found if found[k] != wanted[k])
    return f"{where}: {found} instead of {wanted}"
