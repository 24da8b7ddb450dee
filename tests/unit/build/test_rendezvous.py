"""Runs of several pods."""

from __future__ import annotations

import json
from typing import Any

from tests.unit.build import samples

from holdfast.build import job, names, pod
from holdfast.build.rendezvous import headless_service

JOB = names.training_job("wine", samples.UID)


def made(**changes: Any) -> dict[str, Any]:
    spec = samples.training_spec(**changes)
    found: dict[str, Any] = job.training_job("wine", "default", samples.UID, spec, samples.IMAGE, "Always")["spec"]
    return found


def test_a_run_of_one_pod_is_no_indexed_job() -> None:
    for spec in (made(), made(tuning={})):
        assert "completionMode" not in spec
        assert "subdomain" not in spec["template"]["spec"]


def test_parallel_trials_are_an_indexed_job_that_ends_with_its_first_pod() -> None:
    spec = made(tuning={"parallelism": 3})
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 3, 3)
    assert spec["successPolicy"] == {"rules": [{"succeededIndexes": "0"}]}


def test_an_eviction_uses_up_no_attempt() -> None:
    ignored = [rule for rule in made()["podFailurePolicy"]["rules"] if rule["action"] == "Ignore"]
    assert {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]} in ignored
    assert made()["podFailurePolicy"]["rules"][0]["action"] == "FailJob"


def test_the_pods_of_a_distributed_training_find_each_other() -> None:
    spec = made(estimators=None, container={"image": "trainer:1"}, distributed={"workers": 4})
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 4, 4)
    template = spec["template"]["spec"]
    service = headless_service("wine", "default", samples.UID, JOB)
    assert template["subdomain"] == service["metadata"]["name"] == JOB
    assert service["spec"]["selector"].items() <= spec["template"]["metadata"]["labels"].items()
    assert (service["spec"]["clusterIP"], service["spec"]["publishNotReadyAddresses"]) == ("None", True)
    own = next(container for container in template["initContainers"] if container["name"] == "train")
    env = {variable["name"]: variable for variable in own["env"]}
    assert len(env) == len(own["env"])
    for prefix in ("", "PET_"):
        assert env[f"{prefix}MASTER_ADDR"]["value"] == f"{JOB}-0.{JOB}"
        assert env[f"{prefix}MASTER_PORT"]["value"] == str(service["spec"]["ports"][0]["port"])
    assert env["WORLD_SIZE"]["value"] == env["PET_NNODES"]["value"] == "4"
    for rank in ("RANK", "PET_NODE_RANK"):
        path = env[rank]["valueFrom"]["fieldRef"]["fieldPath"]
        assert path == "metadata.annotations['batch.kubernetes.io/job-completion-index']"


def test_the_pods_of_a_distributed_network_find_their_leader_and_share_its_end() -> None:
    spec = made(estimators=[{"name": "TorchMLPClassifier"}], distributed={"workers": 3})
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 3, 3)
    assert spec["template"]["spec"]["subdomain"] == JOB
    [container] = spec["template"]["spec"]["containers"]
    env = {variable["name"]: variable["value"] for variable in container["env"]}
    assert (env["MASTER_ADDR"], env["MASTER_PORT"]) == (f"{JOB}-0.{JOB}", "29500")
    assert json.loads(env["HOLDFAST_RUN"])["workers"] == 3


def test_only_a_pod_that_ended_because_of_another_uses_up_no_attempt() -> None:
    ignored = job.on_exit(pod.ANOTHER_POD_FAILED, "Ignore")
    network = [{"name": "TorchMLPClassifier"}]
    several = made(estimators=network, distributed={"workers": 2})
    assert ignored in several["podFailurePolicy"]["rules"]
    own = made(estimators=None, container={"image": "trainer:1"}, distributed={"workers": 2})
    for other in (made(estimators=network), own):
        assert ignored not in other["podFailurePolicy"]["rules"]
