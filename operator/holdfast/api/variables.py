"""Environment variables that users give to containers."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from holdfast.api.meta import Model, ObjectName, list_map, validated


class ConfigMapKeyRef(Model):
    """A key of a ConfigMap in this namespace."""

    name: ObjectName = Field(description="ConfigMap.")
    key: str = Field(min_length=1, max_length=253, pattern="^[-._a-zA-Z0-9]+$", description="Key.")


class EnvSource(Model):
    """Where a variable's value comes from."""

    config_map_key_ref: ConfigMapKeyRef = Field(description="A key of a ConfigMap in this namespace.")


class EnvVar(Model):
    """One variable: a value, or a key of a ConfigMap."""

    model_config = validated(("has(self.value) != has(self.valueFrom)", "give exactly one of value and valueFrom"))

    name: str = Field(
        min_length=1, max_length=128, pattern="^[A-Za-z_][A-Za-z0-9_]*$", description="Name of the variable."
    )
    value: Annotated[str, Field(max_length=1024)] | None = Field(None, description="Its value.")
    value_from: EnvSource | None = Field(None, description="Where its value comes from.")


EnvVars = Annotated[
    tuple[EnvVar, ...],
    list_map(
        "name",
        32,
        (
            "self.all(e, !e.name.matches('^(HOLDFAST_|LD_|PYTHON|PATH$)'))",
            "names that begin with HOLDFAST_, LD_ or PYTHON, and PATH, are set by the operator",
        ),
    ),
]
