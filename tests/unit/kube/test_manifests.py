"""manifests/ as kustomize renders them."""

from __future__ import annotations

import re
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from holdfast.build import labels
from holdfast.kube import keys
from holdfast.kube.controller import LEASE_NAME
from holdfast.settings import read
from holdfast.signals.prometheus import Address
from holdfast_devcluster import binaries, images

ROOT = Path(__file__).parents[3] / "manifests"
Json = dict[str, Any]


@cache
def rendered(overlay: str) -> tuple[Json, ...]:
    command = [str(binaries.kubectl()), "kustomize", str(ROOT / overlay)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return tuple(yaml.safe_load_all(done.stdout))


def one(overlay: str, kind: str, name: str = "holdfast-operator") -> Json:
    (found,) = (d for d in rendered(overlay) if d["kind"] == kind and d["metadata"]["name"].startswith(name))
    return found


def kinds(overlay: str) -> set[str]:
    return {document["kind"] for document in rendered(overlay)}


@pytest.mark.parametrize("overlay", ["base", "namespaced"])
def test_all_that_is_needed_is_there(overlay: str) -> None:
    assert {"Namespace", "CustomResourceDefinition", "ServiceAccount", "Deployment", "Service"} <= kinds(overlay)
    crds = [d["metadata"]["name"] for d in rendered(overlay) if d["kind"] == "CustomResourceDefinition"]
    assert sorted(crds) == [
        "batchinferences.holdfast.dev",
        "modeldeployments.holdfast.dev",
        "trainingjobs.holdfast.dev",
    ]


@pytest.mark.parametrize("overlay", ["base", "namespaced"])
def test_the_settings_are_ones_that_the_operator_reads(overlay: str) -> None:
    environment = one(overlay, "ConfigMap", "holdfast-settings")["data"]
    settings = read({**environment, "POD_NAME": "operator-0"})
    assert settings.namespaces == (() if overlay == "base" else ("models",))
    assert settings.plan.serving_image == "localhost/holdfast-serving:dev"


def test_two_operators_run_restricted_and_are_probed() -> None:
    deployment = one("base", "Deployment")
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    namespace = one("base", "Namespace", "holdfast-system")
    assert deployment["spec"]["replicas"] == 2
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert container["image"] == "localhost/holdfast-operator:dev"
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert container["livenessProbe"]["httpGet"]["path"] == "/livez"
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert {"requests", "limits"} <= set(container["resources"])


@pytest.mark.parametrize("overlay", ["base", "namespaced"])
def test_events_find_their_way_to_all_replicas_and_keys_may_be_missing(overlay: str) -> None:
    settings = read({**one(overlay, "ConfigMap", "holdfast-settings")["data"], "POD_NAME": "operator-0"})
    pod = one(overlay, "Deployment")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert {port["name"]: port["containerPort"] for port in container["ports"]}["events"] == settings.events_port
    (mount,) = (mount for mount in container["volumeMounts"] if mount["mountPath"] == str(settings.event_keys))
    (volume,) = (volume for volume in pod["volumes"] if volume["name"] == mount["name"])
    assert (volume["secret"]["optional"], volume["secret"]["defaultMode"]) == (True, 0o444)
    service = one(overlay, "Service", "holdfast-events")["spec"]
    peers = one(overlay, "Service", "holdfast-operator")
    assert service["ports"] == [{"name": "events", "port": 80, "targetPort": "events"}]
    assert service["selector"] == peers["spec"]["selector"]
    name, namespace, _ = settings.events_peers.split(".")
    assert (name, namespace) == (peers["metadata"]["name"], peers["metadata"]["namespace"])
    assert peers["spec"]["clusterIP"] == "None"
    policy = one(overlay, "NetworkPolicy")["spec"]
    assert policy["podSelector"]["matchLabels"] == service["selector"]
    management, events = policy["ingress"]
    assert management == {"ports": [{"port": "management"}]}
    assert events["ports"] == [{"port": "events"}]
    assert {"podSelector": {"matchLabels": service["selector"]}} in events["from"]


def test_the_lease_that_may_be_written_is_the_one_that_is_used() -> None:
    role = one("base", "Role", "holdfast-operator-lease")
    (named,) = (rule for rule in role["rules"] if "resourceNames" in rule)
    assert named["resourceNames"] == [LEASE_NAME]
    assert role["metadata"]["namespace"] == "holdfast-system"


def test_the_secret_that_may_be_read_is_the_operators_own_key() -> None:
    role = one("base", "Role", "holdfast-operator-key")
    (named,) = (rule for rule in role["rules"] if "resourceNames" in rule)
    assert (named["resourceNames"], named["verbs"]) == ([keys.NAME], ["get"])
    assert role["metadata"]["namespace"] == "holdfast-system"
    assert one("namespaced", "Role", "holdfast-operator-key") == role


def test_the_namespaced_operator_has_no_right_outside_its_namespace() -> None:
    assert "ClusterRoleBinding" not in kinds("namespaced")
    inside = {d["kind"]: d for d in rendered("namespaced") if d["metadata"].get("namespace") == "models"}
    role, binding = inside["Role"], inside["RoleBinding"]
    cluster_role = one("base", "ClusterRole", "holdfast-operator")
    assert role["rules"] == cluster_role["rules"][1:]
    assert cluster_role["rules"][0]["resources"] == ["namespaces"]
    binding = next(
        d for d in rendered("namespaced") if d["kind"] == "RoleBinding" and d["metadata"]["namespace"] == "models"
    )
    assert binding["roleRef"]["kind"] == "Role"


@pytest.fixture(scope="module")
def scraping() -> Json:
    """The configuration of the Prometheus that comes along."""
    (text,) = one("monitored", "ConfigMap", "prometheus")["data"].values()
    configuration: Json = yaml.safe_load(text)
    return configuration


def test_prometheus_comes_with_its_address_for_the_operator_and_runs_restricted() -> None:
    settings = read({**one("monitored", "ConfigMap", "holdfast-settings")["data"], "POD_NAME": "operator-0"})
    service = one("monitored", "Service", "prometheus")
    assert settings.prometheus == Address(
        f"http://prometheus.holdfast-system.svc:{service['spec']['ports'][0]['port']}"
    )
    pod = one("monitored", "Deployment", "prometheus")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert (pod["securityContext"]["runAsNonRoot"], pod["securityContext"]["runAsUser"]) == (True, 65534)
    assert container["image"] == images.IMAGES["prometheus"].reference
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_prometheus_may_find_pods_and_nothing_else() -> None:
    role = one("monitored", "ClusterRole", "holdfast-prometheus")
    assert role["rules"] == [{"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"]}]


def test_what_prometheus_is_told_is_what_it_understands(scraping: Json) -> None:
    program = binaries.find("promtool")["promtool"].path
    file = ROOT / "monitoring" / "prometheus" / "prometheus.yml"
    done = subprocess.run(
        [program, "check", "config", "--lint=all", "--lint-fatal", file], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert scraping == yaml.safe_load(file.read_text())


def test_who_a_sample_is_about_comes_from_kubernetes_for_both_kinds_of_prometheus(scraping: Json) -> None:
    job, operator_job = scraping["scrape_configs"]
    monitor = one("monitoring/podmonitors", "PodMonitor", "holdfast-models")["spec"]
    (endpoint,) = monitor["podMetricsEndpoints"]
    assert job["honor_labels"] is endpoint["honorLabels"] is False

    def rules(found: list[Json]) -> list[Json]:
        def camel(name: str) -> str:
            return re.sub(r"_(.)", lambda match: match[1].upper(), name)

        return [{camel(name): value for name, value in rule.items()} for rule in found]

    assert rules(job["metric_relabel_configs"]) == endpoint["metricRelabelings"]
    named = [rule for rule in rules(job["relabel_configs"]) if rule.get("targetLabel") in ("model", "revision")]
    assert named == endpoint["relabelings"]  # namespace and pod are the Prometheus operator's own
    (selector,) = job["kubernetes_sd_configs"][0]["selectors"]
    assert dict(each.split("=") for each in selector["label"].split(",")) == monitor["selector"]["matchLabels"]
    assert labels.serving("wine").items() >= monitor["selector"]["matchLabels"].items()
    for name in (labels.MODEL_DEPLOYMENT, labels.REVISION):
        meta = f"__meta_kubernetes_pod_label_{re.sub('[^a-z]', '_', name)}"
        assert meta in {rule["sourceLabels"][0] for rule in named}
    assert operator_job["kubernetes_sd_configs"][0]["namespaces"] == {"names": ["holdfast-system"]}


def test_users_roles_join_those_that_clusters_have() -> None:
    edit, view = (one("base", "ClusterRole", f"holdfast-{name}") for name in ("edit", "view"))
    assert edit["metadata"]["labels"]["rbac.authorization.k8s.io/aggregate-to-edit"] == "true"
    assert view["metadata"]["labels"]["rbac.authorization.k8s.io/aggregate-to-view"] == "true"
    assert not [rule for rule in edit["rules"] if any("status" in resource for resource in rule["resources"])]
    assert {verb for rule in view["rules"] for verb in rule["verbs"]} == {"get", "list", "watch"}
