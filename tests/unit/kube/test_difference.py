"""Where a live object is not what a manifest asks for."""

import copy
from collections.abc import Callable
from typing import Any

import pytest

from holdfast.kube.difference import first_difference

MANIFEST: dict[str, Any] = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {
        "name": "wine-5f3a9c0d1e",
        "namespace": "default",
        "labels": {"app.kubernetes.io/managed-by": "holdfast"},
        "annotations": {"holdfast.dev/desired-hash": "aaaa"},
        "ownerReferences": [{"kind": "ModelDeployment", "name": "wine", "uid": "u1", "controller": True}],
    },
    "spec": {
        "replicas": 2,
        "selector": {"matchLabels": {"a": "b"}},
        "template": {
            "metadata": {"labels": {"a": "b"}},
            "spec": {
                "automountServiceAccountToken": False,
                "containers": [
                    {
                        "name": "server",
                        "image": "one",
                        "args": ["serve", "now"],
                        "env": [{"name": "A", "value": "1"}, {"name": "EMPTY"}],
                        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}, {"name": "tmp", "mountPath": "/other"}],
                    }
                ],
                "volumes": [{"name": "tmp", "emptyDir": {}}],
                "tolerations": [],
            },
        },
    },
}


def live() -> dict[str, Any]:
    """The manifest with what an API server adds."""
    made = copy.deepcopy(MANIFEST)
    made["metadata"]["annotations"]["someone.else/annotation"] = "x"
    made["metadata"]["labels"]["someone-else"] = "x"
    made["spec"]["revisionHistoryLimit"] = 10
    template = made["spec"]["template"]["spec"]
    template["dnsPolicy"] = "ClusterFirst"
    template["containers"][0]["terminationMessagePath"] = "/dev/termination-log"
    del template["tolerations"]
    return made


def pod(made: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = made["spec"]["template"]["spec"]
    return spec


def container(made: dict[str, Any]) -> dict[str, Any]:
    first: dict[str, Any] = pod(made)["containers"][0]
    return first


def test_defaults_and_fields_of_others_are_no_difference() -> None:
    assert first_difference(MANIFEST, live()) is None


def test_a_container_of_others_is_no_difference() -> None:
    made = live()
    pod(made)["containers"].insert(0, {"name": "sidecar", "image": "x"})
    assert first_difference(MANIFEST, made) is None


CHANGES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "spec.replicas": lambda made: made["spec"].update(replicas=3),
    "metadata.labels.app.kubernetes.io/managed-by": lambda made: made["metadata"]["labels"].pop(
        "app.kubernetes.io/managed-by"
    ),
    "metadata.annotations.holdfast.dev/desired-hash": lambda made: made["metadata"]["annotations"].update(
        {"holdfast.dev/desired-hash": "bbbb"}
    ),
    "metadata.ownerReferences[u1]": lambda made: made["metadata"]["ownerReferences"].clear(),
    "metadata.ownerReferences[u1].controller": lambda made: made["metadata"]["ownerReferences"][0].pop("controller"),
    "spec.selector.matchLabels": lambda made: made["spec"]["selector"].update(matchLabels="odd"),
    "spec.template.spec.automountServiceAccountToken": lambda made: pod(made).update(automountServiceAccountToken=True),
    "spec.template.spec.containers[server]": lambda made: container(made).update(name="other"),
    "spec.template.spec.containers[server].image": lambda made: container(made).update(image="two"),
    "spec.template.spec.containers[server].args": lambda made: container(made)["args"].append("later"),
    "spec.template.spec.containers[server].args[1]": lambda made: container(made)["args"].__setitem__(1, "later"),
    "spec.template.spec.containers[server].env[A].value": lambda made: container(made)["env"][0].update(value="2"),
    "spec.template.spec.containers[server].volumeMounts[/other]": lambda made: container(made)["volumeMounts"].pop(1),
    "spec.template.spec.volumes[tmp]": lambda made: pod(made)["volumes"].clear(),
}


@pytest.mark.parametrize("path", CHANGES)
def test_a_change_of_what_is_ours_is_named(path: str) -> None:
    made = live()
    CHANGES[path](made)
    assert first_difference(MANIFEST, made) == path


def test_a_label_more_in_a_services_selector_is_a_difference_for_it_stops_the_traffic() -> None:
    service = {"metadata": {}, "spec": {"selector": {"a": "b"}}}
    assert first_difference(service, {"metadata": {}, "spec": {"selector": {"a": "b", "c": "d"}}}) == "spec.selector"


def test_values_are_never_part_of_a_path() -> None:
    made = live()
    container(made)["env"][0]["value"] = "a-secret"
    assert "a-secret" not in str(first_difference(MANIFEST, made))


def test_zero_is_not_the_same_as_absent() -> None:
    desired = {"metadata": {}, "spec": {"replicas": 0}}
    assert first_difference(desired, {"metadata": {}, "spec": {"replicas": 1}}) == "spec.replicas"
    assert first_difference(desired, {"metadata": {}, "spec": {"replicas": 0}}) is None
