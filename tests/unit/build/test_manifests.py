"""What children look like. What the API server makes of them is tested in tests/api/test_children.py."""

import json
from typing import Any

import pytest
from tests.unit.build import samples

from holdfast.api.retraining import Gate
from holdfast.api.trainingjob import TrainingJobSpec
from holdfast.build import job, labels
from holdfast.build.deployment import Feedback, Tls
from holdfast.build.hashing import with_desired_hash
from holdfast.build.source import Source

POD_CHILDREN = [
    "deployment",
    "secured deployment",
    "deployment from a store",
    "resolve job",
    "resolve job on a claim",
    "training job",
    "training job on a store",
    "poll job",
]


def pod(child: str) -> dict[str, Any]:
    spec: dict[str, Any] = samples.every_manifest()[child]["spec"]["template"]["spec"]
    return spec


def claims(spec: dict[str, Any]) -> dict[str, tuple[str, bool]]:
    """Claim → (where it is mounted, whether read-only)."""
    [container] = spec["containers"]
    mounts = {mount["name"]: (mount["mountPath"], mount.get("readOnly", False)) for mount in container["volumeMounts"]}
    assert len(mounts) == len(container["volumeMounts"])
    found = [volume for volume in spec["volumes"] if "persistentVolumeClaim" in volume]
    assert len({volume["name"] for volume in spec["volumes"]}) == len(spec["volumes"])
    return {volume["persistentVolumeClaim"]["claimName"]: mounts[volume["name"]] for volume in found}


@pytest.mark.parametrize("child", POD_CHILDREN)
def test_pods_are_restricted_and_get_no_token(child: str) -> None:
    spec = pod(child)
    [container] = spec["containers"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


@pytest.mark.parametrize("child", POD_CHILDREN)
def test_pods_go_where_the_user_says(child: str) -> None:
    spec = pod(child)
    assert spec["nodeSelector"] == {"disk": "ssd"}
    assert spec["tolerations"] == samples.TOLERATIONS


@pytest.mark.parametrize("child", samples.every_manifest())
def test_children_belong_to_their_owner_and_do_not_block_its_deletion(child: str) -> None:
    [owner] = samples.every_manifest()[child]["metadata"]["ownerReferences"]
    assert (owner["uid"], owner["controller"], owner["blockOwnerDeletion"]) == (samples.UID, True, False)


def test_a_run_mounts_its_input_read_only_and_its_output_writable() -> None:
    assert claims(pod("training job")) == {"lake": ("/mnt/claims/lake", True), "models": ("/mnt/claims/models", False)}


def secrets(spec: dict[str, Any]) -> dict[str, str]:
    """Secret → where it is mounted, read-only and without holding the pod back."""
    [container] = spec["containers"]
    mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
    found = {}
    for volume in spec["volumes"]:
        if secret := volume.get("secret"):
            assert (secret["defaultMode"], secret["optional"]) == (0o400, True)
            assert mounts[volume["name"]]["readOnly"] is True
            found[secret["secretName"]] = mounts[volume["name"]]["mountPath"]
    return found


def test_a_run_on_stores_has_each_secret_in_a_folder_of_its_own_and_is_who_it_is_told_to_be() -> None:
    spec = pod("training job on a store")
    assert secrets(spec) == {"lake-read": "/mnt/secrets/data", "models-write": "/mnt/secrets/output"}
    assert (claims(spec), spec["serviceAccountName"]) == ({}, "wine")
    [container] = spec["containers"]
    told = json.loads({variable["name"]: variable["value"] for variable in container["env"]}["HOLDFAST_RUN"])
    assert (told["data"]["secretRef"], told["output"]["secretRef"]) == ({"name": "lake-read"}, {"name": "models-write"})
    assert told["serviceAccountName"] == "wine"


def test_the_keys_to_a_tracking_server_are_mounted_for_what_publishes_and_for_nothing_else() -> None:
    tracking = {"uri": "http://mlflow.tools:5000", "registeredModel": "wine", "secretRef": {"name": "mlflow"}}
    spec = samples.training_spec(tracking=tracking)
    made = job.training_job("wine", "default", samples.UID, spec, samples.IMAGE, "Always")
    built_in = made["spec"]["template"]["spec"]
    assert secrets(built_in) == {"mlflow": "/mnt/secrets/tracking"}
    [container] = built_in["containers"]
    told = json.loads({variable["name"]: variable["value"] for variable in container["env"]}["HOLDFAST_RUN"])
    assert told["tracking"] == tracking

    without = ("estimators", "evaluation")
    document = {name: value for name, value in spec.to_json().items() if name not in without}
    own = TrainingJobSpec.parse(document | {"container": {"image": "registry.example.com/trainer:1"}})
    made = job.training_job("wine", "default", samples.UID, own, samples.IMAGE, "Always")
    steps = made["spec"]["template"]["spec"]
    for container in (*steps["initContainers"], *steps["containers"]):
        mounted = [mount["mountPath"] for mount in container["volumeMounts"]]
        assert ("/mnt/secrets/tracking" in mounted) is (container["name"] == "publish")


def test_a_poll_sees_the_data_and_nothing_else() -> None:
    made = samples.every_manifest()["poll job"]
    spec = made["spec"]["template"]["spec"]
    assert secrets(spec) == {"lake-read": "/mnt/secrets/data"}
    assert (claims(spec), spec["serviceAccountName"]) == ({}, "wine")
    [container] = spec["containers"]
    assert (container["args"], "resources" in container) == (["poll"], False)
    [variable] = container["env"]
    assert (variable["name"], json.loads(variable["value"])) == (
        "HOLDFAST_POLL",
        {
            "data": {"uri": "s3://lake/wine", "secretRef": {"name": "lake-read"}},
            "settleSeconds": 60,
            "serviceAccountName": "wine",
        },
    )
    assert made["metadata"]["labels"] == labels.helper("wine", "poll")
    assert (made["spec"]["backoffLimit"], made["spec"]["ttlSecondsAfterFinished"]) == (6, 600)
    assert made["spec"]["activeDeadlineSeconds"] == 1200 + 6 * 60


def test_a_poll_of_a_claim_mounts_it_for_reading() -> None:
    spec = samples.training_spec()
    made = job.poll_job("poll", "wine", "default", samples.UID, spec, samples.IMAGE, "Always", 60)
    assert claims(made["spec"]["template"]["spec"]) == {"lake": ("/mnt/claims/lake", True)}


def test_a_claim_that_is_input_and_output_is_mounted_once_and_writable() -> None:
    spec = samples.training_spec(data={"uri": "pvc://models/data.csv"})
    made = job.training_job("wine", "default", samples.UID, spec, samples.IMAGE, "Always")
    assert claims(made["spec"]["template"]["spec"]) == {"models": ("/mnt/claims/models", False)}


def test_a_server_reads_its_claim_and_cannot_write_it() -> None:
    assert claims(pod("deployment")) == {"models": ("/mnt/claims/models", True)}


def test_a_server_of_a_model_on_the_web_mounts_no_claim() -> None:
    made = samples.revision(source=Source("https://models.example.com/wine.onnx")).render(1)
    assert claims(made["spec"]["template"]["spec"]) == {}


def test_claims_whose_names_differ_late_get_different_volumes() -> None:
    long = "c" * 250
    spec = samples.training_spec(data={"uri": f"pvc://{long}a/x.csv"}, output={"uri": f"pvc://{long}b/y"})
    made = job.training_job("wine", "default", samples.UID, spec, samples.IMAGE, "Always")
    assert set(claims(made["spec"]["template"]["spec"])) == {f"{long}a", f"{long}b"}


def test_the_server_is_told_what_to_serve_and_the_user_cannot_say_otherwise() -> None:
    made = samples.revision(env={"HOLDFAST_MODEL_DIGEST": "forged", "A": "1"}).render(1)
    [container] = made["spec"]["template"]["spec"]["containers"]
    env = {variable["name"]: variable.get("value", "") for variable in container["env"]}
    assert len(env) == len(container["env"])
    assert env == {
        "A": "1",
        "HOLDFAST_MODEL_NAME": "wine",
        "HOLDFAST_MODEL_URI": "pvc://models/wine/3",
        "HOLDFAST_MODEL_DIGEST": samples.DIGEST,
        "HOLDFAST_REVISION": samples.REVISION,
    }


def test_a_server_with_tls_reads_its_certificate_and_is_told_so() -> None:
    made = samples.revision(tls=Tls("wine-tls", "Required"), env={"HOLDFAST_TLS_CLIENT_AUTH": "None"}).render(1)
    spec = made["spec"]["template"]["spec"]
    [server] = spec["containers"]
    [volume] = [volume for volume in spec["volumes"] if "secret" in volume]
    assert volume["secret"] == {"secretName": "wine-tls", "defaultMode": 0o400, "optional": True}
    [mount] = [mount for mount in server["volumeMounts"] if mount["name"] == volume["name"]]
    assert (mount["mountPath"], mount["readOnly"]) == ("/mnt/tls/wine-tls", True)
    env = {variable["name"]: variable.get("value", "") for variable in server["env"]}
    assert (env["HOLDFAST_TLS_SECRET"], env["HOLDFAST_TLS_CLIENT_AUTH"]) == ("wine-tls", "Required")


@pytest.mark.parametrize("child", ["deployment from a store", "resolve job"])
def test_a_pod_that_asks_a_store_has_the_keys_as_files_and_is_who_it_is_told_to_be(child: str) -> None:
    spec = pod(child)
    [container] = spec["containers"]
    [volume] = [volume for volume in spec["volumes"] if "secret" in volume]
    assert volume["secret"] == {"secretName": "models-read", "defaultMode": 0o400, "optional": True}
    [mount] = [mount for mount in container["volumeMounts"] if mount["name"] == volume["name"]]
    assert (mount["mountPath"], mount["readOnly"]) == ("/mnt/secrets/storage", True)
    assert (spec["serviceAccountName"], spec["automountServiceAccountToken"]) == ("wine", False)
    env = {variable["name"]: variable.get("value", "") for variable in container["env"]}
    assert env["HOLDFAST_MODEL_URI"] == "s3://models/wine"
    assert (env["HOLDFAST_STORAGE_SECRET"], env["HOLDFAST_SERVICE_ACCOUNT"]) == ("models-read", "wine")
    assert "valueFrom" not in json.dumps(container["env"])
    assert claims(spec) == {"models-cache": ("/mnt/claims/models-cache", False)}
    assert env["HOLDFAST_CACHE_CLAIM"] == "models-cache"


def test_a_pod_that_reads_from_a_claim_gets_no_keys_and_no_cache() -> None:
    made = samples.revision(source=Source("pvc://models/wine", "models-read", "wine", "cache")).render(1)
    spec = made["spec"]["template"]["spec"]
    assert not any("secret" in volume for volume in spec["volumes"])
    assert "models-read" not in json.dumps(spec)
    assert claims(spec) == {"models": ("/mnt/claims/models", True)}
    assert spec["serviceAccountName"] == "wine"


@pytest.mark.parametrize(
    ("prefix", "port", "names", "protocols"),
    [("", 80, ["http", "grpc"], ["http", "kubernetes.io/h2c"]), ("secured ", 443, ["https", "grpcs"], ["https"] * 2)],
)
def test_a_service_leads_to_the_ports_that_its_pods_have(
    prefix: str, port: int, names: list[str], protocols: list[str]
) -> None:
    manifests = samples.every_manifest()
    found = manifests[f"{prefix}service"]["spec"]["ports"]
    assert [port["port"] for port in found] == [port, 9000]
    assert [port["targetPort"] for port in found] == names
    assert [port["appProtocol"] for port in found] == protocols
    [server] = manifests[f"{prefix}deployment"]["spec"]["template"]["spec"]["containers"]
    assert {port["name"]: port["containerPort"] for port in server["ports"]} == {
        names[0]: 8080, names[1]: 9000, "management": 8081
    }  # fmt: skip
    # The kubelet asks the management port, which has no TLS.
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert (server[probe]["httpGet"]["port"], server[probe]["httpGet"]["scheme"]) == ("management", "HTTP")


def test_a_service_selects_pods_of_the_stable_revision_alone() -> None:
    manifests = samples.every_manifest()
    selector = manifests["service"]["spec"]["selector"]
    assert selector.items() <= manifests["deployment"]["spec"]["template"]["metadata"]["labels"].items()
    assert selector[labels.REVISION] == samples.REVISION
    assert manifests["budget"]["spec"]["selector"]["matchLabels"] == selector


def test_a_run_is_told_all_defaults() -> None:
    made = job.training_job("wine", "default", samples.UID, samples.training_spec(), samples.IMAGE, "Always")
    [container] = made["spec"]["template"]["spec"]["containers"]
    [variable] = container["env"]
    assert json.loads(variable["value"]) == {
        "data": {"uri": "pvc://lake/wine.csv", "digest": samples.DIGEST, "format": "CSV"},
        "target": "quality",
        "task": "Classification",
        "preprocessing": {"imputeNumeric": "Median", "scaleNumeric": "Standard", "encodeCategorical": "OneHot"},
        "split": {"testPercent": 20},
        "estimators": [{"name": "RandomForestClassifier", "parameters": {"n_estimators": "200"}}],
        "seed": 0,
        "requirements": [{"metric": "Accuracy", "minimum": "0.9"}],
        "output": {"uri": "pvc://models/wine", "folder": made["metadata"]["name"]},
        "image": samples.IMAGE,
    }


def test_a_gate_is_told_whom_to_compare_on_what_and_reads_it_all_without_writing() -> None:
    made = samples.every_manifest()["gate job"]
    spec = made["spec"]["template"]["spec"]
    [container] = spec["containers"]
    [variable] = container["env"]
    trained = job.training_job("wine", "default", samples.UID, samples.training_spec(), samples.IMAGE, "Always")
    run = json.loads(trained["spec"]["template"]["spec"]["containers"][0]["env"][0]["value"])
    del run["image"]
    assert (container["args"], variable["name"]) == (["gate"], "HOLDFAST_GATE")
    assert json.loads(variable["value"]) == {
        "champion": {"uri": "s3://models/wine", "digest": samples.DIGEST, "secretRef": {"name": "models-read"}},
        "challenger": {"uri": "pvc://models/wine/wine-1c7d20aa4b", "digest": samples.DIGEST},
        "comparison": "NonInferior",
        "maxLossPerMille": 10,
        "maxSliceLossPerMille": 30,
        "maxLatencyPercent": 120,
        "data": {"uri": "pvc://labels/recent.csv"},
        "training": run | {"output": {"uri": "pvc://models/wine", "folder": "gate"}},
    }
    assert {mount["mountPath"]: mount.get("readOnly") for mount in container["volumeMounts"]} == {
        "/tmp": None,
        "/mnt/claims/labels": True,
        "/mnt/claims/lake": True,
        "/mnt/claims/models": True,
        "/mnt/secrets/champion": True,
    }
    [secret] = [volume["secret"] for volume in spec["volumes"] if "secret" in volume]
    assert secret == {"secretName": "models-read", "defaultMode": 0o400, "optional": True}
    assert spec["serviceAccountName"] == "wine"
    assert "example.com/gpu" not in container["resources"]["limits"]
    assert made["spec"]["ttlSecondsAfterFinished"] == 600
    assert made["metadata"]["labels"][labels.PURPOSE] == "gate"


def test_a_gate_finds_the_keys_to_each_of_its_places_in_a_folder_of_their_own() -> None:
    run = samples.training_spec(
        data={"uri": "s3://lake/wine", "secretRef": {"name": "lake-read"}},
        output={"uri": "s3://models/wine", "secretRef": {"name": "models-write"}},
        serviceAccountName="trainer",
        tracking={"uri": "https://mlflow", "registeredModel": "wine", "alias": "champion", "secretRef": {"name": "t"}},
    )
    rows = {"uri": "s3://labels/wine", "secretRef": {"name": "labels-read"}}
    challenger = ("s3://models/wine/wine-1", samples.DIGEST)
    made = job.gate_job(
        "gate", "wine", "default", samples.UID, Source("pvc://models/old", "unused"), samples.DIGEST, challenger,
        Gate.parse({"data": rows}), run, "7", samples.IMAGE, "Always",
    )  # fmt: skip
    spec = made["spec"]["template"]["spec"]
    [container] = spec["containers"]
    secrets = {volume["name"]: volume["secret"]["secretName"] for volume in spec["volumes"] if "secret" in volume}
    assert {mount["mountPath"]: secrets.get(mount["name"]) for mount in container["volumeMounts"]} == {
        "/tmp": None,
        "/mnt/claims/models": None,
        "/mnt/secrets/output": "models-write",
        "/mnt/secrets/data": "lake-read",
        "/mnt/secrets/rows": "labels-read",
        "/mnt/secrets/tracking": "t",
    }
    told = json.loads(container["env"][0]["value"])
    assert told["champion"] == {"uri": "pvc://models/old", "digest": samples.DIGEST}
    assert told["data"] == rows
    assert told["tracking"] == run.tracking.to_json() | {"modelVersion": "7"}
    assert told["training"]["output"]["secretRef"] == {"name": "models-write"}
    assert (spec["serviceAccountName"], told["training"]["serviceAccountName"]) == ("trainer", "trainer")


def test_a_run_is_told_how_to_choose_and_to_calibrate() -> None:
    search = [{"parameter": "C", "low": "0.1", "high": "10", "scale": "Log"}]
    asked = {
        "estimators": [{"name": "SVC", "search": search}, {"name": "GaussianNB"}],
        "tuning": {"trials": 7, "metric": "LogLoss"},
        "calibration": "Sigmoid",
        "evaluation": {"slices": ["region"], "sliceRequirements": [{"metric": "F1", "minimum": "0.5", "minRows": 40}]},
    }
    told = job.run(samples.training_spec(**asked), "folder")
    assert told["estimators"] == asked["estimators"]
    defaults = {"folds": 5, "parallelism": 1, "sampler": "TPE", "pruner": "None"}
    assert told["tuning"] == {"trials": 7, "metric": "LogLoss", **defaults}
    assert (told["calibration"], told["slices"]) == ("Sigmoid", ["region"])
    assert told["sliceRequirements"] == asked["evaluation"]["sliceRequirements"]


def test_dollars_in_names_reach_the_programs_as_they_are() -> None:
    spec = samples.training_spec(target="price $$ $(HOME)", data={"uri": "pvc://lake/$(A)/x.csv"})
    made = job.training_job("wine", "default", samples.UID, spec, samples.IMAGE, "Always")
    [variable] = made["spec"]["template"]["spec"]["containers"][0]["env"]
    # The kubelet turns every `$$` into `$`.
    told = json.loads(variable["value"].replace("$$", "$"))
    assert (told["target"], told["data"]["uri"]) == ("price $$ $(HOME)", "pvc://lake/$(A)/x.csv")


def test_values_of_the_user_may_refer_to_each_other_as_in_a_pod() -> None:
    made = samples.revision(env={"A": "1", "B": "$(A)2"}, source=Source("pvc://models/$(A)")).render(1)
    env = {v["name"]: v["value"] for v in made["spec"]["template"]["spec"]["containers"][0]["env"]}
    assert env["B"] == "$(A)2"
    assert env["HOLDFAST_MODEL_URI"] == "pvc://models/$$(A)"


@pytest.mark.parametrize("child", ["resolve job", "gate job", "training job", "poll job"])
def test_a_permanent_failure_ends_a_job_at_once(child: str) -> None:
    rule = samples.every_manifest()[child]["spec"]["podFailurePolicy"]["rules"][0]
    assert rule == {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [3]}}


def test_a_run_that_waits_for_a_person_uses_up_no_attempt() -> None:
    rule = samples.every_manifest()["training job"]["spec"]["podFailurePolicy"]["rules"][1]
    assert rule == {"action": "Ignore", "onExitCodes": {"operator": "In", "values": [4]}}


def desired_hash(manifest: dict[str, Any]) -> str:
    value: str = manifest["metadata"]["annotations"][labels.DESIRED_HASH]
    return value


def test_the_hash_of_a_revision_tells_its_template_and_not_its_scale() -> None:
    assert desired_hash(samples.revision().render(1)) == desired_hash(samples.revision().render(5))
    assert desired_hash(samples.revision().render(1)) != desired_hash(samples.revision(image="other").render(1))


def test_the_hash_does_not_depend_on_the_owner() -> None:
    manifest = samples.every_manifest()["service"]
    plain = {**manifest, "metadata": {k: v for k, v in manifest["metadata"].items() if k != "annotations"}}
    orphan = {**plain, "metadata": {**plain["metadata"], "ownerReferences": []}}
    assert desired_hash(with_desired_hash(plain)) == desired_hash(with_desired_hash(orphan))


def test_a_server_is_told_its_limits_only_where_the_user_says_some() -> None:
    """Variables with defaults would change the pods of every revision that is there."""

    def variables(**changes: int) -> dict[str, str]:
        spec = samples.revision(**changes).render(1)["spec"]["template"]["spec"]
        return {each["name"]: each.get("value", "") for each in spec["containers"][0]["env"]}

    assert not {"HOLDFAST_REQUEST_TIMEOUT_MILLISECONDS", "HOLDFAST_MAX_BATCH_ROWS"} & variables().keys()
    told = variables(request_timeout_milliseconds=2500, max_batch_rows=64)
    assert (told["HOLDFAST_REQUEST_TIMEOUT_MILLISECONDS"], told["HOLDFAST_MAX_BATCH_ROWS"]) == ("2500", "64")


@pytest.mark.parametrize(("milliseconds", "seconds"), [(None, 60), (100, 60), (20_000, 60), (600_000, 640)])
def test_a_server_has_the_time_of_its_last_request_to_end(milliseconds: int | None, seconds: int) -> None:
    made = samples.revision(request_timeout_milliseconds=milliseconds).render(1)
    assert made["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] == seconds


def test_a_server_that_takes_feedback_reads_its_key_and_is_told_so() -> None:
    made = samples.revision(feedback=Feedback("wine-feedback", "Required", 5000)).render(1)
    spec = made["spec"]["template"]["spec"]
    [server] = spec["containers"]
    [volume] = [volume for volume in spec["volumes"] if "secret" in volume]
    assert volume["secret"] == {"secretName": "wine-feedback", "defaultMode": 0o400, "optional": True}
    [mount] = [mount for mount in server["volumeMounts"] if mount["name"] == volume["name"]]
    assert (mount["mountPath"], mount["readOnly"]) == ("/mnt/feedback/wine-feedback", True)
    env = {variable["name"]: variable.get("value", "") for variable in server["env"]}
    assert {name: value for name, value in env.items() if "FEEDBACK" in name} == {
        "HOLDFAST_FEEDBACK_SECRET": "wine-feedback",
        "HOLDFAST_FEEDBACK_CLIENT_AUTH": "Required",
        "HOLDFAST_FEEDBACK_ROWS_PER_MINUTE": "5000",
    }
