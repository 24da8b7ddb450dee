"""The run that the operator asks for, from the JSON in `HOLDFAST_RUN`.

The API server has checked the TrainingJob's fields already, so a document that does not fit is a defect of the
operator, not of the user: it raises ValueError or KeyError and ends as `InternalError`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

Task = Literal["Classification", "Regression"]
Method = Literal["Sigmoid", "Isotonic"]
"""Of calibration."""


_SLICE_ROWS = 30


@dataclass(frozen=True, slots=True)
class Features:
    """Which columns are features. All empty: every column but the target, by type. `embeddings` are vectors."""

    numeric: tuple[str, ...] = ()
    categorical: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()
    embeddings: tuple[str, ...] = ()

    @property
    def listed(self) -> bool:
        """Whether the spec names the features; otherwise they are found by type."""
        return not self.excluded and bool(self.numeric or self.categorical or self.embeddings)

    def to_json(self) -> dict[str, list[str]]:
        """As in the spec."""
        named = {
            "numeric": self.numeric,
            "categorical": self.categorical,
            "excluded": self.excluded,
            "embeddings": self.embeddings,
        }
        return {kind: list(names) for kind, names in named.items() if names}


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """What is done to features before the estimator sees them."""

    impute_numeric: Literal["Median", "Mean", "Zero"] = "Median"
    scale_numeric: Literal["Standard", "MinMax", "Robust", "None"] = "Standard"
    encode_categorical: Literal["OneHot", "Ordinal"] = "OneHot"


@dataclass(frozen=True, slots=True)
class Range:
    """What a search may give a parameter: one of `values`, or a number from `low` to `high`, decimals both.

    Numbers are whole when both bounds are written so.
    """

    parameter: str
    values: tuple[str, ...] = ()
    low: str = ""
    high: str = ""
    scale: Literal["Linear", "Log"] = "Linear"


@dataclass(frozen=True, slots=True)
class Candidate:
    """An estimator, parameters that are set, and what is searched. Values are text, see `estimators`."""

    name: str
    parameters: Mapping[str, str]
    search: tuple[Range, ...] = ()


@dataclass(frozen=True, slots=True)
class Tuning:
    """How to choose among candidates."""

    trials: int
    parallelism: int
    metric: str
    folds: int
    sampler: Literal["TPE", "Random", "Grid", "CMAES"]
    pruner: Literal["None", "Median", "Hyperband"]


@dataclass(frozen=True, slots=True)
class Requirement:
    """A bound on a metric of the held-out rows; exactly one of the two is given."""

    metric: str
    minimum: str | None = None
    maximum: str | None = None


@dataclass(frozen=True, slots=True)
class SliceRequirement(Requirement):
    """A bound on a metric of each slice that has so many rows."""

    min_rows: int = _SLICE_ROWS


@dataclass(frozen=True, slots=True)
class ColumnCheck:
    """What a column must be. Bounds are decimals; None for none."""

    name: str
    max_missing_per_mille: int | None = None
    minimum: str | None = None
    maximum: str | None = None
    allowed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Checks:
    """What the data must be."""

    min_rows: int = 0
    columns: tuple[ColumnCheck, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The columns that are looked at."""
        return tuple(check.name for check in self.columns)


@dataclass(frozen=True, slots=True)
class Tracking:
    """An MLflow server that is told of the run. Empty names for none; of `secret` too.

    Attributes:
        model_version: of the registered model, which a gate is told; empty for one that is to be made.
    """

    uri: str
    experiment: str = ""
    registered_model: str = ""
    alias: str = ""
    secret: str = ""
    model_version: str = ""


@dataclass(frozen=True, slots=True)
class Run:
    """One training run."""

    data_uri: str
    data_digest: str | None
    data_format: Literal["CSV", "Parquet", "NPZ"] | None
    target: str
    task: Task
    features: Features
    preprocessing: Preprocessing
    split_method: Literal["Random", "RowDigest"]
    test_percent: int
    estimators: tuple[Candidate, ...]
    tuning: Tuning | None
    calibration: Method | None
    seed: int
    requirements: tuple[Requirement, ...]
    slices: tuple[str, ...]
    output_uri: str
    output_folder: str
    data_secret: str = ""
    output_secret: str = ""
    service_account: str = ""
    order_column: str = ""
    checks: Checks = Checks()
    slice_requirements: tuple[SliceRequirement, ...] = ()
    tracking: Tracking | None = None
    workers: int = 1
    """Processes that train one network together."""
    image: str = ""
    """That trains, by the name that the operator has for it."""


def parse(text: str) -> Run:
    """The run of `HOLDFAST_RUN`. Raises ValueError or KeyError when it is not one."""
    return of(json.loads(text))


def of(document: Mapping[str, Any]) -> Run:
    """The run of a document. Raises as `parse`."""
    data, output = document["data"], document["output"]
    features, preprocessing = document.get("features", {}), document.get("preprocessing", {})
    split = document.get("split", {})
    if document["task"] not in ("Classification", "Regression"):
        raise ValueError(f"unknown task {document['task']!r}")
    if data.get("format") not in (None, "CSV", "Parquet", "NPZ"):
        raise ValueError(f"unknown format {data['format']!r}")
    return Run(
        data_uri=data["uri"],
        data_digest=data.get("digest"),
        data_format=data.get("format"),
        target=document["target"],
        task=document["task"],
        features=Features(**{kind: tuple(names) for kind, names in features.items()}),
        preprocessing=Preprocessing(
            impute_numeric=_one_of(preprocessing, "imputeNumeric", "Median", "Mean", "Zero"),
            scale_numeric=_one_of(preprocessing, "scaleNumeric", "Standard", "MinMax", "Robust", "None"),
            encode_categorical=_one_of(preprocessing, "encodeCategorical", "OneHot", "Ordinal"),
        ),
        split_method=_one_of(split, "method", "Random", "RowDigest"),
        test_percent=split.get("testPercent", 20),
        estimators=tuple(map(_candidate, document["estimators"])),
        tuning=_tuning(document),
        calibration=None
        if (method := _one_of(document, "calibration", "None", *get_args(Method))) == "None"
        else method,
        seed=document.get("seed", 0),
        requirements=requirements_of(document),
        slices=tuple(document.get("slices", ())),
        output_uri=output["uri"],
        output_folder=output["folder"],
        data_secret=secret_of(data),
        output_secret=secret_of(output),
        service_account=document.get("serviceAccountName", ""),
        order_column=split.get("orderColumn", ""),
        checks=checks_of(data.get("checks", {})),
        slice_requirements=slice_requirements_of(document),
        tracking=tracking_of(document),
        workers=document.get("workers", 1),
        image=document.get("image", ""),
    )


def requirements_of(document: Mapping[str, Any]) -> tuple[Requirement, ...]:
    """What all held-out rows must reach."""
    return tuple(Requirement(**requirement) for requirement in document.get("requirements", ()))


def slice_requirements_of(document: Mapping[str, Any]) -> tuple[SliceRequirement, ...]:
    """What each slice of them must reach."""
    return tuple(
        SliceRequirement(
            requirement["metric"],
            requirement.get("minimum"),
            requirement.get("maximum"),
            requirement.get("minRows", _SLICE_ROWS),
        )
        for requirement in document.get("sliceRequirements", ())
    )


def tracking_of(document: Mapping[str, Any]) -> Tracking | None:
    """The server of a run's or a gate's `tracking`."""
    if (told := document.get("tracking")) is None:
        return None
    return Tracking(
        told["uri"],
        told.get("experiment", ""),
        told.get("registeredModel", ""),
        told.get("alias", ""),
        secret_of(told),
        told.get("modelVersion", ""),
    )


def checks_of(section: Mapping[str, Any]) -> Checks:
    """The checks of a spec's `data.checks`."""
    return Checks(
        section.get("minRows", 0),
        tuple(
            ColumnCheck(
                check["name"],
                check.get("maxMissingPerMille"),
                check.get("minimum"),
                check.get("maximum"),
                tuple(check.get("allowed", ())),
            )
            for check in section.get("columns", ())
        ),
    )


def secret_of(place: Mapping[str, Any]) -> str:
    """The name of the Secret with the keys to a place; empty for none."""
    return str(place.get("secretRef", {}).get("name", ""))


def _candidate(document: Mapping[str, Any]) -> Candidate:
    search = [{**item, "values": tuple(item.get("values", ()))} for item in document.get("search", ())]
    return Candidate(document["name"], dict(document.get("parameters", {})), tuple(Range(**item) for item in search))


def _tuning(document: Mapping[str, Any]) -> Tuning | None:
    tuning = document.get("tuning")
    if tuning is None:
        if len(document["estimators"]) != 1 or document["estimators"][0].get("search"):
            raise ValueError("several estimators, or a search, without tuning")
        return None
    return Tuning(
        trials=tuning.get("trials", 20),
        parallelism=tuning.get("parallelism", 1),
        metric=tuning.get("metric", "RMSE" if document["task"] == "Regression" else "Accuracy"),
        folds=tuning.get("folds", 5),
        sampler=_one_of(tuning, "sampler", "TPE", "Random", "Grid", "CMAES"),
        pruner=_one_of(tuning, "pruner", "None", "Median", "Hyperband"),
    )


def _one_of(section: Mapping[str, Any], key: str, default: str, *others: str) -> Any:
    value = section.get(key, default)
    if value not in (default, *others):
        raise ValueError(f"unknown {key} {value!r}")
    return value
