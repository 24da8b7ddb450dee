"""Renders the types of this package as CustomResourceDefinitions: `python -m holdfast.api.crd [--write|--check crds]`.

pydantic's JSON schema says more than a structural schema may, and less than one should. So this is an allow-list:
every keyword is either understood, here, or raises. What else it refuses are habits that hurt users later (floats,
anything without a bound, lists that cannot be merged, defaults inside of list items, references that reach far).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from holdfast.api.batchinference import BATCH_INFERENCE
from holdfast.api.meta import GROUP, NAME_RULES, UNSEEN, VERSION, Column, Kind, Model, rules
from holdfast.api.modeldeployment import MODEL_DEPLOYMENT
from holdfast.api.trainingjob import TRAINING_JOB

KINDS = (MODEL_DEPLOYMENT, TRAINING_JOB, BATCH_INFERENCE)
MAX_BYTES = 100 * 1024
"""Of one CRD as JSON, as `kubectl apply` keeps it in an annotation, which ends at 256 KiB."""
HEADER = "# Rendered from operator/holdfast/api by `make crds`. Do not edit.\n"

_COMMON = ("description", "default", "x-kubernetes-validations")
_REF_FIELDS = {"name", "sectionName", "key"}
_INT32 = 2**31 - 1
_INT64 = 2**63 - 1
_INTEGER_OR_STRING = [{"type": "integer"}, {"type": "string"}]

TEMPLATE = ".template.spec"
"""Where a kind holds another's spec."""

Schema = dict[str, Any]


class SchemaError(ValueError):
    """A type that a CustomResourceDefinition cannot or should not carry; says where and why."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path}: {problem}")


# --- Structural schema ----------------------------------------------------------------------------------------------


def structural_schema(model: type[Model], path: str) -> Schema:
    """The structural schema of `model`. Raises SchemaError with a place below `path`."""
    schema = model.model_json_schema()
    return _Walk(schema.pop("$defs", {})).visit(schema, path)


class _Walk:
    """One walk over a JSON schema and its definitions, which are put where they are used."""

    def __init__(self, definitions: Mapping[str, Schema]) -> None:
        self._definitions = definitions
        self._open: list[str] = []
        self._lists = 0

    def visit(self, schema: Schema, path: str) -> Schema:
        if "$ref" not in schema:
            return self._inlined(dict(schema), path)
        name = str(schema["$ref"]).rpartition("/")[2]
        if name in self._open:
            raise SchemaError(path, f"{name} contains itself, and a structural schema has no references")
        beside = {key: value for key, value in schema.items() if key != "$ref"}
        self._open.append(name)
        try:
            return self._inlined({**self._definitions[name], **beside}, path)
        finally:
            self._open.pop()

    def _inlined(self, schema: Schema, path: str) -> Schema:
        schema.pop("title", None)
        schema.pop("examples", None)
        if "anyOf" in schema:
            return self._choice(schema, path)
        if "const" in schema:
            schema["enum"] = [schema.pop("const")]
        if "default" in schema and self._lists:
            raise SchemaError(path, "a default inside a list item, which GitOps tools report as a difference for ever")
        kind = schema.pop("type", None)
        common = {key: schema.pop(key) for key in _COMMON if key in schema}
        if "x-kubernetes-validations" in common:
            pairs = common["x-kubernetes-validations"]
            common["x-kubernetes-validations"] = [_rule(pair, path) for pair in pairs]
        match kind:
            case "object" if "properties" in schema:
                rest = self._object(schema, path)
                _need(common, path, "description")
            case "object":
                rest = self._map(schema, path)
            case "array":
                rest = self._array(schema, path)
            case "string":
                rest = _string(schema, path)
            case "integer":
                rest = _integer(schema, path)
            case "boolean":
                rest = _allowed(schema, path)
            case _:
                raise SchemaError(path, f"type {kind} is not allowed (it has {', '.join(schema) or 'no keywords'})")
        return {"type": kind, **common, **rest}

    def _choice(self, schema: Schema, path: str) -> Schema:
        """`X | None` means that a field may be left out; `int | str` is known to Kubernetes; nothing else is."""
        arms = schema.pop("anyOf")
        present = [arm for arm in arms if arm != {"type": "null"}]
        if len(present) < len(arms) and "default" in schema and schema["default"] is None:
            del schema["default"]
        if len(present) == 1:
            return self.visit({**present[0], **schema}, path)
        if present != _INTEGER_OR_STRING:
            raise SchemaError(path, "a choice of types; use optional fields and a CEL rule that one of them is given")
        _need(schema, path, "maxLength")
        return {
            "anyOf": present,
            "x-kubernetes-int-or-string": True,
            **_allowed(schema, path, "description", "maxLength"),
        }

    def _object(self, schema: Schema, path: str) -> Schema:
        schema = _allowed(schema, path, "properties", "required", "additionalProperties")
        # False comes from extra="forbid". In Kubernetes pruning and the client's strict validation do that.
        if schema.pop("additionalProperties", False) is not False:
            raise SchemaError(path, "an object that takes unknown fields")
        schema["properties"] = {
            name: self._property(name, each, f"{path}.{name}") for name, each in schema["properties"].items()
        }
        return schema

    def _property(self, name: str, schema: Schema, path: str) -> Schema:
        result = self.visit(schema, path)
        _need(result, path, "description")
        if path.endswith(TEMPLATE):  # another kind's page has them, and there is not room for both
            result = {**_bare(result), "description": result["description"]}
        if name.endswith("Ref") and not result.get("properties", {"": 0}).keys() <= _REF_FIELDS:
            raise SchemaError(path, "a reference has no fields but name, sectionName and key")
        return result

    def _map(self, schema: Schema, path: str) -> Schema:
        schema = _allowed(schema, path, "additionalProperties", "maxProperties", "minProperties")
        _need(schema, path, "additionalProperties", "maxProperties")
        if not isinstance(schema["additionalProperties"], dict):
            raise SchemaError(path, "an object that takes unknown fields")
        return {**schema, "additionalProperties": self.visit(schema["additionalProperties"], f"{path}.*")}

    def _array(self, schema: Schema, path: str) -> Schema:
        schema = _allowed(
            schema, path, "items", "minItems", "maxItems", "x-kubernetes-list-type", "x-kubernetes-list-map-keys"
        )
        _need(schema, path, "items", "maxItems", "x-kubernetes-list-type")
        self._lists += 1
        items = self.visit(schema["items"], f"{path}[]")
        self._lists -= 1
        keys = schema.get("x-kubernetes-list-map-keys", [])
        if schema["x-kubernetes-list-type"] == "map" and not (keys and {*keys} <= {*items.get("required", [])}):
            raise SchemaError(path, "a list-map needs x-kubernetes-list-map-keys that are required fields of its items")
        return {**schema, "items": items}


def _bare(schema: Any) -> Any:
    """Without descriptions. A property of that name is none: it is an object."""
    if isinstance(schema, dict):
        return {key: _bare(value) for key, value in schema.items() if key != "description" or isinstance(value, dict)}
    return [_bare(each) for each in schema] if isinstance(schema, list) else schema


def _rule(rule: Schema, path: str) -> Schema:
    rule = _allowed(rule, path, "rule", "message")
    _need(rule, path, "rule", "message")
    return rule


def _string(schema: Schema, path: str) -> Schema:
    schema = _allowed(schema, path, "minLength", "maxLength", "pattern", "enum", "format")
    if schema.get("format", "date-time") != "date-time":
        raise SchemaError(path, f"format {schema['format']} is not allowed")
    if "enum" not in schema and "format" not in schema:
        _need(schema, path, "maxLength")
    return schema


def _integer(schema: Schema, path: str) -> Schema:
    # In JSON schema these are numbers, in Kubernetes booleans.
    if "exclusiveMinimum" in schema:
        schema["minimum"] = schema.pop("exclusiveMinimum") + 1
    if "exclusiveMaximum" in schema:
        schema["maximum"] = schema.pop("exclusiveMaximum") - 1
    schema = _allowed(schema, path, "minimum", "maximum")
    _need(schema, path, "minimum", "maximum")
    if not -_INT64 <= schema["minimum"] <= schema["maximum"] <= _INT64:
        raise SchemaError(path, "bounds that 64 bits cannot hold, or the wrong way round")
    return {**schema, "format": "int32" if max(-schema["minimum"], schema["maximum"]) <= _INT32 else "int64"}


def _allowed(schema: Schema, path: str, *known: str) -> Schema:
    unknown = schema.keys() - set(known)
    if unknown:
        raise SchemaError(path, f"keyword {', '.join(sorted(unknown))} is not allowed here")
    return {key: schema[key] for key in known if key in schema}


def _need(schema: Schema, path: str, *needed: str) -> None:
    missing = [key for key in needed if key not in schema]
    if missing:
        raise SchemaError(path, f"needs {', '.join(missing)}")


# --- CustomResourceDefinition ---------------------------------------------------------------------------------------


def custom_resource_definition(kind: Kind) -> Schema:
    """The CustomResourceDefinition of `kind`. Raises SchemaError."""
    subresources: Schema = {"status": {}}
    if kind.scale:
        subresources["scale"] = {
            "specReplicasPath": kind.scale.spec_replicas,
            "statusReplicasPath": kind.scale.status_replicas,
            "labelSelectorPath": kind.scale.selector,
        }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{kind.plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": kind.kind,
                "listKind": f"{kind.kind}List",
                "plural": kind.plural,
                "singular": kind.kind.lower(),
                "shortNames": [kind.short_name],
                "categories": ["holdfast"],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": subresources,
                    "additionalPrinterColumns": [_column(each) for each in kind.columns],
                    "schema": {"openAPIV3Schema": _root(kind)},
                }
            ],
        },
    }


def _root(kind: Kind) -> Schema:
    return {
        "type": "object",
        "description": kind.description,
        "required": ["spec"],
        **rules(*NAME_RULES, *kind.rules),
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": structural_schema(kind.spec, f"{kind.kind}.spec"),
            "status": {
                **structural_schema(kind.status, f"{kind.kind}.status"),
                "default": {"observedGeneration": UNSEEN},
            },
        },
    }


def _column(column: Column) -> Schema:
    wide = {"priority": 1} if column.wide else {}
    return {"name": column.name, "type": column.type, "jsonPath": column.path, **wide}


# --- Files ----------------------------------------------------------------------------------------------------------


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: object) -> bool:
        return True


def render() -> dict[str, str]:
    """The files of crds/, by name. Raises SchemaError."""
    definitions = {f"{kind.plural}.yaml": custom_resource_definition(kind) for kind in KINDS}
    for name, definition in definitions.items():
        size = len(json.dumps(definition, separators=(",", ":")).encode())
        if size > MAX_BYTES:
            raise SchemaError(name, f"has {size} bytes, more than {MAX_BYTES}")
    files = {name: _dump(definition) for name, definition in definitions.items()}
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": sorted(files),
    }
    return {**files, "kustomization.yaml": _dump(kustomization)}


def _dump(data: Schema) -> str:
    return HEADER + yaml.dump(data, Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m holdfast.api.crd",
        description="Render the CustomResourceDefinitions; without an option, to standard output.",
    )
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--write", metavar="FOLDER", type=Path, help="write the files")
    action.add_argument("--check", metavar="FOLDER", type=Path, help="fail if the files differ from what is rendered")
    chosen = parser.parse_args(arguments)
    files = render()
    if chosen.write:
        chosen.write.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (chosen.write / name).write_text(text, encoding="utf-8")
    elif chosen.check:
        stale = sorted(name for name, text in files.items() if _read(chosen.check / name) != text)
        if stale:
            print(f"{chosen.check}: {', '.join(stale)} differ from the types; run: make crds", file=sys.stderr)
            return 1
    else:
        sys.stdout.write("---\n".join(text for name, text in files.items() if name != "kustomization.yaml"))
    return 0


def _read(file: Path) -> str | None:
    return file.read_text(encoding="utf-8") if file.exists() else None


if __name__ == "__main__":
    sys.exit(main())
