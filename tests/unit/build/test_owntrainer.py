"""The pod around a trainer of one's own."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.unit.build import samples

from holdfast.build import job, names
from holdfast.build.owntrainer import is_allowed

TRAINER = "registry.example.com/team/trainer:1"
JOB = names.training_job("wine", samples.UID)


def made(**changes: Any) -> dict[str, Any]:
    given = {
        "estimators": None,
        "container": {
            "image": TRAINER,
            "command": ["python"],
            "args": ["$(HOLDFAST_INPUT)"],
            "env": [{"name": "COST", "value": "$5"}, {"name": "L", "valueFrom": {"configMapKeyRef": KEY}}],
        },
        **changes,
    }
    spec = samples.training_spec(**given)
    assert spec.container
    manifest = job.training_job("wine", "default", samples.UID, spec, samples.IMAGE, "Always")
    found: dict[str, Any] = manifest["spec"]["template"]["spec"]
    return found


KEY = {"name": "settings", "key": "level"}


def steps(spec: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {container["name"]: container for container in (*spec["initContainers"], *spec["containers"])}


def mounts(container: dict[str, Any]) -> dict[str, bool]:
    """Where, and whether it can write there."""
    return {mount["mountPath"]: not mount.get("readOnly", False) for mount in container["volumeMounts"]}


def test_the_steps_come_one_after_the_other() -> None:
    spec = made()
    assert [container["name"] for container in spec["initContainers"]] == ["fetch", "train"]
    assert [container["name"] for container in spec["containers"]] == ["publish"]
    assert {name: step["image"] for name, step in steps(spec).items()} == {
        "fetch": samples.IMAGE,
        "train": TRAINER,
        "publish": samples.IMAGE,
    }
    assert steps(spec)["fetch"]["args"] == ["fetch"]
    assert steps(spec)["publish"]["args"] == ["publish"]


def test_every_step_is_restricted_and_has_no_token() -> None:
    spec = made()
    assert spec["automountServiceAccountToken"] is False
    for step in steps(spec).values():
        assert step["securityContext"]["readOnlyRootFilesystem"] is True
        assert step["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert step["securityContext"]["allowPrivilegeEscalation"] is False


def test_the_own_container_reaches_its_folders_alone() -> None:
    spec = made()
    own = steps(spec)["train"]
    assert mounts(own) == {
        "/tmp": True,
        "/mnt/holdfast/input": False,
        "/mnt/holdfast/output": True,
        "/mnt/holdfast/checkpoint": True,
    }
    [checkpoint] = [mount for mount in own["volumeMounts"] if "subPath" in mount]
    assert checkpoint["subPath"] == f"wine/.checkpoint-{JOB}"
    ours = {mount["name"] for name in ("fetch", "publish") for mount in steps(spec)[name]["volumeMounts"]}
    shared = ours & {mount["name"] for mount in own["volumeMounts"]}
    assert shared == {"input", "output", checkpoint["name"]}
    assert {volume["name"] for volume in spec["volumes"]} >= ours


def test_only_who_publishes_has_the_keys_to_the_output_and_only_who_fetches_those_to_the_data() -> None:
    data = {"uri": "s3://lake/wine", "secretRef": {"name": "lake-read"}}
    output = {"uri": "s3://models/wine", "secretRef": {"name": "models-write"}}
    spec = made(data=data, output=output)
    found = {name: {path for path in mounts(step) if "secrets" in path} for name, step in steps(spec).items()}
    assert found == {"fetch": {"/mnt/secrets/data"}, "train": set(), "publish": {"/mnt/secrets/output"}}
    assert "HOLDFAST_CHECKPOINT" not in {variable["name"] for variable in steps(spec)["train"]["env"]}


def test_who_publishes_cannot_change_what_was_left() -> None:
    publish = mounts(steps(made())["publish"])
    assert (publish["/mnt/holdfast/output"], publish["/mnt/holdfast/input"]) == (False, False)
    assert publish["/mnt/claims/models"] is True


def test_the_own_container_is_told_where_and_what() -> None:
    own = steps(made(seed=7, evaluation={"slices": ["region"]}))["train"]
    env = {variable["name"]: variable.get("value") for variable in own["env"]}
    parameters = json.loads(env.pop("HOLDFAST_PARAMETERS") or "")
    assert parameters == {
        "name": "wine",
        "seed": 7,
        "target": "quality",
        "task": "Classification",
        "format": "CSV",
        "slices": ["region"],
    }
    assert env == {
        "HOME": "/tmp",
        "COST": "$$5",
        "L": None,
        "HOLDFAST_INPUT": "/mnt/holdfast/input",
        "HOLDFAST_OUTPUT": "/mnt/holdfast/output",
        "HOLDFAST_CHECKPOINT": "/mnt/holdfast/checkpoint",
    }
    assert (own["command"], own["args"]) == (["python"], ["$(HOLDFAST_INPUT)"])
    [reference] = [variable["valueFrom"] for variable in own["env"] if "valueFrom" in variable]
    assert reference == {"configMapKeyRef": KEY}


def test_our_steps_are_told_no_more_of_the_trainer_than_its_image() -> None:
    told = {name: json.loads(step["env"][0]["value"]) for name, step in steps(made()).items() if name != "train"}
    assert told["fetch"] == told["publish"]
    assert told["fetch"]["container"] == {"image": TRAINER}
    assert "estimator" not in told["fetch"]


def test_devices_are_for_the_own_container() -> None:
    found = {name: step["resources"]["limits"] for name, step in steps(made()).items()}
    assert [name for name, limits in found.items() if "example.com/gpu" in limits] == ["train"]


@pytest.mark.parametrize(
    ("image", "prefixes", "allowed"),
    [
        ("anything", ["*"], True),
        ("anything", [], False),
        ("ghcr.io/team/x:1", ["ghcr.io/team/"], True),
        ("ghcr.io/team-b/x:1", ["ghcr.io/team/"], False),
        ("ghcr.io/team-b/x:1", ["ghcr.io/team"], False),
        ("ghcr.io/team/x:1", ["ghcr.io/team"], True),
        ("ghcr.io/team/x:1", ["ghcr.io"], True),
        ("ghcr.io.evil.example/x", ["ghcr.io"], False),
        ("ghcr.io:5000/x", ["ghcr.io"], False),
        ("ghcr.io/team/x@sha256:aa", ["ghcr.io/team/x"], True),
        ("ghcr.io/team/x:1", ["ghcr.io/team/x:1"], True),
        ("ghcr.io/team/x:12", ["ghcr.io/team/x:1"], False),
        ("ghcr.io/team/x:1", ["other/", "ghcr.io/team/x"], True),
    ],
)
def test_a_prefix_is_whole_names(image: str, prefixes: list[str], allowed: bool) -> None:
    assert is_allowed(image, prefixes) is allowed
