"""manifest.json: what a bundle holds, what the model takes and gives, and where it comes from.

The manifest names every other file with its sha256, and the bundle's digest is the sha256 of the manifest,
so one digest pins the whole folder. It is written last: a folder without it is not a bundle.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from holdfast_bundle.errors import BundleError

MANIFEST = "manifest.json"
MODEL = "model.onnx"
SCHEMA_VERSION = 1

DATATYPES = frozenset(
    "BOOL BYTES FP16 FP32 FP64 INT8 INT16 INT32 INT64 UINT8 UINT16 UINT32 UINT64".split()  # noqa: SIM905
)
"""Datatypes of the Open Inference Protocol that a signature may use."""

_MAX_MANIFEST_BYTES = 4 << 20
_MAX_FILES = 1000
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Tensor:
    """One input or output. In `shape` -1 stands for any length; the first dimension is the batch.

    `labels` name the elements of an output's row, as a classifier's classes; empty for those without names.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class File:
    """A file of the bundle: sha256 in hex, size in bytes."""

    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """The content of manifest.json; `files` is keyed by path relative to the bundle, with `/`."""

    name: str
    framework: str
    opset: int
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    metrics: Mapping[str, str] = field(default_factory=dict)
    lineage: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, File] = field(default_factory=dict)


def digest_file(path: Path) -> str:
    """`sha256:` and the hex digest of a file's bytes. OSError as open() and read() raise it."""
    sha = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            sha.update(chunk)
    return f"sha256:{sha.hexdigest()}"


def read(folder: Path) -> Manifest:
    """The manifest of a bundle. Files are not looked at: `verify` does that.

    Raises BundleError `Invalid` when it is missing, too large, or not a manifest.
    """
    try:
        with open(folder / MANIFEST, "rb") as file:
            raw = file.read(_MAX_MANIFEST_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        _invalid("is missing: the folder is not a bundle, or its writer did not finish")
    except OSError as error:
        _invalid(f"cannot be read: {error.strerror}")
    return parse(raw)


def parse(raw: bytes) -> Manifest:
    """A manifest from its bytes. Raises BundleError `Invalid` with what is wrong and where."""
    if len(raw) > _MAX_MANIFEST_BYTES:
        _invalid(f"is larger than {_MAX_MANIFEST_BYTES >> 20} MiB")
    try:
        document = json.loads(raw.decode(), object_pairs_hook=_unique, parse_constant=_not_a_number)
    except RecursionError:
        _invalid("is nested too deeply")
    except ValueError:
        _invalid("is not JSON in UTF-8")
    try:
        json.dumps(document, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        _invalid("has half a character (a lone surrogate) somewhere")
    except RecursionError:
        _invalid("is nested too deeply")
    top = _object(document, "manifest")
    version = top.get("schemaVersion")
    if type(version) is not int or version != SCHEMA_VERSION:
        _invalid(f"has a schemaVersion other than {SCHEMA_VERSION}: it was written by another release of Holdfast")
    files = {_path(path): _file(value, path) for path, value in _object(top.get("files"), "files").items()}
    if MODEL not in files:
        _invalid(f"names no {MODEL} in files")
    metrics = _object(top.get("metrics"), "metrics")
    if len(files) > _MAX_FILES:
        _invalid(f"names more than {_MAX_FILES} files")
    return Manifest(
        name=_text(top.get("name"), "name"),
        framework=_text(top.get("framework"), "framework"),
        opset=_count(top.get("opset"), "opset"),
        inputs=_tensors(top.get("inputs"), "inputs"),
        outputs=_tensors(top.get("outputs"), "outputs"),
        metrics={key: _text(value, f"metrics.{key}") for key, value in metrics.items()},
        lineage=_object(top.get("lineage"), "lineage"),
        files=files,
    )


def write(
    folder: Path,
    *,
    name: str,
    framework: str,
    opset: int,
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    metrics: Mapping[str, str],
    lineage: Mapping[str, Any],
) -> str:
    """Seal a folder as a bundle: hash and fsync every file in it, then write the manifest.

    Returns the bundle's digest. The manifest appears whole or not at all, and never before the files it names
    are on disk. The same arguments and files give the same bytes, hence the same digest.
    OSError when the folder cannot be written, BundleError `Invalid` when the manifest would not be readable.
    """
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST)
    manifest = Manifest(
        name=name,
        framework=framework,
        opset=opset,
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        metrics=metrics,
        lineage=lineage,
        files={path.relative_to(folder).as_posix(): _seal(path) for path in paths},
    )
    raw = serialize(manifest)
    parse(raw)
    partial = folder / f".{MANIFEST}.partial"
    with open(partial, "wb") as file:
        file.write(raw)
        file.flush()
        os.fsync(file.fileno())
    for directory in sorted({path.parent for path in paths} - {folder}):
        _sync_directory(directory)
    os.replace(partial, folder / MANIFEST)
    _sync_directory(folder)
    return f"sha256:{hashlib.sha256(raw).hexdigest()}"


def serialize(manifest: Manifest) -> bytes:
    """Canonical JSON: sorted keys, no spaces, UTF-8, one newline at the end."""
    document = {
        "schemaVersion": SCHEMA_VERSION,
        "name": manifest.name,
        "framework": manifest.framework,
        "opset": manifest.opset,
        "inputs": [_tensor_json(tensor) for tensor in manifest.inputs],
        "outputs": [_tensor_json(tensor) for tensor in manifest.outputs],
        "metrics": dict(manifest.metrics),
        "lineage": dict(manifest.lineage),
        "files": {path: {"sha256": file.sha256, "size": file.size} for path, file in manifest.files.items()},
    }
    return canonical_json(document)


def canonical_json(document: Any) -> bytes:
    """The one way in which JSON files of a bundle are written; ValueError on NaN and infinity."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode() + b"\n"


def _seal(path: Path) -> File:
    with open(path, "rb") as file:
        os.fsync(file.fileno())
    return File(sha256=digest_file(path).removeprefix("sha256:"), size=path.stat().st_size)


def _sync_directory(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _tensor_json(tensor: Tensor) -> dict[str, Any]:
    labels = {"labels": list(tensor.labels)} if tensor.labels else {}
    return {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape), **labels}


def _invalid(what: str) -> NoReturn:
    raise BundleError("Invalid", f"{MANIFEST} {what}")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Readers disagree on which of two equal keys counts, so one digest could mean two bundles."""
    document = dict(pairs)
    if len(document) != len(pairs):
        _invalid("has a key twice")
    return document


def _not_a_number(constant: str) -> NoReturn:
    raise ValueError(constant)


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        _invalid(f"has no JSON object at {where}")
    return value


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value:
        _invalid(f"has no text at {where}")
    return value


def _count(value: Any, where: str) -> int:
    if type(value) is not int or value < 0:
        _invalid(f"has no whole number, 0 or more, at {where}")
    return value


def _tensors(value: Any, where: str) -> tuple[Tensor, ...]:
    if not isinstance(value, list) or not value:
        _invalid(f"has no list at {where}")
    tensors = tuple(_tensor(item, f"{where}[{index}]") for index, item in enumerate(value))
    if len({tensor.name for tensor in tensors}) != len(tensors):
        _invalid(f"has a name twice in {where}")
    return tensors


def _tensor(value: Any, where: str) -> Tensor:
    item = _object(value, where)
    datatype = _text(item.get("datatype"), f"{where}.datatype")
    if datatype not in DATATYPES:
        _invalid(f"has an unknown datatype at {where}.datatype")
    shape = item.get("shape")
    if not isinstance(shape, list) or not all(type(size) is int and (size >= 1 or size == -1) for size in shape):
        _invalid(f"has no shape of positive numbers and -1 at {where}.shape")
    name, labels = _text(item.get("name"), f"{where}.name"), item.get("labels", [])
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        _invalid(f"has no list of texts at {where}.labels")
    if labels and len(labels) != math.prod(shape[1:]):
        _invalid(f"has another number of labels than elements in a row at {where}.labels")
    return Tensor(name=name, datatype=datatype, shape=tuple(shape), labels=tuple(labels))


def _path(path: str) -> str:
    parts = path.split("/")
    if any(part in ("", ".", "..") for part in parts) or "\\" in path or not path.isprintable():
        _invalid("names a file outside the bundle, or not as a plain relative path, in files")
    if path == MANIFEST:
        _invalid("names itself in files")
    return path


def _file(value: Any, path: str) -> File:
    item = _object(value, f"files[{path!r}]")
    sha = item.get("sha256")
    if not isinstance(sha, str) or len(sha) != 64 or not set(sha) <= set("0123456789abcdef"):
        _invalid(f"has no sha256 of 64 hex digits for {path!r}")
    return File(sha256=sha, size=_count(item.get("size"), f"files[{path!r}].size"))
