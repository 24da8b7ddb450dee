"""What all kinds share: the base of the types, constraints that schema and parser both know, conditions, names.

Field names are snake_case here and camelCase in JSON. The types describe objects as the API server hands them out: it
has pruned, defaulted and checked them, CEL rules included, which is why no rule is evaluated a second time here.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Literal, Self, cast

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer
from pydantic.alias_generators import to_camel
from pydantic.config import JsonDict

GROUP = "holdfast.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"

MAX_NAME = 52
"""Of a custom resource: `X-R` and `X-candidate` must fit into the 63 characters of a Service or a label."""
MAX_MESSAGE = 1024
"""Characters in a condition's message."""


class Model(BaseModel):
    """Base of every API type: strict, frozen, unknown fields refused.

    An unknown field means that the CRD is newer than this operator. Reading over it would be to act on half a wish.
    """

    model_config = ConfigDict(
        strict=True,
        frozen=True,
        extra="forbid",
        alias_generator=to_camel,
        validate_by_alias=True,
        validate_by_name=True,
        serialize_by_alias=True,
    )

    @classmethod
    def parse(cls, data: Mapping[str, Any]) -> Self:
        """Read the JSON form. Raises pydantic.ValidationError."""
        return cls.model_validate(data)

    def to_json(self) -> dict[str, Any]:
        """The JSON form: camelCase, absent instead of null, times as RFC 3339 in whole seconds."""
        return self.model_dump(mode="json", exclude_none=True)


def rules(*pairs: tuple[str, str]) -> JsonDict:
    """CEL rules as (expression, message), to be merged into a schema."""
    return {"x-kubernetes-validations": [{"rule": rule, "message": message} for rule, message in pairs]}


def validated(*pairs: tuple[str, str]) -> ConfigDict:
    """A class's configuration with CEL rules on the whole object."""
    return ConfigDict(json_schema_extra=rules(*pairs))


def one_run(kind: str, may_change: Collection[str], *pairs: tuple[str, str]) -> ConfigDict:
    """A spec's configuration with CEL rules on the whole object, under which only the fields `may_change` can change.

    Every other field is compared by itself, six to a rule: CEL cannot compare an object but for some of its fields.
    """
    message = f"a {kind} is one run and cannot change ({' and '.join(may_change)} may): give the new run a new name"

    def extra(schema: JsonDict) -> None:
        fields = cast("dict[str, JsonDict]", schema["properties"])
        always = {*cast("list[str]", schema.get("required", []))}
        always |= {name for name, field in fields.items() if field.get("default") is not None}
        kept = [_unchanged(name, name in always) for name in fields if name not in may_change]
        transitions = ((" && ".join(kept[first : first + 6]), message) for first in range(0, len(kept), 6))
        schema.update(rules(*pairs, *transitions))

    return ConfigDict(json_schema_extra=extra)


def _unchanged(field: str, always: bool) -> str:
    """CEL that says whether a field, which is always there or may be left out, is what it was."""
    if always:
        return f"self.{field} == oldSelf.{field}"
    return f"has(self.{field}) == has(oldSelf.{field}) && (!has(self.{field}) || self.{field} == oldSelf.{field})"


_ATOMIC: JsonDict = {"x-kubernetes-list-type": "atomic"}
_SET: JsonDict = {"x-kubernetes-list-type": "set"}


def atomic_list(most: int) -> Any:
    """Constraint on a tuple: a list that one writer owns as a whole."""
    return Field(strict=False, max_length=most, json_schema_extra=_ATOMIC)


def set_list(most: int) -> Any:
    """Constraint on a tuple: a list without duplicates, and not empty (leave it out instead)."""
    return Field(strict=False, min_length=1, max_length=most, json_schema_extra=_SET)


def list_map(key: str, most: int, *pairs: tuple[str, str], least: int = 0) -> Any:
    """Constraint on a tuple of objects: entries are told apart, and merged, by `key`."""
    extra: JsonDict = {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [key]}
    if pairs:
        extra |= rules(*pairs)
    return Field(strict=False, min_length=least or None, max_length=most, json_schema_extra=extra)


_LABEL_KEY = "^([a-z0-9]([-.a-z0-9]*[a-z0-9])?/)?[A-Za-z0-9]([-_.A-Za-z0-9]*[A-Za-z0-9])?$"
_LABEL_VALUE = "^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$"
_SUBDOMAIN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"

Digest = Annotated[str, Field(pattern="^sha256:[0-9a-f]{64}$", max_length=71)]
ObjectName = Annotated[str, Field(min_length=1, max_length=253, pattern=_SUBDOMAIN)]
Decimal = Annotated[str, Field(max_length=24, pattern=r"^-?[0-9]{1,12}(\.[0-9]{1,9})?$")]
"""A number in a spec, where floats have no place: they do not survive every client unchanged."""
Count = Annotated[int, Field(ge=0, le=2**53)]
UNSEEN = -1
ObservedGeneration = Annotated[int, Field(ge=UNSEEN, le=2**53)]
"""Of a status: `UNSEEN` until it has been written, since without a generation kstatus takes an object for done."""
Text = Annotated[str, Field(max_length=256)]
ShortText = Annotated[str, Field(max_length=64)]


def _rfc3339(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


Time = Annotated[datetime, Field(strict=False), PlainSerializer(_rfc3339, when_used="json")]


# --- URIs ---------------------------------------------------------------------------------------------------------

_BLANK = r"\\x00-\\x20\\x7f\\\\"
_CLAIM_URI = rf"pvc://[a-z0-9]([-.a-z0-9]*[a-z0-9])?(/[^{_BLANK}?#]*)?"
_WEB_URI = rf"https?://[^{_BLANK}/?#]+([/?][^{_BLANK}#]*)?"
_STORE_URI = rf"(s3|gs|az)://[a-z0-9][-a-z0-9._]{{1,220}}[a-z0-9](/[^{_BLANK}?#]*)?"
_ARTIFACT_URI = rf"oci://[^{_BLANK}/?#]+(/[a-z0-9]+(([._]|__|-+)[a-z0-9]+)*)+(:[A-Za-z0-9_][-A-Za-z0-9._]{{0,127}}|@sha256:[0-9a-f]{{64}})?"

_REGISTERED_URI = rf"models:/[^{_BLANK}/:@?#%]{{1,250}}(@[A-Za-z_-][A-Za-z0-9_-]{{0,127}}|/[0-9]{{1,9}})"


def _uri_rules(pattern: str, usable: str) -> JsonDict:
    return rules(
        (f"self.matches('^({pattern})$')", f"not a URI that can be used here; give {usable}"),
        (
            "!self.matches('^[a-z]+://[^/?#]*@')",
            "a URI must not carry a user name or password: whoever may read this object would read them",
        ),
        (
            "!self.matches('(?i)[?&](sig|signature|token|access_token|x-amz-signature|x-goog-signature)=')",
            "a signed URL is a password that expires: name the object without the signature",
        ),
        ("!self.matches('(?i)(^|/)([.]|%2e)([.]|%2e)([/?]|$)')", "a URI must not contain '..'"),
    )


ModelUri = Annotated[
    str,
    Field(
        max_length=1024,
        json_schema_extra=_uri_rules(
            f"{_CLAIM_URI}|{_WEB_URI}|{_STORE_URI}|{_ARTIFACT_URI}",
            "one of pvc://CLAIM/PATH, http(s)://HOST/PATH, s3://BUCKET/PATH, gs://BUCKET/PATH, az://CONTAINER/PATH, "
            "oci://HOST/REPOSITORY:TAG",
        ),
    ),
]
"""Where a model is read from: on a claim, a web server, an object store, or in a registry."""
ServedUri = Annotated[
    str,
    Field(
        max_length=1024,
        json_schema_extra=_uri_rules(
            f"{_CLAIM_URI}|{_WEB_URI}|{_STORE_URI}|{_ARTIFACT_URI}|{_REGISTERED_URI}",
            "one of pvc://CLAIM/PATH, http(s)://HOST/PATH, s3://BUCKET/PATH, gs://BUCKET/PATH, az://CONTAINER/PATH, "
            "oci://HOST/REPOSITORY:TAG, models:/NAME@ALIAS",
        ),
    ),
]
"""Where a model is read from, or by what it is found in an MLflow registry."""
DataUri = Annotated[
    str,
    Field(
        max_length=1024,
        json_schema_extra=_uri_rules(
            f"{_CLAIM_URI}|{_WEB_URI}|{_STORE_URI}",
            "one of pvc://CLAIM/PATH, http(s)://HOST/PATH, s3://BUCKET/PATH, gs://BUCKET/PATH, az://CONTAINER/PATH",
        ),
    ),
]
"""Where data are read from: on a claim, a web server or an object store."""
BundleUri = Annotated[
    str,
    Field(
        max_length=1024,
        json_schema_extra=_uri_rules(
            f"{_CLAIM_URI}|{_STORE_URI}",
            "one of pvc://CLAIM/PATH, s3://BUCKET/PATH, gs://BUCKET/PATH, az://CONTAINER/PATH",
        ),
    ),
]
"""Where a bundle or answers are written to: on a claim or in an object store."""


# --- What pods need -------------------------------------------------------------------------------------------------


def _is_quantity(value: str) -> str:
    """CEL that says whether `value` is a quantity, but reads no exponent so large that this takes minutes."""
    return f"!string({value}).matches('[eE][-+]?[0-9]{{3,}}') && isQuantity(string({value}))"


# No patterns here: the API server would show the regular expression to whoever mistypes.
Quantity = Annotated[int | str, Field(json_schema_extra={"maxLength": 32})]
Quantities = Annotated[
    dict[str, Quantity],
    Field(
        max_length=8,
        json_schema_extra=rules(
            (
                "self.all(k, k.matches('^(cpu|memory|ephemeral-storage|hugepages-.+|[^/]+/[^/]+)$'))",
                "a resource is cpu, memory, ephemeral-storage, hugepages-SIZE or DOMAIN/NAME",
            ),
            (
                f"self.all(k, {_is_quantity('self[k]')})",
                "a quantity is a number with or without a suffix, like 2, 500m or 1Gi",
            ),
            (
                f"self.all(k, !({_is_quantity('self[k]')}) || !quantity(string(self[k])).isLessThan(quantity('0')))",
                "a quantity must not be negative",
            ),
        ),
    ),
]


class Resources(Model):
    """Compute resources of each pod, as in a Pod."""

    model_config = validated(
        (
            "!has(self.requests) || !has(self.limits) || self.requests.all(k, !(k in self.limits)"
            f" || !({_is_quantity('self.requests[k]')}) || !({_is_quantity('self.limits[k]')})"
            " || quantity(string(self.requests[k])).compareTo(quantity(string(self.limits[k]))) <= 0)",
            "a resource's request must not be greater than its limit",
        ),
    )

    requests: Quantities | None = Field(None, description="What the scheduler reserves.")
    limits: Quantities | None = Field(None, description="What the pod may use at most.")


class Toleration(Model):
    """A taint that the pods tolerate, as in a Pod."""

    model_config = validated(
        (
            "has(self.key) && self.key != '' || has(self.operator) && self.operator == 'Exists'",
            "a toleration without key needs operator Exists",
        ),
        (
            "!has(self.operator) || self.operator != 'Exists' || !has(self.value) || self.value == ''",
            "a toleration with operator Exists has no value",
        ),
        (
            "!has(self.tolerationSeconds) || has(self.effect) && self.effect == 'NoExecute'",
            "tolerationSeconds needs effect NoExecute",
        ),
    )

    key: Annotated[str, Field(max_length=316)] | None = Field(None, description="Taint key. Absent: every key.")
    operator: Literal["Exists", "Equal"] | None = Field(None, description="Absent: Equal.")
    value: Annotated[str, Field(max_length=63, pattern=_LABEL_VALUE)] | None = Field(None, description="Taint value.")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        None, description="Taint effect. Absent: every effect."
    )
    toleration_seconds: Annotated[int, Field(ge=0, le=2**31)] | None = Field(
        None, description="How long a pod stays on a node that gets the taint. Absent: for ever."
    )


NodeSelector = Annotated[
    dict[str, Annotated[str, Field(max_length=63)]],
    Field(
        max_length=16,
        json_schema_extra=rules(
            (
                f"self.all(k, k.matches('{_LABEL_KEY}') && self[k].matches('{_LABEL_VALUE}'))",
                "nodeSelector holds labels of nodes, like disktype: ssd or topology.kubernetes.io/zone: z1",
            )
        ),
    ),
]
Tolerations = Annotated[tuple[Toleration, ...], atomic_list(16)]


class ObjectRef(Model):
    """An object in the same namespace. There is no namespace field, so that nothing can reach into another one."""

    name: ObjectName = Field(description="Name of the object.")


# --- Status ---------------------------------------------------------------------------------------------------------

Status = Literal["True", "False", "Unknown"]


class Condition(Model):
    """One aspect of the current state."""

    type: str = Field(max_length=64, pattern="^[A-Z][A-Za-z]*$", description="What it is about.")
    status: Status = Field(description="Whether it holds.")
    observed_generation: Count | None = Field(None, description="The metadata.generation that it describes.")
    last_transition_time: Time = Field(description="When status last changed.")
    reason: str = Field(min_length=1, max_length=64, pattern="^[A-Z][A-Za-z0-9]*$", description="Why, in one word.")
    message: str = Field(max_length=MAX_MESSAGE, description="Why, in a sentence, and what to do.")


Conditions = Annotated[tuple[Condition, ...], list_map("type", 16)]


# --- Kinds ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Column:
    """A column of `kubectl get`."""

    name: str
    path: str
    type: Literal["string", "integer", "date"] = "string"
    wide: bool = False
    """Shown with `-o wide` only."""


def condition_column(name: str, condition: StrEnum, part: str, *, wide: bool = False) -> Column:
    """A column that shows `part` (status, reason, message) of one condition."""
    return Column(name, f'.status.conditions[?(@.type=="{condition}")].{part}', wide=wide)


AGE = Column("Age", ".metadata.creationTimestamp", "date")


@dataclass(frozen=True, slots=True)
class Scale:
    """Paths of the scale subresource."""

    spec_replicas: str
    status_replicas: str
    selector: str


@dataclass(frozen=True, slots=True)
class Kind:
    """All that a CustomResourceDefinition says beside the schema of spec and status."""

    kind: str
    plural: str
    short_name: str
    description: str
    spec: type[Model]
    status: type[Model]
    columns: Sequence[Column]
    scale: Scale | None = None
    rules: Sequence[tuple[str, str]] = ()
    """CEL rules on the object (metadata.name) beside those that every kind has."""


NAME_RULES = (
    (
        f"self.metadata.name.size() <= {MAX_NAME}",
        f"metadata.name must have at most {MAX_NAME} characters: names of child objects are built from it",
    ),
    (
        "self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
        "metadata.name must begin with a letter and hold only a-z, 0-9 and '-'",
    ),
)
