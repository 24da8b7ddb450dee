"""ModelDeployment: what is done and what is said, story by story."""

from collections.abc import Callable
from typing import Any

import pytest
from tests.unit.plan import worlds
from tests.unit.plan.world import World

from holdfast.api.modeldeployment import ModelDeploymentReason as Reason
from holdfast.api.modeldeployment import ModelDeploymentStatus
from holdfast.plan.observed import Apply, Settings, TrainingOutput

OOM = {"exit_code": 137, "restarts": 1, "termination_reason": "OOMKilled"}
CRASH = {"exit_code": 1, "restarts": 3, "termination_message": "Traceback\nValueError: no"}
NO_IMAGE = {"phase": "Pending", "waiting_reason": "ImagePullBackOff", "waiting_message": "no such image"}
NO_NODE = {"phase": "Pending", "unschedulable": "0/3 nodes"}


def report(reason: str, message: str, code: int = 3) -> dict[str, Any]:
    text = f'{{"reason": "{reason}", "message": "{message}"}}'
    return {"exit_code": code, "restarts": 1, "termination_message": text}


def candidate_of(world: World) -> str:
    found: str = world.status["candidateRevision"]
    return found


def in_trouble(world: World, **pod: Any) -> World:
    """The wanted revision's pod is like this, for longer than most need."""
    world.step()
    world.pod_says(f"wine-{candidate_of(world)}", **pod)
    world.ready(candidate_of(world), ready=False)
    world.pod_says(f"wine-{candidate_of(world)}", **pod)
    world.wait(6)
    world.converge()
    return world


def resolve_failed(reason: str, code: int = 3) -> World:
    world = worlds.model_deployment(digest=None)
    world.step()
    world.end_job(world.jobs[0], {"reason": reason, "message": "words"}, failed="PodFailurePolicy", code=code)
    world.converge()
    return world


def referring(state: Any, **given: Any) -> World:
    world = worlds.model_deployment()
    world.change(model={"trainingJobRef": {"name": "run"}})
    world.training = TrainingOutput("run", state, **given)
    world.converge()
    return world


# --- Every reason ---------------------------------------------------------------------------------------------------


def with_config_map_missing() -> World:
    reference = {"configMapKeyRef": {"name": "settings", "key": "level"}}
    world = worlds.model_deployment(env=[{"name": "LOG_LEVEL", "valueFrom": reference}])
    world.converge()
    return world


def with_claim_missing() -> World:
    world = worlds.model_deployment()
    world.missing_claims = {"models"}
    return in_trouble(world, phase="Pending", unschedulable='persistentvolumeclaim "models" not found')


def with_quota() -> World:
    world = worlds.model_deployment()
    world.refused["Service", "wine"] = "exceeded quota: services"
    world.converge()
    return world


def with_pods_refused() -> World:
    world = worlds.model_deployment()
    world.step()
    [deployment] = world.deployments.values()
    deployment["status"]["conditions"] = [{"type": "ReplicaFailure", "status": "True", "message": "exceeded quota"}]
    world.converge()
    return world


def without_account() -> World:
    world = worlds.model_deployment(serviceAccountName="wine")
    world.step()
    [deployment] = world.deployments.values()
    deployment["status"]["conditions"] = [{"type": "ReplicaFailure", "status": "True", "message": NO_ACCOUNT}]
    world.converge()
    return world


def after_deadline() -> World:
    world = worlds.model_deployment()
    world.step()
    [deployment] = world.deployments.values()
    condition = {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}
    deployment["status"]["conditions"] = [condition]
    world.converge()
    return world


def with_name_taken() -> World:
    world = worlds.model_deployment()
    world.foreign = {("Service", "wine")}
    world.converge()
    return world


def promoting() -> World:
    world = worlds.serving()
    world.change(model={"uri": worlds.URI, "digest": worlds.OTHER})
    world.step()
    world.ready()
    world.step()
    return world


def scaling() -> World:
    world = worlds.serving()
    world.scale(3)
    world.converge()
    return world


def losing_pods() -> World:
    world = worlds.serving()
    world.ready(ready=False)
    world.step()
    world.pod_says(f"wine-{world.selected}", **CRASH)
    world.wait(6)
    world.converge()
    return world


def starting() -> World:
    world = worlds.model_deployment()
    world.converge()
    return world


def resolving() -> World:
    world = worlds.model_deployment(digest=None)
    world.converge()
    return world


def crashing(pod: dict[str, Any]) -> Callable[[], World]:
    return lambda: in_trouble(worlds.model_deployment(), **pod)


REASONS: dict[str, tuple[Callable[[], World], str, str | None, str]] = {
    # reason: (how it comes, Ready, Reconciling or Stalled, words in the message)
    "Serving": (worlds.serving, "True", None, "serves pvc://models/wine/1 (sha256:aaaaaaaa…) at http://wine.team.svc"),
    "Starting": (starting, "Unknown", "Reconciling", "0 of 1 pods ready"),
    "Resolving": (resolving, "Unknown", "Reconciling", "finding out what pvc://models/wine/1 is"),
    "Promoting": (promoting, "Unknown", "Reconciling", "takes over"),
    "Scaling": (scaling, "Unknown", "Reconciling", "1 of 3 pods ready"),
    "PodsNotReady": (losing_pods, "False", None, "0 of 1 pods ready; CrashLoop: pod"),
    "WaitingForTrainingJob": (
        lambda: referring("Running", message="it runs"), "Unknown", "Reconciling", "run has no output yet: it runs"),
    "TrainingJobNotFound": (lambda: referring("Missing"), "False", "Reconciling", "does not exist in this namespace"),
    "TrainingJobFailed": (lambda: referring("Failed", message="no data"), "False", "Stalled", "failed: no data"),
    "ModelNotFound": (lambda: resolve_failed("ModelNotFound", 1), "False", "Stalled", "words; it is tried again"),
    "ModelAccessDenied": (lambda: resolve_failed("ModelAccessDenied", 1), "False", "Stalled", "words"),
    "ModelUnreachable": (lambda: resolve_failed("ModelUnreachable", 1), "False", "Stalled", "words"),
    "AddressRefused": (lambda: resolve_failed("AddressRefused"), "False", "Stalled", "words"),
    "ModelInvalid": (lambda: resolve_failed("ModelInvalid"), "False", "Stalled", "pvc://models/wine/1: words"),
    "DigestMismatch": (crashing(report("DigestMismatch", "other content")), "False", "Stalled", "other content"),
    "ConfigMapNotFound": (with_config_map_missing, "False", "Reconciling", "settings with key level"),
    "SecretNotFound": (
        crashing(report("SecretNotFound", "Secret a does not exist", 1)), "False", "Reconciling", "Secret a does not"),
    "ServiceAccountNotFound": (without_account, "False", "Reconciling", "ServiceAccount wine does not exist"),
    "SecretInvalid": (crashing(report("SecretInvalid", "Secret a: bad", 1)), "False", "Reconciling", "Secret a: bad"),
    "ClaimNotFound": (with_claim_missing, "False", "Reconciling", "PersistentVolumeClaim models does not exist"),
    "ImagePullFailed": (crashing(NO_IMAGE), "False", "Reconciling", "no such image"),
    "Unschedulable": (crashing(NO_NODE), "False", "Reconciling", "0/3 nodes"),
    "QuotaExceeded": (with_quota, "False", "Reconciling", "exceeded quota: services"),
    "CrashLoop": (crashing(CRASH), "False", "Reconciling", "ValueError: no"),
    "OutOfMemory": (crashing(OOM), "False", "Reconciling", "raise resources"),
    "ProgressDeadlineExceeded": (after_deadline, "False", "Stalled", "0 of 1 pods ready after 600 s"),
    "NameConflict": (with_name_taken, "False", "Stalled", "belongs to Deployment web"),
}  # fmt: skip


def test_the_table_knows_every_reason_of_ready() -> None:
    others = {Reason.COMPLETE, Reason.NO_READY_PODS, Reason.SCALED_TO_ZERO, Reason.NEVER_SERVED}
    assert set(REASONS) == set(Reason) - others - ELSEWHERE


ELSEWHERE = {
    Reason.SMOKE_TESTING, Reason.SHADOWING, Reason.CANARY_STEP, Reason.ROLLING_BACK, Reason.INSUFFICIENT_TRAFFIC,
    Reason.METRICS_UNAVAILABLE, Reason.PAUSED, Reason.AWAITING_PROMOTION, Reason.SUSPENDED, Reason.REVISION_REJECTED,
    Reason.ROLLBACK_INEFFECTIVE, Reason.WITHIN_BUDGET, Reason.FAST_BURN, Reason.SLOW_BURN, Reason.BUDGET_SPENT,
    Reason.PROMETHEUS_NOT_CONFIGURED, Reason.ACTION_IGNORED, Reason.NO_DRIFT, Reason.FEATURE_DRIFT,
    Reason.PREDICTION_DRIFT, Reason.UPSTREAM_FAULT, Reason.DRIFT_PERSISTENT, Reason.WITHIN_TOLERANCE,
    Reason.ESTIMATED_DROP, Reason.MEASURED_DROP, Reason.INSUFFICIENT_DATA, Reason.INSUFFICIENT_REFERENCE,
    Reason.NO_PROFILE, Reason.NOT_CALIBRATED, Reason.SETTLING,
    Reason.CHECKING_DATA, Reason.QUEUED, Reason.TRAINING, Reason.EVALUATING, Reason.ROLLING_OUT, Reason.IDLE,
    Reason.COOLING_DOWN, Reason.NO_NEW_DATA, Reason.TRAINING_FAILED, Reason.GATE_FAILED, Reason.ROLLOUT_REJECTED,
    Reason.BREAKER_OPEN, Reason.SCHEDULE_INVALID, Reason.FIRST_TRAINING_FAILED,
}  # fmt: skip
"""Of rollouts, objectives and monitoring: test_rollout.py, test_slo.py, test_monitoring.py and test_retraining.py."""


@pytest.mark.parametrize("reason", REASONS)
def test_every_reason_comes_with_its_status_and_words(reason: str) -> None:
    make, ready, kstatus, words = REASONS[reason]
    world = make()
    assert world.says("Ready") == (ready, reason)
    assert words in world.message()
    for type_ in ("Reconciling", "Stalled"):
        assert world.says(type_) == (("True", reason) if type_ == kstatus else None)
    progressing = {"Stalled": ("False", reason), "Reconciling": ("True", reason), None: ("False", "Complete")}
    assert world.says("Progressing") == progressing[kstatus]
    ModelDeploymentStatus.parse(world.status)


def test_a_helper_that_still_tries_is_reconciling_and_becomes_stalled_when_it_gives_up() -> None:
    world = worlds.model_deployment(digest=None)
    world.step()
    [job] = world.jobs
    world.pod_says(job, phase="Failed", **report("ModelUnreachable", "timeout", code=1))
    world.children["Job", job]["status"] = {"failed": 1, "active": 1}
    world.converge()
    assert world.says("Reconciling") == ("True", "ModelUnreachable")
    world.end_job(job, {"reason": "ModelUnreachable", "message": "timeout"}, failed="BackoffLimitExceeded", code=1)
    world.converge()
    assert world.says("Stalled") == ("True", "ModelUnreachable")
    job_is_gone(world)
    world.converge()
    assert len(world.jobs) == 1
    assert world.says("Stalled") == ("True", "ModelUnreachable")


@pytest.mark.parametrize(("kind", "replicas"), [("Deployment", 1), ("Service", 1), ("PodDisruptionBudget", 2)])
def test_a_child_that_the_api_server_refuses_is_told_in_its_words(kind: str, replicas: int) -> None:
    world = worlds.model_deployment(replicas=replicas)
    world.converge()
    [key] = [key for key in world.children if key[0] == kind]
    del world.children[key]
    world.refused[key] = "exceeded quota"
    world.ready()
    world.converge()
    assert world.says("Ready") == ("False", "QuotaExceeded")
    assert world.message() == "exceeded quota"


def test_pods_that_are_refused_are_told_in_the_api_servers_words() -> None:
    world = with_pods_refused()
    assert world.says("Ready") == ("False", "QuotaExceeded")


@pytest.mark.parametrize("reason", [r for r, row in REASONS.items() if row[1] == "False"])
def test_whatever_is_wrong_is_still_wrong_and_stalled_after_the_deadline(reason: str) -> None:
    world = REASONS[reason][0]()
    heard = len(world.events)
    for _ in range(70):
        world.wait(10)
        world.step()
        assert world.says("Ready") == ("False", reason)
    if reason != "PodsNotReady":
        assert world.says("Stalled") == ("True", reason)
    assert len(world.events) == heard


def test_a_run_that_may_come_later_in_the_same_apply_is_no_warning() -> None:
    assert [(event.type, event.reason) for event in referring("Missing").events] == [("Normal", "TrainingJobNotFound")]
    assert [event.type for event in referring("Failed", message="no data").events] == ["Warning"]


def test_a_run_is_waited_for_without_ever_being_stalled() -> None:
    world = referring("Running", message="it runs")
    world.wait(86400)
    world.converge()
    assert world.says("Ready") == ("Unknown", "WaitingForTrainingJob")
    assert world.says("Stalled") is None


# --- Who fetches ----------------------------------------------------------------------------------------------------

NO_ACCOUNT = 'pods "wine-" is forbidden: error looking up service account team/wine: serviceaccount "wine" not found'
NO_ACCOUNT_WORDS = "ServiceAccount wine does not exist in this namespace; create it"


def from_store(**serving: Any) -> World:
    return worlds.model_deployment("s3://models/wine", None, **serving)


def test_another_secret_or_account_asks_anew_and_makes_a_revision() -> None:
    world = from_store(storageSecretRef={"name": "old"})
    world.converge()
    [job] = world.jobs
    asked = world.children["Job", job]["uid"]
    world.change(serving={"replicas": 1, "storageSecretRef": {"name": "new"}})
    world.converge()
    assert world.jobs == [job]
    assert world.children["Job", job]["uid"] != asked
    world.end_job(job, {"digest": worlds.PINNED})
    world.converge()
    world.ready()
    world.converge()
    first = world.selected
    world.change(serving={"replicas": 1, "storageSecretRef": {"name": "new"}, "serviceAccountName": "wine"})
    world.converge()
    assert candidate_of(world) != first


def test_how_far_a_fetch_is_stands_in_the_message() -> None:
    world = from_store()
    world.converge()
    [job] = world.jobs
    world.pod_says(job, doing="fetched 1.0 of 4.0 MiB (25 %)")
    world.wait(6)
    world.converge()
    assert world.says("Ready") == ("Unknown", "Resolving")
    assert world.message() == f"finding out what s3://models/wine is (Job {job}); fetched 1.0 of 4.0 MiB (25 %)"
    assert world.message("Progressing") == world.message()
    world.end_job(job, {"digest": worlds.PINNED})
    world.converge()
    [name] = [child for kind, child in world.children if kind == "Deployment"]
    world.children["Deployment", name]["status"] = {"replicas": 1, "readyReplicas": 0}
    world.pod_says(name, doing="fetched 2.0 of 4.0 MiB (50 %)")
    world.wait(6)
    world.converge()
    assert world.says("Ready") == ("Unknown", "Starting")
    assert world.message().endswith("0 of 1 pods ready; fetched 2.0 of 4.0 MiB (50 %)")


def test_a_missing_cache_is_said_of_the_helper_and_of_the_revision() -> None:
    for world in (
        from_store(cacheClaimRef={"name": "cache"}),
        worlds.model_deployment(cacheClaimRef={"name": "cache"}),
    ):
        world.change(model={**world.spec["model"], "uri": "s3://models/wine"})
        world.missing_claims = {"cache"}
        world.converge()
        for deployment in world.deployments.values():
            deployment["status"] = {"replicas": 1, "readyReplicas": 0}
        world.wait(6)
        world.converge()
        assert world.says("Ready") == ("False", "ClaimNotFound")
        assert "PersistentVolumeClaim cache does not exist" in world.message()


@pytest.mark.parametrize(
    ("words", "reason", "message"),
    [(NO_ACCOUNT, "ServiceAccountNotFound", NO_ACCOUNT_WORDS), ("exceeded quota", "QuotaExceeded", "exceeded quota")],
)
def test_a_helper_that_may_not_have_a_pod_says_why(words: str, reason: str, message: str) -> None:
    world = from_store(serviceAccountName="wine")
    world.converge()
    [job] = world.jobs
    world.refusals[job] = words
    world.wait(6)
    world.converge()
    assert world.says("Ready") == ("False", reason)
    assert message in world.message()
    assert world.says("Reconciling") == ("True", reason)
    del world.refusals[job]
    world.end_job(job, {"digest": worlds.PINNED})
    world.converge()
    assert world.says("Ready") == ("Unknown", "Starting")


# --- TLS ------------------------------------------------------------------------------------------------------------


def service_ports(world: World) -> list[tuple[str, int]]:
    return [(port["targetPort"], port["port"]) for port in world.children["Service", "wine"]["spec"]["ports"]]


def test_a_model_with_a_certificate_is_served_on_the_port_of_https() -> None:
    world = worlds.serving(tls={"secretRef": {"name": "wine-tls"}, "clientAuth": "None"})
    assert service_ports(world) == [("https", 443), ("grpcs", 9000)]
    assert world.status["url"] == "https://wine.team.svc"
    assert "at https://wine.team.svc" in world.message()


@pytest.mark.parametrize("on", [True, False])
def test_the_service_changes_its_port_with_its_revision_and_not_before(on: bool) -> None:
    tls = {"tls": {"secretRef": {"name": "wine-tls"}, "clientAuth": "None"}}
    plain = [("http", 80), ("grpc", 9000)], "http://wine.team.svc"
    secured = [("https", 443), ("grpcs", 9000)], "https://wine.team.svc"
    before, after = (plain, secured) if on else (secured, plain)
    world = worlds.serving(**({} if on else tls))
    old = world.selected
    world.change(serving={"replicas": 1, **(tls if on else {})})
    world.converge()
    assert (service_ports(world), world.status["url"]) == before
    world.ready()
    world.converge()
    assert world.selected != old
    assert (service_ports(world), world.status["url"]) == after


def test_who_may_be_a_client_makes_a_revision_and_a_default_that_is_spelt_out_does_not() -> None:
    world = worlds.serving(tls={"secretRef": {"name": "wine-tls"}})
    first = world.selected
    world.change(serving={"replicas": 1, "tls": {"secretRef": {"name": "wine-tls"}, "clientAuth": "None"}})
    world.converge()
    assert "candidateRevision" not in world.status
    world.change(serving={"replicas": 1, "tls": {"secretRef": {"name": "wine-tls"}, "clientAuth": "Required"}})
    world.converge()
    assert candidate_of(world) != first


# --- Availability ---------------------------------------------------------------------------------------------------


def test_available_says_whether_a_request_is_answered_now() -> None:
    world = worlds.model_deployment()
    world.step()
    assert world.says("Available") == ("False", "NeverServed")
    world.ready()
    world.converge()
    assert world.says("Available") == ("True", "Serving")
    world.ready(ready=False)
    world.converge()
    assert world.says("Available") == ("False", "NoReadyPods")


def test_scaled_to_zero_and_up_again() -> None:
    world = worlds.serving()
    revision = world.selected
    world.scale(0)
    world.step()
    world.ready()
    world.converge()
    assert world.says("Ready") == ("True", "Serving")
    assert world.says("Available") == ("False", "ScaledToZero")
    world.scale(2)
    world.converge()
    assert world.says("Ready") == ("Unknown", "Scaling")
    world.ready()
    world.converge()
    assert world.says("Ready") == ("True", "Serving")
    assert world.selected == revision
    assert world.status["readyReplicas"] == 2


def test_a_service_that_scales_to_zero_proves_its_next_model_by_one_pod() -> None:
    world = worlds.serving()
    old = world.selected
    world.scale(0)
    world.step()
    world.ready()
    world.converge()
    world.change(model={"uri": worlds.URI, "digest": worlds.OTHER})
    world.converge()
    new = candidate_of(world)
    assert world.deployments[new]["spec"]["replicas"] == 1
    assert world.deployments[str(old)]["spec"]["replicas"] == 0
    assert world.selected == old
    world.ready()
    world.converge()
    assert world.selected == new
    assert world.deployments[new]["spec"]["replicas"] == 0
    world.ready()
    world.converge()
    assert world.says("Available") == ("False", "ScaledToZero")


def test_one_ready_pod_of_a_first_revision_is_traffic_that_nobody_takes_away() -> None:
    world = worlds.model_deployment(replicas=2)
    world.step()
    first = world.selected
    world.deployments[str(first)]["status"] = {"replicas": 2, "readyReplicas": 1}
    world.converge()
    assert world.says("Available") == ("True", "Serving")
    assert world.says("Ready") == ("Unknown", "Starting")
    assert world.status["stableRevision"] == first
    world.change(model={"uri": worlds.URI, "digest": worlds.OTHER})
    world.converge()
    assert world.selected == first
    assert len(world.deployments) == 2


def test_pods_that_are_lost_are_no_scaling_and_come_back_without_us() -> None:
    world = worlds.serving(replicas=2)
    [deployment] = world.deployments.values()
    deployment["status"]["readyReplicas"] = 1
    world.step()
    assert world.says("Ready") == ("False", "PodsNotReady")
    assert world.says("Progressing") == ("False", "Complete")
    assert world.says("Available") == ("True", "Serving")
    world.ready()
    world.converge()
    assert world.says("Ready") == ("True", "Serving")


def test_new_pods_that_find_no_place_are_told_in_the_schedulers_words() -> None:
    world = worlds.serving()
    world.scale(2)
    world.converge()
    [deployment] = world.deployments.values()
    deployment["status"] = {"replicas": 2, "readyReplicas": 1}
    world.pod_says(f"wine-{world.selected}", **NO_NODE)
    world.wait(6)
    world.converge()
    assert world.says("Ready") == ("False", "PodsNotReady")
    assert "1 of 2 pods ready; Unschedulable: 0/3 nodes" in world.message()


def test_an_autoscaler_makes_no_events() -> None:
    world = worlds.serving()
    heard = len(world.events)
    for replicas in (3, 2, 5, 1):
        world.scale(replicas)
        world.converge()
        world.ready()
        world.converge()
    assert world.says("Ready") == ("True", "Serving")
    assert len(world.events) == heard


# --- Revisions ------------------------------------------------------------------------------------------------------


def test_a_new_model_takes_over_only_when_all_its_pods_are_ready() -> None:
    world = worlds.serving(replicas=2)
    old = world.selected
    world.change(model={"uri": worlds.URI, "digest": worlds.OTHER})
    world.converge()
    new = candidate_of(world)
    assert world.selected == old
    world.deployments[new]["status"] = {"replicas": 2, "readyReplicas": 1}
    world.converge()
    assert world.selected == old
    world.ready(new)
    world.converge()
    assert world.selected == new
    assert set(world.deployments) == {old, new}
    assert world.status["previousRevision"] == old
    assert (
        world.children["PodDisruptionBudget", "wine"]["spec"]["selector"]["matchLabels"]["holdfast.dev/revision"] == new
    )
    assert "candidateRevision" not in world.status


def test_the_revision_that_was_replaced_stays_warm_then_rests_then_leaves_its_record() -> None:
    world = worlds.serving(replicas=2)
    old = str(world.selected)
    world.wait(5)  # what takes over in the same second is told apart by one more
    world.change(model={"uri": worlds.URI, "digest": worlds.OTHER})
    world.converge()
    world.ready()
    world.converge()
    world.wait(599)
    world.converge()
    assert world.deployments[old]["spec"]["replicas"] == 2
    world.wait(1)
    world.converge()
    assert world.deployments[old]["spec"]["replicas"] == 0
    assert world.status["previousRevision"] == old
    world.wait(86400)
    world.converge()
    assert set(world.deployments) == {world.selected}
    assert ("ControllerRevision", f"wine-{old}") in world.children
    assert "previousRevision" not in world.status


def test_a_budget_is_there_from_two_replicas_on_and_gone_below() -> None:
    world = worlds.serving(replicas=2)
    assert ("PodDisruptionBudget", "wine") in world.children
    world.scale(1)
    world.step()
    assert ("PodDisruptionBudget", "wine") not in world.children


def test_orphans_are_taken_over_by_a_new_owner_as_they_are() -> None:
    world = worlds.serving(replicas=2)
    [before] = world.deployments.items()
    world.uid, world.status, world.generation = "another-uid", {}, 1
    world.converge()
    [after] = world.deployments.items()
    assert after[0] == before[0]
    assert after[1]["uid"] == before[1]["uid"]
    for (kind, _), child in world.children.items():
        if kind == "ControllerRevision":
            continue  # needs no apply: the edge adopts it as it is
        [owner] = child["metadata"]["ownerReferences"]
        assert owner["uid"] == "another-uid"
    assert world.says("Ready") == ("True", "Serving")


def test_the_stable_revision_serves_on_while_its_successor_fails() -> None:
    world = worlds.serving()
    old = world.selected
    world.change(model={"uri": worlds.URI, "digest": worlds.OTHER})
    in_trouble(world, **report("DigestMismatch", "other content"))
    assert world.says("Stalled") == ("True", "DigestMismatch")
    assert world.says("Available") == ("True", "Serving")
    assert world.selected == old
    assert world.status["stableRevision"] == old


def test_going_back_to_what_serves_drops_the_candidate() -> None:
    world = worlds.serving()
    old = world.selected
    world.change(model={"uri": worlds.URI, "digest": worlds.OTHER})
    in_trouble(world, **CRASH)
    world.change(model={"uri": worlds.URI, "digest": worlds.PINNED})
    world.converge()
    assert set(world.deployments) == {old}
    assert world.says("Ready") == ("True", "Serving")


def test_a_candidate_that_nobody_wants_any_more_goes_before_the_next_one_needs_its_place() -> None:
    world = worlds.serving()
    old = world.selected
    world.change(model={"uri": worlds.URI, "digest": worlds.OTHER})
    world.converge()
    abandoned = candidate_of(world)
    world.change(model={"uri": "pvc://models/wine/2", "digest": worlds.OTHER})
    kinds = [type(write).__name__ for write in world.plan().writes]
    assert kinds == ["Apply", "Apply", "Delete"]  # what serves, its Service, what is abandoned
    world.converge()
    assert set(world.deployments) == {old, candidate_of(world)}
    assert abandoned not in world.deployments


def test_a_first_revision_that_never_was_ready_makes_way_for_the_next() -> None:
    world = in_trouble(worlds.model_deployment(), **CRASH)
    first = world.selected
    world.change(model={"uri": worlds.URI, "digest": worlds.OTHER})
    world.converge()
    assert world.selected != first
    assert set(world.deployments) == {world.selected}
    world.ready()
    world.converge()
    assert world.says("Ready") == ("True", "Serving")


def test_a_revision_that_served_keeps_the_service_though_its_pods_are_down() -> None:
    world = worlds.serving()
    old = world.selected
    world.ready(ready=False)
    world.converge()
    world.change(model={"uri": worlds.URI, "digest": worlds.OTHER})
    world.converge()
    assert world.selected == old


def test_replicas_raised_while_a_candidate_starts_reach_both() -> None:
    world = worlds.serving()
    world.change(model={"uri": worlds.URI, "digest": worlds.OTHER})
    world.converge()
    world.ready()  # one pod of each
    world.scale(3)
    world.step()
    assert {child["spec"]["replicas"] for child in world.deployments.values()} == {3}
    assert world.selected == world.status["stableRevision"]
    assert world.says("Ready") == ("Unknown", "Starting")


def test_of_two_revisions_for_the_same_wish_the_one_that_serves_stays() -> None:
    world = worlds.serving()
    stable = world.selected
    world.settings = Settings("localhost/serving:2", "localhost/training:1")
    twin = worlds.model_deployment()
    twin.settings = world.settings
    twin.step()
    twin.ready()
    [(key, child)] = [item for item in twin.children.items() if item[0][0] == "Deployment"]
    world.children = {key: {**child, "uid": "uid-of-twin"}, **world.children}
    world.converge()
    assert list(world.deployments) == [stable] == [world.selected]


def test_scaling_makes_no_revision_and_resources_make_one() -> None:
    world = worlds.serving()
    world.scale(2)
    world.converge()
    assert len(world.deployments) == 1
    world.change(serving={"replicas": 2, "resources": {"requests": {"cpu": "0.5"}}})
    world.converge()
    assert len(world.deployments) == 2


def test_the_same_quantity_written_otherwise_makes_no_revision() -> None:
    world = worlds.serving(resources={"requests": {"cpu": "0.5"}})
    world.change(serving={"replicas": 1, "resources": {"requests": {"cpu": "500m"}}})
    world.converge()
    assert len(world.deployments) == 1
    assert world.says("Ready") == ("True", "Serving")


def test_an_upgraded_operator_restarts_nothing_and_still_scales() -> None:
    world = worlds.serving()
    [before] = [child["spec"]["template"] for child in world.deployments.values()]
    world.settings = Settings("localhost/serving:2", "localhost/training:2", "Always")
    world.scale(2)
    world.step()
    world.ready()
    world.converge()
    assert [child["spec"]["template"] for child in world.deployments.values()] == [before]
    assert world.says("Ready") == ("True", "Serving")
    assert world.status["model"]["runtimeImage"] == "localhost/serving:1"
    world.change(model={"uri": worlds.URI, "digest": worlds.OTHER})
    world.converge()
    images = {child["spec"]["template"]["spec"]["containers"][0]["image"] for child in world.deployments.values()}
    assert images == {"localhost/serving:1", "localhost/serving:2"}


def test_status_that_was_lost_is_rebuilt_from_the_cluster() -> None:
    world = worlds.serving(digest=worlds.PINNED, replicas=2)
    before = world.status
    world.status = {}
    world.converge()
    assert {**world.status, "conditions": []} == {**before, "conditions": []}


def test_a_service_that_was_deleted_comes_back_to_the_revision_that_served() -> None:
    world = worlds.serving()
    old = world.selected
    world.change(model={"uri": worlds.URI, "digest": worlds.OTHER})
    world.converge()
    del world.children["Service", "wine"]
    world.converge()
    assert world.selected == old


@pytest.mark.parametrize("lost", ["holdfast.dev/intent", "holdfast.dev/model", "both"])
def test_who_serves_is_known_without_our_annotations(lost: str) -> None:
    world = worlds.serving()
    old = world.selected
    world.settings = Settings("localhost/serving:2", "localhost/training:1")
    annotations = world.children["Deployment", f"wine-{old}"]["metadata"]["annotations"]
    for key in ("holdfast.dev/intent", "holdfast.dev/model") if lost == "both" else (lost,):
        del annotations[key]
    world.converge()
    assert world.selected == old
    assert set(world.deployments) == {old}
    assert world.says("Ready") == ("True", "Serving")
    assert world.status["model"]["digest"] == worlds.PINNED


def test_an_image_that_somebody_put_into_a_deployment_is_put_back() -> None:
    world = worlds.serving()
    [deployment] = world.deployments.values()
    drifted = deployment["spec"]["template"]["spec"]["containers"][0]
    drifted["image"] = "example.com/other:1"
    assert Apply(world.applied[f"wine-{world.selected}"]) in world.plan().writes
    assert world.status["model"]["runtimeImage"] == "localhost/serving:1"


@pytest.mark.parametrize("note", ["", "{", "[]", "{}", '{"uri": 1}', '{"uri": "x", "digest": "y", "source": "URI"}'])
def test_a_model_that_status_could_not_hold_is_not_taken_from_an_annotation(note: str) -> None:
    world = worlds.serving()
    world.children["Deployment", f"wine-{world.selected}"]["metadata"]["annotations"]["holdfast.dev/model"] = note
    world.converge()
    assert world.status["model"]["digest"] == worlds.PINNED
    ModelDeploymentStatus.parse(world.status)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"tolerations": [{"key": "gpu"}]}, {"tolerations": [{"key": "gpu", "operator": "Equal", "value": ""}]}),
        ({}, {"resources": {}}),
        ({}, {"resources": {"requests": {}}, "env": [], "nodeSelector": {}, "tolerations": []}),
        ({}, {"requestTimeoutMilliseconds": 10000}),
        (
            {"feedback": {"secretRef": {"name": "a"}}},
            {"feedback": {"secretRef": {"name": "a"}, "clientAuth": "None", "rowsPerMinute": 10000}},
        ),
    ],
)
def test_saying_a_default_aloud_makes_no_revision(before: dict[str, Any], after: dict[str, Any]) -> None:
    world = worlds.serving(**before)
    world.change(serving={"replicas": 1, **after})
    world.converge()
    assert len(world.deployments) == 1
    assert world.says("Ready") == ("True", "Serving")


@pytest.mark.parametrize(
    "serving",
    [
        {"requestTimeoutMilliseconds": 9999},
        {"maxBatchRows": 256},
        {"feedback": {"secretRef": {"name": "a"}}},
    ],
)
def test_another_timeout_batch_size_or_key_makes_a_revision(serving: dict[str, Any]) -> None:
    world = worlds.serving()
    world.change(serving={"replicas": 1, **serving})
    world.converge()
    assert len(world.deployments) == 2


def test_the_name_of_a_revision_never_changes_from_one_operator_to_the_next() -> None:
    """Else an upgrade of the operator would restart every model."""
    world = worlds.serving(
        resources={"requests": {"cpu": "0.5"}},
        nodeSelector={"disk": "ssd"},
        tolerations=[{"key": "gpu", "operator": "Exists"}],
        env=[{"name": "A", "value": "1"}],
    )
    assert world.selected == "292cfffcc9"


def test_a_deployment_that_was_deleted_comes_back_with_the_model_it_had() -> None:
    world = worlds.serving()
    revision = world.selected
    del world.children["Deployment", f"wine-{revision}"]
    world.converge()
    assert set(world.deployments) == {revision}


# --- Models that have to be resolved --------------------------------------------------------------------------------


def resolved(digest: str = worlds.PINNED, uri: str = worlds.URI) -> World:
    world = worlds.model_deployment(uri, None)
    world.step()
    world.end_job(world.jobs[0], {"result": "Resolved", "digest": digest})
    world.converge()
    return world


def job_is_gone(world: World) -> None:
    for job in world.jobs:
        del world.children["Job", job]
        world.pods.pop(job, None)


def test_a_model_is_resolved_once_and_never_again() -> None:
    world = resolved()
    job_is_gone(world)
    world.converge()
    assert world.jobs == []
    world.ready()
    world.converge()
    assert world.says("Ready") == ("True", "Serving")
    world.scale(3)
    world.converge()
    assert world.jobs == []


def registered(where: str, digest: str = worlds.PINNED) -> World:
    world = worlds.model_deployment("models:/wine@champion", None)
    world.step()
    world.end_job(world.jobs[0], {"result": "Resolved", "uri": where, "digest": digest})
    world.converge()
    return world


def test_a_registered_model_is_looked_up_once_and_fetched_from_where_it_lies() -> None:
    world = registered("pvc://outputs/wine/wine-1c7d")
    job_is_gone(world)
    world.ready()
    world.converge()
    assert world.says("Ready") == ("True", "Serving")
    world.scale(3)
    world.converge()
    assert world.jobs == []
    assert world.status["model"]["uri"] == "pvc://outputs/wine/wine-1c7d"
    [deployment] = world.deployments.values()
    pod = deployment["spec"]["template"]["spec"]
    told = {variable["name"]: variable.get("value") for variable in pod["containers"][0]["env"]}
    assert (told["HOLDFAST_MODEL_URI"], told["HOLDFAST_MODEL_DIGEST"]) == (
        "pvc://outputs/wine/wine-1c7d",
        worlds.PINNED,
    )
    assert [v["persistentVolumeClaim"]["claimName"] for v in pod["volumes"] if "persistentVolumeClaim" in v] == [
        "outputs"
    ]


@pytest.mark.parametrize("where", ["models:/wine@champion", "https://elsewhere.example.com/wine", "pvc://a b"])
def test_a_registered_model_without_a_place_is_not_served(where: str) -> None:
    world = registered(where)
    assert world.deployments == {}
    assert world.says("Ready") == ("False", "CrashLoop")


def test_a_candidate_that_was_resolved_is_not_resolved_again_while_it_fails() -> None:
    world = worlds.serving()
    world.change(model={"uri": "pvc://models/wine/2"})
    world.step()
    world.end_job(world.jobs[0], {"result": "Resolved", "digest": worlds.OTHER})
    in_trouble(world, **CRASH)
    job_is_gone(world)
    world.wait(700)
    world.converge()
    assert world.jobs == []
    assert world.says("Stalled") == ("True", "RevisionRejected")
    assert "CrashLoop" in world.message()


def test_a_wrong_digest_that_is_removed_is_not_taken_for_what_is_there() -> None:
    world = in_trouble(worlds.model_deployment(digest=worlds.OTHER), **report("DigestMismatch", "other content"))
    world.change(model={"uri": worlds.URI})
    world.step()
    world.end_job(world.jobs[0], {"result": "Resolved", "digest": worlds.PINNED})
    world.converge()
    world.ready()
    world.converge()
    assert world.status["model"]["digest"] == worlds.PINNED
    assert len(world.deployments) == 1


def test_a_pin_that_is_removed_changes_nothing_of_what_serves() -> None:
    world = worlds.serving()
    world.change(model={"uri": worlds.URI})
    world.converge()
    assert world.says("Ready") == ("True", "Serving")
    assert world.jobs == []


def test_an_answer_that_was_lost_is_asked_for_again() -> None:
    world = worlds.model_deployment(digest=None)
    world.step()
    [job] = world.jobs
    uid = world.children["Job", job]["uid"]
    world.end_job(job, None)
    world.pods.clear()
    world.step()
    world.step()
    assert world.jobs == [job]
    assert world.children["Job", job]["uid"] != uid


@pytest.mark.parametrize("said", [None, {}, {"digest": "latest"}, {"digest": [1]}])
def test_an_answer_that_cannot_be_read_is_not_asked_for_in_a_loop(said: Any) -> None:
    world = worlds.model_deployment(digest=None)
    world.step()
    [job] = world.jobs
    uid = world.children["Job", job]["uid"]
    world.end_job(job, said)
    world.converge()
    assert world.children["Job", job]["uid"] == uid
    assert world.says("Ready") == ("False", "CrashLoop")


def test_a_bad_answer_stands_while_it_is_asked_again() -> None:
    world = resolve_failed("ModelNotFound", 1)
    job_is_gone(world)
    world.converge()
    assert len(world.jobs) == 1
    assert world.says("Ready") == ("False", "ModelNotFound")
    world.end_job(world.jobs[0], {"result": "Resolved", "digest": worlds.PINNED})
    world.converge()
    assert world.says("Ready") == ("Unknown", "Starting")


def test_a_helper_that_cannot_start_says_why() -> None:
    world = worlds.model_deployment(digest=None)
    world.step()
    world.pod_says(world.jobs[0], **NO_NODE)
    world.wait(6)
    world.converge()
    assert world.says("Ready") == ("False", "Unschedulable")


def test_a_helper_that_was_made_for_other_nodes_is_made_anew() -> None:
    world = worlds.model_deployment(digest=None, nodeSelector={"disk": "sdd"})
    world.step()
    [job] = world.jobs
    world.pod_says(job, **NO_NODE)
    world.wait(6)
    world.converge()
    world.change(serving={"replicas": 1, "nodeSelector": {"disk": "ssd"}})
    world.step()
    world.step()
    assert world.jobs == [job]
    assert world.children["Job", job]["spec"]["template"]["spec"]["nodeSelector"] == {"disk": "ssd"}


def test_a_question_that_nobody_asks_any_more_is_withdrawn() -> None:
    world = worlds.model_deployment(digest=None)
    world.step()
    [old] = world.jobs
    world.change(model={"uri": "pvc://models/wine/2"})
    world.converge()
    [new] = world.jobs
    assert new != old


# --- TrainingJobs ---------------------------------------------------------------------------------------------------


def trained(digest: str = worlds.PINNED) -> TrainingOutput:
    return TrainingOutput("run", "Succeeded", f"pvc://models/wine/{digest[-4:]}", digest)


def serving_a_run() -> World:
    world = worlds.model_deployment()
    world.change(model={"trainingJobRef": {"name": "run"}})
    world.training = trained()
    world.step()
    world.ready()
    world.converge()
    return world


def test_the_output_of_a_run_is_served_and_named() -> None:
    world = serving_a_run()
    assert world.says("Ready") == ("True", "Serving")
    assert world.status["model"]["source"] == "TrainingJob"
    assert world.status["model"]["trainingJobName"] == "run"


@pytest.mark.parametrize("later", [None, TrainingOutput("run", "Missing"), TrainingOutput("run", "Failed")])
def test_a_run_whose_output_serves_is_needed_no_more(later: TrainingOutput | None) -> None:
    world = serving_a_run()
    world.training = later
    world.converge()
    assert world.says("Ready") == ("True", "Serving")


def test_a_run_that_is_deleted_while_its_output_starts_is_needed_no_more() -> None:
    world = serving_a_run()
    world.training = trained(worlds.OTHER)
    world.converge()
    new = candidate_of(world)
    world.training = TrainingOutput("run", "Missing")
    world.converge()
    assert candidate_of(world) == new


def test_a_candidate_is_remembered_while_something_stands_in_its_way() -> None:
    world = serving_a_run()
    world.training = trained(worlds.OTHER)
    reference = {"configMapKeyRef": {"name": "settings", "key": "level"}}
    world.config_maps["settings", "level"] = "INFO"
    world.change(serving={"replicas": 1, "env": [{"name": "LEVEL", "valueFrom": reference}]})
    world.converge()
    new = candidate_of(world)
    del world.config_maps["settings", "level"]
    world.converge()
    assert world.says("Ready") == ("False", "ConfigMapNotFound")
    world.training = None
    world.config_maps["settings", "level"] = "INFO"
    world.converge()
    assert candidate_of(world) == new


def test_a_run_that_failed_leaves_the_stable_revision_alone() -> None:
    world = worlds.serving()
    old = world.selected
    world.change(model={"trainingJobRef": {"name": "run"}})
    world.training = TrainingOutput("run", "Failed", message="no data")
    world.converge()
    assert world.says("Ready") == ("False", "TrainingJobFailed")
    assert world.says("Available") == ("True", "Serving")
    assert world.selected == old


# --- What others own ------------------------------------------------------------------------------------------------


def test_a_config_map_that_disappears_leaves_what_serves() -> None:
    reference = {"configMapKeyRef": {"name": "settings", "key": "level"}}
    world = worlds.model_deployment(env=[{"name": "LOG_LEVEL", "valueFrom": reference}])
    world.config_maps["settings", "level"] = "INFO"
    world.step()
    world.ready()
    world.converge()
    old = world.selected
    del world.config_maps["settings", "level"]
    del world.children["Service", "wine"]
    world.scale(2)
    world.converge()
    assert world.says("Ready") == ("False", "ConfigMapNotFound")
    assert world.says("Available") == ("True", "Serving")
    assert world.selected == old
    [deployment] = world.deployments.values()
    assert deployment["spec"]["replicas"] == 2
    world.config_maps["settings", "level"] = "DEBUG"
    world.converge()
    assert world.says("Ready") == ("Unknown", "Starting")
    assert candidate_of(world) != old


def test_a_value_of_a_config_map_reaches_the_server_as_it_is() -> None:
    reference = {"configMapKeyRef": {"name": "settings", "key": "level"}}
    world = worlds.model_deployment(env=[{"name": "LOG_LEVEL", "valueFrom": reference}])
    world.config_maps["settings", "level"] = "$(HOME)"
    world.step()
    [deployment] = world.deployments.values()
    env = deployment["spec"]["template"]["spec"]["containers"][0]["env"]
    assert {"name": "LOG_LEVEL", "value": "$$(HOME)"} in env


@pytest.mark.parametrize("kind", ["Service", "PodDisruptionBudget"])
def test_a_name_taken_while_the_stable_revision_serves_is_told_and_nothing_is_lost(kind: str) -> None:
    world = worlds.serving(replicas=2)
    del world.children[kind, "wine"]
    world.foreign = {(kind, "wine")}
    world.change(model={"uri": worlds.URI, "digest": worlds.OTHER})
    world.converge()
    assert world.says("Ready") == ("False", "NameConflict")
    assert world.says("Available") == ("True", "Serving")
    world.foreign = set()
    world.converge()
    world.ready()
    world.converge()
    assert world.says("Ready") == ("True", "Serving")


def test_a_claim_of_one_node_is_explained_to_pods_that_find_no_place() -> None:
    world = worlds.serving()
    world.access_modes = ("ReadWriteOnce",)
    world.change(model={"uri": worlds.URI, "digest": worlds.OTHER})
    in_trouble(world, phase="Pending", unschedulable="0/2 nodes: 1 node(s) had volume node affinity conflict")
    assert "claim models is ReadWriteOnce" in world.message()


def test_a_claim_that_only_the_old_revision_needs_is_not_what_is_wrong_with_the_new_one() -> None:
    world = worlds.serving()
    world.ready(ready=False)
    world.missing_claims = {"models"}
    world.change(model={"uri": "https://models.example.com/wine.onnx", "digest": worlds.OTHER})
    in_trouble(world, **CRASH)
    assert world.says("Ready") == ("False", "RevisionRejected")
    assert "CrashLoop" in world.message()


def test_the_claim_of_a_run_that_is_served_is_explained_as_well() -> None:
    world = serving_a_run()
    world.access_modes = ("ReadWriteOnce",)
    world.training = trained(worlds.OTHER)
    in_trouble(world, phase="Pending", mount_message="Multi-Attach error for volume pv-1")
    assert world.says("Ready") == ("False", "Unschedulable")
    assert "claim models is ReadWriteOnce" in world.message()


# --- Frugality ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("replicas", [1, 2])
def test_a_new_model_deployment_costs_two_writes_of_status_and_at_most_two_events(replicas: int) -> None:
    world = worlds.model_deployment(replicas=replicas)
    for _ in range(3):  # each child wakes the operator
        world.step()
    world.ready()
    for _ in range(3):
        world.step()
    assert world.says("Ready") == ("True", "Serving")
    assert world.status_writes <= 2
    assert len(world.events) <= 2


def test_a_healthy_model_deployment_asks_for_nothing_and_is_not_planned_again_by_time() -> None:
    world = worlds.serving()
    observed = world.observe()
    needs = world.needs_of(observed)
    assert (needs.pods, needs.claims, needs.config_maps) == (False, frozenset(), frozenset())
    plan = world.plan()
    assert plan.requeue_after is None
    assert plan.events == ()


def test_pods_that_do_not_exist_yet_are_not_asked_for() -> None:
    """A thousand new ones at once wait for Kubernetes to make their pods, and must not be asked about meanwhile."""
    world = worlds.model_deployment()
    world.converge()
    world.wait(60)
    assert not world.needs_of(world.observe()).pods
    world.ready(ready=False)
    assert world.needs_of(world.observe()).pods


@pytest.mark.parametrize("reason", [r for r, row in REASONS.items() if row[1] != "True" and r != "Promoting"])
def test_what_is_not_settled_is_planned_again_ever_more_rarely(reason: str) -> None:
    world = REASONS[reason][0]()
    assert world.last is not None
    assert world.last.requeue_after == 5
    world.wait(20)
    assert world.plan().requeue_after == pytest.approx(10, abs=3)
    world.wait(3600)
    assert world.plan().requeue_after == 30
