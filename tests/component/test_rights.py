"""The operator's rights are those that it uses, by what all the other tests of the tier made it do."""

from __future__ import annotations

import pytest
from tests.component.world import rendered, requests

from holdfast_devcluster import ControlPlane

Right = tuple[str, str, str]


@pytest.fixture(scope="module", autouse=True)
def all_others_have_run(request: pytest.FixtureRequest) -> None:
    modules = {item.path.name for item in request.session.items}
    if (
        not {f"test_{name}.py" for name in ("children", "leadership", "restarts", "retraining", "rules", "training")}
        <= modules
    ):
        pytest.skip("the whole tier has to run before it is known which rights are used")


def granted(plane: ControlPlane) -> set[Right]:
    roles = [document for document in rendered("base", plane) if document["kind"] in {"Role", "ClusterRole"}]
    return {
        (group, resource, verb)
        for role in roles
        if role["metadata"]["name"].startswith("holdfast-operator")
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def used(plane: ControlPlane) -> set[Right]:
    found: set[Right] = set()
    for event in requests(plane):
        about = event.get("objectRef")
        if about is None:
            continue
        resource = "/".join(part for part in (about["resource"], about.get("subresource")) if part)
        found.add((about.get("apiGroup", ""), resource, event["verb"]))
        if event["verb"] == "patch" and event["responseStatus"]["code"] == 201:
            found.add((about.get("apiGroup", ""), resource, "create"))  # server-side apply that creates needs both
    return found


def test_nothing_was_ever_refused_for_want_of_a_right(plane: ControlPlane) -> None:
    refused = [
        event
        for event in requests(plane)
        if event["responseStatus"]["code"] == 403
        and event["annotations"].get("authorization.k8s.io/decision") != "allow"
        # Of an API server that has just been started again it is known that it forgets all rights for a moment.
        and event.get("userAgent") not in {"holdfast/outage", "holdfast/outage-again"}
        and event.get("userAgent") != "holdfast/router-key"  # a test that asks for what it must not get
    ]
    assert refused == []


TAKES_A_DAY = {("holdfast.dev", "trainingjobs", "delete")}
"""Runs of retraining are kept for 24 hours."""


def test_every_right_is_used(plane: ControlPlane) -> None:
    assert granted(plane) - used(plane) == TAKES_A_DAY


def test_no_right_is_a_wildcard_or_about_what_is_not_the_operators(plane: ControlPlane) -> None:
    for group, resource, verb in granted(plane):
        assert "*" not in (group, resource, verb)
        assert resource not in {"serviceaccounts", "serviceaccounts/token", "pods/exec", "nodes"}


def test_the_only_secret_is_its_own_key(plane: ControlPlane) -> None:
    rules = {
        (role["metadata"].get("namespace"), verb, name)
        for role in rendered("base", plane)
        if role["kind"] in {"Role", "ClusterRole"} and role["metadata"]["name"].startswith("holdfast-operator")
        for rule in role["rules"]
        if "secrets" in rule["resources"]
        for verb in rule["verbs"]
        for name in rule.get("resourceNames", [None])
    }
    assert rules == {("holdfast-system", "create", None), ("holdfast-system", "get", "holdfast-router-key")}
