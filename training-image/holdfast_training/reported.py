"""What a trainer of one's own reports: `metrics.json`, and `slices.json` of the form that built-in trainers write.

It is somebody's work: every number and every length is looked at.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from holdfast_training import evaluation
from holdfast_training.errors import TrainingError
from holdfast_training.slices import Slice

METRICS = "metrics.json"
SLICES = "slices.json"

_MAX_METRICS = 32
_MAX_SLICES = 10_000
_MAX_BYTES = 1 << 20
_MAX_COLUMN = 128
_MAX_ROWS = 2**40
_METRIC_NAME = re.compile(r"[A-Za-z][-A-Za-z0-9_.@]{0,63}")
_LARGEST = 1e12


def violated(what: str) -> TrainingError:
    """The contract of docs/own-trainer.md was not kept."""
    return TrainingError("ContractViolated", what)


def metrics(path: Path | None) -> dict[str, Any]:
    """The object of `metrics.json`, whose numbers are exact. Raises TrainingError `ContractViolated`."""
    document = _json(METRICS, path)
    if not isinstance(document, dict):
        raise violated(f'{METRICS} is not a JSON object, like {{"Accuracy": 0.97}}')
    return document


def decimals(metrics: Mapping[str, Any]) -> dict[str, str]:
    """Decimals by name, from numbers or texts of numbers. Raises TrainingError `ContractViolated`."""
    if len(metrics) > _MAX_METRICS:
        raise violated(f"there are {len(metrics)} metrics, more than {_MAX_METRICS}")
    return {_metric_name(name): evaluation.formatted(_number(name, value)) for name, value in metrics.items()}


def slices(path: Path | None) -> list[Slice]:
    """The slices of `slices.json`. Raises TrainingError `ContractViolated`."""
    document = _json(SLICES, path)
    if not isinstance(document, list) or len(document) > _MAX_SLICES:
        raise violated(f"{SLICES} is not a list of at most {_MAX_SLICES:,} slices")
    found = [_slice(place, item) for place, item in enumerate(document)]
    if len({(each.column, each.index) for each in found}) < len(found):
        raise violated(f"{SLICES} has two slices of the same column and index")
    return found


def _slice(place: int, item: Any) -> Slice:
    told: dict[str, Any] = item if isinstance(item, dict) else {}
    column, values = told.get("column"), told.get("metrics")
    named = isinstance(column, str) and 0 < len(column) <= _MAX_COLUMN
    if not (named and isinstance(values, dict) and _is_count(told.get("index")) and _is_count(told.get("rows"))):
        raise violated(
            f"item {place} of {SLICES} is not of the form "
            '{"column": "region", "index": 0, "rows": 41, "metrics": {"Accuracy": 0.97}}'
        )
    if len(values) > _MAX_METRICS:
        raise violated(f"item {place} of {SLICES} has {len(values)} metrics, more than {_MAX_METRICS}")
    numbers = {_metric_name(name): _number(name, value) for name, value in values.items()}
    return Slice(str(column), int(told["index"]), "", int(told["rows"]), numbers)


def _is_count(value: Any) -> bool:
    return isinstance(value, Decimal) and value.is_finite() and 0 <= value <= _MAX_ROWS and value == int(value)


def _json(name: str, path: Path | None) -> Any:
    if path is None:
        raise violated(f"{name} is not in HOLDFAST_OUTPUT")
    if path.stat().st_size > _MAX_BYTES:
        raise violated(f"{name} is larger than {_MAX_BYTES >> 20} MiB")
    try:
        return json.loads(path.read_bytes(), parse_float=Decimal, parse_int=Decimal)
    except (ValueError, RecursionError) as error:
        raise violated(f"{name} is not JSON") from error


def _metric_name(name: str) -> str:
    if not _METRIC_NAME.fullmatch(name):
        raise violated("the name of a metric begins with a letter and has at most 64 letters, digits or any of -._@")
    return name


def _number(name: str, value: Any) -> float:
    try:
        number = float(Decimal(value)) if isinstance(value, Decimal | str) else math.nan
    except (InvalidOperation, OverflowError):
        number = math.nan
    if not abs(number) < _LARGEST:
        raise violated(f"the metric {name} is not a number, or one with more than 12 digits before the point")
    return number
