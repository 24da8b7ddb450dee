"""Bring a file or a model into a folder of this pod, from a claim or over HTTP."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, NoReturn

from holdfast_bundle import manifest
from holdfast_bundle.errors import BundleError
from holdfast_bundle.uris import CLAIMS, Uri, local_path, parse
from holdfast_bundle.web import Body, Web, get

MAX_FILE_BYTES = 64 << 30
MAX_MANIFEST_BYTES = 4 << 20

_CHUNK = 1 << 20
_PRODUCTION = Web()

Progress = Callable[[int, int | None], None]
"""Called with the bytes that are there and those expected (None: not known)."""


def fetch_model(
    uri: str | Uri,
    folder: Path,
    *,
    progress: Progress | None = None,
    web: Web = _PRODUCTION,
    claims: Path = CLAIMS,
) -> Path:
    """Bring a model into `folder` (made if missing) and return its path there.

    An http(s) URI that ends in .onnx, or a file on a claim, is a bare model: the path of `model.onnx`. Any
    other is a bundle: the folder, with manifest.json and every file that it lists. `verify` checks digests.

    Raises:
        BundleError: as `fetch_file`; `Invalid` when the manifest lists a file that is not there,
            `DigestMismatch` when one has another size than it says.
    """
    uri = parse(uri) if isinstance(uri, str) else uri
    if claim_path(uri, claims).is_file() if uri.scheme == "pvc" else uri.path.endswith(".onnx"):
        fetch_file(uri, folder / manifest.MODEL, progress=progress, web=web, claims=claims)
        return folder / manifest.MODEL
    _fetch_manifest(uri, folder, web, claims)
    files = manifest.read(folder).files
    total, done = sum(file.size for file in files.values()), 0
    for name, file in files.items():
        _fetch_listed(uri, name, file.size, folder, _offset(progress, done, total), web, claims)
        done += file.size
    return folder


def fetch_file(
    uri: str | Uri,
    destination: Path,
    *,
    progress: Progress | None = None,
    limit: int = MAX_FILE_BYTES,
    web: Web = _PRODUCTION,
    claims: Path = CLAIMS,
) -> int:
    """Bring one file to `destination`, which appears whole or not at all; return its size in bytes.

    Raises:
        BundleError: `NotFound`, `AccessDenied`, `Unreachable`, `AddressRefused`, or `Invalid` (not a file,
            more than `limit` bytes, encoded in a way that was not asked for).
    """
    uri = parse(uri) if isinstance(uri, str) else uri
    if uri.scheme == "pvc":
        with _open_claim(uri, claims) as (file, size):
            return _copy(uri, file, destination, size, limit, progress)
    with get(uri, web) as body:
        return _copy(uri, body, destination, body.length, limit, progress)


def claim_path(uri: str | Uri, claims: Path = CLAIMS) -> Path:
    """The real path of what a pvc:// URI names: it exists, and links do not lead out of the claim.

    Raises:
        BundleError: `NotFound`, `AccessDenied`, `Unreachable`, or `Invalid` for a link that leaves the claim.
    """
    uri = parse(uri) if isinstance(uri, str) else uri
    path = local_path(uri, claims)
    try:
        root = (claims / uri.host).resolve(strict=True)
        real = path.resolve(strict=True)
    except (OSError, RuntimeError) as error:
        _claim_error(uri, error)
    if not real.is_relative_to(root):
        raise BundleError("Invalid", f"{uri} is a link that leads out of its claim")
    return real


def _fetch_manifest(uri: Uri, folder: Path, web: Web, claims: Path) -> None:
    path = folder / manifest.MANIFEST
    try:
        fetch_file(uri.join(manifest.MANIFEST), path, limit=MAX_MANIFEST_BYTES, web=web, claims=claims)
    except BundleError as error:
        if error.reason != "NotFound":
            raise
        raise BundleError(
            "NotFound",
            f"{error.message}; a model is a folder with manifest.json, or a file whose name ends in .onnx",
        ) from error


def _fetch_listed(
    uri: Uri, name: str, size: int, folder: Path, progress: Progress | None, web: Web, claims: Path
) -> None:
    try:
        got = fetch_file(uri.join(name), folder / name, progress=progress, limit=size, web=web, claims=claims)
    except _TooLargeError as error:
        raise BundleError(
            "DigestMismatch", f"{uri}: {name} has more than the {size} bytes that manifest.json says"
        ) from error
    except BundleError as error:
        if error.reason != "NotFound":
            raise
        raise BundleError("Invalid", f"{uri}: manifest.json lists {name}, which is not there") from error
    if got != size:
        raise BundleError("DigestMismatch", f"{uri}: {name} has {got} bytes, manifest.json says {size}")


def _offset(progress: Progress | None, done: int, total: int) -> Progress | None:
    if progress is None:
        return None
    return lambda received, _: progress(done + received, total)


class _TooLargeError(BundleError):
    pass


def _copy(
    uri: Uri,
    source: BinaryIO | Body,
    destination: Path,
    expected: int | None,
    limit: int,
    progress: Progress | None,
) -> int:
    too_large = _TooLargeError("Invalid", f"{uri} has more than the {limit} bytes that are allowed")
    if expected is not None and expected > limit:
        raise too_large
    received = 0
    try:
        with _whole_or_not_at_all(destination) as file:
            while chunk := source.read(_CHUNK):
                received += len(chunk)
                if received > limit:
                    raise too_large
                file.write(chunk)
                if progress is not None:
                    progress(received, expected)
            if expected is not None and received != expected:
                raise BundleError("Unreachable", f"{uri}: it ended after {received} of {expected} bytes")
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise BundleError("Unreachable", f"{uri}: no room for it on the pod's disk") from error
        if error.errno in (errno.ENAMETOOLONG, errno.EEXIST, errno.ENOTDIR, errno.EISDIR):
            raise BundleError("Invalid", f"{uri}: the name cannot be used ({error.strerror})") from error
        raise BundleError("Unreachable", f"{uri}: copying failed ({error.strerror})") from error
    return received


@contextlib.contextmanager
def _whole_or_not_at_all(destination: Path) -> Iterator[BinaryIO]:
    destination.parent.mkdir(parents=True, exist_ok=True)
    descriptor, partial = tempfile.mkstemp(dir=destination.parent, prefix=".partial-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
        os.replace(partial, destination)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(partial)
        raise


@contextlib.contextmanager
def _open_claim(uri: Uri, claims: Path) -> Iterator[tuple[BinaryIO, int]]:
    path = claim_path(uri, claims)
    try:
        # Without O_NONBLOCK a FIFO would hold open() for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        _claim_error(uri, error)
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise BundleError("Invalid", f"{uri} is not a file")
    with os.fdopen(descriptor, "rb") as file:
        yield file, status.st_size


def _claim_error(uri: Uri, error: OSError | RuntimeError) -> NoReturn:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        raise BundleError("NotFound", f"{uri}: no such file or folder on claim {uri.host}") from error
    if isinstance(error, PermissionError):
        who = f"user {os.getuid()}, group {os.getgid()}"
        raise BundleError("AccessDenied", f"{uri}: its owner and mode keep it from {who}") from error
    if isinstance(error, RuntimeError) or error.errno in (errno.ELOOP, errno.ENAMETOOLONG):
        raise BundleError("Invalid", f"{uri} is a link to itself, or its name is too long") from error
    raise BundleError("Unreachable", f"{uri}: claim {uri.host} cannot be read ({error.strerror})") from error
