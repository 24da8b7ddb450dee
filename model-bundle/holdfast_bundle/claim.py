"""Files on a claim that the pod mounts. Whoever filled it is not trusted: links must not lead out of it."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NoReturn

from holdfast_bundle.errors import BundleError
from holdfast_bundle.uris import CLAIMS, Uri, local_path, parse


@dataclass(frozen=True, slots=True)
class Claim:
    """A file or a folder on a claim."""

    uri: Uri
    claims: Path = CLAIMS

    @property
    def single(self) -> bool:
        return claim_path(self.uri, self.claims).is_file()

    def file(self, name: str = "") -> ClaimFile:
        return ClaimFile(self.uri.join(name) if name else self.uri, self.claims)


@dataclass(frozen=True, slots=True)
class ClaimFile:
    """A file on a claim."""

    uri: Uri
    claims: Path
    digest: str = ""

    @contextlib.contextmanager
    def open(self, start: int = 0, end: int | None = None, version: str | None = None) -> Iterator[_Content]:
        path = claim_path(self.uri, self.claims)
        try:
            # Without O_NONBLOCK a FIFO would hold open() for ever.
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            failed(self.uri, error)
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            os.close(descriptor)
            raise BundleError("Invalid", f"{self.uri} is not a file")
        with os.fdopen(descriptor, "rb") as file:
            file.seek(start)
            yield _Content(self.uri, file, status.st_size)


class _Content:
    """Bytes of an open file. Nothing says that it is the same one when it is opened again: it has no version."""

    version: str | None = None

    def __init__(self, uri: Uri, file: BinaryIO, size: int) -> None:
        self.size = size
        self._uri, self._file = uri, file

    def read(self, amount: int, /) -> bytes:
        try:
            return self._file.read(amount)
        except OSError as error:
            failed(self._uri, error)


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
        failed(uri, error)
    if not real.is_relative_to(root):
        raise BundleError("Invalid", f"{uri} is a link that leads out of its claim")
    return real


def failed(uri: Uri, error: OSError | RuntimeError) -> NoReturn:
    """Raises BundleError for a failure of reading from a claim."""
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        raise BundleError("NotFound", f"{uri}: no such file or folder on claim {uri.host}") from error
    if isinstance(error, PermissionError):
        who = f"user {os.getuid()}, group {os.getgid()}"
        raise BundleError("AccessDenied", f"{uri}: its owner and mode keep it from {who}") from error
    if isinstance(error, RuntimeError) or error.errno in (errno.ELOOP, errno.ENAMETOOLONG):
        raise BundleError("Invalid", f"{uri} is a link to itself, or its name is too long") from error
    if error.errno in (errno.ENXIO, errno.ENODEV):  # a socket, or a device that is not there
        raise BundleError("Invalid", f"{uri} is not a file") from error
    raise BundleError("Unreachable", f"{uri}: claim {uri.host} cannot be read ({error.strerror})") from error
