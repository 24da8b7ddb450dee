"""The reference pages say what the types say: every field with its type, default and bounds, and every reason."""

import json
import re
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any

import pytest

from holdfast.api.batchinference import BATCH_INFERENCE, BatchInferenceCondition, BatchInferenceReason
from holdfast.api.crd import structural_schema
from holdfast.api.meta import Kind
from holdfast.api.modeldeployment import (
    MODEL_DEPLOYMENT,
    Action,
    ModelDeploymentCondition,
    ModelDeploymentReason,
    Rejection,
)
from holdfast.api.trainingjob import TRAINING_JOB, TrainingJobCondition, TrainingJobReason

TOLD_ELSEWHERE = {"retraining.template.spec", "retraining.gate.data"}
"""Fields that another kind has, too: its page tells of them."""
DOCS = Path(__file__).parents[3] / "docs"
PAGES = [
    pytest.param(kind, (DOCS / f"{kind.kind.lower()}.md").read_text(encoding="utf-8"), id=kind.kind)
    for kind in (MODEL_DEPLOYMENT, TRAINING_JOB, BATCH_INFERENCE)
]
ENUMS: dict[str, tuple[type[StrEnum], type[StrEnum]]] = {
    "ModelDeployment": (ModelDeploymentReason, ModelDeploymentCondition),
    "TrainingJob": (TrainingJobReason, TrainingJobCondition),
    "BatchInference": (BatchInferenceReason, BatchInferenceCondition),
}


def section(page: str, heading: str) -> str:
    """The text under a heading of the second level."""
    return page.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def rows(text: str) -> list[list[str]]:
    """The rows of its tables without headings; cells without blanks around them."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    dividers = {number for number, row in enumerate(cells) if set("".join(row)) <= {"-"}}
    return [row for number, row in enumerate(cells) if not {number, number + 1} & dividers]


def fields(kind: Kind) -> Iterator[tuple[str, dict[str, Any], bool]]:
    """Path below spec, schema and whether it is required, of every field."""

    def walk(schema: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any], bool]]:
        for name, each in schema.get("properties", {}).items():
            place = f"{path}{name}"
            yield place, each, name in schema.get("required", [])
            if place in TOLD_ELSEWHERE:
                continue
            yield from walk(each.get("items", each), f"{place}{'[]' if 'items' in each else ''}.")

    yield from walk(structural_schema(kind.spec, kind.kind), "")


def type_of(schema: dict[str, Any]) -> str:
    if schema["type"] == "array":
        keys = schema.get("x-kubernetes-list-map-keys")
        return f"list by `{keys[0]}`" if keys else {"set": "set"}.get(schema["x-kubernetes-list-type"], "list")
    return "map" if "additionalProperties" in schema else str(schema["type"])


def bounds_of(schema: dict[str, Any]) -> list[str]:
    """Words that must be in the row's bounds; empty where a row may say what it likes."""
    if schema["type"] == "array":
        least, most = schema.get("minItems"), schema["maxItems"]
        return [f"{least}–{most} items" if least else f"at most {most} items", *_text_bounds(schema["items"])]
    if "additionalProperties" in schema:
        return [f"at most {schema['maxProperties']} entries", *_text_bounds(schema["additionalProperties"])]
    if schema["type"] == "integer":
        return [f"{schema['minimum']}–{schema['maximum']}"]
    if "enum" in schema:
        return [f"`{value}`" for value in schema["enum"]] if len(schema["enum"]) < 8 else ["see ["]
    if "maxLength" in schema and schema["maxLength"] not in (24, 71):  # decimals and digests are told in words
        least = schema.get("minLength")
        return [f"{least}–{schema['maxLength']} characters" if least else f"at most {schema['maxLength']} characters"]
    return []


def _text_bounds(item: dict[str, Any]) -> list[str]:
    return bounds_of(item) if item.get("type") == "string" else []


@pytest.mark.parametrize(("kind", "page"), PAGES)
def test_every_field_is_there_in_order_with_type_default_and_bounds(kind: Kind, page: str) -> None:
    table = {row[0].strip("`"): row[1:] for row in rows(section(page, "Writing a spec")) if len(row) == 5}
    assert [*table] == [path for path, _, _ in fields(kind)]
    for path, schema, required in fields(kind):
        type_, default, bounds, meaning = table[path]
        assert type_ == type_of(schema), path
        wanted = "required" if required else f"`{_plain(schema['default'])}`" if "default" in schema else ""
        assert default == wanted, path
        for words in bounds_of(schema):
            assert words in bounds, path
        assert meaning.endswith("."), path


def _plain(default: object) -> str:
    return default if isinstance(default, str) else json.dumps(default)


@pytest.mark.parametrize(("kind", "page"), PAGES)
def test_every_enum_value_is_named(kind: Kind, page: str) -> None:
    values = {value for _, schema, _ in fields(kind) for value in schema.get("enum", [])}
    assert not {value for value in values if f"`{value}`" not in page}


@pytest.mark.parametrize(("kind", "page"), PAGES)
def test_every_field_of_status_is_there(kind: Kind, page: str) -> None:
    first = " ".join(row[0] for row in rows(section(page, "Status")))
    named = [name.removesuffix("[]") for name in re.findall(r"`([^`]+)`", first)]
    schema = structural_schema(kind.status, kind.kind)["properties"]
    assert named == [*schema]
    for name, each in schema.items():
        for below in each.get("items", each).get("properties", {}):
            assert f"`{below}`" in section(page, "Status"), f"{name}.{below}"


@pytest.mark.parametrize(("kind", "page"), PAGES)
def test_every_condition_and_every_reason_is_there_and_no_other(kind: Kind, page: str) -> None:
    reasons, conditions = ENUMS[kind.kind]
    text = section(page, "Conditions")
    assert not {condition for condition in conditions if f"`{condition}`" not in text}
    told = {match[1] for row in rows(text) if len(row) >= 3 and (match := re.fullmatch(r"`(\w+)`", row[1]))}
    assert told == {str(reason) for reason in reasons}


@pytest.mark.parametrize(
    ("file", "heading"), [("modeldeployment.md", "Decisions"), ("rollouts.md", "Decisions and what to do")]
)
def test_every_decision_and_every_reason_to_reject_is_told(file: str, heading: str) -> None:
    first = " ".join(" ".join(row[:2]) for row in rows(section((DOCS / file).read_text(encoding="utf-8"), heading)))
    told = set(re.findall(r"`(\w+)`", first))
    assert not {*Action, *Rejection} - told


def anchors(page: str) -> set[str]:
    """What a link can lead to: headings, as GitHub names them."""
    titles = re.findall("^#+ (.*)", page, re.M)
    return {re.sub(r"[^\w -]", "", title).strip().lower().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("file", ["modeldeployment.md", "rollouts.md", "trainingjob.md", "batchinference.md"])
def test_every_link_leads_somewhere(file: str) -> None:
    links = re.findall(r"\]\(([^)]+)\)", (DOCS / file).read_text(encoding="utf-8"))
    assert links
    for link in links:
        target, _, anchor = link.partition("#")
        page = DOCS / (target or file)
        assert page.exists(), link
        assert not anchor or anchor in anchors(page.read_text(encoding="utf-8")), link
