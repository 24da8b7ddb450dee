"""Columns that the names of folders give: `year=2026/month=11/part-0.parquet`, as Hive, Spark and others write them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import unquote

import pyarrow as pa

from holdfast_bundle.uris import Uri
from holdfast_training.errors import Finding, data_invalid, listed

_NULL = "__HIVE_DEFAULT_PARTITION__"


def of(name: str) -> dict[str, str | None]:
    """The columns that a file's name gives, and their values; None for a missing one."""
    pairs = (part.partition("=") for part in name.split("/")[:-1])
    return {unquote(key): None if value == _NULL else unquote(value) for key, _, value in pairs}


def columns(uri: Uri, names: Sequence[str]) -> tuple[str, ...]:
    """Names of the columns that the files' names give.

    Raises:
        TrainingError: `DataInvalid` for folders that are no partitions, or not of the same columns.
    """
    if any(part.find("=") < 1 for name in names for part in name.split("/")[:-1]):
        words = "holds folders whose names are not COLUMN=VALUE; only partitions are read"
        raise data_invalid([Finding("FolderInFolder", f"{uri} {words}")])
    keys = [tuple(of(name)) for name in names]
    odd = {key for found in keys for key in found if any(key not in other for other in keys)}
    if odd or any(len(found) < name.count("/") for found, name in zip(keys, names, strict=True)):
        words = f"its files do not lie in folders of the same columns: {listed(sorted(odd))}".rstrip(": ")
        raise data_invalid([Finding("PartitionsDiffer", f"{uri}: {words}")])
    return keys[0] if keys else ()


def added(table: pa.Table, given: Mapping[str, str | None]) -> pa.Table:
    """The table with a column of one text for each."""
    for name, value in given.items():
        table = table.append_column(name, pa.repeat(pa.scalar(value, pa.string()), table.num_rows))
    return table
