"""Argo CD's health checks and actions, over their own test data and every state that the reference pages name."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.unit.api.test_reference_pages import rows, section
from tests.unit.gitops import tools
from tests.unit.gitops.tools import ARGOCD, CUSTOMIZATIONS, KINDS, Json

from holdfast_devcluster import binaries, paths

SUMMARY = {"ModelDeployment": "Ready", "TrainingJob": "Succeeded", "BatchInference": "Succeeded"}


def cases(file: str, what: str) -> list[Any]:
    """Of the test files of both kinds, each case with the folder that its paths begin in."""
    found = [(path.parent, case) for path in sorted(CUSTOMIZATIONS.rglob(file)) for case in tools.read(path)[what]]
    assert found
    return [
        pytest.param(folder, case, id=f"{case.get('action', folder.name)}-{Path(case['inputPath']).stem}")
        for folder, case in found
    ]


@pytest.mark.parametrize(("folder", "case"), cases("health_test.yaml", "tests"))
def test_health_is_as_said(folder: Path, case: Json) -> None:
    assert tools.health(tools.read(folder / case["inputPath"])) == case["healthStatus"]


@pytest.mark.parametrize(("folder", "case"), cases("action_test.yaml", "discoveryTests"))
def test_the_actions_that_can_be_run_are_those(folder: Path, case: Json) -> None:
    found = tools.discovered(tools.read(folder / case["inputPath"]))
    assert found == {one.pop("name"): one for one in case["result"]}
    assert {path.parent.name for path in folder.glob("*/action.lua")} == set(found)


@pytest.mark.parametrize(("folder", "case"), cases("action_test.yaml", "actionTests"))
def test_an_action_changes_what_it_is_for_and_nothing_else(folder: Path, case: Json) -> None:
    before = tools.read(folder / case["inputPath"])
    assert not tools.discovered(before)[case["action"]]["disabled"]
    assert tools.acted(before, case["action"]) == tools.read(folder / case["expectedOutputPath"])


@pytest.mark.parametrize("kind", KINDS)
def test_every_action_is_tried_and_no_test_data_lies_idle(kind: str) -> None:
    folder = CUSTOMIZATIONS / kind
    states = {case["inputPath"] for case in tools.read(folder / "health_test.yaml")["tests"]}
    assert states == {str(path.relative_to(folder)) for path in folder.glob("testdata/*")}
    tests = tools.read(folder / "actions" / "action_test.yaml")
    tried = tests["actionTests"]
    assert {case["action"] for case in tried} == {path.parent.name for path in folder.glob("actions/*/action.lua")}
    used = {case["inputPath"] for case in tests["discoveryTests"]} | {case["expectedOutputPath"] for case in tried}
    assert used == {str(path.relative_to(folder / "actions")) for path in folder.glob("actions/testdata/*")}


@pytest.mark.parametrize("kind", KINDS)
def test_every_state_of_the_reference_page_is_among_the_test_data(kind: str) -> None:
    page = (paths.REPOSITORY / "docs" / f"{kind.lower()}.md").read_text(encoding="utf-8")
    table = section(page, "Conditions").partition(f"| `{SUMMARY[kind]}` | Reason |")[2].partition("\n\n")[0]
    told = {
        (word, row[1].strip("`"))
        for row in rows(table)
        for word in row[0].replace("later ", "").split(", ")
        if row[0].startswith(("True", "False", "Unknown"))
    }
    assert told
    there = set()
    for path in (CUSTOMIZATIONS / kind / "testdata").iterdir():
        for condition in tools.read(path).get("status", {}).get("conditions", ()):
            if condition["type"] == SUMMARY[kind]:
                there.add((condition["status"], condition["reason"]))
            elif condition["type"] == "Stalled":
                there.add(("Stalled", condition["reason"]))
    assert not told - there, "add a state to testdata and to health_test.yaml"


def test_argocd_cm_holds_the_same_scripts() -> None:
    [config] = kustomized(ARGOCD)
    assert (config["metadata"]["name"], config["metadata"]["namespace"]) == ("argocd-cm", "argocd")
    for kind in KINDS:
        folder = CUSTOMIZATIONS / kind
        key = f"holdfast.dev_{kind}"
        assert config["data"].pop(f"resource.customizations.health.{key}") == (folder / "health.lua").read_text()
        actions = yaml.safe_load(config["data"].pop(f"resource.customizations.actions.{key}"))
        assert actions["discovery.lua"] == (folder / "actions" / "discovery.lua").read_text()
        assert {one["name"]: one["action.lua"] for one in actions["definitions"]} == {
            path.parent.name: path.read_text() for path in folder.glob("actions/*/action.lua")
        }
    assert config["data"] == {}


def test_the_component_adds_to_an_argocd_cm_of_somebody_else(tmp_path: Path) -> None:
    theirs = tools.read(ARGOCD / "argocd-cm.yaml") | {"data": {"url": "https://cd.example.com"}}
    (tmp_path / "argocd-cm.yaml").write_text(yaml.safe_dump(theirs))
    component = os.path.relpath(ARGOCD / "resource_customizations", tmp_path)
    whole = {"resources": ["argocd-cm.yaml"], "components": [component]}
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(whole))
    [config] = kustomized(tmp_path)
    assert config["data"]["url"] == "https://cd.example.com"
    assert len(config["data"]) == 1 + 2 * len(KINDS)
    assert config["metadata"]["labels"] == theirs["metadata"]["labels"]


def kustomized(folder: Path) -> list[Json]:
    done = subprocess.run([binaries.kubectl(), "kustomize", folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))
