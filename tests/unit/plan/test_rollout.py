"""A candidate's road: what leads it on, what holds it, and what ends it."""

from dataclasses import replace
from typing import Any

import pytest
from tests.unit.plan import worlds
from tests.unit.plan.routers import Cluster

from holdfast.build import labels

CANARY: dict[str, Any] = {"strategy": "Canary"}
STEPS = [{"weightPercent": 10, "minSeconds": 20}, {"weightPercent": 50, "minSeconds": 20}]
NEXT = {"uri": worlds.URI, "digest": worlds.OTHER}
THIRD = {"uri": "pvc://models/wine/3", "digest": worlds.OTHER}


def serving(replicas: int = 1, **spec: Any) -> Cluster:
    world = worlds.model_deployment(replicas=replicas)
    world.spec.update({"rollout": CANARY, **spec})
    cluster = Cluster(world)
    cluster.run(60, until="Serving")
    cluster.run(10)
    return cluster


def changed(cluster: Cluster, model: dict[str, Any] = NEXT) -> str:
    """The name of the candidate that comes of a change."""
    cluster.world.change(model=model)
    cluster.step()
    cluster.step()
    return str(cluster.world.status["candidateRevision"])


def say(cluster: Cluster, text: str) -> None:
    cluster.world.annotations = {labels.ROLLOUT: text}


def decisions(cluster: Cluster) -> list[tuple[str, str]]:
    return [(each["action"], each["reason"]) for each in cluster.world.status.get("decisions", [])]


# --- The whole road -------------------------------------------------------------------------------------------------


def test_a_good_candidate_is_tried_in_steps_and_promoted() -> None:
    cluster = serving(replicas=4)
    old, new = cluster.world.selected, changed(cluster)
    cluster.run(60, until="CanaryStep")
    assert set(cluster.shares.values()) <= {("share", new, 0.1)}
    assert cluster.world.deployments[new]["spec"]["replicas"] == 1
    cluster.run(300, until="Serving")
    assert cluster.world.selected == new
    assert cluster.world.deployments[new]["spec"]["replicas"] == 4
    assert cluster.verdict(new) == ("Promoted", "NoWorse")
    assert ("Promoted", "NoWorse") in decisions(cluster)
    [promoted] = [each for each in cluster.world.status["decisions"] if each["action"] == "Promoted"]
    assert (promoted["fromRevision"], promoted["toRevision"]) == (old, new)
    assert "0/" in promoted["evidence"]
    assert cluster.world.status["previousRevision"] == old


def test_no_request_is_shared_before_the_candidate_is_warm_and_has_answered_golden_requests() -> None:
    cluster = serving()
    new = changed(cluster)
    cluster.run(60, until="SmokeTesting")
    begun = cluster.world.now
    while not any(mode == "share" for mode, _, _ in cluster.shares.values()):
        cluster.run(1)
        assert (cluster.world.now - begun).total_seconds() < 60
    [router] = [r for r in cluster.routers.values() if r.revision == cluster.world.selected]
    assert router.golden is not None
    assert router.golden.target == new
    assert (cluster.world.now - begun).total_seconds() >= 29


def test_a_promotion_waits_for_as_many_pods_as_stable_has_then() -> None:
    cluster = serving(replicas=2, rollout={**CANARY, "steps": STEPS})
    old, new = cluster.world.selected, changed(cluster)
    cluster.run(60, until="CanaryStep")
    cluster.world.scale(5)
    cluster.run(300, until="Promoting")
    assert cluster.world.deployments[str(old)]["spec"]["replicas"] == 5
    cluster.run(60, until="Serving")
    assert cluster.world.deployments[new]["spec"]["replicas"] == 5


def test_copies_are_compared_first_where_the_spec_asks_for_it() -> None:
    cluster = serving(rollout={**CANARY, "shadow": {"percent": 100, "minSeconds": 10}})
    new = changed(cluster)
    cluster.run(60, until="Shadowing")
    cluster.run(2)
    assert set(cluster.shares.values()) == {("shadow", new, 1.0)}
    assert {revision for revision, _ in cluster.seen_by_users} == {cluster.world.selected}
    cluster.run(60, until="CanaryStep")


def test_a_manual_rollout_waits_for_a_person_once() -> None:
    cluster = serving(rollout={"strategy": "Manual"})
    new = changed(cluster)
    cluster.run(90, until="AwaitingPromotion")
    cluster.run(600)
    assert cluster.world.selected != new
    say(cluster, f"promote {new}")
    cluster.run(30, until="Serving")
    assert cluster.world.selected == new
    assert cluster.verdict(new) == ("Promoted", "RequestedByUser")
    assert cluster.world.status["lastHandledRollout"] == f"promote {new}"


def test_after_the_promotion_old_pods_send_on_what_still_reaches_them() -> None:
    cluster = serving(rollout={**CANARY, "steps": STEPS})
    old, new = cluster.world.selected, changed(cluster)
    cluster.run(300, until="Serving")
    cluster.run(60)
    [share] = [cluster.shares[uid] for uid, r in cluster.routers.items() if r.revision == old and r.answers]
    assert share == ("all", new, 1.0)


def test_the_revision_that_was_replaced_keeps_its_pods() -> None:
    cluster = serving(rollout={**CANARY, "steps": STEPS})
    old = str(cluster.world.selected)
    before = cluster.world.deployments[old]["uid"], cluster.world.pods[f"wine-{old}"]
    changed(cluster)
    cluster.run(300, until="Serving")
    cluster.run(60)
    assert (cluster.world.deployments[old]["uid"], cluster.world.pods[f"wine-{old}"]) == before


# --- Against it -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [1.0, 0.2])
def test_a_candidate_that_fails_is_rejected_and_its_users_are_not(rate: float) -> None:
    cluster = serving()
    old, new = cluster.world.selected, changed(cluster)
    cluster.run(60, until="CanaryStep")
    cluster.bad[new] = rate
    begun = cluster.world.now
    cluster.run(60, until="RevisionRejected")
    assert (cluster.world.now - begun).total_seconds() <= 20
    cluster.run(40)
    assert cluster.world.selected == old
    assert cluster.verdict(new) == ("Rejected", "MoreFailures")
    assert cluster.world.says("Stalled") == ("True", "RevisionRejected")
    assert cluster.world.says("Available") == ("True", "Serving")
    assert new not in cluster.world.deployments
    [aborted] = [each for each in cluster.world.status["decisions"] if each["action"] == "Aborted"]
    assert f"{new} " in aborted["evidence"]
    assert "e=" in aborted["evidence"]
    assert [event.reason for event in cluster.world.events].count("MoreFailures") == 1


def test_a_rejection_is_told_with_its_numbers_in_the_pass_that_decides_it() -> None:
    cluster = serving()
    new = changed(cluster)
    cluster.run(60, until="CanaryStep")
    cluster.bad[new] = 1.0
    cluster.run(60, until="RevisionRejected")
    aborted = cluster.world.status["decisions"][0]
    assert (aborted["action"], aborted["fromRevision"]) == ("Aborted", new)
    assert "e=" in aborted["evidence"]
    assert "MoreFailures" in [event.reason for event in cluster.world.events]
    [said] = [each for each in cluster.world.status["revisions"] if each["name"] == new]
    assert said["verdict"] == "Rejected"


def test_a_candidate_that_fails_golden_requests_gets_no_traffic() -> None:
    cluster = serving()
    new = changed(cluster)
    cluster.bad[new] = 1.0
    cluster.run(60, until="RevisionRejected")
    assert cluster.verdict(new) == ("Rejected", "SmokeTestFailed")
    assert not [share for share in cluster.shares.values() if share[0] == "share" and share[2] > 0]


def test_a_candidate_that_answers_otherwise_is_held_until_a_person_has_looked() -> None:
    cluster = serving()
    new = changed(cluster)
    cluster.disagreeing[new] = 0.5
    cluster.run(60, until="AwaitingPromotion")
    assert "10 of 20 golden rows" in cluster.world.message()
    cluster.run(600)
    assert cluster.world.selected != new
    assert ("Held", "AwaitingPromotion") in decisions(cluster)
    say(cluster, f"promote {new}")
    cluster.run(60, until="Serving")


def test_a_candidate_with_another_signature_is_rejected_at_once() -> None:
    cluster = serving()
    new = changed(cluster)
    cluster.signatures[new] = "other"
    cluster.run(60, until="RevisionRejected")
    assert cluster.verdict(new) == ("Rejected", "SignatureChanged")


def test_a_candidate_that_restarts_is_rejected() -> None:
    cluster = serving()
    new = changed(cluster)
    cluster.run(60, until="CanaryStep")
    cluster.restart(new)
    cluster.run(10, until="RevisionRejected")
    assert cluster.verdict(new) == ("Rejected", "CrashLoop")


def test_a_candidate_that_does_not_answer_while_stable_does_hangs() -> None:
    cluster = serving()
    new = changed(cluster)
    cluster.run(60, until="CanaryStep")
    for router in cluster.routers.values():
        if router.revision == new:
            router.answers = False
    cluster.run(10, until="RevisionRejected")
    assert cluster.verdict(new) == ("Rejected", "HardFailure")


def test_a_candidate_whose_pods_never_come_is_given_up_at_the_deadline() -> None:
    cluster = serving(rollout={**CANARY, "progressDeadlineSeconds": 60})
    cluster.world.change(model=NEXT)
    cluster.step()
    new = str(cluster.world.status["candidateRevision"])
    cluster.never_ready.add(new)
    cluster.world.pods.pop(f"wine-{new}", None)
    cluster.run(100, until="RevisionRejected")
    assert cluster.verdict(new) == ("Rejected", "ProgressDeadlineExceeded")


def test_copies_that_are_answered_worse_reject_before_any_user_is_asked() -> None:
    cluster = serving(rollout={**CANARY, "shadow": {"percent": 100, "minSeconds": 10}})
    new = changed(cluster)
    cluster.run(60, until="Shadowing")
    cluster.bad[new] = 0.2
    cluster.run(60, until="RevisionRejected")
    assert cluster.verdict(new) == ("Rejected", "ShadowFailed")


# --- No verdict without numbers -------------------------------------------------------------------------------------


def test_without_counters_nothing_is_decided_and_it_goes_on_by_itself() -> None:
    cluster = serving()
    new = changed(cluster)
    cluster.run(60, until="CanaryStep")
    for router in cluster.routers.values():
        router.answers = False
    cluster.run(10, until="MetricsUnavailable")
    cluster.run(600)
    assert cluster.verdict(new)[0] == "Unproven"
    assert cluster.world.selected != new
    for router in cluster.routers.values():
        router.answers = True
    cluster.run(10)
    assert cluster.world.says("Ready") != ("Unknown", "MetricsUnavailable")
    assert ("Held", "MetricsUnavailable") in decisions(cluster)
    assert {action for action, _ in decisions(cluster)} <= {"Held", "Resumed"}
    cluster.run(300, until="Serving")


def test_too_little_traffic_holds_with_what_is_still_needed() -> None:
    cluster = serving()
    cluster.rate = 1
    new = changed(cluster)
    cluster.run(120, until="InsufficientTraffic")
    assert " requests seen, 0 failed" in cluster.world.message()
    assert f'"promote {new}"' in cluster.world.message()
    cluster.run(600)
    assert cluster.verdict(new)[0] == "Unproven"
    assert cluster.world.says("Progressing") == ("Unknown", "InsufficientTraffic")


def test_with_synthetic_traffic_routers_are_told_to_ask_golden_requests() -> None:
    cluster = serving(rollout={**CANARY, "onInsufficientTraffic": "Synthetic"})
    cluster.rate = 1
    changed(cluster)
    cluster.run(120, until="InsufficientTraffic")
    cluster.run(3)
    leases = [router.lease for router in cluster.routers.values() if router.lease]
    assert [lease.synthetic_per_second > 0 for lease in leases] == [True]


def test_an_outage_of_both_is_nobodys_fault() -> None:
    cluster = serving()
    old, new = cluster.world.selected, changed(cluster)
    cluster.run(60, until="CanaryStep")
    cluster.bad = {str(old): 0.5, new: 0.5}
    cluster.run(60)
    assert cluster.verdict(new)[0] == "Unproven"


def test_an_operator_that_starts_anew_goes_on_with_the_evidence_that_was_written_down() -> None:
    cluster = serving(rollout={**CANARY, "steps": STEPS})
    new = changed(cluster)
    cluster.run(60, until="CanaryStep")
    cluster.run(60)
    before = cluster.world.status["rollout"]["candidate"]["requests"]
    assert before > 100
    cluster.forget()
    cluster.run(11)
    assert cluster.world.status["rollout"]["candidate"]["requests"] >= before
    cluster.run(300, until="Serving")
    assert cluster.world.selected == new


# --- What people do meanwhile ---------------------------------------------------------------------------------------


def test_another_change_replaces_the_candidate_and_there_are_never_two() -> None:
    cluster = serving()
    first = changed(cluster)
    cluster.run(60, until="CanaryStep")
    cluster.world.change(model=THIRD)
    for _ in range(60):
        cluster.run(1)
        live = [r for r in cluster.world.deployments if r != cluster.world.selected]
        assert len(live) <= 1
    assert first not in cluster.world.deployments
    assert cluster.world.status["candidateRevision"] != first
    cluster.run(300, until="Serving")


def test_going_back_to_stable_ends_the_rollout_without_a_verdict() -> None:
    cluster = serving()
    old, new = cluster.world.selected, changed(cluster)
    cluster.run(60, until="CanaryStep")
    cluster.world.change(model={"uri": worlds.URI, "digest": worlds.PINNED})
    cluster.run(30, until="Serving")
    cluster.run(20)
    assert cluster.world.selected == old
    assert set(cluster.world.deployments) == {old}
    assert cluster.verdict(new) == ("Unproven", "")


def test_a_rejected_revision_stays_rejected_until_a_person_says_retry() -> None:
    cluster = serving()
    new = changed(cluster)
    cluster.run(60, until="CanaryStep")
    cluster.bad[new] = 1.0
    cluster.run(60, until="RevisionRejected")
    cluster.world.scale(2)
    cluster.run(600)
    assert cluster.verdict(new)[0] == "Rejected"
    cluster.bad.clear()
    say(cluster, f"retry {new}")
    cluster.run(400, until="Serving")
    cluster.run(5)
    assert ("Cleared", "RequestedByUser") in decisions(cluster)
    assert cluster.world.selected == new


def test_a_rejection_ends_when_another_wish_was_seen() -> None:
    cluster = serving()
    new = changed(cluster)
    cluster.run(60, until="CanaryStep")
    cluster.bad[new] = 1.0
    cluster.run(60, until="RevisionRejected")
    cluster.run(60)
    cluster.world.change(model={"uri": worlds.URI, "digest": worlds.PINNED})
    cluster.run(60, until="Serving")
    assert cluster.verdict(new)[0] == "Unproven"
    cluster.bad.clear()
    cluster.world.change(model=NEXT)
    cluster.run(60, until="CanaryStep")


def test_abort_rejects_the_candidate() -> None:
    cluster = serving()
    old, new = cluster.world.selected, changed(cluster)
    cluster.run(60, until="CanaryStep")
    say(cluster, f"abort {new}")
    cluster.run(10, until="RevisionRejected")
    assert cluster.verdict(new) == ("Rejected", "RequestedByUser")
    assert cluster.world.selected == old
    assert ("Aborted", "RequestedByUser") in decisions(cluster)


def test_pause_holds_for_as_long_as_it_is_there() -> None:
    cluster = serving(rollout={**CANARY, "steps": STEPS})
    new = changed(cluster)
    cluster.run(60, until="CanaryStep")
    say(cluster, f"pause {new}")
    cluster.run(400)
    assert cluster.world.says("Progressing") == ("Unknown", "Paused")
    assert cluster.world.status["rollout"]["step"] == 1
    cluster.world.annotations = {}
    cluster.run(300, until="Serving")


@pytest.mark.parametrize("text", ["promote 0000000000", "abort 0000000000", "jump", "retry 0000000000", "rollback 0"])
def test_what_is_not_understood_does_nothing_but_a_warning(text: str) -> None:
    cluster = serving()
    say(cluster, text)
    cluster.run(30)
    assert cluster.world.says("Ready") == ("True", "Serving")
    assert [event.reason for event in cluster.world.events].count("ActionIgnored") == 1


def test_a_suspended_model_deployment_changes_nothing() -> None:
    cluster = serving()
    before = dict(cluster.world.children)
    cluster.world.change(suspend=True, model=NEXT)
    cluster.run(60)
    assert cluster.world.children == before
    assert cluster.world.says("Ready") == ("Unknown", "Suspended")
    assert cluster.world.status["observedGeneration"] == cluster.world.generation
    cluster.world.change(suspend=False)
    cluster.run(300, until="Serving")


def test_refresh_looks_at_the_uri_again() -> None:
    world = worlds.model_deployment(digest=None)
    world.spec["rollout"] = {"strategy": "Immediate"}
    cluster = Cluster(world)
    cluster.step()
    world.end_job(world.jobs[0], {"result": "Resolved", "digest": worlds.PINNED})
    cluster.run(60, until="Serving")
    old = world.selected
    world.annotations = {labels.REFRESH: "2"}
    cluster.run(10)
    [job] = [name for name in world.jobs if not world.children["Job", name]["status"]]
    world.end_job(job, {"result": "Resolved", "digest": worlds.OTHER})
    cluster.run(60, until="Serving")
    assert world.selected != old
    assert world.status["model"]["digest"] == worlds.OTHER
    assert world.status["lastHandledRefresh"] == "2"
    cluster.run(60)
    assert world.status["model"]["digest"] == worlds.OTHER


# --- Small things that would be large -------------------------------------------------------------------------------


def test_a_pod_that_restarted_before_it_was_ready_is_not_held_against_its_revision() -> None:
    cluster = serving()
    cluster.world.change(model=NEXT)
    cluster.step()
    new = str(cluster.world.status["candidateRevision"])
    cluster.never_ready.add(new)
    cluster.world.pods.pop(f"wine-{new}")
    cluster.run(5)
    cluster.restart(new)
    cluster.run(5)
    [pod] = cluster.world.pods[f"wine-{new}"]
    cluster.world.pods[f"wine-{new}"] = [replace(pod, ready=True, ready_since=cluster.world.now)]
    cluster.run(60, until="CanaryStep")
    cluster.restart(new, restarts=2)
    cluster.run(10, until="RevisionRejected")


def test_while_suspended_nothing_that_is_said_is_heard_and_it_is_heard_once_afterwards() -> None:
    cluster = serving()
    new = changed(cluster)
    cluster.run(60, until="CanaryStep")
    cluster.bad[new] = 1.0
    cluster.run(60, until="RevisionRejected")
    cluster.run(60)
    cluster.world.change(suspend=True)
    say(cluster, f"retry {new}")
    heard, writes = len(cluster.world.events), cluster.world.status_writes
    cluster.run(60)
    assert len(cluster.world.events) <= heard + 1  # Held: Suspended
    assert cluster.world.status_writes <= writes + 1
    cluster.bad.clear()
    cluster.world.change(suspend=False)
    cluster.run(60, until="CanaryStep")
    assert decisions(cluster).count(("Cleared", "RequestedByUser")) == 1


def test_a_candidate_that_another_wish_replaces_is_told_as_superseded() -> None:
    cluster = serving()
    first = changed(cluster)
    cluster.run(60, until="CanaryStep")
    cluster.world.change(model=THIRD)
    cluster.run(30)
    superseded = [d for d in cluster.world.status["decisions"] if d["action"] == "Superseded"]
    assert [each["fromRevision"] for each in superseded] == [first]


def test_what_was_counted_stays_visible_while_counters_cannot_be_read() -> None:
    cluster = serving()
    changed(cluster)
    cluster.run(60, until="CanaryStep")
    cluster.run(20)
    before = cluster.world.status["rollout"]["candidate"]["requests"]
    for router in cluster.routers.values():
        router.answers = False
    cluster.run(20, until="MetricsUnavailable")
    assert cluster.world.status["rollout"]["candidate"]["requests"] >= before > 0
    assert cluster.world.status["rollout"]["weightPercent"] == 10


def test_pause_holds_before_the_promotion_too() -> None:
    cluster = serving(rollout={"strategy": "Manual"})
    new = changed(cluster)
    cluster.run(90, until="AwaitingPromotion")
    say(cluster, f"promote {new}")
    cluster.step()
    say(cluster, f"pause {new}")
    cluster.run(60)
    assert cluster.world.says("Progressing") == ("Unknown", "Paused")
    assert cluster.world.selected != new
    cluster.world.annotations = {}
    cluster.run(60, until="Serving")
    assert cluster.world.selected == new


def test_a_manual_rollout_of_a_service_at_rest_waits_for_its_person() -> None:
    cluster = serving(rollout={"strategy": "Manual", "shadow": {"percent": 100, "minSeconds": 10}})
    cluster.world.scale(0)
    cluster.run(10)
    new = changed(cluster)
    cluster.run(60, until="AwaitingPromotion")
    say(cluster, f"promote {new}")
    cluster.run(60, until="Serving")


def test_a_longer_deadline_is_waited_for() -> None:
    world = worlds.model_deployment()
    world.spec["rollout"] = {"progressDeadlineSeconds": 1800}
    world.converge()
    world.wait(700)
    world.converge()
    assert world.condition("Stalled") is None
    world.wait(1200)
    world.converge()
    assert world.says("Stalled") == ("True", "ProgressDeadlineExceeded")
    assert "1800 s" in world.message()
