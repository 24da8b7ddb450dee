"""After promotion: what brings the previous revision back, what does not, and that it happens once."""

from dataclasses import replace
from typing import Any

import pytest
from tests.unit.plan import worlds
from tests.unit.plan.routers import Cluster
from tests.unit.plan.test_rollout import NEXT, THIRD, decisions, say

from holdfast.build import labels
from holdfast.plan.slo import Counts, Ratio, SloSignal

SLO: dict[str, Any] = {"availability": "99.9", "windowDays": 30}


def promoted(replicas: int = 1, **spec: Any) -> tuple[Cluster, str, str]:
    """(a cluster in which a second revision has just been promoted, the first one, the second one)."""
    world = worlds.model_deployment(replicas=replicas)
    world.spec.update({"slo": SLO, **spec})
    cluster = Cluster(world)
    cluster.run(60, until="Serving")
    old = str(world.selected)
    cluster.run(5)
    world.change(model=NEXT)
    cluster.run(60, until="Serving")
    new = str(world.selected)
    assert new != old
    cluster.run(60)
    return cluster, old, new


def test_the_previous_revision_answers_a_control_group_while_it_is_warm() -> None:
    cluster, old, new = promoted()
    [share] = [cluster.shares[uid] for uid, r in cluster.routers.items() if r.revision == new]
    assert share == ("share", old, 0.02)
    cluster.run(600)
    assert not [share for share in cluster.shares.values() if share[0] == "share"]


def test_without_objectives_there_is_no_control_group() -> None:
    cluster, _, new = promoted(slo=None)
    assert not [cluster.shares.get(uid) for uid, r in cluster.routers.items() if r.revision == new and r.lease]


@pytest.mark.parametrize("rate", [1.0, 0.3])
def test_a_defect_that_starts_later_is_rolled_back(rate: float) -> None:
    cluster, old, new = promoted()
    cluster.bad[new] = rate
    begun = cluster.world.now
    cluster.run(120, until="RevisionRejected")
    assert (cluster.world.now - begun).total_seconds() <= (20 if rate == 1.0 else 60)
    assert cluster.world.selected == old
    assert cluster.verdict(new) == ("Rejected", "SLOBreach")
    assert cluster.world.says("RolledBack") == ("True", "SLOBreach")
    assert cluster.world.says("Available") == ("True", "Serving")
    cluster.run(5)
    assert ("RolledBack", "SLOBreach") in decisions(cluster)
    [rolled_back] = [each for each in cluster.world.status["decisions"] if each["action"] == "RolledBack"]
    assert (rolled_back["fromRevision"], rolled_back["toRevision"]) == (new, old)
    assert "e=" in rolled_back["evidence"]


@pytest.mark.parametrize("drain", [30.0, 90.0])
def test_established_connections_follow_at_once_and_the_rejected_pods_go_after_the_drain(drain: float) -> None:
    cluster, old, new = promoted()
    cluster.world.settings = replace(cluster.world.settings, drain_seconds=drain)
    cluster.bad[new] = 1.0
    cluster.run(120, until="RevisionRejected")
    [share] = [cluster.shares[uid] for uid, r in cluster.routers.items() if r.revision == new]
    assert share == ("all", old, 1.0)
    cluster.run(drain - 2)
    assert new in cluster.world.deployments
    cluster.run(10)
    assert set(cluster.world.deployments) == {old}


def test_after_a_rollback_the_pods_that_answer_again_send_nothing_to_the_rejected_ones() -> None:
    cluster, _, new = promoted()
    assert ("all", new, 1.0) in cluster.shares.values()  # what still reaches the replaced pods is sent on
    for router in cluster.routers.values():
        if router.revision == new:
            router.oldest = 11.0
    cluster.run(20, until="RevisionRejected")
    assert cluster.verdict(new) == ("Rejected", "HardFailure")
    assert not [share for share in cluster.shares.values() if share[1] == new and share[2] > 0]


def test_the_control_group_ends_before_its_pods_do() -> None:
    cluster, old, _ = promoted()
    while cluster.world.deployments[old]["spec"]["replicas"]:
        cluster.run(1)
    assert not [share for share in cluster.shares.values() if share[1] == old and share[2] > 0]


def test_it_is_not_rolled_back_again_nor_rolled_forward() -> None:
    cluster, old, new = promoted()
    cluster.bad[new] = 1.0
    cluster.run(120, until="RevisionRejected")
    cluster.bad = {old: 1.0, new: 1.0}
    cluster.run(900)
    assert cluster.world.selected == old
    assert "previousRevision" not in cluster.world.status
    assert [action for action, _ in decisions(cluster)].count("RolledBack") == 1


def test_what_both_revisions_share_is_nobodys_fault() -> None:
    cluster, old, new = promoted()
    cluster.bad = {old: 0.4, new: 0.4}
    cluster.run(300)
    assert cluster.world.selected == new
    assert cluster.verdict(new)[0] == "Promoted"


def test_without_counters_nothing_is_rolled_back() -> None:
    cluster, _, new = promoted()
    for router in cluster.routers.values():
        router.answers = False
    cluster.run(300)
    assert cluster.world.selected == new


def test_a_stable_revision_that_alone_stops_answering_is_rolled_back_by_the_service_alone() -> None:
    cluster, old, new = promoted()
    for router in cluster.routers.values():
        if router.revision == new:
            router.answers = False
    cluster.run(20, until="RevisionRejected")
    assert cluster.world.selected == old
    assert cluster.verdict(new) == ("Rejected", "HardFailure")
    cluster.run(5)
    assert new not in cluster.world.deployments  # nothing to drain


def test_a_request_that_never_ends_in_every_pod_is_a_hang() -> None:
    cluster, old, new = promoted()
    for router in cluster.routers.values():
        if router.revision == new:
            router.oldest = 11.0
    cluster.run(20, until="RevisionRejected")
    assert cluster.world.selected == old


def test_a_guard_that_only_notifies_says_so_once_and_moves_nothing() -> None:
    cluster, _, new = promoted(guard={"action": "Notify"})
    cluster.bad[new] = 1.0
    cluster.run(120)
    assert cluster.world.selected == new
    assert [action for action, _ in decisions(cluster)].count("Notified") == 1
    assert cluster.world.says("Ready") == ("True", "Serving")


def test_a_person_rolls_back_to_a_revision_that_rests() -> None:
    cluster, old, new = promoted()
    cluster.run(700)
    assert cluster.world.deployments[old]["spec"]["replicas"] == 0
    say(cluster, f"rollback {old}")
    cluster.run(30, until="RevisionRejected")
    assert cluster.world.selected == old
    assert cluster.verdict(new) == ("Rejected", "RequestedByUser")
    assert cluster.world.status["lastHandledRollout"] == f"rollback {old}"
    cluster.run(60)
    assert cluster.world.selected == old


def test_revisions_that_took_over_within_a_second_are_told_apart() -> None:
    world = worlds.serving()
    old = str(world.selected)
    world.change(model=NEXT)
    world.converge()
    world.ready()
    world.converge()
    assert world.selected != old
    world.annotations = {labels.ROLLOUT: f"rollback {old}"}
    world.converge()
    assert world.selected == old
    assert world.says("RolledBack") == ("True", "RequestedByUser")
    assert [each["action"] for each in world.status["decisions"]] == ["RolledBack", "Promoted"]


def test_reverting_the_spec_within_the_window_takes_the_fast_road() -> None:
    cluster, old, _ = promoted()
    cluster.world.change(rollout={"strategy": "Canary"}, model={"uri": worlds.URI, "digest": worlds.PINNED})
    begun = cluster.world.now
    cluster.run(60, until="Serving")
    assert cluster.world.selected == old
    assert (cluster.world.now - begun).total_seconds() < 45
    assert not [share for share in cluster.shares.values() if share[0] == "shadow"]


def test_a_new_candidate_sends_the_warm_previous_revision_to_rest() -> None:
    cluster, old, new = promoted()
    cluster.world.change(rollout={"strategy": "Canary"}, model=THIRD)
    cluster.run(60, until="CanaryStep")
    live = {name for name, child in cluster.world.deployments.items() if child["spec"]["replicas"]}
    assert live == {new, cluster.world.status["candidateRevision"]}
    assert cluster.world.deployments[old]["spec"]["replicas"] == 0


def test_after_a_rollback_the_next_change_is_tried_and_the_one_before_it_is_the_previous() -> None:
    cluster, old, new = promoted()
    cluster.bad[new] = 1.0
    cluster.run(120, until="RevisionRejected")
    cluster.world.change(model=THIRD)
    cluster.run(60, until="Serving")
    cluster.run(5)
    assert cluster.world.selected not in {old, new}
    assert cluster.world.status["previousRevision"] == old
    assert cluster.world.condition("RolledBack") is None


# --- Later ----------------------------------------------------------------------------------------------------------


def burn(cluster: Cluster, revision: str) -> None:
    """Prometheus says that a revision burns its budget in all windows."""
    spans = (300, 1800, 3600, 7200, 21600, 86400, 259200, 2592000)
    bad = Counts({seconds: Ratio(500.0, 1000.0) for seconds in spans}, {})
    cluster.world.slo = SloSignal(bad, {revision: bad})


def test_an_alarm_at_rest_wakes_the_previous_revision_and_a_difference_rolls_back() -> None:
    cluster, old, new = promoted()
    cluster.run(700)
    assert cluster.world.deployments[old]["spec"]["replicas"] == 0
    cluster.bad[new] = 0.5
    burn(cluster, new)
    cluster.run(5)
    assert cluster.world.deployments[old]["spec"]["replicas"] == 1
    cluster.run(90, until="RevisionRejected")
    assert cluster.world.selected == old
    assert cluster.world.says("SLOHealthy") == ("False", "FastBurn")


def test_an_alarm_that_the_previous_revision_shares_is_told_once_and_nothing_moves() -> None:
    cluster, old, new = promoted()
    cluster.run(700)
    cluster.bad = {old: 0.5, new: 0.5}
    burn(cluster, new)
    cluster.run(700)
    assert cluster.world.selected == new
    assert cluster.world.says("RolledBack") == ("True", "RollbackIneffective")
    assert decisions(cluster).count(("Notified", "RollbackIneffective")) == 1
    cluster.run(60)
    assert cluster.world.deployments[old]["spec"]["replicas"] == 0


def test_an_alarm_after_the_window_only_notifies() -> None:
    cluster, old, new = promoted(guard={"rollbackWindowSeconds": 1000})
    cluster.run(1100)
    cluster.bad[new] = 0.5
    burn(cluster, new)
    cluster.run(60)
    assert cluster.world.selected == new
    assert old not in cluster.world.deployments
    assert decisions(cluster).count(("Notified", "FastBurn")) == 1


def test_a_promotion_after_a_rollback_does_not_carry_the_old_reason() -> None:
    cluster, old, new = promoted()
    cluster.bad[new] = 1.0
    cluster.run(120, until="RevisionRejected")
    cluster.bad.clear()
    cluster.world.change(model=THIRD)
    cluster.run(60, until="Serving")
    cluster.world.change(model={"uri": worlds.URI, "digest": worlds.PINNED})
    cluster.run(60, until="Serving")
    assert cluster.world.selected == old
    assert cluster.verdict(old) == ("Promoted", "Ready")


def test_without_a_control_group_an_alarm_wakes_nobody_and_is_told() -> None:
    cluster, old, new = promoted(guard={"controlPercent": 0})
    cluster.run(700)
    burn(cluster, new)
    cluster.run(700)
    assert cluster.world.deployments[old]["spec"]["replicas"] == 0
    assert decisions(cluster).count(("Notified", "FastBurn")) == 1


def test_a_rollback_to_a_revision_at_rest_waits_for_all_its_pods_but_not_for_ever() -> None:
    cluster, old, new = promoted(replicas=3)
    cluster.run(700)
    cluster.slow_start[old] = 1
    say(cluster, f"rollback {old}")
    cluster.run(20)
    assert cluster.world.selected == new
    cluster.run(30, until="RevisionRejected")
    assert cluster.world.selected == old


def test_a_pod_that_does_not_answer_is_looked_at_again_soon() -> None:
    cluster, _, new = promoted()
    for router in cluster.routers.values():
        if router.revision == new:
            router.answers = False
    cluster.step()
    assert cluster.world.last is not None
    assert cluster.world.last.requeue_after == 0.5
