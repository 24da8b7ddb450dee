"""The generator renders what a structural schema can carry, and raises on everything else."""

from __future__ import annotations

import datetime
import decimal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import yaml
from pydantic import Field, create_model

from holdfast.api import crd
from holdfast.api.crd import KINDS, MAX_BYTES, SchemaError, custom_resource_definition, render, structural_schema
from holdfast.api.meta import Kind, Model, ObjectRef, atomic_list, list_map, rules, set_list
from holdfast.api.modeldeployment import MODEL_DEPLOYMENT

CRDS = Path(__file__).parents[3] / "crds"

Short = Annotated[str, Field(max_length=8)]
Small = Annotated[int, Field(ge=0, le=9)]


class Inner(Model):
    """An inner object."""

    name: Short = Field(description="A name.")


class WithDefault(Model):
    """An object with a default."""

    size: Small = Field(1, description="A size.")


class LooksFar(Model):
    """A reference into another namespace."""

    name: Short = Field(description="A name.")
    namespace: Short = Field(description="A namespace.")


class Recursive(Model):
    """An object that contains its like."""

    child: Recursive | None = Field(None, description="Its like.")


class Open(Model, extra="allow"):
    """An object that takes unknown fields."""

    name: Short = Field(description="A name.")


class Undescribed(Model):
    name: Short = Field(description="A name.")


class Cat(Model):
    """A cat."""

    kind: Literal["Cat"] = Field(description="Which.")


class Dog(Model):
    """A dog."""

    kind: Literal["Dog"] = Field(description="Which.")


def schema_of(annotation: Any, name: str = "field", **options: Any) -> dict[str, Any]:
    """The schema of one field of this type. Raises SchemaError."""
    field = Field(**{"description": "A field.", **options})
    fields: Any = {name: (annotation, field)}
    model = create_model("Holder", __base__=Model, __doc__="A holder.", **fields)
    properties: dict[str, dict[str, Any]] = structural_schema(model, "Kind.spec")["properties"]
    (schema,) = properties.values()
    return schema


@pytest.mark.parametrize(
    ("annotation", "schema"),
    [
        (Short, {"type": "string", "maxLength": 8}),
        (Short | None, {"type": "string", "maxLength": 8}),
        (Literal["A", "B"], {"type": "string", "enum": ["A", "B"]}),
        (Literal["A"], {"type": "string", "enum": ["A"]}),
        (bool, {"type": "boolean"}),
        (Small, {"type": "integer", "minimum": 0, "maximum": 9, "format": "int32"}),
        (
            Annotated[int, Field(gt=0, lt=2**40)],
            {"type": "integer", "minimum": 1, "maximum": 2**40 - 1, "format": "int64"},
        ),
        (
            Annotated[int | str, Field(json_schema_extra={"maxLength": 8})],
            {
                "anyOf": [{"type": "integer"}, {"type": "string"}],
                "x-kubernetes-int-or-string": True,
                "maxLength": 8,
            },
        ),
        (datetime.datetime, {"type": "string", "format": "date-time"}),
        (
            Annotated[dict[str, Short], Field(max_length=4)],
            {"type": "object", "maxProperties": 4, "additionalProperties": {"type": "string", "maxLength": 8}},
        ),
        (
            Annotated[tuple[Short, ...], set_list(4)],
            {
                "type": "array",
                "minItems": 1,
                "maxItems": 4,
                "x-kubernetes-list-type": "set",
                "items": {"type": "string", "maxLength": 8},
            },
        ),
        (
            Annotated[tuple[Inner, ...], list_map("name", 4)],
            {
                "type": "array",
                "maxItems": 4,
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["name"],
                "items": {
                    "type": "object",
                    "description": "An inner object.",
                    "properties": {"name": {"type": "string", "description": "A name.", "maxLength": 8}},
                    "required": ["name"],
                },
            },
        ),
    ],
)
def test_a_type_becomes_a_structural_schema(annotation: Any, schema: dict[str, Any]) -> None:
    assert schema_of(annotation) == {"description": "A field.", **schema}


def test_a_field_is_required_unless_it_may_be_left_out() -> None:
    class Mixed(Model):
        """Some of both."""

        must: Short = Field(description="Required.")
        may: Short | None = Field(None, description="Optional.")
        has_default: Small = Field(3, description="With a default.")

    schema = structural_schema(Mixed, "Kind.spec")
    assert schema["required"] == ["must"]
    assert schema["properties"]["hasDefault"]["default"] == 3
    assert "default" not in schema["properties"]["may"]
    assert "nullable" not in str(schema)


def test_a_fields_own_description_and_rules_beat_those_of_its_type() -> None:
    schema = schema_of(Inner, description="Which one.", json_schema_extra=rules(("has(self.name)", "no name")))
    assert schema["description"] == "Which one."
    assert schema["x-kubernetes-validations"] == [{"rule": "has(self.name)", "message": "no name"}]


@pytest.mark.parametrize(
    ("annotation", "problem"),
    [
        pytest.param(float, "type number", id="float"),
        pytest.param(decimal.Decimal, "choice of types", id="decimal"),
        pytest.param(str, "needs maxLength", id="unbounded string"),
        pytest.param(int, "needs minimum, maximum", id="unbounded integer"),
        pytest.param(Annotated[int, Field(ge=0)], "needs maximum", id="integer without maximum"),
        pytest.param(Annotated[int, Field(ge=0, le=2**70)], "64 bits", id="integer beyond 64 bits"),
        pytest.param(Annotated[int, Field(ge=9, le=0)], "wrong way round", id="integer without any value"),
        pytest.param(Annotated[int, Field(ge=0, le=9, multiple_of=3)], "multipleOf", id="unknown keyword"),
        pytest.param(
            Annotated[tuple[Short, ...], Field(strict=False, json_schema_extra={"x-kubernetes-list-type": "atomic"})],
            "needs maxItems",
            id="unbounded list",
        ),
        pytest.param(
            Annotated[tuple[Short, ...], Field(max_length=4)], "needs x-kubernetes-list-type", id="list without type"
        ),
        pytest.param(Annotated[tuple[str, ...], atomic_list(4)], "needs maxLength", id="unbounded list item"),
        pytest.param(Annotated[tuple[WithDefault, ...], atomic_list(4)], "GitOps", id="default in a list item"),
        pytest.param(Annotated[tuple[Inner, ...], list_map("title", 4)], "required fields", id="list-map without key"),
        pytest.param(Annotated[tuple[Short, Small], atomic_list(2)], "prefixItems", id="tuple of several types"),
        pytest.param(dict[str, Short], "needs maxProperties", id="unbounded map"),
        pytest.param(Annotated[dict[str, str], Field(max_length=4)], "needs maxLength", id="map of unbounded strings"),
        pytest.param(Annotated[dict[str, Any], Field(max_length=4)], "unknown fields", id="map of anything"),
        pytest.param(
            Annotated[dict[Annotated[str, Field(pattern="^a$")], Short], Field(max_length=4)],
            "patternProperties",
            id="map with constrained keys",
        ),
        pytest.param(Any, "type None", id="anything"),
        pytest.param(None, "type null", id="null"),
        pytest.param(Cat | Dog, "choice of types", id="union"),
        pytest.param(Annotated[Cat | Dog, Field(discriminator="kind")], "oneOf", id="discriminated union"),
        pytest.param(int | str, "needs maxLength", id="unbounded integer or string"),
        pytest.param(Short | Small, "choice of types", id="string or integer with bounds"),
        pytest.param(bytes, "format binary", id="bytes"),
        pytest.param(datetime.timedelta, "format duration", id="duration"),
        pytest.param(datetime.date, "format date", id="date"),
        pytest.param(Recursive, "contains itself", id="recursion"),
        pytest.param(Open, "unknown fields", id="open object"),
    ],
)
def test_what_cannot_be_carried_raises_and_names_the_place(annotation: Any, problem: str) -> None:
    with pytest.raises(SchemaError, match=problem) as caught:
        schema_of(annotation)
    assert str(caught.value).startswith("Kind.spec.field")


def test_an_object_without_description_raises() -> None:
    with pytest.raises(SchemaError, match=r"Kind\.spec: needs description"):
        structural_schema(Undescribed, "Kind.spec")


def test_a_field_without_description_raises() -> None:
    with pytest.raises(SchemaError, match=r"Kind\.spec\.field: needs description"):
        schema_of(Small, description=None)


def test_a_rule_without_message_is_no_rule_that_a_person_understands() -> None:
    extra = {"x-kubernetes-validations": [{"rule": "true", "reason": "FieldValueInvalid"}]}
    with pytest.raises(SchemaError, match="reason is not allowed"):
        schema_of(Inner, json_schema_extra=extra)
    with pytest.raises(SchemaError, match="needs message"):
        schema_of(Inner, json_schema_extra={"x-kubernetes-validations": [{"rule": "true"}]})


@pytest.mark.parametrize("annotation", [LooksFar, Short], ids=["with namespace", "not an object"])
def test_a_reference_is_a_name_in_the_same_namespace_and_no_more(annotation: Any) -> None:
    assert schema_of(ObjectRef, name="secret_ref")["required"] == ["name"]
    with pytest.raises(SchemaError, match=r"Kind\.spec\.secretRef: a reference"):
        schema_of(annotation, name="secret_ref")


def test_a_crd_that_outgrows_its_bound_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    wordy = replace(MODEL_DEPLOYMENT, description="words " * (MAX_BYTES // 6 + 1))
    monkeypatch.setattr(crd, "KINDS", (wordy,))
    with pytest.raises(SchemaError, match=r"modeldeployments\.yaml: has \d+ bytes, more than 102400"):
        render()


# --- The committed files --------------------------------------------------------------------------------------------


def test_the_committed_files_are_what_the_types_say() -> None:
    committed = {file.name: file.read_text(encoding="utf-8") for file in CRDS.iterdir()}
    assert committed == render(), "run: make crds"


def test_check_names_the_file_that_differs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert crd.main(["--check", str(tmp_path)]) == 1
    assert crd.main(["--write", str(tmp_path)]) == 0
    assert crd.main(["--check", str(tmp_path)]) == 0
    (tmp_path / "trainingjobs.yaml").write_text("kind: Other")
    capsys.readouterr()
    assert crd.main(["--check", str(tmp_path)]) == 1
    complaint = capsys.readouterr().err
    assert "trainingjobs.yaml" in complaint
    assert "modeldeployments.yaml" not in complaint


def test_standard_output_is_one_stream_of_definitions(capsys: pytest.CaptureFixture[str]) -> None:
    assert crd.main([]) == 0
    documents = [*yaml.safe_load_all(capsys.readouterr().out)]
    assert [each["spec"]["names"]["kind"] for each in documents] == ["ModelDeployment", "TrainingJob", "BatchInference"]


# --- Rules of good APIs, asked of the result rather than of the generator -------------------------------------------


def every_schema(part: str = "") -> list[tuple[str, dict[str, Any]]]:
    """All schemas below spec and status, with their places; `part` is "spec" or "status" or empty for both."""

    def walk(path: str, schema: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
        below = [(f"{path}.{name}", each) for name, each in schema.get("properties", {}).items()]
        if "items" in schema:
            below.append((f"{path}[]", schema["items"]))
        if "additionalProperties" in schema:
            below.append((f"{path}.*", schema["additionalProperties"]))
        return [(path, schema), *(found for place, each in below for found in walk(place, each))]

    return [
        found
        for kind in KINDS
        for name in ("spec", "status")
        if part in ("", name)
        for found in walk(
            f"{kind.kind}.{name}",
            custom_resource_definition(kind)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"][name],
        )
    ]


def offenders(bad: Callable[[str, dict[str, Any]], bool], part: str = "") -> list[str]:
    return [path for path, schema in every_schema(part) if bad(path, schema)]


def test_the_walk_sees_the_whole_api() -> None:
    places = [path for path, _ in every_schema()]
    assert len(places) > 120
    assert "ModelDeployment.spec.serving.env[].valueFrom.configMapKeyRef.key" in places
    assert "TrainingJob.status.conditions[].message" in places


def test_no_field_is_a_float() -> None:
    assert not offenders(
        lambda _, schema: schema.get("type") == "number" or schema.get("format") in ("float", "double")
    )


def test_every_list_says_how_it_is_merged() -> None:
    assert not offenders(lambda _, schema: schema.get("type") == "array" and "x-kubernetes-list-type" not in schema)


def test_every_string_list_map_and_integer_has_a_bound() -> None:
    def unbounded(_: str, schema: dict[str, Any]) -> bool:
        bounds = {
            "string": {"maxLength", "enum", "format"},
            "array": {"maxItems"},
            "integer": {"maximum"},
            "object": {"maxProperties", "properties"},
        }
        return "type" in schema and schema["type"] in bounds and not bounds[schema["type"]] & schema.keys()

    assert not offenders(unbounded)


def test_nothing_is_nullable_and_nothing_takes_unknown_fields() -> None:
    assert not offenders(lambda _, schema: bool({"nullable", "x-kubernetes-preserve-unknown-fields"} & schema.keys()))


def test_no_default_lies_inside_a_list() -> None:
    assert not offenders(lambda path, schema: "default" in schema and "[]" in path)


def test_the_one_default_of_a_status_is_that_no_spec_was_seen() -> None:
    defaults = {path: schema["default"] for path, schema in every_schema("status") if "default" in schema}
    assert defaults == {f"{kind.kind}.status": {"observedGeneration": -1} for kind in KINDS}


def test_enum_values_are_words_in_camel_case() -> None:
    assert not offenders(
        lambda _, schema: not all(value[0].isupper() and value.isalnum() for value in schema.get("enum", []))
    )


def test_every_described_object_and_field_is_described_in_one_or_more_sentences() -> None:
    assert not offenders(lambda _, schema: not str(schema.get("description", ".")).endswith("."))


def test_there_is_no_phase_and_no_namespace() -> None:
    assert not offenders(lambda path, _: path.endswith((".phase", ".namespace")))


def test_every_rule_ends_in_words_and_not_in_a_full_stop() -> None:
    messages = [rule["message"] for _, schema in every_schema() for rule in schema.get("x-kubernetes-validations", [])]
    assert len(messages) > 20
    assert not [message for message in messages if message.endswith(".") or len(message) > 200]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.kind)
def test_every_kind_has_status_columns_a_short_name_and_the_category(kind: Kind) -> None:
    spec = custom_resource_definition(kind)["spec"]
    (version,) = spec["versions"]
    assert version["subresources"]["status"] == {}
    assert "holdfast" in spec["names"]["categories"]
    assert spec["names"]["shortNames"] == [
        {"ModelDeployment": "mdep", "TrainingJob": "tjob", "BatchInference": "binf"}[kind.kind]
    ]
    places = {path.removeprefix(kind.kind) for path, _ in every_schema()}
    for column in version["additionalPrinterColumns"]:
        field = column["jsonPath"].partition("[")[0]
        assert field in places or field == ".metadata.creationTimestamp"
