"""What the operator asks for: the JSON document in `HOLDFAST_BATCH` (docs/design: batch).

The document was checked by the operator. What does not fit here is a defect, and ends as `InternalError`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Batch:
    """One scoring run, and which share of it is this pod's.

    Attributes:
        model_digest: None for whatever is at the URI.
        keep: input columns that are copied beside the answers.
        batch_rows: in one call of the model.
        model_secret, input_secret, output_secret: names of the Secrets with the keys; empty for none.
        service_account: that the pod was told to be; empty for the namespace's default.
        max_bad: rows in a thousand that may be unreadable.
        pods, index: how many share the run, and which one this is.
        shards: files that the run makes; a multiple of `pods`.
    """

    model_uri: str
    model_digest: str | None
    input_uri: str
    input_digest: str | None
    input_format: Literal["CSV", "Parquet"] | None
    output_uri: str
    output_folder: str
    keep: tuple[str, ...]
    batch_rows: int
    max_bad: int
    pods: int
    index: int
    shards: int
    model_secret: str = ""
    input_secret: str = ""
    output_secret: str = ""
    service_account: str = ""

    @property
    def own(self) -> range:
        """The shards of this pod. They follow each other, so that a pod opens few files."""
        each = self.shards // self.pods
        return range(self.index * each, (self.index + 1) * each)


def parse(text: str, index: int) -> Batch:
    """The run of `HOLDFAST_BATCH` for the pod `index`. Raises ValueError or KeyError when it is not one."""
    document: dict[str, Any] = json.loads(text)
    model, source, output = document["model"], document["input"], document["output"]
    pods, shards = document["pods"], document["shards"]
    if source.get("format") not in (None, "CSV", "Parquet"):
        raise ValueError(f"unknown format {source['format']!r}")
    if shards % pods or not 0 <= index < pods:
        raise ValueError(f"{shards} shards cannot be shared by {pods} pods, of which this is {index}")
    return Batch(
        model_uri=model["uri"],
        model_digest=model.get("digest"),
        input_uri=source["uri"],
        input_digest=source.get("digest"),
        input_format=source.get("format"),
        output_uri=output["uri"],
        output_folder=output["folder"],
        keep=tuple(document.get("keepColumns", ())),
        batch_rows=document["batchRows"],
        max_bad=document["maxBadRowsPerMille"],
        pods=pods,
        index=index,
        shards=shards,
        model_secret=_secret(model),
        input_secret=_secret(source),
        output_secret=_secret(output),
        service_account=document.get("serviceAccountName", ""),
    )


def _secret(place: Mapping[str, Any]) -> str:
    reference: Mapping[str, str] = place.get("secretRef", {})
    return reference.get("name", "")
