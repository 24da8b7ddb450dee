"""What holds of rollouts and the guard whatever happens to users, pods, counters, Prometheus and the operator."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from tests.unit.plan import worlds
from tests.unit.plan.crashes import Life
from tests.unit.plan.routers import Cluster, Router
from tests.unit.plan.test_crashes import CANARY, IMMEDIATE
from tests.unit.plan.test_guard import SLO, burn
from tests.unit.plan.test_rollout import NEXT, THIRD, say

from holdfast.api.modeldeployment import ModelDeploymentStatus
from holdfast.build import labels
from holdfast.plan.slo import NOT_CONFIGURED, NoSignal

MODELS = [{"uri": worlds.URI, "digest": worlds.PINNED}, NEXT, THIRD]
STATISTICAL = {"MoreFailures", "ShadowFailed", "SLOBreach"}
LAST = ("Serving", "RevisionRejected")


class Rollouts(RuleBasedStateMachine):
    """One ModelDeployment with routers, in a world that does not hold still."""

    life: Life

    @initialize(rollout=st.sampled_from([CANARY, IMMEDIATE]), replicas=st.integers(1, 2), slo=st.booleans())
    def begin(self, rollout: dict[str, Any], replicas: int, slo: bool) -> None:
        world = worlds.model_deployment(replicas=replicas)
        world.spec.update({"rollout": rollout} | ({"slo": SLO} if slo else {}))
        self.life = Life(Cluster(world), ())
        self.moves: list[str] = []
        """Revisions that took over since a person said anything."""
        self.selected: str | None = None
        self.named: set[str] = set()
        """Revisions that a person has said anything about."""
        self.unequal = self.broken = False
        """Whether one revision ever was worse than others, or was said to be; whether any pod ever answered badly."""
        self.last_seen = 0
        self.answered: dict[str, int] = {}
        world.after_write = self.after_write
        self.time_passes(20)

    @property
    def cluster(self) -> Cluster:
        return self.life.cluster

    def pick(self, which: int) -> str:
        """A revision, of which most are live."""
        live = list(self.cluster.world.deployments)
        return live[which % len(live)]

    def routers(self, revision: str) -> list[Router]:
        return [router for router in self.cluster.routers.values() if router.revision == revision]

    # --- What people do ---------------------------------------------------------------------------------------------

    @rule(model=st.sampled_from(MODELS))
    def asks_for_another_model(self, model: dict[str, Any]) -> None:
        self.cluster.world.change(model=model)
        self.moves = []

    @rule(replicas=st.integers(1, 3))
    def scales(self, replicas: int) -> None:
        self.cluster.world.scale(replicas)

    @rule(suspend=st.booleans())
    def suspends(self, suspend: bool) -> None:
        self.cluster.world.change(suspend=suspend)

    @rule(verb=st.sampled_from(["pause", "promote", "abort", "retry", "rollback"]), which=st.integers(0, 2))
    def says(self, verb: str, which: int) -> None:
        known = [each["name"] for each in self.cluster.world.status.get("revisions", ())]
        if known:
            revision = known[which % len(known)]
            say(self.cluster, f"{verb} {revision}@{self.cluster.world.now:%T}")
            self.named.add(revision)
            self.moves = []

    @rule()
    def takes_it_back(self) -> None:
        self.cluster.world.annotations = {}

    # --- What happens to pods ---------------------------------------------------------------------------------------

    @rule(which=st.integers(0, 2), rate=st.sampled_from([0.0, 0.3, 1.0]))
    def one_revision_fails(self, which: int, rate: float) -> None:
        self.cluster.bad[self.pick(which)] = rate
        self.unequal = self.broken = True

    @rule(rate=st.sampled_from([0.0, 0.1, 0.5]))
    def everything_fails_alike(self, rate: float) -> None:
        """Those that are to come, too."""
        self.cluster.bad = Alike(rate)
        self.broken = True

    @rule(which=st.integers(0, 2))
    def a_pod_restarts(self, which: int) -> None:
        revision = self.pick(which)
        if self.cluster.world.pods.get(f"wine-{revision}"):
            self.cluster.restart(revision)

    @rule(which=st.integers(0, 2), seconds=st.sampled_from([0.0, 11.0]))
    def requests_hang(self, which: int, seconds: float) -> None:
        for router in self.routers(self.pick(which)):
            router.oldest = seconds

    @rule(which=st.integers(0, 2), all_of_them=st.booleans())
    def routers_do_not_answer(self, which: int, all_of_them: bool) -> None:
        for router in self.cluster.routers.values() if all_of_them else self.routers(self.pick(which)):
            router.answers = False
        self.broken = True

    @rule()
    def routers_answer_again(self) -> None:
        for router in self.cluster.routers.values():
            router.answers = True

    # --- What is wrong with the numbers -----------------------------------------------------------------------------

    @rule(which=st.integers(0, 2), told=st.booleans())
    def counters_begin_anew(self, which: int, told: bool) -> None:
        for router in self.routers(self.pick(which)):
            router.starts += told
            router.counts = {"local": [0, 0], "target": [0, 0]}

    @rule(which=st.integers(0, 2), arm=st.sampled_from(["local", "target"]), bad=st.booleans())
    def counts_are_gigantic(self, which: int, arm: str, bad: bool) -> None:
        for router in self.routers(self.pick(which)):
            router.counts[arm][0] += 10**15
            router.counts[arm][1] += bad * 10**15
        self.unequal = True

    @rule(which=st.integers(0, 2), says=st.sampled_from(["nothing", "no signal", "burning"]))
    def prometheus_says(self, which: int, says: str) -> None:
        world = self.cluster.world
        if says == "burning":
            burn(self.cluster, self.pick(which))
        else:
            world.slo = NOT_CONFIGURED if says == "nothing" else NoSignal("MetricsUnavailable", "words")

    # --- What the operator does -------------------------------------------------------------------------------------

    @rule(writes=st.integers(0, 4))
    def operator_is_killed(self, writes: int) -> None:
        self.cluster.world.step(crash_after=writes)
        self.cluster.forget()

    @rule(seconds=st.sampled_from([1, 3, 10, 40, 120, 700]))
    def time_passes(self, seconds: int) -> None:
        for _ in range(seconds):
            self.life.second()

    @rule()
    def all_goes_well(self) -> None:
        """Whatever happened before: things come to an end by themselves, without anybody's word."""
        world = self.cluster.world
        self.cluster.bad, world.slo, world.annotations = {}, NOT_CONFIGURED, {}
        self.routers_answer_again()
        for router in self.cluster.routers.values():
            router.oldest = 0.0
        world.change(suspend=False)
        for _ in range(60):
            self.time_passes(20)
            if (world.says("Ready") or ("", ""))[1] in LAST:
                return
        raise AssertionError(f"it does not end: {world.says('Ready')} {world.message()}")

    # --- What always holds ------------------------------------------------------------------------------------------

    def after_write(self) -> None:
        self.life._after_write()
        world = self.cluster.world
        for revision, requests in self.cluster.seen_by_users[self.last_seen :]:
            self.answered[revision] = self.answered.get(revision, 0) + requests
        self.last_seen = len(self.cluster.seen_by_users)
        before, now = self.selected, world.selected
        if now is None or now == before:
            return
        self.selected = now
        if before is None:
            return
        record = world.children["ControllerRevision", f"wine-{now}"]["metadata"]["annotations"]
        assert record[labels.VERDICT] != "Rejected", f"{now} is rejected and takes over"
        self.moves.append(now)
        assert len(self.moves) <= 2, f"back and forth: {self.moves}"
        if world.spec["rollout"] == CANARY and labels.PROMOTED_AT not in record and now not in self.named:
            assert self.answered.get(now, 0) >= 20, f"{now} takes over, which nobody has tried"

    @invariant()
    def users_lose_nothing_while_pods_answer(self) -> None:
        if hasattr(self, "life") and not self.broken:
            assert self.cluster.failed == 0

    @invariant()
    def what_all_revisions_share_is_no_verdict(self) -> None:
        if hasattr(self, "life") and not self.unequal:
            reasons = {each.get("reason") for each in self.cluster.world.status.get("revisions", ())}
            assert not reasons & STATISTICAL, reasons

    @invariant()
    def status_is_one_that_the_api_server_takes(self) -> None:
        if hasattr(self, "life") and self.cluster.world.status:
            ModelDeploymentStatus.parse(self.cluster.world.status)


class Alike(dict[str, float]):
    """The same rate of every revision."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def get(self, revision: str, default: Any = None) -> float:
        return super().get(revision, self.rate)


TestRollouts = Rollouts.TestCase
TestRollouts.settings = settings(
    max_examples=100, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
