"""The two steps around a trainer of one's own (docs/own-trainer.md): bring the data; look at what it left, and publish.

What it left is somebody's work. Links are not followed, the model is loaded before anybody may serve it, and the
manifest is written here, whoever wrote one before.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import onnx

from holdfast_bundle import manifest, verify
from holdfast_bundle.errors import BundleError
from holdfast_bundle.manifest import Manifest, Tensor
from holdfast_bundle.uris import CLAIMS
from holdfast_bundle.web import Web
from holdfast_training import checkpoint, contender, data, evaluation, reported, slices, tracking
from holdfast_training.access import Access
from holdfast_training.errors import TrainingError, listed
from holdfast_training.listing import PRODUCTION
from holdfast_training.output import Finished, Output, checkpoint_at
from holdfast_training.reported import METRICS, SLICES, violated
from holdfast_training.slices import Slice
from holdfast_training.spec import (
    Requirement,
    SliceRequirement,
    Tracking,
    requirements_of,
    secret_of,
    slice_requirements_of,
    tracking_of,
)

INPUT = Path("/mnt/holdfast/input")
OUTPUT = Path("/mnt/holdfast/output")

DATA = "_data.json"
"""Beside the data, which the trainer may read and not write: what they are."""

_MAX_FILES = 1000
_MAX_METRICS = 32

Log = Callable[..., None]


@dataclass(frozen=True, slots=True)
class OwnRun:
    """A run whose trainer is somebody's own."""

    data_uri: str
    data_digest: str | None
    data_secret: str
    image: str
    seed: int
    target: str | None
    task: str | None
    requirements: tuple[Requirement, ...]
    output_uri: str
    output_folder: str
    output_secret: str
    service_account: str
    slices: tuple[str, ...] = ()
    slice_requirements: tuple[SliceRequirement, ...] = ()
    tracking: Tracking | None = None


def parse(text: str) -> OwnRun:
    """The run of `HOLDFAST_RUN`. Raises ValueError or KeyError when it is not one."""
    document: dict[str, Any] = json.loads(text)
    where, output = document["data"], document["output"]
    return OwnRun(
        data_uri=where["uri"],
        data_digest=where.get("digest"),
        data_secret=secret_of(where),
        image=document["container"]["image"],
        seed=document["seed"],
        target=document.get("target"),
        task=document.get("task"),
        requirements=requirements_of(document),
        output_uri=output["uri"],
        output_folder=output["folder"],
        output_secret=secret_of(output),
        service_account=document.get("serviceAccountName", ""),
        slices=tuple(document.get("slices", ())),
        slice_requirements=slice_requirements_of(document),
        tracking=tracking_of(document),
    )


# --- Before --------------------------------------------------------------------------------------------------------


def fetch(
    run: OwnRun,
    folder: Path = INPUT,
    *,
    access: Access | None = None,
    log: Log = lambda event, **facts: None,
    claims: Path = CLAIMS,
    web: Web = PRODUCTION,
) -> dict[str, Any]:
    """Bring the data into a folder, say there what they are, and make room for a checkpoint.

    Raises:
        TrainingError: as `data.bring`, or `OutputNotWritable`.
    """
    credentials = (access or Access()).to("data", run.data_secret)
    found = data.bring(run.data_uri, run.data_digest, folder, claims=claims, web=web, credentials=credentials)
    for name, path in zip(found.names, found.paths, strict=True):
        if not path.is_relative_to(folder):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, folder / name)
    facts = {"uri": str(found.uri), "digest": found.digest, "files": list(found.names)}
    facts |= {"version": found.version} if found.version else {}
    (folder / DATA).write_bytes(manifest.canonical_json(facts))
    if kept := checkpoint_at(run.output_uri, run.output_folder, claims):
        with _writable(run.output_uri):
            kept.mkdir(parents=True, exist_ok=True)
    log("fetched", uri=facts["uri"], digest=found.digest, files=len(found.names))
    return {"result": "Fetched"}


# --- Afterwards ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Left:
    """What a trainer left, as far as it can be believed."""

    files: Mapping[str, Path]
    framework: str
    opset: int
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    metrics: Mapping[str, str]
    lineage: Mapping[str, Any]


def publish(
    run: OwnRun,
    output: Output,
    *,
    input_folder: Path = INPUT,
    folder: Path = OUTPUT,
    threads: int = 1,
    access: Access | None = None,
    log: Log = lambda event, **facts: None,
    claims: Path = CLAIMS,
    web: Web = PRODUCTION,
) -> dict[str, Any]:
    """Publish what the trainer left in a folder and return what goes into the termination message.

    Raises:
        TrainingError: `ContractViolated` with what is missing or wrong, `RequirementNotMet`, `OutputNotWritable`.
    """
    began = time.time()
    read: dict[str, Any] = json.loads((input_folder / DATA).read_bytes())

    def ended(digest: str, bundle: Manifest) -> dict[str, Any]:
        told = tracking.Told(output, run.data_uri, _report(run, output, digest, bundle, read), bundle, began)
        return tracking.tracked(run.tracking, told, access=access or Access(), web=web, log=log)

    if finished := output.finished():
        log("found", message="the bundle of this run is already there", uri=str(output.uri))
        return ended(*finished)
    beside = output.checkpoint
    with checkpoint.kept(beside):
        digest, bundle = _publish(run, output, folder, read, threads)
    log("published", uri=str(output.uri), digest=digest)
    checkpoint.discard(beside)
    return ended(digest, bundle)


def _publish(run: OwnRun, output: Output, folder: Path, read: Mapping[str, Any], threads: int) -> Finished:
    try:
        left = look_at(folder, threads)
    except BundleError as error:
        raise TrainingError("ContractViolated", f"what your trainer left is no model: {error.message}") from error
    _check(run.requirements, left.metrics)
    parts = _slices(run, left)
    unjudged = slices.hold(run.slice_requirements, run.slices, parts)
    recipe = {"image": run.image, "seed": run.seed, "target": run.target, "task": run.task}
    with output.staging():
        return output.publish(
            left.files,
            notes={"findings": [finding.to_json() for finding in unjudged]} if unjudged else None,
            framework=left.framework,
            opset=left.opset,
            inputs=left.inputs,
            outputs=left.outputs,
            metrics=left.metrics,
            lineage={
                **left.lineage,
                **{name: value for name, value in recipe.items() if value is not None},
                **({"slices": slices.headlines(parts, _in_order(left.metrics)[0])} if run.slices else {}),
                "dataDigest": read["digest"],
            },
        )


def _slices(run: OwnRun, left: Left) -> list[Slice]:
    """What the trainer says of slices, where it says something and is asked."""
    if not run.slices or (not run.slice_requirements and SLICES not in left.files):
        return []
    return reported.slices(left.files.get(SLICES))


def look_at(folder: Path, threads: int = 1) -> Left:
    """What lies in the folder of a trainer's output.

    Raises:
        TrainingError: `ContractViolated`.
        BundleError: of a bundle or a model that is none.
    """
    files = _plain_files(folder)
    if manifest.MANIFEST in files:
        verify.verify(folder, None)
        said: Manifest | None = manifest.read(folder)
    elif manifest.MODEL in files:
        said = None
    else:
        there = f"; there is {listed(sorted(files), 5)}" if files else ": it left nothing there"
        raise violated(f"neither {manifest.MANIFEST} nor {manifest.MODEL} is in HOLDFAST_OUTPUT{there}")
    model = contender.opened("your trainer's model", files[manifest.MODEL], folder, said, threads=threads)
    for golden in model.golden:
        try:
            right = golden.is_answered_by(model.run(golden.asked))
        except TrainingError as error:
            raise violated(f"the model cannot answer a request of {contender.GOLDEN}") from error
        if not right:
            raise violated(f"the model answers a request of {contender.GOLDEN} otherwise than that says")
    metrics = said.metrics if said and METRICS not in files else reported.metrics(files.get(METRICS))
    metrics = reported.decimals(metrics)
    if not metrics:
        raise violated("there are no metrics: a model that nobody has measured is not published")
    kept = {name: path for name, path in files.items() if name not in (manifest.MANIFEST, METRICS)}
    signature = (model.inputs, model.outputs, metrics)
    if said:
        return Left(kept, said.framework, said.opset, *signature, said.lineage)
    return Left(kept, "own", _opset(files[manifest.MODEL]), *signature, {})


def _plain_files(folder: Path) -> dict[str, Path]:
    """By their path below it. Names that begin with `.` or `_` are passed over: the latter are ours."""
    found: dict[str, Path] = {}
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "_")))
        for name in (*folders, *sorted(names)):
            path = Path(parent) / name
            mode = path.lstat().st_mode
            if not name.startswith((".", "_")) and not stat.S_ISDIR(mode):
                if not stat.S_ISREG(mode):
                    raise violated(f"{path.relative_to(folder)} is not a plain file")
                found[path.relative_to(folder).as_posix()] = path
        if len(found) > _MAX_FILES:
            raise violated(f"there are more than {_MAX_FILES} files in HOLDFAST_OUTPUT")
    return found


def _check(requirements: Sequence[Requirement], metrics: Mapping[str, str]) -> None:
    missed = [words for requirement in requirements if (words := _missed(requirement, metrics.get(requirement.metric)))]
    if missed:
        raise TrainingError("RequirementNotMet", f"{'; '.join(missed)}. Nothing was published")


def _missed(requirement: Requirement, value: str | None) -> str | None:
    metric, least, most = requirement.metric, requirement.minimum, requirement.maximum
    if value is None:
        return f"{metric} is required, and your trainer reports no such metric"
    if least is not None and Decimal(value) < Decimal(least):
        return f"{metric} is {value}, below the minimum of {least}"
    if most is not None and Decimal(value) > Decimal(most):
        return f"{metric} is {value}, above the maximum of {most}"
    return None


def _opset(model: Path) -> int:
    """Of the operators of ONNX itself."""
    try:
        imports = onnx.load(str(model), load_external_data=False).opset_import
    except Exception as error:  # of protobuf, whose exceptions have no common base
        raise BundleError("Invalid", "the model is not readable as ONNX") from error
    return next((entry.version for entry in imports if entry.domain in ("", "ai.onnx")), 0)


@contextmanager
def _writable(uri: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise TrainingError("OutputNotWritable", f"{uri}: {error.strerror or 'I/O error'}") from error


def _in_order(metrics: Mapping[str, str]) -> list[str]:
    """Names of metrics: ours as always, then others."""
    known = [name for name in evaluation.ORDER if name in metrics]
    return [*known, *sorted(set(metrics) - {*known})]


def _report(run: OwnRun, output: Output, digest: str, bundle: Manifest, read: Mapping[str, Any]) -> dict[str, Any]:
    """The same words for a bundle just made and for one that was found."""
    whole = [{"name": name, "value": bundle.metrics[name]} for name in _in_order(bundle.metrics)]
    parts = bundle.lineage["slices"] if run.slices else []
    return {
        "result": "Completed",
        "model": {
            "uri": str(output.uri),
            "digest": digest,
            "sizeBytes": sum(file.size for file in bundle.files.values()),
        },
        "metrics": [*whole, *parts][:_MAX_METRICS],
        "data": {"digest": bundle.lineage["dataDigest"]} | ({"version": read["version"]} if "version" in read else {}),
        "findings": output.notes().get("findings", []),
        "packages": [],
    }
